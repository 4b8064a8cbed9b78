//! exec, attach, port-forward and cp as kubectl types them, through a real API server: WebSockets that it hands
//! on to a node that declares them, WebSockets that it translates to SPDY for one that does not, and SPDY that it
//! passes through for clients of either.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use vk_scenarios::{World, daemon, eventually};

/// How long any one command may take.
const PATIENCE: Duration = Duration::from_mins(2);
/// Bytes that go both ways: more than every buffer between the two ends.
const LARGE: usize = 64 << 20;
/// What a node declares that takes WebSockets.
const FEATURE: &str = "ExtendWebSocketsToKubelet";

/// A daemon with a pod `web`, whose container `a` declares port 80.
struct Streaming {
    world: World,
    node: String,
    daemon: Child,
    /// Whether kubectl is to speak SPDY.
    spdy: bool,
    folder: tempfile::TempDir,
}

impl Streaming {
    async fn start(declared: bool) -> Self {
        let world = World::real().await;
        let (node, folder) = (world.node_name(), tempfile::tempdir().unwrap());
        let address: IpAddr = world.real_plane().node_address().expect("the node's address");
        let serving = world.real_plane().serving_cert(&node, address).unwrap();
        let daemon = daemon::command()
            .args(["--provider=mock", "--port=0", "--nodename", &node])
            .arg(format!("--node-ip={address}"))
            .arg(format!("--websocket-streams={declared}"))
            .arg("--kubeconfig")
            .arg(world.real_plane().kubeconfig())
            .arg("--tls-cert-file")
            .arg(&serving.certificate)
            .arg("--tls-private-key-file")
            .arg(&serving.key)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let streaming = Self { world, node, daemon, spdy: false, folder };
        streaming.until_ready(declared).await;
        streaming
    }

    async fn until_ready(&self, declared: bool) {
        let nodes: Api<Node> = Api::all(self.world.client());
        eventually("the node is Ready, and declares what it should", async || {
            let node =
                nodes.get_opt(&self.node).await.map_err(|error| error.to_string())?.ok_or("no node")?;
            let status = node.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
            let declares = status.declared_features.unwrap_or_default().iter().any(|name| name == FEATURE);
            if ready && declares == declared { Ok(()) } else { Err(format!("{ready} {declares}")) }
        })
        .await;
        let pod = json!({
            "metadata": {"name": "web"},
            "spec": {
                "nodeName": self.node, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "a", "image": "web", "ports": [{"containerPort": 80}]}],
            },
        });
        let pods: Api<Pod> = self.world.api();
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        eventually("the pod runs", async || {
            let status = pods.get("web").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
            if status.phase.as_deref() == Some("Running") { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }

    fn kubectl(&self, words: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(["--namespace", &self.world.namespace]).args(words).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.spdy {
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
            command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        }
        command
    }

    async fn run(&self, words: &[&str]) -> Output {
        let output = tokio::time::timeout(PATIENCE, self.kubectl(words).output()).await;
        output.unwrap_or_else(|_| panic!("kubectl {words:?} hangs")).unwrap()
    }

    /// Everything, with whatever kubectl and the API server speak.
    async fn everything(&self) {
        self.commands().await;
        self.large().await;
        self.ports().await;
        self.attach().await;
    }

    async fn commands(&self) {
        for (words, code, out, err) in [
            (&["echo", "hi"][..], 0, "hi\n", ""),
            (&["sh", "-c", "echo out; echo err >&2; exit 7"], 7, "out\n", "err\n"),
            (&["sh", "-c", "nosuch"], 127, "", "sh: nosuch: not found\n"),
        ] {
            let output = self.run(&[&["exec", "web", "--"], words].concat()).await;
            assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), out, "{words:?}");
            // kubectl adds a line of its own about the exit code.
            assert!(String::from_utf8_lossy(&output.stderr).starts_with(err), "{words:?}: {output:?}");
        }
        let output = self.run(&["exec", "web", "--", "nosuch"]).await;
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("executable file not found"), "{output:?}");
    }

    /// Standard input to its end, and back; then the same as a file, there and back.
    async fn large(&self) {
        let sent: Vec<u8> = (0..LARGE).map(|at| (at % 251) as u8).collect();
        let mut child =
            self.kubectl(&["exec", "-i", "web", "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let send = async {
            stdin.write_all(&sent).await.unwrap();
            drop(stdin);
        };
        let (output, ()) =
            tokio::time::timeout(PATIENCE, async { tokio::join!(child.wait_with_output(), send) })
                .await
                .expect("it ends");
        let output = output.unwrap();
        assert!(output.status.success() && output.stdout == sent, "{} bytes came back", output.stdout.len());

        let (there, back) = (self.folder.path().join("there"), self.folder.path().join("back"));
        tokio::fs::write(&there, &sent).await.unwrap();
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        for words in [["cp", &path(&there), "web:/tmp/file"], ["cp", "web:/tmp/file", &path(&back)]] {
            let output = self.run(&words).await;
            assert!(output.status.success(), "{words:?}: {output:?}");
        }
        assert!(tokio::fs::read(&back).await.unwrap() == sent, "the file came back as another one");
    }

    async fn ports(&self) {
        let mut forward = self.kubectl(&["port-forward", "pod/web", ":80", ":81"]).spawn().unwrap();
        let mut lines = BufReader::new(forward.stdout.take().unwrap()).lines();
        let (mut open, mut refusing) = (None, None);
        while open.is_none() || refusing.is_none() {
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it begins").unwrap();
            let line = line.expect("kubectl went on");
            // "Forwarding from 127.0.0.1:41231 -> 80", and the same for [::1].
            let Some((from, to)) = line.split_once(" -> ") else { continue };
            let Ok(from) = from.trim_start_matches("Forwarding from ").parse::<SocketAddr>() else {
                continue;
            };
            if to == "80" { open = open.or(Some(from)) } else { refusing = refusing.or(Some(from)) }
        }
        let open = open.unwrap();
        let ask = async |path: usize| {
            let mut socket = TcpStream::connect(open).await.unwrap();
            let request = format!("GET /{path} HTTP/1.1\r\nConnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
            // Half of it is done; the answer still comes.
            socket.shutdown().await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains(&format!("GET /{path} HTTP/1.1\nHello from port 80")), "{answer:?}");
        };
        let all = futures::future::join_all((0..50).map(ask));
        tokio::time::timeout(PATIENCE, all).await.expect("fifty connections at once");
        // A port that refuses ends it, and kubectl says why.
        let mut socket = TcpStream::connect(refusing.unwrap()).await.unwrap();
        socket.write_all(b"x").await.unwrap();
        let _ = socket.read(&mut [0]).await;
        let mut said = BufReader::new(forward.stderr.take().unwrap()).lines();
        let refusal = async {
            while let Some(line) = said.next_line().await.unwrap() {
                if line.contains("connection refused") {
                    return true;
                }
            }
            false
        };
        assert!(tokio::time::timeout(PATIENCE, refusal).await.expect("it is told"));
        // It may have ended by itself.
        let _ = forward.kill().await;
    }

    async fn attach(&self) {
        let mut attach = self.kubectl(&["attach", "-i", "web"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = attach.stdin.take().unwrap();
        stdin.write_all(b"hello?\n").await.unwrap();
        let mut heard = BufReader::new(attach.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, heard.next_line()).await.expect("it is repeated").unwrap();
        assert_eq!(line.as_deref(), Some("hello?"));
        attach.kill().await.unwrap();
    }

    /// Nothing is left of clients that have gone, the killed ones among them.
    async fn until_quiet(&self) {
        eventually("no stream is open", async || {
            let path = format!("/api/v1/nodes/{}/proxy/metrics", self.node);
            let metrics = self.run(&["get", "--raw", &path]).await;
            let text = String::from_utf8_lossy(&metrics.stdout).into_owned();
            let open: Vec<_> = text.lines().filter(|line| line.starts_with("vk_streams_open{")).collect();
            if open.len() == 3 && open.iter().all(|line| line.ends_with(" 0")) {
                Ok(())
            } else {
                Err(format!("{open:?} {}", String::from_utf8_lossy(&metrics.stderr)))
            }
        })
        .await;
    }

    /// How many connections the API server has handed on or translated, by its own count.
    async fn count(&self, kind: &str) -> u64 {
        let metrics = self.run(&["get", "--raw", "/metrics"]).await;
        let text = String::from_utf8_lossy(&metrics.stdout).into_owned();
        let counts = text.lines().filter(|line| {
            line.starts_with("apiserver_websocket_streaming_requests_total{") && line.contains(kind)
        });
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    async fn end(mut self) {
        self.daemon.kill().await.unwrap();
        let nodes: Api<Node> = Api::all(self.world.client());
        nodes.delete(&self.node, &DeleteParams::default()).await.unwrap();
        let pods: Api<Pod> = self.world.api();
        pods.delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
        self.world.clean_up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_streams_over_websockets_that_reach_the_node() {
    let streaming = Streaming::start(true).await;
    let before = (streaming.count("proxied_to_kubelet").await, streaming.count("translated_at").await);
    streaming.everything().await;
    assert!(streaming.count("proxied_to_kubelet").await > before.0, "the API server hands WebSockets on");
    assert_eq!(streaming.count("translated_at").await, before.1);
    streaming.until_quiet().await;
    streaming.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_streams_over_websockets_that_the_api_server_translates() {
    let streaming = Streaming::start(false).await;
    let before = (streaming.count("proxied_to_kubelet").await, streaming.count("translated_at").await);
    streaming.everything().await;
    assert_eq!(streaming.count("proxied_to_kubelet").await, before.0);
    assert!(streaming.count("translated_at").await > before.1, "the API server translates WebSockets");
    streaming.until_quiet().await;
    streaming.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_streams_over_spdy() {
    let mut streaming = Streaming::start(true).await;
    streaming.spdy = true;
    streaming.everything().await;
    streaming.until_quiet().await;
    streaming.end().await;
}
