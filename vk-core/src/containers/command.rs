//! Running a command in a container to see how it ends and what it says: exec probes and hooks.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;

use crate::provider::{ContainerExec, ContainerRef, Error, ExecIo, ExitStatus, Result};

/// What is kept of a command's output (`maxReadLength` of `pkg/probe/exec`).
const MOST: usize = 10 << 10;

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// What it wrote to standard output.
    pub(super) stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub(super) stderr: Vec<u8>,
    /// Both, as they came.
    pub(super) both: Vec<u8>,
}

/// Runs a command; `None` when it took longer than it may.
pub(super) async fn run(
    exec: Option<&dyn ContainerExec>,
    container: &ContainerRef,
    command: &[String],
    within: Duration,
) -> Result<Option<Ended>> {
    let Some(exec) = exec else {
        return Err(Error::rejected("exec", "this backend cannot run commands in containers"));
    };
    let output = Arc::<Mutex<Output>>::default();
    let writer = |error| Box::new(Capture { error, output: Arc::clone(&output) });
    let io = ExecIo::Pipes { stdin: None, stdout: Some(writer(false)), stderr: Some(writer(true)) };
    // Dropped when time is up, which ends the command.
    let Ok(status) = tokio::time::timeout(within, exec.exec(container, command, io)).await else {
        return Ok(None);
    };
    let status = status?;
    let Output { stdout, stderr, both } =
        std::mem::take(&mut *output.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Some(Ended { status, stdout, stderr, both }))
}

#[derive(Debug, Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    both: Vec<u8>,
}

/// Takes everything and keeps the beginning.
#[derive(Debug)]
struct Capture {
    error: bool,
    output: Arc<Mutex<Output>>,
}

impl AsyncWrite for Capture {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = |kept: &mut Vec<u8>| {
            let room = MOST.saturating_sub(kept.len()).min(bytes.len());
            kept.extend_from_slice(&bytes[..room]);
        };
        keep(if self.error { &mut output.stderr } else { &mut output.stdout });
        keep(&mut output.both);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
