//! What a pod's life costs the API server. In memory only: the real one does not say who asked.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use vk_apiserver::{RequestKind, Requests, Verb};

use crate::agreement::agree;
use crate::history::History;
use crate::pods::{Pods, exit_code, uid_of};
use crate::virtual_node::VirtualNode;
use crate::wait::{eventually, holds};
use crate::workload::{annotated, pod, with_restart_policy};
use crate::world::World;

/// The calls as lines, for comparison: the node's own (lease, status) are left out, and so are the listings of
/// Services, one a second at most, that all pods share.
fn lines(calls: &Requests, with_events: bool) -> Vec<String> {
    let own = |kind: &RequestKind| matches!(kind.resource, "leases" | "nodes" | "services");
    let kept = calls.iter().filter(|(kind, _)| !own(kind) && (with_events || kind.resource != "events"));
    kept.map(|(kind, count)| {
        let slash = if kind.subresource.is_empty() { "" } else { "/" };
        format!("{count} {} {}{slash}{}", kind.verb.as_str(), kind.resource, kind.subresource)
    })
    .collect()
}

/// Longer than any status is held back, in paused time.
async fn settle() {
    sleep(Duration::from_secs(10)).await;
}

/// An instant pod costs one status write to Running; its end one deletion: nothing is known of how it ended.
pub async fn an_instant_pod_costs_a_status_write_and_a_deletion(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    settle().await;
    let before = world.node_calls();
    pods.create(&pod("one", &node.name)).await;
    pods.until_ready("one").await;
    settle().await;
    let running = world.node_calls();
    assert_eq!(lines(&running.since(&before), false), ["1 patch pods/status"], "create to Running");
    pods.delete("one").await;
    pods.until_gone("one").await;
    settle().await;
    let calls = lines(&world.node_calls().since(&running), false);
    assert_eq!(calls, ["1 delete pods"], "delete to gone");
    node.remove(world).await;
}

/// A deleted pod whose end says something costs one more write, before its object goes.
pub async fn an_end_that_says_something_costs_one_write(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let uid = uid_of(&pods.create(&annotated("one", &node.name, &[("termination-exit-code", "7")])).await);
    pods.until_ready("one").await;
    settle().await;
    let before = world.node_calls();
    pods.delete("one").await;
    pods.until_gone("one").await;
    settle().await;
    let calls = lines(&world.node_calls().since(&before), false);
    assert_eq!(calls, ["1 patch pods/status", "1 delete pods"]);
    assert_eq!(exit_code(&history.last_of(&uid).await), Some(7));
    node.remove(world).await;
}

/// Who holds a pod's object by a finalizer learns of its end, even of one that nobody saw.
pub async fn an_awaited_end_is_written_though_nothing_is_known_of_it(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let mut held = pod("held", &node.name);
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    pods.create(&held).await;
    pods.until_ready("held").await;
    pods.delete("held").await;
    let ended = pods.until_phase("held", "Failed").await;
    assert_eq!(exit_code(&ended), Some(137), "{:#?}", ended.status);
    pods.patch("held", &json!({"metadata": {"finalizers": null}})).await;
    pods.until_gone("held").await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// A hundred pods at once cost a hundred times that, and no more.
pub async fn a_hundred_pods_cost_a_hundred_times_that(world: &World) {
    let node = VirtualNode::ready_with(world, |config| config.normal_events_per_second = 0).await;
    let pods = Pods::of(world);
    settle().await;
    let before = world.node_calls();
    let names: Vec<_> = (0..100).map(|i| format!("p{i}")).collect();
    for name in &names {
        pods.create(&pod(name, &node.name)).await;
    }
    for name in &names {
        pods.until_ready(name).await;
    }
    for name in &names {
        pods.delete(name).await;
    }
    for name in &names {
        pods.until_gone(name).await;
    }
    settle().await;
    let calls = lines(&world.node_calls().since(&before), true);
    assert_eq!(calls, ["100 patch pods/status", "100 delete pods"]);
    node.remove(world).await;
}

/// A pod that starts slowly costs one more write: that it is being started.
pub async fn a_slow_pod_costs_one_more_write(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    settle().await;
    let before = world.node_calls();
    pods.create(&annotated("slow", &node.name, &[("start-latency", "30s")])).await;
    pods.until_ready("slow").await;
    settle().await;
    assert_eq!(lines(&world.node_calls().since(&before), false), ["2 patch pods/status"]);
    node.remove(world).await;
}

/// A pod that completes costs one more write, and its removal nothing: the API server does not wait for us.
pub async fn a_completed_pods_removal_costs_nothing(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    settle().await;
    let before = world.node_calls();
    let job = annotated("job", &node.name, &[("run-duration", "30s")]);
    pods.create(&with_restart_policy(job, "Never")).await;
    pods.until_phase("job", "Succeeded").await;
    settle().await;
    let done = world.node_calls();
    assert_eq!(lines(&done.since(&before), false), ["2 patch pods/status"], "Running, then Succeeded");
    pods.delete("job").await;
    pods.until_gone("job").await;
    agree(world, &node).await;
    settle().await;
    assert_eq!(lines(&world.node_calls().since(&done), false), <[&str; 0]>::default());
    node.remove(world).await;
}

/// A pod that is deleted by force costs nothing: there is nobody to tell.
pub async fn a_forced_deletion_costs_nothing(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    pods.create(&pod("one", &node.name)).await;
    pods.until_ready("one").await;
    settle().await;
    let before = world.node_calls();
    pods.delete_within("one", 0).await;
    agree(world, &node).await;
    settle().await;
    assert_eq!(lines(&world.node_calls().since(&before), false), <[&str; 0]>::default());
    node.remove(world).await;
}

/// What others change about a pod that is none of the node's business costs nothing.
pub async fn changes_by_others_cost_nothing(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    pods.create(&pod("one", &node.name)).await;
    let uid = uid_of(&pods.until_ready("one").await);
    settle().await;
    let (before, acts) = (world.node_calls(), node.backend.ledger().of(&uid));
    for i in 0..20 {
        pods.patch("one", &json!({"metadata": {"labels": {"round": i.to_string()}}})).await;
    }
    settle().await;
    assert_eq!(lines(&world.node_calls().since(&before), true), <[&str; 0]>::default());
    assert_eq!(node.backend.ledger().of(&uid), acts);
    node.remove(world).await;
}

/// An hour of nothing costs lease renewals, a few node statuses and renewed watches.
pub async fn an_idle_node_asks_for_nothing_but_its_lease_and_its_watches(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    for i in 0..20 {
        pods.create(&pod(&format!("p{i}"), &node.name)).await;
        pods.until_ready(&format!("p{i}")).await;
    }
    settle().await;
    let before = world.node_calls();
    sleep(Duration::from_hours(1)).await;
    let calls = world.node_calls().since(&before);
    let of = |verb, resource, sub| calls.of(verb, resource, sub);
    let all = || calls.iter().map(|(kind, count)| format!("{count} {kind:?}")).collect::<Vec<_>>();
    let (renewals, statuses) = (of(Verb::Update, "leases", ""), of(Verb::Patch, "nodes", "status"));
    assert!((330..=370).contains(&renewals), "every ten seconds: {:#?}", all());
    assert!((11..=13).contains(&statuses), "every five minutes: {:#?}", all());
    let watches = of(Verb::Watch, "pods", "") + of(Verb::Watch, "nodes", "");
    assert!((22..=30).contains(&watches), "two, every 290 s: {:#?}", all());
    assert_eq!(calls.total(), renewals + statuses + watches, "and nothing else: {:#?}", all());
    node.remove(world).await;
}

/// A restart costs one listing of the pods and no write to any.
pub async fn a_restart_reads_the_pods_once_and_writes_none(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    for i in 0..20 {
        pods.create(&pod(&format!("p{i}"), &node.name)).await;
        pods.until_ready(&format!("p{i}")).await;
    }
    settle().await;
    let before = world.node_calls();
    let node = node.kill_and_restart(world).await;
    eventually("the node has listed its pods", async || {
        let known = node.known.all().len();
        holds(known == 20, || known)
    })
    .await;
    settle().await;
    let calls = world.node_calls().since(&before);
    assert_eq!(lines(&calls, false), ["1 list pods", "1 watch pods"]);
    assert_eq!(calls.of(Verb::Patch, "nodes", "status"), 0, "nothing of the node's changed");
    node.remove(world).await;
}
