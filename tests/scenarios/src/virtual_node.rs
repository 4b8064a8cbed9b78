//! A node under test: our library in this process, over a mock backend that outlives it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::api::{Api, DeleteParams};
use tokio::task::JoinHandle;
use vk_core::config::NodeConfig;
use vk_core::node::Instance;
use vk_core::pods::PodLookup;
use vk_core::provider::Provider;
use vk_core::{NodeError, Shutdown};
use vk_mock::{MockBackend, MockConfig, MockProvider};

use crate::wait::{eventually, holds};
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
    shutdown: Shutdown,
    task: JoinHandle<Result<(), NodeError>>,
}

impl Drop for VirtualNode {
    fn drop(&mut self) {
        self.task.abort();
    }
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
        let shutdown = Shutdown::new();
        config.node_identity = world.has_node_identities();
        let node = vk_core::Node::builder(config.clone(), provider, world.node_client(&config.name))
            .clock(world.clock())
            // A restart of the same daemon, not a rival.
            .instance(Instance::named(config.name.clone()))
            .build();
        let known = node.pods();
        let task = tokio::spawn(node.run(shutdown.clone()));
        Self { name: config.name.clone(), backend, config, known, shutdown, task }
    }

    /// Waits until the Node object says `Ready`, and returns it.
    pub async fn until_ready(&self, world: &World) -> Node {
        self.until(world, "is Ready", |node| {
            condition(node, "Ready").is_some_and(|ready| ready.status == "True")
        })
        .await
    }

    /// Waits until something holds for the Node object, and returns it.
    pub async fn until(&self, world: &World, what: &str, mut holds: impl FnMut(&Node) -> bool) -> Node {
        let api: Api<Node> = Api::all(world.client());
        eventually(&format!("node {} {what}", self.name), async || {
            let node = api.get_opt(&self.name).await.map_err(|error| error.to_string())?;
            match node {
                Some(node) if holds(&node) => Ok(node),
                node => Err(format!("ended: {}, object: {node:#?}", self.task.is_finished())),
            }
        })
        .await
    }

    /// Kills the node where it stands, and waits until nothing of it acts any more.
    pub async fn kill(mut self) -> (NodeConfig, MockBackend) {
        self.task.abort();
        // Ends as cancelled, or has ended before; what the death leaves is looked at by the scenario.
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
        (self.config.clone(), self.backend.clone())
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
    pub async fn drain(mut self) -> Result<(), NodeError> {
        self.shutdown.drain();
        (&mut self.task).await.expect("the node did not panic")
    }

    /// Whether the node has ended by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
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

/// A condition of a node.
#[must_use]
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}
