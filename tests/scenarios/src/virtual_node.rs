//! A node under test: our library in this process, over a mock backend that outlives it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams};
use vk_core::NodeError;
use vk_core::config::NodeConfig;
use vk_core::metrics::Metrics;
use vk_core::pods::PodLookup;
use vk_core::provider::Provider;
use vk_mock::{MockBackend, MockConfig, MockProvider};
use vk_testkit::TestNode;
pub use vk_testkit::node::condition;

use crate::world::World;

/// A running node. Dropping it kills it, as `kill -9` would.
#[derive(Debug)]
pub struct VirtualNode {
    /// Its name.
    pub name: String,
    /// Where its pods run; lives on when the node is killed.
    pub backend: MockBackend,
    /// Its settings.
    pub config: NodeConfig,
    /// The pods it knows.
    pub known: Arc<dyn PodLookup>,
    /// What it counts.
    pub metrics: Metrics,
    /// Boxed: futures that hold a node would be large.
    node: Box<TestNode>,
}

/// The settings scenarios use: short waits, and a name of its own.
#[must_use]
pub fn config(world: &World) -> NodeConfig {
    let address: IpAddr = std::env::var("NODE_ADDRESS")
        .ok()
        .filter(|_| world.is_real())
        .and_then(|address| address.parse().ok())
        .unwrap_or_else(|| IpAddr::from([192, 0, 2, 10]));
    let mut config = NodeConfig::new(world.node_name()).with_address(address);
    config.min_backoff = Duration::from_millis(100);
    config.max_backoff = Duration::from_secs(5);
    config
}

/// A backend with instant pods, and a ledger that remembers every call of a scenario.
#[must_use]
pub fn backend(world: &World) -> MockBackend {
    backend_with(world, MockConfig::default())
}

/// The same with other settings.
///
/// # Panics
/// When the configuration is not valid.
#[must_use]
pub fn backend_with(world: &World, mut config: MockConfig) -> MockBackend {
    config.ledger_size = 1_000_000;
    MockBackend::new(config, world.clock()).expect("the configuration is valid")
}

impl VirtualNode {
    /// A node with the usual settings and a backend of its own, ready.
    pub async fn ready(world: &World) -> Self {
        Self::ready_with(world, |_| {}).await
    }

    /// A node with some settings changed and a backend of its own, ready.
    pub async fn ready_with(world: &World, change: impl FnOnce(&mut NodeConfig)) -> Self {
        let mut config = config(world);
        change(&mut config);
        let node = Self::start(world, config, backend(world));
        node.until_ready(world).await;
        node
    }

    /// Starts a node over the mock; it is not ready yet.
    #[must_use]
    pub fn start(world: &World, config: NodeConfig, backend: MockBackend) -> Self {
        let provider = Arc::new(MockProvider::new(backend.clone(), config.name.clone()));
        Self::start_with(world, config, backend, provider)
    }

    /// Starts a node over another provider around the same backend.
    #[must_use]
    pub fn start_with(
        world: &World,
        mut config: NodeConfig,
        backend: MockBackend,
        provider: Arc<dyn Provider>,
    ) -> Self {
        config.node_identity = world.has_node_identities();
        let node = Box::new(TestNode::start(world, config.clone(), provider));
        let (known, metrics) = (Arc::clone(&node.known), node.metrics.clone());
        Self { name: config.name.clone(), backend, config, known, metrics, node }
    }

    /// Waits until the Node object says `Ready`, and returns it.
    pub async fn until_ready(&self, world: &World) -> Node {
        self.node.until_ready(world).await
    }

    /// Waits until something holds for the Node object, and returns it.
    pub async fn until(&self, world: &World, what: &str, holds: impl FnMut(&Node) -> bool) -> Node {
        self.node.until(world, what, holds).await
    }

    /// Kills the node where it stands, and waits until nothing of it acts any more.
    pub async fn kill(self) -> (NodeConfig, MockBackend) {
        let Self { backend, config, known, metrics, node, .. } = self;
        // What acts for the node is known by its holding on to its table of pods, in which what it counts is looked up.
        drop((known, metrics));
        node.kill().await;
        (config, backend)
    }

    /// Kills the node where it stands, and starts it again over the same backend.
    pub async fn kill_and_restart(self, world: &World) -> Self {
        let (config, backend) = self.kill().await;
        Self::start(world, config, backend)
    }

    /// Asks for a drain and waits for its end.
    ///
    /// # Errors
    /// What the node ended with.
    ///
    /// # Panics
    /// When the node panicked.
    pub async fn drain(self) -> Result<(), NodeError> {
        self.node.drain().await
    }

    /// Whether the node has ended by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.node.has_ended()
    }

    /// Kills the node and deletes its object, so that the next scenario has the cluster for itself.
    pub async fn remove(self, world: &World) {
        let name = self.name.clone();
        self.kill().await;
        delete_object(world, &name).await;
    }
}

/// Deletes a Node object, if it is there.
///
/// # Panics
/// When the API server refuses.
pub async fn delete_object(world: &World, name: &str) {
    let api: Api<Node> = Api::all(world.client());
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => panic!("deleting node {name}: {error}"),
    }
}
