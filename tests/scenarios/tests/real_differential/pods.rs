//! Making pods: defaults, admission, validation.

use serde_json::{Value, json};

use crate::case::{Case, PODS, bound, case, get, named, pod, post, with};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = defaults();
    cases.extend(admission());
    cases.extend(names());
    cases.extend(refused());
    cases
}

fn containers(containers: Value) -> Value {
    with(pod("a"), "/spec/containers", containers)
}

fn defaults() -> Vec<Case> {
    let full = json!([{
        "name": "a", "image": "app", "imagePullPolicy": "Never",
        "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP", "name": "dns"}],
        "env": [
            {"name": "PLAIN", "value": "x"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
        "readinessProbe": {"httpGet": {"port": 80}},
        "livenessProbe": {"tcpSocket": {"port": "dns"}, "periodSeconds": 5},
        "startupProbe": {"exec": {"command": ["true"]}},
        "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
    }]);
    let volumes = json!([
        {"name": "empty"},
        {"name": "map", "configMap": {"name": "m"}},
        {"name": "secret", "secret": {"secretName": "s"}},
        {"name": "host", "hostPath": {"path": "/x"}},
        {"name": "down", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "all", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t"}}, {"configMap": {"name": "m"}}]}},
    ]);
    let initialised = json!([{"name": "i", "image": "init:2"}, {"name": "side", "image": "s:1", "restartPolicy": "Always"}]);
    vec![
        case("a plain pod", [post(PODS, pod("a")), get(format!("{PODS}/a")), post(PODS, pod("a"))]),
        case("a pod bound by its maker", [post(PODS, bound("a"))]),
        case("containers with probes, ports and variables", [post(PODS, containers(full))]),
        case("volumes of many sources", [post(PODS, with(pod("a"), "/spec/volumes", volumes))]),
        case(
            "init containers and a sidecar",
            [post(PODS, with(pod("a"), "/spec/initContainers", initialised))],
        ),
        case(
            "pull policies follow tags",
            [post(
                PODS,
                containers(json!([
                    {"name": "a", "image": "x"}, {"name": "b", "image": "x:latest"}, {"name": "c", "image": "x:1"},
                    {"name": "d", "image": "host:5000/x"}, {"name": "e", "image": "x@sha256:0123456789012345678901234567890123456789012345678901234567890123"},
                ])),
            )],
        ),
        case(
            "ports of a pod in the host's network",
            [post(
                PODS,
                with(
                    containers(json!([{"name": "a", "image": "x:1", "ports": [{"containerPort": 80}]}])),
                    "/spec/hostNetwork",
                    true,
                ),
            )],
        ),
    ]
}

fn resources(resources: Value) -> Value {
    containers(json!([{"name": "a", "image": "x:1", "resources": resources}]))
}

fn admission() -> Vec<Case> {
    let tolerant = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]);
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "controller": true}]);
    vec![
        case(
            "a pod with a token",
            [post(PODS, with(pod("a"), "/spec/automountServiceAccountToken", Value::Null))],
        ),
        case(
            "tolerations are added to those there are",
            [
                post(PODS, with(pod("a"), "/spec/tolerations", tolerant)),
                post(PODS, with(pod("b"), "/spec/tolerations", json!([{"operator": "Exists"}]))),
            ],
        ),
        case(
            "quality of service follows resources",
            [
                post(
                    PODS,
                    with(
                        resources(json!({"limits": {"cpu": "1", "memory": "1Gi"}})),
                        "/metadata/name",
                        "guaranteed",
                    ),
                ),
                post(
                    PODS,
                    with(resources(json!({"requests": {"cpu": "100m"}})), "/metadata/name", "burstable"),
                ),
                post(
                    PODS,
                    with(
                        resources(
                            json!({"limits": {"cpu": "1500m", "memory": "1000000Ki"}, "requests": {"cpu": "1.5", "memory": "1Mi"}}),
                        ),
                        "/metadata/name",
                        "odd",
                    ),
                ),
            ],
        ),
        case(
            "priority classes",
            [
                post(PODS, with(pod("a"), "/spec/priorityClassName", "system-node-critical")),
                post(PODS, with(pod("b"), "/spec/priorityClassName", "missing")),
                post(PODS, with(pod("c"), "/spec/priority", 7)),
            ],
        ),
        case(
            "a service account that is missing",
            [post(PODS, with(pod("a"), "/spec/serviceAccountName", "nobody"))],
        ),
        case(
            "scheduling gates",
            [post(PODS, with(pod("a"), "/spec/schedulingGates", json!([{"name": "example.com/g"}])))],
        ),
        case(
            "a status sent along is not taken",
            [post(PODS, with(pod("a"), "/status", json!({"phase": "Running", "podIP": "192.0.2.1"})))],
        ),
        case(
            "system fields sent along are not taken",
            [post(
                PODS,
                with(
                    with(
                        pod("a"),
                        "/metadata",
                        json!({
                            "name": "a", "uid": "mine", "generation": 7, "creationTimestamp": "2020-01-01T00:00:00Z",
                            "deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3, "selfLink": "/x",
                        }),
                    ),
                    "/spec/terminationGracePeriodSeconds",
                    0,
                ),
            )],
        ),
        case(
            "owners and finalizers",
            [post(
                PODS,
                with(
                    with(pod("a"), "/metadata/ownerReferences", owner),
                    "/metadata/finalizers",
                    json!(["example.com/f"]),
                ),
            )],
        ),
        case(
            "dry run",
            [
                post(format!("{PODS}?dryRun=All"), pod("a")),
                get(format!("{PODS}/a")),
                post(format!("{PODS}?dryRun=Some"), pod("a")),
            ],
        ),
    ]
}

fn names() -> Vec<Case> {
    vec![
        case(
            "a generated name",
            [
                post(PODS, with(pod("a"), "/metadata", json!({"generateName": "web-"}))),
                post(PODS, with(pod("a"), "/metadata", json!({"generateName": "n".repeat(70)}))),
            ],
        ),
        case(
            "names that are none",
            [
                post(PODS, with(pod("a"), "/metadata", json!({}))),
                post(PODS, pod("Upper")),
                post(PODS, pod("-dash")),
                post(PODS, pod("a..b")),
                post(PODS, pod("under_score")),
                post(PODS, pod(&"n".repeat(254))),
                post(PODS, pod(&"n".repeat(253))),
            ],
        ),
        case(
            "labels and annotations that are none",
            [
                post(PODS, with(pod("a"), "/metadata/labels", json!({"bad key": "x"}))),
                post(PODS, with(pod("a"), "/metadata/labels", json!({"a": "bad value"}))),
                post(PODS, with(pod("a"), "/metadata/labels", json!({"a": "v".repeat(64)}))),
                post(PODS, with(pod("a"), "/metadata/annotations", json!({"bad key": "x"}))),
                post(PODS, with(pod("a"), "/metadata/finalizers", json!(["unqualified"]))),
            ],
        ),
        case("another namespace in the body", [post(PODS, with(pod("a"), "/metadata/namespace", "other"))]),
        case("a version on something new", [post(PODS, with(pod("a"), "/metadata/resourceVersion", "5"))]),
        case("the namespace in the body", [post(PODS, with(pod("a"), "/metadata/namespace", "{ns}"))]),
    ]
}

fn refused() -> Vec<Case> {
    let one = |container: Value| containers(json!([container]));
    vec![
        case(
            "no containers",
            [post(PODS, containers(json!([]))), post(PODS, with(pod("a"), "/spec", Value::Null))],
        ),
        case(
            "containers without name or image",
            [
                post(PODS, one(json!({"name": "a"}))),
                post(PODS, one(json!({"image": "x"}))),
                post(PODS, one(json!({"name": "Bad", "image": "x"}))),
                post(PODS, containers(json!([{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]))),
                post(PODS, one(json!({"name": "a", "image": " x"}))),
            ],
        ),
        case(
            "values out of a list",
            [
                post(PODS, with(pod("a"), "/spec/restartPolicy", "Sometimes")),
                post(PODS, with(pod("a"), "/spec/dnsPolicy", "Guess")),
                post(PODS, one(json!({"name": "a", "image": "x", "imagePullPolicy": "Maybe"}))),
                post(PODS, one(json!({"name": "a", "image": "x", "terminationMessagePolicy": "Loud"}))),
            ],
        ),
        case(
            "numbers out of range",
            [
                post(PODS, one(json!({"name": "a", "image": "x", "ports": [{"containerPort": 0}]}))),
                post(PODS, one(json!({"name": "a", "image": "x", "ports": [{"containerPort": 65_536}]}))),
                post(PODS, with(pod("a"), "/spec/activeDeadlineSeconds", 0)),
                post(PODS, with(pod("a"), "/spec/terminationGracePeriodSeconds", -1)),
            ],
        ),
        case(
            "volumes and mounts that do not fit",
            [
                post(
                    PODS,
                    one(
                        json!({"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
                    ),
                ),
                post(PODS, with(pod("a"), "/spec/volumes", json!([{"name": "v"}, {"name": "v"}]))),
                post(PODS, with(pod("a"), "/spec/volumes", json!([{"name": "Bad"}]))),
            ],
        ),
        case(
            "variables that are none",
            [
                post(PODS, one(json!({"name": "a", "image": "x", "env": [{"value": "x"}]}))),
                post(PODS, one(json!({"name": "a", "image": "x", "env": [{"name": "a=b"}]}))),
                post(
                    PODS,
                    one(
                        json!({"name": "a", "image": "x", "env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
                    ),
                ),
                post(
                    PODS,
                    one(
                        json!({"name": "a", "image": "x", "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.bogus"}}}]}),
                    ),
                ),
            ],
        ),
        case(
            "quantities that are none",
            [
                post(PODS, resources(json!({"limits": {"cpu": "lots"}}))),
                post(PODS, resources(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}))),
                post(PODS, resources(json!({"limits": {"cpu": "-1"}}))),
                post(PODS, resources(json!({"limits": {"bogus": "1"}}))),
            ],
        ),
        case(
            "a pod into a namespace that is missing",
            [
                post("/api/v1/namespaces/nowhere/pods", pod("a")),
                post("/api/v1/namespaces/nowhere/pods", with(pod("a"), "/metadata", named("Bad"))),
            ],
        ),
    ]
}
