//! Pods to run.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// A pod specification for a virtual node: tolerates its taint, mounts nothing.
#[must_use]
pub fn pod_spec() -> Value {
    json!({
        "automountServiceAccountToken": false,
        "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
        "containers": [{"name": "a", "image": "registry.example/app:1"}],
    })
}

/// A pod bound to a node.
///
/// # Panics
/// Never: the literal is a pod.
#[must_use]
pub fn pod(name: &str, node: &str) -> Pod {
    annotated(name, node, &[])
}

/// A pod bound to a node, scripted by the mock's annotations (without their prefix).
///
/// # Panics
/// Never: the literal is a pod.
#[must_use]
pub fn annotated(name: &str, node: &str, script: &[(&str, &str)]) -> Pod {
    let mut spec = pod_spec();
    spec["nodeName"] = json!(node);
    let annotations: serde_json::Map<String, Value> =
        script.iter().map(|(key, value)| (format!("{}{key}", vk_mock::PREFIX), json!(value))).collect();
    let object = json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec});
    serde_json::from_value(object).expect("a pod")
}

/// A pod bound to a node with another restart policy.
#[must_use]
pub fn with_restart_policy(mut pod: Pod, policy: &str) -> Pod {
    if let Some(spec) = &mut pod.spec {
        spec.restart_policy = Some(policy.to_owned());
    }
    pod
}
