//! What only the real API server can say about a node: its own merge rules, admission and authorization.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vk_core::config::NodeConfig;
use vk_core::internals::{Heartbeat, LeaseHandle, LeaseKeeper, NodeContext, Recorder, ensure_registered};
use vk_core::node::{Instance, LeaseRuntime};
use vk_mock::MockProvider;
use vk_scenarios::{World, eventually, virtual_node};

/// The part of a daemon that stands for the node.
struct Presence {
    stop: CancellationToken,
    heartbeat: tokio::task::JoinHandle<()>,
    lease: LeaseHandle,
}

impl Presence {
    async fn start(context: &NodeContext) -> Self {
        let registered = ensure_registered(context).await.unwrap();
        let lease = LeaseKeeper::new(&registered).spawn(&LeaseRuntime::current(context.client.clone()));
        // Dropped: the pods are known, and that does not change.
        let (_, synced) = watch::channel(true);
        let stop = CancellationToken::new();
        let heartbeat = Heartbeat::new(registered, synced, lease.status()).run(stop.clone());
        let heartbeat = tokio::spawn(async move { heartbeat.await.unwrap() });
        Self { stop, heartbeat, lease }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.heartbeat.await.unwrap();
        self.lease.stop().await;
    }
}

fn context(world: &World, client: kube::Client, config: NodeConfig) -> NodeContext {
    let backend = virtual_node::backend(world);
    let provider = Arc::new(MockProvider::new(backend, config.name.clone()));
    let mut context = NodeContext::new(client, config, provider);
    context.instance = Instance::named("real");
    context
}

async fn node(world: &World, name: &str) -> Value {
    let api: Api<Node> = Api::all(world.client());
    serde_json::to_value(api.get(name).await.unwrap()).unwrap()
}

/// Waits until something holds for the node.
async fn until(world: &World, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let node = node(world, name).await;
        if holds(&node) { Ok(node) } else { Err(node) }
    })
    .await
}

fn condition<'a>(node: &'a Value, kind: &str) -> &'a Value {
    let conditions = node["status"]["conditions"].as_array();
    conditions.and_then(|all| all.iter().find(|c| c["type"] == kind)).unwrap_or(&Value::Null)
}

fn is_ready(node: &Value) -> bool {
    condition(node, "Ready")["status"] == "True"
}

async fn delete(world: &World, name: &str) {
    Api::<Node>::all(world.client()).delete(name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_identity_registers_and_lives_within_its_rights() {
    let world = World::real().await;
    let name = world.node_name();
    let file = world.real_plane().node_kubeconfig(&name).unwrap();
    let kubeconfig = Kubeconfig::read_from(file).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();

    let first = context(&world, client.clone(), NodeConfig::new(&name));
    let presence = Presence::start(&first).await;
    let seen = until(&world, &name, "ready", is_ready).await;
    assert_eq!(seen["metadata"]["labels"]["type"], "virtual-kubelet");
    assert!(seen["metadata"]["labels"].get("kubernetes.io/role").is_none());
    let has_taint = |node: &Value| {
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.iter().any(|t| t["key"] == "virtual-kubelet.io/provider")
    };
    assert!(has_taint(&seen), "{}", seen["spec"]);
    let leases: Api<Lease> = Api::namespaced(world.client(), "kube-node-lease");
    until_owned(&leases, &name, &seen).await;
    presence.stop().await;

    // After its creation the taints are not its own to change, but its labels are.
    let mut config = NodeConfig::new(&name).with_label("team", "a");
    config.taints = Some(Vec::new());
    let presence = Presence::start(&context(&world, client, config)).await;
    let seen = until(&world, &name, "labelled", |node| node["metadata"]["labels"]["team"] == "a").await;
    assert!(has_taint(&seen), "{}", seen["spec"]);
    until(&world, &name, "ready", is_ready).await;
    presence.stop().await;
    assert_eq!(condition(&node(&world, &name).await, "Ready")["reason"], "NodeShutdown");
    delete(&world, &name).await;
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_left_by_a_go_virtual_kubelet_is_taken_over_and_cleaned_up() {
    let world = World::real().await;
    let name = world.node_name();
    let nodes: Api<Node> = Api::all(world.client());
    let left = json!({
        "metadata": {
            "name": name,
            "labels": { "type": "virtual-kubelet", "left-over": "x", "theirs": "x" },
            "annotations": {
                "virtual-kubelet.io/last-applied-object-meta":
                    json!({ "labels": { "type": "virtual-kubelet", "left-over": "x" } }).to_string(),
                "virtual-kubelet.io/last-applied-node-status": json!({
                    "capacity": { "cpu": "1", "acme.com/fpga": "1" },
                    "conditions": [{ "type": "OutOfDisk", "status": "False" }],
                }).to_string(),
            },
        },
        "spec": { "taints": [{ "key": "virtual-kubelet.io/provider", "value": "old", "effect": "NoExecute" }] },
        "status": {
            "capacity": { "cpu": "1", "acme.com/fpga": "1", "theirs.com/gpu": "1" },
            "allocatable": { "cpu": "1", "acme.com/fpga": "1", "theirs.com/gpu": "1" },
            "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" },
                          { "type": "InternalIP", "address": "192.0.2.2" }],
            "conditions": [{ "type": "OutOfDisk", "status": "False" }, { "type": "Theirs", "status": "True" }],
        },
    });
    nodes.create(&PostParams::default(), &serde_json::from_value(left).unwrap()).await.unwrap();

    let addresses: [IpAddr; 2] = ["192.0.2.10".parse().unwrap(), "2001:db8::a".parse().unwrap()];
    let config = NodeConfig::new(&name).with_address(addresses[0]).with_address(addresses[1]);
    let presence = Presence::start(&context(&world, world.client(), config)).await;
    let seen = until(&world, &name, "ready", is_ready).await;
    let labels = &seen["metadata"]["labels"];
    assert!(labels.get("left-over").is_none(), "{labels}");
    assert_eq!((&labels["theirs"], &labels["kubernetes.io/role"]), (&json!("x"), &json!("agent")));
    let annotations = seen["metadata"]["annotations"].as_object().unwrap();
    assert!(annotations.keys().all(|key| !key.contains("last-applied")), "{annotations:?}");
    let taints = seen["spec"]["taints"].as_array().unwrap();
    let ours = |t: &&Value| t["key"] == "virtual-kubelet.io/provider";
    let ours: Vec<_> = taints.iter().filter(ours).map(|t| (&t["value"], &t["effect"])).collect();
    assert_eq!(ours, [(&json!("mock"), &json!("NoSchedule"))]);
    let capacity = &seen["status"]["capacity"];
    assert!(capacity.get("acme.com/fpga").is_none(), "{capacity}");
    assert_eq!(capacity["theirs.com/gpu"], "1");
    assert_ne!(capacity["cpu"], "1");
    assert_eq!(
        seen["status"]["addresses"],
        json!([
            { "type": "InternalIP", "address": "192.0.2.10" },
            { "type": "InternalIP", "address": "2001:db8::a" },
            { "type": "Hostname", "address": name },
        ])
    );
    assert_eq!(condition(&seen, "OutOfDisk"), &Value::Null);
    assert_eq!(condition(&seen, "Theirs")["status"], "True");
    assert_eq!(seen["spec"]["providerID"], format!("mock://{name}"));

    // Nothing differs any more by the API server's own reading of what we wrote.
    let version = |node: &Value| node["metadata"]["resourceVersion"].clone();
    let settled = version(
        &until(&world, &name, "untainted", |node| {
            node["spec"]["taints"].as_array().is_some_and(|taints| taints.len() == 1)
        })
        .await,
    );
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(version(&node(&world, &name).await), settled, "written without a difference");
    presence.stop().await;
    delete(&world, &name).await;
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_meant_for_an_earlier_node_of_the_name_changes_nothing() {
    let world = World::real().await;
    let name = world.node_name();
    let presence = Presence::start(&context(&world, world.client(), NodeConfig::new(&name))).await;
    let before = until(&world, &name, "ready", is_ready).await["metadata"]["uid"].clone();
    delete(&world, &name).await;
    let again = until_again(&world, &name, &before).await;
    // The patches carry the UID: this is what the API server makes of one that is late.
    let late = json!({ "metadata": { "uid": before, "labels": { "late": "x" } } });
    let nodes: Api<Node> = Api::all(world.client());
    for late in [Patch::Merge(&late), Patch::Strategic(&late)] {
        let refused = nodes.patch(&name, &PatchParams::default(), &late).await.unwrap_err();
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 422), "{refused}");
        assert!(refused.to_string().contains("metadata.uid"), "{refused}");
    }
    let leases: Api<Lease> = Api::namespaced(world.client(), "kube-node-lease");
    until_owned(&leases, &name, &again).await;
    presence.stop().await;
    delete(&world, &name).await;
    world.clean_up().await;
}

async fn until_owned(leases: &Api<Lease>, name: &str, node: &Value) {
    eventually("the lease is the node's", async || {
        let owners = leases.get(name).await.map_err(|e| e.to_string())?.metadata.owner_references;
        let uid = owners.unwrap_or_default().first().map(|owner| owner.uid.clone());
        if uid.as_deref() == node["metadata"]["uid"].as_str() { Ok(()) } else { Err(format!("{uid:?}")) }
    })
    .await;
}

async fn until_again(world: &World, name: &str, before: &Value) -> Value {
    let nodes: Api<Node> = Api::all(world.client());
    eventually("made again", async || {
        let node = nodes.get_opt(name).await.map_err(|e| e.to_string())?;
        let node = serde_json::to_value(node).map_err(|e| e.to_string())?;
        let again = is_ready(&node) && node["metadata"]["uid"] != *before;
        if again { Ok(node) } else { Err(node.to_string()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn node_events_are_found_by_the_nodes_uid() {
    let world = World::real().await;
    let name = world.node_name();
    let mut context = context(&world, world.client(), NodeConfig::new(&name));
    let (recorder, flusher) = Recorder::new(world.client(), &context.config, world.clock());
    context.recorder = recorder;
    let stop = CancellationToken::new();
    let writing = tokio::spawn(flusher.run(stop.clone()));
    let presence = Presence::start(&context).await;
    let seen = until(&world, &name, "ready", is_ready).await;
    let uid = seen["metadata"]["uid"].as_str().unwrap();
    let events: Api<Event> = Api::namespaced(world.client(), "default");
    // As `kubectl describe node` asks.
    let about = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    eventually("Starting and NodeReady", async || {
        let events = events.list(&about).await.map_err(|e| e.to_string())?;
        let reasons: Vec<_> = events.items.into_iter().filter_map(|e| e.reason).collect();
        let all = ["Starting", "NodeReady"].iter().all(|reason| reasons.iter().any(|r| r == reason));
        if all { Ok(()) } else { Err(format!("{reasons:?}")) }
    })
    .await;
    presence.stop().await;
    stop.cancel();
    writing.await.unwrap();
    assert_eq!(context.recorder.counts().failed, 0);
    delete(&world, &name).await;
    world.clean_up().await;
}
