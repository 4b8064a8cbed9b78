//! A node that streams, on the real control plane: the daemon over the mock provider, a pod `web` with a container
//! `a` that declares port 80, and kubectl's ways of asking it.

use std::ffi::OsString;
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

use crate::world::World;
use crate::{daemon, eventually};

/// How long any one command may take.
pub const PATIENCE: Duration = Duration::from_mins(3);
/// What a node declares that takes WebSockets.
const FEATURE: &str = "ExtendWebSocketsToKubelet";

/// The node, its pod, and how kubectl is to speak.
#[derive(Debug)]
pub struct Streaming {
    /// Where it runs.
    pub world: World,
    /// The node's name.
    pub node: String,
    /// The node's kubelet API.
    pub address: SocketAddr,
    /// The daemon's process.
    pub daemon: Child,
    /// The kubectl to ask with.
    pub kubectl: OsString,
    /// Whether it is to speak SPDY.
    pub spdy: bool,
    /// For files.
    pub folder: tempfile::TempDir,
}

/// kubectl's port-forward, once it listens.
#[derive(Debug)]
pub struct Forward {
    /// The process.
    pub child: Child,
    /// Leads to port 80.
    pub open: SocketAddr,
    /// Leads to port 81, where nobody listens.
    pub refusing: SocketAddr,
}

impl Streaming {
    /// Starts the daemon, which declares that it takes WebSockets or does not, and the pod.
    ///
    /// # Panics
    /// When something of it does not come to be.
    pub async fn start(declared: bool) -> Self {
        let world = World::real().await;
        let (node, folder) = (world.node_name(), tempfile::tempdir().expect("a folder"));
        let plane = world.real_plane();
        let address: IpAddr = plane.node_address().expect("the node's address");
        let serving = plane.serving_cert(&node, address).expect("a serving certificate");
        let daemon = daemon::command()
            .args(["--provider=mock", "--port=0", "--nodename", &node])
            .arg(format!("--node-ip={address}"))
            .arg(format!("--websocket-streams={declared}"))
            .arg("--kubeconfig")
            .arg(plane.kubeconfig())
            .arg("--tls-cert-file")
            .arg(&serving.certificate)
            .arg("--tls-private-key-file")
            .arg(&serving.key)
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon starts");
        let nodes: Api<Node> = Api::all(world.client());
        let port = eventually("the node is Ready, and declares what it should", async || {
            let found = nodes.get_opt(&node).await.map_err(|error| error.to_string())?.ok_or("no node")?;
            let status = found.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
            let declares = status.declared_features.unwrap_or_default().iter().any(|name| name == FEATURE);
            let endpoint = status.daemon_endpoints.and_then(|endpoints| endpoints.kubelet_endpoint);
            match endpoint.and_then(|endpoint| u16::try_from(endpoint.port).ok()) {
                // An API server that does not know the field drops it.
                Some(port) if ready && (declares == declared || !keeps_features(&world)) => Ok(port),
                port => Err(format!("ready: {ready}, declares: {declares}, port: {port:?}")),
            }
        })
        .await;
        let address = SocketAddr::new(address, port);
        let (kubectl, spdy) = ("kubectl".into(), false);
        let streaming = Self { world, node, address, daemon, kubectl, spdy, folder };
        streaming.create_pod().await;
        streaming
    }

    async fn create_pod(&self) {
        let pod = json!({
            "metadata": {"name": "web"},
            "spec": {
                "nodeName": self.node, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "a", "image": "web", "ports": [{"containerPort": 80}]}],
            },
        });
        let pods: Api<Pod> = self.world.api();
        let pod = serde_json::from_value(pod).expect("a pod");
        pods.create(&PostParams::default(), &pod).await.expect("the pod is created");
        eventually("the pod runs", async || {
            let status = pods.get("web").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
            if status.phase.as_deref() == Some("Running") { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }

    /// A command of kubectl, whose streams are pipes.
    #[must_use]
    pub fn kubectl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.args(["--namespace", &self.world.namespace]).args(words);
        self.set_up(&mut command);
        command
    }

    /// The same in a terminal, by a shell's command line; `kubectl` in it is this one.
    #[must_use]
    pub fn terminal(&self, line: &str) -> Command {
        let kubectl = format!("{} --namespace {}", self.kubectl.display(), self.world.namespace);
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line.replace("kubectl", &kubectl), "/dev/null"]);
        self.set_up(&mut command);
        command
    }

    fn set_up(&self, command: &mut Command) {
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("SHELL", "/bin/sh");
        if self.spdy {
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
            command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        }
    }

    /// Runs kubectl to its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn run(&self, words: &[&str]) -> Output {
        ended(&format!("kubectl {words:?}"), self.kubectl(words).output()).await
    }

    /// Everything that kubectl streams, with files of so many bytes.
    ///
    /// # Panics
    /// When something of it does not hold; so do the parts.
    pub async fn everything(&self, bytes: usize) {
        self.commands().await;
        self.terminals().await;
        self.input(bytes / 4).await;
        self.files(bytes).await;
        self.ports().await;
        self.attach().await;
        self.debug().await;
    }

    /// Exit codes and outputs.
    pub async fn commands(&self) {
        for (words, code, out, err) in [
            (&["echo", "hi"][..], 0, "hi\n", ""),
            (&["sh", "-c", "echo out; echo err >&2; exit 7"], 7, "out\n", "err\n"),
            (&["sh", "-c", "nosuch"], 127, "", "sh: nosuch: not found\n"),
        ] {
            let output = self.run(&[&["exec", "web", "--"], words].concat()).await;
            assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), out, "{words:?}");
            // kubectl adds lines of its own, about containers and the exit code.
            assert!(String::from_utf8_lossy(&output.stderr).contains(err), "{words:?}: {output:?}");
        }
        let output = self.run(&["exec", "web", "--", "nosuch"]).await;
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("executable file not found"), "{output:?}");
    }

    /// A terminal's exit code, and its sizes: the first, and the next.
    pub async fn terminals(&self) {
        // What kubectl itself has to say would come in between.
        let mut command = self.terminal("kubectl exec -it web -- sh -c 'echo hi; exit 7' 2>/dev/null");
        let output = ended("a terminal", command.stdin(Stdio::piped()).output()).await;
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("hi\r\n"), "{output:?}");

        let go = self.folder.path().join("resize");
        let line = format!(
            "stty rows 33 cols 101; T=$(tty); (while ! [ -e {go} ]; do sleep 0.1; done; stty -F $T rows 20 cols 90) & \
             kubectl exec -it web -- resize",
            go = go.display()
        );
        let mut child = self.terminal(&line).stdin(Stdio::piped()).spawn().expect("a terminal");
        let mut shown = BufReader::new(child.stdout.take().expect("it is piped"));
        for size in ["101x33", "90x20"] {
            let mut seen = String::new();
            let read = async {
                while !seen.contains(size) && shown.read_line(&mut seen).await.is_ok_and(|n| n > 0) {}
            };
            tokio::time::timeout(PATIENCE, read).await.expect("a size is shown");
            assert!(seen.contains(size), "{seen:?} instead of {size}");
            tokio::fs::write(&go, "").await.expect("a file");
        }
        let _ = tokio::fs::remove_file(&go).await;
        child.kill().await.expect("it is killed");
    }

    /// Standard input to its end, and back.
    pub async fn input(&self, bytes: usize) {
        let sent = pattern(bytes);
        let mut child =
            self.kubectl(&["exec", "-i", "web", "--", "cat"]).stdin(Stdio::piped()).spawn().expect("kubectl");
        let mut stdin = child.stdin.take().expect("it is piped");
        let send = async {
            stdin.write_all(&sent).await.expect("kubectl reads");
            drop(stdin);
        };
        let both = async { tokio::join!(child.wait_with_output(), send) };
        let (output, ()) = tokio::time::timeout(PATIENCE, both).await.expect("it ends");
        let output = output.expect("kubectl ran");
        assert!(output.status.success() && output.stdout == sent, "{} bytes came back", output.stdout.len());
    }

    /// A file, there and back.
    pub async fn files(&self, bytes: usize) {
        let sent = pattern(bytes);
        let (there, back) = (self.folder.path().join("there"), self.folder.path().join("back"));
        tokio::fs::write(&there, &sent).await.expect("a file");
        let path = |path: &Path| path.to_str().expect("plain text").to_owned();
        for words in [["cp", &path(&there), "web:/tmp/file"], ["cp", "web:/tmp/file", &path(&back)]] {
            let output = self.run(&words).await;
            assert!(output.status.success(), "{words:?}: {output:?}");
        }
        let same = tokio::fs::read(&back).await.expect("a file") == sent;
        assert!(same, "the file came back as another one");
        let output = self.run(&["exec", "web", "--", "rm", "/tmp/file"]).await;
        assert!(output.status.success(), "{output:?}");
    }

    /// Begins to forward ports.
    pub async fn forward(&self) -> Forward {
        let mut child = self.kubectl(&["port-forward", "pod/web", ":80", ":81"]).spawn().expect("kubectl");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (mut open, mut refusing) = (None, None);
        while open.is_none() || refusing.is_none() {
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it begins");
            let line = line.expect("text").expect("kubectl goes on");
            // "Forwarding from 127.0.0.1:41231 -> 80", and the same for [::1].
            let Some((from, to)) = line.split_once(" -> ") else { continue };
            let Ok(from) = from.trim_start_matches("Forwarding from ").parse::<SocketAddr>() else {
                continue;
            };
            if to == "80" { open = open.or(Some(from)) } else { refusing = refusing.or(Some(from)) }
        }
        // It says a line for each connection, which nobody else would read.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Forward { child, open: open.expect("port 80"), refusing: refusing.expect("port 81") }
    }

    /// Fifty connections at once, each half-closed, and one to a port that refuses.
    pub async fn ports(&self) {
        let Forward { mut child, open, refusing } = self.forward().await;
        let ask = async |path: usize| {
            let mut socket = TcpStream::connect(open).await.expect("kubectl listens");
            let request = format!("GET /{path} HTTP/1.1\r\nConnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).await.expect("it is sent");
            // Half of it is done; the answer still comes.
            socket.shutdown().await.expect("it is half-closed");
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.expect("an answer");
            assert!(answer.contains(&format!("GET /{path} HTTP/1.1\nHello from port 80")), "{answer:?}");
        };
        let all = futures::future::join_all((0..50).map(ask));
        tokio::time::timeout(PATIENCE, all).await.expect("fifty connections at once");
        // A port that refuses ends it, and kubectl says why.
        let mut socket = TcpStream::connect(refusing).await.expect("kubectl listens");
        socket.write_all(b"x").await.expect("it is sent");
        let _ = socket.read(&mut [0]).await;
        let mut said = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let refusal = async {
            while let Some(line) = said.next_line().await.expect("text") {
                if line.contains("connection refused") {
                    return true;
                }
            }
            false
        };
        assert!(tokio::time::timeout(PATIENCE, refusal).await.expect("it is told"));
        // It may have ended by itself.
        let _ = child.kill().await;
    }

    /// The main process repeats what it is told.
    pub async fn attach(&self) {
        let mut attach =
            self.kubectl(&["attach", "-i", "web"]).stdin(Stdio::piped()).spawn().expect("kubectl");
        let mut stdin = attach.stdin.take().expect("it is piped");
        stdin.write_all(b"hello?\n").await.expect("kubectl reads");
        let mut heard = BufReader::new(attach.stdout.take().expect("it is piped")).lines();
        let line = tokio::time::timeout(PATIENCE, heard.next_line()).await.expect("it is repeated");
        assert_eq!(line.expect("text").as_deref(), Some("hello?"));
        attach.kill().await.expect("it is killed");
    }

    /// A container for debugging: its shell runs for kubectl, its end is told, and others can be run in meanwhile.
    pub async fn debug(&self) {
        let pods: Api<Pod> = self.world.api();
        let present = pods.get("web").await.expect("the pod").spec.expect("its specification");
        let name = format!("debugger-{}", present.ephemeral_containers.map_or(0, |present| present.len()));
        let words =
            ["debug", "web", "-i", "--image=busybox", "--profile=general", "--container", &name, "--", "sh"];
        let mut child = self.kubectl(&words).stdin(Stdio::piped()).spawn().expect("kubectl");
        let mut stdin = child.stdin.take().expect("it is piped");
        let mut shown = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        stdin.write_all(b"echo I am $HOSTNAME\n").await.expect("kubectl reads");
        let told = async {
            while let Some(line) = shown.next_line().await.expect("text") {
                if line.contains("I am web") {
                    return true;
                }
            }
            false
        };
        assert!(tokio::time::timeout(PATIENCE, told).await.expect("the shell answers"), "it is web's shell");
        let output = self.run(&["exec", "web", "--container", &name, "--", "hostname"]).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "web\n", "{output:?}");
        stdin.write_all(b"exit 3\n").await.expect("kubectl reads");
        drop(stdin);
        ended("kubectl debug", child.wait()).await;
        eventually("the container's end is told", async || {
            let status = pods.get("web").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
            let all = status.ephemeral_container_statuses.unwrap_or_default();
            let own = all.iter().find(|status| status.name == name).and_then(|own| own.state.clone());
            let end = own.and_then(|state| state.terminated);
            if end.as_ref().is_some_and(|end| end.exit_code == 3) { Ok(()) } else { Err(format!("{all:?}")) }
        })
        .await;
    }

    /// The node's metrics.
    pub async fn metrics(&self) -> String {
        let path = format!("/api/v1/nodes/{}/proxy/metrics", self.node);
        let output = self.run(&["get", "--raw", &path]).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A sample of the node's metrics; 0 while it is not there.
    pub async fn metric(&self, sample: &str) -> u64 {
        let metrics = self.metrics().await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Nothing is left of clients that have gone, the killed ones among them.
    pub async fn until_quiet(&self) {
        eventually("no stream is open", async || {
            let metrics = self.metrics().await;
            let open: Vec<_> = metrics.lines().filter(|line| line.starts_with("vk_streams_open{")).collect();
            if !open.is_empty() && open.iter().all(|line| line.ends_with(" 0")) {
                Ok(())
            } else {
                Err(format!("{open:?}"))
            }
        })
        .await;
    }

    /// A figure of the daemon's memory in `/proc/PID/status`, in bytes: `VmRSS`, `VmHWM`.
    pub fn memory(&self, figure: &str) -> u64 {
        let pid = self.daemon.id().expect("the daemon runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon's status");
        let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.expect("a figure") * 1024
    }

    /// Forgets the daemon's peak of memory so far.
    pub fn forget_peak(&self) {
        let pid = self.daemon.id().expect("the daemon runs");
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the peak is reset");
    }

    /// Ends the daemon and removes what was made.
    pub async fn end(mut self) {
        self.daemon.kill().await.expect("the daemon is killed");
        let nodes: Api<Node> = Api::all(self.world.client());
        nodes.delete(&self.node, &DeleteParams::default()).await.expect("the node is deleted");
        let pods: Api<Pod> = self.world.api();
        pods.delete("web", &DeleteParams::default().grace_period(0)).await.expect("the pod is deleted");
        self.world.clean_up().await;
    }
}

/// Whether the API server keeps what a node declares.
fn keeps_features(world: &World) -> bool {
    world.real_plane().version().is_none_or(|version| !version.starts_with("1.35"))
}

async fn ended<T>(what: &str, command: impl Future<Output = std::io::Result<T>>) -> T {
    let output = tokio::time::timeout(PATIENCE, command).await;
    output.unwrap_or_else(|_| panic!("{what} hangs")).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Bytes of which a lost piece shows: byte i is i mod 251.
#[must_use]
pub fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}
