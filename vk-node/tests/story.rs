//! A pod's life can be read from the log alone, from the trace alone and from what `kubectl describe` shows alone: for
//! a creation that fails, each names the pod, its UID and the cause.
#![cfg(feature = "otlp")]

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as AnyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use vk_apiserver::{ApiServer, Config, Serving};

const PATIENCE: Duration = Duration::from_mins(1);

/// An OTLP receiver in this process: what it was sent, resource attributes with each span.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<Received>>>);

/// A span, and what its resource says.
type Received = (Vec<KeyValue>, Span);

impl Receiver {
    async fn start() -> (Self, String) {
        let receiver = Self::default();
        let take = |State(receiver): State<Self>, body: Bytes| async move {
            let request = ExportTraceServiceRequest::decode(body).expect("protobuf");
            let mut spans = receiver.0.lock().unwrap();
            for resource in request.resource_spans {
                let about = resource.resource.unwrap_or_default().attributes;
                let all = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(all.map(|span| (about.clone(), span)));
            }
        };
        let router =
            Router::new().route("/v1/traces", axum::routing::post(take)).with_state(receiver.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, endpoint)
    }

    fn of_pod(&self, uid: &str) -> Vec<Received> {
        let trace = u128::from_str_radix(&uid.replace('-', ""), 16).unwrap().to_be_bytes();
        let spans = self.0.lock().unwrap();
        spans.iter().filter(|(_, span)| span.trace_id == trace).cloned().collect()
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|pair| pair.key == key)?.value.clone()?.value?;
    match value {
        AnyValue::StringValue(text) => Some(text),
        other => Some(format!("{other:?}")),
    }
}

struct Stage {
    server: ApiServer,
    _serving: Serving,
    _home: tempfile::TempDir,
    daemon: Child,
    receiver: Receiver,
}

impl Stage {
    async fn start(provider: &str) -> Self {
        let server = ApiServer::with(Config::default()).unwrap();
        let serving = server.serve_tls(([127, 0, 0, 1], 0).into()).await.unwrap();
        let (receiver, endpoint) = Receiver::start().await;
        let home = tempfile::tempdir().unwrap();
        serving.write_kubeconfig(&home.path().join("kubeconfig")).unwrap();
        std::fs::write(home.path().join("vk.yaml"), format!("provider: {{mock: {provider}}}\n")).unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_vk-node"))
            .args([
                "--config=vk.yaml",
                "--kubeconfig=kubeconfig",
                "--nodename=a",
                "--listen=127.0.0.1",
                "--port=0",
            ])
            .args(["--log-format=json", "--trace-attribute=cluster=test", "--otlp-endpoint", &endpoint])
            .env_clear()
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { server, _serving: serving, _home: home, daemon, receiver }
    }

    async fn pod(&self) -> Pod {
        let pod = json!({
            "metadata": {"name": "web"},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]},
        });
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.server.client(), "default")
    }

    /// What `kubectl describe pod` reads: the object and its events.
    async fn described(&self, enough: impl Fn(&Pod, &[Event]) -> bool) -> (Pod, Vec<Event>) {
        let events: Api<Event> = Api::namespaced(self.server.client(), "default");
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let pod = self.pods().get("web").await.unwrap();
                let all = events.list(&kube::api::ListParams::default()).await.unwrap().items;
                if enough(&pod, &all) {
                    return (pod, all);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        found.await.expect("it shows")
    }

    /// Ends the daemon; the log, line by line.
    async fn end(self) -> (Receiver, Vec<Value>) {
        let pid = i32::try_from(self.daemon.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let output = tokio::time::timeout(PATIENCE, self.daemon.wait_with_output()).await.unwrap().unwrap();
        assert!(output.status.success());
        let log = String::from_utf8(output.stderr).unwrap();
        let lines =
            log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")));
        (self.receiver, lines.collect())
    }
}

#[tokio::test]
async fn a_failed_creation_is_told_with_pod_uid_and_cause_by_log_trace_and_description_each_alone() {
    const CAUSE: &str = "injected failure";
    let stage = Stage::start("{failures: {create: 1}}").await;
    let pod = stage.pod().await;
    let uid = pod.metadata.uid.unwrap();

    // The description alone: the events, and the status.
    let failed = |event: &&Event| event.reason.as_deref() == Some("ProviderCreateFailed");
    let (pod, events) = stage
        .described(|pod, events| {
            let status = pod.status.as_ref().and_then(|status| status.message.as_deref());
            events.iter().any(|event| failed(&event)) && status.is_some()
        })
        .await;
    let message = events.iter().find(failed).and_then(|event| event.message.clone()).unwrap();
    for part in ["default/web", &uid, CAUSE] {
        assert!(message.to_lowercase().contains(part), "{part} in the event: {message}");
    }
    let status = pod.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("ProviderFailed"));
    assert!(status.message.unwrap().to_lowercase().contains(CAUSE));

    let (receiver, log) = stage.end().await;

    // The log alone: one line with everything.
    let line = log
        .iter()
        .find(|line| line["reason"] == "ProviderCreateFailed")
        .unwrap_or_else(|| panic!("no such line in {log:#?}"));
    assert_eq!(line["level"], "WARN");
    assert!(line["message"].as_str().unwrap().to_lowercase().contains(CAUSE), "{line}");
    let who = &line["span"];
    assert_eq!(
        (&who["k8s.pod.name"], &who["k8s.namespace.name"]),
        (&json!("web"), &json!("default")),
        "{line}"
    );
    assert_eq!((&who["k8s.pod.uid"], &who["vk.provider"]), (&json!(uid), &json!("mock")), "{line}");

    // The trace alone: found by the UID, with a span that failed.
    let spans = receiver.of_pod(&uid);
    let (about, span) = spans
        .iter()
        .find(|(_, span)| span.name == "create")
        .unwrap_or_else(|| panic!("no such span in {spans:#?}"));
    assert_eq!(attribute(about, "service.name").as_deref(), Some("vk-node"));
    assert_eq!(attribute(about, "cluster").as_deref(), Some("test"));
    for (key, value) in [
        ("k8s.pod.name", "web"),
        ("k8s.namespace.name", "default"),
        ("k8s.pod.uid", &uid),
        ("vk.provider", "mock"),
    ] {
        assert_eq!(attribute(&span.attributes, key).as_deref(), Some(value), "{key}");
    }
    let status = span.status.as_ref().unwrap();
    assert_eq!(status.code, 2, "it is an error: {status:?}");
    assert!(status.message.to_lowercase().contains(CAUSE), "{status:?}");
}

#[tokio::test]
async fn a_life_is_one_trace_from_its_creation_to_its_end() {
    let stage = Stage::start("{}").await;
    let uid = stage.pod().await.metadata.uid.unwrap();
    let running =
        |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    stage.described(|pod, _| running(pod)).await;
    stage.pods().delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
    let whole = tokio::time::timeout(PATIENCE, async {
        while !stage.receiver.of_pod(&uid).iter().any(|(_, span)| span.name == "pod") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    whole.await.expect("the whole life is exported at its end");
    let (receiver, log) = stage.end().await;
    let spans: Vec<Span> = receiver.of_pod(&uid).into_iter().map(|(_, span)| span).collect();
    let roots: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
    let [root] = roots[..] else { panic!("{roots:#?}") };
    assert_eq!(root.name, "pod");
    for name in ["create", "status", "delete"] {
        let span =
            spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name} in {spans:#?}"));
        assert_eq!(span.parent_span_id, root.span_id, "{name}");
        assert!(span.start_time_unix_nano >= root.start_time_unix_nano, "{name} is within the whole");
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano, "{name} is within the whole");
    }
    let told: Vec<&str> = log
        .iter()
        .filter(|line| line["span"]["k8s.pod.uid"] == json!(uid))
        .filter_map(|line| line["reason"].as_str().or(line["phase"].as_str()))
        .collect();
    for part in ["ProviderCreateSuccess", "Started", "Running", "ProviderDeleteSuccess"] {
        assert!(told.contains(&part), "{part} in {told:?}");
    }
}
