//! The API server's own count of the calls it answered.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// Calls by `VERB resource[/subresource]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(BTreeMap<String, u64>);

impl Calls {
    /// Reads `apiserver_request_total` now.
    pub(crate) async fn read(client: &kube::Client) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = client.request_text(request).await.context("reading the API server's metrics")?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut calls = BTreeMap::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("apiserver_request_total{") else { continue };
            let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
            let label = |name: &str| {
                let start = labels.find(&format!("{name}=\""))? + name.len() + 2;
                labels[start..].split('"').next()
            };
            let (Some(verb), Some(resource)) = (label("verb"), label("resource")) else { continue };
            // `subresource` comes before `verb`; `resource` would match inside it, so it is asked for by its comma.
            let resource = labels
                .split(',')
                .find_map(|l| l.strip_prefix("resource=\""))
                .map_or(resource, |l| l.trim_end_matches('"'));
            let key = match label("subresource") {
                Some(sub) if !sub.is_empty() => format!("{verb} {resource}/{sub}"),
                _ => format!("{verb} {resource}"),
            };
            *calls.entry(key).or_default() += value.trim().parse::<f64>().unwrap_or_default() as u64;
        }
        Self(calls)
    }

    /// The calls about pods and events since `before`, less those the driver made itself.
    pub(crate) fn since(&self, before: &Self, own: &[(&str, u64)]) -> BTreeMap<String, u64> {
        let mut delta = BTreeMap::new();
        for (key, count) in &self.0 {
            let about = key.split_once(' ').map_or("", |(_, resource)| resource);
            if !about.starts_with("pods") && about != "events" || key.starts_with("WATCH") {
                continue;
            }
            let mine = own.iter().find(|(name, _)| name == key).map_or(0, |(_, count)| *count);
            let count = count.saturating_sub(before.0.get(key).copied().unwrap_or_default());
            let count = count.saturating_sub(mine);
            if count > 0 {
                delta.insert(key.clone(), count);
            }
        }
        delta
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP apiserver_request_total x
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="status",verb="PATCH",version="v1"} 7
apiserver_request_total{code="409",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="status",verb="PATCH",version="v1"} 1
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="POST",version="v1"} 5
apiserver_request_total{code="200",component="apiserver",dry_run="",group="coordination.k8s.io",resource="leases",scope="resource",subresource="",verb="PUT",version="v1"} 9
"#;

    #[test]
    fn calls_are_summed_over_codes_and_the_drivers_own_are_left_out() {
        let calls = Calls::parse(TEXT).since(&Calls::default(), &[("POST pods", 5)]);
        assert_eq!(calls, BTreeMap::from([("PATCH pods/status".to_owned(), 8)]));
    }
}
