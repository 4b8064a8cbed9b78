//! Kubelet APIs that answer, but not what was asked.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use vk_node_conformance::Verdict;

use crate::agent::Agent;
use crate::cluster::{Cluster, NODE};

/// The verdict about a node whose pods run, and whose API is this.
async fn verdict(check: &str, answer: impl Fn(&str, &str) -> Response + Send + Sync + 'static) -> Verdict {
    let cluster = Cluster::new();
    cluster.make_node("192.0.2.20", 10250);
    let answer = Arc::new(answer);
    let api = Router::new().fallback(move |request: Request| {
        let answer = answer(request.uri().path(), request.uri().query().unwrap_or_default());
        async move { answer }
    });
    cluster.server.add_kubelet(NODE, api);
    let _acting = Agent::default().act(&cluster);
    cluster.verdict(check).await
}

fn log(_: &str, _: &str) -> Response {
    "one\ntwo\nthree\n".into_response()
}

#[tokio::test(start_paused = true)]
async fn a_log_that_ignores_what_was_asked_fails_all_but_the_whole_log() {
    assert_eq!(verdict("a_log_is_whole", log).await, Verdict::Passed);
    for (check, seen) in [
        ("the_tail_is_the_tail", "with tailLines=1"),
        ("bytes_are_limited", "with limitBytes=6"),
        ("timestamps_are_added", "does not begin with a time"),
        ("since_leaves_out_what_is_older", "with sinceSeconds=2"),
        ("a_previous_log_that_is_not_there_is_an_error", "has the previous log"),
    ] {
        let verdict = verdict(check, log).await;
        assert!(
            matches!(&verdict, Verdict::Failed { reason } if reason.contains(seen)),
            "{check}: {verdict:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_node_declares_to_lack_does_not_apply_and_what_it_breaks_fails() {
    let checks = [
        "a_log_is_whole",
        "exit_codes_come_back",
        "a_terminal_is_one",
        "an_attached_client_talks_to_the_process",
        "a_port_answers",
        "the_summary_has_the_pod",
        "the_resource_metrics_have_the_pod",
    ];
    for check in checks {
        let lacking = verdict(check, |_, _| StatusCode::NOT_IMPLEMENTED.into_response()).await;
        assert!(
            matches!(&lacking, Verdict::NotApplicable { reason } if reason.contains("501")),
            "{check}: {lacking:?}"
        );
        let broken = verdict(check, |_, _| StatusCode::INTERNAL_SERVER_ERROR.into_response()).await;
        assert!(matches!(&broken, Verdict::Failed { .. }), "{check}: {broken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_without_the_pod_fail() {
    let empty = |path: &str, _: &str| match path {
        "/stats/summary" => r#"{"node": {"nodeName": "subject"}, "pods": []}"#.into_response(),
        "/pods" => r#"{"items": []}"#.into_response(),
        _ => "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total 1\n".into_response(),
    };
    for (check, seen) in [
        ("the_summary_has_the_pod", "the pod is not in it"),
        ("the_resource_metrics_have_the_pod", "there is no container_cpu_usage_seconds_total"),
        ("the_kubelet_api_lists_the_pod", "0 others"),
    ] {
        let verdict = verdict(check, empty).await;
        assert!(
            matches!(&verdict, Verdict::Failed { reason } if reason.contains(seen)),
            "{check}: {verdict:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_port_shows_nothing_where_no_port_answers() {
    let verdict =
        verdict("a_closed_port_says_so", |_, _| StatusCode::INTERNAL_SERVER_ERROR.into_response()).await;
    assert!(
        matches!(&verdict, Verdict::NotApplicable { reason } if reason.starts_with("no open port answers")),
        "{verdict:?}"
    );
}
