//! An API server that fails. In memory only: the real one does not fail on demand.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{Instant, sleep};
use vk_apiserver::{Fault, FaultHandle, Rule, Verb};

use crate::agreement::{agree, live_at_backend};
use crate::history::History;
use crate::pods::{Pods, exit_code, is_true, uid_of};
use crate::virtual_node::VirtualNode;
use crate::wait::{eventually, eventually_within, holds};
use crate::workload::{annotated, pod, with_restart_policy};
use crate::world::{NODE_USER, World};

async fn several(pods: &Pods, node: &VirtualNode, count: usize) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|i| format!("p{i}")).collect();
    for name in &names {
        pods.create(&pod(name, &node.name)).await;
    }
    for name in &names {
        pods.until_ready(name).await;
    }
    names
}

/// Deletes some pods by force while the node's watch is silent, then ends the watch.
async fn delete_behind_its_back(world: &World, pods: &Pods, names: &[String]) {
    let server = world.server();
    assert!(server.stall_watches("pods", true) > 0);
    for name in names {
        pods.delete_within(name, 0).await;
    }
}

/// Pods that go while the watch is cut are stopped when it is back.
pub async fn pods_deleted_while_the_watch_is_cut_are_stopped(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let names = several(&pods, &node, 10).await;
    delete_behind_its_back(world, &pods, &names[..4]).await;
    assert_eq!(live_at_backend(&node).len(), 10, "it cannot know yet");
    world.server().drop_watches("pods");
    agree(world, &node).await;
    assert_eq!(live_at_backend(&node).len(), 6);
    node.remove(world).await;
}

/// The same when what happened meanwhile cannot be told any more: the watch has expired.
pub async fn pods_deleted_while_the_watch_expires_are_stopped(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let names = several(&pods, &node, 10).await;
    delete_behind_its_back(world, &pods, &names[..4]).await;
    // One of the names is used again before the node looks.
    let again = uid_of(&pods.create(&pod(&names[0], &node.name)).await);
    world.server().compact("pods");
    world.server().drop_watches("pods");
    agree(world, &node).await;
    let running = live_at_backend(&node);
    assert_eq!((running.len(), running.contains(&again)), (7, true));
    node.remove(world).await;
}

/// The same when the watch does not even end: it is given up after its time.
pub async fn a_watch_that_falls_silent_is_given_up(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let names = several(&pods, &node, 10).await;
    let rule = Rule::new(Fault::StallWatch(Duration::ZERO)).resource("pods").user(NODE_USER).times(1);
    let stall = world.server().faults().add(rule);
    world.server().drop_watches("pods");
    eventually("the watch is silent", async || holds(stall.hits() == 1, || "not yet")).await;
    for name in &names[..4] {
        pods.delete_within(name, 0).await;
    }
    pods.create(&pod("new", &node.name)).await;
    // The server is asked for watches of 290 s at most.
    eventually_within("the silence is noticed", Duration::from_mins(7), async || {
        let running = live_at_backend(&node).len();
        holds(running == 7, || running)
    })
    .await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// A listing without any pods ends none of them: each is asked for by itself.
pub async fn an_empty_listing_deletes_nothing(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let names = several(&pods, &node, 10).await;
    let history = History::of(world).await;
    let rule = Rule::new(Fault::EmptyList).resource("pods").user(NODE_USER).times(1);
    let empty = world.server().faults().add(rule);
    world.server().compact("pods");
    world.server().drop_watches("pods");
    eventually("the listing was empty", async || holds(empty.hits() == 1, || "not yet")).await;
    sleep(Duration::from_mins(1)).await;
    for name in &names {
        assert!(is_true(&pods.get(name).await, "Ready"), "{name}");
    }
    assert_eq!(node.backend.ledger().deletes, 0);
    // Nothing of that stays: the next deletion is heeded.
    pods.delete(&names[0]).await;
    pods.until_gone(&names[0]).await;
    agree(world, &node).await;
    history.assert_no_flaps();
    node.remove(world).await;
}

/// A node that starts from an empty listing takes none of the backend's pods for an orphan.
pub async fn a_node_that_starts_from_an_empty_listing_keeps_its_pods(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let names = several(&pods, &node, 10).await;
    let rule = Rule::new(Fault::EmptyList).resource("pods").user(NODE_USER).times(1);
    let empty = world.server().faults().add(rule);
    let node = node.kill_and_restart(world).await;
    eventually("the listing was empty", async || holds(empty.hits() == 1, || "not yet")).await;
    sleep(Duration::from_mins(1)).await;
    assert_eq!(live_at_backend(&node).len(), names.len());
    agree(world, &node).await;
    assert_eq!(node.backend.ledger().deletes, 0);
    node.remove(world).await;
}

/// Half of all requests meet a fault for a minute, while pods come, end and go.
async fn storm(world: &World, faults: impl IntoIterator<Item = Fault>) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let names = several(&pods, &node, 10).await;
    let rules = faults.into_iter().map(|fault| Rule::new(fault).user(NODE_USER).probability(0.5));
    let rules: Vec<_> = rules.map(|rule| world.server().faults().add(rule)).collect();
    world.server().drop_watches("pods");
    let began = Instant::now();
    for name in &names[..3] {
        pods.delete(name).await;
    }
    pods.delete_within(&names[3], 0).await;
    let mut ends = Vec::new();
    for i in 0..10 {
        pods.create(&pod(&format!("new{i}"), &node.name)).await;
        let name = format!("ends{i}");
        let job = annotated(&name, &node.name, &[("run-duration", "10s"), ("exit-code", "5")]);
        pods.create(&with_restart_policy(job, "Never")).await;
        ends.push(name);
        sleep(Duration::from_secs(2)).await;
    }
    for i in 0..5 {
        pods.delete(&format!("new{i}")).await;
    }
    sleep(Duration::from_mins(1).saturating_sub(began.elapsed())).await;
    // Together: of several, the first takes the requests that a later one would have had.
    let hits: u64 = rules.iter().map(FaultHandle::hits).sum();
    assert!(hits >= 20, "the storm hit {hits} requests");
    world.server().faults().clear();

    for name in names[..3].iter().cloned().chain((0..5).map(|i| format!("new{i}"))) {
        pods.until_gone(&name).await;
    }
    for name in names[4..].iter().cloned().chain((5..10).map(|i| format!("new{i}"))) {
        pods.until_ready(&name).await;
    }
    for name in &ends {
        let ended = pods.until_phase(name, "Failed").await;
        assert_eq!(exit_code(&ended), Some(5), "{name}: {:#?}", ended.status);
    }
    node.until_ready(world).await;
    agree(world, &node).await;
    history.assert_no_flaps();
    node.remove(world).await;
}

/// 409 to everything.
pub async fn a_storm_of_conflicts_ends_right(world: &World) {
    storm(world, [Fault::Conflict]).await;
}

/// 410 to everything.
pub async fn a_storm_of_expirations_ends_right(world: &World) {
    storm(world, [Fault::Expired]).await;
}

/// 429 with Retry-After.
pub async fn a_storm_of_throttling_ends_right(world: &World) {
    storm(world, [Fault::TooManyRequests { retry_after: Duration::from_secs(2) }]).await;
}

/// 500, 503 and 504.
pub async fn a_storm_of_server_errors_ends_right(world: &World) {
    storm(world, [Fault::InternalError, Fault::Unavailable, Fault::Timeout]).await;
}

/// Requests that take effect and whose answers are lost.
pub async fn a_storm_of_lost_answers_ends_right(world: &World) {
    storm(world, [Fault::LoseResponse]).await;
}

/// Everything together.
pub async fn a_storm_of_everything_ends_right(world: &World) {
    let faults = [
        Fault::Conflict,
        Fault::InternalError,
        Fault::LoseResponse,
        Fault::Delay(Duration::from_secs(3)),
        Fault::DropWatch(Duration::from_secs(1)),
    ];
    storm(world, faults).await;
}

/// A status whose answer was lost is not written a second time with other times in it, though the watch tells nothing
/// of the first.
pub async fn a_status_whose_answer_was_lost_keeps_its_times(world: &World) {
    let node = VirtualNode::ready_with(world, |config| {
        config.pending_status_delay = Duration::from_mins(1);
        config.min_backoff = Duration::from_secs(3);
    })
    .await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let uid = uid_of(&pods.create(&annotated("one", &node.name, &[("start-latency", "5s")])).await);
    pods.until("one", "is at the backend", |_| node.backend.observe(&uid).is_some()).await;
    let stall = Rule::new(Fault::StallWatch(Duration::ZERO)).resource("pods").user(NODE_USER);
    let stall = world.server().faults().add(stall);
    world.server().drop_watches("pods");
    eventually("the watch is silent", async || holds(stall.hits() > 0, || "not yet")).await;
    let lost = Rule::new(Fault::LoseResponse).verb(Verb::Patch).resource("pods").subresource("status");
    let lost = world.server().faults().add(lost.user(NODE_USER).times(1));
    pods.until_ready("one").await;
    assert_eq!(lost.hits(), 1, "the answer was lost");
    // Longer than the pause after it.
    sleep(Duration::from_secs(10)).await;
    history.assert_no_flaps();
    agree(world, &node).await;
    node.remove(world).await;
}

/// A deletion of which the answer to a status write tells first is heeded when the watch tells of it too.
pub async fn a_deletion_that_a_status_writes_answer_tells_of_is_heeded(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let uid = uid_of(&pods.create(&pod("one", &node.name)).await);
    pods.until_ready("one").await;
    assert!(world.server().stall_watches("pods", true) > 0);
    pods.delete("one").await;
    assert!(node.backend.set_ready(&uid, "a", false));
    pods.until("one", "is told to be unready", |pod| !is_true(pod, "Ready")).await;
    assert!(live_at_backend(&node).contains(&uid), "the watch has told nothing yet");
    world.server().drop_watches("pods");
    pods.until_gone("one").await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// A request that is never answered holds up its pod for a while, and nothing else.
pub async fn a_request_that_hangs_is_given_up(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    several(&pods, &node, 3).await;
    let rule = Rule::new(Fault::Hang).resource("pods").user(NODE_USER);
    let hang = world.server().faults().add(rule);
    pods.create(&pod("held", &node.name)).await;
    pods.delete("p0").await;
    eventually("both meet the silence", async || holds(hang.hits() >= 2, || hang.hits())).await;
    hang.remove();
    pods.create(&pod("other", &node.name)).await;
    pods.until_ready("other").await;
    eventually_within("the held pod is Ready", Duration::from_mins(3), async || {
        let pod = pods.get("held").await;
        holds(is_true(&pod, "Ready"), || pod.status)
    })
    .await;
    pods.until_gone("p0").await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// An API server that is away for some minutes learns what happened meanwhile.
pub async fn what_ends_while_the_api_server_is_away_is_told_when_it_is_back(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let names = several(&pods, &node, 5).await;
    let job = annotated("job", &node.name, &[("run-duration", "1m"), ("exit-code", "6")]);
    pods.create(&with_restart_policy(job, "Never")).await;
    pods.until_phase("job", "Running").await;
    let away = world.server().faults().add(Rule::new(Fault::Unavailable).user(NODE_USER));
    world.server().drop_watches("pods");
    world.server().drop_watches("nodes");
    pods.delete(&names[0]).await;
    // Short of the time after which pods are evicted from a node that says nothing.
    sleep(Duration::from_mins(4)).await;
    assert_eq!(live_at_backend(&node).len(), 5, "without the API server nothing is stopped but what ended");
    away.remove();
    assert_eq!(exit_code(&pods.until_phase("job", "Failed").await), Some(6));
    pods.until_gone(&names[0]).await;
    // The node controller may have declared the node unknown meanwhile.
    node.until_ready(world).await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// A clock that differs from the API server's costs a pod none of its grace.
pub async fn clocks_that_differ_do_not_cost_a_pod_its_grace(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    for (name, hours) in [("behind", -1), ("ahead", 2)] {
        let script = [("termination-latency", "10s"), ("termination-exit-code", "0")];
        pods.create(&annotated(name, &node.name, &script)).await;
        let uid = uid_of(&pods.until_ready(name).await);
        let history = History::of(world).await;
        world.server().jump_clock(SignedDuration::from_hours(hours));
        let asked = Instant::now();
        pods.delete(name).await;
        pods.until_gone(name).await;
        assert!(asked.elapsed() >= Duration::from_secs(10), "{name}: it had 30 s: {:?}", asked.elapsed());
        let last = history.last_of(&uid).await;
        assert_eq!(exit_code(&last), Some(0), "{name} was killed: {:#?}", last.status);
    }
    agree(world, &node).await;
    node.remove(world).await;
}
