//! A pod as Knative's revision controller writes it: the user's container, and queue-proxy in front of it.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::Instant;
use vk_scenarios::container_node::{ContainerNode, DRAINED, container, pod_of, server, with};
use vk_scenarios::pods::{is_true, uid_of};
use vk_scenarios::{Pods, World};

/// Its parts as in `pkg/reconciler/revision/resources` of Knative Serving; its ports are the one that there is.
fn revision(node: &str) -> Pod {
    let address = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let user = with(
        container(
            "user-container",
            "trap 'echo user stops; exit 0' TERM; echo port $PORT of $K_REVISION; sleep 10000 & wait",
        ),
        json!({
            "env": [{"name": "PORT", "value": "8080"}, {"name": "K_REVISION", "value": "hello-00001"}],
            "lifecycle": {"preStop": {"httpGet": {"path": "/prestop", "port": 8080}}},
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }),
    );
    let queue = with(
        server("queue-proxy"),
        json!({
            "env": [
                {"name": "SERVING_NAMESPACE", "valueFrom": address("metadata.namespace")},
                {"name": "SERVING_POD", "valueFrom": address("metadata.name")},
                {"name": "SERVING_POD_IP", "valueFrom": address("status.podIP")},
                {"name": "HOST_IP", "valueFrom": address("status.hostIP")},
                {"name": "CONTAINER_CONCURRENCY", "value": "0"},
            ],
            "ports": [{"name": "queue-port", "containerPort": 8080}],
            "resources": {"requests": {"cpu": "25m"}},
            "readinessProbe": {
                "httpGet": {"path": "/healthz", "port": "queue-port",
                    "httpHeaders": [{"name": "K-Network-Probe", "value": "queue"}]},
                "periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3,
            },
        }),
    );
    pod_of(
        "hello-00001",
        node,
        json!({
            "containers": [user, queue], "terminationGracePeriodSeconds": 300, "enableServiceLinks": false,
        }),
    )
}

#[tokio::test(start_paused = true)]
async fn a_queue_proxy_is_probed_with_its_header_becomes_ready_and_drains() {
    let world = World::in_memory().await;
    let node = ContainerNode::ready(&world).await;
    let pods = Pods::of(&world);
    let begun = Instant::now();
    let pod = pods.create(&revision(&node.name)).await;
    let ready = pods.until_ready("hello-00001").await;
    assert!(begun.elapsed().as_secs() < 5, "its first probe came at once: {:?}", begun.elapsed());
    let probe = node.until_logged(&pod, "queue-proxy", "probe ").await;
    assert!(probe.contains("probe queue of kube-probe/"), "{probe}");
    node.until_logged(&pod, "user-container", "port 8080 of hello-00001").await;

    // Late-bound addresses: those that the status says.
    let status = ready.status.clone().unwrap();
    let (pod_ip, host_ip) = (status.pod_ip.unwrap(), status.host_ip.unwrap());
    let (code, env) = node.exec(&pod, "queue-proxy", "env").await;
    assert_eq!(code, 0);
    for wanted in [
        format!("SERVING_POD_IP={pod_ip}"),
        format!("HOST_IP={host_ip}"),
        "SERVING_POD=hello-00001".to_owned(),
        format!("SERVING_NAMESPACE={}", world.namespace),
    ] {
        assert!(env.lines().any(|line| line == wanted), "{wanted} in {env}");
    }

    // Not ready when the queue says so, and ready again.
    let uid = uid_of(&pod);
    node.runner.backend().serve(&uid, "queue-proxy", false);
    pods.until("hello-00001", "is not ready", |pod| !is_true(pod, "Ready")).await;
    node.runner.backend().serve(&uid, "queue-proxy", true);
    pods.until_ready("hello-00001").await;

    let (user, queue) = (node.follow(&pod, "user-container"), node.follow(&pod, "queue-proxy"));
    let deleted = Instant::now();
    pods.delete("hello-00001").await;
    pods.until_gone("hello-00001").await;
    assert!(deleted.elapsed() < DRAINED, "{:?} of 300 s", deleted.elapsed());
    let (user, queue) = (user.await.unwrap(), queue.await.unwrap());
    assert!(queue.contains("prestop http GET"), "the user's hook asks the queue to drain: {queue}");
    assert!(user.ends_with("user stops\n"), "{user}");
}
