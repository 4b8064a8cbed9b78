//! Reading the recordings of a kubelet.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::golden::{Case, Step};

/// What a status depends on in a pod's spec, and in a container's.
const POD_FIELDS: [&str; 8] = [
    "restartPolicy",
    "hostNetwork",
    "readinessGates",
    "resources",
    "overhead",
    "initContainers",
    "containers",
    "ephemeralContainers",
];
const CONTAINER_FIELDS: [&str; 6] =
    ["name", "image", "resources", "volumeMounts", "restartPolicy", "restartPolicyRules"];

pub(crate) fn read(dir: &Path) -> Vec<Case> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}: no recordings", dir.display());
    files
        .iter()
        .map(|file| {
            let text = std::fs::read_to_string(file).unwrap();
            let recording: Value =
                serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            case(&recording)
        })
        .collect()
}

fn case(recording: &Value) -> Case {
    let mut spec = match recording.pointer("/pod/spec") {
        Some(spec) => spec.clone(),
        // A controller made the pod, from its template.
        None => recording["objects"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|o| o.pointer("/spec/template/spec"))
            .unwrap_or_else(|| panic!("{}: neither a pod nor a template", recording["name"]))
            .clone(),
    };
    let mut patches = recording["actions"].as_array().into_iter().flatten().filter(|action| {
        action["kind"] == "Pod" && action["code"] == 200 && action.pointer("/patch/spec").is_some()
    });
    let mut steps: Vec<Step> = Vec::new();
    for version in recording["transitions"].as_array().unwrap() {
        if version["type"] == "DELETED" {
            continue;
        }
        let generation = version["generation"].as_i64().unwrap_or(1);
        let deleted = version.get("deletionTimestamp").is_some();
        let mut status = version["status"].clone();
        tidy(&mut status);
        if let Some(before) = steps.last() {
            // Every change of the spec and every deletion counts the generation up by one.
            let changes = generation - before.generation - i64::from(deleted && !before.deleted);
            for _ in 0..changes {
                if let Some(patch) = patches.next() {
                    amend(&mut spec, &patch["patch"]["spec"]);
                }
            }
            // Nothing of what is compared has changed.
            if before.status == status && before.generation == generation && before.deleted == deleted {
                continue;
            }
        }
        let kubelet = is_kubelets(version["by"].as_str().unwrap_or("-"), steps.last(), &status);
        steps.push(Step {
            kubelet,
            at: version["at"].to_string(),
            generation,
            deleted,
            spec: relevant(&spec),
            status,
        });
    }
    let text = |field: &str| recording[field].as_str().unwrap_or_default().to_owned();
    Case { name: text("name"), area: text("area"), what: text("what"), steps }
}

/// Leaves out what is the recording host's, or what no provider knows: the user that a process got, an
/// absence written out, and the pod's resources as read from its cgroup.
fn tidy(status: &mut Value) {
    if let Some(limits) = status.pointer_mut("/resources/limits").and_then(Value::as_object_mut) {
        limits.retain(|_, limit| limit != "<cgroupV1Unlimited>");
    }
    if let Some(resources) = status.get_mut("resources").and_then(Value::as_object_mut) {
        resources.retain(|_, list| list.as_object().is_none_or(|list| !list.is_empty()));
    }
    prune(status);
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("user");
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(prune);
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

/// Whether a version was written by the kubelet and by nobody else. Where the field managers do not tell
/// (`-`), it was if more than others' conditions changed in a status that the kubelet had written before.
fn is_kubelets(by: &str, before: Option<&Step>, status: &Value) -> bool {
    if by != "-" {
        return by == "kubelet (status)";
    }
    let own = |status: &Value| {
        let mut status = status.clone();
        if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.retain(|c| c["type"] != "DisruptionTarget");
        }
        status
    };
    before.is_some_and(|before| before.kubelet && own(&before.status) != own(status))
}

/// Applies a patch of a spec: objects field by field, lists of named things by name.
fn amend(spec: &mut Value, patch: &Value) {
    match (spec, patch) {
        (Value::Object(spec), Value::Object(patch)) => {
            for (key, new) in patch {
                if new.is_null() {
                    spec.remove(key);
                } else {
                    amend(spec.entry(key).or_insert(Value::Null), new);
                }
            }
        }
        (Value::Array(list), Value::Array(changes)) if changes.iter().all(|c| c.get("name").is_some()) => {
            for change in changes {
                let at = list.iter().position(|item| item["name"] == change["name"]);
                match (at, change.get("$patch").is_some()) {
                    (Some(at), true) => drop(list.remove(at)),
                    (Some(at), false) => amend(&mut list[at], change),
                    (None, _) => list.push(change.clone()),
                }
            }
        }
        (spec, patch) => spec.clone_from(patch),
    }
}

/// The part of a spec that a status depends on, with the API server's defaults in it.
fn relevant(spec: &Value) -> Value {
    let mut pod = pick(spec, &POD_FIELDS);
    let mounts_token = spec["automountServiceAccountToken"] != false;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mut reduced = Value::Object(pick(container, &CONTAINER_FIELDS));
            default_requests(&mut reduced);
            if mounts_token && list != "ephemeralContainers" {
                let mount = json!({
                    "name": "<kube-api-access>",
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                    "readOnly": true
                });
                match reduced.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                    Some(mounts) => mounts.push(mount),
                    None => reduced["volumeMounts"] = json!([mount]),
                }
            }
            *container = reduced;
        }
    }
    let mut pod = Value::Object(pod);
    default_requests(&mut pod);
    pod
}

fn pick(object: &Value, fields: &[&str]) -> Map<String, Value> {
    let fields = fields.iter().filter_map(|f| Some(((*f).to_owned(), object.get(f)?.clone())));
    fields.collect()
}

/// A request that is not set is the limit.
fn default_requests(holder: &mut Value) {
    let Some(limits) = holder.pointer("/resources/limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let requests = &mut holder["resources"]["requests"];
    if requests.is_null() {
        *requests = json!({});
    }
    for (name, limit) in limits {
        if requests.get(&name).is_none() {
            requests[&name] = limit;
        }
    }
}
