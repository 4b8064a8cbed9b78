//! What a pod asks for that is not honoured.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::table::{Part, TABLE};
use super::{FieldSupport, Support};

/// A field of a pod that is not honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The field in the table: one of a fixed set.
    pub field: &'static str,
    /// Where it stands in the pod: `spec.containers[1].securityContext.privileged`.
    pub path: String,
    /// Why it is not honoured, and what to do instead.
    pub why: String,
    pub(super) steps: Vec<Step>,
    pub(super) index: usize,
}

impl Finding {
    /// Of the list below `spec` that it is in, which element.
    pub(crate) fn element(&self) -> Option<usize> {
        match self.steps.get(2) {
            Some(Step::Index(index)) => Some(*index),
            _ => None,
        }
    }
}

/// A step of the way to a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Everything in the pod that asks for something that is not honoured; empty if all of it is.
#[must_use]
pub fn unsupported(pod: &Pod, support: &FieldSupport) -> Vec<Finding> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    // The types write no value that JSON has not.
    let spec = serde_json::to_value(spec).unwrap_or_default();
    let mut search = Search { support, found: Vec::new(), way: vec![Step::Key("spec".to_owned())] };
    if let Some(part) = TABLE.root.below.get("spec") {
        search.below(part, &spec);
    }
    search.found
}

struct Search<'a> {
    support: &'a FieldSupport,
    found: Vec<Finding>,
    way: Vec<Step>,
}

impl Search<'_> {
    fn below(&mut self, part: &Part, value: &Value) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    if let Some(part) = part.below.get(name) {
                        self.way.push(Step::Key(name.clone()));
                        self.at(part, value);
                        self.way.pop();
                    }
                }
            }
            Value::Array(elements) => {
                let Some(part) = &part.each else { return };
                for (index, value) in elements.iter().enumerate() {
                    if is_added(&self.way, value) {
                        continue;
                    }
                    self.way.push(Step::Index(index));
                    self.at(part, value);
                    self.way.pop();
                }
            }
            _ => {}
        }
    }

    fn at(&mut self, part: &Part, value: &Value) {
        let Some(index) = part.field else { return self.below(part, value) };
        let field = &TABLE.fields[index];
        if is_idle(value, field.idle, !part.below.is_empty() || field.whole) {
            return;
        }
        match &self.support.answers[index] {
            Support::Refused(why) => self.find(index, why.to_string()),
            Support::Only { values, why } => match value {
                Value::Object(members) => {
                    for key in members.keys().filter(|key| !values.iter().any(|value| value == *key)) {
                        self.way.push(Step::Key(format!("[{key}]")));
                        self.find(index, why.to_string());
                        self.way.pop();
                    }
                }
                Value::Array(elements) => {
                    for (place, element) in elements.iter().enumerate() {
                        if !values.iter().any(|value| *value == text(element)) {
                            self.way.push(Step::Index(place));
                            self.find(index, format!("{} is not taken: {why}", text(element)));
                            self.way.pop();
                        }
                    }
                }
                scalar if values.iter().any(|value| *value == text(scalar)) => {}
                scalar => self.find(index, format!("{} is not taken: {why}", text(scalar))),
            },
            Support::ControlPlane | Support::Node | Support::Native | Support::Partly(_) => {
                if !field.whole {
                    self.below(part, value);
                }
            }
        }
    }

    fn find(&mut self, index: usize, why: String) {
        let mut path = String::new();
        for step in &self.way {
            match step {
                Step::Key(key) if path.is_empty() || key.starts_with('[') => path.push_str(key),
                Step::Key(key) => {
                    let _ = write!(path, ".{key}");
                }
                Step::Index(index) => {
                    let _ = write!(path, "[{index}]");
                }
            }
        }
        let field = TABLE.fields[index].path.as_str();
        self.found.push(Finding { field, path, why, steps: self.way.clone(), index });
    }
}

/// A value as an answer or the table would have it.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether a value asks for nothing. An object says something by being there if it has members of its own in the table
/// or none at all (`emptyDir: {}`); an empty map or list does not.
fn is_idle(value: &Value, idle: &[&str], speaks: bool) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() || idle.contains(&text.as_str()),
        // Unless the table says otherwise, `false` is how things are without the field.
        Value::Bool(false) if idle.is_empty() => true,
        Value::Bool(_) | Value::Number(_) => idle.contains(&value.to_string().as_str()),
        Value::Array(elements) => {
            elements.is_empty() || (!idle.is_empty() && elements.iter().all(|e| is_idle(e, idle, speaks)))
        }
        Value::Object(members) => members.is_empty() && !speaks,
    }
}

/// Whether it is the volume that the API server's ServiceAccount admission adds, or where that is mounted: nobody has
/// asked for either.
fn is_added(way: &[Step], value: &Value) -> bool {
    let is_named = value.get("name").and_then(Value::as_str).is_some_and(|name| name.starts_with(ADDED));
    is_named
        && match way.last() {
            Some(Step::Key(list)) if list == "volumes" => value.get("projected").is_some(),
            Some(Step::Key(list)) if list == "volumeMounts" => value["mountPath"] == MOUNTED,
            _ => false,
        }
}

/// How the names of those volumes begin.
const ADDED: &str = "kube-api-access-";

/// Where they are mounted.
const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
