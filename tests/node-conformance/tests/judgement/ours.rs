//! Our node over the mock.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use vk_apiserver::Identity;
use vk_core::Shutdown;
use vk_core::api::{Access, KubeletApi};
use vk_core::clock::Clock;
use vk_core::config::NodeConfig;
use vk_mock::{MockBackend, MockConfig, MockProvider};
use vk_node_conformance::Verdict;

use crate::cluster::{Cluster, NODE};

#[tokio::test(start_paused = true)]
async fn our_node_passes_all_that_can_be_reached_from_here() {
    let cluster = Cluster::new();
    let clock = Clock::virtual_from(cluster.server.clock().now());
    let backend = MockBackend::new(MockConfig::default(), clock.clone()).unwrap();
    let provider = Arc::new(MockProvider::new(backend, NODE));
    let client = cluster.server.client_as(Identity::new("node", ["system:nodes".to_owned()]));
    let config = NodeConfig::new(NODE).with_address(IpAddr::from([192, 0, 2, 10]));
    let node = vk_core::Node::builder(config, provider.clone(), client).clock(clock.clone()).build();
    // The way there is the API server's own; who may call is shown on the real one.
    let api = KubeletApi::new(NODE, provider, node.pods(), Access::insecure_allow_all(), clock);
    cluster.server.add_kubelet(NODE, api.router());
    let shutdown = Shutdown::new();
    let running = tokio::spawn(node.run(shutdown.clone()));
    until_ready(&cluster).await;

    let report = cluster.check(&[], Duration::from_mins(1)).await;
    let applies = |verdict: &Verdict| !matches!(verdict, Verdict::NotApplicable { .. });
    let others: Vec<&str> =
        report.outcomes.iter().filter(|o| !applies(&o.verdict)).map(|o| o.clause.as_str()).collect();
    assert_eq!(report.failed(), Vec::<&str>::new(), "{}", report.to_text());
    // Its address is one of documentation's.
    assert_eq!(others, ["strangers_are_kept_out"]);
    cluster.is_clean();
    shutdown.drain();
    running.await.unwrap().unwrap();
}

async fn until_ready(cluster: &Cluster) {
    let ready = async {
        loop {
            let node = cluster.server.object("nodes", "", NODE).unwrap_or_default();
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|entry| entry["type"] == "Ready" && entry["status"] == "True") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), ready).await.expect("the node becomes Ready");
}
