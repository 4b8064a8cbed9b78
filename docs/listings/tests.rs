use std::sync::Arc;
use std::time::Duration;

use vk_core::provider::Provider as _;
use vk_testkit::{PodRequest, Pods, TestCluster, TestNode, workload};

use super::Hello;

#[tokio::test]
async fn what_is_asked_for_twice_is_done_once() {
    let provider = Hello::default();
    let pod = PodRequest::new("web", "uid-1").container("app", "registry.example/web:1").build();
    for _ in 0..2 {
        provider.create_pod(&pod).await.unwrap();
        assert_eq!(provider.list_pods().await.unwrap().len(), 1);
    }
    for _ in 0..2 {
        provider.delete_pod(&pod.pod, Duration::ZERO).await.unwrap();
        assert!(provider.list_pods().await.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_outlives_its_node_and_goes_when_it_is_deleted() {
    let cluster = TestCluster::start().await;
    let provider = Arc::new(Hello::default());
    let node = TestNode::ready(&cluster, "hello-1", provider.clone()).await;

    let pods = Pods::of(&cluster);
    pods.create(&workload::pod("web", "hello-1")).await;
    pods.until_ready("web").await;

    // As kill -9 does; then the daemon is started again.
    node.kill().await;
    let node = TestNode::ready(&cluster, "hello-1", provider.clone()).await;
    assert_eq!(provider.list_pods().await.unwrap().len(), 1, "it was found again, not started again");

    pods.delete("web").await;
    pods.until_gone("web").await;
    assert!(provider.list_pods().await.unwrap().is_empty());
    node.drain().await.unwrap();
}
