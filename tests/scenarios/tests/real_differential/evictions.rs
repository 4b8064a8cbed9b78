//! Evictions, with and without a disruption budget, and bindings.

use serde_json::{Value, json};

use crate::case::{Case, PODS, bound, case, delete, get, named, pod, post, strategic, with};

const BUDGETS: &str = "/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets";

fn evict(name: &str, options: Value) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": named(name), "deleteOptions": options})
}

fn binding(name: &str, target: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": named(name), "target": target})
}

fn labelled(name: &str) -> Value {
    with(bound(name), "/metadata/labels", json!({"app": "x"}))
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = evictions();
    cases.extend(bindings());
    cases
}

fn evictions() -> Vec<Case> {
    let (a, e) = (|| format!("{PODS}/a"), || format!("{PODS}/a/eviction"));
    let runs = || strategic(format!("{PODS}/a/status"), json!({"status": {"phase": "Running"}}));
    let budget = |least: Value| json!({"metadata": named("b"), "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "x"}}}});
    vec![
        case(
            "a pod nothing protects",
            [post(PODS, bound("a")), runs(), post(e(), evict("a", Value::Null)), get(a())],
        ),
        case(
            "a pending pod",
            [post(PODS, bound("a")), post(e(), evict("a", json!({"gracePeriodSeconds": 5}))), get(a())],
        ),
        case(
            "a pod that is being deleted",
            [
                post(PODS, bound("a")),
                runs(),
                delete(a(), Value::Null),
                post(e(), evict("a", Value::Null)),
                get(a()),
            ],
        ),
        case(
            "a pod that has ended",
            [
                post(PODS, bound("a")),
                strategic(format!("{PODS}/a/status"), json!({"status": {"phase": "Failed"}})),
                post(e(), evict("a", Value::Null)),
                get(a()),
            ],
        ),
        case(
            "a dry run",
            [post(PODS, bound("a")), post(e(), evict("a", json!({"dryRun": ["All"]}))), get(a())],
        ),
        case(
            "preconditions",
            [
                post(PODS, bound("a")),
                post(e(), evict("a", json!({"preconditions": {"uid": "other"}}))),
                post(
                    e(),
                    evict(
                        "a",
                        json!({"preconditions": {"uid": "{1:/metadata/uid}"}, "gracePeriodSeconds": 0}),
                    ),
                ),
                get(a()),
            ],
        ),
        case(
            "names that do not fit, and pods that are not there",
            [
                post(PODS, bound("a")),
                post(e(), evict("b", Value::Null)),
                post(format!("{PODS}/missing/eviction"), evict("missing", Value::Null)),
                post(e(), json!({"apiVersion": "v1", "kind": "Pod", "metadata": named("a")})),
                get(e()),
            ],
        ),
        case(
            "a budget that is spent",
            [
                post(PODS, labelled("a")),
                runs(),
                post(BUDGETS, budget(json!(1))),
                get(format!("{BUDGETS}/b")).until("/status/observedGeneration", 1),
                post(e(), evict("a", Value::Null)),
                get(a()),
            ],
        ),
        case(
            "two budgets",
            [
                post(PODS, labelled("a")),
                runs(),
                post(BUDGETS, budget(json!(1))),
                post(BUDGETS, with(budget(json!(1)), "/metadata/name", "c")),
                get(format!("{BUDGETS}/b")).until("/status/observedGeneration", 1),
                get(format!("{BUDGETS}/c")).until("/status/observedGeneration", 1),
                post(e(), evict("a", Value::Null)),
            ],
        ),
    ]
}

fn bindings() -> Vec<Case> {
    let b = || format!("{PODS}/a/binding");
    let node = || json!({"kind": "Node", "name": "somewhere"});
    vec![
        case(
            "a pod is bound once",
            [
                post(PODS, pod("a")),
                post(b(), binding("a", node())),
                get(format!("{PODS}/a")),
                post(b(), binding("a", node())),
            ],
        ),
        case(
            "by the older path",
            [
                post(PODS, pod("a")),
                post("/api/v1/namespaces/{ns}/bindings", binding("a", node())),
                get(format!("{PODS}/a")),
            ],
        ),
        case(
            "bindings that are none",
            [
                post(PODS, pod("a")),
                post(b(), binding("a", json!({}))),
                post(b(), binding("a", json!({"kind": "Pod", "name": "x"}))),
                post(b(), binding("other", node())),
                post(format!("{PODS}/missing/binding"), binding("missing", node())),
                post(b(), with(binding("a", node()), "/metadata/uid", "other")),
                get(b()),
            ],
        ),
        case(
            "a gated pod",
            [
                post(PODS, with(pod("a"), "/spec/schedulingGates", json!([{"name": "example.com/g"}]))),
                post(b(), binding("a", node())),
            ],
        ),
        case(
            "a binding's annotations go to the pod",
            [
                post(PODS, pod("a")),
                post(b(), with(binding("a", node()), "/metadata/annotations", json!({"x": "1"}))),
                get(format!("{PODS}/a")),
            ],
        ),
    ]
}
