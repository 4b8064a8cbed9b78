//! Port-forward over SPDY: two streams make a connection, one for its bytes and one for its error, paired by
//! `requestid` (cri-streaming `portforward/httpstream.go`).

use std::collections::HashMap;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::pipe::Out;
use super::super::spdy::{Accepted, Headers, Incoming, ResetStatus, StreamId};
use super::{Connection, Target};

/// Carries connections until the client opens no more streams.
pub(in super::super) async fn over_spdy(
    target: Target,
    mut incoming: mpsc::Receiver<Incoming>,
    queue: mpsc::Sender<Out>,
    patience: Duration,
) {
    let mut connections = JoinSet::new();
    let mut pairs = Pairs::default();
    loop {
        tokio::select! {
            stream = incoming.recv() => match stream {
                Some(stream) => {
                    if let Some(connection) = pairs.add(stream, &queue, patience).await {
                        connections.spawn(target.clone().carry(connection));
                    }
                }
                None => break,
            },
            Some(_) = connections.join_next() => {}
            request = pairs.expired() => pairs.give_up(&request, &queue).await,
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Streams whose other half has not come.
#[derive(Default)]
struct Pairs(HashMap<String, Half>);

struct Half {
    kind: Kind,
    id: StreamId,
    port: u16,
    stream: Accepted,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Kind {
    Data,
    Error,
}

impl Pairs {
    /// Takes a stream in; the connection, if that completes it.
    async fn add(
        &mut self,
        stream: Incoming,
        queue: &mpsc::Sender<Out>,
        patience: Duration,
    ) -> Option<Connection> {
        let id = stream.id;
        let (kind, port, request) = match describe(id, &stream.headers) {
            Ok(description) => description,
            Err(reason) => {
                tracing::debug!(reason, "stream refused");
                stream.refuse(queue).await;
                return None;
            }
        };
        if self.0.get(&request).is_some_and(|half| half.kind == kind) {
            tracing::debug!(request, ?kind, "stream refused: the request has one already");
            stream.refuse(queue).await;
            return None;
        }
        let stream = stream.accept(queue).await;
        let half = Half { kind, id, port, stream, until: Instant::now() + patience };
        let Some(other) = self.0.remove(&request) else {
            self.0.insert(request, half);
            return None;
        };
        let (data, error) = if kind == Kind::Data { (half, other) } else { (other, half) };
        let Accepted { inlet, outlet, side } = data.stream;
        let (error, queue) = (error.stream.outlet, queue.clone());
        Some(Connection { port: data.port, id: data.id, inlet, outlet, side, error, queue })
    }

    /// The first request whose other half does not come in time.
    async fn expired(&self) -> String {
        match self.0.iter().min_by_key(|(_, half)| half.until) {
            Some((request, half)) => {
                tokio::time::sleep_until(half.until).await;
                request.clone()
            }
            None => std::future::pending().await,
        }
    }

    async fn give_up(&mut self, request: &str, queue: &mpsc::Sender<Out>) {
        let Some(half) = self.0.remove(request) else { return };
        tracing::debug!(request, "a stream's other half did not come");
        let mut outlet = half.stream.outlet;
        if half.kind == Kind::Error {
            let text = format!("(request={request}) timed out waiting for streams");
            let _ = outlet.write_all(text.as_bytes()).await;
            let _ = outlet.shutdown().await;
        } else {
            half.stream.side.reset();
            let _ = queue.send(Out::Reset(half.id, ResetStatus::CANCEL)).await;
        }
    }
}

/// What a stream is for: its kind, its port, and the request it belongs to.
pub(in super::super) fn describe(
    id: StreamId,
    headers: &Headers,
) -> Result<(Kind, u16, String), &'static str> {
    let port = headers.get("port").filter(|port| !port.is_empty()).ok_or("\"port\" header is required")?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or("no such port")?;
    let kind = match headers.get("streamtype") {
        Some("data") => Kind::Data,
        Some("error") => Kind::Error,
        Some(_) => return Err("invalid stream type"),
        None => return Err("\"streamtype\" header is required"),
    };
    let request = match headers.get("requestid").filter(|request| !request.is_empty()) {
        Some(request) => request.to_owned(),
        // Old clients name none, and open the error stream first.
        None => match kind {
            Kind::Error => id.to_string(),
            Kind::Data => id.saturating_sub(2).to_string(),
        },
    };
    Ok((kind, port, request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_says_what_it_is_for() {
        let headers = |pairs: &[(&str, &str)]| {
            pairs.iter().fold(Headers::new(), |headers, (name, value)| headers.with(name, value))
        };
        let described = |id, pairs: &[(&str, &str)]| describe(id, &headers(pairs));
        let named = [("streamtype", "data"), ("port", "80"), ("requestid", "7")];
        assert_eq!(described(9, &named), Ok((Kind::Data, 80, "7".to_owned())));
        // Without an identifier the data stream follows its error stream.
        assert_eq!(described(9, &named[..2]), Ok((Kind::Data, 80, "7".to_owned())));
        let error = [("streamtype", "error"), ("port", "80")];
        assert_eq!(described(7, &error), Ok((Kind::Error, 80, "7".to_owned())));
        for wrong in [
            &[("streamtype", "data")][..],
            &[("port", "80")],
            &[("streamtype", "stdin"), ("port", "80")],
            &[("streamtype", "data"), ("port", "0")],
            &[("streamtype", "data"), ("port", "65536")],
            &[("streamtype", "data"), ("port", "-1")],
        ] {
            assert!(described(1, wrong).is_err(), "{wrong:?}");
        }
    }
}
