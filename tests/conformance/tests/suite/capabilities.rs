//! A provider with one mistake: its capabilities.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use vk_conformance::journal::MAIN;
use vk_conformance::pods::CANARY;
use vk_core::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, ContainerRef, Duplex, Error, ExecIo, ExitStatus, LogEntry,
    LogOptions, LogOutput, LogStart, LogStream, PodPrepare, PodRef, PodStats, PodUpdate, PortForward, Reader,
    ResolvedPod, Result, Usage,
};

use crate::bug::Bug;
use crate::buggy::Buggy;

/// What only mistakes ask of a provider whose capabilities are all there.
fn lost() -> Error {
    Error::unexpected("the mock has every capability")
}

#[async_trait]
impl PodPrepare for Buggy {
    async fn prepare_pod(&self, pod: &PodRef) -> Result<Vec<IpAddr>> {
        let own = self.inner.prepare().ok_or_else(lost)?.prepare_pod(pod).await?;
        let n = pod.uid.as_str().bytes().map(u32::from).fold(7_u32, |n, byte| n.wrapping_mul(31) ^ byte);
        let other = |n: u32| vec![IpAddr::V4(Ipv4Addr::from((172 << 24) | (n & 0x00ff_ffff)))];
        Ok(match self.bug {
            Bug::PreparesAnew => {
                let mut memory = self.lock();
                memory.calls += 1;
                if memory.calls > 1 { other(memory.calls) } else { own }
            }
            Bug::BreaksItsPromise => other(n),
            // As one that looks which address is free, and keeps none for anybody.
            Bug::PromisesTheNextFree => {
                let mut memory = self.lock();
                let (first, promised) = memory.promised.get_or_insert_with(|| (pod.uid.clone(), own.clone()));
                if self.backend.observe(first).is_none() { promised.clone() } else { own }
            }
            _ => own,
        })
    }
}

#[async_trait]
impl PodUpdate for Buggy {
    async fn update_pod(&self, pod: &ResolvedPod) -> Result<()> {
        let adds = pod.object.spec.as_ref().is_some_and(|spec| spec.ephemeral_containers.is_some());
        if self.is(Bug::AddsNothing) && adds {
            return Ok(());
        }
        let updated = self.inner.update().ok_or_else(lost)?.update_pod(pod).await;
        match self.bug {
            Bug::UpdatesNobody => Ok(()),
            Bug::UpdateRestarts if updated.is_ok() => {
                self.inner.delete_pod(&pod.pod, Duration::ZERO).await?;
                self.inner.create_pod(pod).await
            }
            _ => updated,
        }
    }
}

#[async_trait]
impl ContainerLogs for Buggy {
    async fn container_logs(&self, container: &ContainerRef, options: &LogOptions) -> Result<LogStream> {
        let logs = self.inner.logs().ok_or_else(lost)?;
        let mut options = options.clone();
        let plain = options == LogOptions::default();
        let observed = self.backend.observe(&container.pod.uid);
        let runs =
            observed.and_then(|pod| pod.runtime).is_some_and(|r| vk_conformance::journal::is_running(&r));
        let followed = options.follow;
        match self.bug {
            Bug::LogNeverEnds => options.follow = true,
            Bug::LogIgnoresTail => options.tail = None,
            Bug::LogIgnoresStart if matches!(options.start, Some(LogStart::At(_))) => options.start = None,
            Bug::LogIgnoresAges if matches!(options.start, Some(LogStart::Ago(_))) => options.start = None,
            Bug::LogIgnoresFollow => options.follow = false,
            Bug::LogEndsWithTheRun if !runs => return Err(Error::not_found("the log")),
            _ => {}
        }
        let opened = logs.container_logs(container, &options).await;
        let missing = matches!(opened, Err(Error::NotFound { .. }));
        match self.bug {
            Bug::LogIsAllErrors => {
                let on_errors = |entry: Result<LogEntry>| {
                    entry.map(|entry| LogEntry { output: LogOutput::Stderr, ..entry })
                };
                Ok(opened?.map(on_errors).boxed())
            }
            Bug::LogLacksALine if plain => Ok(opened?.skip(1).boxed()),
            Bug::FollowedLogNeverEnds if followed => Ok(opened?.chain(stream::pending()).boxed()),
            Bug::PreviousIsPresent if options.previous && opened.is_ok() => {
                logs.container_logs(container, &LogOptions { previous: false, ..options }).await
            }
            Bug::PreviousIsEmpty if options.previous && missing => Ok(stream::empty().boxed()),
            Bug::LogOfNobodyIsEmpty if !options.previous && missing => Ok(stream::empty().boxed()),
            _ => opened,
        }
    }
}

#[async_trait]
impl ContainerExec for Buggy {
    async fn exec(&self, container: &ContainerRef, command: &[String], io: ExecIo) -> Result<ExitStatus> {
        let exec = self.inner.exec().ok_or_else(lost)?;
        let mut command = command.to_vec();
        if self.is(Bug::ExecSplitsArguments) {
            for word in &mut command {
                *word = word.split_whitespace().collect::<Vec<_>>().join(" ");
            }
        }
        if self.is(Bug::ExecHasNoEnvironment) {
            for word in &mut command {
                *word = word.replace(&format!("${CANARY}"), "");
            }
        }
        if self.is(Bug::DroppedExecGoesOn) {
            let (inner, container) = (Arc::clone(&self.inner), container.clone());
            let run = tokio::spawn(async move {
                let exec = inner.exec().ok_or_else(lost)?;
                exec.exec(&container, &command, io).await
            });
            return run.await.map_err(|_| lost())?;
        }
        let io = match (io, self.bug) {
            (ExecIo::Pipes { stdin: Some(_), stdout, stderr }, Bug::ExecLosesInput) => {
                ExecIo::Pipes { stdin: Some(Box::new(tokio::io::empty())), stdout, stderr }
            }
            (ExecIo::Pipes { stdin: Some(stdin), stdout, stderr }, Bug::ExecNeverEndsInput) => {
                let stdin: Reader = Box::new(stdin.chain(Never));
                ExecIo::Pipes { stdin: Some(stdin), stdout, stderr }
            }
            (ExecIo::Pipes { stdin, stdout: Some(stdout), stderr: Some(_) }, Bug::ExecMergesOutputs) => {
                // What both would print comes on one, as from a terminal.
                let (mut ours, theirs) = tokio::io::duplex(1 << 16);
                let (mut errors, stderr) = tokio::io::duplex(1 << 16);
                let io =
                    ExecIo::Pipes { stdin, stdout: Some(Box::new(theirs)), stderr: Some(Box::new(stderr)) };
                let mut stdout = stdout;
                let merge = async move {
                    let _ = tokio::io::copy(&mut ours, &mut stdout).await;
                    let _ = tokio::io::copy(&mut errors, &mut stdout).await;
                };
                let (ended, ()) = futures::future::join(exec.exec(container, &command, io), merge).await;
                return ended;
            }
            (
                ExecIo::Pipes { stdin, stdout: Some(mut stdout), stderr: Some(mut stderr) },
                Bug::ExecLosesOutput,
            ) => {
                // Of a command that prints on both, what it printed on the first is lost.
                let (mut ours, theirs) = tokio::io::duplex(1 << 16);
                let (mut errors, theirs_too) = tokio::io::duplex(1 << 16);
                let io = ExecIo::Pipes {
                    stdin,
                    stdout: Some(Box::new(theirs)),
                    stderr: Some(Box::new(theirs_too)),
                };
                let pass = async move {
                    let (mut out, mut err) = (Vec::new(), Vec::new());
                    let _ = ours.read_to_end(&mut out).await;
                    let _ = errors.read_to_end(&mut err).await;
                    if err.is_empty() {
                        let _ = stdout.write_all(&out).await;
                    }
                    let _ = stderr.write_all(&err).await;
                };
                let (ended, ()) = futures::future::join(exec.exec(container, &command, io), pass).await;
                return ended;
            }
            (io, _) => io,
        };
        let ended = exec.exec(container, &command, io).await;
        match (self.bug, ended) {
            (Bug::ExecAlwaysSucceeds, Ok(_)) | (Bug::ExecInNobodySucceeds, Err(Error::NotFound { .. })) => {
                Ok(ExitStatus::Code(0))
            }
            (Bug::ExecOutlivesItsContainer, Ok(ExitStatus::Code(137))) => std::future::pending().await,
            (_, ended) => ended,
        }
    }
}

/// Kills a container when it is dropped.
struct Kills<'a>(&'a Buggy, &'a ContainerRef);

impl Drop for Kills<'_> {
    fn drop(&mut self) {
        let _ = self.0.backend.exit(&self.1.pod.uid, MAIN, 0);
    }
}

#[async_trait]
impl ContainerAttach for Buggy {
    async fn attach(&self, container: &ContainerRef, io: ExecIo) -> Result<ExitStatus> {
        let attach = self.inner.attach().ok_or_else(lost)?;
        let io = match (io, self.bug) {
            (ExecIo::Pipes { stdin: Some(_), stdout, stderr }, Bug::AttachLosesInput) => {
                ExecIo::Pipes { stdin: None, stdout, stderr }
            }
            (io, _) => io,
        };
        let _kills = self.is(Bug::DroppedAttachKills).then(|| Kills(self, container));
        match (self.bug, attach.attach(container, io).await) {
            (Bug::AttachToNobodySucceeds, Err(Error::NotFound { .. })) => Ok(ExitStatus::Code(0)),
            (Bug::AttachNeverEnds, Ok(_)) => std::future::pending().await,
            (_, ended) => ended,
        }
    }
}

#[async_trait]
impl PortForward for Buggy {
    async fn connect(&self, pod: &PodRef, port: u16) -> Result<Box<dyn Duplex>> {
        let forward = self.inner.port_forward().ok_or_else(lost)?;
        match (self.bug, forward.connect(pod, port).await) {
            (Bug::ForwardIsNeverHalfClosed, Ok(stream)) => {
                Ok(Box::new(Half { stream, closes: false, closed: false }))
            }
            (Bug::ForwardWaitsForTheEnd, Ok(stream)) => Ok(Box::new(at_the_end(stream))),
            (Bug::HalfCloseIsClose, Ok(stream)) => Ok(Box::new(Half { stream, closes: true, closed: false })),
            (Bug::ClosedPortIsOpen, Err(Error::Unavailable { .. }))
            | (Bug::UnknownPodHasPorts, Err(Error::NotFound { .. })) => {
                let (ours, theirs) = tokio::io::duplex(1024);
                Ok(Box::new(Held(ours, theirs)))
            }
            (_, connected) => connected,
        }
    }
}

#[async_trait]
impl PodStats for Buggy {
    async fn usage(&self) -> Result<Usage> {
        let mut usage = self.inner.stats().ok_or_else(lost)?.usage().await?;
        let calls = {
            let mut memory = self.lock();
            memory.calls += 1;
            u64::from(memory.calls)
        };
        for container in usage.pods.iter_mut().flat_map(|pod| &mut pod.containers) {
            match self.bug {
                Bug::CountersGoBack => {
                    if let Some(cpu) = &mut container.cpu {
                        cpu.usage_core_nano_seconds = Some(1_000_000_000 / calls);
                    }
                }
                Bug::PartsAreMore => {
                    if let Some(memory) = &mut container.memory {
                        memory.usage_bytes = memory.rss_bytes.map(|bytes| bytes - 1);
                    }
                }
                Bug::UnknownIsZero => {
                    if let Some(memory) = &mut container.memory {
                        memory.rss_bytes = Some(0);
                    }
                }
                _ => {}
            }
        }
        if self.is(Bug::MeasuresNoContainer) {
            usage.pods.iter_mut().for_each(|pod| pod.containers.clear());
        }
        if self.is(Bug::NodeCountsTheLiving)
            && let Some(cpu) = usage.node.as_mut().and_then(|node| node.cpu.as_mut())
        {
            cpu.usage_core_nano_seconds = Some(usage.pods.len() as u64);
        }
        if self.is(Bug::MeasuresTwice) {
            let again = usage.pods.clone();
            usage.pods.extend(again);
        }
        Ok(usage)
    }
}

/// A connection on which nothing goes out before all of it has been said.
fn at_the_end(mut stream: Box<dyn Duplex>) -> DuplexStream {
    let (client, mut ours) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let mut said = Vec::new();
        let _ = ours.read_to_end(&mut said).await;
        let _ = stream.write_all(&said).await;
        let _ = stream.shutdown().await;
        let _ = tokio::io::copy(&mut stream, &mut ours).await;
    });
    client
}

/// An input that never ends.
struct Never;

impl AsyncRead for Never {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

/// A connection whose other end is held, and silent.
struct Held(DuplexStream, #[expect(dead_code, reason = "held so that it stays open")] DuplexStream);

/// A connection that does the wrong thing when its client has no more to say: nothing, or too much.
struct Half {
    stream: Box<dyn Duplex>,
    closes: bool,
    closed: bool,
}

impl AsyncRead for Half {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Half {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.closed = self.closes;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
