//! A small model of how the API server applies a strategic merge patch to a pod's status.

use serde_json::{Map, Value};

/// Lists that merge, and by which key. All others are replaced whole.
const MERGED: [(&str, &str); 3] = [("conditions", "type"), ("hostIPs", "ip"), ("podIPs", "ip")];

/// The status after the patch.
pub(crate) fn merged(current: &Value, patch: &Value) -> Value {
    let mut status = current.clone();
    merge(&mut status, patch.as_object().unwrap());
    // An empty list is not kept.
    status.as_object_mut().unwrap().retain(|_, v| v.as_array().is_none_or(|list| !list.is_empty()));
    status
}

fn merge(target: &mut Value, patch: &Map<String, Value>) {
    for (field, new) in patch.iter().filter(|(field, _)| !field.starts_with('$')) {
        let fields = target.as_object_mut().unwrap();
        if new.is_null() {
            fields.remove(field);
            continue;
        }
        let order = patch.get(&format!("$setElementOrder/{field}"));
        match (MERGED.iter().find(|(name, _)| name == field), new) {
            (Some((_, key)), Value::Array(changes)) => {
                let list = fields.entry(field).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(list.as_array_mut().unwrap(), changes, key, order);
            }
            (None, Value::Object(changes)) => {
                let object = fields.entry(field).or_insert_with(|| Value::Object(Map::new()));
                merge(object, changes);
            }
            _ => drop(fields.insert(field.clone(), new.clone())),
        }
    }
    for (field, order) in patch {
        if let Some(field) = field.strip_prefix("$setElementOrder/")
            && !patch.contains_key(field)
            && let Some(list) = target.get_mut(field).and_then(Value::as_array_mut)
            && let Some((_, key)) = MERGED.iter().find(|(name, _)| *name == field)
        {
            sort(list, key, order);
        }
    }
}

fn merge_list(list: &mut Vec<Value>, changes: &[Value], key: &str, order: Option<&Value>) {
    for change in changes {
        let at = list.iter().position(|item| item[key] == change[key]);
        if change.get("$patch").is_some_and(|p| p == "delete") {
            if let Some(at) = at {
                list.remove(at);
            }
            continue;
        }
        let at = at.unwrap_or_else(|| {
            list.push(Value::Object(Map::new()));
            list.len() - 1
        });
        merge(&mut list[at], change.as_object().unwrap());
    }
    if let Some(order) = order {
        sort(list, key, order);
    }
}

/// Items in the given order; those that it does not name keep their place before the named one they
/// preceded, here simplified to the front.
fn sort(list: &mut [Value], key: &str, order: &Value) {
    let order = order.as_array().unwrap();
    list.sort_by_key(|item| order.iter().position(|o| o[key] == item[key]).map_or(0, |i| i + 1));
}
