//! What the real server does to pods: defaults, rules for changes, graceful deletion, binding, eviction.

mod binding;
mod defaults;
mod deletion;
mod eviction;
mod update;
mod validation;

pub(crate) use self::binding::{bind, bind_pod};
pub(crate) use self::defaults::{add_tolerations, admit, set_defaults};
pub(crate) use self::deletion::{Deletion, begin};
pub(crate) use self::eviction::evict;
pub(crate) use self::update::{prepare_ephemeral, prepare_resize, prepare_status, prepare_update};
pub(crate) use self::validation::{DNS_LABEL, is_dns_label, validate};

use serde_json::Value;

/// All containers of a pod's spec with the field that holds them.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| pod["spec"][field].as_array().into_iter().flatten().map(move |c| (field, c)))
}

/// Whether the pod has ended.
pub(crate) fn is_terminal(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Sets a condition of `status.conditions`; the transition time changes only with the status.
pub(crate) fn set_condition(
    object: &mut Value,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: &str,
) {
    let mut condition = serde_json::json!({"type": kind, "status": status});
    for (field, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            condition[field] = text.into();
        }
    }
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = Value::Array(Vec::new());
    }
    let Some(conditions) = object["status"]["conditions"].as_array_mut() else { return };
    if let Some(old) = conditions.iter_mut().find(|c| c["type"] == kind) {
        let same = old["status"] == status;
        condition["lastTransitionTime"] = if same { old["lastTransitionTime"].clone() } else { now.into() };
        for kept in ["observedGeneration", "lastHeartbeatTime"] {
            if !old[kept].is_null() {
                condition[kept] = old[kept].clone();
            }
        }
        *old = condition;
    } else {
        condition["lastTransitionTime"] = now.into();
        conditions.push(condition);
    }
}

/// The status of a condition, empty when there is none.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str()).unwrap_or("")
}
