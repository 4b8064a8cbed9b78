//! The statuses of a pod's containers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, PodSpec, PodStatus, ResourceRequirements,
    VolumeMountStatus,
};

use super::wanted::{Kind, Wanted, may_restart_all, restarts};
use super::{WaitingFor, seconds};
use crate::provider::{ContainerState, ExitStatus, LinuxUser, ObservedContainer, PodRuntime, Termination};

/// What a kubelet says of a container whose end it did not see.
const UNKNOWN_REASON: &str = "ContainerStatusUnknown";
pub(super) const UNKNOWN_MESSAGE: &str = "The container could not be located when the pod was terminated";
const UNKNOWN_CODE: i32 = 137;
/// The same, of a container that vanished while its pod goes on.
const LOST_MESSAGE: &str =
    "The container could not be located when the pod was deleted.  The container used to be Running";
/// An init container of which nothing is left, in a pod whose main containers run.
const FORGOTTEN_MESSAGE: &str = "Unable to get init container status from container runtime and pod has been \
                                 initialized, treat it as exited normally";

const CREATING: &str = "ContainerCreating";
const INITIALIZING: &str = "PodInitializing";

/// What container statuses are made from.
pub(super) struct View<'a> {
    pub(super) spec: &'a PodSpec,
    pub(super) current: &'a PodStatus,
    pub(super) runtime: Option<&'a PodRuntime>,
    pub(super) waiting: Option<&'a BTreeMap<String, WaitingFor>>,
    /// The pod is being deleted: nothing waits for a restart.
    pub(super) deleted: bool,
    /// Nothing of the pod runs any more.
    pub(super) gone: bool,
}

/// A pod's container statuses.
pub(super) struct Lists {
    /// In the order of the spec.
    pub(super) init: Vec<ContainerStatus>,
    /// By name.
    pub(super) main: Vec<ContainerStatus>,
    /// By name.
    pub(super) ephemeral: Vec<ContainerStatus>,
}

impl Lists {
    pub(super) fn of(view: &View<'_>) -> Self {
        let current = view.current;
        let init = view
            .spec
            .init_containers
            .iter()
            .flatten()
            .map(|c| status(view, Wanted::container(c, true), current.init_container_statuses.as_deref()))
            .collect();
        let mut main: Vec<_> = view
            .spec
            .containers
            .iter()
            .map(|c| status(view, Wanted::container(c, false), current.container_statuses.as_deref()))
            .collect();
        let mut ephemeral: Vec<_> = view
            .spec
            .ephemeral_containers
            .iter()
            .flatten()
            .map(|c| status(view, Wanted::ephemeral(c), current.ephemeral_container_statuses.as_deref()))
            .collect();
        main.sort_by(|a, b| a.name.cmp(&b.name));
        ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
        Self { init, main, ephemeral }
    }

    /// Init containers, with their specs.
    pub(super) fn init_with_spec<'a>(
        &'a self,
        spec: &'a PodSpec,
    ) -> impl Iterator<Item = (Wanted<'a>, &'a ContainerStatus)> {
        let specs = spec.init_containers.iter().flatten();
        specs.zip(&self.init).map(|(c, status)| (Wanted::container(c, true), status))
    }

    /// Main containers, in the order of the spec.
    pub(super) fn main_with_spec<'a>(
        &'a self,
        spec: &'a PodSpec,
    ) -> impl Iterator<Item = (Wanted<'a>, &'a ContainerStatus)> {
        spec.containers
            .iter()
            .filter_map(|c| Some((Wanted::container(c, false), self.main.iter().find(|s| s.name == c.name)?)))
    }
}

/// How a container has ended.
pub(super) fn ended(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

/// How the run before ended.
pub(super) fn last_ended(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.last_state.as_ref()?.terminated.as_ref()
}

pub(super) fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

/// Whether the container runs, or ever ran.
pub(super) fn was_started(status: &ContainerStatus) -> bool {
    is_running(status) || ended(status).is_some() || last_ended(status).is_some()
}

fn status(view: &View<'_>, wanted: Wanted<'_>, current: Option<&[ContainerStatus]>) -> ContainerStatus {
    let current = current.and_then(|list| list.iter().find(|s| s.name == wanted.name));
    let observed = view.runtime.and_then(|r| r.container(wanted.name));
    let mut status = match (observed, current) {
        (Some(observed), Some(current)) if observed_resurrects(view, &wanted, observed, current) => {
            current.clone()
        }
        (Some(observed), current) => from_observed(view, &wanted, observed, current),
        // Nothing new is known of it, or it had ended and its remains are cleared away.
        (None, Some(current)) if view.runtime.is_none() || ended(current).is_some() => current.clone(),
        (None, current) => not_listed(view, &wanted, current),
    };
    if let Some(waiting) = view.waiting.and_then(|w| w.get(wanted.name)) {
        wait_for(view, &wanted, observed, &mut status, waiting);
    }
    if view.deleted || view.gone {
        stop_waiting(view, &mut status);
    }
    if !has_container(&status) {
        wanted.image.unwrap_or_default().clone_into(&mut status.image);
    } else if observed.is_some() {
        let allocated = wanted.resources.cloned().unwrap_or_default();
        status.allocated_resources = allocated.requests.clone().filter(|r| !r.is_empty());
        let actual =
            observed.filter(|_| is_running(&status)).and_then(|observed| observed.resources.as_deref());
        let mut resources = actual.cloned().unwrap_or(allocated);
        if actual.is_some() {
            keep_memory_request(&mut resources, &status, current);
        }
        status.resources = Some(resources);
    }
    if wanted.kind == Kind::Init && was_forgotten(view, observed, &status) {
        status.state = Some(terminated(ContainerStateTerminated {
            reason: Some("Completed".to_owned()),
            message: Some(FORGOTTEN_MESSAGE.to_owned()),
            ..ContainerStateTerminated::default()
        }));
    }
    status.volume_mounts = mounts(&wanted);
    set_flags(&mut status, &wanted, observed);
    status
}

/// A run's request for memory is nothing that could be read back from it: a kubelet goes on saying what it said when the
/// run began, however it is resized.
fn keep_memory_request(
    resources: &mut ResourceRequirements,
    status: &ContainerStatus,
    current: Option<&ContainerStatus>,
) {
    let same_run = |current: &&ContainerStatus| {
        is_running(current) && is_running(status) && current.container_id == status.container_id
    };
    let said = current
        .filter(same_run)
        .and_then(|current| current.resources.as_ref()?.requests.as_ref()?.get("memory"));
    if let (Some(said), Some(requests)) = (said, &mut resources.requests) {
        requests.insert("memory".to_owned(), said.clone());
    }
}

/// Whether the observation would have a container run that has ended for good. The API server refuses
/// that, and a backend that says so has mixed up two runs.
fn observed_resurrects(
    view: &View<'_>,
    wanted: &Wanted<'_>,
    observed: &ObservedContainer,
    current: &ContainerStatus,
) -> bool {
    let Some(end) = ended(current) else { return false };
    !matches!(observed.state, ContainerState::Terminated(_))
        && !restarts(wanted, view.spec, end)
        && !may_restart_all(view.spec)
}

fn from_observed(
    view: &View<'_>,
    wanted: &Wanted<'_>,
    observed: &ObservedContainer,
    current: Option<&ContainerStatus>,
) -> ContainerStatus {
    let own_id = observed.container_id.as_deref();
    let (state, container_id) = match &observed.state {
        ContainerState::Waiting { reason, message } => {
            let state = if matches!(reason.as_str(), "" | CREATING | INITIALIZING) && message.is_empty() {
                default_waiting(view)
            } else {
                waiting(reason, message)
            };
            (state, own_id.or_else(|| observed.last.as_ref()?.container_id.as_deref()))
        }
        ContainerState::Running { started_at } => {
            (ApiState { running: Some(running(*started_at)), ..ApiState::default() }, own_id)
        }
        ContainerState::Terminated(t) => {
            (terminated(termination(t, own_id)), t.container_id.as_deref().or(own_id))
        }
    };
    let before = current.and_then(ended);
    let mut restart_count = observed.restart_count.max(current.map_or(0, |c| c.restart_count));
    let last_state = match (&observed.last, current) {
        (Some(last), _) => Some(terminated(termination(last, None))),
        // A backend that forgets the previous run, or that it restarted: the status remembers.
        (None, Some(current)) => match before {
            Some(before) if !is_same_run(&observed.state, before, container_id) => {
                if matches!(observed.state, ContainerState::Running { .. }) {
                    restart_count = restart_count.max(current.restart_count + 1);
                }
                Some(terminated(before.clone()))
            }
            _ => current.last_state.clone(),
        },
        (None, None) => None,
    };
    ContainerStatus {
        name: wanted.name.to_owned(),
        state: Some(state),
        last_state: last_state.or_else(|| Some(ApiState::default())),
        restart_count,
        image: observed.image.as_deref().or(wanted.image).unwrap_or_default().to_owned(),
        image_id: observed.image_id.clone().unwrap_or_default(),
        container_id: container_id.map(str::to_owned),
        user: user(observed, container_id, current),
        ..ContainerStatus::default()
    }
}

/// Whom the run is by; remembered of a run whose backend says it no more.
fn user(
    observed: &ObservedContainer,
    id: Option<&str>,
    current: Option<&ContainerStatus>,
) -> Option<ContainerUser> {
    if let Some(LinuxUser { uid, gid, groups }) = &observed.user {
        let (uid, gid, groups) = (*uid, *gid, Some(groups.clone()));
        let linux = LinuxContainerUser { uid, gid, supplemental_groups: groups };
        return id.map(|_| ContainerUser { linux: Some(linux) });
    }
    let current = current.filter(|current| id.is_some() && current.container_id.as_deref() == id)?;
    current.user.clone()
}

/// Whether an observed end is the one that the status shows already.
fn is_same_run(state: &ContainerState, before: &ContainerStateTerminated, id: Option<&str>) -> bool {
    match (state, before.container_id.as_deref(), id) {
        (ContainerState::Terminated(_), Some(before), Some(id)) => before == id,
        (ContainerState::Terminated(t), _, _) => match (&before.started_at, t.started_at) {
            (Some(before), Some(now)) => *before == seconds(now),
            _ => true,
        },
        _ => false,
    }
}

fn not_listed(view: &View<'_>, wanted: &Wanted<'_>, current: Option<&ContainerStatus>) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: wanted.name.to_owned(),
        state: Some(default_waiting(view)),
        last_state: Some(ApiState::default()),
        ..ContainerStatus::default()
    };
    if let Some(current) = current {
        status.restart_count = current.restart_count;
        if last_ended(current).is_some() {
            status.last_state.clone_from(&current.last_state);
        } else if is_running(current) {
            status.last_state = Some(terminated(unknown_end(LOST_MESSAGE)));
            status.restart_count += i32::from(!view.deleted);
        }
    }
    status
}

/// The container cannot be started, for a reason that the node knows.
fn wait_for(
    view: &View<'_>,
    wanted: &Wanted<'_>,
    observed: Option<&ObservedContainer>,
    status: &mut ContainerStatus,
    waits: &WaitingFor,
) {
    if is_running(status) || view.deleted || view.gone {
        return;
    }
    if let Some(end) = ended(status) {
        if !restarts(wanted, view.spec, end) || (wanted.kind == Kind::Init && end.exit_code == 0) {
            return;
        }
        status.last_state = status.state.take();
        if view.runtime.is_some() && observed.is_none() {
            // Its remains are cleared away.
            status.container_id = None;
            status.image_id.clear();
            status.resources = None;
            status.allocated_resources = None;
            status.user = None;
        }
    }
    status.state = Some(waiting(&waits.reason, &waits.message));
}

/// Nothing is restarted any more: a container that waited for that has ended as its last run did.
fn stop_waiting(view: &View<'_>, status: &mut ContainerStatus) {
    if is_running(status) || ended(status).is_some() {
        return;
    }
    match status.last_state.take_if(|last| last.terminated.is_some()) {
        Some(last) => {
            if let Some(id) = last.terminated.as_ref().and_then(|t| t.container_id.as_ref()) {
                status.container_id = Some(id.clone());
            }
            status.state = Some(last);
            status.last_state = Some(ApiState::default());
        }
        None if view.deleted => status.state = Some(default_waiting(view)),
        None => {}
    }
}

/// A finished init container that the backend no longer lists, while the pod has come further.
fn was_forgotten(view: &View<'_>, observed: Option<&ObservedContainer>, status: &ContainerStatus) -> bool {
    let Some(runtime) = view.runtime else { return false };
    observed.is_none()
        && !is_running(status)
        && ended(status).is_none()
        && view.spec.containers.iter().any(|c| {
            runtime.container(&c.name).is_some_and(|o| !matches!(o.state, ContainerState::Waiting { .. }))
        })
}

/// Whether there is a container behind the status: it runs, or what is left of it is there.
fn has_container(status: &ContainerStatus) -> bool {
    status.container_id.is_some() || is_running(status) || ended(status).is_some()
}

/// `ready` and `started`, which mean something else for each kind of container.
fn set_flags(status: &mut ContainerStatus, wanted: &Wanted<'_>, observed: Option<&ObservedContainer>) {
    let running = is_running(status);
    let started = match observed {
        Some(observed) => running && observed.started.unwrap_or(true),
        None => running && status.started.unwrap_or(true),
    };
    status.ready = match wanted.kind {
        Kind::Init => ended(status).is_some_and(|end| end.exit_code == 0),
        Kind::Main | Kind::Sidecar => match observed {
            Some(observed) => started && observed.ready.unwrap_or(true),
            None => started && status.ready,
        },
        Kind::Ephemeral => false,
    };
    status.started = (wanted.kind != Kind::Ephemeral).then_some(started);
}

fn mounts(wanted: &Wanted<'_>) -> Option<Vec<VolumeMountStatus>> {
    let mounts = wanted.mounts?.iter().map(|mount| {
        let read_only = mount.read_only == Some(true);
        let recursive = match mount.recursive_read_only.as_deref() {
            Some("Enabled") => "Enabled",
            _ => "Disabled",
        };
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| recursive.to_owned()),
            volume_status: None,
        }
    });
    super::some(mounts.collect())
}

fn default_waiting(view: &View<'_>) -> ApiState {
    let initializes = view.spec.init_containers.as_ref().is_some_and(|c| !c.is_empty());
    waiting(if initializes { INITIALIZING } else { CREATING }, "")
}

fn waiting(reason: &str, message: &str) -> ApiState {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    ApiState {
        waiting: Some(ContainerStateWaiting { reason: text(reason), message: text(message) }),
        ..ApiState::default()
    }
}

fn running(started_at: Timestamp) -> ContainerStateRunning {
    ContainerStateRunning { started_at: Some(seconds(started_at)) }
}

pub(super) fn terminated(state: ContainerStateTerminated) -> ApiState {
    ApiState { terminated: Some(state), ..ApiState::default() }
}

/// An end that nobody saw.
pub(super) fn unknown_end(message: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: UNKNOWN_CODE,
        reason: Some(UNKNOWN_REASON.to_owned()),
        message: Some(message.to_owned()),
        ..ContainerStateTerminated::default()
    }
}

fn termination(t: &Termination, container_id: Option<&str>) -> ContainerStateTerminated {
    let (exit_code, reason, message) = match t.exit {
        ExitStatus::Code(0) => (0, "Completed", None),
        ExitStatus::Code(code) => (code, "Error", None),
        ExitStatus::Unknown => (UNKNOWN_CODE, UNKNOWN_REASON, Some(UNKNOWN_MESSAGE)),
    };
    let reason = t.reason.as_deref().filter(|r| !r.is_empty()).unwrap_or(reason);
    // A run that never began has a kubelet's zero time.
    let epoch = (reason == "StartError").then_some(Timestamp::UNIX_EPOCH);
    ContainerStateTerminated {
        exit_code,
        reason: Some(reason.to_owned()),
        message: t.message.as_deref().filter(|m| !m.is_empty()).or(message).map(str::to_owned),
        started_at: t.started_at.or(epoch).map(seconds),
        finished_at: t.finished_at.map(seconds),
        container_id: t.container_id.as_deref().or(container_id).map(str::to_owned),
        signal: None,
    }
}
