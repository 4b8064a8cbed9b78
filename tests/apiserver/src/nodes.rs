//! Node rules: the taint of a new node, and what node-lifecycle does as heartbeats come and stop.
//!
//! Source: plugin/pkg/admission/nodetaint; pkg/controller/nodelifecycle.

use serde_json::{Value, json};

/// Taint of nodes that are not ready.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of nodes whose heartbeats stopped.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// A node starts tainted, until it is ready.
pub(crate) fn prepare_create(node: &mut Value) {
    set_taint(node, NOT_READY, "NoSchedule", None);
}

/// Adds a taint unless the node has it; `since` is its `timeAdded`.
pub(crate) fn set_taint(node: &mut Value, key: &str, effect: &str, since: Option<&str>) {
    let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if taints.iter().any(|t| t["key"] == key && t["effect"] == effect) {
        return;
    }
    let mut taint = json!({"key": key, "effect": effect});
    if let Some(since) = since {
        taint["timeAdded"] = since.into();
    }
    taints.push(taint);
    node["spec"]["taints"] = taints.into();
}

/// Removes a taint by key and effect.
pub(crate) fn clear_taint(node: &mut Value, key: &str, effect: &str) {
    let Some(taints) = node["spec"].get_mut("taints").and_then(Value::as_array_mut) else { return };
    taints.retain(|t| t["key"] != key || t["effect"] != effect);
    if taints.is_empty()
        && let Some(spec) = node["spec"].as_object_mut()
    {
        spec.remove("taints");
    }
}

/// Whether a list of tolerations tolerates a taint.
pub(crate) fn tolerates(tolerations: &Value, taint: &Value) -> bool {
    tolerations.as_array().into_iter().flatten().any(|t| is_tolerated_by(taint, t))
}

/// Whether one toleration fits a taint.
pub(crate) fn is_tolerated_by(taint: &Value, toleration: &Value) -> bool {
    let text = |of: &Value, field: &str| of[field].as_str().unwrap_or("").to_owned();
    let (key, effect) = (text(toleration, "key"), text(toleration, "effect"));
    let exists = toleration["operator"] == "Exists";
    (effect.is_empty() || effect == text(taint, "effect"))
        && (key == text(taint, "key") || (key.is_empty() && exists))
        && (exists || text(toleration, "value") == text(taint, "value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_set_once_and_cleared() {
        let mut node = json!({"spec": {}});
        prepare_create(&mut node);
        prepare_create(&mut node);
        assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
        clear_taint(&mut node, NOT_READY, "NoSchedule");
        assert_eq!(node["spec"], json!({}));
    }

    #[test]
    fn tolerations_fit_by_key_value_and_effect() {
        let taint = json!({"key": "virtual-kubelet.io/provider", "value": "mock", "effect": "NoSchedule"});
        for yes in [
            json!({"key": "virtual-kubelet.io/provider", "operator": "Exists"}),
            json!({"operator": "Exists"}),
            json!({"key": "virtual-kubelet.io/provider", "value": "mock", "effect": "NoSchedule"}),
        ] {
            assert!(tolerates(&json!([yes]), &taint), "{yes}");
        }
        for no in [
            json!({"key": "virtual-kubelet.io/provider", "value": "aci"}),
            json!({"key": "other", "operator": "Exists"}),
            json!({"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoExecute"}),
            json!({}),
        ] {
            assert!(!tolerates(&json!([no]), &taint), "{no}");
        }
    }
}
