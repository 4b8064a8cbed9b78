//! JSON patch, merge patch, strategic merge patch.

use serde_json::{Value, json};

use crate::case::{
    CONFIG_MAPS, Case, PODS, bound, case, config_map, get, json_patch, merge, patch, pod, post, strategic,
    with,
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = json_patches();
    cases.extend(merges());
    cases.extend(strategic_merges());
    cases.extend(common());
    cases
}

fn c() -> String {
    format!("{CONFIG_MAPS}/c")
}

fn json_patches() -> Vec<Case> {
    let made = || post(CONFIG_MAPS, config_map("c", "1"));
    let op = |op: &str, path: &str, value: Value| json!({"op": op, "path": path, "value": value});
    vec![
        case(
            "each operation",
            [
                made(),
                json_patch(
                    c(),
                    json!([
                        op("test", "/data/a", json!("1")), op("add", "/data/b", json!("2")), op("replace", "/data/a", json!("3")),
                        {"op": "copy", "from": "/data/a", "path": "/data/c"}, {"op": "move", "from": "/data/b", "path": "/data/d"},
                        op("add", "/metadata/annotations", json!({"x/y": "1"})), op("replace", "/metadata/annotations/x~1y", json!("2")),
                        {"op": "remove", "path": "/metadata/labels/app"},
                    ]),
                ),
            ],
        ),
        case(
            "a test that fails",
            [
                made(),
                json_patch(c(), json!([op("test", "/data/a", json!("2"))])),
                json_patch(c(), json!([op("test", "/data/none", json!("2"))])),
            ],
        ),
        case(
            "paths that lead nowhere",
            [
                made(),
                json_patch(c(), json!([{"op": "remove", "path": "/data/none"}])),
                json_patch(c(), json!([op("replace", "/data/none", json!("x"))])),
                json_patch(c(), json!([op("add", "/none/deep", json!("x"))])),
                json_patch(c(), json!([{"op": "move", "from": "/data/none", "path": "/data/b"}])),
                json_patch(c(), json!([{"op": "copy", "from": "/data/none", "path": "/data/b"}])),
                get(c()),
            ],
        ),
        case(
            "lists",
            [
                post(PODS, with(pod("p"), "/metadata/finalizers", json!(["example.com/a", "example.com/c"]))),
                json_patch(
                    format!("{PODS}/p"),
                    json!([
                        op("add", "/metadata/finalizers/1", json!("example.com/b")),
                        op("add", "/metadata/finalizers/-", json!("example.com/d"))
                    ]),
                ),
                json_patch(format!("{PODS}/p"), json!([{"op": "remove", "path": "/metadata/finalizers/9"}])),
                json_patch(format!("{PODS}/p"), json!([{"op": "remove", "path": "/metadata/finalizers"}])),
            ],
        ),
        case(
            "operations that are none",
            [
                made(),
                json_patch(c(), json!([{"op": "sing", "path": "/data"}])),
                json_patch(c(), json!([{"op": "add", "path": "/data/x"}])),
                json_patch(c(), json!([{"path": "/data/x"}])),
                json_patch(c(), json!({"data": {}})),
                json_patch(c(), json!([])),
                json_patch(c(), json!("text")),
            ],
        ),
        case(
            "a result that is none",
            [
                made(),
                json_patch(c(), json!([op("replace", "/data", json!("text"))])),
                json_patch(c(), json!([op("replace", "/metadata", json!(7))])),
            ],
        ),
    ]
}

fn merges() -> Vec<Case> {
    vec![
        case(
            "values set, replaced and removed",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                merge(c(), json!({"data": {"a": null, "b": "2"}, "metadata": {"annotations": {"x": "1"}}})),
                merge(c(), json!({"data": null})),
                merge(c(), json!({"data": {"z": "1"}, "immutable": null})),
                merge(c(), json!({})),
            ],
        ),
        case(
            "a list is replaced",
            [
                post(PODS, with(pod("p"), "/metadata/finalizers", json!(["example.com/a"]))),
                merge(format!("{PODS}/p"), json!({"metadata": {"finalizers": ["example.com/b"]}})),
                merge(format!("{PODS}/p"), json!({"metadata": {"finalizers": null}})),
            ],
        ),
        case(
            "bodies that are none",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                merge(c(), json!([])),
                merge(c(), json!("text")),
                merge(c(), json!({"data": 7})),
                merge(c(), json!({"data": {"a": 7}})),
                merge(c(), json!({"kind": "Secret"})),
                merge(c(), json!({"apiVersion": "v2"})),
            ],
        ),
    ]
}

fn strategic_merges() -> Vec<Case> {
    let p = || format!("{PODS}/p");
    let status = || format!("{PODS}/p/status");
    let conditions = |conditions: Value| json!({"status": {"conditions": conditions}});
    vec![
        case(
            "containers merge by name",
            [
                post(
                    PODS,
                    with(
                        pod("p"),
                        "/spec/containers",
                        json!([{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}]),
                    ),
                ),
                strategic(p(), json!({"spec": {"containers": [{"name": "b", "image": "y:2"}]}})),
                strategic(p(), json!({"spec": {"containers": [{"name": "c", "image": "z:1"}]}})),
                strategic(p(), json!({"spec": {"containers": [{"image": "z:1"}]}})),
            ],
        ),
        case(
            "conditions merge by type",
            [
                post(PODS, bound("p")),
                strategic(
                    status(),
                    conditions(
                        json!([{"type": "Ready", "status": "False"}, {"type": "example.com/x", "status": "True"}]),
                    ),
                ),
                strategic(status(), conditions(json!([{"type": "Ready", "status": "True", "reason": "R"}]))),
                strategic(status(), conditions(json!([{"$patch": "delete", "type": "example.com/x"}]))),
                strategic(
                    status(),
                    conditions(json!([{"$patch": "replace"}, {"type": "Only", "status": "True"}])),
                ),
                strategic(status(), conditions(json!([{"status": "True"}]))),
            ],
        ),
        case(
            "the order of a list can be set",
            [
                post(PODS, bound("p")),
                strategic(
                    status(),
                    conditions(json!([{"type": "A", "status": "True"}, {"type": "B", "status": "True"}])),
                ),
                strategic(
                    status(),
                    json!({"status": {"$setElementOrder/conditions": [{"type": "B"}, {"type": "A"}], "conditions": [{"type": "B", "status": "False"}]}}),
                ),
                strategic(
                    status(),
                    json!({"status": {"$setElementOrder/conditions": [{"type": "C"}, {"type": "A"}, {"type": "B"}], "conditions": [{"type": "C", "status": "True"}]}}),
                ),
            ],
        ),
        case(
            "finalizers merge as a set",
            [
                post(PODS, with(pod("p"), "/metadata/finalizers", json!(["example.com/a"]))),
                strategic(p(), json!({"metadata": {"finalizers": ["example.com/b"]}})),
                strategic(
                    p(),
                    json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}),
                ),
                strategic(p(), json!({"metadata": {"finalizers": null}})),
            ],
        ),
        case(
            "maps can be replaced and keys removed",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                strategic(c(), json!({"data": {"b": "2"}})),
                strategic(c(), json!({"data": {"a": null}})),
                strategic(c(), json!({"data": {"$patch": "replace", "z": "9"}})),
                strategic(c(), json!({"data": {"$patch": "delete"}})),
                strategic(c(), json!({"data": {"$patch": "sing"}})),
            ],
        ),
        case(
            "keys can be retained",
            [
                post(PODS, with(pod("p"), "/spec/volumes", json!([{"name": "v", "emptyDir": {}}]))),
                strategic(
                    p(),
                    json!({"spec": {"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}]}}),
                ),
            ],
        ),
        case(
            "tolerations are replaced as a whole",
            [
                post(PODS, pod("p")),
                strategic(p(), json!({"spec": {"tolerations": [{"key": "x", "operator": "Exists"}]}})),
            ],
        ),
        case(
            "pod addresses merge by address",
            [
                post(PODS, bound("p")),
                strategic(
                    status(),
                    json!({"status": {"podIP": "192.0.2.7", "podIPs": [{"ip": "192.0.2.7"}]}}),
                ),
                strategic(
                    status(),
                    json!({"status": {"podIP": "192.0.2.8", "podIPs": [{"ip": "192.0.2.8"}]}}),
                ),
                strategic(
                    status(),
                    json!({"status": {"podIP": "192.0.2.8", "podIPs": [{"$patch": "replace"}, {"ip": "192.0.2.8"}]}}),
                ),
            ],
        ),
        case(
            "bodies that are none",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                strategic(c(), json!([])),
                strategic(c(), json!("text")),
                strategic(c(), json!({"data": 7})),
                strategic(c(), json!({"data": {"a": 7}})),
            ],
        ),
    ]
}

fn common() -> Vec<Case> {
    let labels = || json!({"metadata": {"labels": {"x": "1"}}});
    vec![
        case(
            "a patch that changes nothing keeps the version",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                merge(c(), json!({"data": {"a": "1"}})),
                strategic(c(), json!({"data": {"a": "1"}})),
                json_patch(c(), json!([{"op": "replace", "path": "/data/a", "value": "1"}])),
            ],
        ),
        case(
            "an expected version",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                merge(
                    c(),
                    json!({"metadata": {"resourceVersion": "{1:/metadata/resourceVersion}"}, "data": {"a": "2"}}),
                ),
                merge(
                    c(),
                    json!({"metadata": {"resourceVersion": "{1:/metadata/resourceVersion}"}, "data": {"a": "3"}}),
                ),
                strategic(c(), json!({"metadata": {"resourceVersion": "1"}, "data": {"a": "3"}})),
                json_patch(
                    c(),
                    json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}]),
                ),
                merge(c(), json!({"metadata": {"resourceVersion": "word"}})),
            ],
        ),
        case(
            "what no patch may change",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                merge(c(), json!({"metadata": {"uid": "other"}})),
                merge(c(), json!({"metadata": {"uid": "{1:/metadata/uid}", "labels": {"y": "1"}}})),
                merge(c(), json!({"metadata": {"name": "other"}})),
                merge(c(), json!({"metadata": {"namespace": "other"}})),
                merge(
                    c(),
                    json!({"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z", "generation": 9}}),
                ),
                merge(c(), json!({"metadata": {"creationTimestamp": null}})),
            ],
        ),
        case(
            "content types that are none",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                patch(c(), "application/json", labels()),
                patch(c(), "text/plain", labels()),
                patch(c(), "", labels()),
                patch(c(), "application/merge-patch+json; charset=utf-8", labels()),
            ],
        ),
        case(
            "what is not there",
            [
                merge(c(), labels()),
                strategic(c(), labels()),
                json_patch(c(), json!([{"op": "add", "path": "/x", "value": 1}])),
            ],
        ),
        case(
            "a dry run",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                merge(format!("{CONFIG_MAPS}/c?dryRun=All"), json!({"data": {"a": "2"}})),
                get(c()),
            ],
        ),
        case(
            "unknown fields",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                merge(c(), json!({"bogus": 1})),
                merge(format!("{CONFIG_MAPS}/c?fieldValidation=Strict"), json!({"bogus": 1})),
                strategic(format!("{CONFIG_MAPS}/c?fieldValidation=Strict"), json!({"bogus": 1})),
                merge(format!("{CONFIG_MAPS}/c?fieldValidation=Ignore"), json!({"bogus": 1})),
                merge(format!("{CONFIG_MAPS}/c?fieldValidation=Perhaps"), json!({"bogus": 1})),
            ],
        ),
    ]
}
