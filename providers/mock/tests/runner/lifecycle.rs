//! One pod's life.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use vk_core::clock::Clock;
use vk_core::containers::{ContainerBackend, Dial, PodRunner};
use vk_core::provider::Provider;

use crate::support::{Bench, seconds};

#[tokio::test(start_paused = true)]
async fn a_pod_runs_to_its_end_and_goes_when_it_is_deleted() {
    // Oracle case exit0-never.
    let bench = Bench::new().await;
    let pod = bench
        .create(json!({"restartPolicy": "Never", "containers": [
            {"name": "a", "command": ["sh", "-c", "echo hi; sleep 1"]}]}))
        .await;
    seconds(5.0).await;
    assert_eq!(
        bench.states(),
        ["pending", "ready", "ready a#0:runs+", "ready a#0:exit 0", "ended a#0:exit 0"]
    );
    assert_eq!(
        bench.events(),
        [
            "Pulled a: Container image \"tool:1\" already present on machine and can be accessed by the pod",
            "Created a: Container created",
            "Started a: Container started",
        ]
    );
    bench.runner.delete_pod(&pod, Duration::from_secs(30)).await.unwrap();
    seconds(1.0).await;
    assert_eq!(bench.states().last().unwrap(), "gone");
    assert!(bench.runner.list_pods().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_new_runner_that_was_told_nothing_yet_deletes_what_the_old_one_left() {
    let bench = Bench::new().await;
    let pod =
        bench.create(json!({"containers": [{"name": "a", "command": ["sh", "-c", "sleep 600"]}]})).await;
    seconds(2.0).await;
    let backend = Arc::clone(bench.runner.backend());
    drop(bench);
    seconds(1.0).await;
    // Nobody watches it, and nobody has asked it for a listing.
    let runner = PodRunner::dialing(
        Arc::clone(&backend),
        Clock::virtual_from("2026-11-23T12:00:00Z".parse().unwrap()),
        Dial::PortForward,
    );
    runner.delete_pod(&pod, Duration::from_secs(1)).await.unwrap();
    seconds(60.0).await;
    assert_eq!(backend.list().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_failing_container_comes_back_at_once_and_then_with_growing_pauses() {
    // Oracle case crashloop-long.
    let bench = Bench::new().await;
    bench.create(json!({"containers": [{"name": "a", "command": ["sh", "-c", "sleep 1; exit 1"]}]})).await;
    seconds(14.0).await;
    assert_eq!(
        bench.states()[2..],
        [
            "ready a#0:runs+",
            "ready a#0:exit 1",
            "ready a#1:runs+ after 1",
            "ready a#1:exit 1 after 1",
            "ready a#1:CrashLoopBackOff after 1",
            "ready a#2:runs+ after 1",
            "ready a#2:exit 1 after 1",
        ]
    );
    let back_off = "BackOff a: Back-off restarting failed container a in pod pod_default(uid-1)";
    assert_eq!(bench.events().iter().filter(|event| *event == back_off).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_has_its_grace_and_its_sidecars_go_last_and_backwards() {
    // Oracle case sidecars-reverse-order.
    let bench = Bench::new().await;
    let trap = |s: u32| json!(["sh", "-c", format!("trap 'sleep {s}; exit 0' TERM; sleep 1000 & wait")]);
    let pod = bench
        .create(json!({
            "initContainers": [
                {"name": "s1", "restartPolicy": "Always", "command": ["tool", "serve", "--term-delay", "1s"]},
                {"name": "s2", "restartPolicy": "Always", "command": trap(1)}],
            "containers": [{"name": "a", "command": trap(2)}]}))
        .await;
    seconds(3.0).await;
    bench.runner.delete_pod(&pod, Duration::from_secs(30)).await.unwrap();
    seconds(6.0).await;
    let states = bench.states();
    assert_eq!(
        states[2..],
        [
            "ready s1#0:runs+",
            "ready s1#0:runs+ s2#0:runs+",
            "ready s1#0:runs+ s2#0:runs+ a#0:runs+",
            "ready s1#0:runs+ s2#0:runs+ a#0:exit 0",
            "ready s1#0:runs+ s2#0:exit 0 a#0:exit 0",
            "ready s1#0:exit 0 s2#0:exit 0 a#0:exit 0",
            "ended s1#0:exit 0 s2#0:exit 0 a#0:exit 0",
            "gone",
        ]
    );
    let stops = bench.events().iter().filter(|event| event.starts_with("Killing")).count();
    assert_eq!(stops, 3);
}
