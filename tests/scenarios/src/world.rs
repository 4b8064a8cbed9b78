//! Where a scenario runs.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, PostParams};
use kube::config::AuthInfo;
use tokio::process::Command;
use vk_apiserver::{ApiServer, Config, Requests};
use vk_control_plane::ControlPlane;
use vk_core::clock::Clock;
pub use vk_testkit::cluster::NODE_USER;
use vk_testkit::{Cluster as AnyCluster, TestCluster};

use crate::rights::{Audit, NodeAccount, Refusal};

/// A cluster to run a scenario in, and a namespace of its own.
#[derive(Debug)]
pub struct World {
    cluster: Cluster,
    /// The scenario's namespace.
    pub namespace: String,
}

/// The API server behind a [`World`].
#[derive(Debug)]
pub enum Cluster {
    /// In this process, under whatever time the test runs in.
    InMemory(Box<TestCluster>),
    /// The real one, whose namespace this process runs in.
    Real(Box<Real>),
}

/// A connection to the real control plane.
pub struct Real {
    /// The plane, if it is ours to stop and start.
    pub plane: ControlPlane,
    /// The scenario's own: what the API server answers is what it sees, refusals too.
    client: kube::Client,
    /// How to reach it.
    config: kube::Config,
    identity: NodeIdentity,
    /// The users that nodes under test were, so far.
    users: Mutex<BTreeSet<String>>,
}

/// Who nodes under test are to the real API server.
#[derive(Debug)]
pub enum NodeIdentity {
    /// An administrator, who may do everything.
    Admin,
    /// A service account with the permissions of `manifests/rbac.yaml`.
    ServiceAccount(NodeAccount),
    /// `system:node:NAME` of `system:nodes`, each node its own, under the Node authorizer and NodeRestriction.
    Node,
}

impl std::fmt::Debug for Real {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Real").finish_non_exhaustive()
    }
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn unique(prefix: &str) -> String {
    let serial = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{serial}", std::process::id())
}

impl World {
    /// A fresh in-memory cluster with its scheduler and controllers.
    ///
    /// # Panics
    /// When it cannot be made; that is a broken test bed.
    pub async fn in_memory() -> Self {
        Self::in_memory_with(Config::default()).await
    }

    /// The same with settings of its own, such as a seed.
    ///
    /// # Panics
    /// When it cannot be made; that is a broken test bed.
    pub async fn in_memory_with(config: Config) -> Self {
        let cluster = Cluster::InMemory(Box::new(TestCluster::with(config).await));
        Self { cluster, namespace: "default".to_owned() }
    }

    /// The real control plane whose network namespace this process runs in, with a namespace of the
    /// scenario's own.
    ///
    /// # Panics
    /// When there is none: run it by `cargo xtask test real`.
    pub async fn real() -> Self {
        Self::real_as(async |_, _| NodeIdentity::Admin).await
    }

    /// The same, with nodes that have the permissions of `manifests/rbac.yaml` and no other.
    ///
    /// # Panics
    /// When there is none.
    pub async fn real_as_service_account() -> Self {
        // In a namespace that no scenario deletes.
        let account = async |client: &kube::Client, name: &str| {
            NodeIdentity::ServiceAccount(NodeAccount::create(client, name, "default", None).await)
        };
        Self::real_as(account).await
    }

    /// The same, with nodes that have the identity of a kubelet.
    ///
    /// # Panics
    /// When there is none.
    pub async fn real_as_node() -> Self {
        Self::real_as(async |_, _| NodeIdentity::Node).await
    }

    async fn real_as(identity: impl AsyncFnOnce(&kube::Client, &str) -> NodeIdentity) -> Self {
        // Several tests of one process install it; the first one wins and they are all the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let plane =
            ControlPlane::current().expect("cargo xtask test real runs this inside the control plane");
        let mut config = kube::Config::infer().await.expect("KUBECONFIG names the control plane");
        let nodes_config = config.clone();
        config.default_retry = false;
        let client = kube::Client::try_from(config).expect("a client");
        let name = unique("scenario");
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.clone());
        let api: Api<Namespace> = Api::all(client.clone());
        api.create(&PostParams::default(), &namespace).await.expect("a namespace for the scenario");
        let identity = identity(&client, &name).await;
        let real = Real { plane, client, config: nodes_config, identity, users: Mutex::default() };
        let world = Self { cluster: Cluster::Real(Box::new(real)), namespace: name };
        if !world.real_plane().has_controllers() {
            // Nobody else makes it, nor the ConfigMap that a token's volume would need.
            let account = ServiceAccount {
                metadata: ObjectMeta { name: Some("default".to_owned()), ..ObjectMeta::default() },
                automount_service_account_token: Some(false),
                ..ServiceAccount::default()
            };
            let accounts: Api<ServiceAccount> = world.api();
            accounts.create(&PostParams::default(), &account).await.expect("the default service account");
        }
        world.settle().await;
        world
    }

    /// Waits until pods can be created: the namespace's default service account is there.
    async fn settle(&self) {
        let accounts: Api<ServiceAccount> = self.api();
        crate::eventually("the default service account", async || {
            accounts.get("default").await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The in-memory server.
    ///
    /// # Panics
    /// On the real control plane.
    #[must_use]
    pub fn server(&self) -> &ApiServer {
        match &self.cluster {
            Cluster::InMemory(memory) => memory.server(),
            Cluster::Real(_) => panic!("this scenario needs the in-memory API server"),
        }
    }

    /// The real control plane.
    ///
    /// # Panics
    /// On the in-memory server.
    #[must_use]
    pub fn real_plane(&self) -> &ControlPlane {
        match &self.cluster {
            Cluster::InMemory(_) => panic!("this scenario needs the real control plane"),
            Cluster::Real(real) => &real.plane,
        }
    }

    /// Whether the cluster is the real one.
    #[must_use]
    pub fn is_real(&self) -> bool {
        matches!(self.cluster, Cluster::Real(_))
    }

    /// An administrator's client.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        match &self.cluster {
            Cluster::InMemory(memory) => memory.client(),
            Cluster::Real(real) => real.client.clone(),
        }
    }

    /// The client of a node under test. In memory it is [`NODE_USER`].
    ///
    /// # Panics
    /// When it cannot be made; that is a broken test bed.
    #[must_use]
    pub fn node_client(&self, node: &str) -> kube::Client {
        match &self.cluster {
            Cluster::InMemory(memory) => memory.node_client(node),
            Cluster::Real(real) => real.node_client(node),
        }
    }

    /// Whether nodes under test are `system:node:NAME`.
    #[must_use]
    pub fn has_node_identities(&self) -> bool {
        matches!(&self.cluster, Cluster::Real(real) if matches!(real.identity, NodeIdentity::Node))
    }

    /// What the API server did not allow this world's nodes, by its own audit log. Of administrators it keeps none.
    ///
    /// # Panics
    /// When there is no such log.
    #[must_use]
    pub fn refused(&self) -> Vec<Refusal> {
        let Cluster::Real(real) = &self.cluster else { return Vec::new() };
        let users = real.users.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if users.is_empty() {
            return Vec::new();
        }
        let log = real.plane.audit_log().expect("a control plane of our own");
        Audit::of(log).refused(&users.into_iter().collect::<Vec<_>>())
    }

    /// How often nodes under test have asked for what, so far.
    ///
    /// # Panics
    /// On the real control plane.
    #[must_use]
    pub fn node_calls(&self) -> Requests {
        self.server().requests().of_user(NODE_USER)
    }

    /// Objects of one kind in the scenario's namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), &self.namespace)
    }

    /// The time that goes with the cluster: paused time's, or the machine's.
    #[must_use]
    pub fn clock(&self) -> Clock {
        match &self.cluster {
            Cluster::InMemory(memory) => memory.clock(),
            Cluster::Real(_) => Clock::system(),
        }
    }

    /// Now, by [`clock`](Self::clock).
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock().now()
    }

    /// Runs kubectl in the scenario's namespace, on the real control plane, and returns what it printed.
    ///
    /// # Panics
    /// When it fails, or on the in-memory server.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        assert!(self.is_real(), "kubectl needs the real control plane");
        let output = Command::new("kubectl")
            .arg(format!("--namespace={}", self.namespace))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("kubectl starts");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {}: {complaint}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A node name that nobody has had.
    #[must_use]
    pub fn node_name(&self) -> String {
        unique("virtual")
    }

    /// Removes what the scenario made.
    ///
    /// # Panics
    /// When a node has made a call that it was not allowed to make, or when the API server refuses.
    pub async fn clean_up(self) {
        let mut refused = self.refused();
        // Between a decision and its write a pod may go and its name be given to a new one, which is not bound yet: no
        // right is missing, and what refuses the write protects the new pod. A kubelet runs into it as well.
        refused.retain(|refusal| !refusal.why.contains("for pods with spec.nodeName set to itself"));
        assert!(refused.is_empty(), "forbidden calls: {refused:#?}");
        let (client, namespace) = (self.client(), self.namespace);
        let Cluster::Real(real) = self.cluster else { return };
        if let NodeIdentity::ServiceAccount(account) = real.identity {
            account.remove(&client).await;
        }
        let api: Api<Namespace> = Api::all(client);
        api.delete(&namespace, &DeleteParams::default()).await.expect("deleting the namespace");
    }
}

impl AnyCluster for World {
    fn client(&self) -> kube::Client {
        Self::client(self)
    }
    fn namespace(&self) -> &str {
        &self.namespace
    }
    fn node_client(&self, node: &str) -> kube::Client {
        Self::node_client(self, node)
    }
    fn clock(&self) -> Clock {
        Self::clock(self)
    }
}

impl Real {
    fn node_client(&self, node: &str) -> kube::Client {
        let mut config = self.config.clone();
        let user = match &self.identity {
            NodeIdentity::Admin => None,
            NodeIdentity::ServiceAccount(account) => {
                config.auth_info = AuthInfo {
                    token_file: Some(account.token_file().display().to_string()),
                    ..AuthInfo::default()
                };
                Some(account.user.clone())
            }
            NodeIdentity::Node => {
                let pair = self.plane.node_certificate(node).expect("a certificate for the node");
                config.auth_info = AuthInfo {
                    client_certificate: Some(pair.certificate.display().to_string()),
                    client_key: Some(pair.key.display().to_string()),
                    ..AuthInfo::default()
                };
                Some(format!("system:node:{node}"))
            }
        };
        self.users.lock().unwrap_or_else(PoisonError::into_inner).extend(user);
        kube::Client::try_from(config).expect("a client")
    }
}
