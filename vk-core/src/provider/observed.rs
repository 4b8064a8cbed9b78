//! What a provider sees of its pods.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;

use super::identity::{ContainerRef, PodRef};
use super::io::ExitStatus;
use crate::containers::ProbeKind;
use crate::events::PodEventRecord;

/// A pod as the backend has it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ObservedPod {
    /// Which pod: the UID, and namespace and name as recorded at the backend.
    pub pod: PodRef,
    /// What it is doing. `None` when the backend said only that it exists (a list reply without
    /// instance view): the node keeps what it knew.
    pub runtime: Option<PodRuntime>,
}

/// What a pod is doing.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct PodRuntime {
    /// The pod's own environment, in which containers run.
    pub sandbox: Sandbox,
    /// The pod's addresses, at most one per family. May change when a backend replaces the instance.
    pub ips: Vec<IpAddr>,
    /// When the backend started the pod, if it says.
    pub started_at: Option<Timestamp>,
    /// Init, app and ephemeral containers, by name, in any order. A container that is not listed has not
    /// been started.
    pub containers: Vec<ObservedContainer>,
    /// Set when the backend itself has ended the pod, whatever its containers' exit codes say.
    pub outcome: Option<PodOutcome>,
}

/// The state of a pod's sandbox: network and storage, without containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// Being made.
    #[default]
    Pending,
    /// Ready for containers; the condition `PodReadyToStartContainers` is `True`.
    Ready,
    /// Torn down: nothing of the pod can run any more. The only evidence on which a terminal phase is
    /// published; a backend whose finished pods keep an instance reports this once every container has
    /// ended for good.
    Gone,
}

/// The backend ended the pod: eviction, spot reclaim, deadline, host failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodOutcome {
    /// `status.reason`, CamelCase.
    pub reason: String,
    /// `status.message`.
    pub message: String,
    /// Not the pod's own fault: sets the condition `DisruptionTarget`, which a Job's pod failure policy
    /// can ignore.
    pub disruption: bool,
}

/// A container as the backend has it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ObservedContainer {
    /// Its name in the pod.
    pub name: String,
    /// What it is doing now.
    pub state: ContainerState,
    /// How its previous run ended, if there was one.
    pub last: Option<Termination>,
    /// How often it was restarted.
    pub restart_count: i32,
    /// The readiness probe's verdict; `None` when the backend runs none, and then running is ready.
    pub ready: Option<bool>,
    /// Whether the startup probe has passed; `None` when the backend runs none, and then running is
    /// started.
    pub started: Option<bool>,
    /// The image as run, if it differs from the one asked for.
    pub image: Option<String>,
    /// The image's digest.
    pub image_id: Option<String>,
    /// The run's id, as `scheme://id`.
    pub container_id: Option<String>,
    /// The resources that the present run has, if the backend says; `None` is those that it was given.
    pub resources: Option<Box<ResourceRequirements>>,
    /// Whom its first process runs as, if the backend says; `user.linux` in statuses (KEP-3619).
    pub user: Option<LinuxUser>,
}

/// Whom a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxUser {
    /// The user.
    pub uid: i64,
    /// The first group.
    pub gid: i64,
    /// All groups, the first among them.
    pub groups: Vec<i64>,
}

/// A container's present state.
#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    /// Not running yet, or not running again yet.
    Waiting {
        /// A kubelet's reason: `ContainerCreating`, `PodInitializing`, `ErrImagePull`,
        /// `ImagePullBackOff`, `CrashLoopBackOff`, `CreateContainerConfigError`, …
        reason: String,
        /// Details for people; empty for none.
        message: String,
    },
    /// Running.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Ended, for now or for good.
    Terminated(Termination),
}

/// How a container's run ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Termination {
    /// The exit status; [`ExitStatus::Unknown`] is published as 137 with reason
    /// `ContainerStatusUnknown`.
    pub exit: ExitStatus,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, …; `None` lets the node say `Completed` or
    /// `Error` from the exit code.
    pub reason: Option<String>,
    /// The termination message, or what went wrong.
    pub message: Option<String>,
    /// When the run began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// The run's id, as `scheme://id`.
    pub container_id: Option<String>,
}

/// One item of [`Provider::watch_pods`](super::Provider::watch_pods).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PodEvent {
    /// The complete listing, as of now: what is not in it does not exist.
    Listed(Vec<ObservedPod>),
    /// One pod is now like this.
    Changed(ObservedPod),
    /// One pod is gone from the backend; nothing of it runs.
    Gone {
        /// Which pod.
        pod: PodRef,
        /// How it ended, if the backend saw it.
        last: Option<PodRuntime>,
    },
    /// Something to be told of a pod as an event at the API server. Changes nothing.
    Told {
        /// Which pod.
        pod: PodRef,
        /// What happened.
        event: PodEventRecord,
    },
    /// A probe was run. Changes nothing; it is counted.
    Probed {
        /// Whose probe.
        container: ContainerRef,
        /// Which one.
        kind: ProbeKind,
        /// What came of it: `successful`, `failed` or `unknown`.
        result: &'static str,
        /// How long it took.
        took: Duration,
    },
}

impl ObservedPod {
    /// A pod with details.
    #[must_use]
    pub fn new(pod: PodRef, runtime: PodRuntime) -> Self {
        Self { pod, runtime: Some(runtime) }
    }

    /// A pod of which only the existence is known.
    #[must_use]
    pub fn existing(pod: PodRef) -> Self {
        Self { pod, runtime: None }
    }
}

impl PodOutcome {
    /// An end that the pod brought upon itself, such as a deadline.
    #[must_use]
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), disruption: false }
    }

    /// An end that is not the pod's own fault, such as an eviction.
    #[must_use]
    pub fn disruption(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { disruption: true, ..Self::new(reason, message) }
    }
}

impl PodRuntime {
    /// A pod whose sandbox is in that state, with nothing else known.
    #[must_use]
    pub fn new(sandbox: Sandbox) -> Self {
        Self { sandbox, ..Self::default() }
    }

    /// Adds an address.
    #[must_use]
    pub fn with_ip(mut self, ip: IpAddr) -> Self {
        self.ips.push(ip);
        self
    }

    /// Sets when the backend started it.
    #[must_use]
    pub fn with_started_at(mut self, started_at: Timestamp) -> Self {
        self.started_at = Some(started_at);
        self
    }

    /// Adds a container.
    #[must_use]
    pub fn with_container(mut self, container: ObservedContainer) -> Self {
        self.containers.push(container);
        self
    }

    /// Sets why the backend itself has ended it.
    #[must_use]
    pub fn with_outcome(mut self, outcome: PodOutcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// The container of that name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// Whether anything of the pod may still run, or run again.
    #[must_use]
    pub fn may_run(&self) -> bool {
        self.sandbox != Sandbox::Gone
    }
}

impl ObservedContainer {
    /// A container in a state, with nothing else known.
    #[must_use]
    pub fn new(name: impl Into<String>, state: ContainerState) -> Self {
        Self {
            name: name.into(),
            state,
            last: None,
            restart_count: 0,
            ready: None,
            started: None,
            image: None,
            image_id: None,
            container_id: None,
            resources: None,
            user: None,
        }
    }

    /// A container that has to wait: a kubelet's reason, and details for people.
    #[must_use]
    pub fn waiting(name: impl Into<String>, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(name, ContainerState::Waiting { reason: reason.into(), message: message.into() })
    }

    /// A container that runs.
    #[must_use]
    pub fn running(name: impl Into<String>, started_at: Timestamp) -> Self {
        Self::new(name, ContainerState::Running { started_at })
    }

    /// A container whose last run has ended.
    #[must_use]
    pub fn terminated(name: impl Into<String>, end: Termination) -> Self {
        Self::new(name, ContainerState::Terminated(end))
    }

    /// Sets how often it was restarted, and how the run before this one ended.
    #[must_use]
    pub fn with_restarts(mut self, count: i32, last: Option<Termination>) -> Self {
        (self.restart_count, self.last) = (count, last);
        self
    }

    /// Sets the readiness probe's verdict.
    #[must_use]
    pub fn with_ready(mut self, ready: bool) -> Self {
        self.ready = Some(ready);
        self
    }

    /// Sets the run's id, as `scheme://id`.
    #[must_use]
    pub fn with_container_id(mut self, id: impl Into<String>) -> Self {
        self.container_id = Some(id.into());
        self
    }
}

impl Termination {
    /// A run that ended with this status, with nothing else known.
    #[must_use]
    pub fn new(exit: ExitStatus) -> Self {
        Self { exit, reason: None, message: None, started_at: None, finished_at: None, container_id: None }
    }

    /// Sets when the run began and ended.
    #[must_use]
    pub fn with_times(mut self, started_at: Timestamp, finished_at: Timestamp) -> Self {
        (self.started_at, self.finished_at) = (Some(started_at), Some(finished_at));
        self
    }

    /// Sets the reason, such as `OOMKilled`.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Sets the termination message.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }
}
