//! Agents that lie in one thing: the check about it fails, which passes for an honest one.

use serde_json::{Value, json};
use vk_node_conformance::Verdict;

use crate::agent::{Agent, Deletes};
use crate::cluster::Cluster;

async fn verdict(agent: Agent, check: &str) -> Verdict {
    let cluster = Cluster::new();
    cluster.make_node("192.0.2.20", 10250);
    let _acting = agent.act(&cluster);
    cluster.verdict(check).await
}

fn lying(lie: fn(&Value, &mut Value)) -> Agent {
    Agent { lie, ..Agent::default() }
}

fn deleting(deletes: Deletes) -> Agent {
    Agent { deletes, ..Agent::default() }
}

#[tokio::test(start_paused = true)]
async fn each_lie_fails_the_check_about_it_and_the_truth_passes() {
    let lies: Vec<(&str, Agent, &str)> = vec![
        (
            "a_pod_runs",
            lying(|_, s| {
                s["podIP"] = Value::Null;
                s["podIPs"] = Value::Null;
            }),
            "no status.podIP",
        ),
        ("a_pod_runs", lying(|_, s| s["startTime"] = Value::Null), "no status.startTime"),
        ("a_pod_runs", lying(|_, s| s["containerStatuses"][0]["containerID"] = json!("bare")), "containerID"),
        (
            "a_pod_runs",
            lying(|_, s| s["containerStatuses"][0]["started"] = json!(false)),
            "not ready and started",
        ),
        ("a_pod_runs", lying(|_, s| s["phase"] = json!("Pending")), "not Running and Ready"),
        ("a_deleted_pod_goes_in_time", deleting(Deletes::Never), "is not gone"),
        ("a_deletion_outlives_its_grace_by_little", deleting(Deletes::AtOnce), "was gone after"),
        ("a_second_deletion_does_no_harm", deleting(Deletes::Never), "is not gone"),
        ("an_end_is_told_before_the_object_goes", deleting(Deletes::Silently), "not a terminal one"),
        ("a_finalizer_holds_the_object_alone", deleting(Deletes::Silently), "is not ended"),
        (
            "the_same_name_again_is_a_new_pod",
            lying(|_, s| s["containerStatuses"][0]["containerID"] = json!("fake://always")),
            "the id of the old one",
        ),
        (
            "a_forced_deletion_frees_the_name",
            lying(|_, s| s["containerStatuses"][0]["restartCount"] = json!(2)),
            "2 restarts",
        ),
        (
            "exit_codes_are_kept",
            lying(|_, s| {
                if s["containerStatuses"][0]["state"]["terminated"].is_object() {
                    s["containerStatuses"][0]["state"]["terminated"]["exitCode"] = json!(1);
                }
            }),
            "exitCode is 1, not 0",
        ),
        (
            "exit_codes_are_kept",
            lying(|_, s| {
                if s["phase"] == "Failed" {
                    s["phase"] = json!("Succeeded");
                }
            }),
            "ended with 3 it is Succeeded",
        ),
        (
            "a_job_fails",
            lying(|_, s| {
                if s["phase"] == "Failed" {
                    s["phase"] = json!("Succeeded");
                }
            }),
            "the Job is not Failed",
        ),
        (
            "conditions_are_a_kubelets",
            lying(|_, s| drop(s["conditions"].as_array_mut().unwrap().remove(0))),
            "no condition PodReadyToStartContainers",
        ),
        (
            "generations_are_observed",
            lying(|_, s| s["observedGeneration"] = Value::Null),
            "status.observedGeneration null",
        ),
        ("generations_are_observed", lying(|_, s| s["observedGeneration"] = json!(1)), "second generation"),
        ("an_idle_pod_is_left_alone", Agent { restless: true, ..Agent::default() }, "versions were written"),
        (
            "twenty_pods_run_at_once",
            lying(|_, s| {
                s["podIP"] = json!("10.0.0.1");
                s["podIPs"] = json!([{"ip": "10.0.0.1"}]);
            }),
            "20 pods have 1 addresses",
        ),
        ("an_evicted_pod_goes", deleting(Deletes::Never), "is not gone"),
        ("what_it_cannot_run_is_failed_aloud", Agent::default(), "took a pod that asks for"),
        ("a_start_is_told", Agent::default(), "there are no events"),
    ];
    // Two checks ask for what the honest agent does not do either.
    let beyond = ["what_it_cannot_run_is_failed_aloud", "a_start_is_told"];
    let mut honest: Vec<&str> =
        lies.iter().map(|(check, ..)| *check).filter(|check| !beyond.contains(check)).collect();
    honest.dedup();
    for check in honest {
        assert_eq!(verdict(Agent::default(), check).await, Verdict::Passed, "{check}");
    }
    for (check, agent, seen) in lies {
        let verdict = verdict(agent, check).await;
        assert!(
            matches!(&verdict, Verdict::Failed { reason } if reason.contains(seen)),
            "{check} should see {seen:?}: {verdict:?}"
        );
    }
}
