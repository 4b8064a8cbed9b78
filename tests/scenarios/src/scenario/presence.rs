//! The node itself: its object, its lease, its readiness, its end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};
use vk_core::node::{Instance, RegisterError};
use vk_core::provider::{Health, Verb};
use vk_core::{NodeError, Shutdown};
use vk_mock::MockProvider;

use crate::agreement::{agree, live_at_backend};
use crate::history::History;
use crate::pods::{Pods, condition as pod_condition, is_true, phase_of, status_of};
use crate::virtual_node::{VirtualNode, backend, condition, config, delete_object};
use crate::workload::{annotated, pod};
use crate::world::World;

fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "True")
}

/// A node whose object is deleted makes it again; its pods notice nothing.
pub async fn a_deleted_node_comes_back_and_its_pods_run_on(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    for name in ["a", "b"] {
        pods.create(&pod(name, &node.name)).await;
        pods.until_ready(name).await;
    }
    let before: BTreeSet<_> = pods.list().await.iter().map(ResourceExt::resource_version).collect();
    let old = node.until_ready(world).await.uid();
    delete_object(world, &node.name).await;
    let new = node.until(world, "is back", |node| node.uid() != old && is_ready(node)).await;
    assert_ne!(new.uid(), old);
    let leases: Api<Lease> = Api::namespaced(world.client(), "kube-node-lease");
    crate::eventually("the lease belongs to the new object", async || {
        let lease = leases.get(&node.name).await.map_err(|error| error.to_string())?;
        let owners = lease.metadata.owner_references.unwrap_or_default();
        let owned = owners.iter().any(|owner| Some(&owner.uid) == new.uid().as_ref());
        crate::wait::holds(owned, || format!("{owners:?}"))
    })
    .await;
    let after: BTreeSet<_> = pods.list().await.iter().map(ResourceExt::resource_version).collect();
    assert_eq!(after, before, "the pods were not touched");
    agree(world, &node).await;
    node.remove(world).await;
}

/// An unhealthy provider makes the node NotReady with the provider's reason, and back, each at its own time.
pub async fn the_providers_health_is_the_nodes_readiness(world: &World) {
    let node = VirtualNode::ready_with(world, |config| config.ping_interval = Duration::from_secs(1)).await;
    let since = |node: &Node| condition(node, "Ready").and_then(|ready| ready.last_transition_time.clone());
    let healthy = node.until_ready(world).await;
    // Times in conditions have whole seconds.
    sleep(Duration::from_millis(1100)).await;
    node.backend.set_health(Health::Unhealthy { reason: "RegionDown".into(), message: "no region".into() });
    let sick = node.until(world, "is NotReady", |node| !is_ready(node)).await;
    let ready = condition(&sick, "Ready").expect("a Ready condition");
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("RegionDown")), "{ready:#?}");
    assert_eq!(ready.message.as_deref(), Some("no region"));
    assert!(since(&sick) > since(&healthy));
    sleep(Duration::from_millis(1100)).await;
    node.backend.set_health(Health::Healthy);
    let well = node.until_ready(world).await;
    assert!(since(&well) > since(&sick));
    node.remove(world).await;
}

/// A provider that hangs for ever makes the node NotReady, and does not delay the lease.
pub async fn a_provider_that_hangs_does_not_delay_the_lease(world: &World) {
    let node = VirtualNode::ready_with(world, |config| {
        config.ping_interval = Duration::from_secs(1);
        config.ping_timeout = Duration::from_secs(2);
        config.lease_duration = Duration::from_secs(8);
    })
    .await;
    let pods = Pods::of(world);
    for verb in [Verb::NodeInfo, Verb::Create, Verb::Delete, Verb::List] {
        node.backend.hang(verb, true);
    }
    for i in 0..10 {
        pods.create(&pod(&format!("stuck{i}"), &node.name)).await;
    }
    node.until(world, "is NotReady", |node| !is_ready(node)).await;
    let leases: Api<Lease> = Api::namespaced(world.client(), "kube-node-lease");
    let mut renewals = BTreeSet::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(16) {
        let lease = leases.get(&node.name).await.expect("the lease is there");
        let renewed = lease.spec.and_then(|spec| spec.renew_time).expect("a renew time").0;
        let age = world.now().duration_since(renewed);
        assert!(age.as_secs_f64() < 3.5, "renewed {age} ago; a quarter of the lease is 2 s");
        renewals.insert(renewed);
        sleep(Duration::from_millis(100)).await;
    }
    assert!(renewals.len() >= 6, "{} renewals in 16 s", renewals.len());
    for verb in [Verb::NodeInfo, Verb::Create, Verb::Delete, Verb::List] {
        node.backend.hang(verb, false);
    }
    node.until_ready(world).await;
    node.remove(world).await;
}

/// A node whose provider never lists its pods is not Ready: nothing can be done for any pod.
pub async fn a_node_is_not_ready_before_its_provider_has_listed_its_pods(world: &World) {
    let backend = backend(world);
    backend.hang(Verb::List, true);
    let mut config = config(world);
    (config.ping_timeout, config.provider_timeout) = (Duration::from_secs(1), Duration::from_secs(4));
    let node = VirtualNode::start(world, config, backend);
    node.until(world, "says that it waits for a listing", |node| {
        let ready = condition(node, "Ready");
        ready.is_some_and(|ready| {
            ready.status == "False"
                && ready.message.as_deref().is_some_and(|text| text.contains("at the provider"))
        })
    })
    .await;
    let pods = Pods::of(world);
    pods.create(&pod("waits", &node.name)).await;
    sleep(Duration::from_secs(3)).await;
    assert!(!is_ready(&node.until(world, "is there", |_| true).await));
    node.backend.hang(Verb::List, false);
    node.until_ready(world).await;
    pods.until_ready("waits").await;
    node.remove(world).await;
}

/// A drain makes the node NotReady and leaves its pods running; its successor has nothing to say about them.
pub async fn a_drained_node_is_not_ready_and_its_pods_run_on(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    for name in ["a", "b"] {
        pods.create(&pod(name, &node.name)).await;
        pods.until_ready(name).await;
    }
    let (name, config, backend) = (node.name.clone(), node.config.clone(), node.backend.clone());
    node.drain().await.expect("a clean end");
    let nodes: Api<Node> = Api::all(world.client());
    let object = nodes.get(&name).await.expect("the node's object stays");
    let ready = condition(&object, "Ready").expect("a Ready condition");
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("NodeShutdown")));
    assert_eq!(backend.running().len(), 2, "the pods run on");
    let phases: Vec<_> = pods.list().await.iter().map(|pod| phase_of(pod).map(str::to_owned)).collect();
    assert_eq!(phases, [Some("Running".to_owned()), Some("Running".to_owned())]);
    let node = VirtualNode::start(world, config, backend);
    node.until_ready(world).await;
    for name in ["a", "b"] {
        pods.until_ready(name).await;
    }
    agree(world, &node).await;
    node.remove(world).await;
}

/// A second daemon of a node's name, which sees another backend, touches none of its pods before it gives up.
pub async fn a_second_daemon_of_a_name_leaves_its_pods_alone(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    for name in ["a", "b"] {
        pods.create(&pod(name, &node.name)).await;
        pods.until_ready(name).await;
    }
    let before: BTreeSet<_> = pods.list().await.iter().map(ResourceExt::resource_version).collect();
    let provider = Arc::new(MockProvider::new(backend(world), node.name.clone()));
    let rival = vk_core::Node::builder(node.config.clone(), provider, world.node_client(&node.name))
        .clock(world.clock())
        .instance(Instance::named("rival"))
        .build();
    let ended = Box::pin(rival.run(Shutdown::new())).await;
    assert!(matches!(ended, Err(NodeError::Register(RegisterError::HeldByAnother { .. }))), "{ended:?}");
    let after: BTreeSet<_> = pods.list().await.iter().map(ResourceExt::resource_version).collect();
    assert_eq!(after, before, "what the rival's backend lacks is not lost");
    agree(world, &node).await;
    node.remove(world).await;
}

/// A node told to deregister takes its object with it.
pub async fn a_node_told_to_deregister_takes_its_object_with_it(world: &World) {
    let node = VirtualNode::ready_with(world, |config| config.deregister_on_shutdown = true).await;
    let name = node.name.clone();
    node.drain().await.expect("a clean end");
    let nodes: Api<Node> = Api::all(world.client());
    assert!(nodes.get_opt(&name).await.expect("an answer").is_none());
}

/// A node told to drain its pods stops them, waits for their end, and says whose doing it was.
pub async fn a_node_told_to_drain_its_pods_stops_them_first(world: &World) {
    let node = VirtualNode::ready_with(world, |config| config.drain_pods_on_shutdown = true).await;
    let pods = Pods::of(world);
    pods.create(&annotated("slow", &node.name, &[("termination-latency", "1s")])).await;
    pods.create(&pod("quick", &node.name)).await;
    for name in ["slow", "quick"] {
        pods.until_ready(name).await;
    }
    let (name, backend) = (node.name.clone(), node.backend.clone());
    node.drain().await.expect("a clean end");
    assert_eq!(backend.running(), []);
    for name in ["slow", "quick"] {
        let ended = pods.get(name).await;
        assert_eq!(phase_of(&ended), Some("Failed"), "{:#?}", ended.status);
        assert_eq!(status_of(&ended).reason.as_deref(), Some("Terminated"));
        let disruption = pod_condition(&ended, "DisruptionTarget");
        assert_eq!(disruption.map(|c| c.status.as_str()), Some("True"), "{:#?}", ended.status);
    }
    delete_object(world, &name).await;
}

/// What others have written into the node stays there.
pub async fn what_others_wrote_into_the_node_stays(world: &World) {
    let node = VirtualNode::ready_with(world, |config| config.ping_interval = Duration::from_secs(1)).await;
    let nodes: Api<Node> = Api::all(world.client());
    let params = PatchParams::default();
    let patch = json!({
        "metadata": {"labels": {"example.com/owner": "them"}, "annotations": {"example.com/note": "x"}},
        "spec": {"taints": [
            {"key": "virtual-kubelet.io/provider", "value": "mock", "effect": "NoSchedule"},
            {"key": "example.com/closed", "effect": "NoExecute"},
        ]},
    });
    nodes.patch(&node.name, &params, &Patch::Strategic(&patch)).await.expect("patched");
    let foreign = json!({"status": {"conditions": [
        {"type": "example.com/Tuned", "status": "True", "reason": "Theirs", "message": ""},
    ]}});
    nodes.patch_status(&node.name, &params, &Patch::Strategic(&foreign)).await.expect("patched");
    // Two status writes of ours.
    node.backend.set_health(Health::Unhealthy { reason: "Sick".into(), message: String::new() });
    node.until(world, "is NotReady", |node| !is_ready(node)).await;
    node.backend.set_health(Health::Healthy);
    let object = node.until_ready(world).await;
    assert_eq!(object.labels().get("example.com/owner").map(String::as_str), Some("them"));
    assert_eq!(object.annotations().get("example.com/note").map(String::as_str), Some("x"));
    assert!(condition(&object, "example.com/Tuned").is_some(), "{:#?}", object.status);
    let taints = object.spec.and_then(|spec| spec.taints).unwrap_or_default();
    assert!(taints.iter().any(|taint| taint.key == "example.com/closed"), "{taints:?}");
    assert!(taints.iter().any(|taint| taint.key == "virtual-kubelet.io/provider"), "{taints:?}");
    node.remove(world).await;
}

/// A pod that is created while the node drains is left for its successor.
pub async fn a_pod_bound_during_a_drain_is_started_by_the_successor(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let (config, backend) = (node.config.clone(), node.backend.clone());
    let drained = tokio::spawn(node.drain());
    pods.create(&pod("late", &config.name)).await;
    drained.await.expect("no panic").expect("a clean end");
    let node = VirtualNode::start(world, config, backend);
    let ready: Pod = pods.until_ready("late").await;
    assert!(is_true(&ready, "Ready") && !live_at_backend(&node).is_empty());
    agree(world, &node).await;
    history.assert_no_flaps();
    node.remove(world).await;
}
