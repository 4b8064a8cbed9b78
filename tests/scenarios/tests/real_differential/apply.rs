//! Server-side apply.

use http::Method;
use serde_json::{Value, json};

use crate::case::{CONFIG_MAPS, Case, PODS, Step, apply, case, config_map, get, merge, pod, post, raw, with};

fn by(manager: &str) -> String {
    format!("{CONFIG_MAPS}/c?fieldManager={manager}")
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

fn yaml(text: &str) -> Step {
    raw(Method::PATCH, by("one"), text).content("application/apply-patch+yaml")
}

pub(crate) fn cases() -> Vec<Case> {
    let c = || format!("{CONFIG_MAPS}/c");
    vec![
        case("what is not there is made", [apply(by("one"), map(json!({"a": "1"}))), get(c())]),
        case(
            "equal applies change nothing",
            [apply(by("one"), map(json!({"a": "1"}))), apply(by("one"), map(json!({"a": "1"})))],
        ),
        case(
            "what is no longer applied is removed",
            [
                apply(by("one"), map(json!({"a": "1", "b": "2"}))),
                merge(c(), json!({"data": {"theirs": "x"}})),
                apply(by("one"), map(json!({"a": "1"}))),
                apply(by("one"), map(json!({}))),
            ],
        ),
        case(
            "two managers conflict until one forces",
            [
                apply(by("one"), map(json!({"a": "1", "b": "1"}))),
                apply(by("two"), map(json!({"a": "2", "c": "2"}))),
                apply(by("two"), map(json!({"a": "1"}))),
                apply(by("two&force=true"), map(json!({"a": "2", "c": "2"}))),
                apply(by("one"), map(json!({"b": "1"}))),
                apply(by("one"), map(json!({"a": "3"}))),
            ],
        ),
        case(
            "two values in conflict",
            [
                apply(by("one"), map(json!({"a": "1", "b": "1"}))),
                apply(by("two"), map(json!({"a": "2", "b": "2"}))),
            ],
        ),
        case(
            "a value that an update owns",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                apply(by("one"), map(json!({"a": "2"}))),
                apply(by("one&force=true"), map(json!({"a": "2"}))),
            ],
        ),
        case(
            "a manager is needed",
            [
                apply(c(), map(json!({"a": "1"}))),
                apply(format!("{CONFIG_MAPS}/c?fieldManager={}", "m".repeat(129)), map(json!({"a": "1"}))),
            ],
        ),
        case(
            "configurations that are none",
            [
                apply(by("one"), json!({"data": {}})),
                apply(by("one"), json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c"}})),
                apply(
                    by("one"),
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}}),
                ),
                apply(by("one"), json!({"apiVersion": "v1", "kind": "ConfigMap"})),
                apply(by("one"), json!("text")),
                apply(by("one"), with(map(json!({})), "/bogus", 1)),
                apply(by("one"), with(map(json!({})), "/data", 7)),
                apply(by("one"), with(map(json!({})), "/metadata/managedFields", json!([{"manager": "x"}]))),
            ],
        ),
        case(
            "an expected UID and version",
            [
                apply(by("one"), with(map(json!({"a": "1"})), "/metadata/uid", "other")),
                apply(by("one"), with(map(json!({"a": "1"})), "/metadata/resourceVersion", "7")),
                apply(by("one"), map(json!({"a": "1"}))),
                apply(by("one"), with(map(json!({"a": "1"})), "/metadata/uid", "other")),
                apply(by("one"), with(map(json!({"a": "2"})), "/metadata/resourceVersion", "7")),
                apply(
                    by("one"),
                    with(
                        map(json!({"a": "2"})),
                        "/metadata/resourceVersion",
                        "{3:/metadata/resourceVersion}",
                    ),
                ),
            ],
        ),
        case(
            "containers and conditions are owned one by one",
            [
                apply(
                    format!("{PODS}/a?fieldManager=one"),
                    with(pod("a"), "/metadata/labels", json!({"x": "1"})),
                ),
                apply(
                    format!("{PODS}/a/status?fieldManager=two"),
                    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {"conditions": [{"type": "X", "status": "True"}]}}),
                ),
                apply(
                    format!("{PODS}/a/status?fieldManager=three"),
                    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {"conditions": [{"type": "Y", "status": "True"}]}}),
                ),
                apply(
                    format!("{PODS}/a/status?fieldManager=two"),
                    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {}}),
                ),
            ],
        ),
        case(
            "a status of what is not there",
            [apply(
                format!("{PODS}/a/status?fieldManager=two"),
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {}}),
            )],
        ),
        case("a dry run", [apply(by("one&dryRun=All"), map(json!({"a": "1"}))), get(c())]),
        case(
            "yaml",
            [
                yaml("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  a: '1'\n"),
                yaml("data: [unclosed\n"),
                yaml(""),
            ],
        ),
    ]
}
