//! When a connection last carried something.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gone {
    /// The client closed it, or said that it will.
    #[error("closed by the client")]
    Closed,
    /// It carried nothing for too long.
    #[error("idle for too long")]
    Idle,
    /// It broke, or the client broke the protocol.
    #[error("{0}")]
    Broken(String),
}

impl Gone {
    pub(super) fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Notes that something was carried.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    last: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    pub(super) fn note(&self) {
        let millis = self.start.elapsed().as_millis();
        self.last.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Waits until nothing has been carried for so long.
    pub(super) async fn idle_for(&self, limit: Duration) -> Gone {
        loop {
            let last = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed));
            if last.elapsed() >= limit {
                return Gone::Idle;
            }
            tokio::time::sleep_until(last + limit).await;
        }
    }
}
