//! `kubectl port-forward`.

use kube::api::Portforwarder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::bed::Bed;
use crate::calls::{CALL, lacks};
use crate::stop::{Checked, Stop, demand};
use crate::workload::Script;

const OPEN: u16 = 8080;
const CLOSED: u16 = 8099;

async fn open(bed: &Bed, port: u16) -> Checked<Portforwarder> {
    match timeout(CALL, bed.pods().portforward("serves", &[port])).await {
        Ok(forwarder) => forwarder.map_err(|error| lacks("port-forward", error)),
        Err(_) => Err(Stop::failed(format!("the session did not begin within {CALL:?}"))),
    }
}

/// One request, and what comes back until the connection ends or an error is told.
async fn ask(bed: &Bed, port: u16) -> Checked<Result<String, String>> {
    let mut forwarder = open(bed, port).await?;
    let (Some(mut stream), Some(error)) = (forwarder.take_stream(port), forwarder.take_error(port)) else {
        return Err(Stop::failed("the session has no streams"));
    };
    let talk = async {
        // A connection that is closed at once is told of below.
        let _ = stream.write_all(b"GET /index.html HTTP/1.0\r\nHost: pod\r\n\r\n").await;
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        // What an HTTP server says first is enough; whether it closes is its own affair.
        while bytes.len() < 5 {
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(count) => bytes.extend_from_slice(&part[..count]),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let both = async {
        // Cancel-safe: the connection is not used again.
        tokio::select! {
            answer = talk => Ok(answer),
            Some(error) = error => Err(error),
        }
    };
    timeout(CALL, both).await.map_err(|_| Stop::failed(format!("the connection hangs for {CALL:?}")))
}

/// Waits until the open port answers: the server in the container may need a moment more than the container.
async fn answers(bed: &Bed) -> Checked {
    let mut lacking = None;
    bed.poll(&format!("port {OPEN} does not answer"), bed.patience(), async || match ask(bed, OPEN).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/") => Ok(()),
        Ok(seen) => Err(format!("{seen:?}")),
        Err(Stop::NotApplicable(why)) => {
            lacking = Some(why);
            Ok(())
        }
        Err(Stop::Failed(seen)) => Err(seen),
    })
    .await?;
    lacking.map_or(Ok(()), |why| Err(Stop::NotApplicable(why)))
}

/// A port on which the container listens answers.
pub async fn a_port_answers(bed: &Bed) -> Checked {
    bed.start("serves", &bed.workload().running("app", &Script::serves(OPEN))).await?;
    answers(bed).await
}

/// A connection to nobody ends.
/// Not applicable where a connection to somebody ends as well.
pub async fn a_closed_port_says_so(bed: &Bed) -> Checked {
    bed.start("serves", &bed.workload().running("app", &Script::serves(OPEN))).await?;
    if let Err(stop) = answers(bed).await {
        return Err(Stop::not_applicable(format!("no open port answers either: {stop}")));
    }
    match ask(bed, CLOSED).await? {
        Ok(answer) => demand!(answer.is_empty(), "a port on which nobody listens answers {answer:?}"),
        Err(error) => demand!(!error.is_empty(), "the error has no text"),
    }
    Ok(())
}
