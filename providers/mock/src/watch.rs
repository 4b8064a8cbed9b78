//! A watcher's stream: a listing, then every change; a fresh listing after every gap.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::broadcast::{self, error::RecvError};
use vk_core::provider::{Error, PodEvent, Result, Verb};

use crate::backend::MockBackend;

/// How long a watch that could not be begun waits before it tries again.
const RETRY: Duration = Duration::from_secs(1);

/// What the backend tells its watchers.
#[derive(Clone, Debug)]
pub(crate) enum Signal {
    /// Something happened to a pod.
    Event(Arc<PodEvent>),
    /// The connection is lost.
    Cut,
}

/// Where a watch stands.
#[derive(Debug)]
enum Watch {
    /// A listing is to come next.
    Begin,
    /// As [`Begin`](Self::Begin), after a failure.
    Retry,
    /// Changes are coming in.
    Follow(broadcast::Receiver<Signal>),
}

/// Watches the backend's pods.
pub(crate) fn watch(backend: MockBackend) -> BoxStream<'static, Result<PodEvent>> {
    stream::unfold((backend, Watch::Begin), |(backend, watch)| async move {
        let (item, watch) = next(&backend, watch).await;
        item.map(|item| (item, (backend, watch)))
    })
    .boxed()
}

async fn next(backend: &MockBackend, watch: Watch) -> (Option<Result<PodEvent>>, Watch) {
    let mut events = match watch {
        Watch::Follow(events) => events,
        Watch::Begin => return begin(backend).await,
        Watch::Retry => {
            tokio::time::sleep(RETRY).await;
            return begin(backend).await;
        }
    };
    match events.recv().await {
        Ok(Signal::Event(event)) => (Some(Ok(Arc::unwrap_or_clone(event))), Watch::Follow(events)),
        Ok(Signal::Cut) => (Some(Err(Error::unavailable("the watch was cut"))), Watch::Begin),
        // Too slow for the buffer: what was lost is in the listing.
        Err(RecvError::Lagged(_)) => begin(backend).await,
        // The backend holds the sender, and this stream the backend.
        Err(RecvError::Closed) => (None, Watch::Begin),
    }
}

async fn begin(backend: &MockBackend) -> (Option<Result<PodEvent>>, Watch) {
    match backend.call(Verb::List, || Ok(backend.subscribe())).await {
        Ok((pods, events)) => (Some(Ok(PodEvent::Listed(pods))), Watch::Follow(events)),
        Err(error) => (Some(Err(error)), Watch::Retry),
    }
}
