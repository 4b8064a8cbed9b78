//! Deleting: grace, preconditions, finalizers, propagation, collections.

use serde_json::{Value, json};

use crate::case::{
    CONFIG_MAPS, Case, PODS, SERVICES, bound, case, config_map, delete, get, merge, pod, post, put_back,
    strategic, with,
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = pods();
    cases.extend(preconditions());
    cases.extend(finalizers());
    cases.extend(collections());
    cases.extend(others());
    cases
}

fn grace(seconds: i64) -> Value {
    json!({"gracePeriodSeconds": seconds})
}

fn pods() -> Vec<Case> {
    let a = || format!("{PODS}/a");
    let held = || with(bound("a"), "/metadata/finalizers", json!(["example.com/f"]));
    vec![
        case(
            "a bound pod is marked, then removed with grace 0",
            [
                post(PODS, bound("a")),
                delete(a(), Value::Null),
                get(a()),
                delete(a(), Value::Null),
                delete(a(), grace(0)),
                get(a()),
            ],
        ),
        case("an unbound pod goes at once", [post(PODS, pod("a")), delete(a(), Value::Null), get(a())]),
        case(
            "a pod without grace of its own goes at once",
            [
                post(PODS, with(bound("a"), "/spec/terminationGracePeriodSeconds", 0)),
                delete(a(), Value::Null),
                get(a()),
            ],
        ),
        case(
            "a finished pod goes at once",
            [
                post(PODS, bound("a")),
                strategic(format!("{PODS}/a/status"), json!({"status": {"phase": "Succeeded"}})),
                delete(a(), Value::Null),
                get(a()),
            ],
        ),
        case(
            "a second deletion only shortens",
            [
                post(PODS, bound("a")),
                delete(a(), grace(60)),
                delete(a(), grace(90)),
                delete(a(), grace(20)),
                delete(a(), Value::Null),
                get(a()),
            ],
        ),
        case(
            "grace by query, negative, and none at all",
            [
                post(PODS, bound("a")),
                delete(format!("{PODS}/a?gracePeriodSeconds=7"), Value::Null),
                post(PODS, bound("b")),
                delete(format!("{PODS}/b"), grace(-1)),
                get(format!("{PODS}/b")),
                post(PODS, bound("c")),
                delete(format!("{PODS}/c"), json!({})),
                delete(format!("{PODS}/c?gracePeriodSeconds=0"), Value::Null),
                get(format!("{PODS}/c")),
            ],
        ),
        case(
            "a marked pod can be written to, but not unmarked",
            [
                post(PODS, bound("a")),
                delete(a(), Value::Null),
                merge(
                    a(),
                    json!({"metadata": {"labels": {"x": "1"}, "deletionTimestamp": null, "deletionGracePeriodSeconds": null}}),
                ),
                strategic(format!("{PODS}/a/status"), json!({"status": {"phase": "Running"}})),
                merge(a(), json!({"metadata": {"finalizers": ["example.com/late"]}})),
                post(PODS, bound("a")),
            ],
        ),
        case(
            "a held pod stays until the last finalizer",
            [
                post(PODS, held()),
                delete(a(), Value::Null),
                delete(a(), grace(0)),
                get(a()),
                merge(a(), json!({"metadata": {"finalizers": null}})),
                get(a()),
            ],
        ),
        case(
            "a held unbound pod is marked with grace 0",
            [
                post(PODS, with(pod("a"), "/metadata/finalizers", json!(["example.com/f"]))),
                delete(a(), Value::Null),
                delete(a(), Value::Null),
                put_back(a(), 3, [("/metadata/finalizers", Value::Null)]),
                get(a()),
            ],
        ),
        case(
            "dry run",
            [
                post(PODS, bound("a")),
                delete(format!("{PODS}/a?dryRun=All"), Value::Null),
                delete(a(), json!({"dryRun": ["All"], "gracePeriodSeconds": 0})),
                get(a()),
            ],
        ),
        case("what is not there", [delete(a(), Value::Null), delete(a(), grace(0))]),
    ]
}

fn preconditions() -> Vec<Case> {
    let a = || format!("{PODS}/a");
    let uid = |uid: &str, seconds: i64| json!({"gracePeriodSeconds": seconds, "preconditions": {"uid": uid}});
    vec![
        case("another pod's UID", [post(PODS, bound("a")), delete(a(), uid("other", 0)), get(a())]),
        case(
            "its own UID",
            [
                post(PODS, bound("a")),
                delete(a(), uid("{1:/metadata/uid}", 30)),
                delete(a(), uid("{1:/metadata/uid}", 0)),
                get(a()),
            ],
        ),
        case(
            "an earlier incarnation's UID",
            [
                post(PODS, bound("a")),
                delete(a(), grace(0)),
                post(PODS, bound("a")),
                delete(a(), uid("{1:/metadata/uid}", 0)),
                get(a()),
            ],
        ),
        case(
            "an earlier version",
            [
                post(PODS, bound("a")),
                merge(a(), json!({"metadata": {"labels": {"x": "1"}}})),
                delete(a(), json!({"preconditions": {"resourceVersion": "{1:/metadata/resourceVersion}"}})),
                delete(a(), json!({"preconditions": {"resourceVersion": "{2:/metadata/resourceVersion}"}})),
            ],
        ),
        case(
            "a config map's UID and version",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                delete(format!("{CONFIG_MAPS}/c"), json!({"preconditions": {"uid": "other"}})),
                delete(
                    format!("{CONFIG_MAPS}/c"),
                    json!({"preconditions": {"uid": "{1:/metadata/uid}", "resourceVersion": "1"}}),
                ),
                delete(
                    format!("{CONFIG_MAPS}/c"),
                    json!({"preconditions": {"uid": "{1:/metadata/uid}", "resourceVersion": "{1:/metadata/resourceVersion}"}}),
                ),
                get(format!("{CONFIG_MAPS}/c")),
            ],
        ),
    ]
}

fn finalizers() -> Vec<Case> {
    let c = || format!("{CONFIG_MAPS}/c");
    let held =
        || with(config_map("c", "1"), "/metadata/finalizers", json!(["example.com/f", "example.com/g"]));
    vec![
        case(
            "a held config map",
            [
                post(CONFIG_MAPS, held()),
                delete(c(), Value::Null),
                delete(c(), Value::Null),
                merge(c(), json!({"data": {"a": "2"}})),
                merge(c(), json!({"metadata": {"finalizers": ["example.com/g"]}})),
                merge(c(), json!({"metadata": {"finalizers": ["example.com/g", "example.com/h"]}})),
                merge(c(), json!({"metadata": {"finalizers": []}})),
                get(c()),
            ],
        ),
        case(
            "orphaning adds a finalizer",
            [post(CONFIG_MAPS, held()), delete(c(), json!({"propagationPolicy": "Foreground"}))],
        ),
        case(
            "policies that are none",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                delete(c(), json!({"propagationPolicy": "Sideways"})),
                delete(c(), json!({"propagationPolicy": "Orphan", "orphanDependents": true})),
                delete(format!("{CONFIG_MAPS}/c?propagationPolicy=Sideways"), Value::Null),
                delete(c(), json!({"propagationPolicy": "Background"})),
            ],
        ),
    ]
}

fn collections() -> Vec<Case> {
    let labelled = |name: &str, app: &str| with(config_map(name, "1"), "/metadata/labels/app", app);
    let mine = "labelSelector=app";
    vec![
        case(
            "config maps by label",
            [
                post(CONFIG_MAPS, labelled("c1", "x")),
                post(CONFIG_MAPS, labelled("c2", "y")),
                post(CONFIG_MAPS, labelled("c3", "x")),
                delete(format!("{CONFIG_MAPS}?labelSelector=app%3Dx"), Value::Null),
                get(format!("{CONFIG_MAPS}?{mine}")),
                delete(format!("{CONFIG_MAPS}?labelSelector=app%3Dnone"), Value::Null),
            ],
        ),
        case(
            "config maps by field",
            [
                post(CONFIG_MAPS, labelled("c1", "x")),
                post(CONFIG_MAPS, labelled("c2", "x")),
                delete(format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dc1"), Value::Null),
                get(format!("{CONFIG_MAPS}?{mine}")),
            ],
        ),
        case(
            "pods, with grace and without",
            [
                post(PODS, bound("a")),
                post(PODS, pod("b")),
                delete(PODS, grace(9)),
                get(PODS),
                delete(PODS, grace(0)),
                get(PODS),
            ],
        ),
        case(
            "a dry run",
            [
                post(CONFIG_MAPS, labelled("c1", "x")),
                delete(format!("{CONFIG_MAPS}?dryRun=All&{mine}"), Value::Null),
                get(format!("{CONFIG_MAPS}?{mine}")),
            ],
        ),
        case("kinds that have none", [delete(SERVICES, Value::Null)]),
    ]
}

fn others() -> Vec<Case> {
    vec![
        case(
            "options that are none",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                delete(format!("{CONFIG_MAPS}/c"), json!({"kind": "Pod", "apiVersion": "v1"})),
                delete(format!("{CONFIG_MAPS}/c"), json!({"gracePeriodSeconds": "soon"})),
                delete(format!("{CONFIG_MAPS}/c?gracePeriodSeconds=soon"), Value::Null),
                delete(format!("{CONFIG_MAPS}/c"), json!({"kind": "DeleteOptions", "apiVersion": "v1"})),
            ],
        ),
        case(
            "grace means nothing to a config map",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                delete(format!("{CONFIG_MAPS}/c"), grace(30)),
                get(format!("{CONFIG_MAPS}/c")),
            ],
        ),
    ]
}
