//! The checks of a new pod that clients meet in practice.
//!
//! Source: pkg/apis/core/validation/validation.go. Not all of it: what is missing here is let in.

use std::collections::HashSet;

use serde_json::Value;

use super::containers;
use crate::error::Cause;
use crate::quantity;

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
    let deadline = &spec["activeDeadlineSeconds"];
    if deadline.as_i64().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        let text = "must be between 1 and 2147483647, inclusive";
        causes.push(Cause::invalid(format!("{path}.activeDeadlineSeconds"), deadline, text));
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
    image(causes, container, at);
    one_of(causes, container, at, "imagePullPolicy", &["Always", "IfNotPresent", "Never"]);
    one_of(causes, container, at, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"]);
    for (i, variable) in container["env"].as_array().into_iter().flatten().enumerate() {
        validate_variable(causes, variable, &format!("{at}.env[{i}]"));
    }
    validate_resources(causes, &container["resources"], &format!("{at}.resources"));
    for (i, mount) in container["volumeMounts"].as_array().into_iter().flatten().enumerate() {
        if !volumes.contains(mount["name"].as_str().unwrap_or("")) {
            causes.push(Cause::not_found(format!("{at}.volumeMounts[{i}].name"), &mount["name"]));
        }
    }
    for (i, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
        let field = format!("{at}.ports[{i}].containerPort");
        let number = port["containerPort"].as_i64().unwrap_or(0);
        if number == 0 {
            causes.push(Cause::required(field, ""));
        } else if !(1..=65_535).contains(&number) {
            causes.push(Cause::invalid(
                field,
                &port["containerPort"],
                "must be between 1 and 65535, inclusive",
            ));
        }
    }
}

/// What is wrong with a container's image.
pub(crate) fn image(causes: &mut Vec<Cause>, container: &Value, at: &str) {
    let text = container["image"].as_str().unwrap_or("");
    if text.is_empty() {
        causes.push(Cause::required(format!("{at}.image"), ""));
    } else if text.trim() != text {
        let detail = "must not have leading or trailing whitespace";
        causes.push(Cause::invalid(format!("{at}.image"), &container["image"], detail));
    }
}

/// Fields a variable may refer to, besides single labels and annotations.
const VARIABLE_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn validate_variable(causes: &mut Vec<Cause>, variable: &Value, at: &str) {
    let name = variable["name"].as_str().unwrap_or("");
    if name.is_empty() {
        causes.push(Cause::required(format!("{at}.name"), ""));
    } else if !name.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        let detail = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        causes.push(Cause::invalid(format!("{at}.name"), &variable["name"], detail));
    }
    let source = &variable["valueFrom"];
    if source.is_object() && !variable["value"].as_str().unwrap_or("").is_empty() {
        let detail = "may not be specified when `value` is not empty";
        causes.push(Cause::invalid(format!("{at}.valueFrom"), &"".into(), detail));
    }
    if let Some(path) = source["fieldRef"]["fieldPath"].as_str() {
        let keyed =
            ["metadata.labels['", "metadata.annotations['"].iter().any(|start| path.starts_with(start));
        if !keyed && !VARIABLE_FIELDS.contains(&path) {
            let field = format!("{at}.valueFrom.fieldRef.fieldPath");
            let detail = format!("error converting fieldPath: field label not supported: {path}");
            causes.push(Cause::invalid(field, &source["fieldRef"]["fieldPath"], &detail));
        }
    }
}

fn validate_resources(causes: &mut Vec<Cause>, resources: &Value, at: &str) {
    for kind in ["limits", "requests"] {
        for (name, amount) in resources[kind].as_object().into_iter().flatten() {
            let field = format!("{at}.{kind}[{name}]");
            let known = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                || name.starts_with("hugepages-");
            if !known && !name.contains('/') {
                let value = Value::from(name.as_str());
                for detail in [
                    "must be a standard resource type or fully qualified",
                    "must be a standard resource for containers",
                ] {
                    causes.push(Cause::invalid(field.clone(), &value, detail));
                }
            }
            if quantity::milli_of(amount).is_some_and(|amount| amount < 0) {
                causes.push(Cause::invalid(field, amount, "must be greater than or equal to 0"));
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name];
        if let (Some(asked), Some(most)) = (quantity::milli_of(request), quantity::milli_of(limit))
            && asked > most
        {
            let limit = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            causes.push(Cause::invalid(format!("{at}.requests"), request, &detail));
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
