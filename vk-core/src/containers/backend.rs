//! What a backend has to do that only runs containers: the rest is `PodRunner`'s.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceRequirements, SecurityContext};

use crate::provider::{
    ContainerAttach, ContainerExec, ContainerKind, ContainerLogs, ContainerRef, EnvVar, ExitStatus,
    FieldSupport, LinuxUser, NodeInfo, PodRef, PodStats, PortForward, PullCredential, ResolvedMount,
    ResolvedPod, ResolvedVolume, Result, Value,
};

/// A backend that makes sandboxes and runs containers in them.
///
/// # Contract
///
/// **Identity.** A run of a container is a [`ContainerRun`]: the pod's UID, the container's name, and the attempt, which
/// counts up with every restart. Backend names are derived from these three. Two pods of one name may exist at once.
///
/// **Idempotence.** Creating a sandbox or a run that exists is `Ok` and changes nothing; stopping or removing what does
/// not exist is `Ok`. Starting a run that was started is `Ok`.
///
/// **Ordering.** Calls about one pod never overlap, but for [`stop_container`](ContainerBackend::stop_container), the
/// capabilities and reads, which come at any time. A run's states are told in order: created, running, exited. An end
/// is told after everything that the run wrote is in its log.
///
/// **Remains.** An exited run stays listed, with its exit and its log, until it is removed or its sandbox is: the last
/// run is a pod's status, the one before that its `lastState`. They outlive the daemon: after a restart
/// [`watch`](ContainerBackend::watch) begins with all that there is.
///
/// **Volumes** belong to the sandbox: they come with [`create_sandbox`](ContainerBackend::create_sandbox), are shared by
/// its containers, and go with it. New contents come through
/// [`publish_files`](ContainerBackend::publish_files).
///
/// **Errors** are the [provider's](crate::provider::Error), and mean by call:
///
/// | call | [`Rejected`](crate::provider::Error::Rejected) | any other |
/// |---|---|---|
/// | `create_sandbox` | the pod is `Failed` | event `FailedCreatePodSandBox`, or `FailedMount` of a message that begins with `MountVolume.`; tried again with back-off |
/// | `find_image`, `pull_image` | waiting `InvalidImageName`, event `InspectFailed` | waiting `ErrImagePull`, then `ImagePullBackOff`; tried again |
/// | `create_container` | waiting `CreateContainerConfigError` with the reason; tried again | `CreateContainerError`; tried again |
/// | `start_container` | as any other | ended as `StartError`, 128; restarted by the pod's policy |
/// | `reserve_addresses` | the pod is `Failed` | event `ProviderCreateFailed`; tried again with back-off |
/// | the others | logged and tried again | logged and tried again |
///
/// Messages are shown to the pod's owner word for word; they hold no secrets.
#[async_trait]
pub trait ContainerBackend: fmt::Debug + Send + Sync + 'static {
    /// The provider's short, stable name, as in [`Provider::name`](crate::provider::Provider::name).
    fn name(&self) -> &'static str;

    /// What it does with those fields of a pod that are its own: `PodRunner` does the rest. Made by
    /// [`FieldSupport::of_containers`]; otherwise as [`Provider::fields`](crate::provider::Provider::fields).
    fn fields(&self) -> &FieldSupport;

    /// Capacity, platform and health of the node.
    async fn node_info(&self) -> Result<NodeInfo>;

    /// Reserves the addresses that the pod's sandbox will have, at most one per family, before anything else is
    /// known of it. Repeatable: same UID, same addresses. Freed with the sandbox, by
    /// [`remove_sandbox`](Self::remove_sandbox), which comes also where none was made.
    async fn reserve_addresses(&self, pod: &PodRef) -> Result<Vec<IpAddr>>;

    /// Makes the pod's sandbox (network, host name, DNS, volumes with their files) and returns its addresses.
    async fn create_sandbox(&self, pod: &ResolvedPod) -> Result<Vec<IpAddr>>;

    /// Kills what is left of the pod and frees everything of it, logs and reserved addresses included. When it
    /// returns, nothing of the pod runs. A pod that is unknown, or that another node has, is left alone: that is `Ok`.
    async fn remove_sandbox(&self, pod: &PodRef) -> Result<()>;

    /// Kills what is left of the pod and takes its network down, but keeps the remains of its containers for
    /// their logs until [`remove_sandbox`](Self::remove_sandbox). Listed as [`SandboxRecord::stopped`] from then on.
    async fn stop_sandbox(&self, pod: &PodRef) -> Result<()>;

    /// Replaces the files of those volumes, each volume's at once for whoever reads it. Volumes that are not
    /// named stay as they are.
    async fn publish_files(&self, pod: &PodRef, volumes: &[ResolvedVolume]) -> Result<()>;

    /// A file of an `emptyDir` volume of the pod, up to the first `limit` bytes; `None` if there is none. The path
    /// is below the volume's root and was checked to stay there; a link that leads out of it is not followed.
    async fn read_volume_file(
        &self,
        pod: &PodRef,
        volume: &str,
        path: &str,
        limit: usize,
    ) -> Result<Option<Bytes>>;

    /// How many bytes each `emptyDir` volume of the pod takes, by name; volumes it cannot measure are left out.
    async fn volume_usage(&self, pod: &PodRef) -> Result<BTreeMap<String, u64>>;

    /// The image if it is there already.
    async fn find_image(&self, image: &str) -> Result<Option<Image>>;

    /// Fetches the image, with the first of the credentials that the registry takes.
    async fn pull_image(&self, image: &str, credentials: &[PullCredential]) -> Result<Image>;

    /// Prepares a run of a container; nothing of it runs yet.
    async fn create_container(&self, spec: &ContainerSpec) -> Result<()>;

    /// Starts a created run. An `Ok` is followed by its `Running` in the watch, even if it ends at once; after an
    /// error the run never ran.
    async fn start_container(&self, run: &ContainerRun) -> Result<()>;

    /// Sends the run its stop signal (the container's, else the image's, else SIGTERM), and kills it when `grace` is
    /// over; with a `grace` of zero at once. Returns when the signal is sent; the end comes with the watch. Called
    /// again with a shorter grace, the earlier kill counts.
    async fn stop_container(&self, run: &ContainerRun, grace: std::time::Duration) -> Result<()>;

    /// Removes what is left of an ended or never started run, its log included.
    async fn remove_container(&self, run: &ContainerRun) -> Result<()>;

    /// Every sandbox of this node with every run in it: complete, or an error.
    async fn list(&self) -> Result<Vec<SandboxRecord>>;

    /// A stream of changes. The first item is [`BackendEvent::Listed`], and so is the first after any gap. An `Err`
    /// item means that the stream goes on; its end that it is to be opened again.
    fn watch(self: Arc<Self>) -> BoxStream<'static, Result<BackendEvent>>;

    /// Changes the resources of running containers.
    fn resize(&self) -> Option<&dyn ContainerResize>;
    /// Reads logs of the last run, or with [`previous`](crate::provider::LogOptions::previous) of the one before.
    fn logs(&self) -> Option<&dyn ContainerLogs>;
    /// Runs commands in the last run of a container. Exec probes and hooks need it.
    fn exec(&self) -> Option<&dyn ContainerExec>;
    /// Attaches to the last run of a container.
    fn attach(&self) -> Option<&dyn ContainerAttach>;
    /// Connects to ports of pods.
    fn port_forward(&self) -> Option<&dyn PortForward>;
    /// Measures resource usage.
    fn stats(&self) -> Option<&dyn PodStats>;
}

/// Capability: resources of running containers. See [`ContainerBackend::resize`].
#[async_trait]
pub trait ContainerResize: Send + Sync {
    /// Gives the run these resources from now on.
    async fn resize_container(&self, run: &ContainerRun, resources: &ResourceRequirements) -> Result<()>;
}

/// One run of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerRun {
    /// Whose run.
    pub container: ContainerRef,
    /// 0 for the first run, and one more for every restart: the `restartCount` while it runs.
    pub attempt: u32,
}

/// What to run: nothing in it refers to anything that still has to be looked up.
///
/// `Debug` shows no value that came from a Secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ContainerSpec {
    /// Which run of which container.
    pub run: ContainerRun,
    /// What kind of container it is.
    pub kind: ContainerKind,
    /// The image as asked for.
    pub image: String,
    /// The image as it was found or fetched.
    pub image_id: String,
    /// Replaces the image's entry point unless empty.
    pub command: Vec<Value>,
    /// Replaces the image's arguments unless empty; with a `command`, the image's are dropped in any case.
    pub args: Vec<Value>,
    /// The environment, complete and in order; the image's own variables are under it.
    pub env: Vec<EnvVar>,
    /// Where its volumes go.
    pub mounts: Vec<ResolvedMount>,
    /// `workingDir`; `None` is the image's.
    pub working_dir: Option<String>,
    /// The user to run as; `None` is the image's.
    pub user: Option<i64>,
    /// The group to run as; `None` is the user's, or 0.
    pub group: Option<i64>,
    /// Further groups, `fsGroup` among them.
    pub supplemental_groups: Vec<i64>,
    /// The container's `securityContext` as written; user and group above include the pod's.
    pub security: Option<SecurityContext>,
    /// Where the run may leave its last words: an empty file at first, writable for it.
    pub termination_message_path: String,
    /// `lifecycle.stopSignal`, such as `SIGUSR1`; `None` is the image's.
    pub stop_signal: Option<String>,
    /// Requests and limits.
    pub resources: ResourceRequirements,
    /// Its standard input stays open for attach.
    pub stdin: bool,
    /// Its standard input is closed when the first attached client leaves.
    pub stdin_once: bool,
    /// It has a terminal.
    pub tty: bool,
}

/// An image on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Image {
    /// Its digest or id: `imageID` in statuses.
    pub id: String,
    /// Its size in bytes, if known.
    pub size: Option<u64>,
    /// The user in its configuration, a number or a name; empty is root. `None` if unknown.
    pub user: Option<String>,
}

/// A pod's sandbox and the runs in it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SandboxRecord {
    /// Which pod.
    pub pod: PodRef,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Nothing runs in it, and nothing can be started in it any more.
    pub stopped: bool,
    /// Every run that there is or of which something is left, in any order.
    pub runs: Vec<RunRecord>,
}

/// A run of a container, as the backend has it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RunRecord {
    /// Which run.
    pub run: ContainerRun,
    /// Its id, as `scheme://id`: `containerID` in statuses. Unique among all runs there ever are.
    pub id: String,
    /// The image as asked for.
    pub image: String,
    /// The image as run.
    pub image_id: String,
    /// What it is doing.
    pub state: RunState,
    /// Whom its first process runs as, where the backend knows.
    pub user: Option<Box<LinuxUser>>,
}

/// A run's state.
#[derive(Clone, Debug, PartialEq)]
pub enum RunState {
    /// Created, not started.
    Created,
    /// Running.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Ended.
    Exited(RunExit),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RunExit {
    /// Its exit status.
    pub status: ExitStatus,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// It was killed because it used more memory than it may.
    pub oom_killed: bool,
    /// It could not be started: why. Its status is 128 then, and a kubelet calls it `StartError`.
    pub start_error: Option<String>,
    /// What it left at [`ContainerSpec::termination_message_path`]: the last 4096 bytes of it.
    pub message: Bytes,
}

/// One item of [`ContainerBackend::watch`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum BackendEvent {
    /// Everything, as of now: what is not in it does not exist.
    Listed(Vec<SandboxRecord>),
    /// One run is now like this.
    Run(RunRecord),
    /// A sandbox has come to be, has stopped by itself, or has other addresses. Its runs are as told before.
    Sandbox {
        /// Which pod.
        pod: PodRef,
        /// Its addresses.
        ips: Vec<IpAddr>,
        /// Nothing runs in it, and nothing can be started in it any more.
        stopped: bool,
    },
    /// A sandbox is gone with everything in it.
    Removed(PodRef),
}

/// The longest termination message, in bytes (`MaxContainerTerminationMessageLength`).
pub const LONGEST_TERMINATION_MESSAGE: usize = 4096;

impl ContainerRun {
    /// A run from its parts.
    #[must_use]
    pub fn new(container: ContainerRef, attempt: u32) -> Self {
        Self { container, attempt }
    }

    /// The pod's UID as text: what backends derive names from, with the container's name and the attempt.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.container.pod.uid.as_str()
    }

    /// The container's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.container.name
    }
}

impl fmt::Display for ContainerRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.container, self.attempt)
    }
}

impl ContainerSpec {
    /// A run of an image with its own command, and nothing else.
    #[must_use]
    pub fn new(run: ContainerRun, kind: ContainerKind, image: impl Into<String>) -> Self {
        Self {
            run,
            kind,
            image: image.into(),
            image_id: String::new(),
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            mounts: Vec::new(),
            working_dir: None,
            user: None,
            group: None,
            supplemental_groups: Vec::new(),
            security: None,
            termination_message_path: "/dev/termination-log".to_owned(),
            stop_signal: None,
            resources: ResourceRequirements::default(),
            stdin: false,
            stdin_once: false,
            tty: false,
        }
    }
}

impl Image {
    /// An image of which only the id is known.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), size: None, user: None }
    }
}

impl SandboxRecord {
    /// A sandbox in which nothing has run yet.
    #[must_use]
    pub fn new(pod: PodRef, ips: Vec<IpAddr>, created_at: Timestamp) -> Self {
        Self { pod, ips, created_at, stopped: false, runs: Vec::new() }
    }
}

impl RunRecord {
    /// A run in a state.
    #[must_use]
    pub fn new(run: ContainerRun, id: impl Into<String>, state: RunState) -> Self {
        Self { run, id: id.into(), image: String::new(), image_id: String::new(), state, user: None }
    }

    /// The same, with the image as asked for and as run.
    #[must_use]
    pub fn of_image(mut self, image: impl Into<String>, image_id: impl Into<String>) -> Self {
        self.image = image.into();
        self.image_id = image_id.into();
        self
    }

    /// The same, with whom it runs as.
    #[must_use]
    pub fn run_by(mut self, user: LinuxUser) -> Self {
        self.user = Some(Box::new(user));
        self
    }
}

impl RunState {
    /// Whether this is as new as that state of the same run, or newer: a run is created, runs, and ends.
    pub(super) fn follows(&self, known: &Self) -> bool {
        let rank = |state: &Self| match state {
            Self::Created => 0,
            Self::Running { .. } => 1,
            Self::Exited(_) => 2,
        };
        rank(self) >= rank(known)
    }
}

impl RunExit {
    /// An end, with nothing else known.
    #[must_use]
    pub fn new(status: ExitStatus, started_at: Timestamp, finished_at: Timestamp) -> Self {
        Self { status, started_at, finished_at, oom_killed: false, start_error: None, message: Bytes::new() }
    }

    /// The exit code as a status has it; an end that nobody saw is 137.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self.status {
            ExitStatus::Code(code) => code,
            ExitStatus::Unknown => 137,
        }
    }
}
