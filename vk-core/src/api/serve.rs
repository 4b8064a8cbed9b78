//! The kubelet API's port: connections, TLS, limits and the drain at the end.
//!
//! What a connection may cost is bounded from its first byte: so much time for the handshake, so much for the first
//! request, a head of such a size; bodies are not read. The port as a whole bears so many connections. When they
//! are all there, the oldest whose caller has not been let in gives way to the newest: a crowd that says nothing, or
//! nothing right, keeps nobody out.

mod crowd;
mod half_open;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::EXPECT;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tower::ServiceExt as _;

use self::crowd::{Crowd, Place};
use self::half_open::{Watch, Watched};
use super::KubeletApi;
use crate::metrics::{Open, PortMetrics};

/// What the port bears.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at once, upgraded ones included. Beyond it the oldest whose caller has not been let in is closed
    /// for a new one; if all have been, the new one. Default 4,096: more than a node's
    /// [streams](super::stream::StreamLimits::sessions), so that those are refused with a word. Of callers that have
    /// not been let in 1,024 at most, the same way.
    pub connections: usize,
    /// From the TCP connection to the end of the TLS handshake. Default 10 s.
    pub handshake: Duration,
    /// From the handshake to the first request's last header. Default 10 s.
    pub first_request: Duration,
    /// From one answer's end to the next request's last header, idle time included. Default 95 s: longer than
    /// Go's clients keep idle connections, so that it is they who close them.
    pub idle: Duration,
    /// A request's head, and what is buffered of an answer before its source has to wait. At least 8,192.
    /// Default 64 KiB.
    pub buffer: usize,
    /// How long a connection is believed in without a sign of life from the client's machine, roughly. A client that
    /// is there and reads nothing has as long for an ordinary answer, and all the time it wants for logs and
    /// sessions. Default 30 s.
    pub half_open: Duration,
    /// From the shutdown to the hard end of the connections still open, sessions of exec, attach and port-forward
    /// included. Default 5 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(10),
            idle: Duration::from_secs(95),
            buffer: 64 * 1024,
            half_open: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// How long an answer is held back for the rest of its question's body.
const BODY: Duration = Duration::from_millis(100);

/// The connection a request came in on; an extension of every request that [`serve`] takes.
///
/// It counts as open while any clone of this lives: what goes on after an upgrade keeps one.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    certificates: Vec<CertificateDer<'static>>,
    peer: Option<SocketAddr>,
    closing: CancellationToken,
    abort: CancellationToken,
    patient: Arc<AtomicBool>,
    place: Option<Place>,
    /// Counted, and waited for by the drain.
    _open: Option<(Open, TaskTrackerToken)>,
}

impl Connection {
    /// A caller in the same process, with the certificate chain it would have shown, leaf first. It is on the
    /// caller to have the right to it: nothing proves possession of the key.
    #[must_use]
    pub fn in_process(certificates: Vec<CertificateDer<'static>>) -> Self {
        let (closing, abort, patient) = Default::default();
        Self(Arc::new(Inner { certificates, peer: None, closing, abort, patient, place: None, _open: None }))
    }

    /// Its caller was let in: it gives way to nobody any more.
    pub(super) fn admit(&self) {
        if let Some(place) = &self.0.place {
            place.admit();
        }
    }

    /// The client's certificate chain, leaf first, not yet believed; empty without one.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0.certificates
    }

    /// The client's address.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer
    }

    /// Cancelled when the server shuts down: long answers end.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// Its client may read as slowly as it likes from now on.
    pub(super) fn be_patient(&self) {
        self.0.patient.store(true, Ordering::Relaxed);
    }

    /// Cancelled when the time for that is over.
    pub(super) fn abort(&self) -> &CancellationToken {
        &self.0.abort
    }
}

/// Serves a node's API over HTTPS until `shutdown`, then drains: accepts nothing more, lets short answers finish, ends
/// followed logs, and closes what is left after [`Limits::drain`].
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    api: &KubeletApi,
    limits: Limits,
    shutdown: CancellationToken,
) {
    serve_router(listener, tls, api.router(), api.metrics().port().clone(), limits, shutdown).await;
}

async fn serve_router(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    metrics: PortMetrics,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let server = Server {
        tls: TlsAcceptor::from(tls),
        router,
        metrics,
        limits,
        connections: TaskTracker::new(),
        closing: shutdown.child_token(),
        abort: CancellationToken::new(),
    };
    let crowd = Crowd::new(limits.connections);
    let watch = Watch::default();
    let _watching = AbortOnDropHandle::new(tokio::spawn(watch.clone().run(limits.half_open)));
    let mut refused = 0_u64;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (place, crowded) = crowd.enter();
                if crowded {
                    server.metrics.refused("full");
                    refused += 1;
                    // The first of a flood, then ever fewer.
                    if refused.is_power_of_two() {
                        let limit = limits.connections;
                        tracing::warn!(limit, refused, "kubelet API: connections closed to keep the limit");
                    }
                }
                if let Some(place) = place {
                    match watch.over(stream, limits.half_open, &server.metrics) {
                        Ok(stream) => {
                            server.connections.spawn(server.clone().connection(stream, peer, place));
                        }
                        // It has gone again already.
                        Err(error) => tracing::debug!(%peer, %error, "kubelet API: cannot set up the socket"),
                    }
                }
            }
            Err(error) if is_clients_fault(&error) => {}
            Err(error) => {
                // Out of file descriptors, say: give the connections that have them time to end.
                tracing::warn!(%error, "kubelet API: cannot accept connections");
                let pause = tokio::time::sleep(Duration::from_millis(100));
                tokio::select! { () = shutdown.cancelled() => break, () = pause => {} }
            }
        }
    }
    drop(listener);
    server.connections.close();
    if tokio::time::timeout(limits.drain, server.connections.wait()).await.is_err() {
        let open = server.connections.len();
        tracing::warn!(open, "kubelet API: closing connections that did not end in time");
        server.abort.cancel();
        server.connections.wait().await;
    }
}

fn is_clients_fault(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[derive(Clone)]
struct Server {
    tls: TlsAcceptor,
    router: Router,
    metrics: PortMetrics,
    limits: Limits,
    /// What the drain waits for: those that are served here, and those that were upgraded.
    connections: TaskTracker,
    closing: CancellationToken,
    abort: CancellationToken,
}

impl Server {
    async fn connection(self, stream: Watched, peer: SocketAddr, place: Place) {
        let (abort, evicted) = (self.abort.clone(), place.evicted());
        tokio::select! {
            () = abort.cancelled() => {}
            () = evicted.cancelled() => tracing::debug!(%peer, "kubelet API: made way for another connection"),
            () = self.run(stream, peer, place) => {}
        }
    }

    async fn run(self, stream: Watched, peer: SocketAddr, place: Place) {
        let (open, patient) = (self.metrics.connection(), stream.patient());
        let handshake = tokio::time::timeout(self.limits.handshake, self.tls.accept(stream));
        let handshake = tokio::select! {
            () = self.closing.cancelled() => return,
            handshake = handshake => handshake,
        };
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.metrics.refused("handshake-failed");
                return tracing::debug!(%peer, %error, "kubelet API: TLS handshake failed");
            }
            Err(_) => {
                self.metrics.refused("handshake-timeout");
                return tracing::debug!(%peer, "kubelet API: TLS handshake took too long");
            }
        };
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let connection = Connection(Arc::new(Inner {
            certificates: certificates.iter().map(|der| der.clone().into_owned()).collect(),
            peer: Some(peer),
            closing: self.closing.clone(),
            abort: self.abort.clone(),
            patient,
            place: Some(place),
            _open: Some((open, self.connections.token())),
        }));

        let asked = Arc::new(AtomicBool::new(false));
        let service = {
            let (asked, router, metrics) = (Arc::clone(&asked), self.router, self.metrics.clone());
            let most = self.limits.buffer;
            service_fn(move |mut request: http::Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                request.extensions_mut().insert(connection.clone());
                let expects = request.headers().contains_key(EXPECT);
                let (parts, body) = request.into_parts();
                let answer = router.clone().oneshot(http::Request::from_parts(parts, Body::empty()));
                let metrics = metrics.clone();
                async move {
                    let answer = answer.await;
                    // A client that waits to be invited to send its body is not, and does not send it.
                    if !body.is_end_stream() && !expects && !comes(body, most).await {
                        metrics.refused("body-missing");
                    }
                    answer
                }
            })
        };
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.idle)
            .max_buf_size(self.limits.buffer)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(http);
        let first_request = tokio::time::sleep(self.limits.first_request);
        tokio::pin!(first_request);
        let (mut waiting, mut draining) = (true, false);
        loop {
            tokio::select! {
                ended = http.as_mut() => {
                    if let Err(error) = ended {
                        if let Some(reason) = broken_limit(&error) {
                            self.metrics.refused(reason);
                        }
                        tracing::debug!(%peer, %error, "kubelet API: connection ended");
                    }
                    return;
                }
                () = self.closing.cancelled(), if !draining => {
                    draining = true;
                    http.as_mut().graceful_shutdown();
                }
                () = first_request.as_mut(), if waiting => {
                    waiting = false;
                    if !asked.load(Ordering::Relaxed) {
                        self.metrics.refused("no-request");
                        return tracing::debug!(%peer, "kubelet API: no request came");
                    }
                }
            }
        }
    }
}

/// Whether the whole of a body comes with its head, or almost: no route reads one. What does not come ends the
/// connection, after the answer.
async fn comes(mut body: Incoming, most: usize) -> bool {
    let read = async {
        let mut left = most;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            let size = frame.data_ref().map_or(0, bytes::Bytes::len);
            let Some(rest) = left.checked_sub(size) else { return false };
            left = rest;
        }
        true
    };
    tokio::time::timeout(BODY, read).await.unwrap_or(false)
}

/// Which limit a connection broke, if that is how it ended.
fn broken_limit(error: &hyper::Error) -> Option<&'static str> {
    if error.is_parse_too_large() {
        Some("head-too-large")
    } else if error.is_parse() {
        Some("bad-request")
    } else if error.is_timeout() {
        Some("idle")
    } else {
        None
    }
}
