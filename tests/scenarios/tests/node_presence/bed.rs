//! A cluster, a backend, and what a daemon is made of as far as its node is concerned.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use vk_apiserver::ApiServer;
use vk_core::clock::Clock;
use vk_core::config::NodeConfig;
use vk_core::internals::{
    Heartbeat, LeaseHandle, LeaseKeeper, LeaseStatus, NodeContext, NodeReason, Recorded, Recorder,
    ensure_registered,
};
use vk_core::node::{HeartbeatError, Instance, LeaseRuntime, RegisterError};
use vk_core::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, Error, Features, FieldSupport, NodeInfo, ObservedPod,
    PodEvent, PodPrepare, PodRef, PodStats, PodUpdate, PortForward, Provider, ResolvedPod, Result,
};

pub(crate) const NAME: &str = "virtual-1";

/// What the backend answers when it is asked about the node.
#[derive(Debug)]
pub(crate) enum Answer {
    Info(Box<NodeInfo>),
    Down,
    Never,
}

/// A backend of which only the node is of interest.
#[derive(Debug)]
pub(crate) struct Backend(Mutex<Answer>);

impl Backend {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Answer::Info(Box::new(info())))))
    }

    pub(crate) fn set(&self, answer: Answer) {
        *self.0.lock().unwrap() = answer;
    }
}

pub(crate) fn info() -> NodeInfo {
    let amounts = [("cpu", "4"), ("memory", "8Gi"), ("pods", "20")];
    NodeInfo::new(amounts.into_iter().map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).collect())
}

#[async_trait]
impl Provider for Backend {
    fn name(&self) -> &'static str {
        "mock"
    }
    fn native(&self) -> Features {
        Features::NONE
    }
    fn fields(&self) -> &FieldSupport {
        static NOTHING: LazyLock<FieldSupport> =
            LazyLock::new(|| FieldSupport::of_pods("mock", Features::NONE));
        &NOTHING
    }
    async fn node_info(&self) -> Result<NodeInfo> {
        let answer = match &*self.0.lock().unwrap() {
            Answer::Info(info) => Some(Ok((**info).clone())),
            Answer::Down => Some(Err(Error::unavailable("connection refused"))),
            Answer::Never => None,
        };
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
    async fn create_pod(&self, _: &ResolvedPod) -> Result<()> {
        Ok(())
    }
    async fn delete_pod(&self, _: &PodRef, _: Duration) -> Result<()> {
        Ok(())
    }
    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        Ok(Vec::new())
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        futures::stream::pending().boxed()
    }
    fn prepare(&self) -> Option<&dyn PodPrepare> {
        None
    }
    fn update(&self) -> Option<&dyn PodUpdate> {
        None
    }
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        None
    }
    fn exec(&self) -> Option<&dyn ContainerExec> {
        None
    }
    fn attach(&self) -> Option<&dyn ContainerAttach> {
        None
    }
    fn port_forward(&self) -> Option<&dyn PortForward> {
        None
    }
    fn stats(&self) -> Option<&dyn PodStats> {
        None
    }
}

/// A cluster and a backend, and what a daemon is made of.
pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) backend: Arc<Backend>,
    pub(crate) recorder: Recorder,
    pub(crate) clock: Clock,
}

/// A running daemon, as far as its node is concerned.
pub(crate) struct Daemon {
    pub(crate) synced: watch::Sender<bool>,
    pub(crate) lease: Option<LeaseHandle>,
    pub(crate) lease_status: watch::Receiver<LeaseStatus>,
    pub(crate) drain: CancellationToken,
    pub(crate) heartbeat: JoinHandle<Result<(), HeartbeatError>>,
}

impl Daemon {
    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.heartbeat.abort();
        drop(self.lease.take());
    }

    pub(crate) async fn shut_down(mut self) {
        self.drain.cancel();
        self.heartbeat.await.unwrap().unwrap();
        self.lease.take().unwrap().stop().await;
    }
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let base: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let server = ApiServer::with(vk_apiserver::Config { now: Some(base), ..Default::default() }).unwrap();
        Self {
            server,
            backend: Backend::new(),
            recorder: Recorder::recording(),
            clock: Clock::virtual_from(base),
        }
    }

    pub(crate) fn context(&self, instance: &str) -> NodeContext {
        self.context_with(instance, NodeConfig::new(NAME).with_address("192.0.2.10".parse().unwrap()))
    }

    pub(crate) fn context_with(&self, instance: &str, config: NodeConfig) -> NodeContext {
        let mut context = NodeContext::new(self.server.client(), config, self.backend.clone());
        context.recorder = self.recorder.clone();
        context.clock = self.clock.clone();
        context.instance = Instance::named(instance);
        context
    }

    pub(crate) async fn start(&self, instance: &str) -> std::result::Result<Daemon, RegisterError> {
        self.start_with(self.context(instance)).await
    }

    pub(crate) async fn start_with(
        &self,
        context: NodeContext,
    ) -> std::result::Result<Daemon, RegisterError> {
        let registered = ensure_registered(&context).await?;
        let lease = LeaseKeeper::new(&registered).spawn(&LeaseRuntime::current(context.client.clone()));
        let (synced, synced_receiver) = watch::channel(false);
        let heartbeat = Heartbeat::new(registered, synced_receiver, lease.status());
        let drain = CancellationToken::new();
        let heartbeat = tokio::spawn(heartbeat.run(drain.clone()));
        Ok(Daemon { synced, lease_status: lease.status(), lease: Some(lease), drain, heartbeat })
    }

    /// A daemon whose node is ready.
    pub(crate) async fn ready(&self, instance: &str) -> Daemon {
        let daemon = self.start(instance).await.unwrap();
        daemon.synced.send_replace(true);
        self.until("the node is ready", |node| ready(node).0 == "True").await;
        daemon
    }

    pub(crate) fn nodes(&self) -> Api<Node> {
        Api::all(self.server.client())
    }

    pub(crate) fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.server.client(), "kube-node-lease")
    }

    pub(crate) fn node(&self) -> Value {
        self.server.object("nodes", "", NAME).unwrap_or_default()
    }

    pub(crate) fn lease(&self) -> Value {
        self.server.object("leases", "kube-node-lease", NAME).unwrap_or_default()
    }

    /// Waits, two minutes of paused time at most, until the Node object is so.
    pub(crate) async fn until(&self, what: &str, so: impl Fn(&Value) -> bool) {
        let started = Instant::now();
        while !so(&self.node()) {
            assert!(started.elapsed() < Duration::from_mins(2), "never: {what}: {:#}", self.node());
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) async fn patch_node(&self, patch: Value) {
        self.nodes().patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub(crate) fn node_events(&self) -> Vec<NodeReason> {
        let reason = |event| match event {
            Recorded::Node { reason, .. } => Some(reason),
            Recorded::Pod(..) => None,
        };
        self.recorder.recorded().into_iter().filter_map(reason).collect()
    }
}

/// Status, reason and transition time of `Ready`.
pub(crate) fn ready(node: &Value) -> (String, String, String) {
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default();
    let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("lastTransitionTime"))
}
