//! A whole provider, and a node that runs pods on it: the text of `docs/write-a-provider.md`.
//!
//! Its backend is a map, in which a pod that is put there counts as running.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

// ANCHOR: imports
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde_json::{Value, json};
use vk_apiserver::{ApiServer, Controller};
use vk_core::config::NodeConfig;
use vk_core::provider::{
    Features, FieldSupport, NodeInfo, ObservedContainer, ObservedPod, PodEvent, PodRef, PodRuntime, PodUid,
    Provider, ResolvedPod, Result, Sandbox, watch_by_polling,
};
use vk_core::{Node, Shutdown};
// ANCHOR_END: imports

// ANCHOR: provider
/// The provider. What it must remember is at the backend, under the pod's UID; here they are one.
#[derive(Debug, Default)]
struct Hello {
    pods: Mutex<HashMap<PodUid, ObservedPod>>,
    addresses: AtomicU8,
}

impl Hello {
    fn pods(&self) -> MutexGuard<'_, HashMap<PodUid, ObservedPod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What it does with the fields of pods: a pod that asks for more is refused, field by field, before it comes here.
static FIELDS: LazyLock<FieldSupport> =
    LazyLock::new(|| FieldSupport::of_pods("hello", Features::NONE).native("spec.containers[].image"));

#[async_trait]
impl Provider for Hello {
    fn name(&self) -> &'static str {
        "hello"
    }

    // Nothing of restarts, probes or hooks: our containers never end.
    fn native(&self) -> Features {
        Features::NONE
    }

    fn fields(&self) -> &FieldSupport {
        &FIELDS
    }

    async fn node_info(&self) -> Result<NodeInfo> {
        let node = NodeInfo::default().with_capacity("cpu", "4").with_capacity("memory", "16Gi");
        Ok(node.with_capacity("pods", "110"))
    }

    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        let now = Timestamp::now();
        // No two pods have one address: this lasts for 255 of them.
        let last = self.addresses.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let runtime = PodRuntime::new(Sandbox::Ready).with_ip([192, 0, 2, last].into()).with_started_at(now);
        let runtime = pod.containers.iter().fold(runtime, |runtime, container| {
            runtime.with_container(ObservedContainer::running(container.name.as_str(), now))
        });
        // A second call for the same UID changes nothing.
        self.pods().entry(pod.pod.uid.clone()).or_insert(ObservedPod::new(pod.pod.clone(), runtime));
        Ok(())
    }

    async fn delete_pod(&self, pod: &PodRef, _grace: Duration) -> Result<()> {
        // Nor is it an error to delete what is not there.
        self.pods().remove(&pod.uid);
        Ok(())
    }

    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        Ok(self.pods().values().cloned().collect())
    }

    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        watch_by_polling(self, Duration::from_millis(200))
    }

    // Answered with 501 by the kubelet API: honest, and short.
    vk_core::lacks!(prepare, update, logs, exec, attach, port_forward, stats);
}
// ANCHOR_END: provider

// ANCHOR: node
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // A cluster in this process. For a real one, give the node `kube::Client::try_default().await?`.
    let cluster = ApiServer::new()?;
    let _controllers = cluster.start(Controller::ALL);

    let shutdown = Shutdown::new();
    let node = Node::builder(NodeConfig::new("hello-1"), Arc::new(Hello::default()), cluster.client());
    let node = tokio::spawn(node.build().run(shutdown.clone()));

    until("node hello-1 is Ready", || {
        let node = cluster.object("nodes", "", "hello-1")?;
        let conditions = node["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
    .await?;

    // Bound by the scheduler: it tolerates the node's taint, virtual-kubelet.io/provider=hello:NoSchedule.
    cluster.create(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {
            "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
            "containers": [{"name": "app", "image": "registry.example/web:1"}],
        },
    }))?;
    let pod = until("pod web is Running", || {
        cluster.object("pods", "default", "web").filter(|pod| pod["status"]["phase"] == "Running")
    })
    .await?;
    println!("pod web: {} on {}", pod["status"]["podIP"], pod["spec"]["nodeName"]);

    // The node says that it is not ready any more, gives its lease back and ends. The pod goes on.
    shutdown.drain();
    node.await??;
    Ok(())
}
// ANCHOR_END: node

// ANCHOR: until
/// Looks until there is something to see, for half a minute at most.
async fn until(what: &str, mut look: impl FnMut() -> Option<Value>) -> anyhow::Result<Value> {
    for _ in 0..600 {
        if let Some(seen) = look() {
            println!("{what}");
            return Ok(seen);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("not within 30 s: {what}")
}
// ANCHOR_END: until
