//! Containers that wait: for their image, their configuration, the end of a back-off.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::backend::{Act, Role};
use crate::bed::{Bed, always, ends, pod, seconds, serves};

fn starts(bed: &Bed, begin: Instant) -> Vec<u64> {
    // Whole seconds: what shows for a moment before each start is not counted.
    bed.deeds(begin, "start").into_iter().map(|(_, at)| at as u64).collect()
}

#[tokio::test(start_paused = true)]
async fn the_back_off_doubles_to_five_minutes_and_shows_for_most_of_a_long_pause() {
    let begin = Instant::now();
    let bed = Bed::of(&json!({"containers": [{"name": "a", "image": "i"}]}), &[("a", ends(0, 1))]).await;
    seconds(1900.0).await;
    let starts = starts(&bed, begin);
    let pauses: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..8], [0, 10, 20, 40, 80, 160, 300, 300], "{starts:?}");
    // It ended at 1211 s and is started again five minutes later.
    let told = bed.told.lock().unwrap();
    let shown = |after: f64| {
        let at = begin + Duration::from_secs_f64(after);
        let (_, status) = told.statuses.iter().rfind(|(since, _)| *since <= at).expect("a status");
        let state = status.container_statuses.as_ref().expect("statuses")[0].state.clone().expect("a state");
        state.waiting.map_or("terminated".to_owned(), |waiting| waiting.reason.unwrap_or_default())
    };
    let last = *starts.iter().rfind(|at| **at < 1500).expect("starts") as f64;
    assert_eq!(shown(last + 30.0), "terminated");
    for after in [65.0, 120.0, 290.0] {
        assert_eq!(shown(last + after), "CrashLoopBackOff", "{after} s after it ended");
    }
    // A pause of 40 s shows at its end alone, as with a kubelet (oracle case crashloop-long).
    assert_eq!(shown(starts[4] as f64 - 5.0), "terminated");
}

#[tokio::test(start_paused = true)]
async fn ten_good_minutes_forget_the_back_off() {
    let begin = Instant::now();
    let mut role = always(serves(Some((0, 0))));
    role.runs = vec![ends(0, 1), ends(0, 1), ends(0, 1), ends(601_000, 1), ends(590_000, 1), ends(0, 1)];
    let roles = BTreeMap::from([("a".to_owned(), role)]);
    let spec = json!({"containers": [{"name": "a", "image": "i"}]});
    let bed = Bed::new(&pod(&spec), roles, Duration::ZERO).await;
    seconds(2000.0).await;
    // 0, 10 and 20 s of pause; none after ten minutes and a second; then 10 s, for it ran for less.
    assert_eq!(starts(&bed, begin), [0, 0, 10, 30, 631, 1231, 1251]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_deleted_while_it_backs_off_shows_how_it_ended() {
    // Oracle case delete-in-crashloop, after a longer pause.
    let bed = Bed::of(&json!({"containers": [{"name": "a", "image": "i"}]}), &[("a", ends(0, 3))]).await;
    seconds(250.0).await;
    assert_eq!(bed.waiting("a").as_deref(), Some("CrashLoopBackOff"));
    let restarts = bed.container("a").restart_count;
    bed.delete(Duration::from_secs(30)).await;
    seconds(2.0).await;
    assert!(bed.is_gone());
    let shown = bed.container("a");
    let end = shown.state.unwrap().terminated.expect("its last end");
    assert_eq!((end.exit_code, end.reason.as_deref()), (3, Some("Error")));
    let before = shown.last_state.unwrap().terminated.expect("the end before");
    assert_ne!(end.container_id, before.container_id);
    assert_eq!(shown.restart_count, restarts);
    assert_eq!(bed.status().phase.as_deref(), Some("Failed"));
}

#[tokio::test(start_paused = true)]
async fn pulls_back_off_from_ten_seconds_to_five_minutes() {
    let spec = json!({"containers": [{"name": "a", "image": "i", "imagePullPolicy": "IfNotPresent"}]});
    let roles = BTreeMap::from([("a".to_owned(), always(serves(Some((0, 0)))))]);
    let begin = Instant::now();
    let bed = Bed::new(&pod(&spec), roles, Duration::ZERO).await;
    bed.backend.lack_images(true);
    let mut pulls = Vec::new();
    let mut seen = 0;
    while begin.elapsed() < Duration::from_secs(1300) {
        seconds(0.5).await;
        let count = bed.events().iter().filter(|event| event.starts_with("Pulling")).count();
        if count > seen {
            pulls.push(begin.elapsed().as_secs());
            seen = count;
        }
    }
    assert_eq!(pulls, [0, 10, 30, 70, 150, 310, 610, 910, 1210], "10, 20, 40, 80, 160 s, and then 5 min");
    assert_eq!(bed.waiting("a").as_deref(), Some("ImagePullBackOff"));
    bed.backend.lack_images(false);
    seconds(300.0).await;
    assert!(bed.container("a").state.unwrap().running.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_was_lacking_starts_a_container_at_once_even_after_a_failed_pull() {
    let spec = json!({"containers": [{"name": "a", "image": "i", "imagePullPolicy": "IfNotPresent"}]});
    let roles = BTreeMap::from([("a".to_owned(), always(serves(Some((0, 0)))))]);
    let bed = Bed::new(&pod(&spec), roles, Duration::ZERO).await;
    bed.backend.lack_images(true);
    bed.backend.block(true);
    seconds(5.0).await;
    assert_eq!(bed.waiting("a").as_deref(), Some("ImagePullBackOff"));
    bed.backend.lack_images(false);
    seconds(10.0).await;
    assert_eq!(bed.waiting("a").as_deref(), Some("CreateContainerConfigError"));
    bed.backend.block(false);
    bed.update(|_| {}).await;
    seconds(0.9).await;
    assert!(bed.container("a").state.unwrap().running.is_some(), "{:?}", bed.container("a").state);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_last_container_ends_just_before_its_deadline_was_in_time() {
    let spec = json!({"restartPolicy": "Never", "activeDeadlineSeconds": 5, "containers": [{"name": "a", "image": "i"}]});
    let bed = Bed::of(&spec, &[("a", ends(4500, 0))]).await;
    seconds(8.0).await;
    assert_eq!(bed.status().phase.as_deref(), Some("Succeeded"));
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_neither_keeps_a_pod_alive_nor_is_started_again() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]});
    let bed = Bed::of(&spec, &[("a", ends(5000, 0))]).await;
    seconds(1.0).await;
    bed.backend.cast("debug", always(serves(Some((0, 1)))));
    bed.backend.cast("short", always(ends(100, 1)));
    let added = json!([{"name": "debug", "image": "i"}, {"name": "short", "image": "i"}]);
    bed.update(|pod| {
        pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(added).unwrap();
    })
    .await;
    seconds(3.0).await;
    assert!(bed.container("debug").state.unwrap().running.is_some());
    assert_eq!(bed.container("short").state.unwrap().terminated.unwrap().exit_code, 1);
    assert_eq!(bed.status().phase.as_deref(), Some("Running"));
    seconds(4.0).await;
    assert_eq!(bed.status().phase.as_deref(), Some("Succeeded"));
    assert_eq!(bed.container("short").restart_count, 0);
    assert!(bed.container("debug").state.unwrap().terminated.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_beside_init_containers_holds_nothing_up() {
    let spec =
        json!({"initContainers": [{"name": "i", "image": "i"}], "containers": [{"name": "a", "image": "i"}]});
    let bed = Bed::of(&spec, &[("i", ends(3000, 0)), ("a", serves(Some((0, 0))))]).await;
    seconds(1.0).await;
    bed.backend.cast("debug", always(serves(Some((0, 1)))));
    let added = json!([{"name": "debug", "image": "i"}]);
    bed.update(|pod| {
        pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(added).unwrap();
    })
    .await;
    seconds(4.0).await;
    assert!(bed.container("debug").state.unwrap().running.is_some());
    assert_eq!(bed.status().phase.as_deref(), Some("Running"));
}

#[tokio::test(start_paused = true)]
async fn probes_have_a_grace_period_of_their_own() {
    let probe = json!({"exec": {"command": ["liveness"]}, "periodSeconds": 1, "failureThreshold": 1,
        "initialDelaySeconds": 5, "terminationGracePeriodSeconds": 7});
    let spec = json!({"terminationGracePeriodSeconds": 60,
        "containers": [{"name": "a", "image": "i", "livenessProbe": probe}]});
    let deaf: Act = serves(None);
    let role = Role {
        runs: vec![deaf],
        then: serves(Some((0, 0))),
        answers: BTreeMap::from([("liveness", vec![false])]),
    };
    let begin = Instant::now();
    let bed = Bed::new(&pod(&spec), BTreeMap::from([("a".to_owned(), role)]), Duration::ZERO).await;
    seconds(13.0).await;
    let at = |kind: &str| bed.deeds(begin, kind).first().map(|(_, at)| *at as u64);
    assert_eq!((at("term"), at("end")), (Some(5), Some(12)), "seven seconds, not sixty");
}

#[tokio::test(start_paused = true)]
async fn a_replaced_sidecar_that_waits_for_its_turn_is_not_shown_as_running() {
    let probe = |name: &str, delay: u64| json!({"exec": {"command": [name]}, "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": delay});
    let sidecar = |name: &str| json!({"name": name, "image": "i", "restartPolicy": "Always"});
    let mut second = sidecar("s2");
    second["startupProbe"] = probe("startup", 25);
    let spec =
        json!({"initContainers": [sidecar("s1"), second], "containers": [{"name": "a", "image": "i"}]});
    let mut role = always(serves(Some((0, 0))));
    role.answers.insert("startup", vec![false]);
    // The first one is in its pause of 20 s when the other one is replaced.
    let roles = [
        ("s1".to_owned(), always(ends(4_000, 1))),
        ("s2".to_owned(), role),
        ("a".to_owned(), always(serves(Some((0, 0))))),
    ];
    let bed = Bed::new(&pod(&spec), roles.into(), Duration::ZERO).await;
    seconds(30.0).await;
    let of = |kind: &str, name: &str| {
        bed.deeds(Instant::now() - Duration::from_secs(30), kind).iter().filter(|(n, _)| n == name).count()
    };
    assert_eq!((of("end", "s1"), of("start", "s1"), of("end", "s2"), of("start", "s2")), (3, 3, 1, 1));
    assert!(bed.container("s2").state.unwrap().running.is_none());
}
