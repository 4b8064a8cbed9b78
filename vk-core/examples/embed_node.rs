//! A node inside a program of yours, with everything that a production node has: a kubeconfig, a kubelet API with a
//! certificate and rules for its callers, a thread for the lease, labels that change, figures, a drain.
//!
//! The cluster is in memory but spoken to as any other, over HTTPS; for yours, begin with `kube::Config::infer()`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::Api;
use kube::api::{LogParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use vk_core::api::tls::{Serving, ServingCertificate};
use vk_core::api::{Access, ClientCa, KubeReviewer};
use vk_core::clock::Clock;
use vk_core::config::NodeConfig;
use vk_core::node::LeaseRuntime;
use vk_core::{ApiServer, Node, Shutdown};
use vk_mock::{MockConfig, MockProvider};

const NAME: &str = "embedded";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // One TLS library, chosen once by the program; whoever chose before us is welcome.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cluster = vk_apiserver::ApiServer::new()?;
    let _controllers = cluster.start(vk_apiserver::Controller::ALL);
    let serving = cluster.serve_tls((Ipv4Addr::LOCALHOST, 0).into()).await?;

    // 1. The cluster, as a kubeconfig tells of it.
    let kubeconfig = Kubeconfig::from_yaml(&serving.kubeconfig())?;
    let kube_config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(kube_config.clone())?;

    // 2. The kubelet API: a socket, a certificate, and whom to let in. The API server shows a client certificate of the
    //    cluster's authority; what its callers may do, the cluster is asked.
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    let listener = TcpListener::bind((address, 0)).await?;
    let port = listener.local_addr()?.port();
    let certificate = ServingCertificate::self_signed(NAME, &[address], Timestamp::now())?;
    let access = Access::none()
        .with_client_ca(Arc::new(ClientCa::from_cluster(client.clone()).await?))
        .with_reviewer(Arc::new(KubeReviewer::new(client.clone())));
    let kubelet_api = ApiServer::new(listener, Serving::fixed(certificate)?, access);

    // 3. The lease has a thread and a connection of its own: nothing that keeps us busy makes the node look dead.
    let lease = LeaseRuntime::start(move || kube::Client::try_from(kube_config)).await?;

    // 4. The node. Labels, annotations and taints may change while it runs.
    let config = NodeConfig::new(NAME).with_address(address).with_port(port).with_label("team", "blue");
    let (markings, changes) = watch::channel(config.markings());
    let provider = Arc::new(MockProvider::start(MockConfig::default(), NAME, Clock::system())?);
    let node = Node::builder(config, provider, client.clone())
        .serve_api(kubelet_api)
        .lease_runtime(lease)
        .markings(changes)
        .build();
    let (health, metrics) = (node.health(), node.metrics());
    let shutdown = Shutdown::new();
    let running = tokio::spawn(node.run(shutdown.clone()));

    // 5. What the program sees of it: `vk_core::admin::serve` puts the same on a port.
    until("every check of the node holds", async || {
        health.readiness().iter().all(|check| check.verdict.is_ok())
    })
    .await?;

    // 6. What the cluster sees of it.
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "annotations": {"mock.virtual-kubelet.io/log": "hello from the pod"}},
        "spec": {"nodeName": NAME, "containers": [{"name": "app", "image": "registry.example/web:1"}]},
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    until("the pod's log comes through the API server", async || {
        pods.logs("web", &LogParams::default()).await.is_ok_and(|log| log.contains("hello from the pod"))
    })
    .await?;

    markings.send_modify(|markings| drop(markings.labels.insert("team".to_owned(), "green".to_owned())));
    let nodes: Api<NodeObject> = Api::all(client);
    until("the node has its new label", async || {
        let labels = nodes.get(NAME).await.ok().and_then(|node| node.metadata.labels);
        labels.is_some_and(|labels| labels.get("team").is_some_and(|team| team == "green"))
    })
    .await?;
    let figure =
        metrics.text().lines().find(|line| line.starts_with("kubelet_running_pods")).map(str::to_owned);
    println!("{}", figure.context("the metrics have the number of pods")?);

    // 7. The end: a daemon calls `drain` on its first signal and `abort` on its second.
    shutdown.drain();
    running.await??;
    println!("drained");
    serving.stop().await;
    Ok(())
}

/// Looks until something holds, for half a minute at most.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    for _ in 0..600 {
        if holds().await {
            println!("{what}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("not within 30 s: {what}")
}
