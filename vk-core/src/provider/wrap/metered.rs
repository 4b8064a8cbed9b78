//! A provider whose calls are counted.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::time::Instant;

use crate::metrics::{Metrics, ProviderMetrics};
use crate::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, Features, FieldSupport, NodeInfo, ObservedPod, PodEvent,
    PodPrepare, PodRef, PodStats, PodUpdate, PortForward, Provider, ResolvedPod, Result, Usage,
};

/// Counts calls by operation and outcome, and times them. Streams (the watch, exec, attach, port-forward) have no
/// outcome of their own and are handed on uncounted; so are logs, which are counted as streams.
#[derive(Debug)]
pub(crate) struct Metered {
    inner: Arc<dyn Provider>,
    metrics: Metrics,
}

impl Metered {
    pub(crate) fn new(inner: Arc<dyn Provider>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    async fn count<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let mut call_under_way = UnderWay::begin(self.metrics.provider(), operation);
        let answer = call.await;
        call_under_way.outcome = answer.as_ref().map_or_else(crate::provider::Error::reason, |_| "ok");
        answer
    }
}

/// What a node puts around every provider; for the conformance suite, which judges it beside the other decorators.
#[doc(hidden)]
pub fn metered(inner: Arc<dyn Provider>, metrics: Metrics) -> Arc<dyn Provider> {
    Arc::new(Metered::new(inner, metrics))
}

/// A call, which is over when this is dropped.
struct UnderWay<'a> {
    metrics: &'a ProviderMetrics,
    operation: &'static str,
    began: Instant,
    outcome: &'static str,
}

impl<'a> UnderWay<'a> {
    fn begin(metrics: &'a ProviderMetrics, operation: &'static str) -> Self {
        metrics.begin(operation);
        Self { metrics, operation, began: Instant::now(), outcome: "dropped" }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.metrics.end(self.operation, self.outcome, self.began.elapsed());
    }
}

#[async_trait]
impl Provider for Metered {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn native(&self) -> Features {
        self.inner.native()
    }
    fn fields(&self) -> &FieldSupport {
        self.inner.fields()
    }
    async fn node_info(&self) -> Result<NodeInfo> {
        self.count("node-info", self.inner.node_info()).await
    }
    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        self.count("create-pod", self.inner.create_pod(pod)).await
    }
    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        self.count("delete-pod", self.inner.delete_pod(pod, grace)).await
    }
    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        self.count("list-pods", self.inner.list_pods()).await
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        Arc::clone(&self.inner).watch_pods()
    }
    fn prepare(&self) -> Option<&dyn PodPrepare> {
        self.inner.prepare().is_some().then_some(self)
    }
    fn update(&self) -> Option<&dyn PodUpdate> {
        self.inner.update().is_some().then_some(self)
    }
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        self.inner.logs()
    }
    fn exec(&self) -> Option<&dyn ContainerExec> {
        self.inner.exec()
    }
    fn attach(&self) -> Option<&dyn ContainerAttach> {
        self.inner.attach()
    }
    fn port_forward(&self) -> Option<&dyn PortForward> {
        self.inner.port_forward()
    }
    fn stats(&self) -> Option<&dyn PodStats> {
        self.inner.stats().is_some().then_some(self)
    }
}

/// What is asked of a capability only after it was seen to be there.
fn lost() -> crate::provider::Error {
    crate::provider::Error::unexpected("the provider has lost a capability")
}

#[async_trait]
impl PodPrepare for Metered {
    async fn prepare_pod(&self, pod: &PodRef) -> Result<Vec<std::net::IpAddr>> {
        let capability = self.inner.prepare().ok_or_else(lost)?;
        self.count("prepare-pod", capability.prepare_pod(pod)).await
    }
}

#[async_trait]
impl PodUpdate for Metered {
    async fn update_pod(&self, pod: &ResolvedPod) -> Result<()> {
        let capability = self.inner.update().ok_or_else(lost)?;
        self.count("update-pod", capability.update_pod(pod)).await
    }
}

#[async_trait]
impl PodStats for Metered {
    async fn usage(&self) -> Result<Usage> {
        let capability = self.inner.stats().ok_or_else(lost)?;
        self.count("usage", capability.usage()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Error;
    use crate::provider::wrap::fake::{Fake, pod};

    #[tokio::test(start_paused = true)]
    async fn calls_are_counted_by_outcome_and_those_that_were_dropped_as_well() {
        let fake = Arc::new(Fake::taking(Duration::from_secs(2)));
        fake.listings.lock().unwrap().push_back(Err(Error::unavailable("away")));
        let metrics = Metrics::new("node-1");
        let metered = Metered::new(fake, metrics.clone());
        metered.create_pod(&pod("u1")).await.unwrap();
        let dropped = tokio::time::timeout(Duration::from_secs(1), metered.create_pod(&pod("u2"))).await;
        assert!(dropped.is_err() && metered.list_pods().await.is_err());
        let text = metrics.text();
        for line in [
            "vk_provider_calls_total{operation=\"create-pod\",outcome=\"ok\"} 1",
            "vk_provider_calls_total{operation=\"create-pod\",outcome=\"dropped\"} 1",
            "vk_provider_calls_total{operation=\"list-pods\",outcome=\"ProviderUnavailable\"} 1",
            "vk_provider_calls_open{operation=\"create-pod\"} 0",
            "vk_provider_call_duration_seconds_sum{operation=\"create-pod\"} 3.0",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        assert!(metered.stats().is_none(), "what is not there is not made up");
    }
}
