//! JSON merge patch, RFC 7386.

use serde_json::{Map, Value};

/// Merges `patch` into `target`: objects merge, null removes, anything else replaces.
pub(crate) fn patch(target: &mut Value, patch_value: &Value) {
    let Value::Object(changes) = patch_value else {
        *target = patch_value.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            patch(fields.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_merge_nulls_remove_and_lists_are_replaced() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "s": "x"});
        patch(&mut target, &json!({"a": {"b": null, "d": {"e": null, "f": 3}}, "l": [3], "s": {"t": 1}}));
        assert_eq!(target, json!({"a": {"c": 2, "d": {"f": 3}}, "l": [3], "s": {"t": 1}}));
    }
}
