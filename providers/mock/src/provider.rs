//! The connection to a [`MockBackend`]: what the node is given.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use vk_core::clock::Clock;
use vk_core::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, ContainerRef, Duplex, ExecIo, ExitStatus, Feature,
    Features, FieldSupport, LogOptions, LogStream, NodeInfo, ObservedPod, PodEvent, PodPrepare, PodRef,
    PodStats, PodUpdate, PortForward, Provider, ResolvedPod, Result, Usage, Verb,
};

use crate::backend::MockBackend;
use crate::config::{ConfigError, MockConfig};
use crate::{fields, ids, logs, streams, usage, watch};

/// A node's connection to a [`MockBackend`]. Dropping it leaves the pods running.
#[derive(Debug)]
pub struct MockProvider {
    backend: MockBackend,
    node: String,
    fields: Cow<'static, FieldSupport>,
}

impl MockProvider {
    /// Connects the node of that name to a backend.
    #[must_use]
    pub fn new(backend: MockBackend, node: impl Into<String>) -> Self {
        Self { backend, node: node.into(), fields: Cow::Borrowed(fields()) }
    }

    /// The same, but it says this of the fields of pods, and so is given others.
    #[must_use]
    pub fn honouring(mut self, fields: FieldSupport) -> Self {
        self.fields = Cow::Owned(fields);
        self
    }

    /// A backend and the connection to it, for the daemon. `{node}` in the state file's path is replaced
    /// by the node's name, and the name decides where in the range pod addresses begin.
    ///
    /// # Errors
    /// As [`MockBackend::new`].
    pub fn start(mut config: MockConfig, node: &str, clock: Clock) -> Result<Self, ConfigError> {
        config.first_address = ids::hash(&[node], 7);
        if let Some(path) = &config.state_file {
            config.state_file = Some(PathBuf::from(path.to_string_lossy().replace("{node}", node)));
        }
        Ok(Self::new(MockBackend::new(config, clock)?, node))
    }

    /// The backend on the other end.
    #[must_use]
    pub fn backend(&self) -> &MockBackend {
        &self.backend
    }

    fn info(&self) -> NodeInfo {
        let config = &self.backend.0.config;
        let entry = config.nodes.get(&self.node);
        let mut info = NodeInfo::new(config.capacity_of(&self.node));
        info.operating_system.clone_from(&config.operating_system);
        info.architecture.clone_from(&config.architecture);
        info.labels.clone_from(&config.labels);
        let provider_id = entry.and_then(|entry| entry.provider_id.clone());
        info.provider_id = Some(provider_id.unwrap_or_else(|| format!("mock://{}", self.node)));
        info.os_image = String::from("Virtual Kubelet mock");
        info.kernel_version = String::from("mock");
        info.container_runtime_version = String::from(concat!("mock://", env!("CARGO_PKG_VERSION")));
        info.health = self.backend.0.health();
        info
    }
}

/// Probes and hooks are native in the sense of the play: they have the outcome that the script says.
pub(crate) fn native() -> Features {
    Features::of(&[
        Feature::Restarts,
        Feature::InitOrder,
        Feature::Sidecars,
        Feature::LivenessProbes,
        Feature::ReadinessProbes,
        Feature::StartupProbes,
        Feature::PostStart,
        Feature::PreStop,
        Feature::ActiveDeadline,
        Feature::TerminationMessages,
        Feature::Resize,
    ])
}

#[async_trait]
impl Provider for MockProvider {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn native(&self) -> Features {
        native()
    }

    fn fields(&self) -> &FieldSupport {
        &self.fields
    }

    async fn node_info(&self) -> Result<NodeInfo> {
        self.backend.call(Verb::NodeInfo, || Ok(self.info())).await
    }

    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        self.backend.call(Verb::Create, || self.backend.create(pod)).await
    }

    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        self.backend.call(Verb::Delete, || self.backend.delete(pod, grace)).await
    }

    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        self.backend.call(Verb::List, || Ok(self.backend.list())).await
    }

    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        watch::watch(self.backend.clone())
    }

    vk_core::offers!(prepare, update, logs, exec, attach, port_forward, stats);
}

#[async_trait]
impl PodPrepare for MockProvider {
    async fn prepare_pod(&self, pod: &PodRef) -> Result<Vec<IpAddr>> {
        self.backend.reserve(pod)
    }
}

#[async_trait]
impl PodUpdate for MockProvider {
    async fn update_pod(&self, pod: &ResolvedPod) -> Result<()> {
        self.backend.update(pod)
    }
}

#[async_trait]
impl ContainerLogs for MockProvider {
    async fn container_logs(&self, container: &ContainerRef, options: &LogOptions) -> Result<LogStream> {
        logs::open(&self.backend, container, options)
    }
}

#[async_trait]
impl ContainerExec for MockProvider {
    async fn exec(&self, container: &ContainerRef, command: &[String], io: ExecIo) -> Result<ExitStatus> {
        streams::exec(&self.backend, container, command, io).await
    }
}

#[async_trait]
impl ContainerAttach for MockProvider {
    async fn attach(&self, container: &ContainerRef, io: ExecIo) -> Result<ExitStatus> {
        streams::attach(&self.backend, container, io).await
    }
}

#[async_trait]
impl PortForward for MockProvider {
    async fn connect(&self, pod: &PodRef, port: u16) -> Result<Box<dyn Duplex>> {
        streams::connect(&self.backend, pod, port).map(|socket| Box::new(socket) as Box<dyn Duplex>)
    }
}

#[async_trait]
impl PodStats for MockProvider {
    async fn usage(&self) -> Result<Usage> {
        let now = self.backend.0.clock.now();
        Ok(usage::measure(&self.backend.0.state(), now))
    }
}
