//! Updates of whole objects, and what may change of a pod.

use serde_json::{Value, json};

use crate::case::{
    CONFIG_MAPS, Case, LEASES, PODS, bound, case, config_map, get, json_patch, merge, pod, post, put,
    put_back, with,
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = of_pods();
    cases.extend(of_others());
    cases
}

fn of_pods() -> Vec<Case> {
    let a = || format!("{PODS}/a");
    let change = |name: &'static str, pointer: &'static str, value: Value| {
        case(name, [post(PODS, bound("a")), put_back(format!("{PODS}/a"), 1, [(pointer, value)])])
    };
    vec![
        change("another image", "/spec/containers/0/image", json!("y:2")),
        change("no image", "/spec/containers/0/image", json!("")),
        change("another command", "/spec/containers/0/command", json!(["x"])),
        change("another container", "/spec/containers", json!([{"name": "b", "image": "x:1"}])),
        change("no node", "/spec/nodeName", Value::Null),
        change("another node", "/spec/nodeName", json!("elsewhere")),
        change("a deadline", "/spec/activeDeadlineSeconds", json!(60)),
        change("labels", "/metadata/labels", json!({"x": "1"})),
        change("another restart policy", "/spec/restartPolicy", json!("Never")),
        change("more grace", "/spec/terminationGracePeriodSeconds", json!(60)),
        change("more tolerations", "/spec/tolerations", json!([{"operator": "Exists"}])),
        case(
            "deadlines only shrink",
            [
                post(PODS, with(bound("a"), "/spec/activeDeadlineSeconds", 60)),
                merge(a(), json!({"spec": {"activeDeadlineSeconds": 30}})),
                merge(a(), json!({"spec": {"activeDeadlineSeconds": 90}})),
                merge(a(), json!({"spec": {"activeDeadlineSeconds": null}})),
            ],
        ),
        case(
            "tolerations are only added",
            [
                post(PODS, bound("a")),
                json_patch(
                    a(),
                    json!([{"op": "add", "path": "/spec/tolerations/-", "value": {"key": "x", "operator": "Exists"}}]),
                ),
                json_patch(a(), json!([{"op": "remove", "path": "/spec/tolerations/0"}])),
            ],
        ),
        case(
            "gates only go",
            [
                post(
                    PODS,
                    with(
                        pod("a"),
                        "/spec/schedulingGates",
                        json!([{"name": "example.com/g"}, {"name": "example.com/h"}]),
                    ),
                ),
                merge(a(), json!({"spec": {"schedulingGates": [{"name": "example.com/h"}]}})),
                merge(a(), json!({"spec": {"nodeSelector": {"x": "y"}}})),
                merge(a(), json!({"spec": {"schedulingGates": [{"name": "example.com/i"}]}})),
                merge(a(), json!({"spec": {"schedulingGates": null}})),
            ],
        ),
        case(
            "the generation counts changes of the spec",
            [
                post(PODS, bound("a")),
                merge(a(), json!({"metadata": {"labels": {"x": "1"}}})),
                merge(a(), json!({"spec": {"activeDeadlineSeconds": 30}})),
                merge(a(), json!({"metadata": {"generation": 77}})),
            ],
        ),
        case(
            "ephemeral containers are only added",
            [
                post(PODS, bound("a")),
                merge(
                    format!("{PODS}/a/ephemeralcontainers"),
                    json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "d:1"}]}}),
                ),
                merge(format!("{PODS}/a/ephemeralcontainers"), json!({"spec": {"ephemeralContainers": []}})),
                merge(a(), json!({"spec": {"ephemeralContainers": [{"name": "other", "image": "d:1"}]}})),
            ],
        ),
        case(
            "resources change by way of resize only",
            [
                post(
                    PODS,
                    with(bound("a"), "/spec/containers/0/resources", json!({"requests": {"cpu": "100m"}})),
                ),
                merge(
                    a(),
                    json!({"spec": {"containers": [{"name": "a", "image": "registry.example/app:1", "resources": {"requests": {"cpu": "200m"}}}]}}),
                ),
                put_back(
                    format!("{PODS}/a/resize"),
                    1,
                    [("/spec/containers/0/resources", json!({"requests": {"cpu": "200m"}}))],
                ),
            ],
        ),
        case("a pod is not made by an update", [put(a(), bound("a"))]),
    ]
}

fn of_others() -> Vec<Case> {
    let c = || format!("{CONFIG_MAPS}/c");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}});
    vec![
        case(
            "with the version, without, and with an old one",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                put_back(c(), 1, [("/data/a", json!("2"))]),
                put_back(c(), 1, [("/data/a", json!("3"))]),
                put(c(), config_map("c", "4")),
                put_back(c(), 1, [("/metadata/resourceVersion", json!("0"))]),
                put_back(c(), 1, [("/metadata/resourceVersion", json!("word"))]),
            ],
        ),
        case(
            "an update that changes nothing keeps the version",
            [post(CONFIG_MAPS, config_map("c", "1")), put_back(c(), 1, []), put(c(), config_map("c", "1"))],
        ),
        case(
            "another UID",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                put_back(c(), 1, [("/metadata/uid", json!("other"))]),
                put_back(c(), 1, [("/metadata/uid", Value::Null), ("/data/b", json!("2"))]),
            ],
        ),
        case(
            "names that do not fit",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                put(c(), config_map("other", "1")),
                put(c(), config_map("", "1")),
                put(c(), with(config_map("c", "1"), "/metadata/namespace", "other")),
            ],
        ),
        case(
            "what is not there",
            [
                put(c(), config_map("c", "1")),
                put(c(), with(config_map("c", "1"), "/metadata/uid", "other")),
                put(c(), with(config_map("c", "1"), "/metadata/resourceVersion", "5")),
            ],
        ),
        case(
            "a lease is made by an update",
            [
                put(format!("{LEASES}/l"), lease.clone()),
                put(format!("{LEASES}/l"), lease.clone()),
                put(
                    format!("{LEASES}/m"),
                    with(with(lease.clone(), "/metadata/name", "m"), "/metadata/uid", "other"),
                ),
                put(
                    format!("{LEASES}/n"),
                    with(with(lease, "/metadata/name", "n"), "/metadata/resourceVersion", "5"),
                ),
            ],
        ),
        case("an update of a collection", [put(CONFIG_MAPS, config_map("c", "1"))]),
        case(
            "a dry run",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                put(format!("{CONFIG_MAPS}/c?dryRun=All"), config_map("c", "2")),
                get(c()),
            ],
        ),
        case(
            "finalizers and owners by update",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                put_back(c(), 1, [("/metadata/finalizers", json!(["example.com/f"]))]),
                merge(c(), json!({"metadata": {"finalizers": ["bad"]}})),
                merge(c(), json!({"metadata": {"ownerReferences": [{"kind": "Pod", "name": "x"}]}})),
            ],
        ),
    ]
}
