//! Strategic merge patch: lists of objects merge by key, and directives say what else to do.
//!
//! Source: apimachinery `pkg/util/strategicpatch`; the keys are the `patchMergeKey` tags of the API types.

use serde_json::{Map, Value};

/// Merges `patch` into `target`.
pub(crate) fn patch(target: &mut Value, patch_value: &Value) -> Result<(), String> {
    merge_value(target, patch_value, "", "")
}

/// The key by which a list of objects merges, `None` where the list is replaced as a whole.
/// `parent` is the field that holds `field`.
pub(crate) fn list_key(parent: &str, field: &str) -> Option<&'static str> {
    Some(match (parent, field) {
        (_, "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "env")
        | ("spec" | "", "imagePullSecrets" | "secrets")
        | ("spec", "schedulingGates" | "resourceClaims")
        | ("status", "resourceClaimStatuses") => "name",
        ("spec", "hostAliases") | ("status", "podIPs") => "ip",
        ("spec", "topologySpreadConstraints") => "topologyKey",
        (_, "volumeMounts") => "mountPath",
        (_, "volumeDevices") => "devicePath",
        ("containers" | "initContainers" | "ephemeralContainers", "ports") => "containerPort",
        ("spec", "ports") => "port",
        ("status", "conditions" | "addresses") => "type",
        ("metadata", "ownerReferences") => "uid",
        _ => return None,
    })
}

/// Whether a list of plain values merges as a set.
fn merges_as_set(parent: &str, field: &str) -> bool {
    matches!((parent, field), ("metadata", "finalizers") | ("spec", "podCIDRs"))
}

fn merge_value(target: &mut Value, change: &Value, parent: &str, field: &str) -> Result<(), String> {
    match change {
        Value::Object(changes) => merge_object(target, changes, field),
        Value::Array(changes) => merge_list(target, changes, parent, field, None),
        other => {
            *target = other.clone();
            Ok(())
        }
    }
}

fn merge_object(target: &mut Value, changes: &Map<String, Value>, field: &str) -> Result<(), String> {
    match changes.get("$patch").map(|d| d.as_str().unwrap_or_default()) {
        Some("replace") => {
            let mut whole = changes.clone();
            whole.remove("$patch");
            *target = Value::Object(whole);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(format!("unknown patch type {other:?} in directive $patch")),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return Ok(()) };
    if let Some(keep) = changes.get("$retainKeys").and_then(Value::as_array) {
        fields.retain(|key, _| keep.iter().any(|k| k == key));
    }
    for (key, change) in changes {
        if key.starts_with('$') {
            if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
                delete_from_list(fields, list, change);
            }
        } else if change.is_null() {
            fields.remove(key);
        } else {
            let order = changes.get(&format!("$setElementOrder/{key}")).and_then(Value::as_array);
            let slot = fields.entry(key.clone()).or_insert(Value::Null);
            match change {
                Value::Array(items) => merge_list(slot, items, field, key, order)?,
                _ => merge_value(slot, change, field, key)?,
            }
        }
    }
    // An order may also come alone, for a list whose elements did not change.
    for (key, order) in changes {
        if let Some(list) = key.strip_prefix("$setElementOrder/")
            && !changes.contains_key(list)
            && let (Some(Value::Array(items)), Some(order)) = (fields.get_mut(list), order.as_array())
        {
            let before = items.clone();
            reorder(items, order, &before, list_key(field, list));
        }
    }
    Ok(())
}

fn merge_list(
    target: &mut Value,
    changes: &[Value],
    parent: &str,
    field: &str,
    order: Option<&Vec<Value>>,
) -> Result<(), String> {
    let replace = changes.iter().any(|c| c["$patch"] == "replace");
    let Some(key) = list_key(parent, field).filter(|_| !replace) else {
        return merge_plain_list(target, changes, parent, field, order);
    };
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Value::Array(items) = target else { return Ok(()) };
    let before = items.clone();
    for change in changes {
        let id = change
            .get(key)
            .ok_or_else(|| format!("map: {change} does not contain declared merge key: {key}"))?;
        let found = items.iter().position(|item| item.get(key) == Some(id));
        match (change["$patch"].as_str(), found) {
            (Some("delete"), Some(_)) => items.retain(|item| item.get(key) != Some(id)),
            (Some("delete"), None) => {}
            (_, Some(at)) => merge_value(&mut items[at], change, parent, field)?,
            (_, None) => {
                let mut fresh = Value::Null;
                merge_value(&mut fresh, change, parent, field)?;
                items.push(fresh);
            }
        }
    }
    reorder(items, order.map_or(changes, Vec::as_slice), &before, Some(key));
    Ok(())
}

fn merge_plain_list(
    target: &mut Value,
    changes: &[Value],
    parent: &str,
    field: &str,
    order: Option<&Vec<Value>>,
) -> Result<(), String> {
    if merges_as_set(parent, field) {
        if !target.is_array() {
            *target = Value::Array(Vec::new());
        }
        if let Value::Array(items) = target {
            let before = items.clone();
            for change in changes {
                if !items.contains(change) {
                    items.push(change.clone());
                }
            }
            reorder(items, order.map_or(changes, Vec::as_slice), &before, None);
        }
        return Ok(());
    }
    let mut fresh = Vec::with_capacity(changes.len());
    for change in changes.iter().filter(|c| c["$patch"].is_null()) {
        let mut item = Value::Null;
        merge_value(&mut item, change, parent, field)?;
        fresh.push(item);
    }
    *target = Value::Array(fresh);
    Ok(())
}

fn delete_from_list(fields: &mut Map<String, Value>, list: &str, gone: &Value) {
    if let (Some(Value::Array(items)), Some(gone)) = (fields.get_mut(list), gone.as_array()) {
        items.retain(|item| !gone.contains(item));
    }
}

/// Puts a merged list into order. The items that `order` names, which is the patch's own order, come in that; the
/// others stay as they were in the list before; and between the two, what was before an item in that list stays
/// before it, and whatever is new comes first.
fn reorder(items: &mut Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) {
    let id = |value: &Value| key.map_or_else(|| value.clone(), |k| value[k].clone());
    let place = |list: &[Value], item: &Value| list.iter().position(|other| id(other) == id(item));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        items.drain(..).partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(before, item));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(one), Some(other)) = (named.peek(), others.peek()) {
        let other_first = match (place(before, other), place(before, one)) {
            (Some(other), Some(one)) => other < one,
            _ => false,
        };
        items.extend(if other_first { others.next() } else { named.next() });
    }
    items.extend(named);
    items.extend(others);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut target: Value, change: &Value) -> Value {
        patch(&mut target, change).unwrap();
        target
    }

    #[test]
    fn conditions_merge_by_type_and_container_statuses_are_replaced() {
        let pod = json!({"status": {
            "conditions": [{"type": "Gate", "status": "True"}, {"type": "Ready", "status": "False", "reason": "x"}],
            "containerStatuses": [{"name": "a", "ready": false}, {"name": "b"}],
        }});
        let change = json!({"status": {
            "conditions": [{"type": "Ready", "status": "True", "reason": null}, {"type": "New", "status": "True"}],
            "containerStatuses": [{"name": "a", "ready": true}],
        }});
        assert_eq!(
            patched(pod, &change),
            json!({"status": {
                "conditions": [
                    {"type": "Gate", "status": "True"}, {"type": "Ready", "status": "True"},
                    {"type": "New", "status": "True"},
                ],
                "containerStatuses": [{"name": "a", "ready": true}],
            }})
        );
    }

    #[test]
    fn directives_delete_replace_and_order() {
        let pod = json!({
            "metadata": {"finalizers": ["a/b", "c/d"], "labels": {"x": "1", "y": "2"}},
            "spec": {"containers": [
                {"name": "a", "env": [{"name": "K", "value": "1"}]}, {"name": "b"}, {"name": "c"},
            ]},
        });
        let change = json!({
            "metadata": {
                "$deleteFromPrimitiveList/finalizers": ["a/b"], "finalizers": ["e/f"],
                "labels": {"$patch": "replace", "z": "3"},
            },
            "spec": {
                "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "d"}],
                "containers": [
                    {"name": "b", "$patch": "delete"}, {"name": "d", "image": "i"},
                    {"name": "a", "env": [{"name": "K", "$patch": "delete"}, {"name": "L", "value": "2"}]},
                ],
            },
        });
        assert_eq!(
            patched(pod, &change),
            json!({
                "metadata": {"finalizers": ["e/f", "c/d"], "labels": {"z": "3"}},
                "spec": {"containers": [
                    {"name": "c"}, {"name": "a", "env": [{"name": "L", "value": "2"}]}, {"name": "d", "image": "i"},
                ]},
            })
        );
    }

    #[test]
    fn a_list_can_be_replaced_where_its_key_is_not_unique() {
        let node = json!({"status": {"addresses": [{"type": "InternalIP", "address": "a"}]}});
        let change = json!({"status": {"addresses": [
            {"type": "InternalIP", "address": "b"}, {"type": "InternalIP", "address": "c"}, {"$patch": "replace"},
        ]}});
        assert_eq!(
            patched(node, &change)["status"]["addresses"],
            json!([{"type": "InternalIP", "address": "b"}, {"type": "InternalIP", "address": "c"}])
        );
    }

    #[test]
    fn retain_keys_drops_the_other_volume_source() {
        let pod = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let change = json!({"spec": {"volumes": [
            {"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}},
        ]}});
        assert_eq!(
            patched(pod, &change)["spec"]["volumes"],
            json!([{"name": "v", "secret": {"secretName": "s"}}])
        );
    }

    #[test]
    fn an_element_without_its_key_is_refused() {
        let mut pod = json!({"spec": {}});
        assert!(patch(&mut pod, &json!({"spec": {"containers": [{"image": "i"}]}})).is_err());
        assert!(patch(&mut pod, &json!({"spec": {"$patch": "sing"}})).is_err());
    }
}
