//! Nodes, leases and events: what a kubelet writes besides pods.

use serde_json::{Value, json};

use crate::case::{
    Case, EVENTS, LEASES, NODES, case, delete, get, json_patch, merge, named, post, put_back, strategic, with,
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = nodes();
    cases.extend(leases());
    cases.extend(events());
    cases
}

fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "{ns}", "labels": {"kubernetes.io/hostname": "x"}},
        // Spared by the controllers that judge nodes by their heartbeats.
        "spec": {"taints": [{"key": "virtual-kubelet.io/provider", "value": "mock", "effect": "NoSchedule"}]},
    })
}

fn nodes() -> Vec<Case> {
    let (n, status) = (|| format!("{NODES}/{{ns}}"), || format!("{NODES}/{{ns}}/status"));
    let gone = || delete(format!("{NODES}/{{ns}}"), Value::Null);
    let capacity =
        json!({"capacity": {"cpu": "4", "memory": "16Gi", "pods": "110"}, "allocatable": {"cpu": "4000m"}});
    vec![
        case("a node", [post(NODES, node()), post(NODES, node()), gone(), get(n())]),
        case(
            "a node that comes with a status",
            [
                post(
                    NODES,
                    with(
                        node(),
                        "/status",
                        json!({"capacity": {"cpu": "4"}, "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}),
                    ),
                ),
                gone(),
            ],
        ),
        case(
            "a status",
            [
                post(NODES, node()),
                strategic(status(), json!({"status": capacity})),
                strategic(status(), json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})),
                strategic(
                    status(),
                    json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}),
                ),
                strategic(status(), json!({"status": {"addresses": [{"type": "Hostname", "address": "x"}]}})),
                strategic(
                    status(),
                    json!({"status": {"addresses": [{"$patch": "replace"}, {"type": "Hostname", "address": "y"}]}}),
                ),
                strategic(
                    status(),
                    json!({"metadata": {"labels": {"by": "status"}}, "spec": {"unschedulable": true}, "status": {}}),
                ),
                gone(),
            ],
        ),
        case(
            "labels, annotations and taints by patch",
            [
                post(NODES, node()),
                strategic(n(), json!({"metadata": {"labels": {"a": "1"}, "annotations": {"b": "2"}}})),
                strategic(n(), json!({"metadata": {"labels": {"a": null}}})),
                gone(),
            ],
        ),
        case(
            "a provider ID is set once",
            [
                post(NODES, node()),
                merge(n(), json!({"spec": {"providerID": "mock://a"}})),
                merge(n(), json!({"spec": {"providerID": "mock://b"}})),
                merge(n(), json!({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}})),
                gone(),
            ],
        ),
        case(
            "unschedulable, and by field",
            [
                post(NODES, node()),
                merge(n(), json!({"spec": {"unschedulable": true}})),
                merge(n(), json!({"spec": {"unschedulable": false}})),
                get(format!("{NODES}?fieldSelector=metadata.name%3D{{ns}},spec.unschedulable%3Dtrue")),
                gone(),
            ],
        ),
        case(
            "nodes that are none",
            [
                post(NODES, with(node(), "/metadata/name", "Upper")),
                post(NODES, with(node(), "/spec/taints", json!([{"key": "a", "effect": "Whatever"}]))),
                post(NODES, with(node(), "/spec/taints", json!([{"key": "a b", "effect": "NoSchedule"}]))),
                post(
                    NODES,
                    with(
                        node(),
                        "/spec/taints",
                        json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule", "value": "x"}]),
                    ),
                ),
                post(NODES, with(node(), "/metadata/namespace", "x")),
            ],
        ),
        case(
            "status values that are none",
            [
                post(NODES, node()),
                merge(status(), json!({"status": {"capacity": {"cpu": "lots"}}})),
                merge(status(), json!({"status": {"capacity": {"pods": "1.5"}}})),
                merge(status(), json!({"status": {"conditions": "x"}})),
                gone(),
            ],
        ),
        case(
            "a UID in a patch",
            [
                post(NODES, node()),
                merge(n(), json!({"metadata": {"uid": "other", "labels": {"x": "1"}}})),
                strategic(status(), json!({"metadata": {"uid": "other"}, "status": {"phase": "x"}})),
                delete(n(), json!({"preconditions": {"uid": "other"}})),
                gone(),
            ],
        ),
        case(
            "an update with an old version",
            [
                post(NODES, node()),
                merge(n(), json!({"metadata": {"labels": {"x": "1"}}})),
                put_back(n(), 1, [("/metadata/labels/y", json!("1"))]),
                gone(),
            ],
        ),
    ]
}

fn leases() -> Vec<Case> {
    let l = || format!("{LEASES}/l");
    let lease = || {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": named("l"),
            "spec": {"holderIdentity": "n", "leaseDurationSeconds": 40, "renewTime": "2020-01-01T00:00:00.123456Z"},
        })
    };
    vec![
        case(
            "a lease is made and renewed",
            [
                post(LEASES, lease()),
                put_back(l(), 1, [("/spec/renewTime", json!("2020-01-01T00:00:10.000000Z"))]),
                put_back(l(), 1, [("/spec/renewTime", json!("2020-01-01T00:00:20.000000Z"))]),
                merge(l(), json!({"spec": {"renewTime": "2020-01-01T00:00:30Z"}})),
                json_patch(l(), json!([{"op": "replace", "path": "/spec/holderIdentity", "value": "m"}])),
            ],
        ),
        case(
            "an owner",
            [post(
                LEASES,
                with(
                    lease(),
                    "/metadata/ownerReferences",
                    json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1b4e28ba-2fa1-11d2-883f-0016d3cca427"}]),
                ),
            )],
        ),
        case(
            "leases that are none",
            [
                post(LEASES, with(lease(), "/spec/leaseDurationSeconds", 0)),
                post(LEASES, with(lease(), "/spec/leaseDurationSeconds", "long")),
                post(LEASES, with(lease(), "/spec/renewTime", "2020-01-01")),
                post(LEASES, with(lease(), "/spec/leaseTransitions", -1)),
                post(LEASES, with(lease(), "/spec", Value::Null)),
            ],
        ),
        case("a lease's end", [post(LEASES, lease()), delete(l(), Value::Null), get(l())]),
    ]
}

fn event(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": named(name), "reason": "Started", "message": "m", "type": "Normal",
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "{ns}", "name": "a", "uid": "u"},
        "source": {"component": "kubelet", "host": "n"}, "count": 1,
        "firstTimestamp": "2020-01-01T00:00:00Z", "lastTimestamp": "2020-01-01T00:00:00Z",
    })
}

fn events() -> Vec<Case> {
    let e = || format!("{EVENTS}/e");
    let series = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": named("s"), "eventTime": "2020-01-01T00:00:00.000000Z",
        "reportingController": "vk", "reportingInstance": "vk-1", "action": "Starting", "reason": "Started", "type": "Normal",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "{ns}", "name": "a"}, "note": "n",
    });
    let newer = "/apis/events.k8s.io/v1/namespaces/{ns}/events";
    vec![
        case(
            "an event, counted up",
            [
                post(EVENTS, event("e")),
                merge(e(), json!({"count": 2, "lastTimestamp": "2020-01-01T00:01:00Z"})),
                strategic(e(), json!({"count": 3})),
                get(e()),
                delete(e(), Value::Null),
            ],
        ),
        case(
            "events by field",
            [
                post(EVENTS, event("e")),
                post(EVENTS, with(event("f"), "/reason", "Killing")),
                get(format!("{EVENTS}?fieldSelector=involvedObject.uid%3Du,reason%3DStarted")),
                get(format!("{EVENTS}?fieldSelector=involvedObject.kind%3DPod,type!%3DNormal")),
                get(format!("{EVENTS}?fieldSelector=source%3Dkubelet,involvedObject.name%3Da")),
            ],
        ),
        case(
            "an event of the newer group",
            [
                post(newer, series.clone()),
                get(format!("{EVENTS}/s")),
                get(format!("{newer}/s")),
                post(EVENTS, event("e")),
                get(format!("{newer}/e")),
            ],
        ),
        case(
            "events that are none",
            [
                post(EVENTS, with(event("e"), "/involvedObject/namespace", "other")),
                post(EVENTS, with(event("e"), "/involvedObject", Value::Null)),
                post(EVENTS, with(event("e"), "/type", "Loud")),
                post(newer, with(series.clone(), "/eventTime", Value::Null)),
                post(newer, with(series, "/action", "")),
            ],
        ),
    ]
}
