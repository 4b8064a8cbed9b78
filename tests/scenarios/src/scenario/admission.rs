//! Who is let in, and who is not.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::json;
use tokio::time::sleep;

use crate::agreement::agree;
use crate::pods::{Pods, phase_of, status_of};
use crate::virtual_node::{VirtualNode, backend, config};
use crate::workload::pod;
use crate::world::World;

/// A pod that asks for so much of the processor.
fn asking(name: &str, node: &str, cpu: &str) -> Pod {
    let mut pod = pod(name, node);
    if let Some(spec) = &mut pod.spec {
        let resources = serde_json::from_value(json!({"requests": {"cpu": cpu}}));
        spec.containers[0].resources = Some(resources.expect("resources"));
    }
    pod
}

fn cpu(amount: &str) -> (String, Quantity) {
    ("cpu".to_owned(), Quantity(amount.to_owned()))
}

/// Pods that wait for a node are let in as they were created, as long as there is room; who finds none is refused in a
/// kubelet's words, and what ends makes room.
pub async fn pods_are_let_in_as_they_were_created_while_there_is_room(world: &World) {
    let mut config = config(world);
    config.capacity = [cpu("1")].into();
    let pods = Pods::of(world);
    // Named against the order in which they come.
    for name in ["c-first", "b-second", "a-third"] {
        pods.create(&asking(name, &config.name, "400m")).await;
        sleep(Duration::from_millis(1100)).await;
    }
    let node = VirtualNode::start(world, config, backend(world));
    node.until_ready(world).await;
    pods.until_ready("c-first").await;
    pods.until_ready("b-second").await;
    let refused = pods.until_phase("a-third", "Failed").await;
    let status = status_of(&refused);
    let why = "Node didn't have enough resource: cpu, requested: 400, used: 800, capacity: 1000";
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(status.message, Some(format!("Pod was rejected: {why}")));
    assert!(status.container_statuses.is_none() && status.start_time.is_some(), "{status:?}");
    let event = pods.until_event(&refused, "OutOfcpu").await;
    assert_eq!((event.message.as_deref(), event.type_.as_deref()), (Some(why), Some("Warning")));
    pods.delete("c-first").await;
    pods.until_gone("c-first").await;
    pods.create(&asking("fourth", &node.name, "600m")).await;
    pods.until_ready("fourth").await;
    assert_eq!(phase_of(&pods.get("a-third").await), Some("Failed"), "what was refused stays so");
    agree(world, &node).await;
    node.remove(world).await;
}

/// After a restart on a node that has become smaller, what runs goes on and counts, and only what is new is refused.
pub async fn what_runs_is_never_refused_after_a_restart(world: &World) {
    let node = VirtualNode::ready_with(world, |config| config.capacity = [cpu("1")].into()).await;
    let pods = Pods::of(world);
    for name in ["one", "two"] {
        pods.create(&asking(name, &node.name, "500m")).await;
        pods.until_ready(name).await;
    }
    let (mut config, backend) = node.kill().await;
    config.capacity = [cpu("600m")].into();
    let node = VirtualNode::start(world, config, backend);
    pods.create(&asking("three", &node.name, "100m")).await;
    let refused = pods.until_phase("three", "Failed").await;
    let message = status_of(&refused).message.unwrap_or_default();
    assert!(message.ends_with("cpu, requested: 100, used: 1000, capacity: 600"), "{message}");
    for name in ["one", "two"] {
        assert_eq!(phase_of(&pods.get(name).await), Some("Running"), "{name}");
    }
    agree(world, &node).await;
    node.remove(world).await;
}

/// A running pod gets other resources if there is room for them, and waits for that if there is none.
pub async fn other_resources_are_given_when_there_is_room_for_them(world: &World) {
    let node = VirtualNode::ready_with(world, |config| config.capacity = [cpu("1")].into()).await;
    let pods = Pods::of(world);
    for name in ["small", "large"] {
        pods.create(&asking(name, &node.name, if name == "small" { "200m" } else { "700m" })).await;
        pods.until_ready(name).await;
    }
    let patch = json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "400m"}}}]}});
    let wanted = pods.resize("small", &patch).await;
    let condition = |pod: &Pod, kind: &str| {
        let conditions = status_of(pod).conditions.unwrap_or_default();
        conditions.into_iter().find(|condition| condition.type_ == kind)
    };
    let waits = pods.until("small", "waits", |pod| condition(pod, "PodResizePending").is_some()).await;
    let pending = condition(&waits, "PodResizePending").expect("it was awaited");
    assert_eq!(pending.reason.as_deref(), Some("Deferred"));
    assert!(pending.message.unwrap_or_default().contains("requested: 400, used: 700, capacity: 1000"));
    assert_eq!(allocated(&waits), "200m");
    pods.until_event(&wanted, "ResizeDeferred").await;
    pods.delete("large").await;
    let done = pods
        .until("small", "has what it wants", |pod| {
            allocated(pod) == "400m"
                && condition(pod, "PodResizePending").is_none()
                && condition(pod, "PodResizeInProgress").is_none()
        })
        .await;
    pods.until_event(&done, "ResizeStarted").await;
    pods.until_event(&done, "ResizeCompleted").await;
    node.remove(world).await;
}

fn allocated(pod: &Pod) -> String {
    let containers = status_of(pod).container_statuses.unwrap_or_default();
    let requests = containers.into_iter().next().and_then(|container| container.allocated_resources);
    requests.and_then(|mut requests| requests.remove("cpu")).map(|amount| amount.0).unwrap_or_default()
}
