//! From what is known of a pod to its `status`: a pure function.
//!
//! What is written is what a kubelet of Kubernetes 1.37 writes (`pkg/kubelet/kubelet_pods.go`,
//! `pkg/kubelet/status`), checked against recordings of one in `tests/pod_status`. Two things
//! differ on purpose: a phase never goes back, not even while `RestartAllContainers` runs init containers
//! again, and the pod's `resources` are always the ones asked for, because a node without cgroups has no
//! other figures.

mod conditions;
mod containers;
mod ending;
mod phase;
mod qos;
mod quantity;
mod resources;
mod wanted;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, HostIP, Pod, PodIP, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::provider::{ContainerState, PodOutcome, PodRuntime, Sandbox};

use self::conditions::Facts;
use self::containers::{Lists, View};
use self::phase::Phase;

pub(crate) use self::resources::requests;
pub(crate) use self::wanted::{restarts_after, restarts_all_after};

pub(super) use self::conditions::{is_owned as owns_condition, is_shared as shares_condition};

/// Everything a status is made from.
#[derive(Clone, Debug)]
pub struct StatusInput<'a> {
    /// The pod as desired, with the status it has now: foreign conditions, transition times and the start
    /// time are taken over from it.
    pub pod: &'a Pod,
    /// The last observation, if there was any.
    pub observed: Option<&'a PodRuntime>,
    /// What the worker knows beyond that.
    pub situation: &'a Situation,
    /// The node's addresses.
    pub host_ips: &'a [IpAddr],
    /// The time for what changes now.
    pub now: Timestamp,
}

/// What the worker knows of a pod beyond the last observation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Situation {
    /// Nothing: the observation says it all, and without one the pod is being created.
    #[default]
    Normal,
    /// Containers that cannot be started for now, by name, with a kubelet's waiting reason
    /// (`CreateContainerConfigError`, …) and message. Others wait with `ContainerCreating`.
    Waiting(BTreeMap<String, WaitingFor>),
    /// The provider failed to create the pod and is tried again: `Pending` with this reason and message.
    Failing {
        /// `status.reason`, `ProviderFailed`.
        reason: String,
        /// `status.message`.
        message: String,
    },
    /// The pod can never run here: `Failed`, as a kubelet's admission refuses.
    Refused {
        /// `status.reason`.
        reason: String,
        /// `status.message`.
        message: String,
    },
    /// Nothing of the pod runs any more at the backend, on evidence. Containers whose end was not seen
    /// ended as `ContainerStatusUnknown`.
    Ended {
        /// `status.reason`, if the end itself is the reason (`NotFound`).
        reason: Option<String>,
        /// `status.message`.
        message: Option<String>,
    },
}

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingFor {
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// How a kubelet's refusal begins.
const REJECTED: &str = "Pod was rejected: ";

/// The status of a pod: complete, with what others wrote taken over, so that
/// [`status_patch`](super::patch::status_patch) can compare it with the present one.
///
/// The same input gives the same status, and a status fed back as the pod's present one gives itself again
/// (but for `Situation::Failing`, nothing of it is remembered elsewhere). A terminal phase is given only
/// on evidence: [`Sandbox::Gone`], [`Situation::Ended`] or [`Situation::Refused`].
#[must_use]
pub fn pod_status(input: &StatusInput<'_>) -> PodStatus {
    let no_status = PodStatus::default();
    let no_spec = PodSpec::default();
    let current = input.pod.status.as_ref().unwrap_or(&no_status);
    let spec = input.pod.spec.as_ref().unwrap_or(&no_spec);
    let now = seconds(input.now);

    let ended = matches!(input.situation, Situation::Ended { .. });
    let gone = ended || input.observed.is_some_and(|o| o.sandbox == Sandbox::Gone);
    let view = View {
        spec,
        current,
        runtime: input.observed,
        waiting: match input.situation {
            Situation::Waiting(waiting) => Some(waiting),
            _ => None,
        },
        deleted: input.pod.metadata.deletion_timestamp.is_some(),
        gone,
    };

    let held = Phase::of_status(current);
    if held.is_terminal() {
        return settled(&view, held, &now);
    }
    if let Situation::Refused { reason, message } = input.situation {
        return refused(input, current, spec, &now, reason, message);
    }

    let mut lists = Lists::of(&view);
    // The backend's verdict stands above exit codes. It shows in the conditions at once, and in the phase
    // when nothing runs any more.
    let outcome = input.observed.and_then(|o| o.outcome.as_ref());
    let apparent = if outcome.is_some() { Phase::Failed } else { Phase::of(spec, &lists, gone) };
    let phase = match (gone, apparent.is_terminal()) {
        (true, true) => apparent,
        (true, false) => Phase::Failed,
        (false, true) => held,
        (false, false) => apparent.max(held),
    };
    let conditions = conditions::conditions(&Facts {
        view: &view,
        lists: &lists,
        apparent,
        phase,
        disruption: outcome.filter(|o| o.disruption && phase.is_terminal()),
        generation: input.pod.metadata.generation,
        ended,
        now: &now,
    });
    if gone {
        ending::settle(&mut lists, spec);
    }

    let (reason, message) = match (phase, input.situation) {
        (Phase::Failed, situation) => match (outcome, situation) {
            (Some(PodOutcome { reason, message, .. }), _) => (Some(reason), Some(message)),
            (None, Situation::Ended { reason, message }) => (reason.as_ref(), message.as_ref()),
            _ => (None, None),
        },
        (Phase::Pending | Phase::Running, Situation::Failing { reason, message }) => {
            (Some(reason), Some(message))
        }
        _ => (None, None),
    };
    let pod_ips = pod_ips(input, current, spec);
    PodStatus {
        phase: Some(phase.as_str().to_owned()),
        reason: reason.filter(|r| !r.is_empty()).cloned(),
        message: message.filter(|m| !m.is_empty()).cloned(),
        observed_generation: input.pod.metadata.generation,
        start_time: Some(current.start_time.clone().unwrap_or(now)),
        qos_class: Some(qos_class(current, spec)),
        conditions: Some(conditions),
        host_ip: input.host_ips.first().map(IpAddr::to_string).or_else(|| current.host_ip.clone()),
        host_ips: host_ips(input.host_ips).or_else(|| current.host_ips.clone()),
        pod_ip: pod_ips.first().map(|ip| ip.ip.clone()),
        pod_ips: Some(pod_ips).filter(|ips| !ips.is_empty()),
        resources: Some(resources::effective(&actual(spec, input.observed))),
        allocated_resources: requests(spec),
        init_container_statuses: some(lists.init),
        container_statuses: some(lists.main),
        ephemeral_container_statuses: some(lists.ephemeral),
        ..others(current)
    }
}

/// What others write into a pod's status, and a node leaves alone.
fn others(current: &PodStatus) -> PodStatus {
    PodStatus {
        nominated_node_name: current.nominated_node_name.clone(),
        resource_claim_statuses: current.resource_claim_statuses.clone(),
        extended_resource_claim_status: current.extended_resource_claim_status.clone(),
        node_allocatable_resource_claim_statuses: current.node_allocatable_resource_claim_statuses.clone(),
        volume_health: current.volume_health.clone(),
        resize: current.resize.clone(),
        ..PodStatus::default()
    }
}

/// A kubelet's refusal: a reason, and nothing of the pod but what others wrote.
fn refused(
    input: &StatusInput<'_>,
    current: &PodStatus,
    spec: &PodSpec,
    now: &Time,
    reason: &str,
    message: &str,
) -> PodStatus {
    let message =
        if message.starts_with(REJECTED) { message.to_owned() } else { format!("{REJECTED}{message}") };
    let foreign: Vec<_> =
        current.conditions.iter().flatten().filter(|c| !owns_condition(&c.type_)).cloned().collect();
    PodStatus {
        phase: Some(Phase::Failed.as_str().to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        observed_generation: input.pod.metadata.generation,
        start_time: Some(current.start_time.clone().unwrap_or_else(|| now.clone())),
        qos_class: Some(qos_class(current, spec)),
        conditions: some(foreign),
        ..others(current)
    }
}

/// A pod that has ended keeps its status. Only what was still open when the phase was set, by this node or
/// by another (pod garbage collection), is filled in: how its containers ended.
fn settled(view: &View<'_>, held: Phase, now: &Time) -> PodStatus {
    let mut status = view.current.clone();
    ending::close(&mut status, view);
    if let Some(conditions) = &mut status.conditions {
        conditions::close(conditions, held, view.gone, now);
    }
    status
}

/// The specification with the resources that its running containers have.
fn actual<'a>(spec: &'a PodSpec, observed: Option<&PodRuntime>) -> Cow<'a, PodSpec> {
    let mut spec = Cow::Borrowed(spec);
    for container in observed.iter().flat_map(|observed| &observed.containers) {
        let runs = matches!(container.state, ContainerState::Running { .. });
        let Some(resources) = container.resources.as_deref().filter(|_| runs) else { continue };
        let is_it = |wanted: &&mut Container| {
            wanted.name == container.name && wanted.resources.as_ref() != Some(resources)
        };
        let differs = all_of(&spec).any(|wanted| {
            wanted.name == container.name
                && wanted.resources.as_ref().unwrap_or(&ResourceRequirements::default()) != resources
        });
        if differs {
            let spec = spec.to_mut();
            let mut all = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
            if let Some(wanted) = all.find(is_it) {
                wanted.resources = Some(resources.clone());
            }
        }
    }
    spec
}

fn all_of(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

fn qos_class(current: &PodStatus, spec: &PodSpec) -> String {
    current.qos_class.clone().unwrap_or_else(|| qos::class(spec).to_owned())
}

fn host_ips(ips: &[IpAddr]) -> Option<Vec<HostIP>> {
    some(ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect())
}

/// At most one address per family, the node's own family first. Addresses once known stay until others are
/// reported: a torn-down sandbox has none, but its pod's status keeps them.
fn pod_ips(input: &StatusInput<'_>, current: &PodStatus, spec: &PodSpec) -> Vec<PodIP> {
    let on_host = spec.host_network == Some(true);
    let known: &[IpAddr] = match input.observed {
        Some(runtime) if !runtime.ips.is_empty() => &runtime.ips,
        _ if on_host && current.pod_ips.is_none() => input.host_ips,
        _ => &[],
    };
    if known.is_empty() {
        return match (&current.pod_ips, &current.pod_ip) {
            (Some(ips), _) => ips.clone(),
            (None, Some(ip)) => vec![PodIP { ip: ip.clone() }],
            (None, None) => Vec::new(),
        };
    }
    let v6_first = input.host_ips.first().is_some_and(IpAddr::is_ipv6);
    let of = |v6: bool| known.iter().find(move |ip| ip.is_ipv6() == v6);
    [of(v6_first), of(!v6_first)].into_iter().flatten().map(|ip| PodIP { ip: ip.to_string() }).collect()
}

/// The API's times have whole seconds; anything finer would differ from what is read back.
fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|l| !l.is_empty())
}
