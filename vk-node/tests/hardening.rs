//! The daemon among callers that mean harm: what they cost it is bounded and counted, nobody else notices them, and
//! when they are gone it has everything back. Memory is the process's own, as the kernel tells it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vk_apiserver::{ApiServer, Config, Serving};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// What the kubelet API bears at once of callers that have not been let in.
const CONNECTIONS: u64 = 1024;
/// What a connection may cost at most: a head of 64 KiB as it is read and once more as TLS had it, and its tasks.
const EACH: u64 = 192 * 1024;
const MIB: u64 = 1 << 20;

struct Daemon {
    child: Child,
    address: SocketAddr,
    tls: TlsConnector,
    _server: ApiServer,
    _serving: Serving,
    _home: tempfile::TempDir,
}

impl Daemon {
    async fn start() -> Self {
        raise_open_files();
        let server = ApiServer::with(Config::default()).unwrap();
        let serving = server.serve_tls(([127, 0, 0, 1], 0).into()).await.unwrap();
        let home = tempfile::tempdir().unwrap();
        serving.write_kubeconfig(&home.path().join("kubeconfig")).unwrap();
        let tls = certificate(home.path());
        let child = Command::new(env!("CARGO_BIN_EXE_vk-node"))
            .args(["--provider=mock", "--nodename=n", "--listen=127.0.0.1", "--port=0"])
            .args(["--tls-cert-file=tls.crt", "--tls-private-key-file=tls.key", "--kubeconfig=kubeconfig"])
            // Others are told from attackers by being let in.
            .args(["--insecure-allow-anonymous", "--log-level=error"])
            .env_clear()
            .current_dir(home.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let nodes: Api<Node> = Api::all(server.client());
        let port = eventually("the node serves its kubelet API", async || {
            let status = nodes.get_opt("n").await.unwrap()?.status?;
            let ready = status.conditions?.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
            let port = status.daemon_endpoints?.kubelet_endpoint?.port;
            ready.then_some(port)
        })
        .await;
        let address = ([127, 0, 0, 1], u16::try_from(port).unwrap()).into();
        Self { child, address, tls, _server: server, _serving: serving, _home: home }
    }

    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        self.tls.connect(ServerName::from(self.address.ip()), stream).await
    }

    /// A line of one of the process's files below `/proc`, as a number.
    fn proc(&self, file: &str, line: &str) -> u64 {
        let path = format!("/proc/{}/{file}", self.child.id().expect("the daemon runs"));
        let text = std::fs::read_to_string(path).unwrap();
        let value = text.lines().find_map(|found| found.strip_prefix(line)).expect(line);
        value.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Memory that is its own now, in bytes.
    fn resident(&self) -> u64 {
        self.proc("status", "VmRSS:") * 1024
    }

    /// The most it has been so far.
    fn peak(&self) -> u64 {
        self.proc("status", "VmHWM:") * 1024
    }

    fn open_files(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id().expect("the daemon runs"));
        std::fs::read_dir(path).unwrap().count()
    }

    /// What somebody else gets for a request.
    async fn ask(&self, path: &str) -> String {
        let asked = async {
            let mut stream = self.connect().await?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            // The server may end without a farewell once everything is said.
            let _ = stream.read_to_end(&mut answer).await;
            std::io::Result::Ok(String::from_utf8(answer).unwrap())
        };
        timeout(PATIENCE, asked).await.expect("an answer in time").expect("an answer")
    }

    async fn serves_others(&self) {
        let answer = self.ask("/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    /// A sample of its metrics; 0 while it is not there.
    async fn count(&self, sample: &str) -> u64 {
        let text = self.ask("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }

    async fn refused(&self, reason: &str) -> u64 {
        self.count(&format!("vk_connections_refused_total{{reason=\"{reason}\"}}")).await
    }

    /// Waits until nobody is connected but the one that asks.
    async fn deserted(&self) {
        eventually("every connection is given back", async || {
            (self.count("vk_connections_open").await <= 1).then_some(())
        })
        .await;
    }
}

fn raise_open_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert!(hard >= 4096, "this test opens 2,000 connections; the hard limit on open files is {hard}");
}

/// Puts a serving certificate into a folder; a client's side that trusts it.
fn certificate(folder: &Path) -> TlsConnector {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: never");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Reads until the other side ends it, however it does.
async fn listen(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut bytes = [0; 4096];
    while matches!(stream.read(&mut bytes).await, Ok(1..)) {}
}

/// One kind of harm, many times at once, with others' requests between; what it is counted as, and how often at
/// least. Ends with the last attacker gone.
async fn attack<F>(daemon: &Arc<Daemon>, times: usize, harm: impl Fn(Arc<Daemon>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut attackers = JoinSet::new();
    for n in 0..times {
        attackers.spawn(harm(Arc::clone(daemon)));
        if n % 100 == 99 {
            daemon.serves_others().await;
        }
    }
    daemon.serves_others().await;
    attackers.shutdown().await;
    daemon.deserted().await;
}

async fn silence(daemon: Arc<Daemon>) {
    listen(TcpStream::connect(daemon.address).await.unwrap()).await;
}

/// The beginning of a handshake, and no more of it; the other half of the connection is closed.
async fn half_a_handshake(daemon: Arc<Daemon>) {
    let mut stream = TcpStream::connect(daemon.address).await.unwrap();
    let _ = stream.write_all(&[22, 3, 1, 2, 0, 1]).await;
    listen(stream).await;
}

async fn half_open(daemon: Arc<Daemon>) {
    let Ok(mut stream) = daemon.connect().await else { return };
    let _ = stream.get_mut().0.shutdown().await;
    std::future::pending::<()>().await;
}

async fn garbage(daemon: Arc<Daemon>) {
    let mut stream = TcpStream::connect(daemon.address).await.unwrap();
    let _ = stream.write_all(&[0xff; 4096]).await;
    listen(stream).await;
}

async fn a_megabyte_of_head(daemon: Arc<Daemon>) {
    // Made way for somebody else, or was refused in the middle of it.
    let Ok(mut stream) = daemon.connect().await else { return };
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: n\r\nx: ").await;
    let _ = stream.write_all(&vec![b'x'; 1 << 20]).await;
    listen(stream).await;
}

/// Just below what is borne, and then not the end of it.
async fn most_of_a_head(daemon: Arc<Daemon>) {
    let Ok(mut stream) = daemon.connect().await else { return };
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: n\r\nx: ").await;
    let _ = stream.write_all(&vec![b'x'; 60 * 1024]).await;
    let _ = stream.flush().await;
    listen(stream).await;
}

async fn a_slow_body(daemon: Arc<Daemon>) {
    let Ok(mut stream) = daemon.connect().await else { return };
    let head = b"POST /run/default/nopod/a HTTP/1.1\r\nhost: n\r\ncontent-length: 1000000000\r\n\r\n";
    let _ = stream.write_all(head).await;
    while stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Asks and asks, and takes no answer.
async fn deafness(daemon: Arc<Daemon>) {
    let Ok(mut stream) = daemon.connect().await else { return };
    while stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: n\r\n\r\n").await.is_ok() {}
}

async fn everything(daemon: &Arc<Daemon>) {
    attack(daemon, 2_000, silence).await;
    attack(daemon, 2_000, half_a_handshake).await;
    attack(daemon, 500, half_open).await;
    attack(daemon, 500, garbage).await;
    attack(daemon, 200, a_megabyte_of_head).await;
    attack(daemon, 1_200, most_of_a_head).await;
    attack(daemon, 200, a_slow_body).await;
    attack(daemon, 50, deafness).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_who_mean_harm_cost_bounded_memory_and_nobody_else_notices() {
    let daemon = Arc::new(Daemon::start().await);
    daemon.serves_others().await;
    let (before, files) = (daemon.resident(), daemon.open_files());
    let bound = before + CONNECTIONS * EACH;
    eprintln!("resident: {} MiB before", before / MIB);
    let mut peaks = Vec::new();
    for _ in 0..5 {
        everything(&daemon).await;
        let peak = daemon.peak();
        eprintln!("resident: {} MiB at most", peak / MIB);
        assert!(peak <= bound, "{} MiB at most, more than {} MiB", peak / MIB, bound / MIB);
        peaks.push(peak);
    }
    // The allocator takes a few rounds to settle. From then on what was given back is used again: what 13,000
    // connections more leave behind is less than two kilobytes each.
    assert!(peaks[4] <= peaks[2] + 24 * MIB, "it grows: {peaks:?}");
    assert!(daemon.open_files() <= files + 16, "{files} open files before, {} now", daemon.open_files());

    let least = [("full", 2_000), ("handshake-failed", 500), ("head-too-large", 100), ("body-missing", 50)];
    for (reason, least) in least {
        let counted = daemon.refused(reason).await;
        eprintln!("{counted} refused: {reason}");
        assert!(counted >= least, "{reason}: {counted}");
    }
    // Of 33,000. On a busy machine many are gone again before they are taken in.
    let accepted = daemon.count("vk_connections_accepted_total").await;
    assert!(accepted >= 16_000, "{accepted}");
}
