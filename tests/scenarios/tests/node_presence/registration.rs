//! How a daemon comes to its node, or is kept from it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use vk_apiserver::{ApiServer, Fault, Rule, Verb};
use vk_core::config::NodeConfig;
use vk_core::internals::ensure_registered;
use vk_core::node::RegisterError;

use crate::bed::{Answer, Cluster, NAME, info, ready};

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_down_at_the_start_does_not_keep_the_node_away_and_fills_it_in_later() {
    let cluster = Cluster::new();
    cluster.backend.set(Answer::Down);
    let daemon = cluster.start("a").await.unwrap();
    daemon.synced.send_replace(true);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(ready(&cluster.node()).1, "ProviderUnavailable");
    assert!(cluster.node()["metadata"]["labels"].get("kubernetes.io/os").is_none());
    cluster.backend.set(Answer::Info(Box::new(info())));
    cluster.until("ready", |node| ready(node).0 == "True").await;
    cluster.until("complete", |node| node["metadata"]["labels"]["kubernetes.io/os"] == "linux").await;
    assert_eq!(cluster.node()["spec"]["providerID"], "virtual-kubelet://mock/virtual-1");
    assert_eq!(cluster.node()["status"]["capacity"]["cpu"], "4");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_down_at_a_restart_takes_nothing_from_the_node() {
    let cluster = Cluster::new();
    cluster.ready("a").await.kill();
    let before = cluster.node();
    cluster.backend.set(Answer::Down);
    let _daemon = cluster.start("a").await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let after = cluster.node();
    assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
    assert_eq!(after["spec"], before["spec"]);
    assert_eq!(after["status"]["capacity"], before["status"]["capacity"]);
    assert_eq!(ready(&after).1, "ProviderUnavailable");
}

#[tokio::test(start_paused = true)]
async fn settings_that_are_gone_after_a_restart_are_gone_from_the_node() {
    let cluster = Cluster::new();
    let config = NodeConfig::new(NAME).with_label("team", "a");
    cluster.start_with(cluster.context_with("a", config)).await.unwrap().kill();
    cluster.patch_node(json!({ "metadata": { "labels": { "theirs": "x" } } })).await;
    let mut config = NodeConfig::new(NAME);
    config.taints = Some(Vec::new());
    let _daemon = cluster.start_with(cluster.context_with("a", config)).await.unwrap();
    let node = cluster.node();
    assert!(node["metadata"]["labels"].get("team").is_none());
    assert_eq!(node["metadata"]["labels"]["theirs"], "x");
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    assert!(taints.iter().all(|t| t["key"] != "virtual-kubelet.io/provider"), "{taints:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_held_by_a_live_daemon_is_refused() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    let before = cluster.node();
    let asked = Instant::now();
    let error = cluster.start("b").await.err().unwrap();
    assert!(
        matches!(&error, RegisterError::HeldByAnother { instance, .. } if instance == "name:a"),
        "{error}"
    );
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
    assert_eq!(cluster.node()["metadata"], before["metadata"]);
    sleep(Duration::from_mins(2)).await;
    assert!(!daemon.heartbeat.is_finished());
}

#[tokio::test(start_paused = true)]
async fn of_two_daemons_that_start_together_one_goes_on() {
    let cluster = Cluster::new();
    let (a, b) = tokio::join!(cluster.start("a"), cluster.start("b"));
    let (winners, losers): (Vec<_>, Vec<_>) = [a, b].into_iter().partition(Result::is_ok);
    assert_eq!((winners.len(), losers.len()), (1, 1));
    assert!(matches!(losers[0], Err(RegisterError::HeldByAnother { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_killed_daemon_takes_its_node_back_at_once_and_the_node_does_not_flap() {
    let cluster = Cluster::new();
    cluster.ready("a").await.kill();
    let (.., since) = ready(&cluster.node());
    let before = cluster.server.requests();
    let started = Instant::now();
    let daemon = cluster.start("a").await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    sleep(Duration::from_secs(5)).await;
    daemon.synced.send_replace(true);
    sleep(Duration::from_secs(5)).await;
    let (status, _, after) = ready(&cluster.node());
    assert_eq!((status.as_str(), after), ("True", since));
    let requests = cluster.server.requests().since(&before);
    assert_eq!(requests.of(Verb::Patch, "nodes", "") + requests.of(Verb::Patch, "nodes", "status"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_errors_at_the_start_delays_the_registration_only() {
    let cluster = Cluster::new();
    let faults = cluster.server.faults();
    faults.add(Rule::new(Fault::Unavailable).times(3));
    faults.add(Rule::new(Fault::LoseResponse).verb(Verb::Create).resource("leases").times(1));
    faults.add(Rule::new(Fault::LoseResponse).verb(Verb::Create).resource("nodes").times(1));
    let _daemon = cluster.ready("a").await;
}

#[tokio::test(start_paused = true)]
async fn with_the_go_virtual_kubelets_rights_labels_go_with_the_status() {
    let cluster = Cluster::new();
    let rule = || Rule::new(Fault::Forbidden).resource("nodes").subresource("");
    let faults = cluster.server.faults();
    faults.add(rule().verb(Verb::Watch).verb(Verb::List).verb(Verb::Patch));
    cluster.ready("a").await.kill();
    let config = NodeConfig::new(NAME).with_label("team", "a");
    let daemon = cluster.start_with(cluster.context_with("a", config)).await.unwrap();
    daemon.synced.send_replace(true);
    assert_eq!(cluster.node()["metadata"]["labels"]["team"], "a");
    sleep(Duration::from_mins(1)).await;
    let before = cluster.server.requests();
    sleep(Duration::from_mins(4)).await;
    let writes = cluster.server.requests().since(&before).count(|k| k.verb == Verb::Patch);
    assert!(writes <= 1, "{writes}");
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_cluster_is_an_error_within_seconds() {
    let cluster = Cluster::new();
    let refused = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("connection refused"))
    });
    let mut context = cluster.context("a");
    context.client = kube::Client::new(refused, "default");
    let asked = Instant::now();
    let error = ensure_registered(&context).await.unwrap_err();
    assert!(matches!(error, RegisterError::Reach(_)), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn missing_rights_to_create_the_node_are_an_error_at_once() {
    let cluster = Cluster::new();
    cluster.server.faults().add(Rule::new(Fault::Forbidden).resource("nodes").verb(Verb::Create));
    let asked = Instant::now();
    let error = cluster.start("a").await.err().unwrap();
    assert_eq!(error.to_string(), "create node virtual-1");
    assert!(asked.elapsed() < Duration::from_secs(1));
}

/// The admission plugin NodeRestriction before the server: what it says to a node that wants too much.
fn node_restriction(server: &ApiServer) -> kube::Client {
    let server = server.service();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let server = server.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = http_body_util::BodyExt::collect(body).await?.to_bytes();
            let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
            let refused = if !parts.uri.path().starts_with("/api/v1/nodes") {
                None
            } else if sent["metadata"]["labels"].get("kubernetes.io/role").is_some() {
                Some("is not allowed to modify labels: kubernetes.io/role")
            } else if parts.method == http::Method::PATCH && sent["spec"].get("taints").is_some() {
                Some("is not allowed to modify taints")
            } else {
                None
            };
            let Some(message) = refused else {
                let request = http::Request::from_parts(parts, axum::body::Body::from(body));
                let Ok(response) = tower::ServiceExt::oneshot(server, request).await;
                return Ok::<_, tower::BoxError>(response);
            };
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
                                 "reason": "Forbidden", "message": message });
            let answer =
                http::Response::builder().status(403).body(axum::body::Body::from(status.to_string()));
            Ok(answer?)
        }
    });
    kube::Client::new(service, "default")
}

#[tokio::test(start_paused = true)]
async fn a_node_identity_goes_without_what_it_may_not_set() {
    let cluster = Cluster::new();
    let mut context = cluster.context("a");
    context.client = node_restriction(&cluster.server);
    let daemon = cluster.start_with(context.clone()).await.unwrap();
    daemon.synced.send_replace(true);
    cluster.until("ready", |node| ready(node).0 == "True").await;
    let node = cluster.node();
    assert!(node["metadata"]["labels"].get("kubernetes.io/role").is_none());
    assert_eq!(node["metadata"]["labels"]["type"], "virtual-kubelet");
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    assert!(taints.iter().any(|t| t["key"] == "virtual-kubelet.io/provider"), "{taints:?}");
    daemon.kill();
    // Taints may be set at creation only.
    let mut config = NodeConfig::new(NAME).with_label("team", "a");
    config.taints = Some(Vec::new());
    context.config = Arc::new(config);
    let _daemon = cluster.start_with(context).await.unwrap();
    let node = cluster.node();
    assert_eq!(node["metadata"]["labels"]["team"], "a");
    assert_eq!(node["spec"]["taints"].as_array().cloned().unwrap_or_default(), taints);
    let before = cluster.server.requests();
    sleep(Duration::from_mins(4)).await;
    assert_eq!(cluster.server.requests().since(&before).of(Verb::Patch, "nodes", ""), 0);
}
