//! A backend that only runs containers, under [`PodRunner`]: init containers in order, restarts with back-off, hooks,
//! probes and the pod's end are the runner's.
//!
//! A "container" is a task of this process that knows two programs: `count N` ends after N ticks of 100 ms, and `flaky`
//! fails when it is started for the first time and then runs until it is told to stop.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use vk_apiserver::{ApiServer, Controller};
use vk_core::clock::Clock;
use vk_core::config::NodeConfig;
use vk_core::containers::{
    BackendEvent, ContainerBackend, ContainerRun, ContainerSpec, Image, PodRunner, RunExit, RunRecord,
    RunState, SandboxRecord,
};
use vk_core::provider::{
    Error, ExitStatus, FieldSupport, NodeInfo, PodRef, PodUid, PullCredential, ResolvedPod, ResolvedVolume,
    Result, Value,
};
use vk_core::{Node, Shutdown};

#[derive(Debug)]
struct Tasks {
    /// For the tasks, which tell what becomes of them.
    own: Weak<Self>,
    state: Mutex<State>,
    events: broadcast::Sender<BackendEvent>,
}

#[derive(Debug, Default)]
struct State {
    sandboxes: HashMap<PodUid, SandboxRecord>,
    addresses: HashMap<PodUid, IpAddr>,
    created: HashMap<ContainerRun, ContainerSpec>,
    running: HashMap<ContainerRun, CancellationToken>,
}

impl Tasks {
    fn new() -> Arc<Self> {
        Arc::new_cyclic(|own| {
            let (own, events) = (own.clone(), broadcast::channel(1024).0);
            Self { own, state: Mutex::default(), events }
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a run does now, and tells it: under the lock, so that events come in the order of what happened.
    fn note(&self, run: &ContainerRun, state: RunState) {
        let mut all = self.state();
        let Some(sandbox) = all.sandboxes.get_mut(&run.container.pod.uid) else { return };
        let id = format!("task://{}-{}-{}", run.uid(), run.name(), run.attempt);
        let record = RunRecord::new(run.clone(), id, state).of_image("tasks", "tasks");
        sandbox.runs.retain(|other| other.run != *run);
        sandbox.runs.push(record.clone());
        // Nobody may be watching; who comes later is given the list.
        let _ = self.events.send(BackendEvent::Run(record));
    }

    /// What a container does, until it ends by itself or is stopped.
    async fn play(self: Arc<Self>, spec: ContainerSpec, stop: CancellationToken) {
        let started_at = Timestamp::now();
        self.note(&spec.run, RunState::Running { started_at });
        let words: Vec<&str> = spec.command.iter().chain(&spec.args).map(Value::expose).collect();
        let program = async {
            match words.as_slice() {
                ["count", ticks] => {
                    tokio::time::sleep(Duration::from_millis(100) * ticks.parse().unwrap_or(1)).await;
                    0
                }
                ["flaky"] if spec.run.attempt == 0 => 1,
                ["flaky"] => std::future::pending().await,
                _ => 127,
            }
        };
        let code = tokio::select! {
            code = program => code,
            // 128 + 15: it dies of SIGTERM at once.
            () = stop.cancelled() => 143,
        };
        let exit = RunExit::new(ExitStatus::Code(code), started_at, Timestamp::now());
        self.note(&spec.run, RunState::Exited(exit));
        self.state().running.remove(&spec.run);
    }
}

/// What of a pod's fields is a task's own business; order, restarts, probes and hooks are `PodRunner`'s.
static FIELDS: LazyLock<FieldSupport> =
    LazyLock::new(|| FieldSupport::of_containers("tasks").all_native(&["*.image", "*.command", "*.args"]));

#[async_trait]
impl ContainerBackend for Tasks {
    fn name(&self) -> &'static str {
        "tasks"
    }

    fn fields(&self) -> &FieldSupport {
        &FIELDS
    }

    async fn node_info(&self) -> Result<NodeInfo> {
        let node = NodeInfo::default().with_capacity("cpu", "8").with_capacity("memory", "16Gi");
        Ok(node.with_capacity("pods", "110"))
    }

    async fn reserve_addresses(&self, pod: &PodRef) -> Result<Vec<IpAddr>> {
        let mut state = self.state();
        if let Some(address) = state.addresses.get(&pod.uid) {
            return Ok(vec![*address]);
        }
        let mut free = (1..255).map(|last| IpAddr::from([192, 0, 2, last]));
        let taken: Vec<IpAddr> = state.addresses.values().copied().collect();
        let address =
            free.find(|address| !taken.contains(address)).ok_or_else(|| Error::exhausted("pod addresses"))?;
        state.addresses.insert(pod.uid.clone(), address);
        Ok(vec![address])
    }

    async fn create_sandbox(&self, pod: &ResolvedPod) -> Result<Vec<IpAddr>> {
        if !pod.volumes.is_empty() {
            return Err(Error::rejected("spec.volumes", "tasks have no files; leave volumes out"));
        }
        let ips = self.reserve_addresses(&pod.pod).await?;
        let mut state = self.state();
        let made = SandboxRecord::new(pod.pod.clone(), ips.clone(), Timestamp::now());
        state.sandboxes.entry(pod.pod.uid.clone()).or_insert(made);
        let event = BackendEvent::Sandbox { pod: pod.pod.clone(), ips: ips.clone(), stopped: false };
        let _ = self.events.send(event);
        Ok(ips)
    }

    async fn remove_sandbox(&self, pod: &PodRef) -> Result<()> {
        let mut state = self.state();
        state.running.retain(|run, stop| {
            let ours = run.container.pod.uid == pod.uid;
            if ours {
                stop.cancel();
            }
            !ours
        });
        state.created.retain(|run, _| run.container.pod.uid != pod.uid);
        state.addresses.remove(&pod.uid);
        if state.sandboxes.remove(&pod.uid).is_some() {
            let _ = self.events.send(BackendEvent::Removed(pod.clone()));
        }
        Ok(())
    }

    async fn stop_sandbox(&self, pod: &PodRef) -> Result<()> {
        let mut state = self.state();
        for (_, stop) in state.running.iter().filter(|(run, _)| run.container.pod.uid == pod.uid) {
            stop.cancel();
        }
        if let Some(sandbox) = state.sandboxes.get_mut(&pod.uid) {
            sandbox.stopped = true;
            let event = BackendEvent::Sandbox { pod: pod.clone(), ips: sandbox.ips.clone(), stopped: true };
            let _ = self.events.send(event);
        }
        Ok(())
    }

    // No sandbox of ours has a volume.
    async fn publish_files(&self, _: &PodRef, _: &[ResolvedVolume]) -> Result<()> {
        Ok(())
    }
    async fn read_volume_file(&self, _: &PodRef, _: &str, _: &str, _: usize) -> Result<Option<Bytes>> {
        Ok(None)
    }
    async fn volume_usage(&self, _: &PodRef) -> Result<BTreeMap<String, u64>> {
        Ok(BTreeMap::new())
    }

    async fn find_image(&self, image: &str) -> Result<Option<Image>> {
        Ok(Some(Image::new(image)))
    }
    async fn pull_image(&self, image: &str, _: &[PullCredential]) -> Result<Image> {
        Ok(Image::new(image))
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<()> {
        if self.state().created.insert(spec.run.clone(), spec.clone()).is_none() {
            self.note(&spec.run, RunState::Created);
        }
        Ok(())
    }

    async fn start_container(&self, run: &ContainerRun) -> Result<()> {
        let mut state = self.state();
        let (Some(spec), Some(own)) = (state.created.get(run).cloned(), self.own.upgrade()) else {
            return Err(Error::not_found(format!("run {run}")));
        };
        // Starting what was started is no error, and starts nothing.
        let ended = |record: &RunRecord| record.run == *run && matches!(record.state, RunState::Exited(_));
        let sandbox = state.sandboxes.get(&run.container.pod.uid);
        if state.running.contains_key(run) || sandbox.is_some_and(|sandbox| sandbox.runs.iter().any(ended)) {
            return Ok(());
        }
        let stop = CancellationToken::new();
        state.running.insert(run.clone(), stop.clone());
        tokio::spawn(own.play(spec, stop));
        Ok(())
    }

    async fn stop_container(&self, run: &ContainerRun, _grace: Duration) -> Result<()> {
        if let Some(stop) = self.state().running.get(run) {
            stop.cancel();
        }
        Ok(())
    }

    async fn remove_container(&self, run: &ContainerRun) -> Result<()> {
        let mut state = self.state();
        state.created.remove(run);
        if let Some(sandbox) = state.sandboxes.get_mut(&run.container.pod.uid) {
            sandbox.runs.retain(|record| record.run != *run);
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxRecord>> {
        Ok(self.state().sandboxes.values().cloned().collect())
    }

    fn watch(self: Arc<Self>) -> BoxStream<'static, Result<BackendEvent>> {
        let (events, listed) = {
            let state = self.state();
            (self.events.subscribe(), state.sandboxes.values().cloned().collect())
        };
        let rest = stream::unfold((self, events), |(backend, mut events)| async move {
            let event = match events.recv().await {
                Ok(event) => event,
                // A gap is followed by everything there is.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    BackendEvent::Listed(backend.state().sandboxes.values().cloned().collect())
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((Ok(event), (backend, events)))
        });
        stream::iter([Ok(BackendEvent::Listed(listed))]).chain(rest).boxed()
    }

    vk_core::lacks!(resize, logs, exec, attach, port_forward, stats);
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cluster = ApiServer::new()?;
    let _controllers = cluster.start(Controller::ALL);
    let shutdown = Shutdown::new();
    let provider = Arc::new(PodRunner::new(Tasks::new(), Clock::system()));
    let node = Node::builder(NodeConfig::new("tasks-1"), provider, cluster.client()).build();
    let node = tokio::spawn(node.run(shutdown.clone()));

    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "nodeName": "tasks-1", "automountServiceAccountToken": false,
            "initContainers": [
                {"name": "first", "image": "tasks", "command": ["count"], "args": ["2"]},
                {"name": "second", "image": "tasks", "command": ["count", "1"]},
            ],
            "containers": [{"name": "app", "image": "tasks", "command": ["flaky"]}],
        },
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    let pod = until(&pods, "web is ready after a restart", |pod| {
        let status = pod?.status.as_ref()?;
        let app = status.container_statuses.as_ref()?.first()?;
        (app.ready && app.restart_count == 1).then_some(())
    })
    .await?;

    let status = pod.and_then(|pod| pod.status).unwrap_or_default();
    let (mut inits, apps) = (status.init_container_statuses.unwrap_or_default(), status.container_statuses);
    let ends: Vec<_> = inits
        .iter_mut()
        .filter_map(|init| init.state.take()?.terminated)
        .map(|end| (end.exit_code, end.started_at.map(|at| at.0), end.finished_at.map(|at| at.0)))
        .collect();
    let [(0, _, first_ended), (0, second_began, _)] = ends.as_slice() else {
        anyhow::bail!("both init containers have ended well: {ends:?}")
    };
    anyhow::ensure!(first_ended <= second_began, "init containers run one after the other");
    let failed = apps.unwrap_or_default().first().and_then(|app| app.last_state.clone()?.terminated);
    println!("the app's first run ended with {:?}", failed.map(|end| end.exit_code));

    pods.delete("web", &DeleteParams::default()).await?;
    until(&pods, "web is gone", |pod| pod.is_none().then_some(())).await?;
    shutdown.drain();
    node.await??;
    Ok(())
}

/// Looks until something holds for pod `web`, for half a minute at most, and returns the pod as it was then.
async fn until(
    pods: &Api<Pod>,
    what: &str,
    mut holds: impl FnMut(Option<&Pod>) -> Option<()>,
) -> anyhow::Result<Option<Pod>> {
    for _ in 0..600 {
        let pod = pods.get_opt("web").await?;
        if holds(pod.as_ref()).is_some() {
            println!("{what}");
            return Ok(pod);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("not within 30 s: {what}")
}
