//! What a pod as a whole asks for (`k8s.io/component-helpers/resource`, KEP-2837).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity::Amount;

type Resources = BTreeMap<String, Quantity>;
type Side = fn(&ResourceRequirements) -> Option<&Resources>;

/// Requests and limits of the whole pod.
pub(super) fn effective(spec: &PodSpec) -> ResourceRequirements {
    let limits = total(spec, |r| r.limits.as_ref(), true);
    ResourceRequirements {
        claims: spec.resources.as_ref().and_then(|r| r.claims.clone()),
        requests: requests(spec),
        limits: Some(limits).filter(|l| !l.is_empty()),
    }
}

/// Requests of the whole pod, `None` if there are none.
pub(crate) fn requests(spec: &PodSpec) -> Option<Resources> {
    Some(total(spec, |r| r.requests.as_ref(), false)).filter(|r| !r.is_empty())
}

/// What is needed at the pod's most demanding moment: all main containers and sidecars together, or one
/// init container with the sidecars before it; overridden by what is set for the pod as a whole.
fn total(spec: &PodSpec, side: Side, limits: bool) -> Resources {
    let of = |container: &'_ Container| -> Option<Resources> {
        container.resources.as_ref().and_then(side).filter(|r| !r.is_empty()).cloned()
    };
    let mut sum = Resources::new();
    for resources in spec.containers.iter().filter_map(of) {
        add(&mut sum, &resources);
    }
    let mut sidecars = Resources::new();
    let mut peak = Resources::new();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container).unwrap_or_default();
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sum, &moment);
            add(&mut sidecars, &moment);
            moment.clone_from(&sidecars);
        } else {
            add(&mut moment, &sidecars);
        }
        raise(&mut peak, moment);
    }
    raise(&mut sum, peak);
    if let Some(whole) = spec.resources.as_ref().and_then(side) {
        let supported = |name: &str| name == "cpu" || name == "memory" || name.starts_with("hugepages-");
        sum.extend(whole.iter().filter(|(n, _)| supported(n)).map(|(n, q)| (n.clone(), q.clone())));
    }
    if let Some(overhead) = &spec.overhead {
        for (name, extra) in overhead {
            // Overhead makes no limit where there is none.
            if !limits || sum.get(name).and_then(|q| Amount::parse(&q.0)).is_some_and(|a| !a.is_zero()) {
                add_one(&mut sum, name, extra);
            }
        }
    }
    sum
}

fn add(sum: &mut Resources, more: &Resources) {
    for (name, quantity) in more {
        add_one(sum, name, quantity);
    }
}

fn add_one(sum: &mut Resources, name: &str, more: &Quantity) {
    let Some(old) = sum.get_mut(name) else {
        sum.insert(name.to_owned(), more.clone());
        return;
    };
    // The API server has checked every quantity; one that is none after all cannot be added.
    if let Some(total) = Amount::parse(&old.0).zip(Amount::parse(&more.0)).and_then(|(a, b)| a.plus(b)) {
        old.0 = total.to_string();
    }
}

fn raise(floor: &mut Resources, other: Resources) {
    for (name, quantity) in other {
        let more = floor.get(&name).is_none_or(|old| {
            Amount::parse(&old.0).zip(Amount::parse(&quantity.0)).is_some_and(|(a, b)| b.exceeds(a))
        });
        if more {
            floor.insert(name, quantity);
        }
    }
}
