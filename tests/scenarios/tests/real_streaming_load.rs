//! What streams cost, and what becomes of them when somebody is slow, or gone. Figures go to standard error.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Child;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use vk_scenarios::streaming::{PATIENCE, pattern};
use vk_scenarios::{Streaming, eventually, eventually_within};

const MIB: usize = 1 << 20;

/// Sends so many bytes of the pattern.
async fn send(mut to: impl AsyncWrite + Unpin, bytes: usize) {
    let pattern = pattern(251 * 256);
    let mut sent = 0;
    while sent < bytes {
        let length = pattern.len().min(bytes - sent);
        to.write_all(&pattern[..length]).await.unwrap();
        sent += length;
    }
    to.shutdown().await.unwrap();
}

/// Reads to the end, and returns how many bytes there were. Each must be the pattern's.
async fn receive(mut from: impl AsyncRead + Unpin, pause: Duration) -> usize {
    let pattern = pattern(251 + 64 * 1024);
    let (mut received, mut chunk) = (0, vec![0; 64 * 1024]);
    loop {
        let length = from.read(&mut chunk).await.unwrap();
        if length == 0 {
            return received;
        }
        let begin = received % 251;
        assert!(
            chunk[..length] == pattern[begin..begin + length],
            "other bytes than were sent, at {received}"
        );
        received += length;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Tells the rate and the growth of the daemon's memory, which must be bounded.
async fn measured(streaming: &Streaming, what: &str, bytes: usize, work: impl Future<Output = ()>) {
    streaming.forget_peak();
    let (before, begin) = (streaming.memory("VmRSS"), Instant::now());
    tokio::time::timeout(PATIENCE * 3, work).await.expect("it ends");
    let (spent, peak) = (begin.elapsed(), streaming.memory("VmHWM"));
    let growth = peak.saturating_sub(before) as f64 / MIB as f64;
    let rate = (bytes / MIB) as f64 / spent.as_secs_f64();
    eprintln!("{what}: {} MiB at {rate:.0} MiB/s, peak growth {growth:.1} MiB", bytes / MIB);
    assert!(growth < 32.0, "{what}: the daemon grew by {growth:.1} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_goes_through_at_bounded_memory() {
    const GIB: usize = 1 << 30;
    let mut streaming = Streaming::start(true).await;
    for spdy in [false, true] {
        streaming.spdy = spdy;
        let over = if spdy { "SPDY" } else { "WebSocket" };
        let exec = async {
            let mut child =
                streaming.kubectl(&["exec", "-i", "web", "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
            let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let ((), received) = tokio::join!(send(stdin, GIB), receive(stdout, Duration::ZERO));
            assert_eq!(received, GIB);
            assert!(child.wait().await.unwrap().success());
        };
        measured(&streaming, &format!("exec, {over}"), GIB, exec).await;
        let forward = async {
            let mut forward = streaming.forward().await;
            let mut socket = TcpStream::connect(forward.open).await.unwrap();
            let head = format!("POST / HTTP/1.1\r\nContent-Length: {GIB}\r\nConnection: close\r\n\r\n");
            socket.write_all(head.as_bytes()).await.unwrap();
            let (mut read, write) = socket.split();
            let back = async {
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\n") {
                    answer.push(read.read_u8().await.unwrap());
                }
                receive(read, Duration::ZERO).await
            };
            let ((), received) = tokio::join!(send(write, GIB), back);
            assert_eq!(received, GIB);
            forward.child.kill().await.unwrap();
        };
        measured(&streaming, &format!("port-forward, {over}"), GIB, forward).await;
    }
    streaming.until_quiet().await;
    streaming.end().await;
}

/// Its output is far more than all buffers hold, and its exit code is 7.
fn talker(streaming: &Streaming, bytes: usize) -> Child {
    let script = format!("bytes {bytes}; exit 7");
    streaming.kubectl(&["exec", "web", "--", "sh", "-c", &script]).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_stalled_readers_lose_nothing_and_hold_nobody_up() {
    let mut streaming = Streaming::start(true).await;
    let mut stalled = Vec::new();
    for spdy in [false, true] {
        streaming.spdy = spdy;
        stalled.push(talker(&streaming, 64 * MIB));
    }
    // Longer than a client's machine is believed in without a sign of life: this one is there.
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < Duration::from_secs(50) {
        for spdy in [false, true] {
            streaming.spdy = spdy;
            streaming.commands().await;
        }
        rounds += 1;
    }
    eprintln!("{rounds} rounds of commands beside two stalled readers");
    for spdy in [false, true] {
        streaming.spdy = spdy;
        let mut slow = talker(&streaming, 16 * MIB);
        let stdout = slow.stdout.take().unwrap();
        assert_eq!(receive(stdout, Duration::from_millis(4)).await, 16 * MIB);
        assert_eq!(slow.wait().await.unwrap().code(), Some(7));
    }
    for mut stalled in stalled {
        let stdout = stalled.stdout.take().unwrap();
        assert_eq!(receive(stdout, Duration::ZERO).await, 64 * MIB);
        assert_eq!(stalled.wait().await.unwrap().code(), Some(7));
    }
    streaming.until_quiet().await;
    streaming.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_commands_and_a_thousand_connections_at_once() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let streaming = Streaming::start(true).await;
    let pods: Api<Pod> = streaming.world.api();
    let params = AttachParams::default().stdin(true).stdout(true).stderr(false);
    let empty = streaming.memory("VmRSS");
    let one = async || {
        let mut process = pods.exec("web", ["cat"], &params).await.unwrap();
        let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
        stdin.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        stdout.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        (process, stdin, stdout)
    };
    let mut sessions = Vec::new();
    // Few at a time come, for the API server's sake; all of them stay.
    for _ in 0..20 {
        sessions.extend(join_all((0..25).map(|_| one())).await);
    }
    assert_eq!(streaming.metric("vk_streams_open{kind=\"exec\"}").await, 500);
    let each = streaming.memory("VmRSS").saturating_sub(empty) / 500;
    eprintln!("500 exec sessions: {} KiB each, idle", each >> 10);
    assert!(each < 256 << 10, "{each} bytes for an idle session");

    let before = streaming.memory("VmRSS");
    let mut forward = streaming.forward().await;
    let open = async |_| {
        let mut socket = TcpStream::connect(forward.open).await.unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        socket
    };
    let sockets = join_all((0..1000).map(open));
    let sockets = tokio::time::timeout(PATIENCE, sockets).await.expect("a thousand connections");
    let each = streaming.memory("VmRSS").saturating_sub(before) / 1000;
    eprintln!("1,000 forwarded connections: {} KiB each, idle", each >> 10);
    // All of them are still of use.
    for (_, stdin, stdout) in &mut sessions {
        stdin.write_all(b"again").await.unwrap();
        let mut heard = [0; 5];
        stdout.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"again");
    }
    drop((sockets, sessions));
    forward.child.kill().await.unwrap();
    streaming.until_quiet().await;
    streaming.end().await;
}

/// A client of the node itself, at an address of its own.
struct Direct {
    tls: TlsConnector,
    node: SocketAddr,
    namespace: String,
}

impl Direct {
    fn new(streaming: &Streaming) -> Self {
        let pki = streaming.world.real_plane().pki().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.authority()).unwrap()).unwrap();
        let admin = pki.pair("admin");
        let chain = vec![CertificateDer::from_pem_file(admin.certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(admin.key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
        let tls = TlsConnector::from(Arc::new(config));
        Self { tls, node: streaming.address, namespace: streaming.world.namespace.clone() }
    }

    async fn exec(&self, from: IpAddr, script: &str) -> WebSocketStream<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let stream = socket.connect(self.node).await.unwrap();
        let stream = self.tls.connect(ServerName::from(self.node.ip()), stream).await.unwrap();
        // A kubelet passes over a parameter with a bare semicolon in it, as Go's net/url does.
        let script = script.replace(' ', "+").replace(';', "%3B");
        let words = format!("command=sh&command=-c&command={script}");
        let uri = format!("wss://{}/exec/{}/web/a?input=1&output=1&{words}", self.node, self.namespace);
        let request = ClientRequestBuilder::new(uri.parse().unwrap()).with_sub_protocol("v5.channel.k8s.io");
        tokio_tungstenite::client_async(request, stream).await.unwrap().0
    }
}

async fn ip(words: &[&str]) {
    let output = tokio::process::Command::new("ip").args(words).output().await.unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
}

/// How many execs the node counts.
async fn until_execs(streaming: &Streaming, wanted: u64) {
    let what = format!("{wanted} execs are open");
    eventually(&what, async || {
        let open = streaming.metric("vk_streams_open{kind=\"exec\"}").await;
        if open == wanted { Ok(()) } else { Err(open) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_killed_cut_off_or_gone_without_a_word_leave_nothing_behind() {
    let mut streaming = Streaming::start(true).await;
    // Killed, in the middle of everything.
    let mut killed = Vec::new();
    for spdy in [false, true] {
        streaming.spdy = spdy;
        killed.push(talker(&streaming, 1 << 30));
        killed.push(streaming.kubectl(&["exec", "web", "--", "sleep", "1000"]).spawn().unwrap());
        killed.push(streaming.kubectl(&["attach", "web"]).spawn().unwrap());
        killed.push(streaming.forward().await.child);
    }
    until_execs(&streaming, 4).await;
    for mut killed in killed {
        let pid = Pid::from_raw(killed.id().unwrap().cast_signed());
        kill(pid, Signal::SIGKILL).unwrap();
        killed.wait().await.unwrap();
    }
    streaming.until_quiet().await;

    // Cut off: the connection breaks, with bytes under way in both directions.
    let direct = Direct::new(&streaming);
    let here = streaming.address.ip();
    let cut = direct.exec(here, "bytes 1000000000").await;
    until_execs(&streaming, 1).await;
    #[expect(deprecated, reason = "zero is the reset that is wanted here, and never blocks")]
    cut.get_ref().get_ref().0.set_linger(Some(Duration::ZERO)).unwrap();
    drop(cut);
    streaming.until_quiet().await;

    // Gone without a word: its address is no longer there, and nothing comes from it. One such client was idle,
    // one was being sent to; a third one is there, and reads nothing for as long.
    let gone = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
    ip(&["address", "add", &format!("{gone}/32"), "dev", "lo"]).await;
    let idle = direct.exec(gone, "sleep 1000").await;
    let listening = direct.exec(gone, "bytes 1000000000").await;
    let mut stalled = direct.exec(here, "bytes 33554432; exit 7").await;
    until_execs(&streaming, 3).await;
    ip(&["address", "del", &format!("{gone}/32"), "dev", "lo"]).await;
    let begin = Instant::now();
    eventually_within("what is gone is found out", Duration::from_secs(90), async || {
        let open = streaming.metric("vk_streams_open{kind=\"exec\"}").await;
        if open <= 1 { Ok(()) } else { Err(open) }
    })
    .await;
    eprintln!("machines that are gone were found out after {} s", begin.elapsed().as_secs());
    drop((idle, listening));
    let (mut received, mut last) = (0, Vec::new());
    while let Some(message) = stalled.next().await {
        match message.unwrap() {
            Message::Binary(bytes) if bytes[0] == 1 => received += bytes.len() - 1,
            Message::Binary(bytes) => last = bytes.to_vec(),
            Message::Close(_) => break,
            _ => {}
        }
    }
    drop(stalled);
    assert_eq!(received, 32 * MIB, "who reads late loses nothing");
    assert!(
        String::from_utf8_lossy(&last).contains("\"message\":\"7\""),
        "{}",
        String::from_utf8_lossy(&last)
    );
    streaming.until_quiet().await;
    streaming.end().await;
}
