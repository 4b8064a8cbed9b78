//! Which parts of a pod each endpoint may change.
//!
//! Source: pkg/registry/core/pod/strategy.go; pkg/apis/core/validation `ValidatePodUpdate`,
//! `ValidatePodStatusUpdate`, `ValidateContainerStateTransition`.

use serde_json::{Value, json};

use super::validation::image;
use super::{add_tolerations, containers};
use crate::error::{ApiError, Cause};
use crate::resources;

/// The pod itself: images, an earlier deadline, more tolerations, gates that go; nothing else of the spec.
pub(crate) fn prepare_update(old: &Value, new: &mut Value) -> Result<(), ApiError> {
    new["status"] = old["status"].clone();
    if !new["spec"].is_object() {
        new["spec"] = json!({});
    }
    add_tolerations(&mut new["spec"]);
    if old["spec"] == new["spec"] {
        return Ok(());
    }
    let mut causes = Vec::new();
    for field in ["initContainers", "containers"] {
        let (was, is) = (list(&old["spec"][field]), list(&new["spec"][field]));
        if was.len() != is.len() {
            let text = "pod updates may not add or remove containers";
            causes.push(Cause::forbidden(format!("spec.{field}"), text));
        }
        for (at, container) in is.iter().enumerate() {
            image(&mut causes, container, &format!("spec.{field}[{at}]"));
        }
    }
    let (was, is) = (&old["spec"]["activeDeadlineSeconds"], &new["spec"]["activeDeadlineSeconds"]);
    match (was.as_i64(), is.as_i64()) {
        (Some(was), Some(now)) if now > was => {
            let text = "must be less than or equal to previous value";
            causes.push(Cause::invalid("spec.activeDeadlineSeconds", is, text));
        }
        (Some(_), None) => {
            let text = "must not update from a positive integer to nil value";
            causes.push(Cause::invalid("spec.activeDeadlineSeconds", &Value::Null, text));
        }
        _ => {}
    }
    for (at, gate) in list(&new["spec"]["schedulingGates"]).iter().enumerate() {
        if !list(&old["spec"]["schedulingGates"]).contains(gate) {
            let name = gate["name"].as_str().unwrap_or("");
            let text = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            causes.push(Cause::forbidden(format!("spec.schedulingGates[{at}].name"), &text));
        }
    }
    if !is_subset(&old["spec"]["tolerations"], &new["spec"]["tolerations"]) {
        let text = "existing toleration can not be modified except its tolerationSeconds";
        causes.push(Cause::forbidden("spec.tolerations", text));
    }
    if !causes.is_empty() {
        return Err(ApiError::invalid(resources::pods(), name(old), &causes));
    }
    let mut allowed = new["spec"].clone();
    for field in ["containers", "initContainers"] {
        let images = old["spec"][field].as_array().into_iter().flatten().map(|c| &c["image"]);
        for (container, image) in allowed[field].as_array_mut().into_iter().flatten().zip(images) {
            container["image"] = image.clone();
        }
    }
    let additions_only = is_subset(&old["spec"]["tolerations"], &new["spec"]["tolerations"]);
    if additions_only {
        allowed["tolerations"] = old["spec"]["tolerations"].clone();
    }
    for field in ["schedulingGates", "activeDeadlineSeconds", "terminationGracePeriodSeconds"] {
        let (was, is) = (&old["spec"][field], &new["spec"][field]);
        let fine = match field {
            "schedulingGates" => is_subset(is, was),
            "activeDeadlineSeconds" => match (was.as_i64(), is.as_i64()) {
                (Some(was), Some(is)) => is <= was,
                (None, is) => is.is_some(),
                (Some(_), None) => false,
            },
            _ => was.as_i64().is_some_and(|s| s < 0) && is == 1,
        };
        if fine {
            allowed[field] = was.clone();
        }
    }
    if !old["spec"]["schedulingGates"].is_null() {
        // A gated pod's node selector and affinity may still be narrowed.
        for field in ["nodeSelector", "affinity"] {
            allowed[field] = old["spec"][field].clone();
        }
    }
    prune(&mut allowed);
    if allowed == old["spec"] {
        return Ok(());
    }
    let cause = Cause::forbidden(
        "spec",
        "pod updates may not change fields other than `spec.containers[*].image`,\
         `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
         existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
         previously negative)",
    );
    Err(ApiError::invalid(resources::pods(), name(old), &[cause]))
}

/// `status`: also labels and annotations, but not the owners.
pub(crate) fn prepare_status(old: &Value, new: &mut Value) -> Result<(), ApiError> {
    new["spec"] = old["spec"].clone();
    new["metadata"]["ownerReferences"] = old["metadata"]["ownerReferences"].clone();
    let (before, status) = (&old["status"], &mut new["status"]);
    if !status.is_object() {
        *status = json!({});
    }
    if status["qosClass"].as_str().unwrap_or("").is_empty() {
        status["qosClass"] = before["qosClass"].clone();
    }
    keep_observed_generation(before, status);
    settle_ips(status);
    let mut causes = Vec::new();
    if status["observedGeneration"].as_i64().is_some_and(|generation| generation < 0) {
        let text = "must be a non-negative integer";
        causes.push(Cause::invalid("status.observedGeneration", &status["observedGeneration"], text));
    }
    if status["qosClass"] != before["qosClass"] {
        causes.push(Cause::invalid("status.qosClass", &status["qosClass"], "field is immutable"));
    }
    for (statuses, specs) in
        [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")]
    {
        causes.extend(restarts(old, status, statuses, specs));
    }
    check_ips(&mut causes, status);
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(resources::pods(), name(old), &causes)) }
}

/// `ephemeralcontainers`: only additions to that list.
pub(crate) fn prepare_ephemeral(old: &Value, new: &mut Value) -> Result<(), ApiError> {
    let list = new["spec"]["ephemeralContainers"].clone();
    *new = old.clone();
    let kept = old["spec"]["ephemeralContainers"].as_array().map_or(&[][..], Vec::as_slice);
    let given = list.as_array().map_or(&[][..], Vec::as_slice);
    if given.get(..kept.len()) != Some(kept) {
        let gone = kept.iter().find(|container| !given.iter().any(|g| g["name"] == container["name"]));
        let text = match gone {
            Some(gone) => format!("existing ephemeral containers {} may not be removed\n", gone["name"]),
            None => "existing ephemeral containers may not be changed\n".to_owned(),
        };
        let cause = Cause::forbidden("spec.ephemeralContainers", &text);
        return Err(ApiError::invalid(resources::pods(), name(old), &[cause]));
    }
    if !given.is_empty() {
        new["spec"]["ephemeralContainers"] = list;
        super::set_defaults(&mut new["spec"]);
    }
    Ok(())
}

/// `resize`: only the resources and resize policies of containers.
pub(crate) fn prepare_resize(old: &Value, new: &mut Value) -> Result<(), ApiError> {
    let given = std::mem::replace(new, old.clone());
    for field in ["containers", "initContainers"] {
        let given = given["spec"][field].as_array().into_iter().flatten();
        let held = new["spec"].get_mut(field).and_then(Value::as_array_mut);
        for (container, given) in held.into_iter().flatten().zip(given) {
            if container["name"] != given["name"] {
                let cause = Cause::forbidden("spec", "only cpu and memory resources are mutable");
                return Err(ApiError::invalid(resources::pods(), name(old), &[cause]));
            }
            for part in ["resources", "resizePolicy"] {
                container[part] = given[part].clone();
            }
        }
    }
    super::set_defaults(&mut new["spec"]);
    Ok(())
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap_or("")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn is_subset(small: &Value, large: &Value) -> bool {
    let empty = Vec::new();
    let large = large.as_array().unwrap_or(&empty);
    small.as_array().unwrap_or(&empty).iter().all(|item| large.contains(item))
}

fn prune(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, v| !v.is_null());
    }
}

/// A write that leaves `observedGeneration` out keeps it.
fn keep_observed_generation(before: &Value, status: &mut Value) {
    if status["observedGeneration"].as_i64().unwrap_or(0) == 0 {
        status["observedGeneration"] = before["observedGeneration"].clone();
    }
    let old = before["conditions"].as_array().cloned().unwrap_or_default();
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        if condition["observedGeneration"].as_i64().unwrap_or(0) == 0
            && let Some(was) = old.iter().find(|c| c["type"] == condition["type"])
        {
            condition["observedGeneration"] = was["observedGeneration"].clone();
        }
    }
}

/// A container that ended for good may not run again.
fn restarts(old: &Value, status: &Value, statuses: &str, specs: &str) -> Vec<Cause> {
    let policy = old["spec"]["restartPolicy"].as_str().unwrap_or("Always");
    let mut causes = Vec::new();
    for (at, now) in status[statuses].as_array().into_iter().flatten().enumerate() {
        let was = old["status"][statuses].as_array().into_iter().flatten();
        let Some(was) = was.into_iter().find(|s| s["name"] == now["name"]) else { continue };
        let spec = containers(old).find(|(f, c)| *f == specs && c["name"] == now["name"]);
        // A container's own policy or rules decide first, a sidecar restarts always.
        if spec.is_some_and(|(_, c)| !c["restartPolicy"].is_null() || !c["restartPolicyRules"].is_null()) {
            continue;
        }
        let ended = &was["state"]["terminated"];
        let final_end = match policy {
            "Never" => true,
            "OnFailure" => ended["exitCode"].as_i64().unwrap_or(0) == 0,
            _ => false,
        };
        if ended.is_object() && final_end && !now["state"]["terminated"].is_object() {
            let field = format!("status.{statuses}[{at}].state");
            causes.push(Cause::forbidden(field, "may not be transitioned to non-terminated state"));
        }
    }
    causes
}

/// Has the first of several addresses be the single one, which wins where they differ.
fn settle_ips(status: &mut Value) {
    let (single, first) = (status["podIP"].clone(), status["podIPs"][0]["ip"].clone());
    if single.as_str().is_some_and(|ip| !ip.is_empty()) {
        if single != first {
            status["podIPs"] = json!([{"ip": single}]);
        }
    } else if first.is_string() {
        status["podIP"] = first;
    }
}

fn check_ips(causes: &mut Vec<Cause>, status: &Value) {
    for (field, single) in [("podIPs", "podIP"), ("hostIPs", "hostIP")] {
        let mut families = Vec::new();
        for (at, entry) in list(&status[field]).iter().enumerate() {
            match entry["ip"].as_str().unwrap_or("").parse::<std::net::IpAddr>() {
                Ok(ip) => families.push(ip.is_ipv4()),
                Err(_) => causes.push(Cause::invalid(
                    format!("status.{field}[{at}]"),
                    &entry["ip"],
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                )),
            }
        }
        if families.iter().filter(|v4| **v4).count() > 1 || families.iter().filter(|v4| !**v4).count() > 1 {
            let all: Vec<Value> =
                list(&status[field]).iter().map(|entry| json!({"IP": entry["ip"]})).collect();
            let text = "may specify no more than one IP for each IP family";
            causes.push(Cause::invalid(format!("status.{field}"), &all.into(), text));
        }
        let first = &status[field][0]["ip"];
        if first.is_string() && *first != status[single] {
            let text = format!("must be equal to `{single}`");
            causes.push(Cause::invalid(format!("status.{field}[0].ip"), first, &text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "ownerReferences": []},
               "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "i:1"}]},
               "status": {"phase": "Running", "qosClass": "BestEffort"}})
    }

    #[test]
    fn only_images_of_a_running_pod_may_change() {
        let old = pod();
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = "i:2".into();
        prepare_update(&old, &mut new).unwrap();
        new["spec"]["containers"][0]["command"] = json!(["x"]);
        let error = prepare_update(&old, &mut new).unwrap_err();
        assert_eq!((error.code, error.reason), (422, "Invalid"));
    }

    #[test]
    fn a_container_that_ended_for_good_stays_ended() {
        let mut old = pod();
        old["status"]["containerStatuses"] = json!([{"name": "a", "state": {"terminated": {"exitCode": 1}}}]);
        let mut new = old.clone();
        new["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
        let error = prepare_status(&old, &mut new).unwrap_err();
        assert!(error.message.contains("may not be transitioned to non-terminated state"), "{error}");
        old["spec"]["restartPolicy"] = "OnFailure".into();
        prepare_status(&old, &mut new).unwrap();
    }

    #[test]
    fn a_status_write_keeps_spec_and_observed_generation() {
        let mut old = pod();
        old["status"]["observedGeneration"] = 3.into();
        let mut new = old.clone();
        new["spec"] = json!({});
        new["status"] = json!({"phase": "Succeeded"});
        prepare_status(&old, &mut new).unwrap();
        assert_eq!(new["spec"], old["spec"]);
        assert_eq!(new["status"]["observedGeneration"], 3);
        assert_eq!(new["status"]["qosClass"], "BestEffort");
    }
}
