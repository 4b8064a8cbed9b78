//! The quality-of-service class, for a pod to which the API server has not given one
//! (`pkg/apis/core/v1/helper/qos`).

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

use super::quantity::Amount;

const COUNTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`. Ephemeral containers do not count.
pub(super) fn class(spec: &PodSpec) -> &'static str {
    let containers = || {
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        all.map(|c| c.resources.as_ref())
    };
    let asks = |r: &&ResourceRequirements| {
        COUNTED.iter().any(|name| {
            let set = |a: Option<Amount>| a.is_some_and(|a| !a.is_zero());
            set(request(r, name)) || set(limit(r, name))
        })
    };
    if let Some(whole) = spec.resources.as_ref().filter(asks) {
        return if is_fixed(Some(whole)) { "Guaranteed" } else { "Burstable" };
    }
    if !containers().flatten().any(|r| asks(&r)) {
        "BestEffort"
    } else if containers().all(is_fixed) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Whether CPU and memory are limited, and to what is requested.
fn is_fixed(resources: Option<&ResourceRequirements>) -> bool {
    resources.is_some_and(|r| {
        COUNTED.iter().all(|name| {
            limit(r, name).filter(|l| !l.is_zero()).is_some_and(|limit| {
                // A request that is not set defaults to the limit.
                request(r, name).is_none_or(|request| request.equals(limit))
            })
        })
    })
}

fn request(resources: &ResourceRequirements, name: &str) -> Option<Amount> {
    Amount::parse(&resources.requests.as_ref()?.get(name)?.0)
}

fn limit(resources: &ResourceRequirements, name: &str) -> Option<Amount> {
    Amount::parse(&resources.limits.as_ref()?.get(name)?.0)
}
