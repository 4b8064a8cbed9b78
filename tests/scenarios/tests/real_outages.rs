//! The control plane's parts stopped, killed and frozen under a working node. Run by `cargo xtask test real`.
//!
//! A target of its own, because the whole cluster feels it: the targets of this tier run one after the other, and
//! so do the tests of one.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::json;
use tokio::task::block_in_place;
use tokio::time::sleep;
use vk_control_plane::{Component, ControlPlane};
use vk_core::provider::PodUid;
use vk_scenarios::agreement::{agree, live_at_backend};
use vk_scenarios::pods::{container, exit_code, is_true, uid_of};
use vk_scenarios::scenario::controllers::{until_nothing_is_left, until_ready_pods, until_rolled_out};
use vk_scenarios::workload::{annotated, deployment, with_restart_policy};
use vk_scenarios::{History, Objects, Pods, VirtualNode, World};

/// How long etcd is away. More than a node's lease and the controllers' patience with a silent node.
const OUTAGE: Duration = Duration::from_mins(1);

/// A world whose parts are ours to break; a given cluster's are not, and it says so.
async fn own() -> Option<World> {
    if ControlPlane::current().expect("run by cargo xtask test real").is_given() {
        eprintln!("not shown: this cluster's components are not ours to stop");
        return None;
    }
    Some(World::real().await)
}

fn on_plane(world: &World, act: impl FnOnce(&ControlPlane) -> anyhow::Result<()>) {
    block_in_place(|| act(world.real_plane())).expect("the control plane obeys");
}

/// A node with a Deployment's pods, and what is needed to judge it.
struct Stage {
    world: World,
    node: VirtualNode,
    pods: Pods,
    history: History,
    deployments: Objects<Deployment>,
}

impl Stage {
    async fn set(world: World, replicas: usize) -> Self {
        let node = VirtualNode::ready(&world).await;
        let pods = Pods::of(&world);
        let history = History::of(&world).await;
        let deployments = Objects::of(&world);
        let count = u32::try_from(replicas).expect("a small number");
        let script = [("start-latency", "300ms"), ("termination-latency", "300ms")];
        deployments.create(deployment("web", &node.name, count, &script)).await;
        until_ready_pods(&pods, replicas).await;
        Self { world, node, pods, history, deployments }
    }

    /// The UIDs of the Deployment's pods.
    async fn uids(&self) -> BTreeSet<PodUid> {
        let web = ListParams::default().labels("app=web");
        let list = self.pods.api.list(&web).await.expect("pods are listed");
        list.items.iter().map(uid_of).collect()
    }

    async fn scale(&self, replicas: u32) {
        self.deployments.patch("web", &json!({"spec": {"replicas": replicas}})).await;
    }

    async fn roll(&self) {
        let annotations = json!({"example.com/rolled": "once"});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        self.deployments.patch("web", &patch).await;
    }

    /// Waits until the Deployment's replacements are under way.
    async fn mid_way(&self, before: &BTreeSet<PodUid>) {
        let is_new = |pod: &Pod| !before.contains(&uid_of(pod));
        let some_are_new = |list: &[Pod]| list.iter().filter(|pod| is_new(pod)).count() > 3;
        self.pods.until_all("the first replacements", some_are_new).await;
    }

    async fn strike(self) {
        self.deployments.delete("web").await;
        until_nothing_is_left(&self.world, &self.node, &self.pods).await;
        self.history.assert_no_flaps();
        self.node.remove(&self.world).await;
        self.world.clean_up().await;
    }
}

/// The API server ends in one way or another while a Deployment is rolled, and is started again.
async fn api_server_restarts(world: World, end: impl FnOnce(&ControlPlane) -> anyhow::Result<()>) {
    let stage = Stage::set(world, 30).await;
    let before = stage.uids().await;
    stage.roll().await;
    stage.mid_way(&before).await;
    on_plane(&stage.world, |plane| {
        end(plane)?;
        plane.start(Component::ApiServer)?;
        plane.wait_ready(Component::ApiServer)
    });
    until_rolled_out(&stage.deployments, "web", 30).await;
    until_ready_pods(&stage.pods, 30).await;
    agree(&stage.world, &stage.node).await;
    assert!(live_at_backend(&stage.node).is_disjoint(&before), "all were replaced");
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_killed_while_a_deployment_is_rolled_loses_nothing() {
    let Some(world) = own().await else { return };
    api_server_restarts(world, |plane| plane.kill(Component::ApiServer)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_stopped_while_a_deployment_is_rolled_loses_nothing() {
    let Some(world) = own().await else { return };
    api_server_restarts(world, |plane| plane.stop(Component::ApiServer)).await;
}

/// etcd goes and comes back in one way or another; what happens at the backend meanwhile is told afterwards, and
/// nothing else has happened.
async fn etcd_is_away(
    world: World,
    goes: impl FnOnce(&ControlPlane) -> anyhow::Result<()>,
    returns: impl FnOnce(&ControlPlane) -> anyhow::Result<()>,
) {
    let stage = Stage::set(world, 20).await;
    let (node, pods) = (&stage.node, &stage.pods);
    pods.create(&with_restart_policy(annotated("ends", &node.name, &[("run-duration", "1h")]), "Never"))
        .await;
    pods.create(&annotated("restarts", &node.name, &[])).await;
    let ends = uid_of(&pods.until_ready("ends").await);
    let restarts = uid_of(&pods.until_ready("restarts").await);
    let before = stage.uids().await;
    stage.scale(40).await;
    stage.mid_way(&before).await;

    on_plane(&stage.world, goes);
    sleep(OUTAGE / 6).await;
    assert!(node.backend.exit(&ends, "a", 9) && node.backend.exit(&restarts, "a", 5));
    sleep(OUTAGE * 5 / 6).await;
    assert!(!node.has_ended(), "the node waits");
    on_plane(&stage.world, |plane| {
        returns(plane)?;
        plane.wait_ready(Component::ApiServer)
    });

    let ended = pods.until_phase("ends", "Failed").await;
    assert_eq!((uid_of(&ended), exit_code(&ended)), (ends, Some(9)));
    let restarted = pods
        .until("restarts", "was restarted", |pod| {
            is_true(pod, "Ready") && container(pod).is_some_and(|container| container.restart_count == 1)
        })
        .await;
    assert_eq!(uid_of(&restarted), restarts);
    node.until_ready(&stage.world).await;
    until_rolled_out(&stage.deployments, "web", 40).await;
    assert!(before.is_subset(&stage.uids().await), "none was replaced");
    agree(&stage.world, node).await;
    stage.scale(5).await;
    until_rolled_out(&stage.deployments, "web", 5).await;
    for name in ["ends", "restarts"] {
        pods.delete(name).await;
    }
    until_ready_pods(pods, 5).await;
    agree(&stage.world, node).await;
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_stopped_for_a_minute_costs_no_pod() {
    let Some(world) = own().await else { return };
    let etcd = Component::Etcd;
    etcd_is_away(world, |plane| plane.stop(etcd), |plane| plane.start(etcd)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_frozen_for_a_minute_costs_no_pod() {
    let Some(world) = own().await else { return };
    let etcd = Component::Etcd;
    etcd_is_away(world, |plane| plane.freeze(etcd), |plane| plane.thaw(etcd)).await;
}
