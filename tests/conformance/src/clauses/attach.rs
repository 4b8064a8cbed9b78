//! Attach: a connection to a container's own process.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use vk_core::provider::{ContainerAttach, Error, ExecIo, Provider, ResolvedPod};

use crate::bench::Bench;
use crate::check::{Check, demand, fail, skip};
use crate::journal::is_running;
use crate::subject::Work;

const PIPE: usize = 64 << 10;

fn capability(provider: &dyn Provider) -> Check<&dyn ContainerAttach> {
    provider.attach().map_or_else(|| skip("the provider attaches to nothing (Provider::attach)"), Ok)
}

async fn place(bench: &Bench) -> Check<ResolvedPod> {
    capability(&*bench.provider())?;
    bench.running(Work::Repeat).await
}

/// What is written reaches the process, and what that prints comes back.
pub async fn what_is_written_reaches_the_process(bench: &Bench) -> Check {
    let pod = place(bench).await?;
    let provider = bench.provider();
    let attach = capability(&*provider)?;
    let ((mut input, stdin), (mut output, stdout)) = (tokio::io::duplex(PIPE), tokio::io::duplex(PIPE));
    let io = ExecIo::Pipes { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), stderr: None };
    let main = bench.main(&pod);
    let session = async {
        input.write_all(b"ping\n").await.ok()?;
        let mut had = String::new();
        while !had.contains("ping") {
            let mut part = [0; 64];
            let read = output.read(&mut part).await.ok().filter(|read| *read > 0)?;
            had.push_str(&String::from_utf8_lossy(&part[..read]));
        }
        Some(())
    };
    let within = bench.patience().tell;
    let talked = async {
        tokio::select! {
            ended = attach.attach(&main, io) => {
                fail(format!("attach ended: {ended:?}; {}", bench.sights(&pod.pod, 0).last()))
            }
            talked = session => if talked.is_some() { Ok(()) } else { fail("the output ended while its process runs") },
        }
    };
    match timeout(within, talked).await {
        Ok(talked) => talked,
        Err(_) => fail(format!(
            "`ping` was written to a process that repeats it, and has not come back within {within:?}"
        )),
    }
}

/// Dropping an attach leaves the process running.
pub async fn a_dropped_attach_leaves_the_process(bench: &Bench) -> Check {
    let pod = place(bench).await?;
    let provider = bench.provider();
    let attach = capability(&*provider)?;
    let (output, stdout) = tokio::io::duplex(PIPE);
    let io = ExecIo::Pipes { stdin: None, stdout: Some(Box::new(stdout)), stderr: None };
    let main = bench.main(&pod);
    let since = bench.mark();
    // Whether it ends by itself is another clause's.
    let _ = timeout(Duration::from_secs(1), attach.attach(&main, io)).await;
    drop(output);
    bench.quiet().await;
    let sights = bench.sights(&pod.pod, since);
    let runs = !sights.is_over() && sights.runtimes().all(is_running);
    demand!(runs, "an attach was dropped, and its process ended: {}", sights.last());
    Ok(())
}

/// An attach ends when its process has.
pub async fn an_attach_ends_with_the_process(bench: &Bench) -> Check {
    let pod = place(bench).await?;
    let provider = bench.provider();
    let attach = capability(&*provider)?;
    let (output, stdout) = tokio::io::duplex(PIPE);
    let io = ExecIo::Pipes { stdin: None, stdout: Some(Box::new(stdout)), stderr: None };
    let main = bench.main(&pod);
    let within = bench.patience().stop + bench.patience().tell;
    let attached = timeout(within + Duration::from_secs(1), attach.attach(&main, io));
    let stopping = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.delete(&pod.pod, Duration::ZERO).await
    };
    let (ended, deleted) = futures::future::join(attached, stopping).await;
    drop(output);
    deleted?;
    demand!(ended.is_ok(), "its process was killed, and attach has not returned within {within:?}");
    Ok(())
}

/// An attach to a container that the pod does not have is `NotFound`.
pub async fn an_attach_to_an_unknown_container_is_not_found(bench: &Bench) -> Check {
    let pod = place(bench).await?;
    let provider = bench.provider();
    let attach = capability(&*provider)?;
    let io = ExecIo::Pipes { stdin: None, stdout: None, stderr: None };
    let nobody = pod.pod.container("nobody");
    match bench.attempt("attach", attach.attach(&nobody, io)).await? {
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => fail(format!("the error is {}: {}", error.reason(), error.chain())),
        Ok(status) => fail(format!("the pod has no such container, and attach ended with {status:?}")),
    }
}
