//! Pods that are told to leave: by a taint of their node, and by the eviction API.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, EvictParams, ListParams, Patch, PatchParams};
use serde_json::json;
use vk_core::provider::PodUid;

use crate::agreement::{agree, live_at_backend};
use crate::history::History;
use crate::objects::{CONTROLLERS_PATIENCE, Objects};
use crate::pods::{Pods, condition, phase_of, uid_of};
use crate::scenario::controllers::{until_nothing_is_left, until_ready_pods, until_rolled_out};
use crate::virtual_node::VirtualNode;
use crate::wait::{eventually_within, holds};
use crate::workload::{annotated, deployment};
use crate::world::World;

const FIRE: &str = "example.com/fire";

/// The UIDs of the pods with an `app` label.
async fn of_app(pods: &Pods, app: &str) -> BTreeSet<PodUid> {
    let app = ListParams::default().labels(&format!("app={app}"));
    pods.api.list(&app).await.expect("pods are listed").items.iter().map(uid_of).collect()
}

/// Puts a `NoExecute` taint on a node, or takes it away, and leaves the others.
async fn on_fire(world: &World, node: &str, fire: bool) {
    let nodes: Api<Node> = Api::all(world.client());
    let object = nodes.get(node).await.expect("the node is there");
    let version = object.resource_version();
    let mut taints = object.spec.and_then(|spec| spec.taints).unwrap_or_default();
    taints.retain(|taint| taint.key != FIRE);
    if fire {
        taints.push(Taint { key: FIRE.to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() });
    }
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the node is patched");
}

/// A `NoExecute` taint drives out who does not tolerate it at once, who tolerates it for a time after that, and
/// nobody else; when it is gone, all are back.
pub async fn a_taint_drives_out_who_does_not_tolerate_it(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let deployments = Objects::<Deployment>::of(world);
    let toleration = json!({"key": FIRE, "operator": "Exists", "effect": "NoExecute"});
    let mut tolerant = deployment("stays", &node.name, 3, &[]);
    let tolerations = &mut tolerant["spec"]["template"]["spec"]["tolerations"];
    tolerations.as_array_mut().expect("tolerations").push(toleration.clone());
    deployments.create(deployment("flees", &node.name, 3, &[("termination-latency", "500ms")])).await;
    deployments.create(tolerant).await;
    for name in ["flees", "stays"] {
        until_rolled_out(&deployments, name, 3).await;
    }
    // Nobody's: whoever tolerates the taint for a time would be replaced by who does so too.
    let mut lingers = annotated("lingers", &node.name, &[("termination-exit-code", "0")]);
    let mut for_a_time: Toleration = serde_json::from_value(toleration).expect("a toleration");
    for_a_time.toleration_seconds = Some(2);
    lingers.spec.get_or_insert_default().tolerations.get_or_insert_default().push(for_a_time);
    pods.create(&lingers).await;
    let linger = uid_of(&pods.until_ready("lingers").await);
    agree(world, &node).await;
    let (flee, stay) = (of_app(&pods, "flees").await, of_app(&pods, "stays").await);

    on_fire(world, &node.name, true).await;
    for uid in flee.iter().chain([&linger]) {
        let last = history.last_of(uid).await;
        assert_eq!(phase_of(&last), Some("Succeeded"), "it stopped in good order: {:#?}", last.status);
        let disruption =
            condition(&last, "DisruptionTarget").and_then(|condition| condition.reason.as_deref());
        assert_eq!(disruption, Some("DeletionByTaintManager"), "{:#?}", last.status);
    }
    agree(world, &node).await;
    assert_eq!(live_at_backend(&node), stay, "who tolerates it runs on, and nobody else");

    on_fire(world, &node.name, false).await;
    until_ready_pods(&pods, 6).await;
    agree(world, &node).await;
    assert_eq!(of_app(&pods, "stays").await, stay);
    history.assert_no_flaps();
    for name in ["flees", "stays"] {
        deployments.delete(name).await;
    }
    until_nothing_is_left(world, &node, &pods).await;
    node.remove(world).await;
}

/// The eviction API takes a pod away if its disruption budget allows it; the pod's end says whose doing it was, and
/// its replacement runs.
pub async fn the_eviction_api_takes_pods_as_far_as_the_budget_goes(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let deployments = Objects::<Deployment>::of(world);
    let budgets = Objects::<PodDisruptionBudget>::of(world);
    let script = [("start-latency", "2s"), ("termination-latency", "500ms")];
    deployments.create(deployment("web", &node.name, 3, &script)).await;
    let budget = json!({"metadata": {"name": "web"}, "spec": {
        "minAvailable": 2, "selector": {"matchLabels": {"app": "web"}},
    }});
    budgets.create(budget).await;
    let first = until_ready_pods(&pods, 3).await;
    budgets
        .until("web", "allows one disruption", |budget| {
            budget.status.as_ref().is_some_and(|status| status.disruptions_allowed == Some(1))
        })
        .await;

    let evict = async |name: &str| pods.api.evict(name, &EvictParams::default()).await;
    evict(&first[0].name_any()).await.expect("the budget allows one");
    let refused = evict(&first[1].name_any()).await.expect_err("the budget does not allow two");
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 429), "{refused}");
    let last = history.last_of(&uid_of(&first[0])).await;
    let disruption = condition(&last, "DisruptionTarget").and_then(|condition| condition.reason.as_deref());
    assert_eq!(disruption, Some("EvictionByEvictionAPI"), "{:#?}", last.status);
    assert_eq!(phase_of(&last), Some("Succeeded"), "{:#?}", last.status);

    eventually_within("the replacement lets the next one go", CONTROLLERS_PATIENCE, async || {
        evict(&first[1].name_any()).await.map_err(|error| error.to_string())
    })
    .await;
    eventually_within("both have been replaced", CONTROLLERS_PATIENCE, async || {
        let uids = of_app(&pods, "web").await;
        let old = first[..2].iter().filter(|pod| uids.contains(&uid_of(pod))).count();
        holds(old == 0, || format!("{old} of the evicted pods are left"))
    })
    .await;
    let after: BTreeSet<_> = until_ready_pods(&pods, 3).await.iter().map(uid_of).collect();
    assert!(after.contains(&uid_of(&first[2])), "the third was left alone");
    agree(world, &node).await;
    history.assert_no_flaps();
    assert_eq!((history.count(), node.backend.ledger().started), (5, 5));
    deployments.delete("web").await;
    until_nothing_is_left(world, &node, &pods).await;
    node.remove(world).await;
}
