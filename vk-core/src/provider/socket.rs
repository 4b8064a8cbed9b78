//! Sessions of backends that hand out a WebSocket's address for them.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Uri};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use super::error::{Error, Result};
use super::io::{ExecIo, ExitStatus, Reader, Writer};
use super::resolved::Value;
use super::trust::Trust;

/// From the connection to the end of the handshake.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the backend hears of us at least: what is between forgets connections that are silent for minutes.
const PING: Duration = Duration::from_secs(20);
/// Bytes of input in a message, at most.
const CHUNK: usize = 32 * 1024;
/// Bytes of the backend's messages, at most.
const MAX_MESSAGE: usize = 16 << 20;

/// An exec or attach that goes on over a WebSocket: input as binary messages, output as binary or text ones, both
/// without any framing of their own, and closed by the backend when the command has ended.
///
/// What such a socket cannot say is not made up: the exit status is [`Unknown`](ExitStatus::Unknown), all output is
/// standard output, and window sizes stay unread for the provider to use when it asks for the socket.
///
/// ```no_run
/// # use vk_core::provider::{ExecIo, ExitStatus, Result, SocketSession, Trust, Value};
/// # async fn exec(uri: &str, password: String, trust: &Trust, io: ExecIo) -> Result<ExitStatus> {
/// // As Azure Container Instances has it: the password is the first message, and behind it is a terminal.
/// let session = SocketSession::new(uri, trust)?.with_greeting(Value::secret(password)).with_end_of_input(b"\x04");
/// session.run(io).await
/// # }
/// ```
#[derive(Clone)]
pub struct SocketSession {
    uri: Uri,
    trust: Trust,
    headers: HeaderMap,
    greeting: Option<Value>,
    end_of_input: &'static [u8],
}

impl fmt::Debug for SocketSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path and the query are often all that is asked for at the other end.
        f.debug_struct("SocketSession").field("host", &self.uri.host()).finish_non_exhaustive()
    }
}

impl SocketSession {
    /// A session at a `wss://` or `ws://` address; `trust` is for the first kind.
    ///
    /// # Errors
    /// [`Error::Unexpected`] for any other address.
    pub fn new(uri: &str, trust: &Trust) -> Result<Self> {
        let parsed = uri.parse::<Uri>().ok();
        let uri = parsed.filter(|uri| matches!(uri.scheme_str(), Some("ws" | "wss")) && uri.host().is_some());
        // What was handed out may be a secret.
        let uri =
            uri.ok_or_else(|| Error::unexpected("the backend's address of a session is no WebSocket's"))?;
        Ok(Self { uri, trust: trust.clone(), headers: HeaderMap::new(), greeting: None, end_of_input: b"" })
    }

    /// Adds a header to the request for the WebSocket.
    ///
    /// # Errors
    /// [`Error::Unexpected`] for a name or a value that no header can have.
    pub fn with_header(mut self, name: &str, value: &Value) -> Result<Self> {
        let name: HeaderName =
            name.parse().map_err(|_| Error::unexpected(format!("{name:?} is no name of a header")))?;
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| Error::unexpected(format!("the backend's value of the header {name} is none")))?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Sends a text message before anything else.
    #[must_use]
    pub fn with_greeting(mut self, greeting: Value) -> Self {
        self.greeting = Some(greeting);
        self
    }

    /// Sends these bytes where the client's input ends. Nothing is sent by default: a WebSocket has no half-close.
    #[must_use]
    pub fn with_end_of_input(mut self, bytes: &'static [u8]) -> Self {
        self.end_of_input = bytes;
        self
    }

    /// Carries the streams until the backend closes the socket. Dropping the future closes it too.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the backend can't be reached or breaks off.
    pub async fn run(self, io: ExecIo) -> Result<ExitStatus> {
        let connected = tokio::time::timeout(PATIENCE, self.connect()).await;
        let socket = connected.unwrap_or_else(|_| Err(self.failed("connecting", "no answer in time")))?;
        let (stdin, output) = match io {
            ExecIo::Tty { stdin, output, resize: _ } => (stdin, Some(output)),
            ExecIo::Pipes { stdin, stdout, stderr: _ } => (stdin, stdout),
        };
        let (sink, stream) = socket.split();
        tokio::select! {
            ended = self.down(stream, output) => ended?,
            failed = self.up(sink, stdin) => return Err(failed),
        }
        Ok(ExitStatus::Unknown)
    }

    async fn connect(&self) -> Result<tokio_tungstenite::WebSocketStream<Box<dyn super::Duplex>>> {
        let secure = self.uri.scheme_str() == Some("wss");
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream =
            TcpStream::connect((host, port)).await.map_err(|error| self.failed("connecting", error))?;
        let alive = socket2::TcpKeepalive::new().with_time(PING).with_interval(PING).with_retries(2);
        let set_up = stream.set_nodelay(true);
        set_up
            .and_then(|()| socket2::SockRef::from(&stream).set_tcp_keepalive(&alive))
            .map_err(|error| self.failed("connecting", error))?;
        let stream: Box<dyn super::Duplex> = if secure {
            let name = ServerName::try_from(host.to_owned()).map_err(|error| self.failed("TLS", error))?;
            let tls = TlsConnector::from(self.trust.tls()).connect(name, stream).await;
            Box::new(tls.map_err(|error| self.failed("TLS", error))?)
        } else {
            Box::new(stream)
        };
        let mut request = ClientRequestBuilder::new(self.uri.clone());
        for (name, value) in &self.headers {
            request = request.with_header(name.as_str(), value.to_str().unwrap_or_default());
        }
        let config =
            WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let shaken = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        let (mut socket, _) =
            shaken.map_err(|error| self.failed("the WebSocket's handshake", told(&error)))?;
        if let Some(greeting) = &self.greeting {
            let greeting = Message::text(greeting.expose());
            socket.send(greeting).await.map_err(|error| self.failed("the first message", told(&error)))?;
        }
        Ok(socket)
    }

    /// Output, until the backend closes the socket.
    async fn down(
        &self,
        mut stream: impl Stream<Item = tungstenite::Result<Message>> + Unpin,
        mut output: Option<Writer>,
    ) -> Result<()> {
        let mut closing = false;
        while let Some(message) = stream.next().await {
            match message {
                Ok(message @ (Message::Binary(_) | Message::Text(_))) => {
                    let Some(client) = &mut output else { continue };
                    if client.write_all(&message.into_data()).await.is_err() {
                        // Nobody wants it any more; the command may still have something to do.
                        output = None;
                    }
                }
                // The answer to it is sent by asking for what follows.
                Ok(message) => closing |= message.is_close(),
                Err(tungstenite::Error::ConnectionClosed) => break,
                // All is said; how the connection below ends makes no difference.
                Err(_) if closing => break,
                Err(error) => return Err(self.failed("the session", told(&error))),
            }
        }
        if let Some(mut client) = output {
            // A client that is gone is told nothing.
            let _ = client.shutdown().await;
        }
        Ok(())
    }

    /// Input, and now and then a ping. Returns what went wrong; never, once the backend closes the socket, for then
    /// there is output to be read first.
    async fn up(
        &self,
        mut sink: impl Sink<Message, Error = tungstenite::Error> + Unpin,
        mut stdin: Option<Reader>,
    ) -> Error {
        let mut ping = tokio::time::interval(PING);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ping.reset();
        let mut chunk = vec![0; CHUNK];
        loop {
            let message = tokio::select! {
                _ = ping.tick() => Message::Ping(Bytes::new()),
                read = read(&mut stdin, &mut chunk) => match read {
                    0 => {
                        stdin = None;
                        if self.end_of_input.is_empty() {
                            continue;
                        }
                        Message::Binary(Bytes::from_static(self.end_of_input))
                    }
                    length => Message::Binary(Bytes::copy_from_slice(&chunk[..length])),
                },
            };
            match sink.send(message).await {
                Ok(()) => {}
                Err(tungstenite::Error::Io(error)) => return self.failed("the session", error),
                Err(_) => return std::future::pending().await,
            }
        }
    }

    fn failed(&self, what: &str, why: impl fmt::Display) -> Error {
        let host = self.uri.host().unwrap_or_default();
        Error::unavailable(format!("{what} at the backend's WebSocket ({host}) failed: {why}"))
    }
}

/// Bytes of input; none at its end, and none ever if there is no input.
async fn read(stdin: &mut Option<Reader>, chunk: &mut [u8]) -> usize {
    match stdin {
        // A client that breaks off ends its input.
        Some(stdin) => stdin.read(chunk).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

/// An error's text. That of a refused handshake would show the answer's body.
fn told(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Http(answer) => format!("it answered {}", answer.status()),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio_rustls::TlsAcceptor;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

    use super::*;
    use crate::api::tls;

    fn nobody() -> Trust {
        Trust::of(rustls::RootCertStore::empty())
    }

    /// A backend: takes the password, then repeats every line, and closes at "bye" or ^D.
    async fn backend<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
        // What clippy says of tungstenite's own signature.
        #[expect(clippy::result_large_err, reason = "the signature that tungstenite asks for")]
        let judge = |request: &Request, response: Response| match request
            .headers()
            .get("authorization")
            .map(HeaderValue::as_bytes)
        {
            None | Some(b"right") => Ok(response),
            Some(_) => {
                let mut refusal = ErrorResponse::new(Some("you said: wrong".to_owned()));
                *refusal.status_mut() = http::StatusCode::FORBIDDEN;
                Err(refusal)
            }
        };
        let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, judge).await else { return };
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("sesame[[EOM]]"));
        while let Some(Ok(message)) = socket.next().await {
            match &message {
                Message::Binary(bytes) if bytes == "break" => return,
                Message::Binary(bytes) if bytes == "bye" || bytes == "\x04" => {
                    // Far more than any buffer, in both kinds of messages, and the end right behind it.
                    for _ in 0..64 {
                        socket.feed(Message::Binary(vec![b'x'; 16 * 1024].into())).await.unwrap();
                    }
                    socket.feed(Message::text("bye\n")).await.unwrap();
                    socket.close(None).await.unwrap();
                }
                Message::Binary(_) => socket.send(message).await.unwrap(),
                _ => {}
            }
        }
    }

    async fn listening() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("ws://{}/exec?session=secret", listener.local_addr().unwrap());
        (listener, uri)
    }

    async fn plain() -> String {
        let (listener, uri) = listening().await;
        tokio::spawn(async move { backend(listener.accept().await.unwrap().0).await });
        uri
    }

    fn session(uri: &str, trust: &Trust) -> SocketSession {
        SocketSession::new(uri, trust).unwrap().with_greeting(Value::secret("sesame[[EOM]]"))
    }

    fn terminal() -> (tokio::io::DuplexStream, tokio::io::DuplexStream, ExecIo) {
        let (keyboard, stdin) = tokio::io::duplex(100);
        let (output, screen) = tokio::io::duplex(100);
        let io = ExecIo::Tty {
            stdin: Some(Box::new(stdin)),
            output: Box::new(output),
            resize: mpsc::channel(1).1,
        };
        (keyboard, screen, io)
    }

    /// A conversation, and its end by the client's end of input.
    async fn converse(session: SocketSession) {
        let (mut keyboard, mut screen, io) = terminal();
        let running = tokio::spawn(session.with_end_of_input(b"\x04").run(io));
        keyboard.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        screen.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        drop(keyboard);
        let mut rest = String::new();
        screen.read_to_string(&mut rest).await.unwrap();
        assert_eq!((rest.len(), rest.ends_with("xbye\n")), (64 * 16 * 1024 + 4, true));
        assert_eq!(running.await.unwrap().unwrap(), ExitStatus::Unknown);
    }

    #[tokio::test]
    async fn a_session_goes_on_over_the_backends_websocket_until_that_closes_it() {
        converse(session(&plain().await, &nobody())).await;
    }

    #[tokio::test]
    async fn a_secure_address_is_believed_only_with_a_certificate_that_is() {
        let own = tls::ServingCertificate::self_signed(
            "backend",
            &[std::net::Ipv4Addr::LOCALHOST.into()],
            jiff::Timestamp::now(),
        )
        .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(own.chain()[0].clone()).unwrap();
        let acceptor = TlsAcceptor::from(tls::server_config(own).unwrap());
        let (listener, uri) = listening().await;
        tokio::spawn(async move {
            loop {
                let stream = listener.accept().await.unwrap().0;
                if let Ok(stream) = acceptor.accept(stream).await {
                    tokio::spawn(backend(stream));
                }
            }
        });
        let uri = uri.replace("ws://", "wss://");
        let (_keyboard, _screen, io) = terminal();
        let error = session(&uri, &nobody()).run(io).await.unwrap_err().to_string();
        assert!(error.starts_with("TLS at the backend's WebSocket (127.0.0.1) failed"), "{error}");
        converse(session(&uri, &Trust::of(roots))).await;
    }

    #[tokio::test]
    async fn what_fails_is_an_error_that_tells_no_secret() {
        let wrong = session(&plain().await, &nobody()).with_header("Authorization", &Value::secret("no"));
        let right = session(&plain().await, &nobody()).with_header("Authorization", &Value::secret("right"));
        let (listener, nowhere) = listening().await;
        drop(listener);
        for (session, reason) in [
            (
                wrong.unwrap(),
                "the WebSocket's handshake at the backend's WebSocket (127.0.0.1) failed: it answered 403",
            ),
            (session(&nowhere, &nobody()), "connecting at the backend's WebSocket (127.0.0.1) failed"),
            // It breaks off in the middle.
            (right.unwrap(), "the session at the backend's WebSocket (127.0.0.1) failed"),
        ] {
            assert_eq!(format!("{session:?}"), "SocketSession { host: Some(\"127.0.0.1\"), .. }");
            let (mut keyboard, _screen, io) = terminal();
            keyboard.write_all(b"break").await.unwrap();
            let error = session.run(io).await.unwrap_err().to_string();
            assert!(error.starts_with(reason), "{error}");
            assert!(!error.contains("secret") && !error.contains("wrong"), "{error}");
        }
        assert!(SocketSession::new("https://example.com", &nobody()).is_err());
        assert!(SocketSession::new("", &nobody()).is_err());
        let odd = session(&nowhere, &nobody()).with_header("no name", &Value::plain("x")).unwrap_err();
        assert_eq!(odd.to_string(), "\"no name\" is no name of a header");
    }

    #[tokio::test]
    async fn dropping_a_session_closes_its_socket_and_pipes_get_everything_as_standard_output() {
        let (listener, uri) = listening().await;
        let (stdout, mut out) = tokio::io::duplex(100);
        let io = ExecIo::Pipes { stdin: None, stdout: Some(Box::new(stdout)), stderr: None };
        let running = tokio::spawn(session(&uri, &nobody()).run(io));
        let stream = listener.accept().await.unwrap().0;
        let mut socket: WebSocketStream<TcpStream> = tokio_tungstenite::accept_async(stream).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap().is_text());
        socket.send(Message::text("out")).await.unwrap();
        let mut heard = [0; 3];
        out.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"out");
        running.abort();
        assert!(!matches!(socket.next().await, Some(Ok(_))), "it is gone");
    }
}
