//! A run that is interrupted, or cannot begin.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use vk_apiserver::{ApiServer, Config, Identity};
use vk_node_conformance::{Glob, Progress, Refused, Settings, Verdict, run};

use crate::agent::Agent;
use crate::cluster::{Cluster, NODE};

#[tokio::test(start_paused = true)]
async fn an_interrupted_run_leaves_nothing_and_says_what_was_not_run() {
    let cluster = Cluster::new();
    cluster.make_node("192.0.2.20", 10250);
    let _acting = Agent { lie: |_, s| s["phase"] = "Pending".into(), ..Agent::default() }.act(&cluster);
    let stop = Arc::new(Notify::new());
    let settings = Settings::new(NODE).with_only([Glob::new("a_pod_runs"), Glob::new("an_evicted_pod_goes")]);
    let (server, signal) = (cluster.server.clone(), Arc::clone(&stop));
    let watching = tokio::spawn(async move {
        while server.count("pods") == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        signal.notify_one();
    });
    let mut begun = Vec::new();
    let tell = |progress: Progress<'_>| {
        if let Progress::Begins(check, _) = progress {
            begun.push(check.name);
        }
    };
    let report = run(cluster.server.client(), settings, tell, stop.notified()).await.unwrap();
    watching.await.unwrap();
    let verdicts: Vec<&Verdict> = report.outcomes.iter().map(|outcome| &outcome.verdict).collect();
    assert_eq!(verdicts[0], &Verdict::failed("interrupted"));
    assert_eq!(verdicts[1], &Verdict::not_applicable("not run: interrupted"));
    assert_eq!(begun, ["a_pod_runs"]);
    cluster.is_clean();
}

#[tokio::test(start_paused = true)]
async fn a_run_without_a_node_or_without_checks_is_refused() {
    let cluster = Cluster::new();
    let refused = |settings| run(cluster.server.client(), settings, |_| {}, std::future::pending());
    let nowhere = refused(Settings::new("nowhere")).await;
    assert!(
        matches!(&nowhere, Err(Refused::Node(why)) if why.contains("no node \"nowhere\"")),
        "{nowhere:?}"
    );
    let nothing = refused(Settings::new(NODE).with_only([Glob::new("nothing")])).await;
    assert_eq!(nothing.unwrap_err(), Refused::NothingSelected);
}

#[tokio::test(start_paused = true)]
async fn what_the_caller_may_not_do_does_not_apply() {
    let server = ApiServer::with(Config { rbac: true, ..Config::default() }).unwrap();
    let cluster = Cluster::of(server);
    cluster.make_node("192.0.2.20", 10250);
    // Whoever may look at nodes, and no more.
    let rule = json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "looks"}, "rules": [rule]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "looks"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "looks"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "visitor"}]});
    cluster.server.create(role).unwrap();
    cluster.server.create(binding).unwrap();
    let client = cluster.server.client_as(Identity::new("visitor", []));
    let settings = Settings::new(NODE).with_only([Glob::new("a_pod_runs"), Glob::new("lease/*")]);
    let report = run(client, settings, |_| {}, std::future::pending()).await.unwrap();
    for outcome in &report.outcomes {
        assert!(
            matches!(&outcome.verdict, Verdict::NotApplicable { reason } if reason.contains("lacks a right")),
            "{outcome:?}"
        );
    }
    assert_eq!((report.outcomes.len(), report.passed()), (3, false));
}
