//! The port, over real sockets on loopback and real TLS.

use std::future::poll_fn;
use std::net::Ipv4Addr;

use futures::StreamExt as _;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::testing::pki::{Ca, Client, Identity};
use super::super::testing::{Backend, guarded, line, running};
use super::super::{Access, tls};
use super::*;
use crate::metrics::Metrics;
use crate::provider::{LogEntry, LogOutput};

mod limits;
mod rotation;

/// A server on loopback, which ends with the test.
struct Port {
    address: SocketAddr,
    roots: RootCertStore,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
    metrics: Metrics,
}

impl Port {
    async fn open(router: Router, limits: Limits) -> Self {
        let now = jiff::Timestamp::now();
        let own = tls::ServingCertificate::self_signed("node-1", &[Ipv4Addr::LOCALHOST.into()], now).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.chain()[0].clone()).unwrap();
        Self::with(router, limits, tls::server_config(own).unwrap(), roots).await
    }

    async fn with(router: Router, limits: Limits, config: Arc<ServerConfig>, roots: RootCertStore) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let metrics = Metrics::new("node-1");
        let port = metrics.port().clone();
        let server = tokio::spawn(serve_router(listener, config, router, port, limits, shutdown.clone()));
        Self { address, roots, shutdown, server, metrics }
    }

    async fn tls(&self, identity: Option<Identity>) -> std::io::Result<TlsStream<TcpStream>> {
        let config = ClientConfig::builder_with_provider(tls::crypto())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match identity {
            Some(identity) => config.with_client_auth_cert(identity.chain, identity.key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::from(self.address.ip()), stream).await
    }

    async fn http(&self, identity: Option<Identity>) -> SendRequest<Empty<bytes::Bytes>> {
        let stream = self.tls(identity).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// A number in its metrics; 0 while it is not there.
    fn count(&self, sample: &str) -> u64 {
        let text = self.metrics.text();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Connections closed for breaking this limit.
    fn refused(&self, reason: &str) -> u64 {
        self.count(&format!("vk_connections_refused_total{{reason=\"{reason}\"}}"))
    }

    /// Waits until nobody is connected any more.
    async fn deserted(&self) {
        within(async {
            while self.count("vk_connections_open") > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Ends the server, and fails if it doesn't end.
    async fn close(self) {
        self.shutdown.cancel();
        within(self.server).await.unwrap();
    }
}

/// A deadline for what should happen at once.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("did not happen in time")
}

fn request(path: &str) -> Request<Empty<bytes::Bytes>> {
    Request::get(path).header("host", "node-1").body(Empty::new()).unwrap()
}

async fn status(port: &Port, identity: Option<Identity>, path: &str) -> StatusCode {
    let mut http = port.http(identity).await;
    within(http.send_request(request(path))).await.unwrap().status()
}

/// One more request on a connection, read to its end.
async fn again(http: &mut SendRequest<Empty<bytes::Bytes>>, path: &str) -> StatusCode {
    within(async {
        http.ready().await.unwrap();
        let answer = http.send_request(request(path)).await.unwrap();
        let status = answer.status();
        answer.into_body().collect().await.unwrap();
        status
    })
    .await
}

/// A node's API whose container `a` of pod `web` logs what the test sends.
fn following() -> (mpsc::Sender<LogEntry>, Router) {
    let (sender, receiver) = mpsc::channel(1);
    let receiver = std::sync::Mutex::new(Some(receiver));
    let log = move || {
        let receiver = receiver.lock().unwrap().take().expect("one follower");
        let next = |mut receiver: mpsc::Receiver<_>| async {
            receiver.recv().await.map(|entry| (Ok(entry), receiver))
        };
        Ok(futures::stream::unfold(receiver, next).boxed())
    };
    let backend = Backend { log: Some(Box::new(log)), ..Backend::default() };
    (sender, guarded(Arc::new(backend), vec![running("web")], Access::insecure_allow_all()).router())
}

const LOG: &str = "/containerLogs/default/web/a?follow=true";

fn open_to_all() -> Router {
    guarded(Arc::default(), vec![running("web")], Access::insecure_allow_all()).router()
}

#[tokio::test]
async fn a_client_certificate_is_asked_for_and_judged_by_the_answer_not_by_the_handshake() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let access = Access::none().with_client_ca(ca.trusted()).with_trusted_name("kube-apiserver");
    let port = Port::open(guarded(Arc::default(), Vec::new(), access).router(), Limits::default()).await;
    let good = ca.sign(Client::default());
    assert_eq!(status(&port, Some(good), "/pods").await, 200);
    assert_eq!(status(&port, None, "/pods").await, 401);
    assert_eq!(status(&port, Some(other.sign(Client::default())), "/pods").await, 401);
    let expired = Client { years: (2020, 2021), ..Client::default() };
    assert_eq!(status(&port, Some(ca.sign(expired)), "/pods").await, 401);
    let stranger = Client { name: "stranger", ..Client::default() };
    assert_eq!(status(&port, Some(ca.sign(stranger)), "/pods").await, 403);
    port.close().await;
}

#[tokio::test]
async fn a_certificate_without_its_key_does_not_pass_the_handshake() {
    let ca = Ca::new("ca");
    let port = Port::open(open_to_all(), Limits::default()).await;
    let (stolen, own) = (ca.sign(Client::default()), ca.sign(Client::default()));
    // rustls checks that key and certificate match, so the mismatch goes through a resolver of the test.
    let key = tls::crypto().key_provider.load_private_key(own.key).unwrap();
    let resolver = rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(stolen.chain, key));
    let config = ClientConfig::builder_with_provider(tls::crypto())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(port.roots.clone())
        .with_client_cert_resolver(Arc::new(resolver));
    let stream = TcpStream::connect(port.address).await.unwrap();
    let name = ServerName::from(port.address.ip());
    // In TLS 1.3 the client's side is done before the server has judged: the alert comes with the first read.
    let refused = match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(mut stream) => within(stream.read(&mut [0; 16])).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    port.close().await;
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let port = Port::open(open_to_all(), Limits::default()).await;
    let mut http = port.http(None).await;
    for _ in 0..3 {
        let answer = within(http.send_request(request("/healthz"))).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
    }
    port.close().await;
}

#[tokio::test]
async fn a_followed_line_is_on_the_wire_at_once_and_a_client_that_leaves_stops_the_provider() {
    let (log, router) = following();
    let port = Port::open(router, Limits::default()).await;
    let mut http = port.http(None).await;
    // The head comes before the first line.
    let mut answer = within(http.send_request(request(LOG))).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers().get("transfer-encoding").unwrap(), "chunked");
    for text in ["one\n", "two\n"] {
        log.send(line(0, LogOutput::Stdout, text)).await.unwrap();
        let frame = within(answer.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    drop((answer, http));
    within(log.closed()).await;
    port.close().await;
}

#[tokio::test]
async fn the_end_of_a_log_ends_its_answer_and_an_error_breaks_it_off() {
    let (log, router) = following();
    let port = Port::open(router, Limits::default()).await;
    let mut http = port.http(None).await;
    let answer = within(http.send_request(request(LOG))).await.unwrap();
    drop(log);
    assert_eq!(within(answer.into_body().collect()).await.unwrap().to_bytes(), "");
    port.close().await;

    let broken = || {
        // The error comes after the first line has gone out.
        let items =
            [Ok(line(0, LogOutput::Stdout, "one\n")), Err(crate::provider::Error::unexpected("garbage"))];
        Ok(futures::stream::iter(items).boxed())
    };
    let backend = Backend { log: Some(Box::new(broken)), ..Backend::default() };
    let api = guarded(Arc::new(backend), vec![running("web")], Access::insecure_allow_all());
    let port = Port::open(api.router(), Limits::default()).await;
    let mut http = port.http(None).await;
    let answer = within(http.send_request(request(LOG))).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "one\n");
    assert!(within(body.frame()).await.unwrap().is_err());
    port.close().await;
}

#[tokio::test]
async fn shutdown_ends_followed_logs_and_idle_connections() {
    let (log, router) = following();
    let port = Port::open(router, Limits::default()).await;
    let mut idle = port.http(None).await;
    within(idle.send_request(request("/healthz"))).await.unwrap();
    let mut http = port.http(None).await;
    let answer = within(http.send_request(request(LOG))).await.unwrap();
    let (address, roots) = (port.address, port.roots.clone());
    port.close().await;
    assert!(
        within(answer.into_body().collect()).await.is_err(),
        "a log that goes on was ended as if complete"
    );
    within(poll_fn(|cx| idle.poll_ready(cx))).await.unwrap_err();
    within(log.closed()).await;
    assert!(TcpStream::connect(address).await.is_err(), "still accepts");
    drop(roots);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_closed_and_holds_nobody_up() {
    let port = Port::open(open_to_all(), Limits::default()).await;
    let began = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    // Time is paused: it moves only when nothing else can happen, to the next deadline, the handshake's.
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), Limits::default().handshake.as_secs());
    port.close().await;
}

#[tokio::test]
async fn a_slow_handshake_does_not_stall_the_next_connection() {
    let port = Port::open(open_to_all(), Limits::default()).await;
    let mut slow = TcpStream::connect(port.address).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    assert_eq!(status(&port, None, "/healthz").await, 200);
    port.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_closed_soon_and_one_that_has_asked_later() {
    // Client and server share the paused clock: it stands still while either has bytes to read.
    let limits = Limits::default();
    let port = Port::open(open_to_all(), limits).await;
    let mut stream = port.tls(None).await.unwrap();
    let began = tokio::time::Instant::now();
    // Without a farewell.
    let end = stream.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(began.elapsed().as_secs(), limits.first_request.as_secs());

    let mut http = port.http(None).await;
    http.send_request(request("/healthz")).await.unwrap().into_body().collect().await.unwrap();
    let began = tokio::time::Instant::now();
    while poll_fn(|cx| http.poll_ready(cx)).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // As precisely as it was looked at.
    assert!((limits.idle..limits.idle + Duration::from_secs(2)).contains(&began.elapsed()));
    port.close().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let port = Port::open(open_to_all(), Limits { buffer: 8192, ..Limits::default() }).await;
    let mut stream = port.tls(None).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: ").await.unwrap();
    // The server may close before all of it is written.
    let _ = stream.write_all(&[b'x'; 16 * 1024]).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    port.close().await;
}

#[tokio::test]
async fn more_connections_than_allowed_are_closed_and_room_is_made_when_one_ends() {
    let port = Port::open(open_to_all(), Limits { connections: 1, ..Limits::default() }).await;
    let mut first = port.http(None).await;
    within(first.send_request(request("/healthz"))).await.unwrap();
    assert!(within(port.tls(None)).await.is_err());
    within(first.send_request(request("/healthz"))).await.unwrap();
    drop(first);
    // The server sees the end when it gets to it.
    within(async { while port.tls(None).await.is_err() {} }).await;
    port.close().await;
}

/// Upgrades whatever is asked, and repeats what it hears until the client leaves or the server has had enough.
fn upgrading() -> Router {
    Router::new().fallback(|mut request: axum::extract::Request| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        let connection = request.extensions().get::<Connection>().cloned().unwrap();
        connection.admit();
        tokio::spawn(async move {
            let stream = TokioIo::new(upgrade.await.unwrap());
            let (mut read, mut write) = tokio::io::split(stream);
            tokio::select! {
                // However the client leaves.
                _ = tokio::io::copy(&mut read, &mut write) => {}
                () = connection.abort().cancelled() => {}
            }
        });
        let response = http::Response::builder().status(101).header("connection", "upgrade");
        response.header("upgrade", "SPDY/3.1").body(Body::empty()).unwrap()
    })
}

async fn upgraded(port: &Port) -> TokioIo<hyper::upgrade::Upgraded> {
    let stream = port.tls(None).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::post("/exec").header("connection", "upgrade").header("upgrade", "SPDY/3.1");
    let answer = within(sender.send_request(request.body(Empty::new()).unwrap())).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut stream = TokioIo::new(within(hyper::upgrade::on(answer)).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    let mut bytes = [0; 4];
    within(stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"ping");
    stream
}

#[tokio::test]
async fn an_upgrade_carries_bytes_both_ways_and_holds_its_place() {
    let port = Port::open(upgrading(), Limits { connections: 1, ..Limits::default() }).await;
    let stream = upgraded(&port).await;
    assert!(within(port.tls(None)).await.is_err(), "an upgraded connection does not count");
    assert_eq!(port.count("vk_connections_open"), 1);
    drop(stream);
    within(async { while port.tls(None).await.is_err() {} }).await;
    port.close().await;
}

#[tokio::test]
async fn the_drain_waits_for_upgraded_connections_and_cuts_them_at_its_end() {
    let port = Port::open(upgrading(), Limits { drain: Duration::from_mins(1), ..Limits::default() }).await;
    let stream = upgraded(&port).await;
    port.shutdown.cancel();
    // The listener's end is the first thing that a shutdown does.
    within(async { while TcpStream::connect(port.address).await.is_ok() {} }).await;
    assert!(!port.server.is_finished(), "a session goes on");
    drop(stream);
    within(port.server).await.unwrap();

    let port =
        Port::open(upgrading(), Limits { drain: Duration::from_millis(10), ..Limits::default() }).await;
    let mut stream = upgraded(&port).await;
    port.close().await;
    // However a cut connection shows.
    assert!(!matches!(within(stream.read(&mut [0; 16])).await, Ok(1..)));
}
