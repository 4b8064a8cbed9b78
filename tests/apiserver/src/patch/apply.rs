//! Server-side apply, as far as owners that apply need it.
//!
//! Ownership is kept in `managedFields` in the real format (`fieldsV1`), but only for managers that apply:
//! other writes neither own fields nor conflict. Lists merge by the strategic-merge keys.
//!
//! Source: KEP-555; sigs.k8s.io/structured-merge-diff.

use serde_json::{Map, Value, json};

use super::strategic::list_key;
use crate::error::ApiError;
use crate::resources::Resource;

/// Who applies, and how.
pub(crate) struct Applier<'a> {
    pub(crate) manager: &'a str,
    pub(crate) subresource: &'a str,
    /// Takes over fields of other managers instead of reporting a conflict.
    pub(crate) force: bool,
    pub(crate) time: &'a str,
}

/// Applies a configuration to the live object (`Value::Null` if there is none yet).
pub(crate) fn apply(
    resource: &Resource,
    live: &Value,
    mut config: Value,
    applier: &Applier<'_>,
) -> Result<Value, ApiError> {
    if let Some(metadata) = config["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
    }
    let mut owned = fields_of(&config, "", "");
    if let Some(fields) = owned.as_object_mut() {
        fields.remove("f:apiVersion");
        fields.remove("f:kind");
        if let Some(metadata) = fields.get_mut("f:metadata").and_then(Value::as_object_mut) {
            metadata.remove("f:name");
            metadata.remove("f:namespace");
            if metadata.is_empty() {
                fields.remove("f:metadata");
            }
        }
    }
    let mut entries = live["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let ours = |entry: &Value| {
        entry["manager"] == applier.manager
            && entry["operation"] == "Apply"
            && entry["subresource"].as_str().unwrap_or("") == applier.subresource
    };
    let before = entries.iter().find(|e| ours(e)).map_or(Value::Null, |e| e["fieldsV1"].clone());
    entries.retain(|e| !ours(e));

    let conflicts = conflicts(&entries, &owned, &config, live);
    if !conflicts.is_empty() && !applier.force {
        return Err(conflict_error(resource, &config, &conflicts));
    }
    for entry in &mut entries {
        disown(&mut entry["fieldsV1"], &owned, &config, live);
    }
    let mut object = if live.is_null() { json!({}) } else { live.clone() };
    let others: Vec<&Value> = entries.iter().map(|e| &e["fieldsV1"]).collect();
    remove_dropped(&mut object, &before, &owned, &others);
    merge(&mut object, &config, "", "");

    let mut entry = json!({
        "manager": applier.manager, "operation": "Apply", "apiVersion": resource.api_version(),
        "time": applier.time, "fieldsType": "FieldsV1", "fieldsV1": owned,
    });
    if !applier.subresource.is_empty() {
        entry["subresource"] = applier.subresource.into();
    }
    if before == entry["fieldsV1"] && !live.is_null() {
        // An unchanged set keeps its time, or equal applies would never be no-ops.
        let was = live["metadata"]["managedFields"].as_array().and_then(|l| l.iter().find(|e| ours(e)));
        entry["time"] = was.map_or(Value::Null, |e| e["time"].clone());
    }
    entries.push(entry);
    object["metadata"]["managedFields"] = entries.into();
    Ok(object)
}

/// The set of fields a configuration names, in `fieldsV1` form.
fn fields_of(value: &Value, parent: &str, field: &str) -> Value {
    let mut set = Map::new();
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                set.insert(format!("f:{key}"), fields_of(value, field, key));
            }
        }
        Value::Array(items) => {
            if let Some(key) = list_key(parent, field) {
                for item in items {
                    let mut inner = fields_of(item, parent, field);
                    inner["."] = json!({});
                    set.insert(item_name(item, key), inner);
                }
            }
        }
        _ => {}
    }
    Value::Object(set)
}

fn item_name(item: &Value, key: &str) -> String {
    format!("k:{}", json!({key: item[key]}))
}

/// Finds the value a step of a set leads to.
fn child<'a>(value: &'a Value, step: &str) -> Option<&'a Value> {
    if let Some(field) = step.strip_prefix("f:") {
        return value.get(field);
    }
    let id: Map<String, Value> = serde_json::from_str(step.strip_prefix("k:")?).ok()?;
    value.as_array()?.iter().find(|item| id.iter().all(|(k, v)| item.get(k) == Some(v)))
}

fn is_leaf(set: &Value) -> bool {
    set.as_object().is_none_or(Map::is_empty)
}

/// Fields of others that the configuration sets to something else: (manager, path).
fn conflicts(entries: &[Value], owned: &Value, config: &Value, live: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in entries.iter().filter(|e| e["operation"] == "Apply") {
        let manager = entry["manager"].as_str().unwrap_or_default();
        collect(&entry["fieldsV1"], owned, config, live, &mut String::new(), &mut |path| {
            found.push((manager.to_owned(), path.to_owned()));
        });
    }
    found
}

fn collect(
    theirs: &Value,
    owned: &Value,
    config: &Value,
    live: &Value,
    path: &mut String,
    report: &mut impl FnMut(&str),
) {
    for (step, inner) in theirs.as_object().into_iter().flatten() {
        let (Some(ours), Some(new)) = (owned.get(step), child(config, step)) else { continue };
        let length = path.len();
        if let Some(field) = step.strip_prefix("f:") {
            path.push('.');
            path.push_str(field);
        } else {
            path.push('[');
            path.push_str(step.trim_start_matches("k:").trim_matches(['{', '}']));
            path.push(']');
        }
        let old = child(live, step).unwrap_or(&Value::Null);
        if is_leaf(inner) && is_leaf(ours) {
            if differs(old, new) {
                report(path);
            }
        } else {
            collect(inner, ours, new, old, path, report);
        }
        path.truncate(length);
    }
}

/// An empty object sets nothing, so it differs from no object.
fn differs(old: &Value, new: &Value) -> bool {
    old != new && !(old.is_object() && new.as_object().is_some_and(Map::is_empty))
}

/// Takes from another manager's set the leaves that this apply changes.
fn disown(theirs: &mut Value, owned: &Value, config: &Value, live: &Value) {
    let Some(set) = theirs.as_object_mut() else { return };
    set.retain(|step, inner| {
        let (Some(ours), Some(new)) = (owned.get(step), child(config, step)) else { return true };
        let old = child(live, step).unwrap_or(&Value::Null);
        if is_leaf(inner) && is_leaf(ours) {
            return !differs(old, new);
        }
        disown(inner, ours, new, old);
        true
    });
}

/// Removes what this manager owned before and no longer names, unless another owns it too.
fn remove_dropped(object: &mut Value, before: &Value, now: &Value, others: &[&Value]) {
    for (step, inner) in before.as_object().into_iter().flatten().filter(|(s, _)| *s != ".") {
        let kept: Vec<&Value> = others.iter().filter_map(|o| o.get(step)).collect();
        match now.get(step) {
            None if kept.is_empty() => remove_child(object, step),
            now => {
                if let Some(inner_object) = child_mut(object, step) {
                    remove_dropped(inner_object, inner, now.unwrap_or(&Value::Null), &kept);
                }
            }
        }
    }
}

fn child_mut<'a>(value: &'a mut Value, step: &str) -> Option<&'a mut Value> {
    if let Some(field) = step.strip_prefix("f:") {
        return value.get_mut(field);
    }
    let id: Map<String, Value> = serde_json::from_str(step.strip_prefix("k:")?).ok()?;
    value.as_array_mut()?.iter_mut().find(|item| id.iter().all(|(k, v)| item.get(k) == Some(v)))
}

fn remove_child(value: &mut Value, step: &str) {
    if let (Some(field), Some(fields)) = (step.strip_prefix("f:"), value.as_object_mut()) {
        fields.remove(field);
    } else if let Some(Ok(id)) = step.strip_prefix("k:").map(serde_json::from_str::<Map<String, Value>>)
        && let Some(items) = value.as_array_mut()
    {
        items.retain(|item| !id.iter().all(|(k, v)| item.get(k) == Some(v)));
    }
}

fn merge(target: &mut Value, config: &Value, parent: &str, field: &str) {
    match (target, config) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (key, change) in changes {
                if change.is_null() {
                    continue;
                }
                merge(fields.entry(key.clone()).or_insert(Value::Null), change, field, key);
            }
        }
        (Value::Array(items), Value::Array(changes)) if list_key(parent, field).is_some() => {
            let key = list_key(parent, field).unwrap_or_default();
            for change in changes {
                match items.iter_mut().find(|item| item.get(key) == change.get(key)) {
                    Some(item) => merge(item, change, parent, field),
                    None => items.push(change.clone()),
                }
            }
        }
        (target, config) => *target = config.clone(),
    }
}

fn conflict_error(resource: &Resource, config: &Value, conflicts: &[(String, String)]) -> ApiError {
    let count = conflicts.len();
    let plural = if count == 1 { "" } else { "s" };
    let mut managers: Vec<&str> = conflicts.iter().map(|(manager, _)| manager.as_str()).collect();
    managers.dedup();
    let texts: Vec<String> = managers
        .into_iter()
        .map(|manager| {
            let of = conflicts.iter().filter(|(of, _)| of == manager).map(|(_, path)| path.as_str());
            match of.collect::<Vec<_>>().as_slice() {
                [path] => format!("conflict with \"{manager}\": {path}"),
                paths => format!("conflicts with \"{manager}\":\n- {}", paths.join("\n- ")),
            }
        })
        .collect();
    let message = format!("Apply failed with {count} conflict{plural}: {}", texts.join("\n"));
    let mut error = ApiError::new(409, "Conflict", message);
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(manager, path)| {
            json!({"reason": "FieldManagerConflict", "field": path,
                   "message": format!("conflict with \"{manager}\"")})
        })
        .collect();
    error.details.insert("causes".to_owned(), causes.into());
    tracing::debug!(resource = resource.plural, name = %config["metadata"]["name"], "apply conflict");
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;

    fn by(manager: &str, force: bool) -> Applier<'_> {
        Applier { manager, subresource: "", force, time: "2026-01-01T00:00:00Z" }
    }

    fn run(live: &Value, config: Value, applier: &Applier<'_>) -> Result<Value, ApiError> {
        apply(resources::pods(), live, config, applier)
    }

    #[test]
    fn a_field_no_longer_applied_is_removed_and_others_fields_stay() {
        let first = json!({"metadata": {"name": "a", "labels": {"x": "1", "y": "2"}},
                           "spec": {"containers": [{"name": "c"}, {"name": "d"}]}});
        let mut live = run(&Value::Null, first, &by("m", false)).unwrap();
        live["metadata"]["labels"]["foreign"] = "kept".into();
        let second = json!({"metadata": {"name": "a", "labels": {"x": "3"}},
                            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let live = run(&live, second.clone(), &by("m", false)).unwrap();
        assert_eq!(live["metadata"]["labels"], json!({"x": "3", "foreign": "kept"}));
        assert_eq!(live["spec"]["containers"], json!([{"name": "c", "image": "i"}]));
        assert_eq!(run(&live, second, &by("m", false)).unwrap(), live);
    }

    #[test]
    fn two_appliers_conflict_until_one_forces() {
        let live = run(&Value::Null, json!({"metadata": {"labels": {"x": "1"}}}), &by("a", false)).unwrap();
        let other = json!({"metadata": {"labels": {"x": "2"}}});
        let error = run(&live, other.clone(), &by("b", false)).unwrap_err();
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"a\": .metadata.labels.x");
        let live = run(&live, other, &by("b", true)).unwrap();
        assert_eq!(live["metadata"]["labels"]["x"], "2");
        let live = run(&live, json!({"metadata": {}}), &by("a", false)).unwrap();
        assert_eq!(live["metadata"]["labels"]["x"], "2", "a no longer owns it");
    }

    #[test]
    fn what_two_own_stays_when_one_leaves() {
        let config = json!({"metadata": {"labels": {"x": "1"}}});
        let live = run(&Value::Null, config.clone(), &by("a", false)).unwrap();
        let live = run(&live, config, &by("b", false)).unwrap();
        let live = run(&live, json!({}), &by("a", false)).unwrap();
        assert_eq!(live["metadata"]["labels"]["x"], "1");
    }
}
