//! A cluster to run a node in.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::Api;
use vk_apiserver::{ApiServer, Config, Controller, Identity, Requests, Running};
use vk_core::api::KubeletApi;
use vk_core::clock::Clock;

use crate::wait::eventually;

/// What the helpers of this crate need to know of a cluster: [`TestCluster`] is one, and a test bed of your own, such
/// as a real control plane, can be another.
pub trait Cluster: fmt::Debug {
    /// An administrator's client.
    fn client(&self) -> kube::Client;

    /// The namespace that tests work in.
    fn namespace(&self) -> &str;

    /// The client of a node under test.
    fn node_client(&self, node: &str) -> kube::Client;

    /// The time that goes with the cluster: paused time's, or the machine's.
    fn clock(&self) -> Clock;

    /// Told of each node's kubelet API, for clusters that can reach it without a socket: for as long as what is
    /// returned lives. Default: nothing is done.
    fn reach_kubelet(&self, node: &str, api: &KubeletApi) -> Option<Reached> {
        let _ = (node, api);
        None
    }

    /// Objects of one kind in the namespace.
    fn api<K>(&self) -> Api<K>
    where
        Self: Sized,
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), self.namespace())
    }
}

/// The user that nodes under test are: their calls are told from the test's by it.
pub const NODE_USER: &str = "node-under-test";

/// A cluster in this process: the API server of [`vk_apiserver`], its scheduler and its controllers.
///
/// In a test with paused time (`#[tokio::test(start_paused = true)]`) its clock follows that time, so that a lease runs
/// out or a back-off passes in no time at all.
#[derive(Debug)]
pub struct TestCluster {
    server: ApiServer,
    /// Stop when they are dropped.
    _controllers: Running,
}

impl TestCluster {
    /// A fresh one, with everything on.
    ///
    /// # Panics
    /// When it cannot be made; that is a broken test bed.
    pub async fn start() -> Self {
        Self::with(Config::default()).await
    }

    /// The same with settings of its own, such as a seed.
    ///
    /// # Panics
    /// When it cannot be made; that is a broken test bed.
    pub async fn with(config: Config) -> Self {
        let server = ApiServer::with(config).expect("an in-memory API server");
        let controllers = server.start(Controller::ALL);
        let cluster = Self { server, _controllers: controllers };
        // Pods can be created once it is there.
        let accounts: Api<ServiceAccount> = cluster.api();
        eventually("the default service account", async || {
            accounts.get("default").await.map_err(|error| error.to_string())
        })
        .await;
        cluster
    }

    /// The API server: its [faults](ApiServer::faults), its objects, its watches.
    #[must_use]
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// How often nodes under test have asked for what, so far.
    #[must_use]
    pub fn node_calls(&self) -> Requests {
        self.server.requests().of_user(NODE_USER)
    }

    /// Now, by [`clock`](Cluster::clock).
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.server.clock().now()
    }
}

impl Cluster for TestCluster {
    fn client(&self) -> kube::Client {
        self.server.client()
    }

    fn namespace(&self) -> &'static str {
        "default"
    }

    fn node_client(&self, _node: &str) -> kube::Client {
        self.server.client_as(Identity::new(NODE_USER, ["system:nodes".to_owned()]))
    }

    fn clock(&self) -> Clock {
        Clock::virtual_from(self.now())
    }

    fn reach_kubelet(&self, node: &str, api: &KubeletApi) -> Option<Reached> {
        self.server.add_kubelet(node, api.router());
        Some(Reached { server: self.server.clone(), node: node.to_owned() })
    }
}

/// While it lives, a node's kubelet API is where the API server asks for logs and sends streams.
#[derive(Debug)]
pub struct Reached {
    server: ApiServer,
    node: String,
}

impl Drop for Reached {
    fn drop(&mut self) {
        self.server.remove_kubelet(&self.node);
    }
}
