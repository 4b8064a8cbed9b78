//! A node that has an object and does nothing: whatever needs a node that acts must fail.

use std::time::Duration;

use vk_node_conformance::{ALL, Verdict};

use crate::cluster::{Cluster, by_name};

#[tokio::test(start_paused = true)]
async fn a_node_that_does_nothing_passes_nothing_but_what_its_object_says() {
    let cluster = Cluster::new();
    cluster.make_node("192.0.2.20", 10250);
    let report = cluster.check(&[], Duration::from_secs(10)).await;
    let verdicts = by_name(&report);
    assert_eq!(verdicts.len(), ALL.len());
    for check in ALL {
        let verdict = verdicts[check.name];
        match check.group {
            // Whether the object is a good one is all they ask. It was made a moment ago.
            "registration" | "heartbeat" => assert_eq!(verdict, &Verdict::Passed, "{}", check.name),
            "security" => assert!(matches!(verdict, Verdict::NotApplicable { .. }), "{verdict:?}"),
            _ => assert!(matches!(verdict, Verdict::Failed { .. }), "{}: {verdict:?}", check.name),
        }
    }
    assert!(!report.passed());
    cluster.is_clean();
}

#[tokio::test(start_paused = true)]
async fn old_heartbeats_are_stale() {
    let cluster = Cluster::new();
    cluster.make_node("192.0.2.20", 10250);
    let node = cluster.server.object("nodes", "", crate::cluster::NODE).unwrap();
    let made: jiff::Timestamp =
        node["status"]["conditions"][0]["lastHeartbeatTime"].as_str().unwrap().parse().unwrap();
    let lease = |seconds: i64| {
        let time = (made + jiff::SignedDuration::from_secs(seconds)).strftime("%Y-%m-%dT%H:%M:%S.000000Z");
        serde_json::json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": crate::cluster::NODE, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 40, "renewTime": time.to_string()}})
    };
    cluster.server.create(lease(600)).unwrap();
    let failed = cluster.verdict("conditions_are_fresh").await;
    assert!(matches!(&failed, Verdict::Failed { reason } if reason.contains("old")), "{failed:?}");
    let failed = cluster.verdict("the_lease_is_the_nodes").await;
    assert!(matches!(&failed, Verdict::Failed { reason } if reason.contains("\"somebody\"")), "{failed:?}");
    let failed = cluster.verdict("the_lease_is_renewed_in_time").await;
    assert!(
        matches!(&failed, Verdict::Failed { reason } if reason.contains("did not move on")),
        "{failed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_bare_node_object_lacks_everything() {
    let cluster = Cluster::new();
    let node =
        serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": crate::cluster::NODE}});
    cluster.server.create(node).unwrap();
    let report = cluster.check(&["registration/*", "heartbeat/*"], Duration::from_secs(1)).await;
    let passed: Vec<&str> = report
        .outcomes
        .iter()
        .filter(|outcome| outcome.verdict == Verdict::Passed)
        .map(|outcome| outcome.clause.as_str())
        .collect();
    assert_eq!(passed, Vec::<&str>::new(), "{}", report.to_text());
}
