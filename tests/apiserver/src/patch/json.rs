//! JSON patch, RFC 6902.

use serde_json::Value;

/// Applies the operations in order; the error says which one failed and why.
pub(crate) fn patch(target: &mut Value, operations: &Value) -> Result<(), String> {
    let operations = operations.as_array().ok_or("a JSON patch is a list of operations")?;
    for (at, operation) in operations.iter().enumerate() {
        step(target, operation).map_err(|why| format!("operation {at}: {why}"))?;
    }
    Ok(())
}

fn step(target: &mut Value, operation: &Value) -> Result<(), String> {
    let path = field(operation, "path")?;
    match field(operation, "op")? {
        "add" => add(target, path, value_of(operation)?),
        "remove" => remove(target, path).map(drop),
        "replace" => {
            // As the real server's library has it: what is not there yet is added, if it is a field.
            if target.pointer(path).is_some() || !is_field(target, path)? {
                remove(target, path)?;
            }
            add(target, path, value_of(operation)?)
        }
        "move" => {
            let from = field(operation, "from")?;
            if path.starts_with(&format!("{from}/")) {
                return Err(format!("{from} can't be moved into itself"));
            }
            let moved = remove(target, from)?;
            add(target, path, moved)
        }
        "copy" => {
            let from = field(operation, "from")?;
            let copied = target.pointer(from).cloned().ok_or_else(|| missing(from))?;
            add(target, path, copied)
        }
        "test" => {
            let actual = target.pointer(path).unwrap_or(&Value::Null);
            if *actual == value_of(operation)? { Ok(()) } else { Err(format!("testing value {path} failed")) }
        }
        other => Err(format!("unknown op {other:?}")),
    }
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let Some((parent, last)) = split(path)? else {
        *target = value;
        return Ok(());
    };
    match target.pointer_mut(parent).ok_or_else(|| missing(path))? {
        Value::Object(fields) => {
            fields.insert(last, value);
            Ok(())
        }
        Value::Array(items) if last == "-" => {
            items.push(value);
            Ok(())
        }
        Value::Array(items) => match last.parse::<usize>() {
            Ok(at) if at <= items.len() => {
                items.insert(at, value);
                Ok(())
            }
            _ => Err(missing(path)),
        },
        _ => Err(missing(path)),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, String> {
    let Some((parent, last)) = split(path)? else { return Ok(target.take()) };
    match target.pointer_mut(parent).ok_or_else(|| missing(path))? {
        Value::Object(fields) => fields.remove(&last).ok_or_else(|| missing(path)),
        Value::Array(items) => match last.parse::<usize>() {
            Ok(at) if at < items.len() => Ok(items.remove(at)),
            _ => Err(missing(path)),
        },
        _ => Err(missing(path)),
    }
}

/// Whether a path leads to a field of an object that is there.
fn is_field(target: &Value, path: &str) -> Result<bool, String> {
    let parent = split(path)?.and_then(|(parent, _)| target.pointer(parent));
    Ok(parent.is_some_and(Value::is_object))
}

/// Parent pointer and unescaped last token; `None` for the whole document.
fn split(path: &str) -> Result<Option<(&str, String)>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| format!("{path:?} is not a JSON pointer"))?;
    Ok(Some((parent, last.replace("~1", "/").replace("~0", "~"))))
}

fn field<'a>(operation: &'a Value, name: &str) -> Result<&'a str, String> {
    operation[name].as_str().ok_or_else(|| format!("no {name:?}"))
}

fn value_of(operation: &Value) -> Result<Value, String> {
    operation.get("value").cloned().ok_or_else(|| "no \"value\"".to_owned())
}

fn missing(path: &str) -> String {
    format!("doc is missing path {path}: missing value")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_operation_does_its_part() {
        let mut target = json!({"a/b": 1, "list": [1, 3], "from": {"x": 1}});
        let operations = json!([
            {"op": "test", "path": "/a~1b", "value": 1},
            {"op": "replace", "path": "/a~1b", "value": 2},
            {"op": "add", "path": "/list/1", "value": 2},
            {"op": "add", "path": "/list/-", "value": 4},
            {"op": "copy", "from": "/from", "path": "/copy"},
            {"op": "move", "from": "/from/x", "path": "/moved"},
            {"op": "remove", "path": "/list/0"},
        ]);
        patch(&mut target, &operations).unwrap();
        assert_eq!(target, json!({"a/b": 2, "list": [2, 3, 4], "from": {}, "copy": {"x": 1}, "moved": 1}));
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for operation in [
            json!({"op": "remove", "path": "/none"}),
            json!({"op": "replace", "path": "/none/deep", "value": 1}),
            json!({"op": "add", "path": "/none/deep", "value": 1}),
            json!({"op": "add", "path": "/list/9", "value": 1}),
            json!({"op": "test", "path": "/list", "value": []}),
            json!({"op": "move", "from": "/list", "path": "/list/0"}),
            json!({"op": "add", "path": "list", "value": 1}),
            json!({"op": "sing", "path": "/list"}),
        ] {
            let mut target = json!({"list": [1]});
            assert!(patch(&mut target, &json!([operation])).is_err(), "{operation}");
        }
    }
}
