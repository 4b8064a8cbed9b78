//! Where our node is not what was recorded, and why that is right. The only place for such.

use crate::case::{Act, Case};
use crate::compare::Difference;

/// A reason why a difference is none of behaviour.
#[derive(Debug)]
pub struct Explanation {
    /// A name, for the command's output.
    pub name: &'static str,
    /// Why, in sentences that someone who knows the kubelet can check.
    pub why: &'static str,
    /// Which differences it covers.
    covers: fn(&Case, &Difference) -> bool,
}

impl Explanation {
    /// Whether it covers a difference.
    #[must_use]
    pub fn covers(&self, case: &Case, difference: &Difference) -> bool {
        (self.covers)(case, difference)
    }
}

/// What a log is called that has the recorded lines in another order.
pub(crate) const REORDERED: &str = "the same lines in another order";

/// What a log is called that lacks nothing but the annotations that a kubelet adds for itself.
pub(crate) const WITHOUT_OWN_ANNOTATIONS: &str = "all but the annotations of the kubelet's own";

/// Whether a container of the case was seen waiting because it could not be configured or created.
fn waits_for_configuration(case: &Case) -> bool {
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let statuses = case.recording.transitions.iter().map(|transition| &transition.status);
    statuses
        .flat_map(|status| lists.iter().flat_map(|list| status[*list].as_array().into_iter().flatten()))
        .any(|container| {
            let reason = container["state"]["waiting"]["reason"].as_str();
            matches!(reason, Some("CreateContainerConfigError" | "CreateContainerError"))
        })
}

/// All there are.
pub static EXPLANATIONS: &[Explanation] = &[
    Explanation {
        name: "resolution-events",
        why: "What a pod refers to and is not there is told once by the names that Go Virtual Kubelet's users know \
              (MandatoryConfigMapNotFound and its kin), beside the kubelet's own Failed or FailedMount.",
        covers: |_, difference| {
            let of_go = |reason: &str| {
                ["Mandatory", "Optional"].iter().any(|prefix| reason.starts_with(prefix))
                    && reason.contains("NotFound")
            };
            difference.recorded == "never told"
                && difference.place.strip_prefix("event Warning ").is_some_and(of_go)
        },
    },
    Explanation {
        name: "one-event-for-each-sync",
        why: "While a pod past its deadline stops, or a container cannot be configured or its image be named, a kubelet tells the same event \
              at every sync of the pod, whatever wakes it: how often is no property of the pod. We tell it when \
              something is done: once for the deadline, and once for each attempt to start the container.",
        covers: |case, difference| {
            let is_count = difference.recorded.ends_with(" times") && difference.ours.ends_with(" times");
            let event = difference.place.strip_prefix("event Normal ").unwrap_or_default();
            is_count
                && (event.starts_with("DeadlineExceeded ")
                    || difference.place.starts_with("event Warning InspectFailed ")
                    || (event.starts_with("Pulled ") && waits_for_configuration(case)))
        },
    },
    Explanation {
        name: "probe-meets-nobody",
        why: "A probe that comes before its container listens, or when it has just closed, is refused and told as \
              Unhealthy. Whether one does is a race; what follows from it for the pod's readiness is compared.",
        covers: |_, difference| {
            let text = if difference.ours == "never told" { &difference.recorded } else { &difference.ours };
            let one_side = difference.ours == "never told" || difference.recorded == "never told";
            one_side
                && difference.place.starts_with("event Warning Unhealthy ")
                && text.ends_with("connect: connection refused")
        },
    },
    Explanation {
        name: "resources-of-an-ended-pod",
        why: "A kubelet reads status.resources back from the pod's cgroup, also while it removes that of a pod that has \
              ended, and writes what it still finds: three different values in one recording. Ours stay as asked for.",
        covers: |case, difference| {
            let end = case.recording.transitions.last();
            let phase = end.and_then(|end| end.status["phase"].as_str()).unwrap_or_default();
            difference.place == "details: resources" && matches!(phase, "Succeeded" | "Failed")
        },
    },
    Explanation {
        name: "remains-of-a-restart-of-all",
        why: "While RestartAllContainers removes a pod's containers, a kubelet's statuses have the ids and the readiness of \
              those that it still finds, and not of those it has removed already. For a moment, and in the order of \
              removal; reason, last state and restart count are compared.",
        covers: |case, difference| {
            const FIELDS: [&str; 3] = ["containerID ", "imageID ", "ready "];
            let statuses = case.recording.transitions.iter().map(|transition| transition.status.to_string());
            let restarts = || statuses.clone().any(|status| status.contains("RestartingAllContainers"));
            let remains = |text: &str| {
                text == "nothing"
                    || text.split(", ").all(|part| FIELDS.iter().any(|field| part.starts_with(field)))
            };
            difference.place.starts_with("version at ")
                && difference.place.contains(": container ")
                && remains(&difference.recorded)
                && remains(&difference.ours)
                && restarts()
        },
    },
    Explanation {
        name: "who-is-first-about-a-taint",
        why: "A pod that comes to a node with a NoExecute taint is marked and deleted by the taint manager and refused by \
              the node at the same moment: which of these writes comes first, and which generation the refusal has seen, \
              is a race between two programs. That it is refused, how, and that it goes is compared.",
        covers: |case, difference| {
            let end = case.recording.transitions.last();
            let is_refused = end.is_some_and(|end| end.status["reason"] == "TaintToleration");
            is_refused
                && (difference.place.starts_with("version ")
                    || difference.place == "last state: observedGeneration")
        },
    },
    Explanation {
        name: "node-comes-back",
        why: "A kubelet whose Node object was deleted waits to be started again by whoever looks after the machine, and \
              PodGC fails its pods meanwhile. Behind a virtual node there is no machine and nobody to restart it: it \
              registers again at once, and its pods, which nothing has happened to, run on.",
        covers: |case, _| {
            case.actions
                .iter()
                .any(|action| matches!(&action.act, Act::Delete(target, _) if target.kind == "Node"))
        },
    },
    Explanation {
        name: "annotations-of-the-kubelet",
        why: "A kubelet's downward API shows two annotations that it adds to pods in its own memory, \
              kubernetes.io/config.seen and kubernetes.io/config.source; no API object has them.",
        covers: |_, difference| difference.ours == WITHOUT_OWN_ANNOTATIONS,
    },
    Explanation {
        name: "go-map-order",
        why: "A kubelet adds the variables of envFrom, and of services, while it walks a Go map, whose order is chosen \
              by chance at every walk. The same lines came in another order.",
        covers: |_, difference| difference.ours == REORDERED,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_explanation_has_a_name_of_its_own_and_says_why() {
        for (index, explanation) in EXPLANATIONS.iter().enumerate() {
            assert!(explanation.why.len() > 40, "{}", explanation.name);
            assert!(EXPLANATIONS[..index].iter().all(|other| other.name != explanation.name));
        }
    }
}
