//! No value of a Secret, no token and no password shows in anything that a run produces: logs at their finest, traces,
//! errors, events, statuses, metrics, pages, `Debug`.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Secret};
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};
use vk_core::containers::ContainerBackend;
use vk_core::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, Error, Features, FieldSupport, NodeInfo, ObservedPod,
    PodEvent, PodPrepare, PodRef, PodStats, PodUpdate, PortForward, Provider, ResolvedPod, Result,
};
use vk_scenarios::container_node::{ContainerNode, container, pod_of, with};
use vk_scenarios::{Canaries, Objects, Pods, World, eventually};

/// Everything that was written.
#[derive(Clone, Debug, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn add(&self, part: impl AsRef<[u8]>) {
        self.0.lock().unwrap().extend_from_slice(part.as_ref());
    }

    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl io::Write for Written {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.add(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A provider that refuses each pod's first creation with all that it was given, as a careless one does, and keeps
/// what `Debug` shows of every call.
#[derive(Debug)]
struct Chatty {
    inner: Arc<dyn Provider>,
    shown: Written,
    refused: Mutex<Vec<PodRef>>,
}

impl Chatty {
    fn show(&self, what: &(impl Debug + ?Sized)) {
        self.shown.add(format!("{what:?}\n{what:#?}\n"));
    }
}

#[async_trait]
impl PodUpdate for Chatty {
    async fn update_pod(&self, pod: &ResolvedPod) -> Result<()> {
        self.show(pod);
        self.inner.update().expect("it takes updates").update_pod(pod).await
    }
}

#[async_trait]
impl Provider for Chatty {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn native(&self) -> Features {
        self.inner.native()
    }
    fn fields(&self) -> &FieldSupport {
        self.inner.fields()
    }
    async fn node_info(&self) -> Result<NodeInfo> {
        self.inner.node_info().await
    }
    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        self.show(pod);
        let first = {
            let mut refused = self.refused.lock().unwrap();
            let first = !refused.contains(&pod.pod);
            refused.push(pod.pod.clone());
            first
        };
        if first {
            return Err(Error::unavailable(format!("the backend does not like {pod:?}")));
        }
        self.inner.create_pod(pod).await
    }
    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        self.inner.delete_pod(pod, grace).await
    }
    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        let pods = self.inner.list_pods().await;
        self.show(&pods);
        pods
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        Arc::clone(&self.inner).watch_pods()
    }
    fn prepare(&self) -> Option<&dyn PodPrepare> {
        self.inner.prepare()
    }
    fn update(&self) -> Option<&dyn PodUpdate> {
        Some(self)
    }
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        self.inner.logs()
    }
    fn exec(&self) -> Option<&dyn ContainerExec> {
        self.inner.exec()
    }
    fn attach(&self) -> Option<&dyn ContainerAttach> {
        self.inner.attach()
    }
    fn port_forward(&self) -> Option<&dyn PortForward> {
        self.inner.port_forward()
    }
    fn stats(&self) -> Option<&dyn PodStats> {
        self.inner.stats()
    }
}

/// Creates the Secrets, each full of canaries, good and broken ones.
async fn plant(world: &World) -> Canaries {
    let mut canaries = Canaries::default();
    let secrets = Objects::<Secret>::of(world);
    let opaque = ["env", "expanded", "command", "file", "projected"].map(|key| {
        let value = canaries.plant(key);
        (key.to_owned(), value.into())
    });
    let opaque: serde_json::Map<String, Value> = opaque.into_iter().collect();
    secrets.create(json!({"metadata": {"name": "opaque"}, "stringData": opaque})).await;
    let whole =
        json!({"FROM_A": canaries.plant("envFrom"), "0-no.name": canaries.plant("envFrom, a bad name")});
    secrets.create(json!({"metadata": {"name": "whole"}, "stringData": whole})).await;
    let binary = [b"\xff\xfe".as_slice(), canaries.plant("not UTF-8").as_bytes()].concat();
    let binary = json!({"binary": STANDARD.encode(binary)});
    secrets.create(json!({"metadata": {"name": "binary"}, "data": binary})).await;
    let tls = json!({"tls.crt": canaries.plant("tls.crt"), "tls.key": canaries.plant("tls.key")});
    secrets
        .create(json!({"metadata": {"name": "tls"}, "type": "kubernetes.io/tls", "stringData": tls}))
        .await;

    let docker = |name: &str, kind: &str, key: &str, content: String| {
        (name.to_owned(), json!({"metadata": {"name": name}, "type": kind, "stringData": {key: content}}))
    };
    let (config_json, config) = ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg");
    let basic = STANDARD.encode(format!("user:{}", canaries.plant("auth of a dockerconfigjson")));
    let auths = json!({"auths": {"registry.example": {"auth": basic}, "other.example": {
        "username": "user", "password": canaries.plant("password of a dockerconfigjson"),
        "identitytoken": canaries.plant("identitytoken"), "registrytoken": canaries.plant("registrytoken")}}});
    let plain = json!({"registry.example": {"username": "user", "password": canaries.plant("dockercfg"),
        "email": "a@example.com"}});
    let cut = format!(
        "{{\"auths\": {{\"registry.example\": {{\"auth\": \"{}",
        canaries.plant("a cut dockerconfigjson")
    );
    let odd = json!({"auths": {"registry.example": {"auth": canaries.plant("an auth that is no base64")}}});
    let wrong = json!({"auths": {"registry.example": canaries.plant("an entry of another type")}});
    let all = [
        docker("pull-json", config_json, ".dockerconfigjson", auths.to_string()),
        docker("pull-cfg", config, ".dockercfg", plain.to_string()),
        docker("pull-odd", config_json, ".dockerconfigjson", odd.to_string()),
        docker("pull-wrong", config_json, ".dockerconfigjson", wrong.to_string()),
        // The API server takes no broken JSON in that type, but in this one.
        docker("pull-cut", "Opaque", ".dockerconfigjson", cut),
    ];
    for (_, secret) in all {
        secrets.create(secret).await;
    }
    canaries
}

fn key(secret: &str, key: &str) -> Value {
    json!({"secretKeyRef": {"name": secret, "key": key}})
}

/// A specification that uses every Secret in every way there is.
fn user_of_all(script: &str) -> Value {
    let all = json!({
        "args": ["$(EXPANDED)"],
        "env": [
            {"name": "ENV", "valueFrom": key("opaque", "env")},
            {"name": "EXPANDED", "valueFrom": key("opaque", "expanded")},
            {"name": "IN_ANOTHER", "value": "postgres://user:$(EXPANDED)@db"},
        ],
        "envFrom": [{"secretRef": {"name": "whole"}, "prefix": "P_"}],
        "volumeMounts": [{"name": "secret", "mountPath": "/secret"}, {"name": "all", "mountPath": "/all"}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "livenessProbe": {"exec": {"command": ["sh", "-c", "test -f /secret/file"]}, "periodSeconds": 10},
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "false"]}}},
    });
    json!({
        "containers": [with(container("a", script), all)],
        "imagePullSecrets": [{"name": "pull-json"}, {"name": "pull-cfg"}, {"name": "pull-odd"},
            {"name": "pull-wrong"}, {"name": "pull-cut"}, {"name": "pull-none"}],
        "volumes": [
            {"name": "secret", "secret": {"secretName": "opaque", "items": [{"key": "file", "path": "file"}]}},
            {"name": "all", "projected": {"sources": [
                {"secret": {"name": "opaque", "items": [{"key": "projected", "path": "deep/projected"}]}},
                {"secret": {"name": "tls"}}, {"secret": {"name": "binary"}},
                {"serviceAccountToken": {"audience": "vault", "expirationSeconds": 600, "path": "token"}}]}},
        ],
    })
}

/// What the API server has that a node has written: events, pods, nodes.
async fn objects(world: &World) -> String {
    let events: Api<Event> = Api::all(world.client());
    let pods: Api<Pod> = Api::all(world.client());
    let nodes: Api<Node> = Api::all(world.client());
    let params = ListParams::default();
    let events = events.list(&params).await.expect("events").items;
    assert!(!events.is_empty(), "something was told");
    let pods = pods.list(&params).await.expect("pods").items;
    let nodes = nodes.list(&params).await.expect("nodes").items;
    json!({"events": events, "pods": pods, "nodes": nodes}).to_string()
}

/// The node in this process, its engines, and containers in memory.
#[tokio::test(start_paused = true)]
async fn nothing_that_a_node_writes_shows_a_secret() {
    let log = Written::default();
    let written = log.clone();
    // Of everything but the API server under test, whose business Secrets are.
    let targets =
        Targets::new().with_default(LevelFilter::TRACE).with_target("vk_apiserver", LevelFilter::OFF);
    let spans = fmt::format::FmtSpan::FULL;
    let layer = fmt::layer().with_writer(move || written.clone()).with_span_events(spans).with_ansi(false);
    tracing_subscriber::registry().with(layer.with_filter(targets)).init();

    let world = World::in_memory().await;
    let mut canaries = plant(&world).await;
    let shown = Written::default();
    let kept = shown.clone();
    let node = ContainerNode::over(&world, |inner| {
        Arc::new(Chatty { inner, shown: kept, refused: Mutex::default() })
    })
    .await;
    let pods = Pods::of(&world);

    // One that runs, is entered and is deleted; one that ends well; one that fails again and again.
    pods.create(&pod_of("serves", &node.name, user_of_all("trap 'exit 0' TERM; sleep 100000 & wait"))).await;
    let once = with(user_of_all("sleep 2"), json!({"restartPolicy": "Never"}));
    pods.create(&pod_of("ends", &node.name, once)).await;
    pods.create(&pod_of("fails", &node.name, user_of_all("sleep 2; nosuch; exit 3"))).await;
    // Those that cannot start: a program that is a secret, a key that is missing, a variable that is no text.
    let program = with(
        container("a", ""),
        json!({"command": ["$(PROGRAM)"],
        "env": [{"name": "PROGRAM", "valueFrom": key("opaque", "command")}]}),
    );
    pods.create(&pod_of("program", &node.name, json!({"containers": [program], "restartPolicy": "Never"})))
        .await;
    for (name, secret, wanted) in [("lacks", "opaque", "nosuch"), ("binary", "binary", "binary")] {
        let lacking = with(
            container("a", "sleep 1"),
            json!({"env": [{"name": "A", "valueFrom": key(secret, wanted)}]}),
        );
        pods.create(&pod_of(name, &node.name, json!({"containers": [lacking]}))).await;
    }

    let serves = pods.until_ready("serves").await;
    let reference = PodRef::of(&serves).unwrap();
    let backend = Arc::clone(node.runner.backend());
    let token =
        backend.read_volume_file(&reference, "all", "token", 1 << 16).await.unwrap().expect("a token");
    canaries.add("a service account's token", std::str::from_utf8(&token).unwrap());
    // They are where they belong, or this would show nothing.
    let (_, env) = node.exec(&serves, "a", "env; cat /secret/file /all/deep/projected /all/tls.key").await;
    let places = canaries.found_in(env.as_bytes());
    for place in ["env", "expanded", "envFrom", "file", "projected", "tls.key"] {
        assert!(places.contains(&place), "{place} is not in {env}");
    }
    pods.until_phase("ends", "Succeeded").await;
    pods.until_phase("program", "Failed").await;
    pods.until("fails", "backs off", |pod| {
        vk_scenarios::pods::container(pod).is_some_and(|status| status.restart_count >= 3)
    })
    .await;
    let secrets = Objects::<Secret>::of(&world);
    let newer = canaries.plant("a newer file");
    secrets.patch("opaque", &json!({"stringData": {"file": newer}})).await;
    eventually("the newer file is there", async || {
        let read = backend.read_volume_file(&reference, "secret", "file", 1 << 16).await.unwrap().unwrap();
        if read == newer { Ok(()) } else { Err("the old one is") }
    })
    .await;
    // Another token.
    sleep(Duration::from_mins(9)).await;
    let token =
        backend.read_volume_file(&reference, "all", "token", 1 << 16).await.unwrap().expect("a token");
    assert!(canaries.found_in(&token).is_empty(), "it is another one");
    canaries.add("a service account's second token", std::str::from_utf8(&token).unwrap());
    shown.add(format!("{backend:?}\n{:?}\n{node:?}\n{:?}", node.runner, node.runner.list_pods().await));
    let objects = objects(&world).await;
    for name in ["serves", "fails"] {
        pods.delete(name).await;
        pods.until_gone(name).await;
    }

    let log = log.take();
    for said in ["TRACE", "vk_core", "ProviderCreateFailed", "does not like"] {
        assert!(String::from_utf8_lossy(&log).contains(said), "{said} is not in the log");
    }
    canaries.assert_absent("the log", &log);
    canaries.assert_absent("what Debug shows", &shown.take());
    canaries.assert_absent("an object", objects.as_bytes());
    assert!(objects.contains("does not like"), "the careless error is shown to the pod's owner");
}

/// The daemon as it is shipped: its log at its finest, its traces, and every page that needs no pod of its own.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_the_daemon_writes_or_answers_shows_a_secret() {
    let traces = Written::default();
    let endpoint = receiver(traces.clone()).await;
    let world = World::in_memory().await;
    let mut canaries = plant(&world).await;
    let serving = world.server().serve_tls(([127, 0, 0, 1], 0).into()).await.expect("it is served");
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    serving.write_kubeconfig(&kubeconfig).expect("the kubeconfig is written");
    canaries_of_kubeconfig(&mut canaries, &kubeconfig);
    let log = std::fs::File::create(folder.path().join("log")).expect("a log");
    let name = world.node_name();
    let config = json!({"provider": {"mock": {"failures": {"create": 0.6}}},
        "nodeDefaults": {"minBackoff": "100ms", "maxBackoff": "1s"}, "nodes": [{"name": name}]});
    std::fs::write(folder.path().join("vk.yaml"), config.to_string()).expect("the configuration is written");
    let mut daemon = vk_scenarios::daemon::command()
        .arg("--config")
        .arg(folder.path().join("vk.yaml"))
        .args([
            "--port=0",
            "--listen=127.0.0.1",
            "--node-ip=127.0.0.1",
            "--log-level=trace",
            "--otlp-endpoint",
        ])
        .arg(&endpoint)
        .env("KUBECONFIG", &kubeconfig)
        .stderr(log)
        .spawn()
        .expect("the daemon starts");

    let nodes: Api<Node> = Api::all(world.client());
    let port = eventually("the node serves", async || {
        let node = nodes.get_opt(&name).await.map_err(|error| error.to_string())?.ok_or("no node")?;
        let endpoints = node.status.unwrap_or_default().daemon_endpoints.unwrap_or_default();
        endpoints
            .kubelet_endpoint
            .map(|endpoint| endpoint.port)
            .filter(|port| *port > 0)
            .ok_or("no port".to_owned())
    })
    .await;
    let pods = Pods::of(&world);
    let spec = with(user_of_all("sleep"), json!({"tolerations": [{"operator": "Exists"}]}));
    // More than one, for creations to fail among them.
    let names = ["serves", "b", "c", "d", "e", "f"];
    for pod in names {
        pods.create(&pod_of(pod, &name, spec.clone())).await;
    }
    for pod in names {
        pods.until_phase(pod, "Running").await;
    }
    let mut answers = Vec::new();
    for path in [
        "configz",
        "flagz",
        "statusz",
        "metrics",
        "metrics/probes",
        "metrics/resource",
        "pods",
        "healthz",
        "stats/summary",
        "nosuch",
    ] {
        let bearer = canaries.plant("a caller's bearer token");
        answers.extend(ask(port, path, &bearer).await);
    }
    assert!(!answers.is_empty());
    let objects = objects(&world).await;
    pods.delete_within("serves", 1).await;
    pods.until_gone("serves").await;
    eventually("the life is exported", async || {
        let sent = traces.take();
        if sent.windows(6).any(|part| part == b"delete") { Ok(()) } else { Err(sent.len()) }
    })
    .await;
    daemon.kill().await.expect("it is killed");
    serving.stop().await;

    let log = std::fs::read(folder.path().join("log")).expect("the log");
    for said in ["TRACE", "ProviderCreateFailed", "injected failure"] {
        assert!(String::from_utf8_lossy(&log).contains(said), "{said} is not in the log");
    }
    canaries.assert_absent("the daemon's log", &log);
    canaries.assert_absent("the traces", &traces.take());
    canaries.assert_absent("an answer", &answers);
    canaries.assert_absent("an object", objects.as_bytes());
}

/// An OTLP receiver; what it is sent is protobuf, in which texts stand as they are.
async fn receiver(written: Written) -> String {
    let take = axum::routing::post(async move |body: Bytes| written.add(&body));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/traces", take)).await });
    endpoint
}

/// What the node proves itself with.
fn canaries_of_kubeconfig(canaries: &mut Canaries, path: &std::path::Path) {
    let text = std::fs::read_to_string(path).expect("a kubeconfig");
    let mut found = 0;
    for line in text.lines() {
        let Some((key, value)) = line.trim().trim_start_matches("- ").split_once(": ") else { continue };
        if ["token", "password", "client-key-data"].contains(&key.trim_matches('"')) {
            canaries.add(&format!("the kubeconfig's {key}"), value.trim_matches('"'));
            found += 1;
        }
    }
    assert!(found > 0, "no credentials in the kubeconfig");
}

/// Asks the node for a page with that bearer token, by HTTPS.
async fn ask(port: i32, path: &str, bearer: &str) -> Vec<u8> {
    let output = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--insecure", "--include", "--max-time", "20"])
        .args(["--header", &format!("Authorization: Bearer {bearer}")])
        .arg(format!("https://127.0.0.1:{port}/{path}"))
        .output()
        .await
        .expect("curl runs");
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
