//! SIGINT and SIGTERM: the first drains, the second ends. SIGHUP reads the configuration again.

use std::cell::Cell;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use vk_core::Shutdown;

use crate::fault::Fault;

/// How long the process has to end by itself after the second signal.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// The signals of this process. From its making on they no longer kill it.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// SIGHUP. From its making on it no longer kills the process.
#[derive(Debug)]
pub(crate) struct Hangup(Signal);

impl Hangup {
    /// Takes the signal over.
    pub(crate) fn take() -> Result<Self, Fault> {
        take(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }
}

fn take(kind: SignalKind) -> Result<Signal, Fault> {
    signal(kind).map_err(|error| Fault::new("cannot handle signals", "in this process", error.to_string()))
}

impl Signals {
    /// Takes the signals over.
    pub(crate) fn take() -> Result<Self, Fault> {
        Ok(Self { interrupt: take(SignalKind::interrupt())?, terminate: take(SignalKind::terminate())? })
    }

    /// The next signal: its name, and the exit code of a process that it ended.
    pub(crate) async fn next(&mut self) -> (&'static str, u8) {
        // Cancel-safe: a signal that was not received stays pending.
        tokio::select! {
            _ = self.interrupt.recv() => ("SIGINT", 130),
            _ = self.terminate.recv() => ("SIGTERM", 143),
        }
    }

    /// Turns signals into wishes. The second one also leaves the exit code in `code`; comes back only when the
    /// process still runs some time after it.
    pub(crate) async fn steer(mut self, shutdown: Shutdown, code: &Cell<Option<u8>>) {
        let (name, _) = self.next().await;
        tracing::info!("{name}: draining; once more ends at once");
        shutdown.drain();
        let (name, exit_code) = self.next().await;
        tracing::warn!("{name}: ending at once");
        code.set(Some(exit_code));
        shutdown.abort();
        tokio::time::sleep(LAST_CHANCE).await;
    }
}
