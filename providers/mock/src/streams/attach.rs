//! The main process: its log goes on, and it repeats what it is told.

use futures::StreamExt as _;
use vk_core::provider::{ContainerRef, ExecIo, ExitStatus, LogOptions, LogOutput, Result};

use super::io::Io;
use crate::backend::MockBackend;
use crate::logs;

/// Shows new lines of the log until the container ends.
pub(super) async fn attach(
    backend: &MockBackend,
    container: &ContainerRef,
    io: ExecIo,
) -> Result<ExitStatus> {
    let options = LogOptions { follow: true, tail: Some(0), ..LogOptions::default() };
    let mut log = logs::open(backend, container, &options)?;
    let mut io = Io::new(io);
    let mut input = true;
    loop {
        tokio::select! {
            entry = log.next() => {
                let Some(entry) = entry else { return Ok(ExitStatus::Unknown) };
                let entry = entry?;
                let written = match entry.output {
                    LogOutput::Stdout => io.out(&entry.line).await,
                    LogOutput::Stderr => io.err(&entry.line).await,
                };
                if written.is_err() {
                    return Ok(ExitStatus::Unknown);
                }
            }
            read = io.read(), if input => match read {
                Ok(bytes) if !bytes.is_empty() => {
                    if io.out(&bytes).await.is_err() {
                        return Ok(ExitStatus::Unknown);
                    }
                }
                _ => input = false,
            },
        }
    }
}
