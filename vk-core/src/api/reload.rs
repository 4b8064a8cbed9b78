//! When to look again at what lies outside: now and then, and when told to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(10);

/// A turn that comes by itself, and at once when told. Clones are told together.
#[derive(Clone, Debug, Default)]
pub(super) struct Reload(Arc<Notify>);

impl Reload {
    /// Makes this the turn. One that comes while its follower is at work counts.
    pub(super) fn now(&self) {
        self.0.notify_one();
    }

    /// Waits for the next turn.
    pub(super) async fn wait(&self) {
        // Cancel-safe: both arms only wait.
        tokio::select! {
            () = self.0.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
