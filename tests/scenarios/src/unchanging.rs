//! A provider whose backend cannot change a pod for now.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use vk_core::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, Error, Features, FieldSupport, NodeInfo, ObservedPod,
    PodEvent, PodPrepare, PodRef, PodStats, PodUpdate, PortForward, Provider, ResolvedPod, Result,
};

/// Hands everything on but updates, which fail.
#[derive(Debug)]
pub struct Unchanging(pub Arc<dyn Provider>);

#[async_trait]
impl PodUpdate for Unchanging {
    async fn update_pod(&self, _: &ResolvedPod) -> Result<()> {
        Err(Error::unavailable("nothing can be changed for now"))
    }
}

#[async_trait]
impl Provider for Unchanging {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn native(&self) -> Features {
        self.0.native()
    }
    fn fields(&self) -> &FieldSupport {
        self.0.fields()
    }
    async fn node_info(&self) -> Result<NodeInfo> {
        self.0.node_info().await
    }
    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        self.0.create_pod(pod).await
    }
    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        self.0.delete_pod(pod, grace).await
    }
    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        self.0.list_pods().await
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        Arc::clone(&self.0).watch_pods()
    }
    fn prepare(&self) -> Option<&dyn PodPrepare> {
        self.0.prepare()
    }
    fn update(&self) -> Option<&dyn PodUpdate> {
        Some(self)
    }
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        self.0.logs()
    }
    fn exec(&self) -> Option<&dyn ContainerExec> {
        self.0.exec()
    }
    fn attach(&self) -> Option<&dyn ContainerAttach> {
        self.0.attach()
    }
    fn port_forward(&self) -> Option<&dyn PortForward> {
        self.0.port_forward()
    }
    fn stats(&self) -> Option<&dyn PodStats> {
        self.0.stats()
    }
}
