//! A pod's end.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use tokio::time::{Instant, sleep};
use vk_core::provider::{PodUid, Verb};
use vk_mock::Act;

use crate::agreement::{agree, live_at_backend};
use crate::history::History;
use crate::pods::{Pods, exit_code, phase_of, status_of, uid_of};
use crate::virtual_node::VirtualNode;
use crate::wait::{eventually, holds};
use crate::workload::{annotated, pod, with_restart_policy};
use crate::world::World;

/// Deletes a pod and holds, at every look until its object is gone, that the object is still there while
/// anything of it runs.
async fn delete_and_look(pods: &Pods, node: &VirtualNode, name: &str, uid: &PodUid) -> Duration {
    let asked = Instant::now();
    pods.delete(name).await;
    loop {
        // The backend is asked second: what stops in between is no fault.
        let object = pods.api.get_opt(name).await.expect("the API server answers");
        let runs = live_at_backend(node).contains(uid);
        if object.is_none() {
            assert!(!runs, "the object of {name} was removed while the pod ran");
            return asked.elapsed();
        }
        assert!(asked.elapsed() < Duration::from_mins(1), "{name} is still there: {object:#?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A pod keeps its object until it has stopped, and its last status tells how.
pub async fn a_pod_that_takes_its_time_to_stop_keeps_its_object(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let script = [("termination-latency", "3s"), ("termination-exit-code", "4")];
    pods.create(&annotated("slow", &node.name, &script)).await;
    let uid = uid_of(&pods.until_ready("slow").await);
    let history = History::of(world).await;
    let took = delete_and_look(&pods, &node, "slow", &uid).await;
    assert!(took >= Duration::from_secs(3), "it had three seconds to stop: {took:?}");
    let last = history.last_of(&uid).await;
    assert_eq!((phase_of(&last), exit_code(&last)), (Some("Failed"), Some(4)), "{:#?}", last.status);
    history.assert_no_flaps();
    agree(world, &node).await;
    node.remove(world).await;
}

/// A pod that does not heed SIGTERM is killed when its grace period is over.
pub async fn a_pod_that_ignores_sigterm_is_killed_after_its_grace(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let mut stubborn = annotated("stubborn", &node.name, &[("termination-latency", "never")]);
    stubborn.spec.as_mut().expect("a specification").termination_grace_period_seconds = Some(2);
    pods.create(&stubborn).await;
    let uid = uid_of(&pods.until_ready("stubborn").await);
    let history = History::of(world).await;
    let took = delete_and_look(&pods, &node, "stubborn", &uid).await;
    // The deadline in the object has whole seconds.
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(exit_code(&history.last_of(&uid).await), Some(137));
    agree(world, &node).await;
    node.remove(world).await;
}

/// A second deletion with less grace shortens the first.
pub async fn a_second_deletion_with_less_grace_shortens_the_first(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    pods.create(&annotated("patient", &node.name, &[("termination-latency", "never")])).await;
    let uid = uid_of(&pods.until_ready("patient").await);
    pods.delete_within("patient", 600).await;
    eventually("the backend has the first deletion", async || {
        let acts = node.backend.ledger().of(&uid);
        holds(acts.iter().any(|act| matches!(act, Act::Deleted { .. })), || acts)
    })
    .await;
    assert!(live_at_backend(&node).contains(&uid), "it has ten minutes");
    pods.delete_within("patient", 1).await;
    pods.until_gone("patient").await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// A forced deletion removes the object at once; what runs is stopped all the same.
pub async fn a_forced_deletion_leaves_nothing_running(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    pods.create(&annotated("forced", &node.name, &[("termination-latency", "never")])).await;
    pods.until_ready("forced").await;
    pods.delete_within("forced", 0).await;
    assert!(pods.api.get_opt("forced").await.expect("an answer").is_none());
    agree(world, &node).await;
    assert!(live_at_backend(&node).is_empty());
    node.remove(world).await;
}

/// A finalizer keeps the object, not the pod; meanwhile nobody is asked for anything again and again.
pub async fn a_finalizer_keeps_the_object_but_not_the_pod(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let mut held = annotated("held", &node.name, &[("termination-exit-code", "0")]);
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    pods.create(&held).await;
    let uid = uid_of(&pods.until_ready("held").await);
    pods.delete("held").await;
    // The removal that follows the last status leaves its mark too: no grace is left.
    let removed = |pod: &Pod| pod.metadata.deletion_grace_period_seconds == Some(0);
    let stopped = pods.until("held", "has been given up by the node", removed).await;
    assert_eq!(phase_of(&stopped), Some("Succeeded"));
    assert!(!live_at_backend(&node).contains(&uid));
    let (acts, version) = (node.backend.ledger().of(&uid).len(), pods.get("held").await.resource_version());
    sleep(Duration::from_secs(3)).await;
    assert_eq!(node.backend.ledger().of(&uid).len(), acts, "the backend is left alone");
    assert_eq!(pods.get("held").await.resource_version(), version, "and so is the object");
    pods.patch("held", &json!({"metadata": {"finalizers": null}})).await;
    pods.until_gone("held").await;
    agree(world, &node).await;
    assert_eq!(node.backend.pod_count(), 0, "nothing is kept");
    node.remove(world).await;
}

/// A pod that has ended is removed at once, and the backend keeps nothing of it.
pub async fn a_completed_pod_is_removed_without_being_stopped(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let done = annotated("done", &node.name, &[("run-duration", "100ms")]);
    pods.create(&with_restart_policy(done, "Never")).await;
    pods.until_phase("done", "Succeeded").await;
    agree(world, &node).await;
    assert_eq!(node.backend.pod_count(), 1, "its logs are kept while the object is there");
    pods.delete("done").await;
    pods.until_gone("done").await;
    agree(world, &node).await;
    assert_eq!(node.backend.pod_count(), 0);
    node.remove(world).await;
}

/// A pod that is deleted while it starts never becomes Running, and goes.
pub async fn a_pod_deleted_before_it_starts_goes_without_having_run(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let starting = annotated("early", &node.name, &[("start-latency", "10m")]);
    let uid = uid_of(&pods.create(&starting).await);
    pods.until("early", "is at the backend", |_| node.backend.observe(&uid).is_some()).await;
    pods.delete("early").await;
    pods.until_gone("early").await;
    assert!(!history.phases_of(&uid).contains(&"Running".to_owned()));
    agree(world, &node).await;
    node.remove(world).await;
}

/// A pod that is deleted while its creation fails again and again goes, and was never started.
pub async fn a_pod_deleted_while_its_creation_fails_goes(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let failing = annotated("failing", &node.name, &[("fail-create", "unavailable:always")]);
    let failing = pods.create(&failing).await;
    pods.until_event(&failing, "ProviderCreateFailed").await;
    pods.delete("failing").await;
    pods.until_gone("failing").await;
    agree(world, &node).await;
    assert_eq!(node.backend.ledger().started, 0);
    node.remove(world).await;
}

/// A pod that is deleted while its creation hangs goes as soon as the backend says that it is not there.
pub async fn a_pod_deleted_while_its_creation_hangs_goes(world: &World) {
    let node =
        VirtualNode::ready_with(world, |config| config.provider_timeout = Duration::from_secs(5)).await;
    let pods = Pods::of(world);
    // The call takes effect; its answer never comes.
    node.backend.faults().hang_after(Verb::Create, true);
    let uid = uid_of(&pods.create(&pod("hanging", &node.name)).await);
    pods.until("hanging", "runs at the backend", |_| live_at_backend(&node).contains(&uid)).await;
    pods.delete("hanging").await;
    pods.until_gone("hanging").await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// Deletions that fail are repeated; the object stays until the pod has stopped.
pub async fn a_deletion_that_fails_is_repeated_until_it_works(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    pods.create(&annotated("sticky", &node.name, &[("fail-delete", "unexpected:4")])).await;
    let sticky = pods.until_ready("sticky").await;
    let uid = uid_of(&sticky);
    delete_and_look(&pods, &node, "sticky", &uid).await;
    let deletions =
        node.backend.ledger().of(&uid).into_iter().filter(|act| matches!(act, Act::Deleted { .. }));
    assert_eq!(deletions.count(), 5, "four failures and a success");
    pods.until_event(&sticky, "ProviderDeleteFailed").await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// A name that is used again starts from nothing, while its predecessor is still being stopped.
pub async fn a_recreated_name_inherits_nothing_from_its_predecessor(world: &World) {
    let node =
        VirtualNode::ready_with(world, |config| config.provider_timeout = Duration::from_secs(5)).await;
    let pods = Pods::of(world);
    pods.create(&annotated("again", &node.name, &[("exit-code", "1,0"), ("run-duration", "100ms")])).await;
    let first = pods
        .until("again", "was restarted", |pod| {
            crate::pods::container(pod).is_some_and(|container| container.restart_count >= 1)
        })
        .await;
    // The old incarnation cannot be stopped for now.
    node.backend.hang(Verb::Delete, true);
    pods.delete_within("again", 0).await;
    let created = pods.create(&pod("again", &node.name)).await;
    assert_ne!(uid_of(&created), uid_of(&first));
    let second = pods.until_ready("again").await;
    assert_eq!(uid_of(&second), uid_of(&created));
    assert!(node.backend.observe(&uid_of(&first)).is_some(), "both are there");
    let status = status_of(&second);
    let container = &status.container_statuses.as_deref().unwrap_or_default()[0];
    assert_eq!(container.restart_count, 0, "{container:#?}");
    assert!(container.last_state.as_ref().is_none_or(|state| state.terminated.is_none()), "{container:#?}");
    assert_ne!(status.pod_ip, status_of(&first).pod_ip, "its predecessor still has that address");

    node.backend.hang(Verb::Delete, false);
    agree(world, &node).await;
    let now = pods.get("again").await;
    assert_eq!(
        (uid_of(&now), now.status),
        (uid_of(&second), second.status),
        "the end of one is not the other's"
    );
    node.remove(world).await;
}

/// A name that is deleted and created again and again always ends as its last incarnation.
pub async fn a_name_reused_ten_times_is_its_last_incarnation(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let mut last = None;
    for round in 0..10 {
        let script = [("termination-latency", if round % 2 == 0 { "300ms" } else { "0" })];
        last = Some(uid_of(&pods.create(&annotated("same", &node.name, &script)).await));
        if round % 3 != 0 {
            pods.until_ready("same").await;
        }
        if round < 9 {
            if round % 2 == 0 {
                pods.delete_within("same", 0).await;
            } else {
                pods.delete("same").await;
            }
            pods.until_gone("same").await;
        }
    }
    let ready = pods.until_ready("same").await;
    assert_eq!(Some(uid_of(&ready)), last);
    agree(world, &node).await;
    assert_eq!(live_at_backend(&node).into_iter().collect::<Vec<_>>(), [uid_of(&ready)]);
    history.assert_no_flaps();
    node.remove(world).await;
}
