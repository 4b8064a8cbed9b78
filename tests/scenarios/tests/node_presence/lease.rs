//! The lease: what it costs, whose it is, and what it bears.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use vk_apiserver::{Fault, Rule, Verb};
use vk_core::config::NodeConfig;
use vk_core::internals::{LeaseKeeper, NodeReason, ensure_registered};
use vk_core::node::{HeartbeatError, LeaseRuntime, RegisterError};

use crate::bed::{Answer, Cluster, NAME, info, ready};

#[tokio::test(start_paused = true)]
async fn an_idle_node_costs_a_lease_write_in_ten_seconds_and_a_status_write_in_five_minutes() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    sleep(Duration::from_secs(30)).await;
    let before = cluster.server.requests();
    sleep(Duration::from_hours(1)).await;
    let hour = cluster.server.requests().since(&before);
    let leases = hour.of(Verb::Update, "leases", "");
    assert!((344..=361).contains(&leases), "{leases} lease writes");
    assert_eq!(hour.of(Verb::Patch, "nodes", "status"), 12);
    assert_eq!(hour.count(|kind| kind.verb == Verb::Get), 0, "{hour:?}");
    // What is left is the watch, which the server ends after five minutes or so.
    let watches = hour.of(Verb::Watch, "nodes", "");
    assert_eq!(hour.total() - leases - 12 - watches, 0, "{hour:?}");
    assert!(watches < 20, "{watches}");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_shows_as_a_condition_and_does_not_delay_the_lease() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    cluster.backend.set(Answer::Never);
    cluster.until("not ready", |node| ready(node).1 == "ProviderTimeout").await;
    let before = cluster.server.requests();
    for _ in 0..60 {
        sleep(Duration::from_secs(10)).await;
        let age = daemon.lease_status.borrow().age().unwrap();
        assert!(age < Duration::from_secs(11), "{age:?}");
    }
    assert!(cluster.server.requests().since(&before).of(Verb::Update, "leases", "") >= 57);
    cluster.backend.set(Answer::Info(Box::new(info())));
    cluster.until("ready again", |node| ready(node).0 == "True").await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_daemons_node_is_taken_over_when_its_lease_expires_and_a_released_one_at_once() {
    let cluster = Cluster::new();
    cluster.ready("a").await.kill();
    let started = Instant::now();
    let daemon = cluster.start("b").await.unwrap();
    let waited = started.elapsed();
    assert!(waited > Duration::from_secs(28) && waited <= Duration::from_secs(42), "{waited:?}");
    daemon.shut_down().await;
    let started = Instant::now();
    let _daemon = cluster.start("c").await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_renews_without_saying_who_it_is_is_noticed_too() {
    let cluster = Cluster::new();
    let leases = cluster.leases();
    let lease = |at: Timestamp| -> Lease {
        serde_json::from_value(json!({
            "metadata": { "name": NAME, "namespace": "kube-node-lease" },
            "spec": { "holderIdentity": NAME, "leaseDurationSeconds": 40,
                      "renewTime": at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string() },
        }))
        .unwrap()
    };
    leases.create(&PostParams::default(), &lease(cluster.clock.now())).await.unwrap();
    let clock = cluster.clock.clone();
    let kubelet = tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(10)).await;
            let patch = Patch::Merge(json!({ "spec": lease(clock.now()).spec }));
            leases.patch(NAME, &PatchParams::default(), &patch).await.unwrap();
        }
    });
    let error = cluster.start("a").await.err().unwrap();
    assert!(matches!(error, RegisterError::HeldByAnother { .. }), "{error}");
    kubelet.abort();
    let started = Instant::now();
    let daemon = cluster.start("a").await.unwrap();
    assert!(started.elapsed() <= Duration::from_secs(42), "{:?}", started.elapsed());
    daemon.kill();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_whose_lease_was_taken_stops_and_writes_no_more() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    // As after a pause of the process that was longer than its lease.
    let taken = json!({
        "metadata": { "annotations": { "virtual-kubelet.io/instance": "name:b" } },
        "spec": { "renewTime": cluster.clock.now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string() },
    });
    cluster.leases().patch(NAME, &PatchParams::default(), &Patch::Merge(taken)).await.unwrap();
    let ended = timeout(Duration::from_secs(15), daemon.heartbeat).await.unwrap().unwrap();
    assert!(matches!(ended, Err(HeartbeatError::HeldByAnother { instance, .. }) if instance == "name:b"));
    let before = cluster.server.requests();
    sleep(Duration::from_mins(10)).await;
    assert_eq!(cluster.server.requests().since(&before).total(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_leases_the_status_is_written_at_every_ping_and_an_event_says_so() {
    let cluster = Cluster::new();
    let rule = cluster.server.faults().add(Rule::new(Fault::Forbidden).resource("leases"));
    let daemon = cluster.ready("a").await;
    assert!(daemon.lease_status.borrow().out_of_reach);
    sleep(Duration::from_secs(30)).await;
    let before = cluster.server.requests();
    sleep(Duration::from_mins(10)).await;
    let requests = cluster.server.requests().since(&before);
    let statuses = requests.of(Verb::Patch, "nodes", "status");
    assert!((59..=61).contains(&statuses), "{statuses}");
    assert!(requests.count(|kind| kind.resource == "leases") <= 16, "{requests:?}");
    let said = cluster.node_events().iter().filter(|r| **r == NodeReason::LeaseForbidden).count();
    assert_eq!(said, 1);
    rule.remove();
    sleep(Duration::from_mins(2)).await;
    assert!(!daemon.lease_status.borrow().out_of_reach);
    assert_eq!(cluster.lease()["spec"]["holderIdentity"], NAME);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_deleted_is_made_again() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    cluster.leases().delete(NAME, &DeleteParams::default()).await.unwrap();
    sleep(Duration::from_secs(11)).await;
    assert_eq!(cluster.lease()["metadata"]["ownerReferences"][0]["uid"], cluster.node()["metadata"]["uid"]);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_and_conflicts_do_not_cost_the_lease() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    let faults = cluster.server.faults();
    let lost =
        faults.add(Rule::new(Fault::LoseResponse).verb(Verb::Update).resource("leases").probability(0.5));
    let conflicts =
        faults.add(Rule::new(Fault::Conflict).verb(Verb::Update).resource("leases").probability(0.3));
    for _ in 0..100 {
        sleep(Duration::from_secs(10)).await;
        let status = daemon.lease_status.borrow().clone();
        assert_eq!(status.lost_to, None);
        assert!(status.age().unwrap() < Duration::from_secs(30), "{status:?}");
    }
    assert!(lost.hits() > 20 && conflicts.hits() > 10);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_lease_is_renewed_within_seconds() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    for fault in [Fault::Unavailable, Fault::Hang] {
        let rule = cluster.server.faults().add(Rule::new(fault));
        sleep(Duration::from_mins(10)).await;
        let before = cluster.server.requests();
        rule.remove();
        sleep(Duration::from_secs(19)).await;
        let age = daemon.lease_status.borrow().age().unwrap();
        assert!(age < Duration::from_secs(19), "{age:?}");
        assert!(cluster.server.requests().since(&before).of(Verb::Update, "leases", "") > 0);
    }
    cluster.until("still ready", |node| ready(node).0 == "True").await;
}

/// The one test in real time: a runtime whose threads are all blocked renews nothing, and the lease has its own.
#[test]
fn a_blocked_runtime_does_not_delay_the_lease() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::new();
        let mut config = NodeConfig::new(NAME);
        config.lease_duration = Duration::from_secs(1);
        let context = cluster.context_with("a", config);
        let registered = ensure_registered(&context).await.unwrap();
        let service = cluster.server.clone();
        let thread = LeaseRuntime::start(move || Ok(service.client())).await.unwrap();
        let lease = LeaseKeeper::new(&registered).spawn(&thread);
        let before = cluster.server.requests();
        // Blocks this runtime, as a provider should not but may.
        let (_sender, receiver) = std::sync::mpsc::channel::<()>();
        assert!(receiver.recv_timeout(Duration::from_secs(3)).is_err());
        let renewals = cluster.server.requests().since(&before).of(Verb::Update, "leases", "");
        assert!(renewals >= 6, "{renewals}");
        lease.stop().await;
    });
}
