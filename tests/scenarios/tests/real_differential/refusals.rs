//! Requests that are wrong as such: bodies, content types, kinds, methods, options.

use http::Method;
use serde_json::{Value, json};

use crate::case::{
    CONFIG_MAPS, Case, NODES, PODS, bound, case, config_map, delete, get, pod, post, put, raw, with,
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = bodies();
    cases.extend(others());
    cases
}

fn bodies() -> Vec<Case> {
    let create = |body: &str| raw(Method::POST, CONFIG_MAPS, body);
    vec![
        case(
            "bodies that are no JSON",
            [
                create(""),
                create("{"),
                create("nonsense"),
                create("null"),
                create("[]"),
                create("7"),
                create("{}{}"),
            ],
        ),
        case(
            "bodies of another kind",
            [
                post(CONFIG_MAPS, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c"}})),
                post(
                    CONFIG_MAPS,
                    json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "c"}}),
                ),
                post(
                    CONFIG_MAPS,
                    json!({"apiVersion": "apps/v1", "kind": "ConfigMap", "metadata": {"name": "c"}}),
                ),
                post(CONFIG_MAPS, json!({"kind": "ConfigMap", "metadata": {"name": "c1"}})),
                post(CONFIG_MAPS, json!({"apiVersion": "v1", "metadata": {"name": "c2"}})),
                post(CONFIG_MAPS, json!({"apiVersion": "v1", "kind": "Gadget", "metadata": {"name": "c3"}})),
            ],
        ),
        case(
            "an update of another kind",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                put(
                    format!("{CONFIG_MAPS}/c"),
                    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c"}}),
                ),
                raw(Method::PUT, format!("{CONFIG_MAPS}/c"), "{"),
                raw(Method::PUT, format!("{CONFIG_MAPS}/c"), ""),
            ],
        ),
        case(
            "fields of the wrong type",
            [
                post(PODS, with(pod("a"), "/spec", "text")),
                post(PODS, with(pod("a"), "/spec/containers", json!({}))),
                post(PODS, with(pod("a"), "/spec/containers/0/name", 7)),
                post(PODS, with(pod("a"), "/spec/hostNetwork", "yes")),
                post(PODS, with(pod("a"), "/spec/terminationGracePeriodSeconds", "30")),
                post(PODS, with(pod("a"), "/spec/terminationGracePeriodSeconds", 1.5)),
                post(PODS, with(pod("a"), "/metadata/labels", json!({"a": 1}))),
                post(PODS, with(pod("a"), "/metadata/labels", json!(["a"]))),
                post(PODS, with(pod("a"), "/metadata", "text")),
                post(PODS, with(pod("a"), "/metadata/creationTimestamp", "yesterday")),
            ],
        ),
        case(
            "fields nobody knows",
            [
                post(PODS, with(pod("a"), "/spec/bogus", 1)),
                post(format!("{PODS}?fieldValidation=Strict"), with(pod("b"), "/spec/bogus", 1)),
                post(
                    format!("{PODS}?fieldValidation=Strict"),
                    with(with(pod("b"), "/spec/bogus", 1), "/spec/containers/0/odd", 1),
                ),
                post(format!("{PODS}?fieldValidation=Ignore"), with(pod("c"), "/spec/bogus", 1)),
                post(format!("{PODS}?fieldValidation=Perhaps"), with(pod("d"), "/spec/bogus", 1)),
            ],
        ),
        case(
            "names of fields in another case",
            [
                post(format!("{PODS}?fieldValidation=Strict"), with(pod("a"), "/spec/NodeName", "x")),
                post(PODS, with(pod("b"), "/spec/NodeName", "x")),
            ],
        ),
        case(
            "a name twice in one object",
            [
                raw(Method::POST, CONFIG_MAPS, r#"{"metadata":{"name":"c"},"data":{"a":"1","a":"2"}}"#),
                raw(
                    Method::POST,
                    format!("{CONFIG_MAPS}?fieldValidation=Strict"),
                    r#"{"metadata":{"name":"d"},"data":{"a":"1","a":"2"}}"#,
                ),
            ],
        ),
        case(
            "content types that are none",
            [
                post(CONFIG_MAPS, config_map("c", "1")).content("text/plain"),
                post(CONFIG_MAPS, config_map("d", "1")).content("application/json; charset=utf-8"),
                post(CONFIG_MAPS, config_map("e", "1")).content("application/merge-patch+json"),
                post(CONFIG_MAPS, config_map("f", "1")).content(""),
            ],
        ),
        case("a body that is too large", [create(&"x".repeat(3 * 1024 * 1024 + 1))]),
    ]
}

fn others() -> Vec<Case> {
    vec![
        case(
            "methods that are none",
            [
                raw(Method::PATCH, CONFIG_MAPS, "{}").content("application/merge-patch+json"),
                raw(Method::POST, format!("{CONFIG_MAPS}/c"), "{}"),
                raw(Method::OPTIONS, CONFIG_MAPS, ""),
                raw(Method::PUT, PODS, "{}"),
                delete(format!("{PODS}/a/status"), Value::Null),
                post(format!("{PODS}/a/status"), bound("a")),
                get(format!("{PODS}/a/binding")),
            ],
        ),
        case(
            "what is not there",
            [
                get(format!("{PODS}/a")),
                get(format!("{PODS}/a/status")),
                get(format!("{CONFIG_MAPS}/c")),
                get(format!("{NODES}/{{ns}}")),
                get("/apis/apps/v1/namespaces/{ns}/deployments/d"),
                get(format!("{PODS}/a/log")),
                get("/api/v1/namespaces/nowhere/pods/a"),
            ],
        ),
        case(
            "odd names in paths",
            [
                get(format!("{PODS}/Upper")),
                get(format!("{PODS}/a%20b")),
                get(format!("{PODS}/a%2Fb")),
                get(format!("{PODS}/{}", "n".repeat(300))),
                get(format!("{PODS}/")),
            ],
        ),
        case(
            "a namespace where there is none",
            [
                post("/api/v1/pods", pod("a")),
                post("/api/v1/namespaces/{ns}/nodes", json!({"metadata": {"name": "n"}})),
                delete("/api/v1/pods/a", Value::Null),
            ],
        ),
        case(
            "options nobody knows",
            [
                post(format!("{CONFIG_MAPS}?bogus=1"), config_map("c", "1")),
                get(format!("{CONFIG_MAPS}/c?bogus=1")),
                get(format!("{CONFIG_MAPS}/c?pretty=maybe")),
                post(format!("{CONFIG_MAPS}?fieldManager={}", "m".repeat(129)), config_map("d", "1")),
                post(format!("{CONFIG_MAPS}?dryRun=yes"), config_map("d", "1")),
            ],
        ),
        case(
            "the log of a pod that runs nowhere",
            [
                post(PODS, pod("a")),
                get(format!("{PODS}/a/log")),
                get(format!("{PODS}/a/log?container=none")),
                get(format!("{PODS}/a/log?tailLines=-1")),
                get(format!("{PODS}/a/log?limitBytes=0")),
                get(format!("{PODS}/a/log?sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z")),
                post(PODS, with(pod("b"), "/spec/nodeName", "absent")),
                get(format!("{PODS}/b/log")),
            ],
        ),
    ]
}
