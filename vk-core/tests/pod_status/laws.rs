//! What holds for every sequence of observations.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};
use vk_core::internals::{Situation, WaitingFor, status_patch};
use vk_core::provider::{
    ContainerState, ExitStatus, ObservedContainer, PodOutcome, PodRuntime, Sandbox, Termination,
};

use crate::cases::{at, look, pod, runtime};
use crate::merge;

/// One look at a pod.
#[derive(Clone, Debug)]
struct Look {
    observed: Option<PodRuntime>,
    situation: Situation,
    deleted: bool,
    /// Somebody else's readiness gate before it.
    gate: Option<bool>,
}

const NAMES: [&str; 5] = ["init", "side", "a", "b", "debug"];

fn spec() -> BoxedStrategy<Value> {
    let policy = prop::sample::select(vec!["Always", "OnFailure", "Never"]);
    (policy, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(policy, init, gated, all, debug)| {
            let mut spec = json!({
                "restartPolicy": policy,
                "containers": [
                    { "name": "b", "image": "i", "resources": { "requests": { "cpu": "1" } } },
                    { "name": "a", "image": "i" }
                ]
            });
            if init {
                spec["initContainers"] = json!([
                    { "name": "side", "image": "i", "restartPolicy": "Always" },
                    { "name": "init", "image": "i" }
                ]);
            }
            if gated {
                spec["readinessGates"] = json!([{ "conditionType": "example.test/gate" }]);
            }
            if all {
                spec["containers"][0]["restartPolicy"] = json!("Never");
                spec["containers"][0]["restartPolicyRules"] = json!([
                    { "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [2] } }
                ]);
            }
            if debug {
                spec["ephemeralContainers"] = json!([{ "name": "debug", "image": "i" }]);
            }
            spec
        })
        .boxed()
}

fn termination() -> BoxedStrategy<Termination> {
    let exit = prop_oneof![(0..3).prop_map(ExitStatus::Code), Just(ExitStatus::Unknown)];
    (exit, prop::option::of(0..20_i64), prop::option::of(0..3))
        .prop_map(|(exit, started, id)| {
            let mut termination = Termination::new(exit);
            termination.started_at = started.map(at);
            termination.finished_at = started.map(|s| at(s + 1));
            termination.container_id = id.map(|id| format!("test://{id}"));
            termination
        })
        .boxed()
}

fn container(name: &'static str) -> BoxedStrategy<ObservedContainer> {
    let reason = prop::sample::select(vec!["", "ContainerCreating", "CrashLoopBackOff", "ErrImagePull"]);
    let state = prop_oneof![
        reason.prop_map(|r| ContainerState::Waiting { reason: r.to_owned(), message: String::new() }),
        (0..20_i64).prop_map(|s| ContainerState::Running { started_at: at(s) }),
        termination().prop_map(ContainerState::Terminated),
    ];
    let flag = || prop::option::of(any::<bool>());
    (state, prop::option::of(termination()), 0..3, flag(), flag(), prop::option::of(0..3))
        .prop_map(move |(state, last, restarts, ready, started, id)| {
            let mut container = ObservedContainer::new(name, state);
            container.last = last;
            container.restart_count = restarts;
            container.ready = ready;
            container.started = started;
            container.container_id = id.map(|id| format!("test://{id}"));
            container
        })
        .boxed()
}

fn observation() -> BoxedStrategy<PodRuntime> {
    let sandbox = prop_oneof![
        2 => Just(Sandbox::Pending),
        8 => Just(Sandbox::Ready),
        1 => Just(Sandbox::Gone)
    ];
    let containers = NAMES.map(|name| prop::option::weighted(0.8, container(name)));
    let ip = prop::option::of(1..3_u8);
    let outcome = prop::option::weighted(0.1, any::<bool>());
    (sandbox, containers, ip, outcome)
        .prop_map(|(sandbox, containers, ip, outcome)| {
            let mut runtime = runtime(sandbox, containers.into_iter().flatten().collect());
            runtime.ips = ip.into_iter().map(|ip| [10, 1, 0, ip].into()).collect();
            runtime.outcome = outcome.map(|disruption| PodOutcome {
                reason: "Evicted".to_owned(),
                message: "out of room".to_owned(),
                disruption,
            });
            runtime
        })
        .boxed()
}

fn situation() -> BoxedStrategy<Situation> {
    let text = |s: &str| s.to_owned();
    prop_oneof![
        16 => Just(Situation::Normal),
        2 => prop::sample::subsequence(NAMES.to_vec(), 1..3).prop_map(move |names| {
            let why = WaitingFor { reason: text("CreateContainerConfigError"), message: text("no such key") };
            Situation::Waiting(names.into_iter().map(|n| (n.to_owned(), why.clone())).collect::<BTreeMap<_, _>>())
        }),
        1 => Just(Situation::Failing { reason: text("ProviderFailed"), message: text("not now") }),
        1 => Just(Situation::Refused { reason: text("OutOfpods"), message: text("never") }),
        1 => Just(Situation::Ended { reason: Some(text("NotFound")), message: None }),
    ].boxed()
}

fn looks() -> BoxedStrategy<Vec<Look>> {
    let look = (
        prop::option::weighted(0.9, observation()),
        situation(),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.2, any::<bool>()),
    );
    let look =
        look.prop_map(|(observed, situation, deleted, gate)| Look { observed, situation, deleted, gate });
    prop::collection::vec(look, 1..8).boxed()
}

fn rank(status: &PodStatus) -> u8 {
    match status.phase.as_deref() {
        Some("Running") => 1,
        Some("Succeeded" | "Failed") => 2,
        _ => 0,
    }
}

/// What another controller writes between two looks.
fn set_gate(status: &mut PodStatus, holds: bool) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != "example.test/gate");
    conditions.push(PodCondition {
        type_: "example.test/gate".to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: Some("Somebody".to_owned()),
        last_transition_time: Some(Time(at(7))),
        ..PodCondition::default()
    });
}

fn foreign(status: &PodStatus) -> Vec<&PodCondition> {
    status.conditions.iter().flatten().filter(|c| c.type_ == "example.test/gate").collect()
}

fn value(status: &PodStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap();
    value.as_object_mut().unwrap().retain(|_, v| v.as_array().is_none_or(|l| !l.is_empty()));
    value
}

/// Whether a patch makes one status of another. The order of conditions alone is not worth a write: another
/// may append one, and it moves when something of ours changes.
fn leads(before: &PodStatus, patch: Option<&Value>, after: &PodStatus) -> bool {
    let (mut have, mut want) = (value(before), value(after));
    if let Some(patch) = patch {
        have = merge::merged(&have, &patch["status"]);
    }
    if patch.is_none_or(|patch| patch["status"].get("conditions").is_none()) {
        for status in [&mut have, &mut want] {
            if let Some(list) = status.get_mut("conditions").and_then(Value::as_array_mut) {
                list.sort_by_key(|c| c["type"].to_string());
            }
        }
    }
    have == want
}

/// Checks one step of a pod's life, and returns the status after it.
fn step(pod: &Pod, look_at: &Look, second: i64) -> Result<PodStatus, TestCaseError> {
    let before = pod.status.clone().unwrap_or_default();
    let after = look(pod, look_at.observed.as_ref(), &look_at.situation, second);

    prop_assert!(rank(&after) >= rank(&before), "the phase went back");
    if rank(&before) == 2 {
        prop_assert_eq!(&after.phase, &before.phase, "a terminal phase changed");
        prop_assert_eq!(&after.reason, &before.reason);
    }
    let proven = matches!(look_at.situation, Situation::Ended { .. } | Situation::Refused { .. })
        || look_at.observed.as_ref().is_some_and(|o| o.sandbox == Sandbox::Gone);
    prop_assert!(
        rank(&before) == 2 || (rank(&after) == 2) == proven,
        "terminal without evidence, or not with it"
    );

    prop_assert_eq!(foreign(&after), foreign(&before), "another's condition changed");
    if before.start_time.is_some() {
        prop_assert_eq!(&after.start_time, &before.start_time);
    }
    prop_assert_eq!(after.pod_ip.as_ref(), after.pod_ips.iter().flatten().next().map(|ip| &ip.ip));
    let mut kinds = BTreeSet::new();
    for condition in after.conditions.iter().flatten() {
        prop_assert!(kinds.insert(&condition.type_), "two conditions {}", condition.type_);
        let old = before.conditions.iter().flatten().find(|c| c.type_ == condition.type_);
        if let Some(old) = old {
            let moved = old.last_transition_time != condition.last_transition_time;
            prop_assert_eq!(
                moved,
                old.status != condition.status,
                "{} moved without a change",
                condition.type_
            );
        }
    }
    if rank(&after) == 2 {
        let open = |kind: &str| {
            let mut all = after.conditions.iter().flatten();
            all.any(|c| c.type_ == kind && c.status == "True")
        };
        prop_assert!(!open("Ready") && !open("ContainersReady"), "ready after its end");
        let running = [&after.init_container_statuses, &after.container_statuses]
            .into_iter()
            .flatten()
            .flatten()
            .any(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()));
        prop_assert!(!running, "a container runs after its pod's end");
    }

    // The patch leads there, and nowhere else; a second look has nothing to add.
    let patch = status_patch("uid", &before, &after);
    prop_assert!(leads(&before, patch.as_ref(), &after), "{before:?}\nwith {patch:?}\nis not {after:?}");
    let again = Pod { status: Some(after.clone()), ..pod.clone() };
    let repeated = look(&again, look_at.observed.as_ref(), &look_at.situation, second + 1);
    prop_assert_eq!(status_patch("uid", &after, &repeated), None, "a second look differs");
    Ok(after)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pods_life_goes_forward_and_others_conditions_survive_it(spec in spec(), looks in looks()) {
        let mut pod = pod(spec);
        pod.status = Some(serde_json::from_value(json!({
            "phase": "Pending",
            "qosClass": "BestEffort",
            "conditions": [{ "type": "PodScheduled", "status": "True", "lastTransitionTime": "2027-01-15T08:00:00Z" }]
        })).unwrap());
        for (second, look) in (10..).step_by(10).zip(&looks) {
            if let Some(holds) = look.gate {
                set_gate(pod.status.as_mut().unwrap(), holds);
            }
            if look.deleted && pod.metadata.deletion_timestamp.is_none() {
                pod.metadata.deletion_timestamp = Some(Time(at(second)));
                pod.metadata.generation = Some(2);
            }
            pod.status = Some(step(&pod, look, second)?);
        }
    }

    #[test]
    fn a_patch_leads_from_any_status_to_any_other(
        specs in [spec(), spec()],
        looks in [looks(), looks()],
        gate in prop::option::of(any::<bool>())
    ) {
        let mut ends = Vec::new();
        for (spec, looks) in specs.into_iter().zip(&looks) {
            let mut pod = pod(spec);
            for (second, l) in (10..).step_by(10).zip(looks) {
                pod.status = Some(look(&pod, l.observed.as_ref(), &l.situation, second));
            }
            let mut status = pod.status.unwrap();
            // A disruption once written is nobody's to take back.
            status.conditions.iter_mut().for_each(|list| list.retain(|c| c.type_ != "DisruptionTarget"));
            if let Some(holds) = gate {
                let own = status.conditions.take();
                set_gate(&mut status, holds);
                status.conditions.as_mut().unwrap().extend(own.into_iter().flatten());
            }
            ends.push(status);
        }
        match status_patch("uid", &ends[0], &ends[1]) {
            Some(patch) => {
                let conditions = patch["status"]["conditions"].as_array().into_iter().flatten();
                prop_assert!(conditions.into_iter().all(|c| c["type"] != "example.test/gate"));
                prop_assert!(leads(&ends[0], Some(&patch), &ends[1]), "{patch}");
            }
            None => prop_assert!(leads(&ends[0], None, &ends[1])),
        }
    }
}
