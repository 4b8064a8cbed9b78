//! From a recorded write back to what a provider would have reported for it, and forward again.

use std::net::{IpAddr, Ipv4Addr};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use vk_core::internals::{Situation, StatusInput, pod_status, status_patch};
use vk_core::provider::{
    ContainerState, ExitStatus, ObservedContainer, PodOutcome, PodRuntime, Sandbox, Termination,
};

use crate::golden::{Case, Step};
use crate::merge;

/// How a write compares.
pub(crate) enum Outcome {
    Equal,
    /// What differs, for people.
    Different(String),
}

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// Replays every write of the kubelet in a case.
pub(crate) fn case(case: &Case) -> Vec<(String, Outcome)> {
    let mut outcomes = Vec::new();
    // The verdict that the pod ends with, if its end is not its containers' doing.
    let verdict = case.steps.iter().rev().find(|s| s.kubelet).and_then(|s| {
        Some(PodOutcome {
            reason: s.status.get("reason")?.as_str()?.to_owned(),
            message: s.status.get("message")?.as_str()?.to_owned(),
            disruption: false,
        })
    });
    for (before, step) in case.steps.iter().zip(&case.steps[1..]) {
        if step.kubelet {
            outcomes.push((step.at.clone(), write(before, step, verdict.as_ref())));
        }
    }
    outcomes
}

fn write(before: &Step, step: &Step, verdict: Option<&PodOutcome>) -> Outcome {
    let now = created() + SignedDuration::from_millis((step.at.parse::<f64>().unwrap() * 1000.0) as i64);
    let current = status(&before.status);
    let wanted = status(&step.status);
    let spec: PodSpec = serde_json::from_value(step.spec.clone()).unwrap();

    let mut pod = Pod { spec: Some(spec), status: Some(current.clone()), ..Pod::default() };
    // Conditions about a change of resources are the caller's: it takes away those that are over.
    let kept = |c: &PodCondition| {
        !c.type_.starts_with("PodResize")
            || wanted.conditions.iter().flatten().any(|other| other.type_ == c.type_)
    };
    if let Some(conditions) = pod.status.as_mut().and_then(|status| status.conditions.as_mut()) {
        conditions.retain(kept);
    }
    pod.metadata.generation = Some(step.generation);
    pod.metadata.deletion_timestamp = step.deleted.then_some(Time(now));

    let (runtime, situation) = report(&wanted, verdict);
    let input =
        StatusInput { pod: &pod, observed: runtime.as_ref(), situation: &situation, host_ips: &[HOST], now };
    let ours = pod_status(&input);
    let again = Pod { status: Some(ours.clone()), ..pod.clone() };
    let repeated = pod_status(&StatusInput { pod: &again, ..input.clone() });

    let (have, want) = (value(&ours), value(&wanted));
    let patched = status_patch("uid", &current, &ours)
        .map_or_else(|| value(&current), |patch| merge::merged(&value(&current), &patch["status"]));
    let mut differences = Vec::new();
    if patched != have {
        differences.push(format!("the patch does not lead there:\n{}", lines(&patched, &have)));
    }
    if let Some(patch) = status_patch("uid", &ours, &repeated) {
        differences.push(format!("a second look differs from the first: {patch}"));
    }
    let (have, want) = (alike(&have, &value(&current), now), alike(&want, &value(&current), now));
    if have != want {
        differences.push(lines(&have, &want));
    }
    if differences.is_empty() { Outcome::Equal } else { Outcome::Different(differences.join("\n")) }
}

/// When recorded pods are created.
fn created() -> Timestamp {
    "2026-11-23T11:00:00Z".parse().unwrap()
}

/// A recorded status with its placeholders filled in.
fn status(recorded: &Value) -> PodStatus {
    let mut recorded = recorded.clone();
    fill(&mut recorded, "");
    serde_json::from_value(recorded).unwrap()
}

fn fill(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(key, v)| fill(v, key)),
        Value::Array(list) => list.iter_mut().for_each(|v| fill(v, key)),
        Value::String(s) => {
            if key.ends_with("Time") || key.ends_with("At") {
                let time = match s.strip_suffix('s').and_then(|s| s.parse::<i64>().ok()) {
                    Some(after) => created() + SignedDuration::from_secs(after),
                    None => Timestamp::UNIX_EPOCH,
                };
                *s = time.to_string();
            } else if s == "<hostIP>" {
                *s = HOST.to_string();
            } else if let Some(n) = s.strip_prefix("<podIP:").and_then(|s| s.strip_suffix('>')) {
                *s = format!("10.244.0.{n}");
            }
        }
        _ => {}
    }
}

/// What a provider would report of a pod of which a kubelet writes this.
fn report(wanted: &PodStatus, verdict: Option<&PodOutcome>) -> (Option<PodRuntime>, Situation) {
    let terminal = matches!(wanted.phase.as_deref(), Some("Succeeded" | "Failed"));
    if let (Some(reason), Some(message)) = (&wanted.reason, &wanted.message)
        && let Some(message) = message.strip_prefix("Pod was rejected: ")
    {
        return (None, Situation::Refused { reason: reason.clone(), message: message.to_owned() });
    }
    let condition = |kind| wanted.conditions.iter().flatten().find(move |c| c.type_ == kind);
    let mut runtime = PodRuntime::default();
    let sandbox = condition("PodReadyToStartContainers");
    runtime.sandbox = match sandbox {
        Some(c) if c.status == "True" && !terminal => Sandbox::Ready,
        _ if terminal => Sandbox::Gone,
        _ => Sandbox::Pending,
    };
    runtime.ips = wanted.pod_ips.iter().flatten().map(|ip| ip.ip.parse().unwrap()).collect();
    let lists =
        [&wanted.init_container_statuses, &wanted.container_statuses, &wanted.ephemeral_container_statuses];
    runtime.containers = lists.into_iter().flatten().flatten().filter_map(observed).collect();
    // The verdict is out once the conditions say so.
    let failed = condition("Ready").is_some_and(|c| c.reason.as_deref() == Some("PodFailed"));
    runtime.outcome = verdict.filter(|_| failed).cloned();
    // Nothing was known yet when the kubelet wrote for the first time.
    let first = sandbox.is_some_and(|c| c.message.as_deref() == Some("no pod sandbox exists"));
    ((!first).then_some(runtime), Situation::Normal)
}

fn observed(status: &ContainerStatus) -> Option<ObservedContainer> {
    let state = status.state.as_ref().unwrap();
    let last = status.last_state.as_ref().and_then(termination);
    let state = if let Some(running) = &state.running {
        ContainerState::Running { started_at: running.started_at.as_ref().unwrap().0 }
    } else if let Some(ended) = termination(state) {
        // The kubelet's own words for a container of which nothing is there.
        if ended.reason.as_deref() == Some("ContainerStatusUnknown") && status.container_id.is_none() {
            return None;
        }
        ContainerState::Terminated(ended)
    } else {
        let waiting = state.waiting.clone().unwrap_or_default();
        let reason = waiting.reason.unwrap_or_default();
        let untouched = matches!(reason.as_str(), "ContainerCreating" | "PodInitializing");
        if untouched && last.is_none() && status.container_id.is_none() {
            return None;
        }
        ContainerState::Waiting { reason, message: waiting.message.unwrap_or_default() }
    };
    let running = matches!(state, ContainerState::Running { .. });
    let mut observed = ObservedContainer::new(&status.name, state);
    observed.last = last;
    observed.restart_count = status.restart_count;
    observed.ready = running.then_some(status.ready);
    observed.started = status.started.filter(|_| running);
    observed.image = Some(status.image.clone());
    observed.image_id = Some(status.image_id.clone()).filter(|id| !id.is_empty());
    observed.container_id.clone_from(&status.container_id);
    Some(observed)
}

fn termination(state: &ApiState) -> Option<Termination> {
    let ended = state.terminated.as_ref()?;
    let mut termination = Termination::new(ExitStatus::Code(ended.exit_code));
    termination.reason.clone_from(&ended.reason);
    termination.message.clone_from(&ended.message);
    termination.started_at = ended.started_at.as_ref().map(|t| t.0);
    termination.finished_at = ended.finished_at.as_ref().map(|t| t.0);
    termination.container_id.clone_from(&ended.container_id);
    Some(termination)
}

fn value(status: &PodStatus) -> Value {
    serde_json::to_value(status).unwrap()
}

/// A status with the times that may differ by the second in which they were written made alike: those
/// that this write sets anew.
fn alike(status: &Value, current: &Value, now: Timestamp) -> Value {
    let mut status = status.clone();
    let new = |time: &mut Value| {
        let set: Timestamp = time.as_str().unwrap().parse().unwrap();
        if (set.as_second() - now.as_second()).abs() <= 2 {
            *time = json!("now");
        }
    };
    if current.get("startTime").is_none()
        && let Some(time) = status.get_mut("startTime")
    {
        new(time);
    }
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let before = current["conditions"]
            .as_array()
            .and_then(|list| list.iter().find(|c| c["type"] == condition["type"]));
        if before.is_none_or(|before| before["status"] != condition["status"])
            && let Some(time) = condition.get_mut("lastTransitionTime")
        {
            new(time);
        }
    }
    status
}

/// Where two values differ, one line each.
fn lines(have: &Value, want: &Value) -> String {
    let mut text = Vec::new();
    walk(have, want, "", &mut text);
    text.join("\n")
}

fn walk(have: &Value, want: &Value, path: &str, text: &mut Vec<String>) {
    match (have, want) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                walk(&have[key], &want[key], &format!("{path}.{key}"), text);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                walk(a, b, &format!("{path}[{i}]"), text);
            }
        }
        _ if have != want => text.push(format!("  {path}: have {have}, want {want}")),
        _ => {}
    }
}
