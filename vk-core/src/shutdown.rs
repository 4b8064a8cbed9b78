//! How a node is told to stop.

use tokio_util::sync::CancellationToken;

/// Two wishes: to drain, and then to stop at once. Clones share them.
///
/// The daemon turns its first signal into [`drain`](Self::drain) and its second into
/// [`abort`](Self::abort); an embedder calls them as it likes.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Shutdown {
    /// Nothing is wished yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the node to become NotReady, close its streams, write its last statuses and end. Pods go on at
    /// the backend unless the node's configuration says otherwise.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Asks the node to end now. What was under way is found again by the next start.
    pub fn abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    /// Waits for the wish to drain, or to end.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits for the wish to end now.
    pub async fn aborted(&self) {
        self.abort.cancelled().await;
    }

    /// Whether a drain or an end is wished.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }
}
