//! Namespaces.

use serde_json::{Value, json};

use crate::case::{
    CONFIG_MAPS, Case, NAMESPACES, PODS, case, config_map, delete, get, merge, named, pod, post, put_back,
    with,
};

pub(crate) fn cases() -> Vec<Case> {
    let (other, here) = (|| format!("{NAMESPACES}/{{ns}}-other"), || format!("{NAMESPACES}/{{ns}}"));
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": named(name)});
    vec![
        case(
            "a namespace",
            [
                post(NAMESPACES, namespace("{ns}-other")),
                get(other()),
                post(NAMESPACES, namespace("{ns}-other")),
                delete(other(), Value::Null),
            ],
        ),
        case(
            "names that are none",
            [
                post(NAMESPACES, namespace("Upper")),
                post(NAMESPACES, namespace("a.b")),
                post(NAMESPACES, namespace(&"n".repeat(64))),
                post(NAMESPACES, json!({"metadata": {}})),
            ],
        ),
        case(
            "labels",
            [
                merge(here(), json!({"metadata": {"labels": {"x": "1"}}})),
                merge(here(), json!({"metadata": {"labels": {"kubernetes.io/metadata.name": "other"}}})),
                merge(here(), json!({"metadata": {"labels": null}})),
            ],
        ),
        case(
            "finalizers are not changed by an update",
            [
                get(here()),
                merge(here(), json!({"spec": {"finalizers": []}})),
                merge(here(), json!({"status": {"phase": "Terminating"}})),
            ],
        ),
        case(
            "an ending namespace takes nothing new",
            [
                post(
                    CONFIG_MAPS,
                    with(config_map("held", "1"), "/metadata/finalizers", json!(["example.com/f"])),
                ),
                delete(here(), Value::Null),
                get(here()).until("/status/phase", "Terminating"),
                post(PODS, pod("a")),
                post(CONFIG_MAPS, config_map("d", "1")),
                get(format!("{CONFIG_MAPS}/held")).until("/metadata/deletionGracePeriodSeconds", 0),
                merge(format!("{CONFIG_MAPS}/held"), json!({"metadata": {"finalizers": null}})),
                get(here()).until("/reason", "NotFound"),
            ],
        ),
        case(
            "a finalizer of one's own by way of finalize",
            [
                get(here()),
                put_back(
                    format!("{NAMESPACES}/{{ns}}/finalize"),
                    1,
                    [("/spec/finalizers", json!(["kubernetes", "example.com/f"]))],
                ),
                put_back(
                    format!("{NAMESPACES}/{{ns}}/finalize"),
                    2,
                    [("/spec/finalizers", json!(["kubernetes"]))],
                ),
            ],
        ),
        case(
            "namespaces by field",
            [
                get(format!("{NAMESPACES}?fieldSelector=metadata.name%3D{{ns}}")),
                get(format!("{NAMESPACES}?fieldSelector=metadata.name%3D{{ns}},status.phase%3DActive")),
                get(format!("{NAMESPACES}?fieldSelector=metadata.name%3D{{ns}},status.phase%3DTerminating")),
            ],
        ),
        case(
            "namespaces that stay",
            [
                delete(format!("{NAMESPACES}/default"), Value::Null),
                delete(format!("{NAMESPACES}/kube-system"), Value::Null),
            ],
        ),
        case(
            "what is not there",
            [get(format!("{NAMESPACES}/nowhere")), delete(format!("{NAMESPACES}/nowhere"), Value::Null)],
        ),
    ]
}
