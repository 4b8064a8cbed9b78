//! The contract between the node and a backend.
//!
//! A backend implements [`Provider`]; the node drives it. The provider never sees a Kubernetes client:
//! everything a pod needs arrives in a [`ResolvedPod`], and everything the node wants to know comes back
//! as an [`ObservedPod`].
//!
//! # Contract
//!
//! The clauses below are what the node relies on. The conformance suite, `vk-conformance`, has functions
//! under the same headings for what can be seen from outside; those of a capability are in its trait's documentation.
//! `docs/contract.md` has them in short, and what happens around them: which calls overlap, what follows from each
//! error in each call, when a pod counts as gone, what a restart does.
//!
//! ## Identity
//! A pod is its UID. Two pods of one namespace and name may exist at once (a StatefulSet replaces a pod
//! while the old one is still stopping), and they never share anything at the backend. Backend resource
//! names and tags are derived from the UID; namespace and name are labels for people, and a listing gives
//! them back as they were.
//!
//! ## Idempotence
//! [`create_pod`](Provider::create_pod) of a UID that exists, or that is being created, is `Ok` and starts
//! nothing. [`delete_pod`](Provider::delete_pod) of an unknown UID is `Ok`, and so is a second one while the
//! first is under way.
//!
//! ## Absence
//! A pod is absent when a complete, successful listing does not name it. An error never means absence; a
//! backend that can only fetch part of its list returns an error instead of the part. A watch that fails to
//! list yields that error, never an empty listing.
//!
//! ## Ordering
//! Of `prepare_pod`, `create_pod`, `update_pod` and `delete_pod` one at a time is under way for a UID: the node waits for
//! it to end, or drops it, before the next. Reads and streams come beside them, and calls for different UIDs overlap. Events for one UID arrive in the order in which things happened, and no
//! listing shows a pod in an earlier state than the listing before it: restarts are counted up, a run that has
//! ended does not run again, and a sandbox that is gone stays gone.
//!
//! ## Cancellation
//! Any call may be dropped at any await, and the process may be killed. It may have taken effect, in part or not at
//! all. The node assumes nothing: it looks ([`list_pods`](Provider::list_pods)) or repeats the call. Whatever it
//! left, the next [`create_pod`](Provider::create_pod) of that UID completes, [`delete_pod`](Provider::delete_pod)
//! removes, and `list_pods` names. A dropped call leaves nothing in the provider's memory that makes the next one
//! fail, or return before its time.
//!
//! ## Concurrency
//! Calls for different pods are under way at once: [so many](crate::config::NodeConfig::provider_calls) creations, as
//! many updates, as many deletions, and any number of others. One that hangs at the backend holds up no other. No call
//! blocks the thread it runs on.
//!
//! ## Errors
//! An [`Error`] says what the node should do next, not which HTTP status was seen: what may go better later
//! is never [`Rejected`](Error::Rejected), what can never run is, with the field that is to blame, and a call
//! that has not taken effect is never `Ok`. Secrets never appear in an error's text, in what is told of a pod, or in
//! the provider's `Debug` output.
//!
//! ## Status
//! A container's exit code is told as it was, the end of the run before a restart is kept in
//! [`last`](ObservedContainer::last), and an address that was told stays in what is told for as long as the pod
//! runs, or is replaced by another. A container without probes that runs is not told to be unready, and the times
//! that are told of a run are its own. When all containers have ended for good, sidecars apart, the sandbox is told to be
//! [`Gone`](Sandbox::Gone). What the provider says that it does itself ([`Provider::native`]) it does as a kubelet does:
//! restarts by the pod's policy, and a deadline that is told as the [`outcome`](PodRuntime::outcome).
//!
//! ## Deletion
//! Processes are asked to end, have the grace period to do it, and are killed at its end: no sooner, no later. The
//! exit code of one that took its time is told. `Gone` is told when nothing of the pod runs any more, and nothing
//! of it ever runs again, whatever its restart policy.
//!
//! ## Watch
//! A watch begins with a complete listing, and everything that happens after it is told without anybody listing:
//! starts, ends, deletions. A watch that was dropped can be begun again.
//!
//! ## Restart
//! The daemon keeps nothing about pods on disk, and a provider keeps nothing that the backend does not have: a new
//! one, over the same backend, lists the pods of the one before it, starts none of them again, can delete each of
//! them without having listed it, and knows how those ended that have ended.
//!
//! ## Tenancy
//! An account may have other nodes, of this cluster or of others. Their pods are neither listed nor told by the
//! watch, and [`delete_pod`](Provider::delete_pod) with one of their UIDs leaves them alone. A provider belongs to
//! one node, and no call names it: it is told the node's name, and something that stands for the cluster, when it is
//! made, and marks everything at the backend with both.
//!
//! ## Node
//! [`capacity`](NodeInfo::capacity) has `cpu`, `memory` and `pods`; [`allocatable`](NodeInfo::allocatable) is
//! never more; and a backend that names so many pods runs as many.
//!
//! # Guarantees
//!
//! What the node promises in return:
//!
//! - Of [`prepare_pod`](PodPrepare::prepare_pod), [`create_pod`](Provider::create_pod),
//!   [`update_pod`](PodUpdate::update_pod) and [`delete_pod`](Provider::delete_pod), one at a time is under way for a
//!   UID. [`list_pods`](Provider::list_pods), [`node_info`](Provider::node_info), the watch and the other
//!   capabilities come at any time beside them. There is one watch, one listing by the node and one measurement at a
//!   time; logs, exec, attach and port-forward come several at once, also about one container.
//! - No pod is created before the pods have been listed on both sides, nor before all that it refers to has been read.
//! - No pod that is not being deleted is taken for absent within its
//!   [creation grace](crate::config::NodeConfig::creation_grace), on an error, or when
//!   [too many](crate::config::NodeConfig::mass_absence_percent) are missing at once; a process's first listing is believed.
//! - A failed call is repeated for as long as the pod lives, with back-off, but for an update that answers
//!   [`Error::Rejected`] or [`Error::NotFound`]. Of all errors, only `Rejected` by `create_pod`, or by
//!   [`prepare_pod`](PodPrepare::prepare_pod) before it, ends a pod.
//! - Dropping a future or a stream is the only way in which it says that it is not interested any more.
//!
//! # Flow of one pod
//!
//! 1. `create_pod(&ResolvedPod)` returns when the backend has accepted the pod; it need not run yet.
//! 2. `watch_pods` reports every change as [`PodEvent::Changed`].
//! 3. `delete_pod(&PodRef, grace)` returns when the backend has accepted the deletion. The pod's
//!    processes get the grace period; their exit codes are reported by one last `Changed` with
//!    [`Sandbox::Gone`], or by [`PodEvent::Gone`] carrying that last observation.
//! 4. Once nothing of the pod can run any more, the node publishes the terminal status, and only then
//!    removes the pod from the API server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use self::error::{Error, Result, Retry};
pub use self::fields::{
    Field, FieldSupport, Finding, IgnoredFields, Owner, Support, UnknownField, unsupported,
};
pub use self::identity::{ContainerRef, PodRef, PodUid};
pub use self::io::{
    Duplex, ExecIo, ExitStatus, LogEntry, LogOptions, LogOutput, LogSelection, LogStart, LogStream, Reader,
    TerminalSize, Writer,
};
pub use self::node_info::{Health, NodeInfo};
pub use self::observed::{
    ContainerState, LinuxUser, ObservedContainer, ObservedPod, PodEvent, PodOutcome, PodRuntime, Sandbox,
    Termination,
};
pub use self::poll::watch_by_polling;
pub use self::resolved::{
    Blocked, ClaimedVolume, ContainerKind, EmptyDir, EnvVar, File, Origin, PullCredential, ResolvedContainer,
    ResolvedMount, ResolvedPod, ResolvedVolume, Value, VolumeContent,
};
pub use self::socket::SocketSession;
pub use self::stats::{
    ContainerUsage, CpuUsage, FilesystemUsage, MemoryUsage, NetworkUsage, NodeUsage, PodUsage, Usage,
};
pub use self::trust::Trust;
pub(crate) use self::wrap::Metered;
#[cfg(test)]
pub(crate) use self::wrap::fake;
#[doc(hidden)]
pub use self::wrap::metered;
pub use self::wrap::{Delayed, Delays, Faults, Faulty, Limited, Limits, Verb};
pub use crate::events::{PodEventRecord, Reason, Severity};

mod error;
pub mod fields;
mod identity;
mod io;
mod macros;
mod node_info;
mod observed;
mod poll;
mod resolved;
mod socket;
mod stats;
mod trust;
mod wrap;

/// A backend that runs whole pods.
///
/// See the [module documentation](self) for the contract. There are no default methods: a wrapper that
/// forgets one does not compile, and a backend without a capability says so in one line.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync + 'static {
    /// The backend's short, stable name, fit to be a label's value: `"aci"`, `"fargate"`, `"mock"`. It becomes the value of the
    /// node's taint `virtual-kubelet.io/provider`, and a label on metrics and spans.
    fn name(&self) -> &'static str;

    /// What the backend does by itself. What is not in the set, the node does (or, while it cannot,
    /// refuses aloud).
    fn native(&self) -> Features;

    /// What it does with each field of a pod. What it does not honour, a pod that asks for it is refused for, before
    /// [`create_pod`](Self::create_pod) is called; what depends on more than the field itself, `create_pod` refuses.
    /// The same for as long as the provider is there. See [`fields`].
    fn fields(&self) -> &FieldSupport;

    /// Capacity, platform and health of the node, asked at registration and then on every
    /// [ping interval](crate::config::NodeConfig::ping_interval).
    ///
    /// # Errors
    /// An error, or no answer within the ping timeout, turns the node's `Ready` condition to `False` with
    /// the error's [reason](Error::reason); the lease is renewed all the same.
    async fn node_info(&self) -> Result<NodeInfo>;

    /// Starts a pod. Returns when the backend has accepted it. Same UID again is `Ok`.
    ///
    /// # Errors
    /// [`Error::Rejected`] ends the pod as `Failed`; every other error leaves it `Pending` and is retried. See
    /// [`Error`].
    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()>;

    /// Stops a pod within `grace` and frees what it takes. Returns when the backend has accepted the deletion.
    /// Unknown UID is `Ok`. `grace` of zero kills at once. Called again with a shorter grace when a user
    /// shortens it, and when the pod is still there some time after its grace. A pod that has ended by itself is
    /// deleted when its API object is gone, and not before.
    ///
    /// Afterwards how it ended is told ([`PodEvent`]), and the pod either leaves the listing, or stays in it with
    /// [`Sandbox::Gone`] until the backend drops it; it never runs again.
    ///
    /// # Errors
    /// [`Error::NotFound`] counts as `Ok`; every other error is repeated, [`Error::Rejected`] as well.
    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Result<()>;

    /// Every pod of this node at the backend: complete, or an error.
    ///
    /// Pods of other nodes, other clusters and other tenants are not in it. A backend whose listing lacks
    /// details returns observations without [`runtime`](ObservedPod::runtime); existence alone is enough.
    ///
    /// # Errors
    /// Nothing is concluded from any error; the listing is repeated.
    async fn list_pods(&self) -> Result<Vec<ObservedPod>>;

    /// A stream of changes. The first item is [`PodEvent::Listed`], and so is the first after any gap, so
    /// that nothing can be missed in silence. An `Err` item means "this attempt failed, the stream goes
    /// on"; the end of the stream means that the provider wants to be watched anew, and the node does so
    /// after a back-off. Dropping the stream stops it.
    ///
    /// [`watch_by_polling`] makes one from [`list_pods`](Self::list_pods).
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>>;

    /// Knows a pod's IP addresses before its containers start.
    fn prepare(&self) -> Option<&dyn PodPrepare>;
    /// Applies changes to a running pod.
    fn update(&self) -> Option<&dyn PodUpdate>;
    /// Reads container logs.
    fn logs(&self) -> Option<&dyn ContainerLogs>;
    /// Runs commands in containers.
    fn exec(&self) -> Option<&dyn ContainerExec>;
    /// Attaches to containers' main processes.
    fn attach(&self) -> Option<&dyn ContainerAttach>;
    /// Connects to ports of pods.
    fn port_forward(&self) -> Option<&dyn PortForward>;
    /// Measures resource usage.
    fn stats(&self) -> Option<&dyn PodStats>;
}

/// Something a backend may do by itself. See [`Provider::native`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Feature {
    /// Restarts containers by the pod's `restartPolicy`, and counts the restarts.
    Restarts,
    /// Runs init containers one after the other before the app containers.
    InitOrder,
    /// Runs init containers with `restartPolicy: Always` beside the app containers (KEP-753).
    Sidecars,
    /// Runs liveness probes and restarts what fails them.
    LivenessProbes,
    /// Runs readiness probes and reports `ready`.
    ReadinessProbes,
    /// Runs startup probes and reports `started`.
    StartupProbes,
    /// Runs `lifecycle.postStart` hooks.
    PostStart,
    /// Runs `lifecycle.preStop` hooks inside the grace period.
    PreStop,
    /// Stops the pod at `activeDeadlineSeconds` and reports [`PodOutcome`].
    ActiveDeadline,
    /// Reads termination messages.
    TerminationMessages,
    /// Starts what it can of a pod while containers of it are [`Blocked`], and takes the rest up through
    /// [`PodUpdate`]. Without it, nothing of such a pod is created.
    PartialPods,
    /// Has a use for files of volumes. Without it, no tokens are asked for: a volume with one, which every pod
    /// with a service account has, is left to the backend as [`VolumeContent::Native`].
    Files,
    /// Puts new contents into the files of running pods. Pods are given to [`PodUpdate`] again when what
    /// their files come from has changed, and when their tokens are due.
    FileUpdates,
    /// Has forgotten the specifications of its pods when the daemon starts again, and is given each pod that it
    /// still has through [`PodUpdate`].
    Adoption,
    /// Changes the resources of running containers in place ([`PodUpdate`]), and may tell what each has
    /// ([`ObservedContainer::resources`]). Without it, such a change is `Infeasible`.
    Resize,
    /// Tells what happens to containers and probes itself ([`PodEvent::Told`]); the node does not conclude it
    /// from observations.
    Events,
}

impl Feature {
    /// Those that a user of pods notices. The others are between node and backend.
    pub const ALL: [Self; 12] = [
        Self::Restarts,
        Self::InitOrder,
        Self::Sidecars,
        Self::LivenessProbes,
        Self::ReadinessProbes,
        Self::StartupProbes,
        Self::PostStart,
        Self::PreStop,
        Self::ActiveDeadline,
        Self::TerminationMessages,
        Self::Files,
        Self::FileUpdates,
    ];
}

/// A set of [`Feature`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u32);

impl Features {
    /// The empty set: the backend only starts and stops containers.
    pub const NONE: Self = Self(0);

    /// The set of the given features.
    #[must_use]
    pub fn of(features: &[Feature]) -> Self {
        features.iter().fold(Self::NONE, |set, f| Self(set.0 | 1 << *f as u32))
    }

    /// Whether the feature is in the set.
    #[must_use]
    pub fn contains(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u32) != 0
    }
}

/// Capability: addresses are known before containers start. See [`Provider::prepare`].
#[async_trait]
pub trait PodPrepare: Send + Sync {
    /// Reserves the pod's network identity and returns its addresses, at most one per family. Called
    /// before [`Provider::create_pod`], and before [`PodUpdate::update_pod`] of a pod whose addresses are not known, for
    /// pods with variables that refer to `status.podIP(s)`.
    /// Repeatable: same UID, same addresses. Two pods that exist, or are promised to, have none in common, and a
    /// pod has the addresses that it was promised, also after a restart of the daemon. [`Provider::delete_pod`] frees
    /// them, and is called for that also for a pod that was never created.
    ///
    /// # Errors
    /// As of the call that it comes before.
    async fn prepare_pod(&self, pod: &PodRef) -> Result<Vec<std::net::IpAddr>>;
}

/// Capability: changes to a running pod. See [`Provider::update`].
#[async_trait]
pub trait PodUpdate: Send + Sync {
    /// Brings the running pod to the new specification: resources resized, images replaced, ephemeral
    /// containers added, files re-published. The whole desired pod is given; the backend compares, and a pod that
    /// is as it should be goes on undisturbed.
    ///
    /// Called when the pod's specification has changed; after a restart of the daemon for each pod whose specification
    /// changed meanwhile; and for the reasons of [`Feature::FileUpdates`], [`Feature::PartialPods`] and
    /// [`Feature::Adoption`], with any of which each pod is given again after a restart.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the backend has no such pod; none is created. After that, and after
    /// [`Error::Rejected`], the call is not repeated; after every other error it is. The pod's status stays as it was.
    async fn update_pod(&self, pod: &ResolvedPod) -> Result<()>;
}

/// Capability: logs. See [`Provider::logs`].
#[async_trait]
pub trait ContainerLogs: Send + Sync {
    /// Opens a container's log. The provider honours [`previous`](LogOptions::previous),
    /// [`follow`](LogOptions::follow), [`start`](LogOptions::start) and [`tail`](LogOptions::tail)
    /// ([`LogSelection`] does the last two for a log held in memory); the node cuts streams, byte limits
    /// and timestamps. Dropping the stream stops the read at the backend. A followed stream ends when the
    /// container's log can grow no more, and one that is not followed ends with the last present line. The log of a
    /// run that has ended stays readable for as long as the pod is there.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the backend has no such container, or no previous run of it.
    async fn container_logs(&self, container: &ContainerRef, options: &LogOptions) -> Result<LogStream>;
}

/// Capability: exec. See [`Provider::exec`].
#[async_trait]
pub trait ContainerExec: Send + Sync {
    /// Runs a command beside the container's main process and returns its exit status when it has ended
    /// and its output has been written. Its arguments reach it as they are, no shell reads them. Its input reaches
    /// it as it comes, and so does the input's end; its two outputs are kept apart. It ends with its container.
    /// Dropping the future ends the command.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the backend has no such container running.
    async fn exec(&self, container: &ContainerRef, command: &[String], io: ExecIo) -> Result<ExitStatus>;
}

/// Capability: attach. See [`Provider::attach`].
#[async_trait]
pub trait ContainerAttach: Send + Sync {
    /// Connects to the container's main process until that ends or the future is dropped, which leaves the
    /// process running.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the backend has no such container running.
    async fn attach(&self, container: &ContainerRef, io: ExecIo) -> Result<ExitStatus>;
}

/// Capability: port-forward. See [`Provider::port_forward`].
#[async_trait]
pub trait PortForward: Send + Sync {
    /// Opens a connection to a port of the pod. Half-close is passed on in both directions: the other end hears of
    /// it, and what that still has to say arrives.
    ///
    /// # Errors
    /// No such pod. A port on which nothing listens is an error, or a connection that ends without a byte.
    async fn connect(&self, pod: &PodRef, port: u16) -> Result<Box<dyn Duplex>>;
}

/// Capability: usage figures. See [`Provider::stats`].
#[async_trait]
pub trait PodStats: Send + Sync {
    /// Usage of the node and of every pod of its, each once. What is unknown is absent, never zero; what is counted
    /// never goes back while its container runs, and neither does the time of its sample. What the node has used it has
    /// used, also when the pod is gone that used it. One call at a time, of ten seconds at most.
    async fn usage(&self) -> Result<Usage>;
}
