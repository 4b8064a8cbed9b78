//! Watches: what they tell of changes, of selections, of the beginning and the end.

use serde_json::{Value, json};

use crate::case::{
    CONFIG_MAPS, Case, EVENTS, PODS, Step, bound, case, config_map, delete, get, merge, named, post,
    strategic, watch, with,
};

/// A watch of the case's pods from the version of a first, empty list.
fn since(query: &str, events: usize) -> Step {
    watch(
        format!("{PODS}?watch=true&timeoutSeconds=10&resourceVersion={{1:/metadata/resourceVersion}}{query}"),
        events,
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = lives();
    cases.extend(beginnings());
    cases
}

fn lives() -> Vec<Case> {
    let a = || format!("{PODS}/a");
    let labelled = |name: &str, app: &str| with(bound(name), "/metadata/labels", json!({"app": app}));
    let relabel = |app: Value| merge(a(), json!({"metadata": {"labels": {"app": app}}}));
    let phase = |phase: &str| strategic(format!("{PODS}/a/status"), json!({"status": {"phase": phase}}));
    let force = || delete(a(), json!({"gracePeriodSeconds": 0}));
    vec![
        case(
            "a pod's life",
            [
                get(PODS),
                post(PODS, bound("a")),
                phase("Running"),
                delete(a(), Value::Null),
                force(),
                since("", 5),
            ],
        ),
        case("a forced deletion", [get(PODS), post(PODS, bound("a")), force(), since("", 3)]),
        case(
            "an unbound pod's deletion",
            [
                get(PODS),
                post(PODS, with(bound("a"), "/spec/nodeName", Value::Null)),
                delete(a(), Value::Null),
                since("", 2),
            ],
        ),
        case(
            "a pod that comes to match and stops to, by label",
            [
                get(PODS),
                post(PODS, labelled("a", "x")),
                relabel(json!("y")),
                relabel(json!("x")),
                phase("Running"),
                relabel(Value::Null),
                force(),
                since("&labelSelector=app%3Dx", 5),
            ],
        ),
        case(
            "pods of a node",
            [
                get(PODS),
                post(PODS, with(bound("other"), "/spec/nodeName", "elsewhere")),
                post(PODS, with(bound("a"), "/spec/nodeName", Value::Null)),
                post(
                    format!("{PODS}/a/binding"),
                    json!({"metadata": named("a"), "target": {"kind": "Node", "name": "parked"}}),
                ),
                phase("Running"),
                since("&fieldSelector=spec.nodeName%3Dparked", 2),
            ],
        ),
        case(
            "pods that have not ended",
            [
                get(PODS),
                post(PODS, bound("a")),
                phase("Running"),
                phase("Succeeded"),
                force(),
                since("&fieldSelector=status.phase!%3DSucceeded", 3),
            ],
        ),
        case(
            "a pod's own path is read, not watched",
            [
                get(PODS),
                post(PODS, bound("a")),
                post(PODS, bound("b")),
                phase("Running"),
                get(format!("{PODS}/a?watch=true&timeoutSeconds=10")),
            ],
        ),
        case(
            "a finalizer's end",
            [
                get(PODS),
                post(PODS, with(bound("a"), "/metadata/finalizers", json!(["example.com/f"]))),
                force(),
                merge(a(), json!({"metadata": {"finalizers": null}})),
                since("", 4),
            ],
        ),
        case(
            "a write without effect is not told",
            [get(PODS), post(PODS, bound("a")), phase("Pending"), phase("Running"), since("", 2)],
        ),
        case(
            "a collection's deletion",
            [
                get(PODS),
                post(PODS, bound("a")),
                post(PODS, bound("b")),
                delete(PODS, json!({"gracePeriodSeconds": 0})),
                since("", 6),
            ],
        ),
        case(
            "metadata only",
            [
                get(PODS),
                post(PODS, bound("a")),
                since("", 1).header("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
            ],
        ),
        case(
            "as a table",
            [
                get(PODS),
                post(PODS, bound("a")),
                phase("Running"),
                since("", 2).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"),
            ],
        ),
        case(
            "events",
            [
                get(EVENTS),
                post(
                    EVENTS,
                    json!({"metadata": named("e"), "involvedObject": {"kind": "Pod", "name": "a", "namespace": "{ns}"}, "reason": "Started", "type": "Normal", "message": "m"}),
                ),
                watch(
                    format!(
                        "{EVENTS}?watch=true&timeoutSeconds=10&resourceVersion={{1:/metadata/resourceVersion}}&fieldSelector=involvedObject.name%3Da"
                    ),
                    1,
                ),
            ],
        ),
    ]
}

fn beginnings() -> Vec<Case> {
    let mine = "labelSelector=app";
    let path = |query: &str| format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=10&{mine}{query}");
    vec![
        case(
            "from zero: what there is",
            [
                post(CONFIG_MAPS, config_map("c1", "1")),
                post(CONFIG_MAPS, config_map("c2", "1")),
                watch(path("&resourceVersion=0"), 2),
            ],
        ),
        case("from nowhere: what there is", [post(CONFIG_MAPS, config_map("c1", "1")), watch(path(""), 1)]),
        case(
            "as a streamed list",
            [
                post(CONFIG_MAPS, config_map("c1", "1")),
                post(CONFIG_MAPS, config_map("c2", "1")),
                watch(
                    path(
                        "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                    ),
                    3,
                ),
            ],
        ),
        case(
            "as a streamed list of nothing",
            [watch(
                path("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"),
                1,
            )],
        ),
        case(
            "as a streamed list from a version",
            [
                post(CONFIG_MAPS, config_map("c1", "1")),
                watch(
                    path(
                        "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion={1:/metadata/resourceVersion}",
                    ),
                    2,
                ),
            ],
        ),
        case(
            "a streamed list needs bookmarks",
            [watch(path("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"), 1)],
        ),
        case(
            "without what there was",
            [
                post(CONFIG_MAPS, config_map("c1", "1")),
                merge(format!("{CONFIG_MAPS}/c1"), json!({"data": {"a": "2"}})),
                watch(path("&resourceVersion={1:/metadata/resourceVersion}"), 1),
            ],
        ),
        case(
            "selectors that are none",
            [
                watch(format!("{PODS}?watch=true&timeoutSeconds=5&fieldSelector=spec.bogus%3Dx"), 1),
                watch(format!("{PODS}?watch=true&timeoutSeconds=5&labelSelector=a%20b"), 1),
                watch(format!("{PODS}?watch=true&timeoutSeconds=soon"), 1),
                watch(format!("{PODS}?watch=perhaps&timeoutSeconds=5"), 1),
            ],
        ),
        case("the end of a watch's time", [watch(format!("{PODS}?watch=true&timeoutSeconds=1"), 1)]),
    ]
}
