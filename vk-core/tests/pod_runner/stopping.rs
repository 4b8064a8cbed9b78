//! Pods that stop: hooks, turns, grace periods.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::bed::{Bed, ends, seconds, serves};

const SECOND: Duration = Duration::from_secs(1);

fn sidecar(name: &str) -> Value {
    json!({"name": name, "image": "i", "restartPolicy": "Always"})
}

fn named(deeds: &[(String, f64)]) -> Vec<(&str, u64)> {
    deeds.iter().map(|(name, at)| (name.as_str(), *at as u64)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_second_shorter_deletion_cuts_a_pre_stop_hook_short() {
    let hook = json!({"preStop": {"exec": {"command": ["sleep", "25"]}}});
    let bed = Bed::of(
        &json!({"containers": [{"name": "a", "image": "i", "lifecycle": hook}]}),
        &[("a", serves(Some((0, 0))))],
    )
    .await;
    seconds(1.0).await;
    let begin = Instant::now();
    bed.delete(30 * SECOND).await;
    seconds(1.0).await;
    bed.delete(3 * SECOND).await;
    seconds(10.0).await;
    assert_eq!(named(&bed.deeds(begin, "term")), [("a", 4)], "not after the hook's 25 s");
    assert!(bed.is_gone());
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_sleep_of_zero_is_no_sleep() {
    let hook = json!({"preStop": {"sleep": {"seconds": 0}}});
    let bed = Bed::of(
        &json!({"containers": [{"name": "a", "image": "i", "lifecycle": hook}]}),
        &[("a", serves(Some((0, 0))))],
    )
    .await;
    seconds(1.0).await;
    let begin = Instant::now();
    bed.delete(30 * SECOND).await;
    seconds(1.0).await;
    assert_eq!(named(&bed.deeds(begin, "end")), [("a", 0)]);
    assert!(bed.is_gone());
    assert!(!bed.events().iter().any(|event| event.contains("PreStopHook")), "{:?}", bed.events());
}

#[tokio::test(start_paused = true)]
async fn sidecars_that_wait_for_a_deaf_container_are_told_when_the_grace_period_is_over() {
    // `waitForTurn` in pkg/kubelet/kuberuntime: nobody waits for longer than the grace period.
    let bed = Bed::of(
        &json!({"initContainers": [sidecar("s1"), sidecar("s2")], "containers": [{"name": "a", "image": "i"}]}),
        &[("s1", serves(None)), ("s2", serves(None)), ("a", serves(None))],
    )
    .await;
    seconds(1.0).await;
    let begin = Instant::now();
    bed.delete(10 * SECOND).await;
    seconds(20.0).await;
    let mut told = bed.deeds(begin, "term");
    told.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(named(&told), [("a", 0), ("s1", 10), ("s2", 10)]);
    let last = bed.deeds(begin, "end").into_iter().map(|(_, at)| at).fold(0.0, f64::max);
    assert!((12.0..12.5).contains(&last), "the least of two seconds, and no more: {last}");
}

#[tokio::test(start_paused = true)]
async fn all_sidecars_of_a_finished_pod_share_one_grace_period_and_their_hooks_run_at_once() {
    let mut slow = sidecar("s2");
    slow["lifecycle"] = json!({"preStop": {"exec": {"command": ["sleep", "3"]}}});
    let mut first = sidecar("s1");
    first["lifecycle"] = json!({"preStop": {"exec": {"command": ["sleep", "3"]}}});
    let begin = Instant::now();
    let bed = Bed::of(
        &json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 20,
            "initContainers": [first, slow], "containers": [{"name": "a", "image": "i"}]}),
        &[("s1", serves(Some((0, 0)))), ("s2", serves(Some((0, 0)))), ("a", ends(5000, 0))],
    )
    .await;
    seconds(15.0).await;
    assert_eq!(named(&bed.deeds(begin, "term")), [("s2", 8), ("s1", 8)]);
    assert_eq!(bed.status().phase.as_deref(), Some("Succeeded"));
}

#[tokio::test(start_paused = true)]
async fn a_sidecars_end_in_a_finished_pod_starts_nothing_again() {
    // What a mesh is told to do when its proxy fails must not keep a Job alive.
    let mut proxy = sidecar("s");
    proxy["restartPolicyRules"] =
        json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}]);
    let begin = Instant::now();
    let bed = Bed::of(
        &json!({"restartPolicy": "Never", "initContainers": [proxy], "containers": [{"name": "a", "image": "i"}]}),
        &[("s", serves(Some((0, 143)))), ("a", ends(2000, 0))],
    )
    .await;
    seconds(60.0).await;
    assert_eq!(bed.status().phase.as_deref(), Some("Succeeded"));
    assert_eq!(bed.deeds(begin, "start").len(), 2);
    assert!(!bed.events().iter().any(|event| event.starts_with("BackOff")), "{:?}", bed.events());
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_as_its_pods_deletion_begins_is_not_started_again() {
    for moment in [995, 1000, 1005, 1100, 1149, 1151] {
        let bed = Bed::of(
            &json!({"initContainers": [sidecar("s")], "containers": [{"name": "a", "image": "i"}]}),
            &[("s", serves(Some((500, 0)))), ("a", ends(1000, 0))],
        )
        .await;
        seconds(f64::from(moment) / 1000.0).await;
        let begun = bed.deeds(Instant::now(), "start").len();
        bed.delete(5 * SECOND).await;
        seconds(10.0).await;
        assert!(bed.is_gone(), "deleted after {moment} ms");
        assert_eq!(bed.deeds(Instant::now(), "start").len(), begun, "deleted after {moment} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_being_restarted_gets_no_longer_than_the_pod_that_is_deleted() {
    let probe = json!({"exec": {"command": ["liveness"]}, "periodSeconds": 1, "failureThreshold": 1});
    let spec = json!({"terminationGracePeriodSeconds": 60,
        "containers": [{"name": "a", "image": "i", "livenessProbe": probe}]});
    let mut role = crate::bed::always(serves(None));
    role.answers.insert("liveness", vec![false]);
    let bed = Bed::new(&crate::bed::pod(&spec), [("a".to_owned(), role)].into(), Duration::ZERO).await;
    seconds(1.0).await;
    let begin = Instant::now();
    bed.delete(5 * SECOND).await;
    seconds(7.0).await;
    assert_eq!(named(&bed.deeds(begin, "end")), [("a", 5)]);
    assert!(bed.is_gone());
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_well_on_its_probes_failure_and_has_to_back_off_has_succeeded() {
    // `computePodActions`: the pass that kills it may not start it yet, and the next one finds that it has succeeded.
    let probe = json!({"exec": {"command": ["liveness"]}, "periodSeconds": 1, "failureThreshold": 1,
        "initialDelaySeconds": 1});
    let spec = json!({"restartPolicy": "OnFailure",
        "containers": [{"name": "a", "image": "i", "livenessProbe": probe}]});
    let mut role = crate::bed::always(serves(Some((0, 0))));
    role.answers.insert("liveness", vec![false]);
    let begin = Instant::now();
    let bed = Bed::new(&crate::bed::pod(&spec), [("a".to_owned(), role)].into(), Duration::ZERO).await;
    seconds(30.0).await;
    assert_eq!(named(&bed.deeds(begin, "start")), [("a", 0), ("a", 1), ("a", 2)]);
    assert_eq!(bed.status().phase.as_deref(), Some("Succeeded"));
    assert_eq!(bed.container("a").restart_count, 2);
}
