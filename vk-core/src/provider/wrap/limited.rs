//! A provider with a bound on how much is asked of it at once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::provider::{Error, NodeInfo, ObservedPod, PodEvent, PodRef, Provider, ResolvedPod, Result};

/// How many calls of each kind a [`Limited`] provider lets through at once. A call beyond the limit waits
/// for its turn, in order, and the wait is part of the call: a node drops it after its
/// [`provider_timeout`](crate::config::NodeConfig::provider_timeout). `list_pods`, `node_info`, the watch and the
/// capabilities, updates among them, are not limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `create_pod` calls under way. Default 16.
    pub creates: usize,
    /// `delete_pod` calls under way, apart from creates, so that freeing never waits for starting.
    /// Default 16.
    pub deletes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { creates: 16, deletes: 16 }
    }
}

/// Bounds the number of creations and deletions under way. A node does so by itself, without the wait counting as
/// part of the call: [`provider_calls`](crate::config::NodeConfig::provider_calls).
#[derive(Debug)]
pub struct Limited {
    inner: Arc<dyn Provider>,
    creates: Semaphore,
    deletes: Semaphore,
}

impl Limited {
    /// Puts bounds around a provider. A limit of zero is taken as one.
    #[must_use]
    pub fn new(inner: Arc<dyn Provider>, limits: Limits) -> Self {
        Self {
            inner,
            creates: Semaphore::new(limits.creates.max(1)),
            deletes: Semaphore::new(limits.deletes.max(1)),
        }
    }
}

async fn turn(semaphore: &Semaphore) -> Result<SemaphorePermit<'_>> {
    semaphore.acquire().await.map_err(|_| Error::unavailable("the provider is shutting down"))
}

#[async_trait]
impl Provider for Limited {
    async fn node_info(&self) -> Result<NodeInfo> {
        self.inner.node_info().await
    }
    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        let _turn = turn(&self.creates).await?;
        self.inner.create_pod(pod).await
    }
    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        let _turn = turn(&self.deletes).await?;
        self.inner.delete_pod(pod, grace).await
    }
    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        self.inner.list_pods().await
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        Arc::clone(&self.inner).watch_pods()
    }
    crate::forward_capabilities!(inner);
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::time::Instant;

    use super::*;
    use crate::provider::wrap::fake::{Fake, pod};

    const ONE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_are_under_way_and_all_get_their_turn() {
        let fake = Arc::new(Fake::taking(ONE));
        let inner: Arc<dyn Provider> = Arc::clone(&fake) as Arc<dyn Provider>;
        let limited = Limited::new(inner, Limits { creates: 3, deletes: 16 });
        let pods: Vec<_> = (0..9).map(|n| pod(&n.to_string())).collect();
        let begin = Instant::now();
        let answers = join_all(pods.iter().map(|pod| limited.create_pod(pod))).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!((fake.calls().peak, fake.count("create")), (3, 9));
        assert_eq!(begin.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn deletes_do_not_wait_for_creates() {
        let fake = Arc::new(Fake::taking(ONE));
        let limited = Limited::new(fake, Limits { creates: 1, deletes: 1 });
        let pod = pod("u1");
        let creates = join_all((0..5).map(|_| limited.create_pod(&pod)));
        let delete = async {
            limited.delete_pod(&pod.pod, Duration::ZERO).await.unwrap();
            Instant::now()
        };
        let begin = Instant::now();
        let (_, deleted) = tokio::join!(creates, delete);
        assert_eq!(deleted - begin, ONE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_gives_its_turn_back() {
        let limited = Limited::new(Arc::new(Fake::taking(ONE)), Limits { creates: 0, deletes: 1 });
        let pod = pod("u1");
        assert!(tokio::time::timeout(ONE / 2, limited.create_pod(&pod)).await.is_err());
        tokio::time::timeout(ONE * 2, limited.create_pod(&pod)).await.unwrap().unwrap();
    }
}
