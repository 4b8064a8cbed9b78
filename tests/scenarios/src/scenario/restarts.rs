//! A daemon that is killed and comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use tokio::time::sleep;
use vk_core::provider::Verb;
use vk_mock::MockProvider;

use crate::agreement::{agree, live_at_backend};
use crate::history::History;
use crate::pods::{Pods, exit_code, is_true, status_of, uid_of};
use crate::unchanging::Unchanging;
use crate::virtual_node::{VirtualNode, backend, condition, config};
use crate::wait::{eventually, holds};
use crate::workload::{annotated, pod, with_restart_policy};
use crate::world::World;

async fn several(pods: &Pods, node: &VirtualNode, names: &[&str]) {
    for name in names {
        pods.create(&pod(name, &node.name)).await;
    }
    for name in names {
        pods.until_ready(name).await;
    }
}

fn versions(pods: &[Pod]) -> BTreeMap<String, Option<String>> {
    pods.iter().map(|pod| (pod.name_any(), pod.resource_version())).collect()
}

/// Waits until a restarted node knows as many pods as it should.
async fn until_it_knows(node: &VirtualNode, count: usize) {
    eventually("the node has listed its pods", async || {
        let known = node.known.all().len();
        holds(known == count, || known)
    })
    .await;
}

/// A node that is killed and comes back adopts its pods and has nothing to say about them.
pub async fn a_killed_node_adopts_its_pods_and_writes_nothing(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    several(&pods, &node, &["a", "b", "c", "d", "e"]).await;
    let done = annotated("done", &node.name, &[("run-duration", "100ms")]);
    pods.create(&with_restart_policy(done, "Never")).await;
    pods.until_phase("done", "Succeeded").await;
    let ready_since = |node: &k8s_openapi::api::core::v1::Node| {
        condition(node, "Ready").and_then(|ready| ready.last_transition_time.clone())
    };
    let before = (versions(&pods.list().await), ready_since(&node.until_ready(world).await));
    let creates = node.backend.ledger().creates;

    let node = node.kill_and_restart(world).await;
    until_it_knows(&node, 6).await;
    // Longer than any status is held back.
    sleep(Duration::from_secs(3)).await;
    let after = (versions(&pods.list().await), ready_since(&node.until_ready(world).await));
    assert_eq!(after, before, "no pod was written, and the node was ready all the time");
    assert_eq!(node.backend.ledger().creates, creates, "nothing was asked for again");
    agree(world, &node).await;
    node.remove(world).await;
}

/// Pods that were deleted while the node was dead are stopped when it is back.
pub async fn pods_deleted_while_the_node_is_dead_are_stopped_when_it_is_back(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    several(&pods, &node, &["kept", "deleted", "forced", "replaced"]).await;
    let (config, backend) = node.kill().await;
    pods.delete("deleted").await;
    pods.delete_within("forced", 0).await;
    pods.delete_within("replaced", 0).await;
    let replaced = uid_of(&pods.create(&pod("replaced", &config.name)).await);
    assert_eq!(backend.running().len(), 4, "nobody stops anything yet");

    let node = VirtualNode::start(world, config, backend);
    pods.until_gone("deleted").await;
    assert_eq!(uid_of(&pods.until_ready("replaced").await), replaced);
    agree(world, &node).await;
    let mut names: Vec<_> = node.backend.running().iter().map(|pod| pod.name.to_string()).collect();
    names.sort_unstable();
    assert_eq!(names, ["kept", "replaced"]);
    node.remove(world).await;
}

/// Pods that were bound while the node was dead start when it is back.
pub async fn pods_bound_while_the_node_is_dead_start_when_it_is_back(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let (config, backend) = node.kill().await;
    for name in ["a", "b"] {
        pods.create(&pod(name, &config.name)).await;
    }
    pods.create(&pod("never", &config.name)).await;
    pods.delete("never").await;
    let node = VirtualNode::start(world, config, backend);
    pods.until_gone("never").await;
    pods.until_ready("a").await;
    pods.until_ready("b").await;
    agree(world, &node).await;
    assert_eq!(node.backend.ledger().started, 2, "what was deleted before it was seen is not started");
    node.remove(world).await;
}

/// A pod that was changed while the node was dead is changed when it is back, once.
pub async fn a_pod_changed_while_the_node_is_dead_is_changed_when_it_is_back(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    several(&pods, &node, &["changed", "kept"]).await;
    let (changed, kept) = (pods.get("changed").await, pods.get("kept").await);
    let (config, backend) = node.kill().await;
    pods.patch("changed", &json!({"spec": {"activeDeadlineSeconds": 86_400}})).await;

    let node = VirtualNode::start(world, config, backend);
    pods.until_event(&changed, "ProviderUpdateSuccess").await;
    let generation = pods.get("changed").await.metadata.generation;
    pods.until("changed", "is observed", |pod| status_of(pod).observed_generation == generation).await;
    // Another daemon finds a status that is of the pod as it is, and changes nothing.
    let node = node.kill_and_restart(world).await;
    until_it_knows(&node, 2).await;
    sleep(Duration::from_secs(3)).await;
    let updates = async |pod| {
        let reasons = pods.event_reasons(pod).await;
        reasons.iter().filter(|reason| *reason == "ProviderUpdateSuccess").count()
    };
    assert_eq!((updates(&changed).await, updates(&kept).await), (1, 0));
    agree(world, &node).await;
    node.remove(world).await;
}

/// A change that could not be given to the backend before the node was killed is given to it by the next, and the status
/// says which the pod is that runs.
pub async fn a_change_that_was_not_given_yet_is_given_by_the_next_node(world: &World) {
    let config = config(world);
    let backend = backend(world);
    let provider = Arc::new(MockProvider::new(backend.clone(), config.name.clone()));
    let node = VirtualNode::start_with(world, config, backend, Arc::new(Unchanging(provider)));
    node.until_ready(world).await;
    let pods = Pods::of(world);
    several(&pods, &node, &["changed"]).await;
    let before = pods.get("changed").await;
    pods.patch("changed", &json!({"spec": {"activeDeadlineSeconds": 86_400}})).await;
    pods.until_event(&before, "ProviderUpdateFailed").await;
    let waits = pods.get("changed").await;
    assert_eq!(status_of(&waits).observed_generation, status_of(&before).observed_generation);
    assert_ne!(waits.metadata.generation, before.metadata.generation);

    let (config, backend) = node.kill().await;
    let node = VirtualNode::start(world, config, backend);
    pods.until_event(&before, "ProviderUpdateSuccess").await;
    let generation = waits.metadata.generation;
    pods.until("changed", "is observed", |pod| status_of(pod).observed_generation == generation).await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// A pod that ends while the node is dead has its exit code in its status when the node is back.
pub async fn an_end_while_the_node_is_dead_is_told_when_it_is_back(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let script = [("run-duration", "1h"), ("exit-code", "9")];
    let created = pods.create(&with_restart_policy(annotated("job", &node.name, &script), "Never")).await;
    pods.until_phase("job", "Running").await;
    let (config, backend) = node.kill().await;
    assert!(backend.exit(&uid_of(&created), "a", 9));
    let node = VirtualNode::start(world, config, backend);
    let ended = pods.until_phase("job", "Failed").await;
    assert_eq!(exit_code(&ended), Some(9));
    agree(world, &node).await;
    node.remove(world).await;
}

/// A pod that the backend lost while the node was dead is not started again in silence: it failed.
pub async fn a_pod_lost_while_the_node_is_dead_has_failed(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    several(&pods, &node, &["lost", "kept"]).await;
    let lost = uid_of(&pods.get("lost").await);
    let (config, backend) = node.kill().await;
    assert!(backend.vanish(&lost));
    let node = VirtualNode::start(world, config, backend);
    let failed = pods.until_phase("lost", "Failed").await;
    assert_eq!(status_of(&failed).reason.as_deref(), Some("NotFound"));
    assert!(is_true(&pods.get("kept").await, "Ready"));
    agree(world, &node).await;
    node.remove(world).await;
}

/// A node that is killed between a creation and its answer finds the pod and starts nothing twice.
pub async fn a_node_killed_before_a_creation_was_answered_finds_the_pod(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    node.backend.faults().hang_after(Verb::Create, true);
    let uid = uid_of(&pods.create(&pod("one", &node.name)).await);
    eventually("the pod runs at the backend", async || {
        holds(live_at_backend(&node).contains(&uid), || "not yet")
    })
    .await;
    let (config, backend) = node.kill().await;
    backend.faults().hang_after(Verb::Create, false);
    let node = VirtualNode::start(world, config, backend);
    pods.until_ready("one").await;
    agree(world, &node).await;
    assert_eq!(node.backend.ledger().creates, 1);
    node.remove(world).await;
}

/// A node that is killed between a deletion and its effect finishes it.
pub async fn a_node_killed_while_a_pod_stops_finishes_the_deletion(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    pods.create(&annotated("slow", &node.name, &[("termination-latency", "2s")])).await;
    let uid = uid_of(&pods.until_ready("slow").await);
    pods.delete("slow").await;
    eventually("the deletion is under way", async || holds(node.backend.ledger().deletes > 0, || "not yet"))
        .await;
    let node = node.kill_and_restart(world).await;
    pods.until_gone("slow").await;
    assert_eq!(exit_code(&history.last_of(&uid).await), Some(0), "its end is told");
    agree(world, &node).await;
    node.remove(world).await;
}

/// A node that is killed again and again while its pods come and go ends with the right ones.
pub async fn a_node_killed_at_every_step_of_a_life_completes_it(world: &World) {
    let mut node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    pods.create(&annotated("life", &node.name, &[("start-latency", "300ms"), ("readiness-delay", "300ms")]))
        .await;
    for pause in [0, 5, 200, 200, 200] {
        sleep(Duration::from_millis(pause)).await;
        node = node.kill_and_restart(world).await;
    }
    pods.until_ready("life").await;
    node = node.kill_and_restart(world).await;
    pods.delete("life").await;
    for pause in [0, 5, 20] {
        sleep(Duration::from_millis(pause)).await;
        node = node.kill_and_restart(world).await;
    }
    pods.until_gone("life").await;
    history.assert_no_flaps();
    agree(world, &node).await;
    assert_eq!(node.backend.ledger().started, 1);
    node.remove(world).await;
}
