//! A version of a pod in the form in which versions are compared.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use crate::case::Transition;
use crate::names::Names;
use crate::text;

/// A version of a pod: what is compared, by place, without what differs from one run to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Seconds since the pod's creation. Not compared.
    pub at: f64,
    /// What has to be equal for two versions to be the same.
    pub core: BTreeMap<String, Value>,
    /// What is compared in the last version only: nothing of it changes a version's meaning.
    pub details: BTreeMap<String, Value>,
}

/// Fields of a container's status that tell what it does.
const CONTAINER: [&str; 9] =
    ["name", "state", "lastState", "ready", "started", "restartCount", "image", "imageID", "containerID"];

/// The lists of container statuses.
pub(crate) const LISTS: [&str; 3] =
    ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];

/// Numbers each container's runs in the order in which they appear.
#[derive(Debug, Default)]
struct Runs(HashMap<String, Vec<String>>);

impl Runs {
    fn number(&mut self, container: &str, id: &str) -> String {
        let runs = self.0.entry(container.to_owned()).or_default();
        let index = runs.iter().position(|known| known == id).unwrap_or_else(|| {
            runs.push(id.to_owned());
            runs.len() - 1
        });
        format!("<run {}>", index + 1)
    }
}

impl Snapshot {
    /// The versions in their normal form; neighbours that are then the same are one.
    #[must_use]
    pub fn series(transitions: &[Transition]) -> Vec<Self> {
        let mut runs = Runs::default();
        let mut series: Vec<Self> = Vec::new();
        for transition in transitions {
            let mut next = Self::of(transition, &mut runs);
            next.take_for_running();
            next.leave_sandbox_out();
            match series.last_mut() {
                Some(last) if last.core == next.core => last.details = next.details,
                _ => series.push(next),
            }
        }
        series
    }

    fn of(transition: &Transition, runs: &mut Runs) -> Self {
        let (mut core, mut details) = (BTreeMap::new(), BTreeMap::new());
        let mut put = |place: &str, value: Value| {
            if !is_empty(&value) {
                core.insert(place.to_owned(), value);
            }
        };
        put("generation", json!(transition.generation));
        put("deleted", json!((transition.kind == "DELETED").then_some(true)));
        put("grace", json!(transition.deletion_grace_period_seconds));
        put("finalizers", json!(transition.finalizers));
        let empty = Map::new();
        let status = transition.status.as_object().unwrap_or(&empty);
        for (key, value) in status {
            let value = scrub(key, value);
            match key.as_str() {
                "observedGeneration" | "phase" | "reason" | "message" | "startTime" | "hostIP"
                | "hostIPs" | "podIP" | "podIPs" => put(key, value),
                "conditions" => {
                    let conditions = value.as_array().cloned().unwrap_or_default();
                    put("conditions", conditions.iter().map(|each| each["type"].clone()).collect());
                    for condition in conditions {
                        put(&format!("condition {}", text_of(&condition["type"])), prune(condition));
                    }
                }
                list if LISTS.contains(&list) => {
                    let containers = value.as_array().cloned().unwrap_or_default();
                    put(list, containers.iter().map(|each| each["name"].clone()).collect());
                    for container in containers {
                        let name = text_of(&container["name"]);
                        let (mut of_core, mut of_details) = (Map::new(), Map::new());
                        for (field, value) in container.as_object().cloned().unwrap_or_default() {
                            let place = if CONTAINER.contains(&field.as_str()) {
                                &mut of_core
                            } else {
                                &mut of_details
                            };
                            place.insert(field, value);
                        }
                        let mut of_core = Value::Object(of_core);
                        number(&name, &mut of_core, runs);
                        put(&format!("container {name}"), prune(of_core));
                        for (field, value) in of_details {
                            let value = prune(value);
                            if !is_empty(&value) {
                                details.insert(format!("container {name} {field}"), value);
                            }
                        }
                    }
                }
                other => {
                    let value = prune(value);
                    if !is_empty(&value) {
                        details.insert(other.to_owned(), value);
                    }
                }
            }
        }
        Self { at: transition.at, core, details }
    }

    /// While containers could still run, a kubelet keeps the phase that it has written before. So a run that was too short
    /// to be seen ends in `Pending`, and one that was seen in `Running` (`mergePodStatus`): the same, but for luck.
    fn take_for_running(&mut self) {
        let has_run = |container: &Value| {
            container["state"]["terminated"]["startedAt"] == "<time>" && container["restartCount"] == 0
        };
        let apps = self.get("containerStatuses").as_array().cloned().unwrap_or_default();
        let all = apps.iter().all(|name| has_run(self.get(&format!("container {}", text_of(name)))));
        if self.get("phase") == "Pending" && !apps.is_empty() && all {
            self.core.insert("phase".to_owned(), json!("Running"));
        }
    }

    /// When the last container's end is written, the sandbox may be gone already or not: recorded both ways.
    fn leave_sandbox_out(&mut self) {
        let lags =
            matches!(self.get("condition Ready")["reason"].as_str(), Some("PodCompleted" | "PodFailed"));
        if lags && !self.has_ended() {
            self.core.remove("condition PodReadyToStartContainers");
        }
    }

    /// Whether the two are the same version.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.core == other.core
    }

    /// The value at a place.
    #[must_use]
    pub fn get(&self, place: &str) -> &Value {
        self.core.get(place).unwrap_or(&Value::Null)
    }

    /// Whether nothing of the pod can change by itself any more: it is deleted, or its phase is terminal.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.get("deleted") == &json!(true) || self.has_ended()
    }

    /// Whether the phase is terminal.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.get("phase").as_str(), Some("Succeeded" | "Failed"))
    }

    /// The containers: places and values.
    pub(crate) fn containers(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.core
            .iter()
            .filter(|(place, _)| place.starts_with("container "))
            .map(|(place, value)| (place.as_str(), value))
    }

    /// The places at which the two differ, with both values.
    #[must_use]
    pub fn differences<'a>(&'a self, other: &'a Self) -> Vec<(&'a str, &'a Value, &'a Value)> {
        let mut places: Vec<&str> = self.core.keys().chain(other.core.keys()).map(String::as_str).collect();
        places.sort_unstable();
        places.dedup();
        places
            .into_iter()
            .map(|place| (place, self.get(place), other.get(place)))
            .filter(|(_, ours, theirs)| ours != theirs)
            .collect()
    }
}

impl Names {
    /// A version that a watch delivered, as the recorder would have written it.
    #[must_use]
    pub fn transition(&self, at: f64, kind: &str, pod: &Value) -> Transition {
        let meta = &pod["metadata"];
        let finalizers = meta["finalizers"].as_array().into_iter().flatten();
        Transition {
            at,
            by: String::new(),
            kind: kind.to_owned(),
            generation: meta["generation"].as_i64(),
            deletion_timestamp: meta["deletionTimestamp"].as_str().map(str::to_owned),
            deletion_grace_period_seconds: meta["deletionGracePeriodSeconds"].as_i64(),
            finalizers: finalizers.filter_map(Value::as_str).map(str::to_owned).collect(),
            status: self.value(&pod["status"]),
        }
    }
}

/// A value without times and addresses, with its texts in their normal form.
fn scrub(key: &str, value: &Value) -> Value {
    match (key, value) {
        (_, Value::Null) | ("lastTransitionTime" | "lastProbeTime", _) => Value::Null,
        ("startTime" | "startedAt" | "finishedAt", Value::String(time)) => {
            json!(if time == "<epoch>" { "<epoch>" } else { "<time>" })
        }
        ("imageID", Value::String(id)) if !id.is_empty() => json!("<imageID>"),
        // Numbered when its container is known.
        ("containerID", Value::String(_)) => value.clone(),
        // What a cgroup of version 1 reads where there is no limit (README of the recordings).
        (_, Value::String(text)) if text == "<cgroupV1Unlimited>" => Value::Null,
        (_, Value::String(text)) => json!(text::normal(text)),
        (_, Value::Array(items)) => items.iter().map(|item| scrub(key, item)).collect(),
        (_, Value::Object(fields)) => {
            Value::Object(fields.iter().map(|(key, value)| (key.clone(), scrub(key, value))).collect())
        }
        (_, other) => other.clone(),
    }
}

/// Replaces the ids in a container's status by numbers of its runs; the oldest run first.
fn number(name: &str, container: &mut Value, runs: &mut Runs) {
    for place in ["/lastState/terminated/containerID", "/state/terminated/containerID", "/containerID"] {
        if let Some(Value::String(id)) = container.pointer_mut(place)
            && !id.is_empty()
        {
            *id = runs.number(name, id);
        }
    }
}

/// A value without what is empty in it.
fn prune(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(key, value)| (key, prune(value)))
                .filter(|(_, value)| !is_empty(value))
                .collect(),
        ),
        Value::Array(items) => items.into_iter().map(prune).collect(),
        other => other,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transition(status: Value) -> Transition {
        Transition { status, kind: "MODIFIED".to_owned(), generation: Some(1), ..Transition::default() }
    }

    #[test]
    fn times_and_ids_are_not_told_apart_but_runs_are() {
        let status = |id: &str, last: Option<&str>, time: &str| {
            let last = last.map_or(json!({}), |id| json!({"terminated": {"exitCode": 1, "containerID": id}}));
            json!({"phase": "Running", "startTime": time, "containerStatuses": [
                {"name": "a", "state": {"running": {"startedAt": time}}, "lastState": last, "containerID": id,
                 "user": {"linux": {"uid": 0}}}]})
        };
        let recorded = [
            status("<containerID:4>", None, "+1s"),
            status("<containerID:5>", Some("<containerID:4>"), "+3s"),
        ];
        let live = [status("p://one", None, "<time>"), status("p://two", Some("p://one"), "<time>")];
        let series = |statuses: [Value; 2]| Snapshot::series(&statuses.map(transition));
        let (recorded, live) = (series(recorded), series(live));
        assert_eq!(recorded, live);
        assert_eq!(recorded[1].get("container a")["containerID"], "<run 2>");
        assert_eq!(recorded[1].details["container a user"], json!({"linux": {"uid": 0}}));
        // The same run twice is another story.
        let again = Snapshot::series(&[
            transition(status("p://one", None, "<time>")),
            transition(status("p://one", Some("p://one"), "<time>")),
        ]);
        assert_ne!(recorded[1], again[1]);
    }

    #[test]
    fn conditions_are_compared_each_and_in_their_order() {
        let status = |types: [&str; 2]| json!({"conditions": types.map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": "+1s"}))});
        let [one] = &Snapshot::series(&[transition(status(["A", "B"]))])[..] else { panic!("one") };
        let [other] = &Snapshot::series(&[transition(status(["B", "A"]))])[..] else { panic!("one") };
        let places: Vec<&str> = one.differences(other).iter().map(|(place, ..)| *place).collect();
        assert_eq!(places, ["conditions"]);
    }

    #[test]
    fn neighbours_that_are_the_same_are_one() {
        let times = ["+1s", "+2s"].map(|time| transition(json!({"phase": "Pending", "startTime": time})));
        assert_eq!(Snapshot::series(&times).len(), 1);
    }
}
