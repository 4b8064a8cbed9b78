//! Who reads a node's figures: metrics-server, `kubectl top`, the horizontal autoscaler, Prometheus. All of them real,
//! on the real control plane, with the node's certificate signed by the cluster and checked by each.
//!
//! Run by `cargo xtask test peers`, which names metrics-server in `VK_METRICS_SERVER` and installs Debian's
//! Prometheus.

use std::net::{IpAddr, TcpListener as Listener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use vk_core::api::tls::{Request, Serving};
use vk_core::api::{Access, ClientCa, KubeReviewer, Limits};
use vk_core::metrics::Metrics;
use vk_core::{ApiServer, Node, NodeError, Shutdown};
use vk_mock::MockProvider;
use vk_scenarios::{World, eventually_within, virtual_node};

/// How long readers that look every ten or fifteen seconds, and some of them twice, may take.
const PATIENCE: Duration = Duration::from_mins(4);
/// Between two looks of ours.
const LOOK: Duration = Duration::from_secs(2);

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: impl AsRef<std::ffi::OsStr>, arguments: &[String], log: &Path) -> Process {
    let log = std::fs::File::create(log).expect("a log file");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Process(command.spawn().expect("the program starts"))
}

fn kubectl(arguments: &[&str], input: &str) -> Output {
    use std::io::Write as _;
    let mut command = Command::new("kubectl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("kubectl starts");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("kubectl reads");
    child.wait_with_output().expect("kubectl ends")
}

/// What a command that must succeed prints.
#[track_caller]
fn say(arguments: &[&str], input: &str) -> String {
    let output = kubectl(arguments, input);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {}: {err}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn apply(objects: &[Value]) {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    say(&["apply", "-f", "-"], &list.to_string());
}

/// Repeats a command until its output is as wanted.
async fn until(what: &str, arguments: &[&str], wanted: impl Fn(&str) -> bool) -> String {
    eventually_within(what, PATIENCE, async || {
        let output = kubectl(arguments, "");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && wanted(&text) {
            return Ok(text);
        }
        sleep(LOOK).await;
        Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    })
    .await
}

/// A node with its kubelet API, and a folder for what its readers need.
struct Monitored {
    world: World,
    name: String,
    address: IpAddr,
    folder: tempfile::TempDir,
    /// What the admin port of a daemon would show.
    metrics: Metrics,
    task: JoinHandle<Result<(), NodeError>>,
}

impl Drop for Monitored {
    fn drop(&mut self) {
        self.task.abort();
        if std::thread::panicking() {
            for log in ["metrics-server.log", "prometheus.log"] {
                let text = std::fs::read_to_string(self.file(log)).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(20).collect();
                eprintln!("{log}, newest first:\n{}", tail.join("\n"));
            }
        }
        kubectl(&["delete", "node", &self.name, "--wait=false"], "");
        kubectl(&["delete", "namespace", &self.world.namespace, "--wait=false"], "");
        kubectl(&["delete", "apiservice", "v1beta1.metrics.k8s.io", "--ignore-not-found"], "");
    }
}

impl Monitored {
    /// A node whose serving certificate the cluster signs, once it is approved.
    async fn start() -> Self {
        let world = World::real().await;
        let mut config = virtual_node::config(&world);
        config.taints = Some(Vec::new());
        let address = config.addresses[0];
        let listener = TcpListener::bind((address, 0)).await.expect("an address of this namespace");
        config.port = listener.local_addr().expect("it is bound").port();
        let name = config.name.clone();
        let backend = virtual_node::backend(&world);
        let provider = Arc::new(MockProvider::new(backend, name.clone()));
        let client = world.client();
        let tls = Serving::requested(Request::new(&*name, [address]), jiff::Timestamp::now()).unwrap();
        let ca = ClientCa::from_cluster(client.clone()).await.expect("the cluster publishes it");
        let access = Access::none()
            .with_client_ca(Arc::new(ca))
            .with_reviewer(Arc::new(KubeReviewer::new(client.clone())));
        let server = ApiServer { listener, tls: tls.clone(), access, limits: Limits::default() };
        let node = Node::builder(config, provider, client).serve_api(server).build();
        let metrics = node.metrics();
        let task = tokio::spawn(node.run(Shutdown::new()));
        let folder = tempfile::tempdir().expect("a folder");
        let monitored = Self { world, name, address, folder, metrics, task };
        assert!(tls.expires().is_none(), "nobody has approved it yet");
        let pending = [
            "get",
            "csr",
            "-o",
            "jsonpath={range .items[?(@.spec.signerName=='kubernetes.io/kubelet-serving')]}{.metadata.name} {end}",
        ];
        let requests = until("a certificate request", &pending, |names| !names.trim().is_empty()).await;
        for request in requests.split_whitespace() {
            say(&["certificate", "approve", request], "");
        }
        let healthz = monitored.path("healthz");
        until("the API server trusts the node's certificate", &["get", "--raw", &healthz], |text| {
            text == "ok"
        })
        .await;
        assert!(tls.expires().is_some());
        monitored
    }

    /// A path of the kubelet API, by way of the API server.
    fn path(&self, path: &str) -> String {
        format!("/api/v1/nodes/{}/proxy/{path}", self.name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The cluster's authority, in a file.
    fn authority(&self) -> String {
        let data = say(
            &[
                "config",
                "view",
                "--raw",
                "--minify",
                "-o",
                "jsonpath={.clusters[0].cluster.certificate-authority-data}",
            ],
            "",
        );
        let path = self.file("ca.crt");
        let file = say(
            &[
                "config",
                "view",
                "--raw",
                "--minify",
                "-o",
                "jsonpath={.clusters[0].cluster.certificate-authority}",
            ],
            "",
        );
        if file.is_empty() {
            std::fs::write(&path, decode(&data)).expect("a file");
            return path.display().to_string();
        }
        file
    }

    /// A service account that may read nodes' metrics, and its token.
    fn reader(name: &str) -> String {
        let namespace = "kube-system";
        let subject = json!([{ "kind": "ServiceAccount", "name": name, "namespace": namespace }]);
        let role = |kind: &str, role: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role });
        let binding = |suffix: &str, to: Value| {
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": { "name": format!("{name}-{suffix}") }, "roleRef": to, "subjects": subject,
            })
        };
        apply(&[
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": namespace } }),
            // As metrics-server ships it.
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": name },
                "rules": [
                    { "apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"] },
                    { "apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"] },
                ],
            }),
            binding("reads", role("ClusterRole", name)),
            binding("delegates", role("ClusterRole", "system:auth-delegator")),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": { "name": name, "namespace": namespace },
                "roleRef": role("Role", "extension-apiserver-authentication-reader"), "subjects": subject,
            }),
        ]);
        say(&["create", "token", name, "-n", namespace], "").trim().to_owned()
    }

    /// A running metrics-server that the API server asks for `metrics.k8s.io`.
    fn metrics_server(&self) -> Process {
        let binary = std::env::var_os("VK_METRICS_SERVER").expect("run `cargo xtask test peers`");
        let token = Self::reader("metrics-server");
        let view = say(&["config", "view", "--raw", "--minify", "-o", "json"], "");
        let mut kubeconfig: Value = serde_json::from_str(&view).expect("JSON");
        kubeconfig["users"][0]["user"] = json!({ "token": token });
        let file = self.file("metrics-server.kubeconfig");
        std::fs::write(&file, kubeconfig.to_string()).expect("a file");
        let file = file.display().to_string();
        let port = free_port(self.address);
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "metrics-server", "namespace": "kube-system" },
            "spec": { "type": "ExternalName", "externalName": self.address.to_string() },
        });
        let api = json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": { "name": "v1beta1.metrics.k8s.io" },
            "spec": {
                "group": "metrics.k8s.io", "version": "v1beta1",
                "groupPriorityMinimum": 100, "versionPriority": 100,
                // About metrics-server's own certificate, not the node's.
                "insecureSkipTLSVerify": true,
                "service": { "name": "metrics-server", "namespace": "kube-system", "port": port },
            },
        });
        let arguments = [
            format!("--secure-port={port}"),
            format!("--cert-dir={}", self.file("metrics-server").display()),
            format!("--kubeconfig={file}"),
            format!("--authentication-kubeconfig={file}"),
            format!("--authorization-kubeconfig={file}"),
            format!("--kubelet-certificate-authority={}", self.authority()),
            "--kubelet-use-node-status-port".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            // The least it takes, and below it.
            "--metric-resolution=10s".to_owned(),
            "--kubelet-request-timeout=5s".to_owned(),
        ];
        let process = start(binary, &arguments, &self.file("metrics-server.log"));
        apply(&[service, api]);
        process
    }

    /// A pod template for this node whose container uses so much.
    fn template(&self, app: &str, cpu: &str, memory: &str) -> Value {
        let annotations = json!({
            "mock.virtual-kubelet.io/cpu-usage": cpu,
            "mock.virtual-kubelet.io/memory-usage": memory,
        });
        json!({
            "metadata": { "labels": { "app": app }, "annotations": annotations },
            "spec": {
                "nodeName": self.name,
                "containers": [{
                    "name": "app", "image": "app:1", "resources": { "requests": { "cpu": "100m" } },
                }],
            },
        })
    }
}

/// Standard base64, as kubeconfigs have it.
fn decode(text: &str) -> Vec<u8> {
    let quoted = Value::String(text.to_owned());
    let bytes: k8s_openapi::ByteString = serde_json::from_value(quoted).expect("base64");
    bytes.0
}

fn free_port(address: IpAddr) -> u16 {
    let listener = Listener::bind((address, 0)).expect("an address of this namespace");
    listener.local_addr().expect("it is bound").port()
}

/// The number at the beginning of a field such as `120m` or `64Mi`.
fn number(field: &str) -> u32 {
    field.trim_end_matches(char::is_alphabetic).parse().unwrap_or_else(|_| panic!("{field:?} is no figure"))
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_server_reads_the_node_kubectl_top_shows_it_and_an_autoscaler_acts_on_it() {
    let node = Monitored::start().await;
    let _metrics_server = node.metrics_server();
    let namespace = node.world.namespace.as_str();
    let mut pod = node.template("hungry", "120m", "64Mi");
    (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
    pod["metadata"]["name"] = "hungry".into();
    pod["metadata"]["namespace"] = namespace.into();
    let deployment = |cpu: &str| {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "scaled", "namespace": namespace },
            "spec": {
                "selector": { "matchLabels": { "app": "scaled" } },
                "template": node.template("scaled", cpu, "32Mi"),
            },
        })
    };
    let at_once = json!({ "stabilizationWindowSeconds": 0 });
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": "scaled", "namespace": namespace },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "scaled" },
            "minReplicas": 1, "maxReplicas": 3,
            "metrics": [{
                "type": "Resource",
                "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } },
            }],
            "behavior": { "scaleUp": at_once, "scaleDown": at_once },
        },
    });
    apply(&[pod, deployment("150m"), autoscaler]);

    let top = ["top", "pod", "hungry", "--containers", "--no-headers", "-n", namespace];
    let line = until("kubectl top pod", &top, |text| !text.trim().is_empty()).await;
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(fields[..2], ["hungry", "app"], "{line}");
    // metrics-server rounds up, and a sample lies a little beside its second.
    assert!((118..=124).contains(&number(fields[2])) && fields[2].ends_with('m'), "{line}");
    assert_eq!(fields[3], "64Mi", "{line}");
    let top = ["top", "node", &node.name, "--no-headers"];
    let line = until("kubectl top node", &top, |text| text.contains("Mi")).await;
    // The mock's node uses 100m and 256Mi beside its pods.
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert!(number(fields[1]) >= 220 && number(fields[3]) >= 256 + 64, "{line}");

    let replicas = [
        "get",
        "deployment",
        "scaled",
        "-n",
        namespace,
        "-o",
        "jsonpath={.spec.replicas} {.status.readyReplicas}",
    ];
    until("the autoscaler adds pods", &replicas, |text| text == "3 3").await;
    apply(&[deployment("5m")]);
    until("the autoscaler takes pods away", &replicas, |text| text == "1 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_every_endpoint_and_finds_nothing_to_complain_about() {
    let node = Monitored::start().await;
    let mut pod = node.template("web", "20m", "16Mi");
    (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
    pod["metadata"]["name"] = "web".into();
    pod["metadata"]["namespace"] = node.world.namespace.as_str().into();
    apply(&[pod]);
    let ready = ["wait", "--for=condition=Ready", "pod/web", "-n", &node.world.namespace, "--timeout=60s"];
    say(&ready, "");
    let paths = ["metrics", "metrics/resource", "metrics/cadvisor", "metrics/probes", "metrics/slis"];
    let mut texts = paths.map(|path| (path, say(&["get", "--raw", &node.path(path)], ""))).to_vec();
    texts.push(("the admin port", vk_core::metrics::render([(&*node.name, &node.metrics)])));
    for (path, text) in texts {
        assert!(text.contains("# TYPE "), "{path}: nothing to check");
        let mut check = Command::new("promtool");
        check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut check = check.spawn().expect("promtool starts");
        std::io::Write::write_all(&mut check.stdin.take().expect("it is piped"), text.as_bytes())
            .expect("it reads");
        let output = check.wait_with_output().expect("promtool ends");
        let complaints =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && complaints.trim().is_empty(), "/{path}: {complaints}\n{text}");
    }

    let token = node.file("token");
    std::fs::write(&token, Monitored::reader("prometheus")).expect("a file");
    let port = say(
        &["get", "node", &node.name, "-o", "jsonpath={.status.daemonEndpoints.kubeletEndpoint.Port}"],
        "",
    );
    let target = format!("{}:{port}", node.address);
    let jobs = paths.map(|path| {
        json!({
            "job_name": path, "metrics_path": format!("/{path}"), "scheme": "https", "scrape_interval": "1s",
            "scrape_timeout": "1s", "authorization": { "credentials_file": token },
            "tls_config": { "ca_file": node.authority() }, "static_configs": [{ "targets": [target] }],
        })
    });
    // YAML is JSON's elder sister.
    let file = node.file("prometheus.yaml");
    std::fs::write(&file, json!({ "scrape_configs": jobs }).to_string()).expect("a file");
    let listen = format!("127.0.0.1:{}", free_port([127, 0, 0, 1].into()));
    let arguments = [
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", node.file("tsdb").display()),
        format!("--web.listen-address={listen}"),
    ];
    let _prometheus = start("prometheus", &arguments, &node.file("prometheus.log"));
    let server = format!("http://{listen}");
    let query = |expression: &str| {
        let output = Command::new("promtool").args(["query", "instant", &server, expression]).output();
        let output = output.expect("promtool starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    eventually_within("Prometheus scrapes every endpoint", PATIENCE, async || {
        let up = query("up == 1");
        if paths.iter().all(|path| up.contains(&format!("job=\"{path}\""))) {
            return Ok(());
        }
        sleep(LOOK).await;
        Err(format!("{up}\n{}", std::fs::read_to_string(node.file("prometheus.log")).unwrap_or_default()))
    })
    .await;
    let used =
        query("container_memory_working_set_bytes{job=\"metrics/resource\",pod=\"web\",container=\"app\"}");
    assert!(used.contains(&format!("=> {} ", 16 << 20)), "{used}");
    let calls = query("vk_provider_calls_total{operation=\"create-pod\",outcome=\"ok\"}");
    assert!(calls.contains("=> 1 "), "{calls}");
}
