//! Pods to run, and what controllers make pods from.

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
    let object = json!({"metadata": {"name": name, "annotations": annotations(script)}, "spec": spec});
    serde_json::from_value(object).expect("a pod")
}

/// The mock's annotations for a script.
fn annotations(script: &[(&str, &str)]) -> Value {
    script.iter().map(|(key, value)| (format!("{}{key}", vk_mock::PREFIX), json!(value))).collect()
}

/// A pod bound to a node with another restart policy.
#[must_use]
pub fn with_restart_policy(mut pod: Pod, policy: &str) -> Pod {
    if let Some(spec) = &mut pod.spec {
        spec.restart_policy = Some(policy.to_owned());
    }
    pod
}

/// A template for a controller's pods, labelled `app: APP`, for one node alone, scripted by the mock's annotations
/// (without their prefix).
#[must_use]
pub fn template(app: &str, node: &str, script: &[(&str, &str)]) -> Value {
    let mut spec = pod_spec();
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    json!({"metadata": {"labels": {"app": app}, "annotations": annotations(script)}, "spec": spec})
}

/// A Deployment of pods for one node alone.
#[must_use]
pub fn deployment(name: &str, node: &str, replicas: u32, script: &[(&str, &str)]) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": template(name, node, script),
    }})
}

/// A Job of pods for one node alone that are not restarted in place.
#[must_use]
pub fn job(name: &str, node: &str, script: &[(&str, &str)]) -> Value {
    let mut template = template(name, node, script);
    template["spec"]["restartPolicy"] = json!("Never");
    json!({"metadata": {"name": name}, "spec": {"template": template}})
}
