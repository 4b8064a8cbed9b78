//! Callers of the kubelet API whose machines vanish: in the control plane's network namespace an address can be taken
//! away without anybody being told. Run by `cargo xtask test real`.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vk_scenarios::virtual_node::{condition, delete_object};
use vk_scenarios::{World, daemon, eventually, eventually_within};

/// An address of documentation (RFC 5737) that nobody in the namespace has.
const AWAY: &str = "198.51.100.77";
/// Shorter than an idle connection is kept (`vk_core::api::Limits::idle`, 95 s), longer than a vanished one
/// (`half_open`, 30 s).
const PATIENCE: Duration = Duration::from_secs(75);
const CALLERS: usize = 20;

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {complaint}", arguments.join(" "));
}

/// The certificate is not what this is about.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection from an address, by which one request was answered and which then stays.
async fn call(from: IpAddr, to: SocketAddr, path: &str) -> (TlsStream<TcpStream>, String) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("the address is there");
    let stream = socket.connect(to).await.expect("a connection");
    let tls = TlsConnector::from(Arc::new(config));
    let mut stream = tls.connect(ServerName::from(to.ip()), stream).await.expect("a handshake");
    let request = format!("GET {path} HTTP/1.1\r\nhost: n\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it is taken");
    let (mut answer, mut chunk) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let read = stream.read(&mut chunk).await.expect("an answer");
        assert!(read > 0, "the answer breaks off");
        answer.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("its length").parse().expect("a number");
        if body.len() >= length {
            return (stream, body.to_owned());
        }
    }
}

async fn open(to: SocketAddr) -> usize {
    let (_, metrics) = call(to.ip(), to, "/metrics").await;
    let value = metrics.lines().find_map(|line| line.strip_prefix("vk_connections_open "));
    value.expect("the figure").trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_machines_that_vanish_are_found_out_and_given_back() {
    let world = World::real().await;
    let node = world.node_name();
    let address: IpAddr = std::env::var("NODE_ADDRESS").expect("the node's address").parse().unwrap();
    let mut child = daemon::command()
        .args(["--provider=mock", "--port=0", "--log-level=error", "--insecure-allow-anonymous"])
        .args(["--nodename", &node, &format!("--node-ip={address}")])
        .env("KUBECONFIG", world.real_plane().kubeconfig())
        .spawn()
        .expect("the daemon starts");
    let nodes: Api<Node> = Api::all(world.client());
    let port = eventually("the node serves its kubelet API", async || {
        let object = nodes.get_opt(&node).await.map_err(|error| error.to_string())?.ok_or("no node")?;
        let ready = condition(&object, "Ready").is_some_and(|ready| ready.status == "True");
        let port = object.status.and_then(|status| status.daemon_endpoints?.kubelet_endpoint);
        port.filter(|_| ready).map(|endpoint| endpoint.port).ok_or_else(|| "not ready".to_owned())
    })
    .await;
    let api = SocketAddr::new(address, u16::try_from(port).expect("a port"));

    ip(&["address", "add", &format!("{AWAY}/32"), "dev", "lo"]);
    let away: IpAddr = AWAY.parse().unwrap();
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        callers.push(call(away, api, "/healthz").await.0);
    }
    assert!(open(api).await > CALLERS, "they stay");
    // From here on nothing reaches them, and nothing comes from them.
    ip(&["address", "del", &format!("{AWAY}/32"), "dev", "lo"]);
    ip(&["route", "add", "blackhole", AWAY]);
    let vanished = Instant::now();
    eventually_within("the connections are given back", PATIENCE, async || {
        let open = open(api).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        if open <= 2 { Ok(()) } else { Err(open) }
    })
    .await;
    eprintln!("{CALLERS} connections were given back after {:?}", vanished.elapsed());
    ip(&["route", "del", "blackhole", AWAY]);
    drop(callers);
    child.kill().await.expect("the daemon is killed");
    delete_object(&world, &node).await;
    world.clean_up().await;
}
