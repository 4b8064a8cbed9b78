//! What a running pod is made of changes: files, tokens, and what it waits for.

use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;
use tokio::time::{Instant, sleep};
use vk_core::containers::ContainerBackend;
use vk_core::provider::PodRef;
use vk_scenarios::container_node::{ContainerNode, container, pod_of, server, with};
use vk_scenarios::pods::waiting_reason;
use vk_scenarios::{Objects, Pods, World, eventually};

const IDLE: &str = "trap 'exit 0' TERM; sleep 1000000 & wait";

#[tokio::test(start_paused = true)]
async fn changed_objects_reach_the_files_of_a_running_pod_together() {
    let world = World::in_memory().await;
    let node = ContainerNode::ready(&world).await;
    let pods = Pods::of(&world);
    let maps = Objects::<ConfigMap>::of(&world);
    let secrets = Objects::<Secret>::of(&world);
    maps.create(json!({"metadata": {"name": "settings"}, "data": {"a": "1", "gone": "soon"}})).await;
    secrets.create(json!({"metadata": {"name": "login"}, "stringData": {"password": "first"}})).await;
    let spec = json!({
        "containers": [with(container("a", IDLE), json!({"volumeMounts": [
            {"name": "settings", "mountPath": "/settings"}, {"name": "both", "mountPath": "/both"}]}))],
        "volumes": [
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "both", "projected": {"sources": [
                {"configMap": {"name": "settings", "items": [{"key": "a", "path": "deep/a"}]}},
                {"secret": {"name": "login"}}]}}],
    });
    let pod = pods.create(&pod_of("files", &node.name, spec)).await;
    pods.until_ready("files").await;
    let all = async || {
        let script =
            "cat /settings/a /both/deep/a /both/password; if [ -f /settings/gone ]; then echo -old; fi";
        node.exec(&pod, "a", script).await.1
    };
    assert_eq!(all().await, "11first-old\n");

    maps.patch("settings", &json!({"data": {"a": "2", "gone": null}})).await;
    eventually("the new ConfigMap is there", async || {
        let files = all().await;
        if files == "22first" { Ok(()) } else { Err(files) }
    })
    .await;
    secrets.patch("login", &json!({"stringData": {"password": "second"}})).await;
    eventually("the new Secret is there", async || {
        let files = all().await;
        if files == "22second" { Ok(()) } else { Err(files) }
    })
    .await;
    let running = pods.get("files").await;
    let status = &running.status.unwrap().container_statuses.unwrap()[0];
    assert_eq!(status.restart_count, 0, "nothing is started again for it");
    pods.delete("files").await;
    pods.until_gone("files").await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_comes_late_starts_the_container_in_under_a_second() {
    let world = World::in_memory().await;
    let node = ContainerNode::ready(&world).await;
    let pods = Pods::of(&world);
    let waits = with(
        container("a", "echo the password is $PASSWORD; trap 'exit 0' TERM; sleep 10000 & wait"),
        json!({"env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "late", "key": "password"}}}]}),
    );
    let spec = json!({"containers": [server("b"), waits]});
    let pod = pods.create(&pod_of("late", &node.name, spec)).await;
    let of_a = |pod: &k8s_openapi::api::core::v1::Pod| {
        let statuses = pod.status.clone().unwrap_or_default().container_statuses.unwrap_or_default();
        statuses.into_iter().find(|status| status.name == "a").and_then(|status| status.state)
    };
    pods.until("late", "waits for its Secret", |pod| {
        let waiting = of_a(pod).and_then(|state| state.waiting);
        waiting.and_then(|waiting| waiting.reason).as_deref() == Some("CreateContainerConfigError")
    })
    .await;
    // In the middle of the pause until it is tried again.
    sleep(Duration::from_secs(4)).await;
    let secrets = Objects::<Secret>::of(&world);
    let created = Instant::now();
    secrets.create(json!({"metadata": {"name": "late"}, "stringData": {"password": "open"}})).await;
    node.until_logged(&pod, "a", "the password is open").await;
    assert!(created.elapsed() < Duration::from_secs(1), "{:?}", created.elapsed());
    let ready = pods.until_ready("late").await;
    assert_eq!(waiting_reason(&ready), None);
}

#[tokio::test(start_paused = true)]
async fn a_tokens_successor_reaches_the_backend_at_four_fifths_of_its_life() {
    const LIFE: u32 = 600;
    let world = World::in_memory().await;
    let node = ContainerNode::ready(&world).await;
    let pods = Pods::of(&world);
    let spec = json!({
        "containers": [with(container("a", IDLE), json!({"volumeMounts": [{"name": "t", "mountPath": "/t"}]}))],
        "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken":
            {"audience": "vault", "expirationSeconds": LIFE, "path": "token"}}]}}],
    });
    let pod = pods.create(&pod_of("token", &node.name, spec)).await;
    pods.until_ready("token").await;
    let reference = PodRef::of(&pod).unwrap();
    let begin = Instant::now();
    let mut heard: Vec<(Instant, Bytes)> = Vec::new();
    let due = f64::from(LIFE) * 0.8;
    // Four successors, and none that is due before the fifth.
    while begin.elapsed() < Duration::from_secs_f64(4.5 * due) {
        let token = node.runner.backend().read_volume_file(&reference, "t", "token", 1 << 16).await.unwrap();
        let token = token.expect("there is always one");
        if heard.last().is_none_or(|(_, last)| *last != token) {
            heard.push((Instant::now(), token));
        }
        sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(heard.len(), 5, "the first, and four successors");
    let lives: Vec<_> = heard.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect();
    for life in &lives {
        // Up to ten seconds early; seen half a second later at most, after the moment of the call.
        assert!((due - 10.5..=due + 1.0).contains(life), "after {life} s");
    }
    let (_, seen) = node.exec(&pod, "a", "cat /t/token").await;
    assert_eq!(seen.as_bytes(), &heard[4].1, "the container sees the last one");
}
