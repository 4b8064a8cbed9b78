//! The checks of a new pod that clients meet in practice.
//!
//! Source: pkg/apis/core/validation/validation.go. Not all of it: what is missing here is let in.

use std::collections::HashSet;

use serde_json::Value;

use super::containers;
use crate::error::Cause;

/// What is wrong with a new pod's spec; `path` is where it stands (`spec`, or a template's).
pub(crate) fn validate(spec: &Value, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    one_of(&mut causes, spec, path, "restartPolicy", &["Always", "OnFailure", "Never"]);
    one_of(
        &mut causes,
        spec,
        path,
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    volumes(&mut causes, spec, path);
    let volumes: HashSet<&str> =
        spec["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str()).collect();
    let mut seen = HashSet::new();
    let holder = serde_json::json!({"spec": spec});
    let mut index = (0, "");
    for (field, container) in containers(&holder) {
        index = if index.1 == field { (index.0 + 1, field) } else { (0, field) };
        let at = format!("{path}.{field}[{}]", index.0);
        validate_container(&mut causes, container, &at, &volumes);
        let name = container["name"].as_str().unwrap_or("");
        if !name.is_empty() && !seen.insert(name.to_owned()) {
            causes.push(Cause::duplicate(format!("{at}.name"), &container["name"]));
        }
    }
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        let value = &spec["terminationGracePeriodSeconds"];
        let field = format!("{path}.terminationGracePeriodSeconds");
        causes.push(Cause::invalid(field, value, "must be greater than or equal to 0"));
    }
    causes
}

fn validate_container(causes: &mut Vec<Cause>, container: &Value, at: &str, volumes: &HashSet<&str>) {
    let name = container["name"].as_str().unwrap_or("");
    if name.is_empty() {
        causes.push(Cause::required(format!("{at}.name"), ""));
    } else if !is_dns_label(name) {
        causes.push(Cause::invalid(format!("{at}.name"), &container["name"], DNS_LABEL));
    }
    if container["image"].as_str().unwrap_or("").is_empty() {
        causes.push(Cause::required(format!("{at}.image"), ""));
    }
    one_of(causes, container, at, "imagePullPolicy", &["Always", "IfNotPresent", "Never"]);
    for (i, mount) in container["volumeMounts"].as_array().into_iter().flatten().enumerate() {
        if !volumes.contains(mount["name"].as_str().unwrap_or("")) {
            causes.push(Cause::not_found(format!("{at}.volumeMounts[{i}].name"), &mount["name"]));
        }
    }
    for (i, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
        if !port["containerPort"].as_i64().is_some_and(|p| (1..=65_535).contains(&p)) {
            let field = format!("{at}.ports[{i}].containerPort");
            causes.push(Cause::invalid(
                field,
                &port["containerPort"],
                "must be between 1 and 65535, inclusive",
            ));
        }
    }
}

fn volumes(causes: &mut Vec<Cause>, spec: &Value, path: &str) {
    let mut seen = HashSet::new();
    for (i, volume) in spec["volumes"].as_array().into_iter().flatten().enumerate() {
        let at = format!("{path}.volumes[{i}].name");
        match volume["name"].as_str().unwrap_or("") {
            "" => causes.push(Cause::required(at, "")),
            name if !is_dns_label(name) => causes.push(Cause::invalid(at, &volume["name"], DNS_LABEL)),
            name if !seen.insert(name) => causes.push(Cause::duplicate(at, &volume["name"])),
            _ => {}
        }
    }
}

fn one_of(causes: &mut Vec<Cause>, object: &Value, path: &str, field: &str, values: &[&str]) {
    if let Some(value) = object[field].as_str()
        && !values.contains(&value)
    {
        causes.push(Cause::not_supported(format!("{path}.{field}"), &object[field], values));
    }
}

/// The detail of an invalid DNS label.
pub(crate) const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

/// Whether a name is an RFC 1123 label.
pub(crate) fn is_dns_label(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 63
        && ends(name.chars().next())
        && ends(name.chars().last())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_fault_names_its_field() {
        let spec = json!({
            "restartPolicy": "Sometimes",
            "volumes": [{"name": "v"}, {"name": "v"}],
            "containers": [
                {"name": "a", "image": "i", "volumeMounts": [{"name": "w"}]},
                {"name": "a", "ports": [{"containerPort": 0}]},
            ],
        });
        let fields: Vec<String> = validate(&spec, "spec").into_iter().map(|c| c.field).collect();
        assert_eq!(
            fields,
            [
                "spec.restartPolicy",
                "spec.volumes[1].name",
                "spec.containers[0].volumeMounts[0].name",
                "spec.containers[1].image",
                "spec.containers[1].ports[0].containerPort",
                "spec.containers[1].name",
            ]
        );
        assert_eq!(validate(&json!({}), "spec")[0].field, "spec.containers");
    }
}
