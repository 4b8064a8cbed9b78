//! What Go Virtual Kubelet's end-to-end suite asks of a virtual kubelet, asked of the daemon as its own process.
//!
//! The suite (its repository's `test/e2e`) knows a kubeconfig, a namespace and a node's name, and nothing else: so do
//! these tests. They are its nine cases, in its order, each against a daemon that was just started.
//!
//! Two of them reach the daemon through the *pod* proxy, at port 10250 of a pod that is named like the node; in the
//! suite's own set-up the daemon runs in that pod. Here a pod object stands in for it, with the daemon's address in
//! its status. That proxy brings no credentials: the daemon is started with `--anonymous-metrics`.

mod suite;

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::suite::Suite;

/// A sample of the Prometheus text format: its family, and its labels in the order they are written in.
#[derive(Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
}

/// Reads samples whose label values hold no quotes, commas or braces, as names of Kubernetes objects do not.
fn samples(text: &str) -> Vec<Sample<'_>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let Some((name, rest)) = line.split_once('{') else {
                let name = line.split_whitespace().next().unwrap_or_default();
                return Sample { name, labels: Vec::new() };
            };
            let (labels, _) = rest.split_once('}').unwrap_or_else(|| panic!("labels without an end: {line}"));
            let labels = labels.split(',').map(|label| {
                let (key, value) = label.split_once('=').unwrap_or_else(|| panic!("no value: {line}"));
                (key, value.trim_matches('"'))
            });
            Sample { name, labels: labels.collect() }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_listed_with_the_pods_of_its_node() {
    let suite = Suite::start().await;
    let pod = suite.create("nginx", &["foo"]).await;
    suite.until_ready(&pod).await;
    assert!(suite.lists("pods", &pod).await);
    for listed in suite.listed("pods").await {
        let node = listed.spec.and_then(|spec| spec.node_name);
        assert_eq!(node.as_deref(), Some(suite.node.as_str()));
    }
    suite.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stats_summary_counts_every_container_of_a_pod() {
    let suite = Suite::start().await;
    let pod = suite.create("nginx", &["foo", "bar", "baz"]).await;
    suite.until_ready(&pod).await;
    let text = suite.ask_pod("stats/summary").await.expect("open to callers without credentials");
    let summary: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(summary["node"]["nodeName"], suite.node);
    let reference = json!({"name": pod.name_any(), "namespace": suite.world.namespace, "uid": pod.uid()});
    let pods = summary["pods"].as_array().expect("a list of pods");
    let found = pods.iter().find(|entry| entry["podRef"] == reference);
    let containers = found.unwrap_or_else(|| panic!("{reference} in {text}"))["containers"].as_array();
    assert_eq!(containers.map(Vec::len), Some(3), "{text}");
    suite.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_resource_metrics_have_the_pods_name_as_their_second_label() {
    let suite = Suite::start().await;
    let pod = suite.create("nginx", &["foo", "bar", "baz"]).await;
    suite.until_ready(&pod).await;
    let text = suite.ask_pod("metrics/resource").await.expect("open to callers without credentials");
    let name = pod.name_any();
    let of_pod = |family: &str| {
        let named = samples(&text).into_iter().filter(|sample| sample.name == family);
        named.filter(|sample| sample.labels.get(1).is_some_and(|(_, value)| *value == name)).count()
    };
    assert_eq!(of_pod("pod_cpu_usage_seconds_total"), 1, "{text}");
    assert_eq!(of_pod("container_cpu_usage_seconds_total"), 3, "{text}");
    suite.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gracefully_deleted_pod_stops_at_once() {
    let suite = Suite::start().await;
    let pod = suite.create("nginx", &["foo"]).await;
    suite.until_ready(&pod).await;
    assert!(suite.lists("runningpods/", &pod).await);
    let seen = suite.sees_deleted(&pod, suite.pods.delete(&pod.name_any())).await;
    assert_eq!(seen.metadata.deletion_grace_period_seconds, Some(30));
    suite.until_stopped(&pod).await;
    suite.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deleted_by_force_stops_at_once() {
    let suite = Suite::start().await;
    let pod = suite.create("nginx", &["foo"]).await;
    suite.until_ready(&pod).await;
    assert!(suite.lists("runningpods/", &pod).await);
    suite.sees_deleted(&pod, suite.pods.delete_within(&pod.name_any(), 0)).await;
    suite.until_stopped(&pod).await;
    suite.end().await;
}

/// A pod that may do without the object it refers to runs, and says that it does.
async fn runs_without(source: &str, reason: &str) {
    let suite = Suite::start().await;
    let pod = suite.create_referring_to_nothing(source, true).await;
    suite.until_ready(&pod).await;
    suite.pods.until_event(&pod, reason).await;
    assert!(suite.lists("runningpods/", &pod).await);
    suite.end().await;
}

/// A pod that needs the object it refers to says so, and does not run.
async fn waits_for(source: &str, reason: &str) {
    let suite = Suite::start().await;
    let pod = suite.create_referring_to_nothing(source, false).await;
    suite.pods.until_event(&pod, reason).await;
    assert!(!suite.lists("runningpods/", &pod).await);
    suite.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_without_an_optional_secret() {
    runs_without("secretKeyRef", "OptionalSecretNotFound").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_for_a_mandatory_secret() {
    waits_for("secretKeyRef", "MandatorySecretNotFound").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_without_an_optional_config_map() {
    runs_without("configMapKeyRef", "OptionalConfigMapNotFound").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_for_a_mandatory_config_map() {
    waits_for("configMapKeyRef", "MandatoryConfigMapNotFound").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_only_the_two_metrics_routes_are_open() {
    let suite = Suite::start().await;
    for closed in ["pods", "runningpods/", "healthz", "containerLogs/a/b/c"] {
        let refused = suite.ask_pod(closed).await.expect_err("closed to callers without credentials");
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 401), "{closed}: {refused}");
    }
    suite.end().await;
}

#[test]
fn labels_are_read_in_the_order_they_are_written_in() {
    let text = "# TYPE a counter\na{x=\"1\",b=\"2\"} 5 1700000000000\nc 1\n";
    let a = Sample { name: "a", labels: vec![("x", "1"), ("b", "2")] };
    assert_eq!(samples(text), [a, Sample { name: "c", labels: Vec::new() }]);
}
