//! What names, labels, annotations, finalizers and owners may be.
//!
//! Source: apimachinery `pkg/util/validation`, `pkg/api/validation/objectmeta.go`.

use serde_json::{Value, json};

use crate::error::{ApiError, Cause};
use crate::pods::{DNS_LABEL, is_dns_label};
use crate::resources::{self, Resource};

const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// What is wrong with a new object's name.
pub(super) fn check_name(resource: &Resource, name: &str) -> Result<(), ApiError> {
    let label = matches!(resource.plural, "namespaces" | "services");
    let mut problems = Vec::new();
    if label {
        if name.len() > 63 {
            problems.push("must be no more than 63 characters");
        }
        if name.contains('.') {
            problems.push("must not contain dots");
        } else if !is_dns_label(&name.chars().take(63).collect::<String>()) {
            problems.push(DNS_LABEL);
        }
    } else if matches!(resource.plural, "roles" | "rolebindings" | "clusterroles" | "clusterrolebindings") {
        if name == "." || name == ".." || name.contains(['/', '%']) {
            problems.push("may not contain '/' or '%'");
        }
    } else {
        if name.len() > 253 {
            problems.push("must be no more than 253 characters");
        }
        if !name.split('.').all(is_dns_word) {
            problems.push(DNS_SUBDOMAIN);
        }
    }
    let value = Value::from(name);
    let mut causes: Vec<Cause> =
        problems.into_iter().map(|problem| Cause::invalid("metadata.name", &value, problem)).collect();
    if resource.is(resources::namespaces()) && name.len() > 63 {
        // The label that repeats the name.
        causes.push(Cause::invalid("metadata.labels", &value, "must be no more than 63 bytes"));
    }
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(resource, name, &causes)) }
}

/// What is wrong with the rest of an object's metadata.
pub(super) fn check(resource: &Resource, name: &str, metadata: &Value) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        causes.extend(qualified_name("metadata.labels", key));
        causes.extend(label_value("metadata.labels", value));
    }
    for key in metadata["annotations"].as_object().into_iter().flatten().map(|(key, _)| key) {
        causes.extend(qualified_name("metadata.annotations", &key.to_lowercase()));
    }
    for (at, owner) in metadata["ownerReferences"].as_array().into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or("").is_empty() {
                let field = format!("metadata.ownerReferences[{at}].{field}");
                causes.push(Cause::required(field, "must not be empty"));
            }
        }
    }
    for (at, finalizer) in metadata["finalizers"].as_array().into_iter().flatten().enumerate() {
        let text = finalizer.as_str().unwrap_or("");
        let standard = matches!(text, "kubernetes" | "orphan" | "foregroundDeletion");
        if !standard && !text.contains('/') {
            causes.push(Cause::invalid(
                format!("metadata.finalizers[{at}]"),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(resource, name, &causes)) }
}

/// What is wrong with a key such as `example.com/name`.
pub(crate) fn qualified_name(field: &str, key: &str) -> Option<Cause> {
    let name = key.split_once('/').map_or(key, |(_, name)| name);
    let value = json!(key);
    if name.len() > 63 {
        return Some(Cause::invalid(field, &value, "name part must be no more than 63 bytes"));
    }
    (!is_name_part(name)).then(|| Cause::invalid(field, &value, NAME_PART))
}

fn label_value(field: &str, value: &Value) -> Option<Cause> {
    let text = value.as_str().unwrap_or("");
    if text.len() > 63 {
        return Some(Cause::invalid(field, value, "must be no more than 63 bytes"));
    }
    (!text.is_empty() && !is_name_part(text)).then(|| Cause::invalid(field, value, LABEL_VALUE))
}

fn is_name_part(name: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(ends)
        && name.ends_with(ends)
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// A part of a subdomain; unlike a label it may be longer than 63 characters.
fn is_dns_word(word: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    word.starts_with(good) && word.ends_with(good) && word.chars().all(|c| good(c) || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_refused_field_by_field() {
        let metadata = json!({
            "labels": {"bad key": "x", "a": "bad value", "b": "v".repeat(64)}, "annotations": {"bad key": "x"},
            "finalizers": ["kubernetes", "bare"], "ownerReferences": [{"kind": "Pod", "name": "x", "uid": "u"}],
        });
        let error = check(resources::pods(), "p", &metadata).unwrap_err();
        let fields: Vec<&str> =
            error.details["causes"].as_array().unwrap().iter().filter_map(|c| c["field"].as_str()).collect();
        assert_eq!(
            fields,
            [
                "metadata.labels",
                "metadata.labels",
                "metadata.labels",
                "metadata.annotations",
                "metadata.ownerReferences[0].apiVersion",
                "metadata.finalizers[1]",
            ]
        );
        check(resources::pods(), "p", &json!({"labels": {"example.com/a_b.c": ""}})).unwrap();
    }

    #[test]
    fn names_are_subdomains_or_labels_by_kind() {
        assert!(check_name(resources::pods(), "a.b-c").is_ok());
        let message = |resource, name: &str| check_name(resource, name).unwrap_err().message;
        assert!(
            message(resources::pods(), &"n".repeat(254)).ends_with("must be no more than 253 characters")
        );
        assert!(message(resources::namespaces(), "a.b").ends_with("must not contain dots"));
    }
}
