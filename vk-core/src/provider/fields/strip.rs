//! Pods without what is passed over.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::find::{Finding, Step};
use super::table::{TABLE, Unit};

/// The pod without these fields, and without what is nothing without them: a probe without its handler, a volume
/// without its source and where it is mounted.
///
/// # Errors
/// None in practice: what is left of a pod is a pod.
pub(crate) fn without(pod: &Pod, findings: &[Finding]) -> serde_json::Result<Pod> {
    let mut spec = serde_json::to_value(&pod.spec)?;
    let mut ways: Vec<&[Step]> = Vec::new();
    let mut volumes = BTreeSet::new();
    for finding in findings {
        // The first step is the specification itself.
        let way = &finding.steps[1..];
        ways.push(match TABLE.fields[finding.index].unit {
            Unit::Itself => way,
            Unit::Parent => &way[..way.len().saturating_sub(1)],
            Unit::Volume => {
                let volume = &way[..way.len().min(2)];
                volumes.extend(name(&spec, volume));
                volume
            }
        });
    }
    // The last of a list goes first, so that the others stay where they are.
    ways.sort_unstable_by(|a, b| b.cmp(a));
    ways.dedup();
    for way in ways {
        remove(&mut spec, way);
    }
    if !volumes.is_empty() {
        unmount(&mut spec, &volumes);
    }
    Ok(Pod {
        metadata: pod.metadata.clone(),
        spec: serde_json::from_value(spec)?,
        status: pod.status.clone(),
    })
}

fn name(spec: &Value, way: &[Step]) -> Option<String> {
    let found = way.iter().try_fold(spec, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(index),
    });
    found?.get("name")?.as_str().map(str::to_owned)
}

fn remove(value: &mut Value, way: &[Step]) {
    match (way, value) {
        ([Step::Key(key)], Value::Object(members)) => {
            let key = key.strip_prefix('[').and_then(|key| key.strip_suffix(']')).unwrap_or(key);
            members.remove(key);
        }
        ([Step::Index(index)], Value::Array(elements)) if *index < elements.len() => {
            elements.remove(*index);
        }
        ([Step::Key(key), below @ ..], Value::Object(members)) => {
            if let Some(member) = members.get_mut(key) {
                remove(member, below);
            }
        }
        ([Step::Index(index), below @ ..], Value::Array(elements)) => {
            if let Some(element) = elements.get_mut(*index) {
                remove(element, below);
            }
        }
        _ => {}
    }
}

fn unmount(spec: &mut Value, volumes: &BTreeSet<String>) {
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            for list in ["volumeMounts", "volumeDevices"] {
                if let Some(mounts) = container.get_mut(list).and_then(Value::as_array_mut) {
                    mounts.retain(|mount| {
                        !mount.get("name").and_then(Value::as_str).is_some_and(|name| volumes.contains(name))
                    });
                }
            }
        }
    }
}
