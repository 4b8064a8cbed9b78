//! The Node object: its conditions, what it shows, who else writes it, its end.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use vk_apiserver::{Fault, Rule, Verb};
use vk_core::internals::{NodeReason, deregister, ensure_registered};
use vk_core::provider::Health;

use crate::bed::{Answer, Cluster, NAME, info, ready};

#[tokio::test(start_paused = true)]
async fn a_node_is_ready_once_its_pods_are_known_and_not_before() {
    let cluster = Cluster::new();
    let daemon = cluster.start("a").await.unwrap();
    sleep(Duration::from_mins(1)).await;
    let (status, reason, _) = ready(&cluster.node());
    assert_eq!((status.as_str(), reason.as_str()), ("False", "KubeletNotReady"));
    daemon.synced.send_replace(true);
    cluster.until("ready", |node| ready(node).0 == "True").await;
    let node = cluster.node();
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.37.2-vk-0.1.0");
    assert_eq!(node["status"]["allocatable"]["pods"], "20");
    let lease = cluster.lease();
    assert_eq!(lease["spec"]["holderIdentity"], NAME);
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"]);
    assert_eq!(cluster.node_events(), [NodeReason::Starting, NodeReason::NodeReady]);
}

#[tokio::test(start_paused = true)]
async fn heartbeat_times_move_and_transition_times_do_not() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let (.., before) = ready(&cluster.node());
    let heartbeat = cluster.node()["status"]["conditions"][0]["lastHeartbeatTime"].clone();
    sleep(Duration::from_mins(11)).await;
    assert_ne!(cluster.node()["status"]["conditions"][0]["lastHeartbeatTime"], heartbeat);
    assert_eq!(ready(&cluster.node()).2, before);
}

#[tokio::test(start_paused = true)]
async fn a_provider_in_trouble_is_the_reason_why_the_node_is_not_ready() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    cluster.backend.set(Answer::Down);
    cluster.until("not ready", |node| ready(node).0 == "False").await;
    assert_eq!(ready(&cluster.node()).1, "ProviderUnavailable");
    let mut unhealthy = info();
    unhealthy.health =
        Health::Unhealthy { reason: "QuotaExceeded".to_owned(), message: "no cores left".to_owned() };
    cluster.backend.set(Answer::Info(Box::new(unhealthy)));
    cluster.until("unhealthy", |node| ready(node).1 == "QuotaExceeded").await;
}

#[tokio::test(start_paused = true)]
async fn capacity_and_labels_follow_the_provider() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let mut more = info();
    more.capacity.insert("cpu".to_owned(), Quantity("40".to_owned()));
    more.capacity.insert("acme.com/fpga".to_owned(), Quantity("2".to_owned()));
    more.labels.insert("topology.kubernetes.io/region".to_owned(), "eu-1".to_owned());
    cluster.backend.set(Answer::Info(Box::new(more)));
    cluster.until("more", |node| node["status"]["allocatable"]["acme.com/fpga"] == "2").await;
    cluster
        .until("region", |node| node["metadata"]["labels"]["topology.kubernetes.io/region"] == "eu-1")
        .await;
    cluster.backend.set(Answer::Info(Box::new(info())));
    cluster.until("less", |node| node["status"]["capacity"].get("acme.com/fpga").is_none()).await;
    assert_eq!(cluster.node()["status"]["capacity"]["cpu"], "4");
    cluster
        .until("no region", |node| node["metadata"]["labels"].get("topology.kubernetes.io/region").is_none())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_is_made_again_at_once_and_the_lease_follows() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let old = cluster.node()["metadata"]["uid"].clone();
    let deleted = Instant::now();
    cluster.nodes().delete(NAME, &DeleteParams::default()).await.unwrap();
    cluster.until("again", |node| ready(node).0 == "True" && node["metadata"]["uid"] != old).await;
    assert!(deleted.elapsed() < Duration::from_secs(1), "{:?}", deleted.elapsed());
    sleep(Duration::from_millis(200)).await;
    let uid = cluster.node()["metadata"]["uid"].clone();
    assert_eq!(cluster.lease()["metadata"]["ownerReferences"][0]["uid"], uid);
    assert!(cluster.node_events().contains(&NodeReason::Reregistered));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_deleted_again_and_again_is_made_again_at_a_limited_rate() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let before = cluster.server.requests();
    let started = Instant::now();
    while started.elapsed() < Duration::from_mins(10) {
        let _ = cluster.nodes().delete(NAME, &DeleteParams::default()).await;
        sleep(Duration::from_millis(500)).await;
    }
    let made = cluster.server.requests().since(&before).of(Verb::Create, "nodes", "");
    assert!((20..=40).contains(&made), "{made}");
}

#[tokio::test(start_paused = true)]
async fn what_others_change_of_ours_is_repaired_and_what_they_add_stays() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    cluster
        .patch_node(json!({
            "metadata": { "labels": { "type": "other", "kubernetes.io/role": null, "theirs": "x" },
                          "annotations": { "theirs": "x" } },
            "spec": { "unschedulable": true, "taints": [{ "key": "theirs", "effect": "NoSchedule" }] },
        }))
        .await;
    cluster.until("repaired", |node| node["metadata"]["labels"]["type"] == "virtual-kubelet").await;
    let node = cluster.node();
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/role"], "agent");
    assert_eq!(node["metadata"]["labels"]["theirs"], "x");
    assert_eq!(node["metadata"]["annotations"]["theirs"], "x");
    assert_eq!(node["spec"]["unschedulable"], true);
    assert_eq!(
        node["spec"]["taints"],
        json!([
            { "key": "theirs", "effect": "NoSchedule" },
            { "key": "virtual-kubelet.io/provider", "value": "mock", "effect": "NoSchedule" },
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn a_fight_over_a_label_is_fought_slowly() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let before = cluster.server.requests();
    let started = Instant::now();
    let mut theirs = 0;
    while started.elapsed() < Duration::from_mins(10) {
        cluster.patch_node(json!({ "metadata": { "labels": { "type": "other" } } })).await;
        theirs += 1;
        sleep(Duration::from_millis(500)).await;
    }
    let all = cluster.server.requests().since(&before).of(Verb::Patch, "nodes", "");
    let ours = all - theirs;
    assert!((50..=75).contains(&ours), "{ours}");
}

#[tokio::test(start_paused = true)]
async fn a_ready_node_whose_pods_stay_unknown_after_a_restart_does_not_stay_ready() {
    let cluster = Cluster::new();
    cluster.ready("a").await.kill();
    let _daemon = cluster.start("a").await.unwrap();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(ready(&cluster.node()).0, "True");
    sleep(Duration::from_secs(15)).await;
    assert_eq!(ready(&cluster.node()).1, "KubeletNotReady");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_errors_ends_in_the_right_status() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let faults = cluster.server.faults();
    let retry_after = Duration::from_secs(2);
    for fault in [
        Fault::Conflict,
        Fault::TooManyRequests { retry_after },
        Fault::InternalError,
        Fault::Unavailable,
        Fault::LoseResponse,
    ] {
        faults.add(Rule::new(fault).resource("nodes").writes().times(3));
    }
    cluster.backend.set(Answer::Down);
    cluster.until("not ready", |node| ready(node).1 == "ProviderUnavailable").await;
}

#[tokio::test(start_paused = true)]
async fn where_the_node_cannot_be_watched_it_is_read_and_a_deletion_is_noticed_all_the_same() {
    let cluster = Cluster::new();
    let rule = || Rule::new(Fault::Forbidden).resource("nodes");
    cluster.server.faults().add(rule().verb(Verb::Watch).verb(Verb::List));
    let _daemon = cluster.ready("a").await;
    let old = cluster.node()["metadata"]["uid"].clone();
    cluster.nodes().delete(NAME, &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    cluster.until("again", |node| ready(node).0 == "True" && node["metadata"]["uid"] != old).await;
    assert!(deleted.elapsed() < Duration::from_secs(12), "{:?}", deleted.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_or_cut_watch_of_the_node_is_survived() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    cluster.server.drop_watches("nodes");
    cluster.server.compact("nodes");
    let old = cluster.node()["metadata"]["uid"].clone();
    cluster.nodes().delete(NAME, &DeleteParams::default()).await.unwrap();
    cluster.until("again", |node| ready(node).0 == "True" && node["metadata"]["uid"] != old).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_says_so_keeps_the_lease_until_the_end_and_leaves_the_node() {
    let cluster = Cluster::new();
    let mut daemon = cluster.ready("a").await;
    daemon.drain.cancel();
    (&mut daemon.heartbeat).await.unwrap().unwrap();
    let (status, reason, _) = ready(&cluster.node());
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NodeShutdown"));
    sleep(Duration::from_secs(15)).await;
    assert!(daemon.lease_status.borrow().age().unwrap() < Duration::from_secs(11));
    daemon.lease.take().unwrap().stop().await;
    let renewed = cluster.lease()["spec"]["renewTime"].clone();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(cluster.lease()["spec"]["renewTime"], renewed);
    assert!(cluster.lease()["metadata"]["annotations"].get("virtual-kubelet.io/instance").is_none());
}

#[tokio::test(start_paused = true)]
async fn shutdown_with_a_dead_api_server_takes_five_seconds_at_most() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    cluster.server.faults().add(Rule::new(Fault::Hang));
    let asked = Instant::now();
    daemon.shut_down().await;
    assert!(asked.elapsed() <= Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn deregistering_deletes_the_node_that_was_ours_and_no_other() {
    let cluster = Cluster::new();
    let context = cluster.context("a");
    let registered = ensure_registered(&context).await.unwrap();
    let uid = registered.uid().borrow().clone();
    deregister(&context, "another-uid").await.unwrap();
    assert_eq!(cluster.node()["metadata"]["uid"], uid.as_str());
    deregister(&context, &uid).await.unwrap();
    assert_eq!(cluster.node(), Value::Null);
    deregister(&context, &uid).await.unwrap();
}
