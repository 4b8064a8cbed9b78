//! One pod's life.

use crate::agreement::{agree, live_at_backend};
use crate::pods::{Pods, condition, container, exit_code, is_true, status_of, uid_of, waiting_reason};
use crate::virtual_node::VirtualNode;
use crate::workload::{annotated, pod, with_restart_policy};
use crate::world::World;

/// A pod runs, has an address, and leaves nothing behind when it is deleted.
pub async fn a_pod_runs_and_is_deleted_without_a_trace(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    pods.create(&pod("one", &node.name)).await;
    let running = pods.until_ready("one").await;
    let status = status_of(&running);
    assert!(
        status.pod_ip.is_some() && status.host_ip.is_some() && status.start_time.is_some(),
        "{status:#?}"
    );
    for kind in ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady"] {
        assert!(is_true(&running, kind), "{kind}: {status:#?}");
    }

    pods.delete("one").await;
    pods.until_gone("one").await;
    assert!(live_at_backend(&node).is_empty());
    agree(world, &node).await;
    assert_eq!(node.backend.pod_count(), 0);
    node.remove(world).await;
}

/// A pod's exit code decides its phase.
pub async fn exit_codes_reach_the_status(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    for (name, code, phase) in [("good", 0, "Succeeded"), ("bad", 7, "Failed")] {
        let pod = annotated(name, &node.name, &[("run-duration", "1s"), ("exit-code", &code.to_string())]);
        pods.create(&with_restart_policy(pod, "Never")).await;
        let ended = pods.until_phase(name, phase).await;
        assert_eq!(exit_code(&ended), Some(code), "{:#?}", ended.status);
        assert!(!is_true(&ended, "Ready"));
    }
    agree(world, &node).await;
    node.remove(world).await;
}

/// A container that ends is started again, counted, and backed off.
pub async fn a_crashing_container_is_restarted_and_backed_off(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    pods.create(&annotated("crash", &node.name, &[("run-duration", "100ms"), ("exit-code", "3")])).await;
    let looping =
        pods.until("crash", "backs off", |pod| waiting_reason(pod) == Some("CrashLoopBackOff")).await;
    let status = container(&looping).expect("a container status");
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    assert_eq!(last.map(|ended| ended.exit_code), Some(3), "{status:#?}");
    assert_eq!(looping.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Running"));
    pods.until("crash", "was restarted", |pod| container(pod).is_some_and(|c| c.restart_count >= 1)).await;
    agree(world, &node).await;
    pods.delete("crash").await;
    pods.until_gone("crash").await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// A container that becomes ready late makes the pod ready late, and the condition says since when.
pub async fn readiness_follows_the_containers(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    pods.create(&annotated("late", &node.name, &[("readiness-delay", "3s")])).await;
    let waiting = pods.until_phase("late", "Running").await;
    let unready = condition(&waiting, "Ready").expect("a Ready condition").clone();
    assert_eq!(unready.status, "False", "{unready:#?}");
    assert_eq!(unready.reason.as_deref(), Some("ContainersNotReady"));
    let ready = pods.until_ready("late").await;
    let since = |condition: Option<&k8s_openapi::api::core::v1::PodCondition>| {
        condition.and_then(|c| c.last_transition_time.as_ref()).map(|time| time.0)
    };
    assert!(since(condition(&ready, "Ready")) > since(Some(&unready)), "the transition has its own time");
    assert_eq!(
        since(condition(&ready, "Initialized")),
        since(condition(&waiting, "Initialized")),
        "what did not change keeps its time"
    );

    assert!(node.backend.set_ready(&uid_of(&ready), "a", false));
    pods.until("late", "is not Ready any more", |pod| !is_true(pod, "Ready")).await;
    agree(world, &node).await;
    node.remove(world).await;
}
