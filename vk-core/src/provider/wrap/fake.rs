//! A provider for the tests of what wraps providers: it counts, and answers as told.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::time::Instant;

use crate::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, Error, Features, FieldSupport, NodeInfo, ObservedPod,
    PodEvent, PodPrepare, PodRef, PodStats, PodUpdate, PortForward, Provider, ResolvedPod, Result,
};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    /// How long creates and deletes take.
    takes: Duration,
    /// Answers to the next listings; then empty ones.
    pub(crate) listings: Mutex<VecDeque<Result<Vec<ObservedPod>>>>,
    calls: Mutex<Calls>,
}

/// What a [`Fake`] was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    /// The calls that were begun, and when.
    pub(crate) begun: Vec<(&'static str, Instant)>,
    /// Creates and deletes under way.
    under_way: usize,
    /// The most of them at once.
    pub(crate) peak: usize,
}

impl Fake {
    pub(crate) fn taking(takes: Duration) -> Self {
        Self { takes, ..Self::default() }
    }

    pub(crate) fn calls(&self) -> Calls {
        self.calls.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.calls().begun.iter().filter(|(name, _)| *name == call).count()
    }

    fn begin(&self, call: &'static str) {
        self.calls.lock().unwrap().begun.push((call, Instant::now()));
    }

    async fn work(&self, call: &'static str) {
        self.begin(call);
        {
            let mut calls = self.calls.lock().unwrap();
            calls.under_way += 1;
            calls.peak = calls.peak.max(calls.under_way);
        }
        tokio::time::sleep(self.takes).await;
        self.calls.lock().unwrap().under_way -= 1;
    }
}

/// Takes every field, and does nothing about it.
pub(crate) static ANYTHING: LazyLock<FieldSupport> =
    LazyLock::new(|| FieldSupport::of_pods("fake", Features::NONE).native("spec"));

/// A pod that refers to nothing.
pub(crate) fn pod(uid: &str) -> ResolvedPod {
    let json = serde_json::json!({
        "metadata": {"namespace": "default", "name": "web", "uid": uid},
        "spec": {"containers": [{"name": "a", "image": "web:1"}]},
    });
    ResolvedPod::literal(serde_json::from_value(json).unwrap()).unwrap()
}

#[async_trait]
impl Provider for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn native(&self) -> Features {
        Features::NONE
    }
    fn fields(&self) -> &FieldSupport {
        &ANYTHING
    }
    async fn node_info(&self) -> Result<NodeInfo> {
        self.begin("node_info");
        Err(Error::unexpected("the fake is no node"))
    }
    async fn create_pod(&self, _: &ResolvedPod) -> Result<()> {
        self.work("create").await;
        Ok(())
    }
    async fn delete_pod(&self, _: &PodRef, _: Duration) -> Result<()> {
        self.work("delete").await;
        Ok(())
    }
    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        self.begin("list");
        self.listings.lock().unwrap().pop_front().unwrap_or_else(|| Ok(Vec::new()))
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        stream::iter([Ok(PodEvent::Listed(Vec::new()))]).boxed()
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
