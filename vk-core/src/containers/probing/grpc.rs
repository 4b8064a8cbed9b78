//! gRPC health probes: one call of `grpc.health.v1.Health/Check` (`pkg/probe/grpc`).

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::Finding;
use crate::containers::backend::ContainerBackend;
use crate::containers::dial::{Dial, Target};
use crate::containers::words::duration;

/// The most that an answer may hold; a real one has seven bytes.
const MOST: usize = 4 << 10;
/// The status code of a method that is not there.
const UNIMPLEMENTED: u32 = 12;

/// Runs a gRPC probe once.
pub(super) async fn probe(
    backend: &Arc<dyn ContainerBackend>,
    dial: Dial,
    target: &Target,
    service: &str,
    within: Duration,
) -> Finding {
    let connecting = tokio::time::timeout(within, target.connect(backend, dial));
    let began = tokio::time::Instant::now();
    let stream = match connecting.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Finding::failure(format!(
                "timeout: failed to connect service \"{target}\" within {}: {}",
                duration(within),
                target.refusal(&error)
            ));
        }
        Err(_) => {
            return Finding::failure(format!(
                "timeout: failed to connect service \"{target}\" within {}: context deadline exceeded",
                duration(within)
            ));
        }
    };
    let left = within.saturating_sub(began.elapsed());
    let check = async {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let request = http::Request::post(format!("http://{target}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.37")
            .body(Full::new(message(service)))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MOST).collect().await?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            let code = |headers: &http::HeaderMap| {
                headers.get("grpc-status").and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u32>().ok())
            };
            let text = |headers: &http::HeaderMap| {
                headers.get("grpc-message").and_then(|v| v.to_str().ok()).map(str::to_owned)
            };
            let code = code(&trailers).or_else(|| code(&head.headers));
            let text = text(&trailers).or_else(|| text(&head.headers)).unwrap_or_default();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((code, text, body.to_bytes()))
        };
        // The connection's own end is no news while the exchange goes on.
        let driven = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            answer = exchange => answer,
            answer = driven => answer,
        }
    };
    match tokio::time::timeout(left, check).await {
        Ok(Ok((Some(0), _, body))) => match serving(&body) {
            Some(1) => Finding::success(),
            status => Finding::failure(format!("service unhealthy (responded with \"{}\")", name(status))),
        },
        Ok(Ok((Some(UNIMPLEMENTED), text, _))) => Finding::failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {text}"
        )),
        Ok(Ok((code, text, _))) => {
            let code = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
            Finding::failure(format!(
                "error: health rpc probe failed: rpc error: code = {code} desc = {text}"
            ))
        }
        Ok(Err(error)) => Finding::failure(format!("error: health rpc probe failed: {error}")),
        Err(_) => {
            Finding::failure(format!("timeout: health rpc did not complete within {}", duration(within)))
        }
    }
}

/// A `HealthCheckRequest`: field 1, the service's name.
fn message(service: &str) -> Bytes {
    let mut body = BytesMut::new();
    if !service.is_empty() {
        body.put_u8(0x0A);
        let mut length = service.len();
        while length >= 0x80 {
            body.put_u8((length & 0x7F) as u8 | 0x80);
            length >>= 7;
        }
        body.put_u8(length as u8);
        body.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    framed.put_slice(&body);
    framed.freeze()
}

/// The status of a `HealthCheckResponse`: field 1, an enumeration; what is not there is 0.
fn serving(framed: &[u8]) -> Option<u8> {
    let body = framed.get(5..)?;
    match body {
        [] => Some(0),
        [0x08, status, ..] => Some(*status),
        _ => None,
    }
}

fn name(status: Option<u8>) -> &'static str {
    match status {
        Some(0) => "UNKNOWN",
        Some(1) => "SERVING",
        Some(2) => "NOT_SERVING",
        Some(3) => "SERVICE_UNKNOWN",
        _ => "something that is no status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_protobuf() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0A, 2, b'a', b'b']);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0), "the default is not written");
        assert_eq!(serving(&[0, 0]), None);
    }
}
