//! The checks of kinds other than pods that clients meet in practice.
//!
//! Source: pkg/apis/*/validation of Kubernetes. Not all of it: what is missing here is let in.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::error::Cause;
use crate::resources::Resource;
use crate::rest::qualified_name;
use crate::selector::Selector;

/// Largest sum of the values of a config map or secret, in bytes.
const DATA_LIMIT: usize = 1024 * 1024;

/// What is wrong with a new or changed object.
pub(crate) fn validate(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    match resource.plural {
        "configmaps" => config_map(&mut causes, object),
        "secrets" => secret(&mut causes, object),
        "nodes" => taints(&mut causes, &object["spec"]["taints"]),
        "leases" => {
            let spec = &object["spec"];
            if spec["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
                let value = &spec["leaseDurationSeconds"];
                causes.push(Cause::invalid("spec.leaseDurationSeconds", value, "must be greater than 0"));
            }
            not_negative(&mut causes, spec, "spec", "leaseTransitions");
        }
        "deployments" | "replicasets" | "statefulsets" | "daemonsets" => workload(&mut causes, object),
        "events" => event(&mut causes, resource, object),
        "jobs" => job(&mut causes, object),
        "services" => service(&mut causes, &object["spec"]),
        _ => {}
    }
    causes
}

fn config_map(causes: &mut Vec<Cause>, object: &Value) {
    let mut size = 0;
    for (key, value) in entries(object, "data") {
        if object["binaryData"].get(key).is_some() {
            let detail = "duplicate of key present in binaryData";
            causes.push(Cause::invalid(format!("data[{key}]"), &json!(key), detail));
        }
        config_key(causes, "data", key);
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(object, "binaryData") {
        config_key(causes, "binaryData", key);
        size += decoded_length(value);
    }
    if size > DATA_LIMIT {
        causes.push(Cause::too_long("[]", DATA_LIMIT));
    }
}

fn secret(causes: &mut Vec<Cause>, object: &Value) {
    let mut size = 0;
    for (key, value) in entries(object, "data") {
        config_key(causes, "data", key);
        size += decoded_length(value);
    }
    if size > DATA_LIMIT {
        causes.push(Cause::too_long("data", DATA_LIMIT));
    }
    let has = |key: &str| object["data"].get(key).is_some();
    let required: &[&str] = match object["type"].as_str().unwrap_or("") {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        // One of the two will do.
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => &["username", "password"],
        _ => &[],
    };
    for key in required.iter().filter(|key| !has(key)) {
        causes.push(Cause::required(format!("data[{key}]"), ""));
    }
}

fn entries<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object[field].as_object().into_iter().flatten()
}

/// How many bytes a base64 text stands for.
fn decoded_length(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4)
}

fn config_key(causes: &mut Vec<Cause>, field: &str, key: &str) {
    const ALPHABET: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    let mut refuse = |detail: &str| {
        causes.push(Cause::invalid(format!("{field}[{key}]"), &json!(key), detail));
    };
    if key.len() > 253 {
        refuse("must be no more than 253 characters");
    }
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        refuse(ALPHABET);
    }
    match key {
        "." => refuse("must not be '.'"),
        ".." => refuse("must not be '..'"),
        _ if key.starts_with("..") => refuse("must not start with '..'"),
        _ => {}
    }
}

fn taints(causes: &mut Vec<Cause>, taints: &Value) {
    let mut seen = HashSet::new();
    for (at, taint) in taints.as_array().into_iter().flatten().enumerate() {
        let place = format!("metadata.taints[{at}]");
        let (key, effect) = (taint["key"].as_str().unwrap_or(""), taint["effect"].as_str().unwrap_or(""));
        causes.extend(qualified_name(&format!("{place}.key"), key));
        if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            let supported = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            causes.push(Cause::not_supported(format!("{place}.effect"), &taint["effect"], &supported));
        }
        if !seen.insert((key, effect)) {
            let value = taint["value"].as_str().unwrap_or("");
            let mut cause = Cause::duplicate(place, &Value::Null);
            // Go's fields, in Go's order.
            cause.message = format!(
                "Duplicate value: {{\"Key\":{key:?},\"Value\":{value:?},\"Effect\":{effect:?},\"TimeAdded\":null}}: \
                 taints must be unique by key and effect pair"
            );
            causes.push(cause);
        }
    }
}

fn not_negative(causes: &mut Vec<Cause>, object: &Value, path: &str, field: &str) {
    if object[field].as_i64().is_some_and(|number| number < 0) {
        let text = "must be greater than or equal to 0";
        causes.push(Cause::invalid(format!("{path}.{field}"), &object[field], text));
    }
}

fn workload(causes: &mut Vec<Cause>, object: &Value) {
    let spec = &object["spec"];
    let labels = &spec["template"]["metadata"]["labels"];
    not_negative(causes, spec, "spec", "replicas");
    if spec["selector"].as_object().is_none_or(serde_json::Map::is_empty) {
        causes.push(Cause::required("spec.selector", ""));
    }
    let selector = Selector::of_workload(&spec["selector"]).filter(|selector| !selector.is_empty());
    if !selector.is_some_and(|selector| selector.matches_labels(labels)) {
        let detail = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", labels, detail));
    }
    let policy = &spec["template"]["spec"]["restartPolicy"];
    if policy.is_string() && policy != "Always" {
        causes.push(Cause::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
}

fn event(causes: &mut Vec<Cause>, resource: &Resource, object: &Value) {
    let about = &object["involvedObject"]["namespace"];
    let (about_text, own) =
        (about.as_str().unwrap_or(""), object["metadata"]["namespace"].as_str().unwrap_or(""));
    // Events about what has no namespace are in the default one.
    if about_text != own && !(about_text.is_empty() && own == "default") {
        let value = json!(about_text);
        causes.push(Cause::invalid("involvedObject.namespace", &value, "does not match event.namespace"));
    }
    if resource.group.is_empty() {
        return;
    }
    for field in ["eventTime", "action", "reason"] {
        if object[field].as_str().unwrap_or("").is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    if object["reportingComponent"].as_str().unwrap_or("").is_empty() {
        causes.push(Cause::required("reportingController", ""));
    }
    if object["reportingInstance"].as_str().unwrap_or("").is_empty() {
        causes.push(Cause::required("reportingInstance", ""));
    }
}

fn job(causes: &mut Vec<Cause>, object: &Value) {
    let spec = &object["spec"];
    not_negative(causes, spec, "spec", "parallelism");
    not_negative(causes, spec, "spec", "completions");
    if spec["template"]["spec"]["restartPolicy"] == "Always" {
        let text = "valid values: \"OnFailure\", \"Never\"";
        causes.push(Cause::required("spec.template.spec.restartPolicy", text));
    }
}

fn service(causes: &mut Vec<Cause>, spec: &Value) {
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !kinds.iter().any(|kind| spec["type"] == *kind) {
        causes.push(Cause::not_supported("spec.type", &spec["type"], &kinds));
    }
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    if ports.is_empty() && spec["clusterIP"] != "None" && spec["type"] != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (at, port) in ports.iter().enumerate() {
        if ports.len() > 1 && port["name"].as_str().unwrap_or("").is_empty() {
            causes.push(Cause::required(format!("spec.ports[{at}].name"), ""));
        }
        for field in ["port", "targetPort"] {
            if port[field].as_i64().is_some_and(|number| !(1..=65_535).contains(&number)) {
                let text = "must be between 1 and 65535, inclusive";
                causes.push(Cause::invalid(format!("spec.ports[{at}].{field}"), &port[field], text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;

    fn fields(resource: &Resource, object: &Value) -> Vec<String> {
        validate(resource, object).into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn each_fault_names_its_field() {
        let map = json!({"data": {"bad key": "x", "..": "x", "a": "x"}, "binaryData": {"a": "AA=="}});
        assert_eq!(fields(resources::config_maps(), &map), ["data[..]", "data[a]", "data[bad key]"]);
        let secret = json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "AA=="}});
        assert_eq!(fields(resources::secrets(), &secret), ["data[tls.key]"]);
        let node = json!({"spec": {"taints": [
            {"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b c", "effect": "X"},
        ]}});
        assert_eq!(
            fields(resources::nodes(), &node),
            ["metadata.taints[1]", "metadata.taints[2].key", "metadata.taints[2].effect"]
        );
        let deployment = json!({"spec": {
            "replicas": -1, "selector": {"matchLabels": {"a": "b"}},
            "template": {"spec": {"restartPolicy": "Never"}},
        }});
        assert_eq!(
            fields(resources::deployments(), &deployment),
            ["spec.replicas", "spec.template.metadata.labels", "spec.template.spec.restartPolicy"]
        );
    }

    #[test]
    fn data_has_a_limit() {
        let map = json!({"data": {"a": "x".repeat(DATA_LIMIT)}});
        assert!(fields(resources::config_maps(), &map).is_empty());
        let map = json!({"data": {"a": "x".repeat(DATA_LIMIT), "b": "x"}});
        assert_eq!(fields(resources::config_maps(), &map), ["[]"]);
    }
}
