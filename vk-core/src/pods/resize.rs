//! Resources of a running pod that are changed in place (KEP-1287): what it was allocated, what it waits for, and how
//! far a change has come.
//!
//! ```text
//!  spec changes ─▶ can it? ── no ──▶ Pending (Infeasible)
//!                     │ yes
//!                  is there room? ── no ──▶ Pending (Deferred), again when something is freed
//!                     │ yes
//!                  allocated, InProgress ──▶ provider ──▶ its containers have it: done
//! ```
//!
//! A pod whose resources never change has none of this. Texts and stages are those of the oracle cases resize-*.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use crate::node::quantity;
use crate::provider::{ContainerState, PodRuntime};

pub(crate) const PENDING: &str = "PodResizePending";
pub(crate) const IN_PROGRESS: &str = "PodResizeInProgress";

/// A change of a pod's resources that is not over.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resize {
    /// What the pod has, or is being given.
    pub(crate) allocation: Allocation,
    /// It is wanted otherwise, and cannot be given that.
    pub(crate) pending: Option<Pending>,
    /// It is being given what is allocated.
    pub(crate) progress: Option<Progress>,
    /// It is to be looked whether what is pending can be given now.
    pub(crate) due: bool,
}

/// Why a change is not begun.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pending {
    /// It never will be, as things are.
    pub(crate) infeasible: bool,
    pub(crate) message: String,
    pub(crate) generation: Option<i64>,
    pub(crate) since: Timestamp,
    pub(crate) looked: Timestamp,
}

/// A change under way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress {
    pub(crate) generation: Option<i64>,
    pub(crate) since: Timestamp,
    /// The provider has taken it. One that does not tell what containers have is believed.
    pub(crate) taken: bool,
}

/// The resources of a pod and of each of its containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Allocation {
    pod: Option<ResourceRequirements>,
    containers: BTreeMap<String, ResourceRequirements>,
}

impl Allocation {
    /// What a specification asks for.
    pub(crate) fn of(spec: &PodSpec) -> Self {
        let containers = all(spec);
        let containers = containers
            .map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default()));
        Self { pod: spec.resources.clone(), containers: containers.collect() }
    }

    /// What a pod's status says that it has, if that is not what its specification asks for: found after a restart.
    pub(crate) fn of_status(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let wanted = Self::of(spec);
        let mut known = wanted.clone();
        let statuses = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        for container in statuses {
            let Some(resources) = known.containers.get_mut(&container.name) else { continue };
            if let Some(requests) = &container.allocated_resources {
                resources.requests = Some(requests.clone());
                if let Some(actual) = &container.resources {
                    resources.limits.clone_from(&actual.limits);
                }
            }
        }
        (!known.equals(&wanted)).then_some(known)
    }

    /// The specification as it is allocated.
    pub(crate) fn apply(&self, spec: &mut PodSpec) {
        spec.resources.clone_from(&self.pod);
        let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
        for container in containers {
            if let Some(resources) = self.containers.get(&container.name) {
                container.resources = Some(resources.clone());
            }
        }
    }

    /// Whether it is what a specification asks for, however that is written.
    pub(crate) fn is_of(&self, spec: &PodSpec) -> bool {
        self.equals(&Self::of(spec))
    }

    fn equals(&self, other: &Self) -> bool {
        let none = ResourceRequirements::default();
        let of_pod = |allocation: &Self| allocation.pod.clone().unwrap_or_default();
        equal(&of_pod(self), &of_pod(other))
            && self
                .containers
                .iter()
                .all(|(name, resources)| equal(resources, other.containers.get(name).unwrap_or(&none)))
    }
}

impl Resize {
    /// A pod that has this and is wanted otherwise.
    pub(crate) fn of(allocation: Allocation) -> Self {
        Self { allocation, pending: None, progress: None, due: true }
    }

    /// Whether every running container has what is allocated.
    pub(crate) fn is_done(&self, runtime: Option<&PodRuntime>) -> bool {
        let Some(progress) = &self.progress else { return false };
        let running = runtime.iter().flat_map(|runtime| &runtime.containers);
        running.filter(|container| matches!(container.state, ContainerState::Running { .. })).all(
            |container| match (&container.resources, self.allocation.containers.get(&container.name)) {
                (Some(actual), Some(allocated)) => equal(actual, allocated),
                _ => progress.taken,
            },
        )
    }

    /// What the pod's status says of it.
    pub(crate) fn conditions(&self) -> Vec<PodCondition> {
        let condition =
            |type_: &str, since: Timestamp, looked: Timestamp, generation: Option<i64>| PodCondition {
                type_: type_.to_owned(),
                status: "True".to_owned(),
                last_transition_time: Some(seconds(since)),
                last_probe_time: Some(seconds(looked)),
                observed_generation: generation,
                ..PodCondition::default()
            };
        let pending = self.pending.as_ref().map(|pending| PodCondition {
            reason: Some(if pending.infeasible { "Infeasible" } else { "Deferred" }.to_owned()),
            message: Some(pending.message.clone()),
            ..condition(PENDING, pending.since, pending.looked, pending.generation)
        });
        let progress = self
            .progress
            .as_ref()
            .map(|progress| condition(IN_PROGRESS, progress.since, progress.since, progress.generation));
        pending.into_iter().chain(progress).collect()
    }
}

/// The message of a kubelet's event about a change of resources: what is wanted, as JSON.
pub(crate) fn summary(what: &str, spec: &PodSpec, generation: Option<i64>, error: &str) -> String {
    #[derive(Serialize)]
    struct Each<'a> {
        name: &'a str,
        resources: ResourceRequirements,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Summary<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_containers: Vec<Each<'a>>,
        containers: Vec<Each<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "str::is_empty")]
        error: &'a str,
    }
    fn each(containers: &[Container]) -> Vec<Each<'_>> {
        let one = |container: &'_ Container| container.resources.clone().unwrap_or_default();
        containers.iter().map(|c| Each { name: &c.name, resources: one(c) }).collect()
    }
    let summary = Summary {
        init_containers: each(spec.init_containers.as_deref().unwrap_or_default()),
        containers: each(&spec.containers),
        generation: generation.unwrap_or_default(),
        error,
    };
    // It is made of maps with text for keys, and so is always JSON.
    format!("Pod resize {what}: {}", serde_json::to_string(&summary).unwrap_or_default())
}

/// Whether both ask for the same amounts.
pub(crate) fn equal(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    let lists = |a: &Option<BTreeMap<String, Quantity>>, b: &Option<BTreeMap<String, Quantity>>| {
        let empty = BTreeMap::new();
        let (a, b) = (a.as_ref().unwrap_or(&empty), b.as_ref().unwrap_or(&empty));
        a.len() == b.len()
            && a.iter().all(|(name, amount)| b.get(name).is_some_and(|other| quantity::equal(amount, other)))
    };
    lists(&a.requests, &b.requests) && lists(&a.limits, &b.limits)
}

fn all(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::provider::{ObservedContainer, Sandbox};

    fn spec(cpu: &str) -> PodSpec {
        serde_json::from_value(json!({"containers": [{"name": "a", "resources": {
            "requests": {"cpu": cpu, "memory": "32Mi"}, "limits": {"memory": "64Mi"}}}]}))
        .unwrap()
    }

    #[test]
    fn an_event_tells_what_is_wanted_as_json() {
        assert_eq!(
            summary("started", &spec("100m"), Some(2), ""),
            "Pod resize started: {\"containers\":[{\"name\":\"a\",\"resources\":{\"limits\":{\"memory\":\"64Mi\"},\
             \"requests\":{\"cpu\":\"100m\",\"memory\":\"32Mi\"}}}],\"generation\":2}"
        );
        assert!(summary("Deferred", &spec("100m"), Some(2), "no room").ends_with("\"error\":\"no room\"}"));
    }

    #[test]
    fn amounts_are_the_same_however_they_are_written() {
        assert!(Allocation::of(&spec("1000m")).is_of(&spec("1")));
        assert!(!Allocation::of(&spec("1000m")).is_of(&spec("2")));
        let mut wanted = spec("2");
        Allocation::of(&spec("1")).apply(&mut wanted);
        assert!(Allocation::of(&spec("1")).is_of(&wanted));
    }

    #[test]
    fn a_change_is_over_when_every_running_container_has_it_or_its_provider_is_to_be_believed() {
        let mut resize = Resize::of(Allocation::of(&spec("200m")));
        let mut container =
            ObservedContainer::new("a", ContainerState::Running { started_at: Timestamp::UNIX_EPOCH });
        let runtime = |container: &ObservedContainer| PodRuntime {
            sandbox: Sandbox::Ready,
            containers: vec![container.clone()],
            ..PodRuntime::default()
        };
        assert!(!resize.is_done(Some(&runtime(&container))), "nothing is under way");
        resize.progress = Some(Progress { generation: Some(2), since: Timestamp::UNIX_EPOCH, taken: false });
        assert!(!resize.is_done(Some(&runtime(&container))));
        container.resources = spec("100m").containers[0].resources.clone().map(Box::new);
        assert!(!resize.is_done(Some(&runtime(&container))));
        container.resources = spec("0.2").containers[0].resources.clone().map(Box::new);
        assert!(resize.is_done(Some(&runtime(&container))));
        container.resources = None;
        resize.progress.as_mut().unwrap().taken = true;
        assert!(resize.is_done(Some(&runtime(&container))));
    }

    #[test]
    fn what_a_status_says_that_is_allocated_is_found_again() {
        let pod = |allocated: &str| -> Pod {
            serde_json::from_value(
                json!({"metadata": {}, "spec": spec("200m"), "status": {"containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                 "allocatedResources": {"cpu": allocated, "memory": "32Mi"},
                 "resources": {"limits": {"memory": "64Mi"}}}]}}),
            )
            .unwrap()
        };
        assert_eq!(Allocation::of_status(&pod("200m")), None);
        let found = Allocation::of_status(&pod("100m")).unwrap();
        assert!(found.is_of(&spec("100m")));
    }
}
