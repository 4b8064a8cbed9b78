//! Whether a pod may run on this node, as a kubelet decides it: a pure function of the pod, the node and what the
//! pods before it have taken (`pkg/kubelet/lifecycle`, `pkg/kubelet/sysctl`, `pkg/kubelet/allocation`).
//!
//! The scheduler has asked the same questions before it bound the pod, with what it knew; a pod that names its node
//! itself was never asked. A pod that is refused ends as `Failed` and nothing of it is ever created.
//!
//! ```text
//!  pod ─▶ check ─┬─▶ Place in the Ledger, held until nothing of the pod runs any more
//!                └─▶ Refusal: event, status
//! ```

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint, Toleration};

pub(crate) use self::ledger::{Demand, Ledger, Place, Taken};

use self::ledger::{Resource, amounts};
use crate::node::{NodeResources, operating_system};
use crate::provider::NodeInfo;

mod affinity;
mod ledger;
mod sysctls;

/// What is looked at of the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    name: String,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    operating_system: String,
    app_armor: bool,
    allocatable: BTreeMap<Resource, i64>,
}

/// Why a pod cannot run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `status.reason`, and the event's.
    pub(crate) reason: String,
    /// The event's message; the status has it after `Pod was rejected: `.
    pub(crate) message: String,
    /// What of the node it rests on.
    pub(crate) rests_on: Ground,
}

/// What a refusal rests on: whether it is worth a second look at the node, because what is known of it is as old as
/// the last time it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// The pod and what nobody changes.
    Pod,
    /// What the provider has.
    Capacity,
    /// The Node object's labels.
    Labels,
}

impl Host {
    /// Labels that the node is to have: they count where its object does not say otherwise (yet).
    pub(crate) fn fill_in(&mut self, labels: BTreeMap<String, String>) {
        for (key, value) in labels {
            self.labels.entry(key).or_insert(value);
        }
    }

    /// The node by its object, which others mark too, and by what its provider has. An amount that only the object
    /// knows (an extended resource that somebody else manages) counts as well.
    pub(crate) fn new(node: &Node, info: &NodeInfo, allocatable: &NodeResources) -> Self {
        let written = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        let mut all = amounts(written.into_iter().flatten());
        all.extend(amounts(allocatable));
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            operating_system: operating_system(info).to_owned(),
            app_armor: info.app_armor,
            allocatable: all,
        }
    }
}

/// Whether the pod is let in beside what is taken already.
///
/// # Errors
/// The first reason why not, in the kubelet's order.
pub(crate) fn check(pod: &Pod, demand: &Demand, host: &Host, taken: &Taken) -> Result<(), Refusal> {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    sysctls::check(spec, &host.operating_system)?;
    operating_systems(pod, spec, host)?;
    if let Some(refusal) = predicates(spec, demand, host, taken).into_iter().next() {
        return Err(refusal);
    }
    app_armor(pod, spec, host)
}

fn operating_systems(pod: &Pod, spec: &PodSpec, host: &Host) -> Result<(), Refusal> {
    // The pod's label, as the kubelet reads it, and not its selector.
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    if label.is_some_and(|label| *label != host.operating_system) {
        return Err(Refusal::new(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
            Ground::Pod,
        ));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != host.operating_system) {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(Refusal::new("PodOSNotSupported", message, Ground::Pod));
    }
    Ok(())
}

/// What the scheduler asks too. All that fails, the first being what is told.
fn predicates(spec: &PodSpec, demand: &Demand, host: &Host, taken: &Taken) -> Vec<Refusal> {
    let mut failed = resources(demand, host, taken);
    // A critical pod is not turned away for want of room: whoever marked it so wants it before all others.
    if is_critical(spec) {
        failed.clear();
    }
    if !affinity::matches(spec, &host.name, &host.labels) {
        let why = "node(s) didn't match Pod's node affinity/selector";
        failed.push(Refusal::predicate("NodeAffinity", why, Ground::Labels));
    }
    if taken.has_port_of(demand) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        failed.push(Refusal::predicate("NodePorts", why, Ground::Pod));
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let untolerated = |taint: &&Taint| {
        taint.effect == "NoExecute" && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    if host.taints.iter().any(|taint| untolerated(&taint)) {
        let why = "node(s) had taints that the pod didn't tolerate";
        failed.push(Refusal::predicate("TaintToleration", why, Ground::Pod));
    }
    failed
}

fn resources(demand: &Demand, host: &Host, taken: &Taken) -> Vec<Refusal> {
    let mut short = Vec::new();
    let capacity = |resource: &Resource| host.allocatable.get(resource).copied().unwrap_or_default();
    let pods = capacity(&Resource::Pods);
    if taken.pods() >= pods {
        short.push(Refusal::out_of(&Resource::Pods, 1, taken.pods(), pods));
    }
    for (resource, requested) in demand.amounts() {
        // An extended resource that the node does not know is somebody else's to hand out (dynamic resources, or one
        // of the cluster).
        if *requested <= 0 || (resource.is_extended() && !host.allocatable.contains_key(resource)) {
            continue;
        }
        let (used, capacity) = (taken.amount(resource), capacity(resource));
        if *requested > capacity.saturating_sub(used) {
            short.push(Refusal::out_of(resource, *requested, used, capacity));
        }
    }
    short
}

/// `system-cluster-critical` and above.
fn is_critical(spec: &PodSpec) -> bool {
    spec.priority.is_some_and(|priority| priority >= 2_000_000_000)
}

/// Whether a toleration covers a taint. The operators that compare numbers are behind a gate that is closed by
/// default.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => text(&toleration.value) == text(&taint.value),
        Some("Exists") => true,
        Some(_) => false,
    }
}

/// A profile that nobody would enforce.
fn app_armor(pod: &Pod, spec: &PodSpec, host: &Host) -> Result<(), Refusal> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    if host.app_armor {
        return Ok(());
    }
    let of_pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_containers = containers
        .map(|container| container.security_context.as_ref())
        .chain(
            spec.ephemeral_containers.iter().flatten().map(|container| container.security_context.as_ref()),
        )
        .filter_map(|context| context?.app_armor_profile.as_ref());
    let mut profiles = of_pod.into_iter().chain(of_containers);
    let annotations = pod.metadata.annotations.iter().flatten();
    let mut annotated =
        annotations.filter(|(key, value)| key.starts_with(ANNOTATION) && *value != "unconfined");
    if profiles.any(|profile| profile.type_ != "Unconfined") || annotated.next().is_some() {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return Err(Refusal::new("AppArmor", message, Ground::Pod));
    }
    Ok(())
}

impl Refusal {
    fn new(reason: impl Into<String>, message: impl Into<String>, rests_on: Ground) -> Self {
        Self { reason: reason.into(), message: message.into(), rests_on }
    }

    fn predicate(name: &str, why: &str, rests_on: Ground) -> Self {
        Self::new(name, format!("Predicate {name} failed: {why}"), rests_on)
    }

    fn out_of(resource: &Resource, requested: i64, used: i64, capacity: i64) -> Self {
        let message = format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Self::new(format!("OutOf{resource}"), message, Ground::Capacity)
    }
}

#[cfg(test)]
mod tests;
