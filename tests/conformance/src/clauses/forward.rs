//! Port-forward: a connection to a port of a pod.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use vk_core::provider::{Duplex, PodRef, PortForward, Provider, ResolvedPod};

use crate::bench::Bench;
use crate::check::{Check, demand, fail, skip};
use crate::journal::MAIN;
use crate::pods::{NAMESPACE, uid, unique};
use crate::subject::{Answers, Work};

fn capability(provider: &dyn Provider) -> Check<&dyn PortForward> {
    provider
        .port_forward()
        .map_or_else(|| skip("the provider forwards no ports (Provider::port_forward)"), Ok)
}

/// A pod that answers, and how.
async fn place(bench: &Bench) -> Check<(ResolvedPod, Answers)> {
    capability(&*bench.provider())?;
    let Some(answers) = bench.recipe(MAIN, &Work::Serve)?.answers else {
        return skip("the recipe for Work::Serve does not say what it answers (Recipe::answers)");
    };
    Ok((bench.running(Work::Serve).await?, answers))
}

/// A connection that is accepted; a server needs a moment before it listens.
async fn connect(bench: &Bench, pod: &PodRef, port: u16) -> Check<Box<dyn Duplex>> {
    let provider = bench.provider();
    let forward = capability(&*provider)?;
    let deadline = tokio::time::Instant::now() + bench.patience().tell;
    loop {
        match bench.attempt("connect", forward.connect(pod, port)).await? {
            Ok(stream) => return Ok(stream),
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return fail(format!("no connection to port {port}: {}", error.chain()));
            }
            Err(_) => sleep(bench.patience().poll).await,
        }
    }
}

/// A connection reaches the process that listens on the port.
pub async fn a_connection_reaches_its_port(bench: &Bench) -> Check {
    let (pod, answers) = place(bench).await?;
    let mut stream = connect(bench, &pod.pod, answers.port).await?;
    let within = bench.patience().tell;
    let mut had = String::new();
    let session = async {
        stream.write_all(&answers.request).await.ok()?;
        while !had.contains(&answers.contains) {
            let mut part = [0; 1024];
            let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
            had.push_str(&String::from_utf8_lossy(&part[..read]));
        }
        Some(())
    };
    let came = timeout(within, session).await.is_ok_and(|answer| answer.is_some());
    demand!(came, "port {} should have answered {:?}, and answered {had:?}", answers.port, answers.contains);
    Ok(())
}

/// When the client has no more to say the server hears of it, and what it still says arrives: the connection
/// ends by itself then.
pub async fn a_half_closed_connection_ends(bench: &Bench) -> Check {
    let (pod, answers) = place(bench).await?;
    let mut stream = connect(bench, &pod.pod, answers.port).await?;
    let within = bench.patience().tell;
    let session = async {
        // Whether it answers is another clause's.
        let _ = stream.write_all(&answers.request).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    };
    let ended = timeout(within, session).await.is_ok();
    demand!(ended, "the client closed its half, and the server's has not ended within {within:?}");
    Ok(())
}

/// What a server says after the client has closed its half arrives.
pub async fn an_answer_outlives_the_clients_half(bench: &Bench) -> Check {
    let (pod, answers) = place(bench).await?;
    let mut stream = connect(bench, &pod.pod, answers.port).await?;
    let within = bench.patience().tell;
    let mut had = String::new();
    let session = async {
        stream.write_all(&answers.request).await.ok()?;
        stream.shutdown().await.ok()?;
        while !had.contains(&answers.contains) {
            let mut part = [0; 1024];
            let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
            had.push_str(&String::from_utf8_lossy(&part[..read]));
        }
        Some(())
    };
    let came = timeout(within, session).await.is_ok_and(|answer| answer.is_some());
    demand!(came, "the client closed its half after the request, and the answer is {had:?}");
    Ok(())
}

/// A port on which nothing listens refuses: an error, or a connection that ends without a byte.
pub async fn a_closed_port_refuses(bench: &Bench) -> Check {
    let (pod, answers) = place(bench).await?;
    let provider = bench.provider();
    let forward = capability(&*provider)?;
    let port = answers.port.checked_add(1).unwrap_or(1);
    let Ok(mut stream) = bench.attempt("connect", forward.connect(&pod.pod, port)).await? else {
        return Ok(());
    };
    let within = bench.patience().tell;
    let mut byte = [0];
    match timeout(within, stream.read(&mut byte)).await {
        Ok(Ok(0) | Err(_)) => Ok(()),
        Ok(Ok(_)) => fail(format!("nothing listens on port {port}, and it says something")),
        Err(_) => fail(format!("nothing listens on port {port}, and a connection to it stays open")),
    }
}

/// A port of a pod that is not there is an error.
pub async fn a_port_of_an_unknown_pod_is_an_error(bench: &Bench) -> Check {
    let (_, answers) = place(bench).await?;
    let provider = bench.provider();
    let forward = capability(&*provider)?;
    let nobody = PodRef::new(NAMESPACE, unique("nobody"), uid());
    let answer = bench.attempt("connect", forward.connect(&nobody, answers.port)).await?;
    demand!(answer.is_err(), "there is no such pod, and connect is Ok");
    Ok(())
}
