//! Rows for people: what `kubectl get` prints.
//!
//! Source: pkg/printers/internalversion/printers.go.

mod age;
mod pods;
mod rows;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::resources::Resource;
use crate::store::Object;

/// What each row carries besides its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Include {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "None" => Ok(Self::Nothing),
            "Object" => Ok(Self::Object),
            "" | "Metadata" => Ok(Self::Metadata),
            other => Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be \
                 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// A column: its name, and whether only `-o wide` shows it.
struct Column {
    name: &'static str,
    wide: bool,
}

const fn narrow(name: &'static str) -> Column {
    Column { name, wide: false }
}

const fn wide(name: &'static str) -> Column {
    Column { name, wide: true }
}

/// How a kind is printed.
struct Printer {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// A `meta.k8s.io/v1` Table of the objects.
pub(crate) fn render(
    resource: &Resource,
    items: &[Arc<Object>],
    include: Include,
    metadata: &Value,
    now: Timestamp,
) -> Value {
    let printer = printer(resource);
    let rows: Vec<Value> = items
        .iter()
        .map(|object| {
            let mut row = json!({"cells": (printer.cells)(object, now)});
            match include {
                Include::Nothing => {}
                Include::Metadata => {
                    row["object"] = json!({"kind": "PartialObjectMetadata",
                        "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]});
                }
                Include::Object => row["object"] = Value::clone(object),
            }
            row
        })
        .collect();
    let columns: Vec<Value> = printer
        .columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name, "type": "string",
                "format": if column.name == "Name" { "name" } else { "" },
                "priority": i32::from(column.wide), "description": column.name,
            })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn printer(resource: &Resource) -> &'static Printer {
    match resource.plural {
        "pods" => &pods::PODS,
        "nodes" => &rows::NODES,
        "namespaces" => &rows::NAMESPACES,
        "events" => &rows::EVENTS,
        "services" => &rows::SERVICES,
        "configmaps" => &rows::CONFIG_MAPS,
        "secrets" => &rows::SECRETS,
        "deployments" => &rows::DEPLOYMENTS,
        "replicasets" => &rows::REPLICA_SETS,
        "statefulsets" => &rows::STATEFUL_SETS,
        "daemonsets" => &rows::DAEMON_SETS,
        "jobs" => &rows::JOBS,
        "cronjobs" => &rows::CRON_JOBS,
        "leases" => &rows::LEASES,
        "certificatesigningrequests" => &rows::REQUESTS,
        _ => &rows::OTHERS,
    }
}

/// Text at a pointer; `none` where there is none.
fn text(object: &Value, pointer: &str, none: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => none.to_owned(),
    }
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn list<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn joined(values: impl Iterator<Item = String>, none: &str) -> String {
    let text = values.collect::<Vec<_>>().join(",");
    if text.is_empty() { none.to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;

    #[test]
    fn every_row_has_a_cell_per_column() {
        for resource in resources::all() {
            let object = Arc::new(Object::new(json!({"metadata": {"name": "x"}})));
            let table = render(resource, &[object], Include::Metadata, &json!({}), Timestamp::now());
            let columns = table["columnDefinitions"].as_array().unwrap().len();
            let cells = table["rows"][0]["cells"].as_array().unwrap().len();
            assert_eq!(columns, cells, "{}", resource.plural);
        }
    }
}
