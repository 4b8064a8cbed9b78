//! The shape in which the real server writes objects: Go leaves out empty lists and maps, and writes structures that
//! have no `omitempty` even where they are empty.
//!
//! Source: the JSON tags in k8s.io/api.

use serde_json::{Value, json};

use crate::quantity;

/// Fields that are maps, which are left out when empty. Other empty objects, such as `emptyDir`, say something.
const MAPS: [&str; 12] = [
    "labels",
    "annotations",
    "data",
    "binaryData",
    "stringData",
    "nodeSelector",
    "matchLabels",
    "limits",
    "requests",
    "capacity",
    "allocatable",
    "overhead",
];

/// Fields that are maps of quantities.
const QUANTITIES: [&str; 5] = ["limits", "requests", "capacity", "allocatable", "overhead"];

/// Writes quantities as the real server does; an error where one cannot be read.
pub(crate) fn settle_quantities(value: &mut Value) -> Result<(), String> {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::Object(amounts) if QUANTITIES.contains(&key.as_str()) => {
                        for amount in amounts.values_mut().filter(|amount| amount.is_string()) {
                            *amount = settled(amount)?;
                        }
                    }
                    Value::String(_) if key == "divisor" => *value = settled(value)?,
                    value => settle_quantities(value)?,
                }
            }
        }
        Value::Array(items) => items.iter_mut().try_for_each(settle_quantities)?,
        _ => {}
    }
    Ok(())
}

fn settled(amount: &Value) -> Result<Value, String> {
    let text = amount.as_str().unwrap_or("");
    quantity::canonical(text).map(Value::from).ok_or_else(|| format!("{text:?} is not a quantity"))
}

/// Leaves out nulls, empty lists and empty maps, at every depth.
pub(crate) fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(inner) => !inner.is_empty() || !MAPS.contains(&key.as_str()),
                _ => true,
            });
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Adds what a kind's structures have even where they are empty.
pub(crate) fn complete(kind: &str, object: &mut Value) {
    match kind {
        "Pod" => {
            for field in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
                let statuses = object.get_mut("status").and_then(|status| status.get_mut(field));
                for status in statuses.and_then(Value::as_array_mut).into_iter().flatten() {
                    fill(status, &json!({"state": {}, "lastState": {}}));
                }
            }
        }
        "Node" => {
            if object["spec"]["unschedulable"] == false
                && let Some(spec) = object["spec"].as_object_mut()
            {
                spec.remove("unschedulable");
            }
            fill_node(object);
        }
        "Event" => {
            fill(object, &json!({"source": {}, "reportingComponent": "", "reportingInstance": ""}));
        }
        "Lease" => fill(object, &json!({"spec": {}})),
        "ReplicaSet" | "ReplicationController" => fill(object, &json!({"status": {"replicas": 0}})),
        "StatefulSet" => fill(object, &json!({"status": {"replicas": 0, "availableReplicas": 0}})),
        "DaemonSet" => fill(
            object,
            &json!({"status": {
                "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
            }}),
        ),
        "PodDisruptionBudget" => fill(
            object,
            &json!({"status": {
                "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
            }}),
        ),
        _ => {}
    }
}

fn fill_node(node: &mut Value) {
    let nothing = [
        "machineID",
        "systemUUID",
        "bootID",
        "kernelVersion",
        "osImage",
        "containerRuntimeVersion",
        "kubeletVersion",
        "kubeProxyVersion",
        "operatingSystem",
        "architecture",
    ];
    let info: Value = nothing.into_iter().map(|field| (field, "")).collect();
    let mut status = json!({"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": info});
    if node["status"]["capacity"].is_object() && node["status"]["allocatable"].is_null() {
        // Where nothing is set aside, all of it can be given out.
        status["allocatable"] = node["status"]["capacity"].clone();
    }
    fill(node, &json!({"status": status}));
}

/// Sets what is missing.
fn fill(value: &mut Value, defaults: &Value) {
    let Some(defaults) = defaults.as_object() else { return };
    if value.is_null() {
        *value = json!({});
    }
    let Some(fields) = value.as_object_mut() else { return };
    for (key, default) in defaults {
        let slot = fields.entry(key.clone()).or_insert(Value::Null);
        if slot.is_null() {
            *slot = default.clone();
        } else {
            fill(slot, default);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_goes_unless_it_says_something() {
        let mut pod = json!({
            "metadata": {"labels": {}, "finalizers": []},
            "spec": {"volumes": [{"emptyDir": {}}], "securityContext": {}, "nodeSelector": {}},
        });
        tidy(&mut pod);
        assert_eq!(
            pod,
            json!({"metadata": {}, "spec": {"volumes": [{"emptyDir": {}}], "securityContext": {}}})
        );
    }

    #[test]
    fn what_is_always_written_is_added_beside_what_is_there() {
        let mut node = json!({"status": {"nodeInfo": {"osImage": "x"}}});
        complete("Node", &mut node);
        assert_eq!(node["status"]["nodeInfo"]["osImage"], "x");
        assert_eq!(node["status"]["nodeInfo"]["bootID"], "");
        assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 0);
    }
}
