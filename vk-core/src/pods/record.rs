//! What is kept about one pod. An idle pod costs this and nothing else: no task, no timer, and the API
//! object only as compact JSON.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::admission::{Demand, Place};
use super::resize::{Allocation, Resize};
use super::state::{ApiView, BackendView, PodInput, PodState};
use super::status::Situation;
use crate::provider::{PodOutcome, PodRef, PodRuntime};

/// The API object as last seen.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// The object without `metadata.managedFields`, as JSON.
    json: Bytes,
    /// `metadata.resourceVersion`, if it is a number; API servers of today promise that it is.
    pub(crate) version: Option<u128>,
    /// Set when the object is marked for deletion.
    pub(crate) deletion: Option<Deletion>,
    /// What the API server says of its life.
    pub(crate) view: ApiView,
    /// `spec.terminationGracePeriodSeconds`.
    pub(crate) spec_grace: Duration,
    /// `metadata.creationTimestamp`, in seconds.
    pub(crate) created: i64,
    /// What it takes of the node.
    pub(crate) demand: Arc<Demand>,
    /// A fingerprint of its resources.
    pub(crate) resources: u64,
    /// A fingerprint of its labels and annotations, if files of it show them.
    pub(crate) marks: Option<u64>,
    /// Its status shows other resources than it asks for.
    pub(crate) is_unallocated: bool,
    /// Its status was written for an earlier generation of it.
    pub(crate) is_unobserved: bool,
    /// A variable of it refers to its own address.
    pub(crate) wants_address: bool,
    /// A fingerprint of the specification's containers: what a provider would have to change.
    pub(crate) fingerprint: u64,
}

/// A deletion that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deletion {
    /// When the grace period is over.
    pub(crate) deadline: Timestamp,
    /// The grace period.
    pub(crate) grace: Duration,
}

impl Desired {
    /// Keeps an object; `None` if it lacks namespace, name or UID.
    pub(crate) fn of(mut pod: Pod) -> Option<(PodRef, Self)> {
        let reference = PodRef::of(&pod)?;
        pod.metadata.managed_fields = None;
        let spec = pod.spec.as_ref();
        let seconds = |s: Option<i64>| Duration::from_secs(s.unwrap_or(30).max(0).unsigned_abs());
        let spec_grace = seconds(spec.and_then(|s| s.termination_grace_period_seconds));
        let deletion = pod.metadata.deletion_timestamp.as_ref().map(|time| Deletion {
            deadline: time.0,
            grace: pod
                .metadata
                .deletion_grace_period_seconds
                .map_or(spec_grace, |s| Duration::from_secs(s.max(0).unsigned_abs())),
        });
        let desired = Self {
            version: pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()),
            deletion,
            view: api_view(pod.status.as_ref(), deletion.is_some()),
            spec_grace,
            created: pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            demand: Arc::new(spec.map(Demand::of).unwrap_or_default()),
            resources: spec.map_or(0, fingerprint_of_resources),
            marks: fingerprint_of_marks(&pod),
            is_unallocated: Allocation::of_status(&pod).is_some(),
            is_unobserved: is_unobserved(&pod),
            wants_address: wants_address(&pod),
            fingerprint: fingerprint(&pod),
            // Boxed first: bytes keep the room that a vector has left over.
            json: serde_json::to_vec(&pod).ok()?.into_boxed_slice().into(),
        };
        Some((reference, desired))
    }

    /// The object.
    ///
    /// # Errors
    /// None in practice: the JSON was written from the same type.
    pub(crate) fn pod(&self) -> Result<Pod, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }

    /// Whether this is the same object as `other`, or an older one.
    pub(crate) fn is_stale_beside(&self, other: &Self) -> bool {
        matches!((self.version, other.version), (Some(mine), Some(theirs)) if mine <= theirs)
    }
}

/// A fingerprint of whatever was before.
pub(super) fn unlike(fingerprint: u64) -> u64 {
    !fingerprint
}

/// Whether a variable of the pod refers to the pod's own address.
pub(super) fn wants_address(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let variables = containers
        .flat_map(|container| container.env.iter().flatten())
        .chain(spec.ephemeral_containers.iter().flatten().flat_map(|c| c.env.iter().flatten()));
    let mut paths = variables
        .filter_map(|variable| Some(variable.value_from.as_ref()?.field_ref.as_ref()?.field_path.as_str()));
    paths.any(|path| matches!(path, "status.podIP" | "status.podIPs"))
}

/// Whether the status was written for an earlier generation of the pod. API servers before 1.33 count none.
fn is_unobserved(pod: &Pod) -> bool {
    let observed = pod.status.as_ref().and_then(|status| status.observed_generation);
    matches!((pod.metadata.generation, observed), (Some(is), Some(seen)) if seen < is)
}

/// Whether the API server's status says that a container ran.
fn api_view(status: Option<&PodStatus>, deleting: bool) -> ApiView {
    let Some(status) = status else { return if deleting { ApiView::Deleting } else { ApiView::Fresh } };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return ApiView::Terminal;
    }
    if deleting {
        return ApiView::Deleting;
    }
    let statuses = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten();
    let ran = status.phase.as_deref() == Some("Running")
        || statuses.into_iter().any(|c| c.container_id.as_ref().is_some_and(|id| !id.is_empty()));
    if ran { ApiView::Started } else { ApiView::Fresh }
}

fn hash(parts: &impl serde::Serialize) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    serde_json::to_string(parts).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

fn fingerprint_of_resources(spec: &PodSpec) -> u64 {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    hash(&(&spec.resources, containers.map(|container| &container.resources).collect::<Vec<_>>()))
}

/// `None`: no volume shows labels or annotations of the pod.
fn fingerprint_of_marks(pod: &Pod) -> Option<u64> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut items = volumes.flat_map(|volume| {
        let own = volume.downward_api.iter().flat_map(|source| source.items.iter().flatten());
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        let projected = sources
            .flat_map(|source| source.downward_api.iter().flat_map(|source| source.items.iter().flatten()));
        own.chain(projected)
    });
    let of_marks =
        |path: &str| path.starts_with("metadata.labels") || path.starts_with("metadata.annotations");
    let shown = items.any(|item| item.field_ref.as_ref().is_some_and(|field| of_marks(&field.field_path)));
    shown.then(|| hash(&(&pod.metadata.labels, &pod.metadata.annotations)))
}

pub(crate) fn fingerprint(pod: &Pod) -> u64 {
    let Some(spec) = &pod.spec else { return 0 };
    let parts = (
        &spec.containers,
        &spec.init_containers,
        &spec.ephemeral_containers,
        &spec.resources,
        spec.active_deadline_seconds,
    );
    hash(&parts)
}

/// What the backend last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// No complete listing yet.
    Unknown,
    /// It has the pod.
    Present,
    /// It does not, on evidence.
    Absent,
}

/// How far creation has come, in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CreateCall {
    /// Not sent.
    NotSent,
    /// Sent; not accepted, as far as we know.
    Sent {
        /// When it was sent last.
        at: Instant,
    },
    /// Accepted by the backend.
    Accepted {
        /// When.
        at: Instant,
    },
}

/// The last accepted deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeleteCall {
    /// When the backend accepted it.
    pub(crate) at: Instant,
    /// The grace period it was given.
    pub(crate) grace: Duration,
}

/// Everything known about one incarnation of a pod.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own; the state machine is `state`")]
pub(crate) struct Record {
    pub(crate) pod: PodRef,
    /// When this process met it.
    pub(crate) met: Instant,
    /// The API object; `None` when there is none (any more).
    pub(crate) desired: Option<Desired>,
    /// No object is known, or a listing did not have it: to be confirmed by reading the object itself.
    pub(crate) suspect: bool,
    /// The API server has said of this very UID that it is gone.
    pub(crate) confirmed_gone: bool,
    pub(crate) presence: Presence,
    /// The last observation with details; kept when the pod is gone, for its exit codes.
    pub(crate) runtime: Option<Box<PodRuntime>>,
    /// `None` until the API server and the backend have both been listed.
    pub(crate) state: Option<PodState>,
    /// What it has of the node, from its admission until nothing of it runs any more.
    pub(crate) place: Option<Place>,
    /// It is among the table's [arrivals](super::table::PodTable), or has been.
    pub(crate) has_arrived: bool,
    pub(crate) create: CreateCall,
    pub(crate) delete: Option<DeleteCall>,
    /// When we saw the object become marked for deletion with its present grace period. `None` if it was so
    /// when we met it: then its deadline tells, and our clock has to agree with the API server's.
    pub(crate) deletion_seen: Option<Instant>,
    /// The API object's removal was sent and answered.
    pub(crate) removed: bool,
    pub(crate) situation: Situation,
    /// Consecutive failures of the present step.
    pub(crate) failures: u32,
    /// No provider call before this.
    pub(crate) not_before: Option<Instant>,
    /// Statuses that only say "starting" or "stopping" wait until then: a fast backend makes them needless.
    pub(crate) quiet_until: Instant,
    /// The grace period for a deletion after the object has gone.
    pub(crate) last_grace: Duration,
    /// The specification that was dealt with, by fingerprint.
    pub(crate) applied: Option<u64>,
    /// The specification that the backend was given, by fingerprint: another one while a change of resources waits.
    pub(crate) given: Option<u64>,
    /// A change of its resources that is not over.
    pub(crate) resize: Option<Box<Resize>>,
    /// What the pod was resolved from has changed, or its backend has forgotten what it was given: it is to have
    /// the pod again.
    pub(crate) stale: bool,
    /// Whether the provider was asked to reserve the pod's addresses, and has not been told that they are free again. An
    /// earlier process may have asked, too: `None`.
    pub(crate) promised: Option<bool>,
    /// When its tokens are to be replaced.
    pub(crate) refresh_at: Option<Instant>,
    /// A listing did not have the pod, and that was no proof yet: it needs a look.
    pub(crate) missing: bool,
    /// A write of the status has no answer: the API server may have it, or not, and only a read tells.
    pub(crate) unanswered: bool,
    /// The status whose write is under way: the API server may show it already, so the kubelet API must too.
    pub(crate) telling: Option<Box<PodStatus>>,
    /// Failed writes of the status in a row.
    pub(crate) publish_failures: u32,
    /// No write of the status before this.
    pub(crate) publish_not_before: Option<Instant>,
    /// The node ends the pod itself, for this reason.
    pub(crate) eviction: Option<PodOutcome>,
    /// Wakes a pass that waits in a provider call.
    pub(crate) interrupt: Arc<Notify>,
}

impl Record {
    pub(crate) fn new(pod: PodRef, now: Instant, quiet: Duration) -> Self {
        Self {
            pod,
            met: now,
            desired: None,
            suspect: false,
            confirmed_gone: false,
            presence: Presence::Unknown,
            runtime: None,
            state: None,
            place: None,
            has_arrived: false,
            create: CreateCall::NotSent,
            delete: None,
            deletion_seen: None,
            removed: false,
            situation: Situation::Normal,
            failures: 0,
            not_before: None,
            quiet_until: now + quiet,
            last_grace: Duration::ZERO,
            applied: None,
            given: None,
            resize: None,
            stale: false,
            promised: None,
            refresh_at: None,
            missing: false,
            unanswered: false,
            telling: None,
            publish_failures: 0,
            publish_not_before: None,
            eviction: None,
            interrupt: Arc::new(Notify::new()),
        }
    }

    /// Moves the state; before recovery, inputs are only facts and [`recover`](Self::recover) reads them.
    pub(crate) fn input(&mut self, input: PodInput) {
        if let Some(state) = &mut self.state {
            let next = state.next(input);
            if next != *state {
                tracing::debug!(pod = %self.pod, k8s.pod.uid = %self.pod.uid, ?input, from = ?state, to = ?next, "pod");
                *state = next;
                self.failures = 0;
                self.not_before = None;
                if next.is_over() {
                    self.place = None;
                }
            }
        }
    }

    /// Decides where a pod that was just met stands, once the backend has been listed.
    pub(crate) fn recover(&mut self) {
        let unknown = self.desired.is_none() && !self.confirmed_gone;
        if self.state.is_some() || self.presence == Presence::Unknown || self.suspect || unknown {
            return;
        }
        let api = self.desired.as_ref().map_or(ApiView::Gone, |desired| desired.view);
        let backend = self.backend_view();
        let state = PodState::recover(api, backend);
        if state == PodState::Terminated && backend == BackendView::Absent {
            self.situation = if api == ApiView::Started {
                lost()
            } else {
                Situation::Ended { reason: None, message: None }
            };
        }
        if backend == BackendView::Live {
            // Unless this process made it, it has to be taken up.
            self.stale |= self.create == CreateCall::NotSent;
            // What was changed while no process was there to see it has yet to reach the backend.
            self.applied = self.desired.as_ref().map(|desired| {
                if desired.is_unobserved { unlike(desired.fingerprint) } else { desired.fingerprint }
            });
            self.find_resize();
        }
        self.state = Some(state);
        if self.desired.as_ref().is_some_and(|desired| desired.deletion.is_some()) {
            self.input(PodInput::DeleteRequested);
        }
    }

    /// Finds again a change of resources that an earlier process had not ended.
    fn find_resize(&mut self) {
        let Some(desired) = self.desired.as_ref().filter(|desired| desired.is_unallocated) else { return };
        let allocation = desired.pod().ok().and_then(|pod| Allocation::of_status(&pod));
        self.resize = allocation.map(|allocation| Box::new(Resize::of(allocation)));
    }

    /// Takes note of what has to be done about a new version of the object besides what its containers say.
    pub(crate) fn note_change(&mut self, next: &Desired) {
        // Files that show labels or annotations are to follow them.
        self.stale |= self.desired.as_ref().is_some_and(|known| known.marks != next.marks);
        let Some(known) = self.desired.as_ref().filter(|known| known.resources != next.resources) else {
            return;
        };
        if self.state != Some(PodState::Syncing) {
            return;
        }
        if let Some(resize) = &mut self.resize {
            resize.due = true;
        } else if let Some(spec) = known.pod().ok().and_then(|pod| pod.spec) {
            self.resize = Some(Box::new(Resize::of(Allocation::of(&spec))));
        }
    }

    pub(crate) fn backend_view(&self) -> BackendView {
        match (self.presence, &self.runtime) {
            (Presence::Present, Some(runtime)) if !runtime.may_run() => BackendView::Terminal,
            (Presence::Present, _) => BackendView::Live,
            (Presence::Unknown | Presence::Absent, _) => BackendView::Absent,
        }
    }

    /// The backend does not have the pod.
    pub(crate) fn absent(&mut self) {
        self.presence = Presence::Absent;
        self.missing = false;
        self.recover();
        if self.state.is_some_and(|state| !state.is_over()) {
            let deleting = self.state == Some(PodState::Terminating);
            let ended = self.runtime.as_ref().is_some_and(|runtime| !runtime.may_run());
            let is_refused = matches!(self.situation, Situation::Refused { .. });
            let end =
                if deleting || ended { Situation::Ended { reason: None, message: None } } else { lost() };
            if !is_refused {
                self.situation = end;
            }
            self.input(PodInput::ObservedGone);
        }
    }

    /// The backend has the pod, like this if it says so. Returns what was known before.
    pub(crate) fn present(&mut self, runtime: Option<PodRuntime>) -> Option<Box<PodRuntime>> {
        self.presence = Presence::Present;
        self.missing = false;
        let before = match runtime {
            Some(runtime) => self.runtime.replace(Box::new(runtime)),
            None => self.runtime.clone(),
        };
        self.recover();
        if matches!(self.situation, Situation::Waiting(_) | Situation::Failing { .. }) {
            self.situation = Situation::Normal;
        }
        if self.applied.is_none() && self.create == CreateCall::NotSent {
            self.applied = self.wanted();
        }
        self.input(match self.backend_view() {
            BackendView::Terminal => PodInput::ObservedTerminal,
            BackendView::Live | BackendView::Absent => PodInput::ObservedLive,
        });
        before
    }

    /// What comes next is a new attempt at something else.
    pub(crate) fn forget_failures(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }

    /// Whether the pod was deleted, is gone as it should be, and nobody saw how its containers ended: a terminal
    /// status would only make something up.
    pub(crate) fn end_is_untold(&self) -> bool {
        let nothing_special = Situation::Ended { reason: None, message: None };
        self.presence == Presence::Absent
            && self.delete.is_some()
            && self.eviction.is_none()
            && self.situation == nothing_special
            && self.runtime.as_ref().is_none_or(|runtime| runtime.may_run())
    }

    /// Whether it has yet to be decided whether it is let in. A kubelet asks so of a pod, too, that was deleted before
    /// it came to see it.
    pub(crate) fn awaits_admission(&self) -> bool {
        matches!(self.state, Some(PodState::Accepted | PodState::Terminating))
            && self.place.is_none()
            && !self.was_created()
            && !matches!(self.situation, Situation::Refused { .. })
    }

    /// The fingerprint of what is wanted.
    pub(crate) fn wanted(&self) -> Option<u64> {
        self.desired.as_ref().map(|desired| desired.fingerprint)
    }

    /// Whether addresses may be reserved for a pod that was never created.
    pub(crate) fn holds_addresses(&self) -> bool {
        let wanted = || self.desired.as_ref().is_some_and(|desired| desired.wants_address);
        !self.was_created() && self.promised.unwrap_or_else(wanted)
    }

    /// Whether a create may have reached the backend.
    pub(crate) fn was_created(&self) -> bool {
        self.presence == Presence::Present || self.create != CreateCall::NotSent
    }
}

/// The backend lost a pod that had run.
pub(crate) fn lost() -> Situation {
    Situation::Ended {
        reason: Some("NotFound".to_owned()),
        message: Some("The pod status was not found and may have been deleted from the provider".to_owned()),
    }
}
