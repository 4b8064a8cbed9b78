//! The daemon as a process on an API server: it joins, it tells what it may not do, it ends as it is told to.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use vk_apiserver::{ApiServer, Config, Serving};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

struct Cluster {
    server: ApiServer,
    serving: Serving,
    home: tempfile::TempDir,
}

impl Cluster {
    async fn start(config: Config) -> Self {
        let server = ApiServer::with(config).unwrap();
        let serving = server.serve_tls(([127, 0, 0, 1], 0).into()).await.unwrap();
        let home = tempfile::tempdir().unwrap();
        serving.write_kubeconfig(&home.path().join("kubeconfig")).unwrap();
        Self { server, serving, home }
    }

    fn home(&self) -> &Path {
        self.home.path()
    }

    /// The daemon with a clean environment. It dies with the test.
    fn daemon(&self, words: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_vk-node"))
            .args(["--provider=mock", "--listen=127.0.0.1", "--port=0"])
            .arg("--kubeconfig")
            .arg(self.home().join("kubeconfig"))
            .args(words)
            .env_clear()
            .env("HOME", self.home())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Waits until a node's Ready condition has this status, and returns the node.
    async fn node_with(&self, name: &str, ready: &str) -> Node {
        let api: Api<Node> = Api::all(self.server.client());
        let found = timeout(PATIENCE, async {
            loop {
                if let Some(node) = api.get_opt(name).await.unwrap()
                    && status_of(&node, "Ready").as_deref() == Some(ready)
                {
                    return node;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("node {name} never had Ready={ready}"))
    }
}

fn status_of(node: &Node, kind: &str) -> Option<String> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.clone())
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).expect("the daemon runs");
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// The exit code, and standard error.
async fn ended(child: Child) -> (Option<i32>, String) {
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("the daemon ends").unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn go_virtual_kubelets_command_line_joins_the_cluster_and_sigterm_leaves_it_not_ready() {
    let cluster = Cluster::start(Config::default()).await;
    let child = cluster.daemon(&["--nodename=virtual-7", "--os=Linux", "--full-resync-period=1m"]);
    let node = cluster.node_with("virtual-7", "True").await;
    assert_eq!(node.metadata.labels.unwrap_or_default()["type"], "virtual-kubelet");
    let status = node.status.unwrap();
    let port = status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port;
    assert!(port > 0 && port != 10250, "the port that was bound is announced: {port}");

    signal(&child, Signal::SIGTERM);
    let (code, stderr) = ended(child).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("--full-resync-period is deprecated: use --drift-check-interval"), "{stderr}");
    cluster.node_with("virtual-7", "False").await;
    cluster.serving.stop().await;
}

#[tokio::test]
async fn one_file_runs_several_nodes_and_deregisters_them_when_told_to() {
    let cluster = Cluster::start(Config::default()).await;
    let file = cluster.home().join("vk.yaml");
    std::fs::write(
        &file,
        "provider: {mock: {capacity: {cpu: 7}}}\n\
         nodeDefaults: {labels: {tier: edge}, deregister: true}\n\
         nodes:\n- name: a\n- {name: b, capacity: {cpu: 500m}, labels: {tier: core}, taints: []}\n",
    )
    .unwrap();
    let child = cluster.daemon(&["--config", file.to_str().unwrap()]);
    let (a, b) = (cluster.node_with("a", "True").await, cluster.node_with("b", "True").await);
    let describe = |node: &Node| {
        let cpu = node.status.as_ref().unwrap().capacity.as_ref().unwrap()["cpu"].0.clone();
        let tier = node.metadata.labels.as_ref().unwrap()["tier"].clone();
        let own_taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let own_taints =
            own_taints.iter().filter(|taint| taint.key.starts_with("virtual-kubelet.io/")).count();
        (cpu, tier, own_taints)
    };
    assert_eq!(describe(&a), ("7".to_owned(), "edge".to_owned(), 1));
    assert_eq!(describe(&b), ("500m".to_owned(), "core".to_owned(), 0));

    signal(&child, Signal::SIGINT);
    let (code, stderr) = ended(child).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(cluster.server.count("nodes"), 0);
}

#[tokio::test]
async fn a_second_signal_ends_the_process_with_the_signals_code() {
    let cluster = Cluster::start(Config::default()).await;
    let mut child = cluster.daemon(&["--nodename=virtual-8", "--log-level=info"]);
    cluster.node_with("virtual-8", "True").await;
    // Nothing that is written from now on is answered: the drain waits.
    let _hang = cluster.server.faults().add(vk_apiserver::Rule::new(vk_apiserver::Fault::Hang));
    signal(&child, Signal::SIGTERM);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    timeout(PATIENCE, async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("SIGTERM: draining") {
                return;
            }
        }
        panic!("the daemon ended without a drain");
    })
    .await
    .expect("the daemon drains");
    signal(&child, Signal::SIGINT);
    // The log is read on, so that writing it never blocks the daemon.
    let rest = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let (code, _) = ended(child).await;
    assert_eq!(code, Some(130));
    rest.await.unwrap();
}

#[tokio::test]
async fn missing_permissions_are_named_in_one_line() {
    let cluster = Cluster::start(Config { rbac: true, ..Config::default() }).await;
    let nobody = cluster.server.issue_client_cert("nobody", "nobodies").unwrap();
    std::fs::write(cluster.home().join("kubeconfig"), cluster.serving.kubeconfig_for("nobody", &nobody))
        .unwrap();
    let (code, stderr) = ended(cluster.daemon(&[])).await;
    assert_eq!(code, Some(2), "{stderr}");
    let line = stderr.lines().last().unwrap_or_default();
    assert!(
        line.starts_with("vk-node: not allowed to create nodes, get nodes (node virtual-kubelet), "),
        "{line}"
    );
    assert!(line.contains("patch pods/status, "), "{line}");
    assert!(line.contains(" at https://127.0.0.1:"), "{line}");
    assert!(line.ends_with(": apply manifests/rbac.yaml, or bind such a role to this identity"), "{line}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let cluster = Cluster::start(Config::default()).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let flag = format!("--port={port}");
    let child = Command::new(env!("CARGO_BIN_EXE_vk-node"))
        .args(["--provider=mock", "--listen=127.0.0.1", "--nodename=a", &flag, "--kubeconfig"])
        .arg(cluster.home().join("kubeconfig"))
        .env_clear()
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (code, stderr) = ended(child).await;
    assert_eq!(code, Some(2), "{stderr}");
    let start = format!(
        "vk-node: cannot serve the kubelet API of node \"a\" at 127.0.0.1:{port}: choose another --port or --listen"
    );
    assert!(stderr.lines().last().unwrap_or_default().starts_with(&start), "{stderr}");
}

/// Waits until a line of the log has this text.
async fn line_with(
    lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
    text: &str,
) -> String {
    let found = timeout(PATIENCE, async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(text) {
                return line;
            }
        }
        panic!("the daemon ended without saying {text:?}");
    });
    found.await.unwrap_or_else(|_| panic!("the daemon never said {text:?}"))
}

#[tokio::test]
async fn a_changed_file_is_taken_over_by_itself_and_by_sighup_and_the_rest_needs_a_restart() {
    let cluster = Cluster::start(Config::default()).await;
    let file = cluster.home().join("vk.yaml");
    let write = |level: &str, rest: &str| {
        std::fs::write(&file, format!("log: {{level: {level}}}\nnodes:\n- name: a\n  {rest}\n")).unwrap();
    };
    write("info", "labels: {zone: one, old: x}");
    let mut child = cluster.daemon(&["--config", file.to_str().unwrap()]);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    cluster.node_with("a", "True").await;

    // By itself.
    write(
        "debug",
        "labels: {zone: two}\n  taints: ['k=v:NoExecute']\n  port: 1234\nadmin: {listen: '127.0.0.1:1'}",
    );
    let line = line_with(&mut lines, "it needs a restart").await;
    assert!(
        line.contains("admin.listen has changed in ") || line.contains("nodes[0].port has changed in "),
        "{line}"
    );
    line_with(&mut lines, "it needs a restart").await;
    line_with(&mut lines, "the log level has changed").await;
    let api: Api<Node> = Api::all(cluster.server.client());
    let changed = async {
        loop {
            let node = api.get("a").await.unwrap();
            let labels = node.metadata.labels.unwrap_or_default();
            let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
            let ours = taints.iter().any(|taint| taint.key == "k" && taint.effect == "NoExecute");
            if labels["zone"] == "two" && !labels.contains_key("old") && ours {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, changed).await.expect("labels and taints are taken over");

    // A broken file changes nothing, and says what is broken.
    write("info", "lables: {zone: three}");
    let line = line_with(&mut lines, "the configuration is not taken over").await;
    assert!(line.contains("unknown key") && line.contains("did you mean"), "{line}");

    signal(&child, Signal::SIGHUP);
    line_with(&mut lines, "SIGHUP: reading the configuration").await;
    line_with(&mut lines, "the configuration is not taken over").await;
    let rest = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    signal(&child, Signal::SIGTERM);
    let (code, _) = ended(child).await;
    assert_eq!(code, Some(0), "SIGHUP does not end it");
    rest.await.unwrap();
}

#[tokio::test]
async fn a_bootstrap_kubeconfig_makes_a_node_its_own_user_and_is_needed_once() {
    let cluster = Cluster::start(Config::default()).await;
    let _controllers = cluster.server.start(vk_apiserver::Controller::ALL);
    let guest = cluster.server.issue_client_cert("system:bootstrap:guest", "system:bootstrappers").unwrap();
    let bootstrap = cluster.home().join("bootstrap");
    std::fs::write(&bootstrap, cluster.serving.kubeconfig_for("guest", &guest)).unwrap();
    std::fs::remove_file(cluster.home().join("kubeconfig")).unwrap();
    let (bootstrap_flag, dir_flag) = (
        format!("--bootstrap-kubeconfig={}", bootstrap.display()),
        format!("--cert-dir={}", cluster.home().join("pki").display()),
    );
    let words = ["--nodename=own", bootstrap_flag.as_str(), dir_flag.as_str()];
    let child = cluster.daemon(&words);
    cluster.node_with("own", "True").await;
    signal(&child, Signal::SIGTERM);
    let (code, stderr) = ended(child).await;
    assert_eq!(code, Some(0), "{stderr}");
    let kept = std::fs::metadata(cluster.home().join("pki/kubelet-client-current.pem")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&kept.permissions()) & 0o777, 0o600);
    // The kubeconfig names the file and has no key in it.
    let own = std::fs::read_to_string(cluster.home().join("kubeconfig")).unwrap();
    assert!(own.contains("kubelet-client-current.pem") && !own.contains("PRIVATE"), "{own}");

    let requests = |user: &str| cluster.server.requests().of_user(user).total();
    assert!(requests("system:node:own") > 5, "the node is its own user");
    let asked = requests("system:bootstrap:guest");
    assert!((1..20).contains(&asked), "{asked}");

    // The second start has its identity, and asks nobody.
    let child = cluster.daemon(&words);
    cluster.node_with("own", "True").await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(ended(child).await.0, Some(0));
    assert_eq!(requests("system:bootstrap:guest"), asked);
}

#[tokio::test]
async fn the_admin_port_tells_metrics_and_health_of_all_nodes() {
    let cluster = Cluster::start(Config::default()).await;
    let file = cluster.home().join("vk.yaml");
    std::fs::write(&file, "nodes: [{name: a}, {name: b}]\n").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let admin = format!("--admin-listen={free}");
    let child = cluster.daemon(&["--config", file.to_str().unwrap(), &admin]);
    cluster.node_with("a", "True").await;
    cluster.node_with("b", "True").await;
    let ask = async |path: &str| {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(free).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    for path in ["/livez", "/readyz"] {
        let answer = ask(path).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{path}: {answer}");
    }
    let metrics = ask("/metrics").await;
    for sample in ["kubelet_node_name{node=\"a\"} 1", "kubelet_node_name{node=\"b\"} 1"] {
        assert!(metrics.contains(sample), "{metrics}");
    }
    signal(&child, Signal::SIGTERM);
    assert_eq!(ended(child).await.0, Some(0));
}
