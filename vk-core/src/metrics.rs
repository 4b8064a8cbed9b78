//! What a node says about itself in numbers: Prometheus metrics under stable names.
//!
//! `GET /metrics` of the kubelet API shows one node's; an admin port shows those of all nodes of a process, with the
//! label `node` ([`render`]). Where the kubelet counts the same thing the name and the labels are the kubelet's;
//! what only a virtual node has begins with `vk_`. Units are in the names: seconds, bytes, totals. The list is a
//! golden file, `snapshots/`, and documented in `docs/metrics.md`: a name that is in it stays.
//!
//! Labels have few values. None holds a pod, a path or a text from outside.

mod cluster;
mod credentials;
mod port;
mod probes;
mod process;
pub(crate) mod protobuf;
mod provider;
mod sampled;
mod text;
mod work;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub(crate) use self::cluster::ClusterMetrics;
pub(crate) use self::credentials::CredentialMetrics;
pub(crate) use self::port::{Open, PortMetrics};
pub(crate) use self::probes::{BUCKETS as PROBE_BUCKETS, ProbeCount, ProbeCounts};
pub(crate) use self::process::START as PROCESS_START;
pub(crate) use self::provider::ProviderMetrics;
pub(crate) use self::sampled::Kind;
use self::sampled::Sampled;
pub(crate) use self::work::WorkMetrics;

/// Labels of a family: names and values, in the order in which they are written.
type Labels<const N: usize> = [(&'static str, std::borrow::Cow<'static, str>); N];
type Timings<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// What one node counts. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    port: PortMetrics,
    provider: ProviderMetrics,
    work: WorkMetrics,
    cluster: ClusterMetrics,
    credentials: CredentialMetrics,
    probes: ProbeCounts,
}

impl Metrics {
    /// Counts of a node of that name, all at zero.
    #[must_use]
    pub fn new(node: &str) -> Self {
        let mut registry = Registry::default();
        let name = Family::<Labels<1>, Gauge>::default();
        name.get_or_create(&[("node", node.to_owned().into())]).set(1);
        registry.register("kubelet_node_name", "The node's name. The count is always 1", name);
        process::register(&mut registry);
        Self(Arc::new(Inner {
            port: PortMetrics::register(&mut registry),
            provider: ProviderMetrics::register(&mut registry),
            work: WorkMetrics::register(&mut registry),
            cluster: ClusterMetrics::register(&mut registry),
            credentials: CredentialMetrics::register(&mut registry),
            probes: ProbeCounts::default(),
            registry: Mutex::new(registry),
        }))
    }

    /// Everything, in the Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        let mut families = text::Families::default();
        families.add(&self.encode(), None);
        families.finish()
    }

    /// Connections, requests and callers of the kubelet API.
    pub(crate) fn port(&self) -> &PortMetrics {
        &self.0.port
    }

    /// Calls of the provider.
    pub(crate) fn provider(&self) -> &ProviderMetrics {
        &self.0.provider
    }

    /// Probes of containers.
    pub(crate) fn probes(&self) -> &ProbeCounts {
        &self.0.probes
    }

    /// Passes over pods.
    pub(crate) fn work(&self) -> &WorkMetrics {
        &self.0.work
    }

    /// Calls of the API server.
    pub(crate) fn cluster(&self) -> &ClusterMetrics {
        &self.0.cluster
    }

    /// Certificates and authorities.
    pub(crate) fn credentials(&self) -> &CredentialMetrics {
        &self.0.credentials
    }

    /// Adds a family whose figures are looked up when somebody asks: values of `label` with their figures, or,
    /// without a label, one figure at most. `look` must not wait, and must not ask for the metrics.
    pub(crate) fn sample(
        &self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        look: impl Fn() -> Vec<(&'static str, f64)> + Send + Sync + 'static,
    ) {
        let sampled = Sampled { name, help, kind, label, look: Box::new(look) };
        let mut registry = self.0.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(sampled));
    }

    fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.0.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string cannot fail; a collector of ours has no other error.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Several nodes' metrics as one document, each sample with the label `node`. What a process has once, such as its
/// memory, is there once.
#[must_use]
pub fn render<'a>(nodes: impl IntoIterator<Item = (&'a str, &'a Metrics)>) -> String {
    let mut families = text::Families::default();
    for (node, metrics) in nodes {
        families.add(&metrics.encode(), Some(node));
    }
    families.finish()
}

/// Seconds from the quick to what a provider may take at most.
fn seconds() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0])
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::config::NodeConfig;
    use crate::node::LeaseStatus;
    use crate::provider::fake::Fake;

    /// One of everything: a family without samples is not written.
    pub(crate) fn busy() -> Metrics {
        let second = std::time::Duration::from_secs(1);
        let client = kube::Client::new(axum::Router::new(), "default");
        let node = crate::Node::builder(NodeConfig::new("node-1"), Arc::<Fake>::default(), client).build();
        let metrics = node.metrics();
        let renewed = LeaseStatus { renewed: Some(tokio::time::Instant::now()), ..LeaseStatus::default() };
        crate::run::sample_lease(&metrics, tokio::sync::watch::channel(renewed).1);
        let port = metrics.port();
        port.answered(&port.request("GET", "metrics", false), second);
        port.refused("full");
        port.denied(401);
        port.review("token", "ok");
        drop((port.connection(), port.stream("exec")));
        metrics.provider().begin("create");
        metrics.provider().end("create", "ok", second);
        metrics.work().pass("done", second);
        metrics.work().step("create", "done");
        metrics.work().unsupported("spec.hostNetwork", "refused");
        metrics.work().started(second);
        metrics.cluster().answered("get", "pods", Some(200), second);
        metrics.credentials().in_use(
            "client-ca",
            jiff::Timestamp::UNIX_EPOCH,
            Some(jiff::Timestamp::UNIX_EPOCH),
        );
        metrics.credentials().renewal("client-ca", "ok");
        metrics
    }

    /// The page that documents them: one row for each family.
    fn page(text: &str) -> String {
        let mut page = String::from(
            "# Metrics\n\n\
             Made from what a node counts; `VK_UPDATE=1 cargo test -p vk-core metrics` writes it again.\n\n\
             `GET /metrics` of a node's kubelet API has these; `/metrics` of the admin port has them for every node of \
             the\nprocess, with the label `node`. Units are in the names. Where the kubelet counts the same thing, name \
             and labels are\nthe kubelet's. A name on this page stays. What `/metrics/resource`, `/metrics/cadvisor`, \
             `/metrics/probes` and\n`/metrics/slis` have is the kubelet's list, as far as it is known of pods that run \
             elsewhere.\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n",
        );
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            let of_type = format!("# TYPE {name} ");
            let kind = lines[index + 1].strip_prefix(&of_type).expect("a type after the help");
            let sample = lines[index + 2];
            assert!(sample.starts_with(name), "a sample after the type: {sample}");
            let labels = sample.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
            let names = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0));
            let names: Vec<String> = names.filter(|n| *n != "le").map(|n| format!("`{n}`")).collect();
            let names = if names.is_empty() { "—".to_owned() } else { names.join(", ") };
            writeln!(page, "| `{name}` | {kind} | {names} | {help} |").unwrap();
        }
        page
    }

    #[tokio::test]
    async fn every_family_is_documented() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let page = page(&busy().text());
        if std::env::var_os("VK_UPDATE").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(written, page, "VK_UPDATE=1 cargo test -p vk-core metrics");
    }

    #[tokio::test]
    async fn the_families_and_their_labels_are_those_of_the_golden_list() {
        let text = busy().text();
        let mut lines: Vec<&str> = Vec::new();
        for line in text.lines() {
            // A sample without its value; buckets differ in nothing else.
            let line = if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 };
            let bucket = line.contains("_bucket{") && !line.contains("le=\"+Inf\"");
            if !bucket {
                lines.push(line);
            }
        }
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn nodes_of_a_process_share_a_document_and_a_process_is_in_it_once() {
        let (a, b) = (Metrics::new("a"), Metrics::new("b"));
        a.port().refused("full");
        b.port().refused("full");
        let text = render([("a", &a), ("b", &b)]);
        let of = |name: &str| text.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>();
        assert_eq!(
            of("# TYPE vk_connections_refused_total "),
            ["# TYPE vk_connections_refused_total counter"]
        );
        assert_eq!(
            of("vk_connections_refused_total"),
            [
                "vk_connections_refused_total{node=\"a\",reason=\"full\"} 1",
                "vk_connections_refused_total{node=\"b\",reason=\"full\"} 1",
            ]
        );
        assert_eq!(of("process_start_time_seconds").len(), 1);
        assert_eq!(
            of("kubelet_node_name"),
            ["kubelet_node_name{node=\"a\"} 1", "kubelet_node_name{node=\"b\"} 1"]
        );
    }
}
