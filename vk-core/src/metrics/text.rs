//! The Prometheus text format, version 0.0.4, from OpenMetrics: what `promtool` and every scraper read.
//!
//! `prometheus-client` writes OpenMetrics. The older format differs in what a counter's family is called (with
//! `_total`), knows no infos, and has no units and no end mark.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Families by name, gathered from several registries.
#[derive(Debug, Default)]
pub(super) struct Families(BTreeMap<String, Family>);

#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    samples: Vec<String>,
}

/// Of the process, not of a node: the first word counts.
const ONCE: [&str; 2] = ["process_", "kubernetes_build_info"];

impl Families {
    /// Adds a document, whose samples get the label `node` if there is a name for it.
    pub(super) fn add(&mut self, openmetrics: &str, node: Option<&str>) {
        let mut family = (String::new(), Family::default());
        for line in openmetrics.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                self.keep(std::mem::take(&mut family), node);
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                name.clone_into(&mut family.0);
                // The registry ends each help with a full stop.
                help.trim_end_matches('.').clone_into(&mut family.1.help);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let kind = rest.rsplit(' ').next().unwrap_or_default();
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    _ => ("", kind),
                };
                family.0 += suffix;
                kind.clone_into(&mut family.1.kind);
            } else if !line.starts_with('#') {
                family.1.samples.push(line.to_owned());
            }
        }
        self.keep(family, node);
    }

    fn keep(&mut self, (name, family): (String, Family), node: Option<&str>) {
        if name.is_empty() {
            return;
        }
        let once = ONCE.iter().any(|prefix| name.starts_with(prefix));
        if once && self.0.contains_key(&name) {
            return;
        }
        let known = self.0.entry(name).or_default();
        (known.help, known.kind) = (family.help, family.kind);
        let node = node.filter(|_| !once);
        known.samples.extend(family.samples.into_iter().map(|sample| labelled(sample, node)));
    }

    pub(super) fn finish(self) -> String {
        let mut text = String::new();
        for (name, family) in self.0 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {}", family.help, family.kind);
            for sample in family.samples {
                let _ = writeln!(text, "{sample}");
            }
        }
        text
    }
}

/// A sample with one more label, unless it has that one already. A node's name needs no escapes.
fn labelled(sample: String, node: Option<&str>) -> String {
    let Some(node) = node else { return sample };
    match sample.split_once('{') {
        Some((_, labels)) if labels.starts_with("node=\"") => sample,
        Some((name, labels)) => format!("{name}{{node=\"{node}\",{labels}"),
        None => match sample.split_once(' ') {
            Some((name, value)) => format!("{name}{{node=\"{node}\"}} {value}"),
            None => sample,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_becomes_the_older_format_and_gets_its_node() {
        let openmetrics = "# HELP a Things.\n# TYPE a counter\na_total{x=\"1\"} 2\n# HELP b_seconds Time.\n\
                           # TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 1.5\n# EOF\n";
        let mut families = Families::default();
        families.add(openmetrics, None);
        let plain = "# HELP a_total Things\n# TYPE a_total counter\na_total{x=\"1\"} 2\n\
                     # HELP b_seconds Time\n# TYPE b_seconds gauge\nb_seconds 1.5\n";
        assert_eq!(families.finish(), plain);
        let mut families = Families::default();
        families.add(openmetrics, Some("n"));
        let named = "# HELP a_total Things\n# TYPE a_total counter\na_total{node=\"n\",x=\"1\"} 2\n\
                     # HELP b_seconds Time\n# TYPE b_seconds gauge\nb_seconds{node=\"n\"} 1.5\n";
        assert_eq!(families.finish(), named);
    }
}
