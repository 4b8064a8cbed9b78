//! A provider that takes its time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::time::sleep;

use crate::provider::{NodeInfo, ObservedPod, PodEvent, PodRef, Provider, ResolvedPod, Result};

/// How long each call of a [`Delayed`] provider waits before it is passed on. Zero by default. The
/// capabilities' calls and the watch are passed on at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// Before `node_info`.
    pub node_info: Duration,
    /// Before `create_pod`.
    pub create: Duration,
    /// Before `delete_pod`.
    pub delete: Duration,
    /// Before `list_pods`.
    pub list: Duration,
}

/// Waits before each call, whether it will succeed or not. For tests of slow backends.
#[derive(Debug)]
pub struct Delayed {
    inner: Arc<dyn Provider>,
    delays: Delays,
}

impl Delayed {
    /// Slows a provider down.
    #[must_use]
    pub fn new(inner: Arc<dyn Provider>, delays: Delays) -> Self {
        Self { inner, delays }
    }
}

#[async_trait]
impl Provider for Delayed {
    async fn node_info(&self) -> Result<NodeInfo> {
        sleep(self.delays.node_info).await;
        self.inner.node_info().await
    }
    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        sleep(self.delays.create).await;
        self.inner.create_pod(pod).await
    }
    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        sleep(self.delays.delete).await;
        self.inner.delete_pod(pod, grace).await
    }
    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        sleep(self.delays.list).await;
        self.inner.list_pods().await
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        Arc::clone(&self.inner).watch_pods()
    }
    crate::forward_capabilities!(inner);
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::provider::wrap::fake::{Fake, pod};

    #[tokio::test(start_paused = true)]
    async fn each_call_waits_its_own_time_before_it_is_passed_on() {
        let seconds = Duration::from_secs;
        let fake = Arc::new(Fake::default());
        let inner: Arc<dyn Provider> = Arc::clone(&fake) as Arc<dyn Provider>;
        let delays =
            Delays { node_info: seconds(1), create: seconds(2), delete: seconds(3), list: seconds(4) };
        let delayed = Delayed::new(inner, delays);
        let begin = Instant::now();
        delayed.node_info().await.unwrap_err();
        delayed.create_pod(&pod("u1")).await.unwrap();
        delayed.delete_pod(&pod("u1").pod, Duration::ZERO).await.unwrap();
        delayed.list_pods().await.unwrap();
        let begun: Vec<_> =
            fake.calls().begun.iter().map(|(call, at)| (*call, (*at - begin).as_secs())).collect();
        assert_eq!(begun, [("node_info", 1), ("create", 3), ("delete", 6), ("list", 10)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_dropped_while_it_waits_has_no_effect() {
        let fake = Arc::new(Fake::default());
        let inner: Arc<dyn Provider> = Arc::clone(&fake) as Arc<dyn Provider>;
        let delays = Delays { create: Duration::from_secs(2), ..Delays::default() };
        let delayed = Delayed::new(inner, delays);
        let pod = pod("u1");
        assert!(tokio::time::timeout(Duration::from_secs(1), delayed.create_pod(&pod)).await.is_err());
        sleep(Duration::from_secs(5)).await;
        assert_eq!(fake.count("create"), 0);
    }
}
