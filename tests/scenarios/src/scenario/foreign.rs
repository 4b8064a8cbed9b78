//! What others write into our pods.

use k8s_openapi::api::core::v1::{Pod, PodReadinessGate};
use kube::ResourceExt;
use serde_json::json;

use crate::agreement::agree;
use crate::pods::{Pods, condition, container, is_true, uid_of};
use crate::virtual_node::VirtualNode;
use crate::workload::{annotated, pod};
use crate::world::World;

const GATE: &str = "example.com/balancer";

fn gated(name: &str, node: &str) -> Pod {
    let mut pod = pod(name, node);
    if let Some(spec) = &mut pod.spec {
        spec.readiness_gates = Some(vec![PodReadinessGate { condition_type: GATE.to_owned() }]);
    }
    pod
}

/// A readiness gate holds a pod back until somebody else opens it, and stays open through our own writes.
pub async fn a_readiness_gate_is_others_to_open(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    pods.create(&gated("gated", &node.name)).await;
    let held = pods.until("gated", "has ready containers", |pod| is_true(pod, "ContainersReady")).await;
    let ready = condition(&held, "Ready").expect("a Ready condition");
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("ReadinessGatesNotReady")));

    let open = json!({"status": {"conditions": [{"type": GATE, "status": "True", "reason": "Theirs"}]}});
    pods.patch_status("gated", &open).await;
    let opened = pods.until_ready("gated").await;

    // A restart makes us write.
    assert!(node.backend.exit(&uid_of(&opened), "a", 1));
    let again = pods
        .until("gated", "was restarted and is Ready", |pod| {
            is_true(pod, "Ready") && container(pod).is_some_and(|c| c.restart_count == 1)
        })
        .await;
    let gate = condition(&again, GATE).expect("their condition is there");
    assert_eq!((gate.status.as_str(), gate.reason.as_deref()), ("True", Some("Theirs")));

    let shut = json!({"status": {"conditions": [{"type": GATE, "status": "False"}]}});
    pods.patch_status("gated", &shut).await;
    pods.until("gated", "is held back again", |pod| !is_true(pod, "Ready")).await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// Labels, annotations and conditions of others survive our status writes.
pub async fn what_others_wrote_into_a_pod_stays(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let created = pods.create(&annotated("theirs", &node.name, &[("start-latency", "2s")])).await;
    let patch = json!({
        "metadata": {"labels": {"example.com/owner": "them"}, "annotations": {"example.com/note": "x"}},
    });
    pods.patch("theirs", &patch).await;
    let foreign = json!({"status": {"conditions": [
        {"type": "example.com/Seen", "status": "Unknown", "reason": "Theirs", "message": "m"},
    ]}});
    pods.patch_status("theirs", &foreign).await;
    let check = |pod: &Pod| {
        assert_eq!(pod.labels().get("example.com/owner").map(String::as_str), Some("them"));
        assert_eq!(pod.annotations().get("example.com/note").map(String::as_str), Some("x"));
        let seen = condition(pod, "example.com/Seen").expect("their condition is there");
        assert_eq!(
            (seen.status.as_str(), seen.reason.as_deref(), seen.message.as_deref()),
            ("Unknown", Some("Theirs"), Some("m"))
        );
    };
    check(&pods.until_ready("theirs").await);
    assert!(node.backend.exit(&uid_of(&created), "a", 1));
    check(
        &pods
            .until("theirs", "was restarted", |pod| container(pod).is_some_and(|c| c.restart_count == 1))
            .await,
    );
    agree(world, &node).await;
    node.remove(world).await;
}
