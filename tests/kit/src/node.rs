//! A node under test: the library in this process, over a provider of yours.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::api::Api;
use tokio::task::JoinHandle;
use vk_core::api::Access;
use vk_core::config::NodeConfig;
use vk_core::metrics::Metrics;
use vk_core::node::Instance;
use vk_core::pods::PodLookup;
use vk_core::provider::Provider;
use vk_core::{NodeError, Shutdown};

use crate::cluster::{Cluster, Reached};
use crate::wait::{eventually, holds};

/// A running node. Dropping it kills it, as `kill -9` would.
#[derive(Debug)]
pub struct TestNode {
    /// Its settings.
    pub config: NodeConfig,
    /// The pods it knows.
    pub known: Arc<dyn PodLookup>,
    /// What it counts.
    pub metrics: Metrics,
    reached: Option<Reached>,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), NodeError>>,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The settings tests use: short waits between attempts, and an address that leads nowhere.
#[must_use]
pub fn config(name: &str) -> NodeConfig {
    let mut config = NodeConfig::new(name).with_address(IpAddr::from([192, 0, 2, 10]));
    config.min_backoff = Duration::from_millis(100);
    config.max_backoff = Duration::from_secs(5);
    config
}

impl TestNode {
    /// A node of that name with the [usual settings](config), once it is ready.
    pub async fn ready(cluster: &impl Cluster, name: &str, provider: Arc<dyn Provider>) -> Self {
        let node = Self::start(cluster, config(name), provider);
        node.until_ready(cluster).await;
        node
    }

    /// Starts a node; it is not ready yet. One of the same name is a restart of the same daemon, not a rival.
    #[must_use]
    pub fn start(cluster: &impl Cluster, config: NodeConfig, provider: Arc<dyn Provider>) -> Self {
        let shutdown = Shutdown::new();
        let node = vk_core::Node::builder(config.clone(), provider, cluster.node_client(&config.name))
            .clock(cluster.clock())
            .instance(Instance::named(config.name.clone()))
            .build();
        let reached = cluster.reach_kubelet(&config.name, &node.kubelet_api(Access::insecure_allow_all()));
        let (known, metrics) = (node.pods(), node.metrics());
        let task = tokio::spawn(node.run(shutdown.clone()));
        Self { config, known, metrics, reached, shutdown, task }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Waits until the Node object says `Ready`, and returns it.
    pub async fn until_ready(&self, cluster: &impl Cluster) -> Node {
        let is_ready =
            |node: &Node| condition(node, "Ready").is_some_and(|condition| condition.status == "True");
        self.until(cluster, "is Ready", is_ready).await
    }

    /// Waits until something holds for the Node object, and returns it.
    pub async fn until(
        &self,
        cluster: &impl Cluster,
        what: &str,
        mut holds: impl FnMut(&Node) -> bool,
    ) -> Node {
        let api: Api<Node> = Api::all(cluster.client());
        eventually(&format!("node {} {what}", self.name()), async || {
            let node = api.get_opt(self.name()).await.map_err(|error| error.to_string())?;
            match node {
                Some(node) if holds(&node) => Ok(node),
                node => Err(format!("ended: {}, object: {node:#?}", self.task.is_finished())),
            }
        })
        .await
    }

    /// Kills the node where it stands, and waits until nothing of it acts any more. The backend lives on: start
    /// another node on it, as a restarted daemon does.
    pub async fn kill(mut self) {
        drop(self.reached.take());
        self.task.abort();
        // What it counts is looked up in its table of pods.
        self.metrics = Metrics::new(&self.config.name);
        // Ends as cancelled, or has ended before; what the death leaves is looked at by the test.
        let _ = (&mut self.task).await;
        // Its tasks end when they are polled next. Whatever acts for the node holds its table of pods.
        for _ in 0..1000 {
            if Arc::strong_count(&self.known) == 1 {
                break;
            }
            tokio::task::yield_now().await;
        }
        eventually("nothing of the killed node is left", async || {
            let left = Arc::strong_count(&self.known) - 1;
            holds(left == 0, || format!("{left} tasks"))
        })
        .await;
    }

    /// Asks for a drain and waits for its end.
    ///
    /// # Errors
    /// What the node ended with.
    ///
    /// # Panics
    /// When the node panicked.
    pub async fn drain(mut self) -> Result<(), NodeError> {
        self.shutdown.drain();
        (&mut self.task).await.expect("the node did not panic")
    }

    /// Whether the node has ended by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

/// A condition of a node.
#[must_use]
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}
