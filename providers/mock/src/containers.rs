//! A [`ContainerBackend`] in memory, under which the node's own engines run: order, restarts, probes, hooks.
//!
//! Its containers are small programs on tokio's clock: what a shell script of `echo`, `sleep`, `exit`, `touch`, `cat`,
//! `test`, `if`, `trap` and the like says, they do, and `tool serve` is a server that can be told to fail
//! ([`MockContainers::serve`] lists its flags). With paused time a day passes at once.
//!
//! ```no_run
//! use std::sync::Arc;
//! use vk_core::{clock::Clock, containers::{Dial, PodRunner}};
//! use vk_mock::MockContainers;
//!
//! let clock = Clock::system();
//! let backend = Arc::new(MockContainers::new(clock.clone()).with_image("tool:1"));
//! let provider = PodRunner::dialing(backend, clock, Dial::PortForward);
//! ```

mod files;
mod process;
mod program;
mod serve;
mod shell;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::broadcast;
use vk_core::clock::Clock;
use vk_core::containers::{
    BackendEvent, ContainerBackend, ContainerResize, ContainerRun, ContainerSpec, Image,
    LONGEST_TERMINATION_MESSAGE, RunExit, SandboxRecord,
};
use vk_core::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, ContainerRef, Duplex, Error, ExecIo, ExitStatus,
    FieldSupport, LogEntry, LogOptions, LogSelection, LogStream, NodeInfo, PodRef, PodStats, PodUid,
    PortForward, PullCredential, ResolvedPod, ResolvedVolume, Result, VolumeContent,
};

use self::files::Files;
use self::process::Process;
use crate::fields::fields_of_containers;
use crate::ids;

/// Events that a watcher may be behind before it is given a listing instead.
const BACKLOG: usize = 4096;

/// Containers in memory. Cheap to clone; clones are one backend. See the [crate's](crate) sibling
/// [`MockProvider`](crate::MockProvider) for a backend that runs whole pods.
#[derive(Clone, Debug)]
pub struct MockContainers(Arc<Inner>, Duration);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    state: Mutex<State>,
    told: broadcast::Sender<BackendEvent>,
}

#[derive(Debug, Default)]
struct State {
    sandboxes: HashMap<PodUid, Pod>,
    addresses: HashMap<PodUid, IpAddr>,
    handed_out: u32,
    /// Images that are there, with the user in their configuration.
    images: BTreeMap<String, String>,
    /// Images that a registry has.
    registry: BTreeMap<String, String>,
}

/// A pod's sandbox.
#[derive(Debug)]
struct Pod {
    record: SandboxRecord,
    volumes: BTreeMap<String, Files>,
    runs: Vec<Arc<Process>>,
}

impl MockContainers {
    /// A backend without images.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let inner = Inner { clock, state: Mutex::default(), told: broadcast::Sender::new(BACKLOG) };
        Self(Arc::new(inner), Duration::ZERO)
    }

    /// Has an image whose processes run as root.
    #[must_use]
    pub fn with_image(self, image: &str) -> Self {
        self.with_image_of(image, "")
    }

    /// Has an image whose processes run as that user.
    #[must_use]
    pub fn with_image_of(self, image: &str, user: &str) -> Self {
        self.lock().images.insert(image.to_owned(), user.to_owned());
        self
    }

    /// Can fetch an image.
    #[must_use]
    pub fn with_registry_image(self, image: &str) -> Self {
        self.lock().registry.insert(image.to_owned(), String::new());
        self
    }

    /// Takes so long to make a sandbox, and to start a container.
    #[must_use]
    pub fn taking(mut self, latency: Duration) -> Self {
        self.1 = latency;
        self
    }

    /// Changes a server that runs in a container: `http` says whether it is well.
    pub fn serve(&self, pod: &PodUid, container: &str, http: bool) {
        if let Some(process) = self.latest(pod, container, false) {
            process.set_well(http);
        }
    }

    /// How many runs of the pod's containers run now.
    #[must_use]
    pub fn running(&self, pod: &PodUid) -> usize {
        let state = self.lock();
        state.sandboxes.get(pod).map_or(0, |pod| pod.runs.iter().filter(|run| run.is_running()).count())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn latest(&self, pod: &PodUid, container: &str, previous: bool) -> Option<Arc<Process>> {
        let state = self.lock();
        let mut runs: Vec<_> = state
            .sandboxes
            .get(pod)?
            .runs
            .iter()
            .filter(|process| process.spec.run.name() == container && process.was_started())
            .collect();
        runs.sort_by_key(|process| process.spec.run.attempt);
        let last = runs.pop();
        if previous { runs.pop().cloned() } else { last.cloned() }
    }

    fn find(&self, run: &ContainerRun) -> Option<Arc<Process>> {
        let state = self.lock();
        let pod = state.sandboxes.get(&run.container.pod.uid)?;
        pod.runs.iter().find(|process| process.spec.run == *run).cloned()
    }

    /// Tells what a run is doing now.
    fn tell(&self, process: &Process) {
        let _ = self.0.told.send(BackendEvent::Run(process.record()));
    }

    /// Runs the process to its end.
    async fn drive(self, process: Arc<Process>) {
        let ended = process.run().await;
        let mut exit = RunExit::new(ExitStatus::Code(ended.code), process.started_at(), self.0.clock.now());
        exit.oom_killed = ended.oom;
        let message = process.files.read(&process.spec.termination_message_path).unwrap_or_default();
        let from = message.len().saturating_sub(LONGEST_TERMINATION_MESSAGE);
        exit.message = Bytes::copy_from_slice(&message[from..]);
        process.end(exit);
        self.tell(&process);
    }
}

#[async_trait]
impl ContainerBackend for MockContainers {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn fields(&self) -> &FieldSupport {
        fields_of_containers()
    }

    async fn node_info(&self) -> Result<NodeInfo> {
        let capacity = [("cpu", "8"), ("memory", "32Gi"), ("pods", "110"), ("ephemeral-storage", "100Gi")];
        let capacity = capacity.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())));
        Ok(NodeInfo::new(capacity.into()))
    }

    async fn reserve_addresses(&self, pod: &PodRef) -> Result<Vec<IpAddr>> {
        let mut state = self.lock();
        if let Some(known) = state.addresses.get(&pod.uid) {
            return Ok(vec![*known]);
        }
        let base = u32::from(Ipv4Addr::new(10, 88, 0, 1));
        let address = IpAddr::V4(Ipv4Addr::from(base.wrapping_add(state.handed_out)));
        // Counted by itself: how many addresses are in use falls when pods go.
        state.handed_out = state.handed_out.wrapping_add(1);
        state.addresses.insert(pod.uid.clone(), address);
        Ok(vec![address])
    }

    async fn create_sandbox(&self, pod: &ResolvedPod) -> Result<Vec<IpAddr>> {
        if let Some(known) = self.lock().sandboxes.get(&pod.pod.uid) {
            return Ok(known.record.ips.clone());
        }
        tokio::time::sleep(self.1).await;
        let ips = self.reserve_addresses(&pod.pod).await?;
        let mut volumes = BTreeMap::new();
        for volume in &pod.volumes {
            volumes.insert(volume.name.clone(), files_of(volume));
        }
        let record = SandboxRecord::new(pod.pod.clone(), ips.clone(), self.0.clock.now());
        self.lock().sandboxes.insert(pod.pod.uid.clone(), Pod { record, volumes, runs: Vec::new() });
        let _ = self.0.told.send(BackendEvent::Sandbox {
            pod: pod.pod.clone(),
            ips: ips.clone(),
            stopped: false,
        });
        Ok(ips)
    }

    async fn remove_sandbox(&self, pod: &PodRef) -> Result<()> {
        self.stop_sandbox(pod).await?;
        let removed = {
            let mut state = self.lock();
            state.addresses.remove(&pod.uid);
            state.sandboxes.remove(&pod.uid)
        };
        if removed.is_some() {
            let _ = self.0.told.send(BackendEvent::Removed(pod.clone()));
        }
        Ok(())
    }

    async fn stop_sandbox(&self, pod: &PodRef) -> Result<()> {
        let runs = {
            let mut state = self.lock();
            let Some(sandbox) = state.sandboxes.get_mut(&pod.uid) else { return Ok(()) };
            sandbox.record.stopped = true;
            sandbox.runs.clone()
        };
        for run in runs {
            run.kill();
            run.ended().await;
        }
        Ok(())
    }

    async fn publish_files(&self, pod: &PodRef, volumes: &[ResolvedVolume]) -> Result<()> {
        let state = self.lock();
        let sandbox = state.sandboxes.get(&pod.uid).ok_or_else(|| Error::not_found(format!("pod {pod}")))?;
        for volume in volumes {
            if let Some(files) = sandbox.volumes.get(&volume.name) {
                files.replace(&files_of(volume));
            }
        }
        Ok(())
    }

    async fn read_volume_file(
        &self,
        pod: &PodRef,
        volume: &str,
        path: &str,
        limit: usize,
    ) -> Result<Option<Bytes>> {
        let state = self.lock();
        let files = state.sandboxes.get(&pod.uid).and_then(|sandbox| sandbox.volumes.get(volume));
        let content = files.and_then(|files| files.read(&format!("/{path}")));
        Ok(content.map(|content| Bytes::copy_from_slice(&content[..content.len().min(limit)])))
    }

    async fn volume_usage(&self, pod: &PodRef) -> Result<BTreeMap<String, u64>> {
        let state = self.lock();
        let sandbox = state.sandboxes.get(&pod.uid).ok_or_else(|| Error::not_found(format!("pod {pod}")))?;
        Ok(sandbox.volumes.iter().map(|(name, files)| (name.clone(), files.size())).collect())
    }

    async fn find_image(&self, image: &str) -> Result<Option<Image>> {
        let last = image.rsplit('/').next().unwrap_or_default();
        if last.split(':').next().is_some_and(|name| name.chars().any(char::is_uppercase)) {
            let reason = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid \
                 reference format: repository name ({}) must be lowercase",
                last.split(':').next().unwrap_or_default()
            );
            return Err(Error::rejected("image", reason));
        }
        Ok(self.lock().images.get(image).map(|user| image_of(image, user)))
    }

    async fn pull_image(&self, image: &str, _: &[PullCredential]) -> Result<Image> {
        let mut state = self.lock();
        let Some(user) = state.registry.get(image).cloned() else {
            return Err(Error::unavailable(format!(
                "failed to pull and unpack image \"{image}\": failed to resolve image: not found"
            )));
        };
        state.images.insert(image.to_owned(), user.clone());
        Ok(image_of(image, &user))
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<()> {
        let mut state = self.lock();
        let pod = &spec.run.container.pod;
        let sandbox =
            state.sandboxes.get_mut(&pod.uid).ok_or_else(|| Error::not_found(format!("pod {pod}")))?;
        if sandbox.record.stopped {
            return Err(Error::unexpected(format!("the sandbox of pod {pod} has stopped")));
        }
        if sandbox.runs.iter().any(|process| process.spec.run == spec.run) {
            return Ok(());
        }
        let mut files = Files::default();
        for mount in &spec.mounts {
            if let Some(volume) = sandbox.volumes.get(&mount.volume) {
                files.mount(&mount.path, volume.clone());
            }
        }
        let id = ids::container_id(pod.uid.as_str(), spec.run.name(), spec.run.attempt);
        let process = Arc::new(Process::new(spec.clone(), id, files, self.0.clock.clone()));
        sandbox.runs.push(Arc::clone(&process));
        drop(state);
        self.tell(&process);
        Ok(())
    }

    async fn start_container(&self, run: &ContainerRun) -> Result<()> {
        let process = self.find(run).ok_or_else(|| Error::not_found(format!("run {run}")))?;
        if process.was_started() {
            return Ok(());
        }
        tokio::time::sleep(self.1).await;
        process.check().map_err(Error::unexpected)?;
        process.start();
        self.tell(&process);
        tokio::spawn(self.clone().drive(process));
        Ok(())
    }

    async fn stop_container(&self, run: &ContainerRun, grace: Duration) -> Result<()> {
        let Some(process) = self.find(run) else { return Ok(()) };
        if grace.is_zero() {
            process.kill();
            return Ok(());
        }
        process.terminate();
        tokio::spawn(async move {
            tokio::select! {
                () = process.ended() => {}
                () = tokio::time::sleep(grace) => process.kill(),
            }
        });
        Ok(())
    }

    async fn remove_container(&self, run: &ContainerRun) -> Result<()> {
        let mut state = self.lock();
        if let Some(pod) = state.sandboxes.get_mut(&run.container.pod.uid) {
            pod.runs.retain(|process| process.spec.run != *run || process.is_running());
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxRecord>> {
        let state = self.lock();
        let sandboxes = state.sandboxes.values().map(|pod| {
            let mut record = pod.record.clone();
            record.runs = pod.runs.iter().map(|process| process.record()).collect();
            record
        });
        Ok(sandboxes.collect())
    }

    fn watch(self: Arc<Self>) -> BoxStream<'static, Result<BackendEvent>> {
        let events = self.0.told.subscribe();
        let listing = stream::once({
            let backend = Arc::clone(&self);
            async move { backend.list().await.map(BackendEvent::Listed) }
        });
        let changes = stream::unfold((self, events), |(backend, mut events)| async move {
            let item = match events.recv().await {
                Ok(event) => Ok(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    events = events.resubscribe();
                    backend.list().await.map(BackendEvent::Listed)
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((item, (backend, events)))
        });
        listing.chain(changes).boxed()
    }

    fn resize(&self) -> Option<&dyn ContainerResize> {
        Some(self)
    }
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        Some(self)
    }
    fn exec(&self) -> Option<&dyn ContainerExec> {
        Some(self)
    }
    fn attach(&self) -> Option<&dyn ContainerAttach> {
        None
    }
    fn port_forward(&self) -> Option<&dyn PortForward> {
        Some(self)
    }
    fn stats(&self) -> Option<&dyn PodStats> {
        None
    }
}

#[async_trait]
impl ContainerResize for MockContainers {
    async fn resize_container(&self, run: &ContainerRun, _: &ResourceRequirements) -> Result<()> {
        // Nothing is limited here, so that any amount is had at once.
        self.find(run).map(|_| ()).ok_or_else(|| Error::not_found(format!("container {run}")))
    }
}

fn image_of(image: &str, user: &str) -> Image {
    let mut found = Image::new(ids::image_id(image));
    found.user = Some(user.to_owned());
    found.size = Some(1 << 20);
    found
}

fn files_of(volume: &ResolvedVolume) -> Files {
    let files = Files::default();
    if let VolumeContent::Files(content) = &volume.content {
        for file in content {
            files.write(&format!("/{}", file.path), &file.content);
        }
    }
    files
}

#[async_trait]
impl ContainerLogs for MockContainers {
    async fn container_logs(&self, container: &ContainerRef, options: &LogOptions) -> Result<LogStream> {
        let process = self.latest(&container.pod.uid, &container.name, options.previous);
        let process = process.ok_or_else(|| Error::not_found(format!("log of container {container}")))?;
        let mut selection = LogSelection::new(options, self.0.clock.now());
        let history = process.log();
        let read = history.len();
        for entry in history {
            selection.push(entry);
        }
        let first = stream::iter(selection.into_entries());
        if !options.follow {
            return Ok(first.map(Ok).boxed());
        }
        let rest = stream::unfold((process, read), |(process, read)| async move {
            let entries: Vec<LogEntry> = process.log_after(read).await?;
            let read = read + entries.len();
            Some((stream::iter(entries), (process, read)))
        });
        Ok(first.chain(rest.flatten()).map(Ok).boxed())
    }
}

#[async_trait]
impl ContainerExec for MockContainers {
    async fn exec(&self, container: &ContainerRef, command: &[String], io: ExecIo) -> Result<ExitStatus> {
        let process = self.latest(&container.pod.uid, &container.name, false);
        let process = process.filter(|process| process.is_running());
        let process = process.ok_or_else(|| Error::not_found(format!("running container {container}")))?;
        tokio::select! {
            code = process.exec(command, io) => Ok(ExitStatus::Code(code)),
            () = process.ended() => Ok(ExitStatus::Code(process::KILLED)),
        }
    }
}

#[async_trait]
impl PortForward for MockContainers {
    async fn connect(&self, pod: &PodRef, port: u16) -> Result<Box<dyn Duplex>> {
        let processes = {
            let state = self.lock();
            let sandbox = state.sandboxes.get(&pod.uid).ok_or_else(|| Error::not_found("no such pod"))?;
            sandbox.runs.clone()
        };
        for process in processes {
            if let Some(stream) = process.connect(port) {
                return Ok(Box::new(stream));
            }
        }
        Err(Error::not_found(format!("port {port} of pod {pod}")))
    }
}
