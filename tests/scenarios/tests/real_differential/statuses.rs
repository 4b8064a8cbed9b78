//! The status subresource of pods: what it takes, what it leaves alone, what it refuses.

use serde_json::{Value, json};

use crate::case::{Case, PODS, bound, case, get, merge, post, put_back, strategic, with};

fn status(changes: Value) -> Value {
    json!({"status": changes})
}

fn running() -> Value {
    json!({
        "phase": "Running", "podIP": "192.0.2.7", "podIPs": [{"ip": "192.0.2.7"}], "hostIP": "192.0.2.10",
        "startTime": "2020-01-01T00:00:00Z", "observedGeneration": 1,
        "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1, "lastTransitionTime": "2020-01-01T00:00:00Z"}],
        "containerStatuses": [{
            "name": "a", "ready": true, "started": true, "restartCount": 0, "image": "x:1", "imageID": "x",
            "state": {"running": {"startedAt": "2020-01-01T00:00:00Z"}},
        }],
    })
}

fn ended(code: i32) -> Value {
    json!([{
        "name": "a", "ready": false, "restartCount": 0, "image": "x:1", "imageID": "x",
        "state": {"terminated": {"exitCode": code, "startedAt": "2020-01-01T00:00:00Z", "finishedAt": "2020-01-01T00:01:00Z"}},
    }])
}

pub(crate) fn cases() -> Vec<Case> {
    let a = || format!("{PODS}/a/status");
    let with_policy = |policy: &str| with(bound("a"), "/spec/restartPolicy", policy);
    let alive = || json!([{"name": "a", "ready": true, "restartCount": 1, "image": "x:1", "imageID": "x", "state": {"running": {}}}]);
    vec![
        case(
            "a status as a kubelet writes it",
            [
                post(PODS, bound("a")),
                get(a()),
                strategic(a(), status(running())),
                strategic(a(), status(running())),
                merge(a(), status(json!({"message": "m", "reason": "R"}))),
                merge(a(), status(json!({"message": null}))),
            ],
        ),
        case(
            "a whole status by update",
            [
                post(PODS, bound("a")),
                put_back(a(), 1, [("/status", running())]),
                put_back(a(), 1, [("/status", running())]),
                put_back(a(), 2, [("/status", json!({"phase": "Failed"}))]),
            ],
        ),
        case(
            "spec and labels by way of the status",
            [
                post(PODS, bound("a")),
                merge(
                    a(),
                    json!({"metadata": {"labels": {"x": "1"}, "annotations": {"y": "1"}}, "spec": {"nodeName": "other"}, "status": {"phase": "Running"}}),
                ),
                merge(
                    a(),
                    json!({"metadata": {"finalizers": ["example.com/f"], "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "1b4e28ba-2fa1-11d2-883f-0016d3cca427"}]}}),
                ),
            ],
        ),
        case(
            "the status by way of the pod",
            [
                post(PODS, bound("a")),
                merge(
                    format!("{PODS}/a"),
                    json!({"metadata": {"labels": {"x": "1"}}, "status": {"phase": "Running"}}),
                ),
                put_back(
                    format!("{PODS}/a"),
                    2,
                    [("/status", running()), ("/metadata/labels/y", json!("1"))],
                ),
            ],
        ),
        case(
            "a UID in the patch",
            [
                post(PODS, bound("a")),
                strategic(a(), json!({"metadata": {"uid": "other"}, "status": {"phase": "Running"}})),
                strategic(
                    a(),
                    json!({"metadata": {"uid": "{1:/metadata/uid}"}, "status": {"phase": "Running"}}),
                ),
                put_back(
                    a(),
                    1,
                    [("/metadata/uid", json!("other")), ("/metadata/resourceVersion", Value::Null)],
                ),
            ],
        ),
        case(
            "an earlier version",
            [
                post(PODS, bound("a")),
                strategic(a(), status(running())),
                strategic(
                    a(),
                    json!({"metadata": {"resourceVersion": "{1:/metadata/resourceVersion}"}, "status": {"phase": "Failed"}}),
                ),
            ],
        ),
        case(
            "the quality of service is settled",
            [
                post(PODS, bound("a")),
                merge(a(), status(json!({"qosClass": "Guaranteed"}))),
                merge(a(), status(json!({"qosClass": null}))),
            ],
        ),
        case(
            "a generation once observed stays",
            [
                post(PODS, bound("a")),
                strategic(a(), status(running())),
                merge(a(), status(json!({"observedGeneration": null}))),
                merge(a(), status(json!({"observedGeneration": 0}))),
                merge(a(), status(json!({"observedGeneration": 7}))),
                merge(a(), status(json!({"observedGeneration": -1}))),
            ],
        ),
        case(
            "a container that ended for good stays ended",
            [
                post(PODS, with_policy("Never")),
                strategic(a(), status(json!({"phase": "Running", "containerStatuses": ended(0)}))),
                strategic(a(), status(json!({"containerStatuses": alive()}))),
                merge(a(), status(json!({"containerStatuses": alive()}))),
            ],
        ),
        case(
            "one that failed may run again where failures are retried",
            [
                post(PODS, with_policy("OnFailure")),
                merge(a(), status(json!({"phase": "Running", "containerStatuses": ended(1)}))),
                merge(a(), status(json!({"containerStatuses": alive()}))),
                merge(a(), status(json!({"containerStatuses": ended(0)}))),
                merge(a(), status(json!({"containerStatuses": alive()}))),
            ],
        ),
        case(
            "one of a pod that always restarts may run again",
            [
                post(PODS, bound("a")),
                merge(a(), status(json!({"phase": "Running", "containerStatuses": ended(0)}))),
                merge(a(), status(json!({"containerStatuses": alive()}))),
            ],
        ),
        case(
            "a phase may go back",
            [
                post(PODS, bound("a")),
                merge(a(), status(json!({"phase": "Succeeded"}))),
                merge(a(), status(json!({"phase": "Running"}))),
                merge(a(), status(json!({"phase": "Dreaming"}))),
                merge(a(), status(json!({"phase": null}))),
            ],
        ),
        case(
            "addresses that are none",
            [
                post(PODS, bound("a")),
                merge(a(), status(json!({"podIP": "192.0.2.7"}))),
                merge(a(), status(json!({"podIP": "192.0.2.7", "podIPs": [{"ip": "192.0.2.8"}]}))),
                merge(a(), status(json!({"podIPs": [{"ip": "nowhere"}]}))),
                merge(a(), status(json!({"podIPs": [{"ip": "192.0.2.8"}, {"ip": "192.0.2.9"}]}))),
                merge(a(), status(json!({"hostIPs": [{"ip": "192.0.2.8"}]}))),
            ],
        ),
        case(
            "types that are wrong",
            [
                post(PODS, bound("a")),
                merge(a(), status(json!({"startTime": "yesterday"}))),
                merge(a(), status(json!({"conditions": {}}))),
                merge(a(), status(json!({"phase": 7}))),
            ],
        ),
        case("a pod that is not there", [strategic(a(), status(running()))]),
        case("no status at all", [post(PODS, bound("a")), merge(a(), json!({"status": null}))]),
    ]
}
