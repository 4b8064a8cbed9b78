//! Providers around providers: those of the library, and one of your own.
//!
//! A decorator is a provider that has another one inside. The node does not see the difference, so that limits, delays,
//! faults or a diary can be put around any backend. Here creations fail twice, as an overloaded backend's do; the node
//! tries again, and the diary tells.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::json;
use vk_apiserver::{ApiServer, Controller};
use vk_core::clock::Clock;
use vk_core::config::NodeConfig;
use vk_core::provider::{
    Delayed, Delays, Faults, Faulty, Limited, Limits, NodeInfo, ObservedPod, PodEvent, PodRef, Provider,
    ResolvedPod, Result, Verb,
};
use vk_core::{Node, Shutdown};
use vk_mock::{MockBackend, MockConfig, MockProvider};

// ANCHOR: diary
/// Writes down what the node asks for about pods, and what came of it.
#[derive(Debug)]
struct Diary {
    inner: Arc<dyn Provider>,
}

impl Diary {
    fn note(call: &str, pod: &PodRef, result: Result<()>) -> Result<()> {
        match &result {
            Ok(()) => println!("{call} {pod}: ok"),
            Err(error) => println!("{call} {pod}: {} ({error})", error.reason()),
        }
        result
    }
}

#[async_trait]
impl Provider for Diary {
    // Its name, what it does itself, and its capabilities: those of the inner one.
    vk_core::forward_capabilities!(inner);

    async fn node_info(&self) -> Result<NodeInfo> {
        self.inner.node_info().await
    }
    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        Self::note("create", &pod.pod, self.inner.create_pod(pod).await)
    }
    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        Self::note("delete", pod, self.inner.delete_pod(pod, grace).await)
    }
    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        self.inner.list_pods().await
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        // The inner one's own stream: a decorator need not be in the way of what it does not change.
        Arc::clone(&self.inner).watch_pods()
    }
}
// ANCHOR_END: diary

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cluster = ApiServer::new()?;
    let _controllers = cluster.start(Controller::ALL);

    // From the inside out: the backend, its slowness, its faults, our manners, our diary.
    let backend = MockBackend::new(MockConfig::default(), Clock::system())?;
    let faults = Faults::default();
    faults.fail_next(Verb::Create, 2);
    let provider: Arc<dyn Provider> = Arc::new(MockProvider::new(backend.clone(), "wrapped"));
    let slow = Delays { create: Duration::from_millis(20), ..Delays::default() };
    let provider: Arc<dyn Provider> = Arc::new(Delayed::new(provider, slow));
    let provider: Arc<dyn Provider> = Arc::new(Faulty::new(provider, faults));
    let provider: Arc<dyn Provider> = Arc::new(Limited::new(provider, Limits { creates: 4, deletes: 4 }));
    let provider = Arc::new(Diary { inner: provider });

    let mut config = NodeConfig::new("wrapped");
    config.min_backoff = Duration::from_millis(100);
    let shutdown = Shutdown::new();
    let node = Node::builder(config, provider, cluster.client()).build();
    let node = tokio::spawn(node.run(shutdown.clone()));

    cluster.create(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"nodeName": "wrapped", "containers": [{"name": "app", "image": "registry.example/web:1"}]},
    }))?;
    until("pod web is Running", || {
        cluster.object("pods", "default", "web").is_some_and(|pod| pod["status"]["phase"] == "Running")
    })
    .await?;

    let ledger = backend.ledger();
    anyhow::ensure!(ledger.started == 1, "a pod is started once, however often it had to be asked for");
    println!("the backend was asked {} time(s) and started {} pod(s)", ledger.creates, ledger.started);

    shutdown.drain();
    node.await??;
    Ok(())
}

/// Looks until something holds, for half a minute at most.
async fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    for _ in 0..600 {
        if holds() {
            println!("{what}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("not within 30 s: {what}")
}
