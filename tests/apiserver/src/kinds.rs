//! What the real server does to objects of each kind besides storing them: defaults when they are made,
//! and which parts an update of the object or of its status may change.
//!
//! Source: pkg/registry/*/*/strategy.go and pkg/apis/*/v1/defaults.go of Kubernetes.

use serde_json::{Value, json};

use crate::error::{ApiError, Cause};
use crate::identity::Identity;
use crate::resources::{self, Resource};
use crate::{ApiServer, nodes, pods, shape, validation};

/// Makes a new object what the server stores.
pub(crate) fn prepare_create(
    server: &ApiServer,
    resource: &Resource,
    object: &mut Value,
    caller: &Identity,
) -> Result<(), ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
    if resource.plural == "secrets" {
        merge_string_data(object);
    }
    set_defaults(resource, object);
    if let Some((spec, path)) = pod_spec(resource, object) {
        let causes = pods::validate(spec, path);
        if !causes.is_empty() {
            return Err(ApiError::invalid(resource, &name, &causes));
        }
    }
    let causes = validation::validate(resource, object);
    if !causes.is_empty() {
        return Err(ApiError::invalid(shown_as(resource), &name, &causes));
    }
    match resource.plural {
        "pods" => {
            pods::admit(server.store(), object, &server.random_suffix(), &server.clock().time())?;
        }
        "nodes" => nodes::prepare_create(object),
        "namespaces" => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
        }
        "services" => {
            object["status"] = json!({"loadBalancer": {}});
            assign_cluster_ip(server, object);
        }
        "persistentvolumeclaims" => object["status"] = json!({"phase": "Pending"}),
        "persistentvolumes" => object["status"] = json!({"phase": "Available"}),
        "certificatesigningrequests" => {
            object["status"] = json!({});
            object["spec"]["username"] = caller.user.clone().into();
            object["spec"]["groups"] = caller.groups.clone().into();
        }
        "jobs" => {
            object["status"] = json!({});
            select_job_pods(object);
        }
        _ if resource.has_subresource("status") => object["status"] = json!({}),
        _ => {}
    }
    if resource.generation {
        object["metadata"]["generation"] = 1.into();
    }
    shape::complete(resource.kind, object);
    Ok(())
}

/// The resource by whose name an object is refused: events have one.
fn shown_as(resource: &Resource) -> &Resource {
    if resource.is(resources::events_v1()) { resources::events() } else { resource }
}

/// Limits an update to what its endpoint may change, and counts the generation.
pub(crate) fn prepare_update(
    resource: &Resource,
    subresource: &str,
    old: &Value,
    new: &mut Value,
) -> Result<(), ApiError> {
    match (resource.plural, subresource) {
        ("pods", "") => {
            set_defaults(resource, new);
            pods::prepare_update(old, new)?;
        }
        ("pods", "status") => pods::prepare_status(old, new)?,
        ("pods", "ephemeralcontainers") => pods::prepare_ephemeral(old, new)?,
        ("pods", "resize") => pods::prepare_resize(old, new)?,
        ("certificatesigningrequests", "approval") => {
            let conditions = new["status"]["conditions"].clone();
            *new = old.clone();
            new["status"]["conditions"] = conditions;
        }
        ("certificatesigningrequests", "status") => {
            let certificate = new["status"]["certificate"].clone();
            *new = old.clone();
            new["status"]["certificate"] = certificate;
        }
        ("namespaces", "finalize") => {
            let finalizers = new["spec"]["finalizers"].clone();
            *new = old.clone();
            new["spec"]["finalizers"] = finalizers;
        }
        ("namespaces", "") => {
            new["spec"]["finalizers"] = old["spec"]["finalizers"].clone();
            new["status"] = old["status"].clone();
            new["metadata"]["labels"]["kubernetes.io/metadata.name"] = old["metadata"]["name"].clone();
        }
        // Labels and annotations may come with a status; those of nodes do.
        (kind, "status") => {
            new["spec"] = old["spec"].clone();
            if kind == "deployments" {
                new["metadata"]["labels"] = old["metadata"]["labels"].clone();
            }
        }
        _ => {
            set_defaults(resource, new);
            if resource.has_subresource("status") {
                new["status"] = old["status"].clone();
            }
            check_immutable(resource, old, new)?;
        }
    }
    shape::complete(resource.kind, new);
    if subresource != "status" && resource.generation {
        let annotations_count = resource.is(resources::deployments());
        let changed = old["spec"] != without_nulls(&new["spec"])
            || (annotations_count && old["metadata"]["annotations"] != new["metadata"]["annotations"]);
        if changed {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
            new["metadata"]["generation"] = (generation + 1).into();
        }
    }
    Ok(())
}

/// Drops nulls at every depth: defaulting leaves some behind, and no stored object has any.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, v| !v.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn without_nulls(value: &Value) -> Value {
    let mut copy = value.clone();
    drop_nulls(&mut copy);
    copy
}

/// The pod spec inside an object, and its path.
fn pod_spec<'a>(resource: &Resource, object: &'a Value) -> Option<(&'a Value, &'static str)> {
    Some(match resource.plural {
        "pods" => (&object["spec"], "spec"),
        "deployments" | "replicasets" | "statefulsets" | "daemonsets" | "jobs" | "replicationcontrollers" => {
            (&object["spec"]["template"]["spec"], "spec.template.spec")
        }
        "cronjobs" => (
            &object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
            "spec.jobTemplate.spec.template.spec",
        ),
        _ => return None,
    })
}

fn set_defaults(resource: &Resource, object: &mut Value) {
    fn default(object: &mut Value, field: &str, value: impl Into<Value>) {
        if object[field].is_null() {
            object[field] = value.into();
        }
    }
    match resource.plural {
        "pods" => pods::set_defaults(&mut object["spec"]),
        "replicationcontrollers" | "replicasets" => default(&mut object["spec"], "replicas", 1),
        "deployments" => {
            let spec = &mut object["spec"];
            default(spec, "replicas", 1);
            default(spec, "revisionHistoryLimit", 10);
            default(spec, "progressDeadlineSeconds", 600);
            default(&mut spec["strategy"], "type", "RollingUpdate");
            if spec["strategy"]["type"] == "RollingUpdate" {
                default(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
                default(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
            }
        }
        "statefulsets" => {
            let spec = &mut object["spec"];
            default(spec, "replicas", 1);
            default(spec, "revisionHistoryLimit", 10);
            default(spec, "podManagementPolicy", "OrderedReady");
            default(&mut spec["updateStrategy"], "type", "RollingUpdate");
            if spec["updateStrategy"]["type"] == "RollingUpdate" {
                default(&mut spec["updateStrategy"]["rollingUpdate"], "partition", 0);
                default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
            }
            for event in ["whenDeleted", "whenScaled"] {
                default(&mut spec["persistentVolumeClaimRetentionPolicy"], event, "Retain");
            }
        }
        "daemonsets" => {
            let spec = &mut object["spec"];
            default(spec, "revisionHistoryLimit", 10);
            default(&mut spec["updateStrategy"], "type", "RollingUpdate");
            if spec["updateStrategy"]["type"] == "RollingUpdate" {
                default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
                default(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", 0);
            }
        }
        "cronjobs" => {
            let spec = &mut object["spec"];
            default(spec, "concurrencyPolicy", "Allow");
            default(spec, "successfulJobsHistoryLimit", 3);
            default(spec, "failedJobsHistoryLimit", 1);
            default(&mut spec["jobTemplate"], "metadata", json!({}));
        }
        "jobs" => {
            let spec = &mut object["spec"];
            default(spec, "parallelism", 1);
            default(spec, "completions", 1);
            default(spec, "backoffLimit", 6);
            default(spec, "completionMode", "NonIndexed");
            default(spec, "suspend", false);
            default(spec, "manualSelector", false);
            default(spec, "podReplacementPolicy", "TerminatingOrFailed");
        }
        "services" => {
            let spec = &mut object["spec"];
            default(spec, "type", "ClusterIP");
            default(spec, "sessionAffinity", "None");
            if spec["type"] != "ExternalName" {
                default(spec, "internalTrafficPolicy", "Cluster");
            }
            for port in spec["ports"].as_array_mut().into_iter().flatten() {
                default(port, "protocol", "TCP");
                let number = port["port"].clone();
                default(port, "targetPort", number);
            }
        }
        "secrets" => default(object, "type", "Opaque"),
        _ => {}
    }
    match resource.plural {
        "deployments" | "replicasets" | "statefulsets" | "daemonsets" | "replicationcontrollers" | "jobs" => {
            pods::set_defaults(&mut object["spec"]["template"]["spec"]);
        }
        "cronjobs" => {
            pods::set_defaults(&mut object["spec"]["jobTemplate"]["spec"]["template"]["spec"]);
        }
        _ => {}
    }
    drop_nulls(object);
}

/// Addresses out of 10.96.0.0/12, in turn; the first is the API server's own.
fn assign_cluster_ip(server: &ApiServer, service: &mut Value) {
    let spec = &mut service["spec"];
    if spec["type"] == "ExternalName" {
        return;
    }
    if spec["clusterIP"].as_str().unwrap_or("").is_empty() {
        let number = server.next_service_address();
        spec["clusterIP"] = format!("10.96.{}.{}", (number >> 8) & 255, number & 255).into();
    }
    spec["clusterIPs"] = json!([spec["clusterIP"]]);
    if spec["ipFamilies"].is_null() {
        spec["ipFamilies"] = json!(["IPv4"]);
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
}

fn merge_string_data(secret: &mut Value) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let Some(Value::Object(plain)) = secret.as_object_mut().and_then(|s| s.remove("stringData")) else {
        return;
    };
    for (key, value) in plain {
        secret["data"][key] = STANDARD.encode(value.as_str().unwrap_or("")).into();
    }
}

/// A job selects its pods by its own UID.
fn select_job_pods(job: &mut Value) {
    if job["spec"]["manualSelector"] == true || job["spec"]["selector"].is_object() {
        return;
    }
    let (uid, name) = (job["metadata"]["uid"].clone(), job["metadata"]["name"].clone());
    job["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    let labels = &mut job["spec"]["template"]["metadata"]["labels"];
    labels["controller-uid"] = uid.clone();
    labels["batch.kubernetes.io/controller-uid"] = uid;
    labels["job-name"] = name.clone();
    labels["batch.kubernetes.io/job-name"] = name;
    if job["metadata"]["labels"].is_null() {
        // As a job's, the labels of its pods.
        job["metadata"]["labels"] = job["spec"]["template"]["metadata"]["labels"].clone();
    }
}

fn check_immutable(resource: &Resource, old: &Value, new: &mut Value) -> Result<(), ApiError> {
    let name = old["metadata"]["name"].as_str().unwrap_or("");
    match resource.plural {
        "secrets" => merge_string_data(new),
        "services" if new["spec"]["clusterIP"].is_null() => {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                new["spec"][field] = old["spec"][field].clone();
            }
        }
        _ => {}
    }
    let mut causes = validation::validate(resource, new);
    if resource.plural == "nodes" {
        let (was, is) = (&old["spec"]["providerID"], &new["spec"]["providerID"]);
        if was.is_string() && was != is {
            causes.push(Cause::invalid("spec.providerID", &Value::Null, "field cannot be modified once set"));
        }
    }
    if matches!(resource.plural, "configmaps" | "secrets") && old["immutable"] == true {
        for field in ["data", "binaryData", "immutable"] {
            if old[field] != new[field] {
                causes.push(Cause::forbidden(field, "field is immutable when `immutable` is set"));
            }
        }
    }
    if matches!(resource.plural, "deployments" | "replicasets" | "daemonsets" | "statefulsets")
        && old["spec"]["selector"] != new["spec"]["selector"]
    {
        let detail = "field is immutable";
        causes.push(Cause::invalid("spec.selector", &new["spec"]["selector"], detail));
    }
    if resource.plural == "secrets" && old["type"] != new["type"] {
        causes.push(Cause::invalid("type", &new["type"], "field is immutable"));
    }
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(resource, name, &causes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(resource: &Resource, subresource: &str, old: &Value, mut new: Value) -> Value {
        prepare_update(resource, subresource, old, &mut new).unwrap();
        new
    }

    #[test]
    fn generation_counts_changes_of_spec_and_nothing_else() {
        let deployments = resources::deployments();
        let mut old = json!({
            "metadata": {"generation": 4},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "a"}},
                "template": {
                    "metadata": {"labels": {"app": "a"}},
                    "spec": {"containers": [{"name": "a", "image": "i"}]},
                },
            },
        });
        set_defaults(deployments, &mut old);
        let mut scaled = old.clone();
        scaled["spec"]["replicas"] = 2.into();
        assert_eq!(update(deployments, "", &old, scaled)["metadata"]["generation"], 5);
        let mut labelled = old.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        assert_eq!(update(deployments, "", &old, labelled)["metadata"]["generation"], 4);
        let mut status = old.clone();
        status["spec"]["replicas"] = 7.into();
        status["status"] = json!({"replicas": 1});
        let status = update(deployments, "status", &old, status);
        assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(1), &json!(1)));
        assert_eq!(status["metadata"]["generation"], 4);
    }

    #[test]
    fn labels_of_a_node_may_come_with_its_status() {
        let old = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"taints": []}});
        let new = json!({"metadata": {"labels": {"a": "2"}}, "spec": {}, "status": {"phase": "x"}});
        let new = update(resources::nodes(), "status", &old, new);
        assert_eq!(new["metadata"]["labels"]["a"], "2");
        assert_eq!(new["spec"], json!({"taints": []}));
    }

    #[test]
    fn an_immutable_config_map_stays() {
        let old = json!({"metadata": {"name": "c"}, "data": {"a": "1"}, "immutable": true});
        let mut new = old.clone();
        new["data"]["a"] = "2".into();
        let error = prepare_update(resources::config_maps(), "", &old, &mut new).unwrap_err();
        assert!(error.message.contains("field is immutable when `immutable` is set"));
    }
}
