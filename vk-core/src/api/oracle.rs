//! The kubelet's recorded answers (`tests/oracle/http`), held against ours.
//!
//! Every recorded question is asked here. An answer is equal in status, headers and body, or the difference stands
//! below with its reason; a difference that is no more must be struck out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use futures::StreamExt as _;
use http::Request;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use super::access::User;
use super::testing::pki::{Ca, Client};
use super::testing::{Answer, Backend, container_status, guarded, line, pod, running, send, start};
use super::{Access, Action, Connection, KubeletApi, ReviewError, Reviewer};
use crate::config::NodeConfig;
use crate::provider::{
    ContainerUsage, CpuUsage, Error, ExitStatus, FilesystemUsage, LogOutput, MemoryUsage, NetworkUsage,
    NodeUsage, PodRef, PodUsage, Usage,
};

/// File, question, and why the answer is another one.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("simple", "healthz verbose", "there is no device plugin manager, hence no check of it"),
    ("metrics-resource", "asked for protobuf", "text is what every scraper falls back to"),
];

/// What cannot be asked without a connection, and is tested with one.
const ELSEWHERE: &str = "an upgrade; tested over connections with the streams";

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
    guarded(Arc::new(backend), pods, access).with_config(config)
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
        ("protobuf", "accept", "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily"),
    ] {
        if case.what.contains(word) {
            request = request.header(name, value);
        }
    }
    send(api, request.body(Body::empty()).unwrap()).await
}

/// How an answer differs from the recorded one, line by line.
fn differences(case: &Case, answer: &Answer) -> Vec<String> {
    let recorded = &case.recorded;
    let mut found = Vec::new();
    let mut expect = |what: String, ours: &str, theirs: &str| {
        if ours != theirs {
            found.push(format!("{what}: {ours:?}, not {theirs:?}"));
        }
    };
    expect("code".to_owned(), answer.status.as_str(), &recorded["code"].to_string());
    for (name, value) in recorded["headers"].as_object().unwrap() {
        let value = value.as_str().unwrap();
        let ours = answer.header(name).unwrap_or("");
        match &**name {
            // Framing is the server's, which is not asked here.
            "Transfer-Encoding" => {}
            _ if value.starts_with('<') => {
                expect(name.clone(), if ours.is_empty() { "" } else { value }, value);
            }
            _ => expect(name.clone(), ours, value),
        }
    }
    match &recorded["body"] {
        Value::Null => {}
        Value::String(text) => {
            expect("body".to_owned(), &answer.body, &text.replace("<namespace>", "default"));
        }
        json => {
            let ours = serde_json::from_str(&answer.body).unwrap_or(Value::String(answer.body.clone()));
            expect("body".to_owned(), &ours.to_string(), &json.to_string());
        }
    }
    match &recorded["shape"] {
        Value::Null => {}
        Value::String(beginning) if beginning == "binary" => found.push("body: text, not binary".to_owned()),
        // The tail of a metrics document.
        Value::String(end) if end.ends_with(" 0\n") => {
            if !answer.body.ends_with(end.as_str()) {
                found.push(format!("body does not end with {end:?}"));
            }
        }
        Value::String(beginning) => {
            if !answer.body.starts_with(beginning.as_str()) {
                found.push(format!("body does not begin with {beginning:?}"));
            }
        }
        Value::Object(families) if case.file.starts_with("metrics-") => {
            families_differ(families, &answer.body, &mut found);
        }
        shape => match serde_json::from_str::<Value>(&answer.body) {
            Ok(mut document) => {
                // A pod is what its maker wrote; which parts of it are shown is the kubelet's.
                for pod in document.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
                    pod.as_object_mut().unwrap().values_mut().for_each(|part| *part = json!({}));
                }
                shapes_differ("", shape, &document, &mut found);
            }
            Err(error) => found.push(format!("body: {error}")),
        },
    }
    found
}

/// Where a document has what the shape has not, or has it otherwise. Less is no difference: what is unknown is left out.
fn shapes_differ(place: &str, shape: &Value, ours: &Value, found: &mut Vec<String>) {
    match (shape, ours) {
        (Value::Object(shape), Value::Object(ours)) => {
            for (name, value) in ours {
                match shape.get(name) {
                    Some(shape) => shapes_differ(&format!("{place}.{name}"), shape, value, found),
                    None => found.push(format!("{place}.{name}: not with the kubelet")),
                }
            }
        }
        (Value::Array(shape), Value::Array(ours)) => {
            let item = shape.first().unwrap_or(&Value::Null);
            for value in ours {
                shapes_differ(&format!("{place}[]"), item, value, found);
            }
        }
        (Value::String(kind), value) => {
            let fits = match kind.as_str() {
                "string" => value.is_string(),
                "number" => value.is_number(),
                "bool" => value.is_boolean(),
                "time" => value
                    .as_str()
                    .is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok() && text.ends_with('Z')),
                _ => false,
            };
            if !fits {
                found.push(format!("{place}: {value}, not a {kind}"));
            }
        }
        (shape, value) => {
            if shape != value {
                found.push(format!("{place}: {value}, not {shape}"));
            }
        }
    }
}

/// Where the kubelet's families and ours differ in type, help or labels. Families that the kubelet has not are ours
/// to have if their names are not in the kubelet's space; those that it has and we have not are left out for want of
/// figures.
fn families_differ(families: &serde_json::Map<String, Value>, text: &str, found: &mut Vec<String>) {
    let mut ours: BTreeMap<&str, (String, String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            ours.entry(name).or_default().1 = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            ours.entry(name).or_default().0 = kind.to_owned();
        } else if let Some((name, _)) = line.split_once(['{', ' '])
            && let Some(family) = ours.get_mut(name)
        {
            family.2.insert(labels(line));
        }
    }
    let detailed = families.values().any(Value::is_object);
    for (name, (kind, help, labelled)) in ours {
        let Some(theirs) = families.get(name) else {
            if detailed || name.starts_with("kubelet_") {
                found.push(format!("{name}: not with the kubelet"));
            }
            continue;
        };
        let theirs_kind = theirs["type"].as_str().or(theirs.as_str()).unwrap();
        if kind != theirs_kind {
            found.push(format!("{name}: a {kind}, not a {theirs_kind}"));
        }
        if !detailed {
            continue;
        }
        if theirs["help"] != help {
            found.push(format!("{name}: {help:?}, not {}", theirs["help"]));
        }
        let samples = theirs["samples"].as_array().unwrap();
        let theirs: BTreeSet<_> = samples.iter().map(|sample| labels(sample.as_str().unwrap())).collect();
        if !labelled.is_subset(&theirs) {
            found.push(format!("{name}: labels {labelled:?}, not {theirs:?}"));
        }
    }
}

/// The names of a sample's labels, sorted: their order is free, and ours differs (`api`'s documentation says why).
fn labels(sample: &str) -> String {
    let Some((_, rest)) = sample.split_once('{') else { return String::new() };
    let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
    let mut names: Vec<_> = inside.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
    names.sort_unstable();
    names.join(",")
}

#[tokio::test(start_paused = true)]
async fn every_recorded_question_gets_the_kubelets_answer_or_one_that_differs_for_a_reason() {
    let ca = Ca::new("ca");
    let api = node(&ca);
    let mut unused: BTreeSet<_> = DIFFERENCES.iter().map(|(file, what, _)| (*file, *what)).collect();
    let (mut wrong, mut equal) = (Vec::new(), 0);
    let cases = cases();
    for case in &cases {
        // Tested with the streams themselves: the answer is a connection.
        if case.recorded["code"] == 101 || case.what.contains("unknown protocol version") {
            continue;
        }
        let answer = ask(&api, &ca, case).await;
        let found = differences(case, &answer);
        let listed = unused.remove(&(case.file.as_str(), case.what.as_str()));
        match (found.is_empty(), listed) {
            (true, false) => equal += 1,
            (false, true) => {}
            (true, true) => wrong.push(format!("{} / {}: listed, but equal", case.file, case.what)),
            (false, false) => wrong.push(format!("{} / {}:\n  {}", case.file, case.what, found.join("\n  "))),
        }
    }
    wrong.extend(unused.into_iter().map(|(file, what)| format!("{file} / {what}: listed, but not asked")));
    assert!(wrong.is_empty(), "{}\n({ELSEWHERE})", wrong.join("\n"));
    assert!(equal > 40, "only {equal} answers were compared");
}
