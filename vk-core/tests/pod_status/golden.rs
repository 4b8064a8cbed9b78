//! The golden files: recorded statuses, each as what it changes in the one before.
//!
//! A file is a list of cases; a case has the part of the pod's spec that a status depends on, and steps. A
//! step says who wrote, at which second, the pod's generation, whether it is being deleted, the spec if it
//! changed, and in `status` the fields that changed: `null` for gone; of lists with named items (conditions,
//! container statuses) only the items that changed, with all names in `order` where items came, went or moved.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};

/// A pod's life as a kubelet wrote it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) area: String,
    pub(crate) what: String,
    pub(crate) steps: Vec<Step>,
}

/// One version of the pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    /// Written by the kubelet alone.
    pub(crate) kubelet: bool,
    /// Seconds since the pod was created, as text: `1.49`.
    pub(crate) at: String,
    pub(crate) generation: i64,
    pub(crate) deleted: bool,
    pub(crate) spec: Value,
    pub(crate) status: Value,
}

/// Lists of named items, and the name's key.
const NAMED: [(&str, &str); 4] = [
    ("conditions", "type"),
    ("initContainerStatuses", "name"),
    ("containerStatuses", "name"),
    ("ephemeralContainerStatuses", "name"),
];

pub(crate) fn read(dir: &Path) -> Vec<Case> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let list: Vec<Value> =
            serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let area = file.file_stem().unwrap().to_string_lossy().replace('-', " ");
        cases.extend(list.iter().map(|case| expand(case, &area)));
    }
    cases
}

fn expand(case: &Value, area: &str) -> Case {
    let mut status = json!({});
    let mut spec = Value::Null;
    let steps = case["steps"].as_array().unwrap().iter().map(|step| {
        if let Some(new) = step.get("spec") {
            spec = new.clone();
        }
        apply(&mut status, step);
        Step {
            kubelet: step["by"] == "kubelet",
            at: step["at"].as_str().unwrap().to_owned(),
            generation: step["generation"].as_i64().unwrap(),
            deleted: step.get("deleted").is_some(),
            spec: spec.clone(),
            status: status.clone(),
        }
    });
    Case {
        name: case["case"].as_str().unwrap().to_owned(),
        area: area.to_owned(),
        what: case["what"].as_str().unwrap().to_owned(),
        steps: steps.collect(),
    }
}

fn apply(status: &mut Value, step: &Value) {
    for (field, new) in step["status"].as_object().into_iter().flatten() {
        let Some((_, key)) = NAMED.iter().find(|(list, _)| list == field) else {
            set(status, field, new.clone());
            continue;
        };
        let changed = new.as_array().unwrap();
        let old = status.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
        let item =
            |name: &Value| changed.iter().chain(&old).find(|item| item[key] == *name).cloned().unwrap();
        let names: Vec<Value> = match step.get("order").and_then(|o| o.get(field)) {
            Some(order) => order.as_array().unwrap().clone(),
            None => old.iter().map(|item| item[key].clone()).collect(),
        };
        let list: Vec<_> = names.iter().map(item).collect();
        set(status, field, if list.is_empty() { Value::Null } else { Value::Array(list) });
    }
}

fn set(status: &mut Value, field: &str, value: Value) {
    let fields = status.as_object_mut().unwrap();
    if value.is_null() {
        fields.remove(field);
    } else {
        fields.insert(field.to_owned(), value);
    }
}

pub(crate) fn write(dir: &Path, cases: &[Case]) {
    let mut areas: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        areas.entry(&case.area).or_default().push(case);
    }
    std::fs::create_dir_all(dir).unwrap();
    for (area, cases) in areas {
        let mut text = String::from(
            "# Written by a kubelet of Kubernetes 1.37.2 with containerd 2.4.2, condensed; see golden.rs.\n",
        );
        for case in cases {
            condense(&mut text, case);
        }
        std::fs::write(dir.join(format!("{}.yaml", area.replace(' ', "-"))), text).unwrap();
    }
}

fn condense(text: &mut String, case: &Case) {
    writeln!(text, "- case: {}\n  what: {}\n  steps:", case.name, json!(case.what)).unwrap();
    let mut before = json!({});
    let mut spec = &Value::Null;
    for step in &case.steps {
        let (status, order) = difference(&before, &step.status);
        write!(
            text,
            "  - {{by: {}, at: \"{}\", generation: {}",
            if step.kubelet { "kubelet" } else { "another" },
            step.at,
            step.generation
        )
        .unwrap();
        if step.deleted {
            text.push_str(", deleted: true");
        }
        if step.spec != *spec {
            spec = &step.spec;
            text.push_str(",\n     spec: ");
            flow(text, spec);
        }
        for (name, map) in [("order", order), ("status", status)] {
            if !map.is_empty() {
                write!(text, ",\n     {name}: ").unwrap();
                flow(text, &Value::Object(map));
            }
        }
        text.push_str("}\n");
        before.clone_from(&step.status);
    }
}

/// The fields that changed, and the order of lists whose names changed.
fn difference(before: &Value, after: &Value) -> (Map<String, Value>, Map<String, Value>) {
    let (mut fields, mut orders) = (Map::new(), Map::new());
    let empty = Map::new();
    let (before, after) = (before.as_object().unwrap_or(&empty), after.as_object().unwrap_or(&empty));
    for field in before.keys().chain(after.keys()) {
        let (old, new) = (before.get(field), after.get(field));
        if old == new {
            continue;
        }
        let Some((_, key)) = NAMED.iter().find(|(list, _)| list == field) else {
            fields.insert(field.clone(), new.cloned().unwrap_or_default());
            continue;
        };
        let items = |list: Option<&Value>| list.and_then(Value::as_array).cloned().unwrap_or_default();
        let (old, new) = (items(old), items(new));
        let names = |list: &[Value]| list.iter().map(|item| item[key].clone()).collect::<Vec<_>>();
        if names(&old) != names(&new) {
            orders.insert(field.clone(), Value::Array(names(&new)));
        }
        let changed: Vec<_> = new.into_iter().filter(|item| !old.contains(item)).collect();
        fields.insert(field.clone(), Value::Array(changed));
    }
    (fields, orders)
}

/// A value in one line of YAML, with as few quotes as it takes.
fn flow(text: &mut String, value: &Value) {
    match value {
        Value::Object(map) => {
            text.push('{');
            for (i, (key, value)) in map.iter().enumerate() {
                text.push_str(if i == 0 { "" } else { ", " });
                flow(text, &json!(key));
                text.push_str(": ");
                flow(text, value);
            }
            text.push('}');
        }
        Value::Array(list) => {
            text.push('[');
            for (i, value) in list.iter().enumerate() {
                text.push_str(if i == 0 { "" } else { ", " });
                flow(text, value);
            }
            text.push(']');
        }
        Value::String(s) if is_plain(s) => text.push_str(s),
        other => text.push_str(&other.to_string()),
    }
}

fn is_plain(s: &str) -> bool {
    const SPOKEN_FOR: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    s.starts_with(|c: char| c.is_ascii_alphabetic())
        && s.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && !SPOKEN_FOR.contains(&s.to_ascii_lowercase().as_str())
}
