//! Forms of answers, and discovery.

use serde_json::{Value, json};

use crate::case::{
    CONFIG_MAPS, Case, NODES, PODS, Step, bound, case, config_map, get, pod, post, strategic, with,
};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn accepting(step: Step, form: &str) -> Step {
    step.header("accept", form)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = forms();
    cases.extend(discovery());
    cases
}

fn forms() -> Vec<Case> {
    let running = json!({"status": {
        "phase": "Running", "podIP": "192.0.2.7", "podIPs": [{"ip": "192.0.2.7"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "a", "ready": true, "restartCount": 2, "image": "x:1", "imageID": "x", "state": {"running": {}}}],
    }});
    let waiting = json!({"status": {"containerStatuses": [
        {"name": "a", "ready": false, "restartCount": 0, "image": "x:1", "imageID": "", "state": {"waiting": {"reason": "ErrImagePull"}}}]}});
    let partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let partial_list = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    vec![
        case(
            "pods as a table",
            [
                post(PODS, bound("a")),
                strategic(format!("{PODS}/a/status"), running),
                post(PODS, bound("b")),
                strategic(format!("{PODS}/b/status"), waiting),
                accepting(get(PODS), TABLE),
                accepting(get(format!("{PODS}?includeObject=None")), TABLE),
                accepting(get(format!("{PODS}/a?includeObject=Object")), TABLE),
                accepting(get(format!("{PODS}?includeObject=Some")), TABLE),
            ],
        ),
        case(
            "config maps as a table",
            [post(CONFIG_MAPS, config_map("c", "1")), accepting(get(format!("{CONFIG_MAPS}/c")), TABLE)],
        ),
        case(
            "a table of nothing",
            [accepting(get(PODS), TABLE), accepting(get(format!("{PODS}/missing")), TABLE)],
        ),
        case(
            "metadata only",
            [
                post(PODS, bound("a")),
                accepting(get(format!("{PODS}/a")), partial),
                accepting(get(PODS), partial_list),
                accepting(get(PODS), partial),
                accepting(get(format!("{PODS}/a")), partial_list),
            ],
        ),
        case(
            "the first form that is had",
            [
                post(PODS, pod("a")),
                accepting(get(format!("{PODS}/a")), "text/plain"),
                accepting(get(format!("{PODS}/a")), "text/plain, */*"),
                accepting(get(format!("{PODS}/a")), "application/json;as=Chair;v=v1;g=meta.k8s.io"),
                accepting(get(format!("{PODS}/a")), &format!("{TABLE}, application/json")),
                accepting(get(format!("{PODS}/a")), &format!("{partial}, application/json")),
            ],
        ),
        case(
            "yaml is taken",
            [
                Step {
                    body: crate::case::Body::Text(
                        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata: {a: '1'}\n".to_owned(),
                    ),
                    ..post(CONFIG_MAPS, Value::Null)
                }
                .content("application/yaml"),
                Step { body: crate::case::Body::Text("a: [\n".to_owned()), ..post(CONFIG_MAPS, Value::Null) }
                    .content("application/yaml"),
            ],
        ),
        case(
            "a made object as a table",
            [accepting(post(PODS, with(pod("a"), "/metadata/labels", json!({"x": "1"}))), TABLE)],
        ),
    ]
}

fn discovery() -> Vec<Case> {
    vec![
        case("health", [get("/healthz"), get("/livez"), get("/readyz")]),
        case("versions of the core", [get("/api")]),
        case(
            "paths that lead nowhere",
            [
                get("/nowhere"),
                get("/api/v9"),
                get("/apis/nowhere.example"),
                get("/apis/nowhere.example/v1"),
                get("/apis/apps/v9"),
                get("/api/v1/gadgets"),
                get("/api/v1/namespaces/{ns}/gadgets"),
                get("/apis/apps/v1/pods"),
                get("/api/v1/namespaces/{ns}/nodes"),
                get(format!("{PODS}/a/gadget")),
            ],
        ),
        case("a group", [get("/apis/coordination.k8s.io/v1"), get("/apis/policy/v1")]),
        case(
            "single things of nodes",
            [get(format!("{NODES}/missing")), get(format!("{NODES}/missing/status"))],
        ),
    ]
}
