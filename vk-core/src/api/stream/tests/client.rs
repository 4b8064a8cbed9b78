//! Clients: an upgraded connection, SPDY frames on it, or WebSocket messages.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tower::ServiceExt as _;

use super::super::super::KubeletApi;
use super::super::spdy::{Decoder, Encoder, Frame, Headers, Limits, StreamId};

/// Bytes on their way in either direction: little, so that whoever is slow is noticed.
const PIPE: usize = 16 * 1024;

/// What an upgrade is answered with.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    pub(super) io: Option<TokioIo<Upgraded>>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Sends a request over a connection of its own.
pub(super) async fn ask(api: &KubeletApi, request: Request<Body>) -> Answer {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let router = api.router();
    tokio::spawn(async move {
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            router.clone().oneshot(request.map(Body::new))
        });
        let server =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
        let _ = server.with_upgrades().await;
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut response = sender.send_request(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        return Answer { status, headers, body: String::new(), io: Some(io) };
    }
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Answer { status, headers, body: String::from_utf8(body.to_vec()).unwrap(), io: None }
}

/// A request for SPDY with these protocols.
pub(super) fn spdy(path: &str, protocols: &[&str]) -> Request<Body> {
    let request = Request::post(path).header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
    let request =
        protocols.iter().fold(request, |request, name| request.header("x-stream-protocol-version", *name));
    request.body(Body::empty()).unwrap()
}

/// A request for a WebSocket with this list of sub-protocols.
pub(super) fn websocket(path: &str, protocols: &str) -> Request<Body> {
    let request = Request::get(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let request =
        if protocols.is_empty() { request } else { request.header("sec-websocket-protocol", protocols) };
    request.body(Body::empty()).unwrap()
}

/// SPDY, from the client's side.
pub(super) struct Spdy<S> {
    io: S,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
    next: StreamId,
}

impl Spdy<TokioIo<Upgraded>> {
    pub(super) async fn connect(api: &KubeletApi, path: &str, protocol: &str) -> Self {
        let answer = ask(api, spdy(path, &[protocol])).await;
        assert_eq!(answer.status, 101, "{}", answer.body);
        assert_eq!(answer.header("x-stream-protocol-version"), Some(protocol));
        Self::over(answer.io.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Spdy<S> {
    pub(super) fn over(io: S) -> Self {
        let (encoder, decoder) = (Encoder::new(), Decoder::new(Limits::default()));
        Self { io, encoder, decoder, buffer: BytesMut::new(), next: 1 }
    }

    pub(super) async fn send(&mut self, frame: &Frame) {
        let mut wire = BytesMut::new();
        self.encoder.encode(frame, &mut wire);
        self.io.write_all(&wire).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// Opens a stream without waiting for the answer.
    pub(super) async fn syn(&mut self, headers: &[(&str, &str)], fin: bool) -> StreamId {
        let id = self.next;
        self.next += 2;
        let headers = headers.iter().fold(Headers::new(), |all, (name, value)| all.with(name, value));
        let frame = Frame::SynStream { id, associated: 0, priority: 0, fin, unidirectional: false, headers };
        self.send(&frame).await;
        id
    }

    /// Opens a stream, which must be accepted before anything else is said.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> StreamId {
        let id = self.syn(headers, false).await;
        assert_eq!(self.receive().await, Some(Frame::SynReply { id, fin: false, headers: Headers::new() }));
        id
    }

    pub(super) async fn data(&mut self, id: StreamId, data: &[u8], fin: bool) {
        self.send(&Frame::Data { id, fin, data: Bytes::copy_from_slice(data) }).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub(super) async fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            let read = self.io.read_buf(&mut self.buffer);
            let read = tokio::time::timeout(Duration::from_hours(24), read).await.expect("it hangs");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Everything until the stream ends, as a line for each kind of thing said on each stream, data joined.
    pub(super) async fn until_end_of(&mut self, last: StreamId) -> Vec<(StreamId, String)> {
        let mut said: Vec<(StreamId, String)> = Vec::new();
        loop {
            let frame = self.receive().await.expect("the connection ended first");
            match &frame {
                Frame::Data { id, fin, data } => {
                    let text = String::from_utf8_lossy(data);
                    match said.last_mut() {
                        Some((previous, line)) if previous == id && !line.ends_with('.') => {
                            line.push_str(&text);
                        }
                        _ => said.push((*id, text.into_owned())),
                    }
                    if *fin {
                        said.last_mut().unwrap().1.push('.');
                    }
                    if *fin && *id == last {
                        return said;
                    }
                }
                Frame::RstStream { id, status } => said.push((*id, format!("{status:?}."))),
                other => said.push((0, format!("{other:?}"))),
            }
        }
    }
}

/// The client's side of a WebSocket.
pub(super) async fn messages(
    api: &KubeletApi,
    path: &str,
    protocols: &str,
) -> WebSocketStream<TokioIo<Upgraded>> {
    let answer = ask(api, websocket(path, protocols)).await;
    assert_eq!(answer.status, 101, "{}", answer.body);
    // RFC 6455's own example.
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    WebSocketStream::from_raw_socket(answer.io.unwrap(), Role::Client, None).await
}
