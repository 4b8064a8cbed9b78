//! Assigning a pod to a node.
//!
//! Source: pkg/registry/core/pod/storage/storage.go `BindingREST`.

use serde_json::{Value, json};

use super::set_condition;
use crate::clock::Clock;
use crate::error::{ApiError, Cause};
use crate::resources;
use crate::rest::uid_conflict;
use crate::store::{Key, Object, Store};

/// `pods/NAME/binding`, and the older `bindings`: answers with a success status.
pub(crate) fn bind(store: &Store, clock: &Clock, key: &Key, body: &Value) -> Result<Value, ApiError> {
    let target = &body["target"];
    let kind = target["kind"].as_str().unwrap_or("");
    let node = target["name"].as_str().unwrap_or("");
    let mut causes = Vec::new();
    if !kind.is_empty() && kind != "Node" {
        causes.push(Cause::not_supported("target.kind", &target["kind"], &["Node", "<empty>"]));
    }
    if node.is_empty() {
        causes.push(Cause::required("target.name", ""));
    }
    if let Some(cause) = causes.first() {
        return Err(ApiError::new(500, "", format!("{}: {}", cause.field, cause.message)));
    }
    bind_pod(store, clock, key, node, &body["metadata"])?;
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}

/// Sets the node of a pod that has none; `metadata` may carry a UID to check, and annotations to add.
pub(crate) fn bind_pod(
    store: &Store,
    clock: &Clock,
    key: &Key,
    node: &str,
    metadata: &Value,
) -> Result<std::sync::Arc<Object>, ApiError> {
    let pods = resources::pods();
    let conflict = |text: String| {
        let mut error = ApiError::conflict(pods, &key.name, &text);
        error.message = error.message.replacen("pods ", "pods/binding ", 1);
        error.details.insert("kind".to_owned(), "pods/binding".into());
        error
    };
    store.update(pods, key, |pod| {
        if let Some(uid) = metadata["uid"].as_str().filter(|u| !u.is_empty() && *u != pod.uid()) {
            return Err(uid_conflict(pods, key, uid, pod.uid()));
        }
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return Err(conflict(format!("pod {} is being deleted, cannot be assigned to a host", key.name)));
        }
        if let Some(assigned) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
            return Err(conflict(format!("pod {} is already assigned to node \"{assigned}\"", key.name)));
        }
        if pod["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
            return Err(conflict(format!("pod {} has non-empty .spec.schedulingGates", key.name)));
        }
        let mut pod = Value::clone(pod);
        pod["spec"]["nodeName"] = node.into();
        for (name, value) in metadata["annotations"].as_object().into_iter().flatten() {
            pod["metadata"]["annotations"][name] = value.clone();
        }
        set_condition(&mut pod, "PodScheduled", "True", "", "", &clock.time());
        Ok(Some(pod))
    })
}
