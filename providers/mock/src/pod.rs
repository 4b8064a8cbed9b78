//! A pod as the backend keeps it: a small record, without task or timer of its own.
//!
//! ```text
//!  Sandbox ──▶ Starting ──▶ Init(i) ──▶ Running ──▶ Stopping ──▶ Gone
//!     └────────────┴───────────┴── delete, deadline, eviction ──┘
//! ```
//!
//! A pod changes only in [`Pod::advance`], which is given the time. [`Pod::next_due`] says when there will
//! be something to do; a pod that just runs has nothing due.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use vk_core::provider::{
    ContainerKind, Error, ObservedPod, PodOutcome, PodRef, PodRuntime, ResolvedPod, Result, Sandbox,
};

use self::container::Container;
use self::restart::Policy;
use crate::script::{self, Pairs, Script, Scripts};
use crate::time::after;

pub(crate) mod container;
mod environ;
mod lifecycle;
pub(crate) mod restart;

/// One pod.
#[derive(Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own; the stage is `stage`")]
pub(crate) struct Pod {
    #[serde(with = "pod_ref")]
    pub(crate) id: PodRef,
    /// The pod's own script lines, as far as there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<Box<Pairs>>,
    #[serde(skip)]
    pub(crate) script: Arc<Script>,
    pub(crate) created: Timestamp,
    pub(crate) ip: Option<IpAddr>,
    /// Whether the address is from the pool, to which it returns.
    pub(crate) pooled: bool,
    /// `spec.terminationGracePeriodSeconds`, for stops that the backend itself begins.
    grace_seconds: u32,
    /// `spec.activeDeadlineSeconds`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_seconds: Option<u32>,
    stage: Stage,
    /// When the sandbox was ready.
    started: Option<Timestamp>,
    /// Why the backend ended the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Box<Outcome>>,
    /// Whether it is forgotten once it has stopped.
    pub(crate) deleting: bool,
    /// Whether the ledger has its end.
    #[serde(default)]
    pub(crate) counted_out: bool,
    /// It was deleted out of the blue, and its script has no word on how that ends.
    #[serde(skip)]
    pub(crate) untold: bool,
    /// Init containers in order, then the others.
    pub(crate) containers: Box<[Container]>,
    /// When the backend will look at the pod next.
    #[serde(skip)]
    pub(crate) alarm: Option<crate::alarms::Alarm>,
    /// Wakes those who follow a log, if there are any.
    #[serde(skip)]
    pub(crate) followers: Option<Arc<Notify>>,
}

/// How far a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// The sandbox is being made.
    Sandbox,
    /// The sandbox is ready; the first container is not started yet.
    Starting,
    /// The init container of this index is due.
    Init(usize),
    /// The app containers have been started.
    Running,
    /// SIGTERM has been sent; what runs then is killed.
    Stopping { kill_at: Timestamp },
    /// Nothing of the pod runs, or will.
    Gone,
}

/// [`PodOutcome`], as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    reason: String,
    message: String,
    disruption: bool,
}

impl Pod {
    /// A new pod, before anything has happened to it.
    ///
    /// # Errors
    /// [`Error::Rejected`] for an annotation that makes no sense.
    pub(crate) fn new(pod: &ResolvedPod, scripts: &Scripts, now: Timestamp) -> Result<Self> {
        let annotations = script::pairs_of(pod.object.metadata.annotations.as_ref());
        for key in annotations.keys() {
            if let Some((_, container)) = key.split_once('.')
                && !pod.containers.iter().any(|c| c.name == container)
            {
                return Err(script::refused(key, &format!("the pod has no container {container:?}")));
            }
        }
        let annotations = (!annotations.is_empty()).then(|| Box::new(annotations));
        let script = scripts.for_annotations(annotations.as_deref())?;
        let no_spec = PodSpec::default();
        let spec = pod.object.spec.as_ref().unwrap_or(&no_spec);
        let policy = Policy::of(spec.restart_policy.as_deref());
        let inits = spec.init_containers.as_ref().map_or(0, Vec::len);
        let containers = pod.containers.iter().enumerate().map(|(index, container)| {
            let place = match index.checked_sub(inits) {
                None => format!("spec.initContainers[{index}]"),
                Some(index) => format!("spec.containers[{index}]"),
            };
            let written = pod.container_spec(&container.name);
            Container::new(container, written, wants_input(spec, &container.name), policy, &place)
        });
        let containers = containers.collect::<Result<_>>()?;
        let seconds = |seconds: i64| u32::try_from(seconds).unwrap_or(0);
        Ok(Self {
            id: pod.pod.clone(),
            annotations,
            script,
            created: now,
            ip: None,
            pooled: false,
            grace_seconds: seconds(spec.termination_grace_period_seconds.unwrap_or(30)),
            deadline_seconds: spec.active_deadline_seconds.map(seconds),
            stage: Stage::Sandbox,
            started: None,
            outcome: None,
            deleting: false,
            counted_out: false,
            untold: false,
            containers,
            alarm: None,
            followers: None,
        })
    }

    /// Takes over what may change in a pod that runs: containers for debugging are added. What it uses is not
    /// measured against its requests and limits, so new ones make no difference.
    ///
    /// # Errors
    /// [`Error::Rejected`] for another image. What could be done is done all the same.
    pub(crate) fn update(&mut self, pod: &ResolvedPod, now: Timestamp) -> Result<()> {
        let no_spec = PodSpec::default();
        let spec = pod.object.spec.as_ref().unwrap_or(&no_spec);
        let mut refused = Ok(());
        let mut added = Vec::new();
        for container in &pod.containers {
            match self.containers.iter().find(|known| *known.name == container.name) {
                Some(known) if *known.image != container.image => {
                    let field = format!("spec.containers{{{}}}.image", container.name);
                    refused =
                        Err(Error::rejected(field, "the mock provider does not replace a running image"));
                }
                Some(_) => {}
                None => {
                    let place = format!("spec.ephemeralContainers{{{}}}", container.name);
                    let stdin = wants_input(spec, &container.name);
                    added.push(Container::new(container, None, stdin, Policy::Never, &place)?);
                }
            }
        }
        self.containers = std::mem::take(&mut self.containers).into_iter().chain(added).collect();
        self.start_ephemeral(now);
        self.advance(now);
        refused
    }

    /// Puts the script back after the record was read from a file.
    pub(crate) fn restore_script(&mut self, scripts: &Scripts) -> Result<()> {
        self.script = scripts.for_annotations(self.annotations.as_deref())?;
        Ok(())
    }

    /// Whether nothing of the pod runs, or will.
    pub(crate) fn is_gone(&self) -> bool {
        self.stage == Stage::Gone
    }

    /// When the sandbox was ready.
    pub(crate) fn started_at(&self) -> Option<Timestamp> {
        self.started
    }

    /// A figure that changes when, and only when, a watcher would see a change.
    pub(crate) fn glimpse(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        std::mem::discriminant(&self.sandbox()).hash(&mut hasher);
        self.containers.iter().for_each(|container| container.glimpse().hash(&mut hasher));
        hasher.finish()
    }

    /// Whether the pod is scripted to be lost about now.
    pub(crate) fn has_disappeared(&self, now: Timestamp) -> bool {
        self.script.disappear_after.is_some_and(|delay| after(self.created, delay) <= now)
    }

    /// Wakes those who follow one of the pod's logs.
    pub(crate) fn wake_followers(&self) {
        if let Some(followers) = &self.followers {
            followers.notify_waiters();
        }
    }

    /// What a watcher sees of the pod.
    pub(crate) fn observe(&self) -> ObservedPod {
        ObservedPod::new(self.id.clone(), self.runtime())
    }

    /// The reason for which a container is scripted to wait for ever. With init containers, the others
    /// have not had their turn.
    fn waiting_for(&self, container: &Container) -> Option<&str> {
        let reason = self.script.never_start.as_deref().filter(|_| self.stage == Stage::Starting)?;
        let first = self.containers.first()?;
        (first.kind == ContainerKind::App || std::ptr::eq(first, container)).then_some(reason)
    }

    fn sandbox(&self) -> Sandbox {
        match self.stage {
            Stage::Sandbox => Sandbox::Pending,
            Stage::Gone => Sandbox::Gone,
            Stage::Starting | Stage::Init(_) | Stage::Running | Stage::Stopping { .. } => Sandbox::Ready,
        }
    }

    /// What the pod is doing.
    pub(crate) fn runtime(&self) -> PodRuntime {
        let mut runtime = PodRuntime::default();
        runtime.sandbox = self.sandbox();
        if self.started.is_some() {
            runtime.ips.extend(self.ip);
        }
        runtime.started_at = self.started;
        let observe = |container: &Container| {
            let waiting_for = self.waiting_for(container);
            container.observe(&self.id, self.script.container(&container.name), waiting_for)
        };
        runtime.containers = self.containers.iter().filter_map(observe).collect();
        // A pod that is still being stopped has not come to its end.
        let outcome = self.outcome.as_deref().filter(|_| self.is_gone());
        runtime.outcome = outcome.map(|outcome| PodOutcome {
            reason: outcome.reason.clone(),
            message: outcome.message.clone(),
            disruption: outcome.disruption,
        });
        runtime
    }
}

/// Whether a container has an input of its own.
fn wants_input(spec: &PodSpec, name: &str) -> bool {
    let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let plain = plain.map(|container| (&container.name, container.stdin));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let mut all = plain.chain(ephemeral.map(|container| (&container.name, container.stdin)));
    all.any(|(known, stdin)| known == name && stdin == Some(true))
}

/// A [`PodRef`] as three texts.
mod pod_ref {
    use super::{Deserialize, PodRef, Serialize};

    pub(super) fn serialize<S: serde::Serializer>(pod: &PodRef, serializer: S) -> Result<S::Ok, S::Error> {
        (&*pod.namespace, &*pod.name, pod.uid.as_str()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PodRef, D::Error> {
        let (namespace, name, uid) = <(String, String, String)>::deserialize(deserializer)?;
        Ok(PodRef::new(namespace, name, uid))
    }
}
