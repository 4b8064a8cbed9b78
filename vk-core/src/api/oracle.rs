//! The kubelet's recorded answers (`tests/oracle/http`), held against ours.
//!
//! Every recorded question is asked here. An answer is equal in status, headers, body, and in the names of its fields,
//! families and labels, or each difference stands in [`differences`] with its reason; one that is no more must be
//! struck out.

mod compare;
mod differences;
mod page;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use futures::StreamExt as _;
use http::Request;
use http::header::AUTHORIZATION;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use self::differences::DIFFERENCES;
use super::access::User;
use super::testing::pki::{Ca, Client};
use super::testing::{Answer, Backend, Table, container_status, guarded, line, pod, running, send, start};
use super::{Access, Action, Connection, KubeletApi, ReviewError, Reviewer};
use crate::config::NodeConfig;
use crate::containers::ProbeKind;
use crate::metrics::Metrics;
use crate::pods::Desired;
use crate::provider::{
    ContainerUsage, CpuUsage, Error, ExitStatus, FilesystemUsage, LogOutput, MemoryUsage, NetworkUsage,
    NodeUsage, PodRef, PodUsage, Usage,
};

/// One recorded answer.
struct Case {
    file: String,
    what: String,
    recorded: Value,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle/http");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let document: Value = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        for recorded in document["answers"].as_array().unwrap() {
            let what = recorded["what"].as_str().unwrap().to_owned();
            cases.push(Case { file: file.clone(), what, recorded: recorded.clone() });
        }
    }
    cases
}

/// The rights of the recorded callers.
#[derive(Debug)]
struct Rules;

#[async_trait]
impl Reviewer for Rules {
    async fn authenticate(&self, _: &str) -> Result<Option<User>, ReviewError> {
        Ok(None)
    }

    /// ClusterRole `system:kubelet-api-admin`, which has no `nodes/checkpoint`.
    async fn authorize(&self, user: &User, action: &Action) -> Result<bool, ReviewError> {
        let granted = ["proxy", "log", "stats", "metrics", "pods", "healthz", "configz"];
        Ok(user.name == ADMIN && granted.contains(&action.subresource))
    }
}

const ADMIN: &str = "kube-apiserver-kubelet-client";

/// A node with the recorded pods.
fn node(ca: &Ca) -> KubeletApi {
    let log = || Ok(futures::stream::iter([Ok(line(0, LogOutput::Stdout, "done\n"))]).boxed());
    let backend = Backend {
        log: Some(Box::new(log)),
        figures: Some(Box::new(|| Ok(usage()))),
        exec: Some(Box::new(|_, _| Box::pin(async { Ok(ExitStatus::Code(0)) }))),
        connect: Some(Box::new(|_| Err(Error::unavailable("nothing listens here")))),
        ..Backend::default()
    };
    let ended = json!({ "terminated": { "exitCode": 0, "reason": "Completed" } });
    let waiting = |reason: &str| container_status(&json!({ "waiting": { "reason": reason } }), &json!({}));
    let pods = vec![
        running("web"),
        running("lines"),
        pod("done", &container_status(&ended, &json!({}))),
        pod("waiting", &waiting("ErrImageNeverPull")),
        pod("initing", &waiting("PodInitializing")),
    ];
    let access = Access::none().with_client_ca(ca.trusted()).with_reviewer(Arc::new(Rules));
    let config = Arc::new(NodeConfig::new("node-1"));
    guarded(Arc::new(backend), pods, access).with_config(config).with_metrics(busy())
}

/// One of everything that is counted.
fn busy() -> Metrics {
    let metrics = crate::metrics::tests::busy();
    let container = PodRef::new("default", "web", "uid-web").container("a");
    for kind in [ProbeKind::Liveness, ProbeKind::Readiness, ProbeKind::Startup] {
        metrics.probes().count(container.clone(), kind, "successful", Duration::from_millis(1));
    }
    metrics
}

/// One of every figure there is.
fn usage() -> Usage {
    let time = start();
    let mut cpu = CpuUsage::counted(time, 1);
    cpu.usage_nano_cores = Some(1);
    let mut memory = MemoryUsage::working_set(time, 1);
    (memory.usage_bytes, memory.rss_bytes) = (Some(1), Some(1));
    let mut network = NetworkUsage::counted(time, "eth0", 1, 1);
    (network.rx_errors, network.tx_errors) = (Some(0), Some(0));
    let mut files = FilesystemUsage::used(time, 1);
    (files.available_bytes, files.capacity_bytes) = (Some(1), Some(2));
    let mut container = ContainerUsage::new("a", Some(time), Some(cpu), Some(memory));
    container.root_filesystem = Some(files);
    let mut pod = PodUsage::new(PodRef::new("default", "web", "uid-web"), Some(time), vec![container]);
    (pod.cpu, pod.memory) = (Some(cpu), Some(memory));
    (pod.network, pod.ephemeral_storage) = (Some(network.clone()), Some(files));
    let mut node = NodeUsage::default();
    memory.available_bytes = Some(1);
    (node.cpu, node.memory, node.network, node.filesystem) =
        (Some(cpu), Some(memory), Some(network), Some(files));
    let mut usage = Usage::of_pods(vec![pod]);
    usage.node = Some(node);
    usage
}

/// Asks as the recorder did.
async fn ask(api: &KubeletApi, ca: &Ca, case: &Case) -> Answer {
    let asked = &case.recorded["request"];
    let path = asked["path"].as_str().unwrap().replace("<namespace>", "default");
    let mut request = Request::builder().method(asked["method"].as_str().unwrap()).uri(path);
    let client = match asked["client"].as_str().unwrap() {
        "none" => None,
        "a valid certificate without rights" => Some("nobody"),
        "a certificate allowed system:kubelet-api-admin" => Some(ADMIN),
        other => panic!("{}: an unknown caller, {other}", case.what),
    };
    if let Some(name) = client {
        let chain = ca.sign(Client { name, ..Client::default() }).chain;
        request = request.extension(Connection::in_process(chain));
    }
    // What the recordings say in words.
    for (word, name, value) in [
        ("bad bearer token", AUTHORIZATION.as_str(), "Bearer bad"),
        ("SPDY", "connection", "Upgrade"),
        ("SPDY", "upgrade", "SPDY/3.1"),
        ("unknown protocol version", "x-stream-protocol-version", "v9.channel.k8s.io"),
        ("OpenMetrics", "accept", "application/openmetrics-text; version=1.0.0"),
        (
            "protobuf",
            "accept",
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
        ),
    ] {
        if case.what.contains(word) {
            request = request.header(name, value);
        }
    }
    send(api, request.body(Body::empty()).unwrap()).await
}

/// A pod of the recorded shape, as the node keeps it. What the kubelet itself writes into its copy is left out.
fn recorded_pod() -> Pod {
    let cases = cases();
    let case = cases.iter().find(|case| case.file == "pods").unwrap();
    let mut pod = value_of(&case.recorded["shape"]["items"][0]);
    let annotations = pod["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.retain(|name, _| !name.starts_with("kubernetes.io/config."));
    let pod = serde_json::from_value(pod).unwrap();
    Desired::of(pod).unwrap().1.pod().unwrap()
}

/// Something of a recorded shape.
fn value_of(shape: &Value) -> Value {
    match shape {
        Value::Object(fields) => {
            fields.iter().map(|(name, shape)| (name.clone(), value_of(shape))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(value_of).collect(),
        Value::String(kind) => match kind.as_str() {
            "string" => json!("1"),
            "number" => json!(1),
            "bool" => json!(true),
            "time" => json!("2026-11-23T10:00:00Z"),
            other => panic!("an unknown kind, {other}"),
        },
        other => other.clone(),
    }
}

#[tokio::test(start_paused = true)]
async fn every_recorded_question_gets_the_kubelets_answer_but_for_what_is_listed_with_a_reason() {
    let ca = Ca::new("ca");
    let api = node(&ca);
    let whole = KubeletApi { pods: Arc::new(Table(Mutex::new(vec![recorded_pod()]))), ..api.clone() };
    let mut listed = BTreeSet::new();
    for row in DIFFERENCES {
        for (question, place) in row.all() {
            let line = format!("{} / {question}: {place}", row.file);
            assert!(listed.insert(line.clone()), "twice: {line}");
        }
    }
    let (mut wrong, mut equal) = (Vec::new(), 0);
    let cases = cases();
    for case in &cases {
        // Tested with the streams themselves: the answer is a connection.
        if case.recorded["code"] == 101 || case.what.contains("unknown protocol version") {
            continue;
        }
        let api = if case.file == "pods" { &whole } else { &api };
        let answer = ask(api, &ca, case).await;
        let found = compare::differences(case, &answer);
        equal += usize::from(found.is_empty());
        for (place, detail) in found {
            let line = format!("{} / {}: {place}", case.file, case.what);
            if !listed.remove(&line) {
                wrong.push(format!("{line}: {detail}"));
            }
        }
    }
    wrong.extend(listed.into_iter().map(|line| format!("{line}: listed, but not found")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(equal > 35, "only {equal} answers are equal");
}
