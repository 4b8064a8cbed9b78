//! A provider and a pod table to put behind the API in tests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tower::ServiceExt as _;

pub(super) mod pki;
pub(super) mod signer;

use super::{Access, KubeletApi};
use crate::clock::Clock;
use crate::pods::PodLookup;
use crate::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, ContainerRef, Duplex, Error, ExecIo, ExitStatus, Features,
    FieldSupport, LogEntry, LogOptions, LogOutput, LogStream, NodeInfo, ObservedPod, PodEvent, PodPrepare,
    PodRef, PodStats, PodUpdate, PortForward, Provider, ResolvedPod, Result, Usage,
};

type OpenLog = Box<dyn Fn() -> Result<LogStream> + Send + Sync>;
type Listing = Box<dyn Fn() -> Result<Vec<ObservedPod>> + Send + Sync>;
type Figures = Box<dyn Fn() -> Result<Usage> + Send + Sync>;

/// What a command does; an attach is one without words.
pub(super) type Run =
    Box<dyn Fn(Vec<String>, ExecIo) -> BoxFuture<'static, Result<ExitStatus>> + Send + Sync>;
pub(super) type Connect = Box<dyn Fn(u16) -> Result<Box<dyn Duplex>> + Send + Sync>;

/// A provider that does what a test puts into it, and has no capability otherwise.
#[derive(Default)]
pub(super) struct Backend {
    pub(super) log: Option<OpenLog>,
    pub(super) listing: Option<Listing>,
    pub(super) figures: Option<Figures>,
    pub(super) exec: Option<Run>,
    pub(super) connect: Option<Connect>,
    /// The options of each log that was opened.
    pub(super) opened: Mutex<Vec<(ContainerRef, LogOptions)>>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backend")
    }
}

#[async_trait]
impl Provider for Backend {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn native(&self) -> Features {
        Features::NONE
    }
    fn fields(&self) -> &FieldSupport {
        &crate::provider::fake::ANYTHING
    }
    async fn node_info(&self) -> Result<NodeInfo> {
        Err(Error::unavailable("not asked for here"))
    }
    async fn create_pod(&self, _: &ResolvedPod) -> Result<()> {
        Err(Error::unavailable("not asked for here"))
    }
    async fn delete_pod(&self, _: &PodRef, _: Duration) -> Result<()> {
        Err(Error::unavailable("not asked for here"))
    }
    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        self.listing.as_ref().map_or_else(|| Ok(Vec::new()), |listing| listing())
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        futures::stream::pending().boxed()
    }
    fn prepare(&self) -> Option<&dyn PodPrepare> {
        None
    }
    fn update(&self) -> Option<&dyn PodUpdate> {
        None
    }
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        self.log.is_some().then_some(self)
    }
    fn exec(&self) -> Option<&dyn ContainerExec> {
        self.exec.is_some().then_some(self)
    }
    fn attach(&self) -> Option<&dyn ContainerAttach> {
        self.exec.is_some().then_some(self)
    }
    fn port_forward(&self) -> Option<&dyn PortForward> {
        self.connect.is_some().then_some(self)
    }
    fn stats(&self) -> Option<&dyn PodStats> {
        self.figures.is_some().then_some(self)
    }
}

#[async_trait]
impl ContainerLogs for Backend {
    async fn container_logs(&self, container: &ContainerRef, options: &LogOptions) -> Result<LogStream> {
        self.opened.lock().unwrap().push((container.clone(), options.clone()));
        self.log.as_ref().expect("only asked for logs when it has some")()
    }
}

#[async_trait]
impl ContainerExec for Backend {
    async fn exec(&self, _: &ContainerRef, command: &[String], io: ExecIo) -> Result<ExitStatus> {
        self.exec.as_ref().expect("only asked for commands when it has some")(command.to_vec(), io).await
    }
}

#[async_trait]
impl ContainerAttach for Backend {
    async fn attach(&self, _: &ContainerRef, io: ExecIo) -> Result<ExitStatus> {
        self.exec.as_ref().expect("only asked to attach when it can")(Vec::new(), io).await
    }
}

#[async_trait]
impl PortForward for Backend {
    async fn connect(&self, _: &PodRef, port: u16) -> Result<Box<dyn Duplex>> {
        self.connect.as_ref().expect("only asked for ports when it has some")(port)
    }
}

#[async_trait]
impl PodStats for Backend {
    async fn usage(&self) -> Result<Usage> {
        self.figures.as_ref().expect("only asked for figures when it has some")()
    }
}

/// The node's pods, as a list that a test may change.
#[derive(Debug, Default)]
pub(super) struct Table(pub(super) Mutex<Vec<Pod>>);

impl PodLookup for Table {
    fn find(&self, namespace: &str, name: &str) -> Option<Pod> {
        let named = |pod: &&Pod| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        self.0.lock().unwrap().iter().find(named).cloned()
    }
    fn find_by_uid(&self, uid: &str) -> Option<Pod> {
        self.0.lock().unwrap().iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid)).cloned()
    }
    fn all(&self) -> Vec<Pod> {
        self.0.lock().unwrap().clone()
    }
}

/// The moment at which every test's clock begins.
pub(super) fn start() -> Timestamp {
    "2026-11-23T10:00:00Z".parse().unwrap()
}

/// A pod `default/<name>` with UID `uid-<name>` and one container `a`, whose status is the given one.
pub(super) fn pod(name: &str, status: &serde_json::Value) -> Pod {
    let status = json!({ "phase": "Running", "containerStatuses": [status] });
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": name} },
        "spec": {
            "nodeName": "node-1",
            "initContainers": [{ "name": "init", "image": "init:1" }],
            "containers": [{ "name": "a", "image": "a:1" }],
            "ephemeralContainers": [{ "name": "debug", "image": "debug:1" }],
        },
        "status": status,
    }))
    .unwrap()
}

/// The status of a container `a` in a state.
pub(super) fn container_status(state: &serde_json::Value, last: &serde_json::Value) -> serde_json::Value {
    json!({
        "name": "a", "image": "a:1", "imageID": "", "ready": true, "restartCount": 0,
        "state": state, "lastState": last,
    })
}

/// A pod whose container `a` runs.
pub(super) fn running(name: &str) -> Pod {
    pod(name, &container_status(&json!({ "running": { "startedAt": "2026-11-23T09:00:00Z" } }), &json!({})))
}

/// A log line, so many seconds after [`start`].
pub(super) fn line(second: i64, output: LogOutput, text: &'static str) -> LogEntry {
    let time = start().checked_add(jiff::SignedDuration::from_secs(second)).unwrap();
    LogEntry { time, output, line: Bytes::from_static(text.as_bytes()) }
}

/// An API over these, open to everybody, with a clock that stands at [`start`] in paused time.
pub(super) fn api(backend: Backend, pods: Vec<Pod>) -> KubeletApi {
    guarded(Arc::new(backend), pods, Access::insecure_allow_all())
}

/// An API with rules.
pub(super) fn guarded(backend: Arc<Backend>, pods: Vec<Pod>, access: Access) -> KubeletApi {
    let pods = Arc::new(Table(Mutex::new(pods)));
    KubeletApi::new("node-1", backend, pods, access, Clock::virtual_from(start()))
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    /// Whether the body broke off instead of ending.
    pub(super) broken: bool,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
    pub(super) fn is(&self, status: u16, body: &str) {
        assert_eq!((self.status.as_u16(), self.body.as_str(), self.broken), (status, body, false));
    }
}

pub(super) async fn send(api: &KubeletApi, request: Request<Body>) -> Answer {
    let response = api.router().oneshot(request).await.unwrap();
    let (parts, mut body) = response.into_parts();
    let (mut bytes, mut broken) = (Vec::new(), false);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(frame.data_ref().unwrap()),
            Err(_) => broken = true,
        }
    }
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8_lossy(&bytes).into_owned(),
        broken,
    }
}

pub(super) async fn get(api: &KubeletApi, path: &str) -> Answer {
    send(api, Request::get(path).body(Body::empty()).unwrap()).await
}
