//! Pods that controllers make, replace and delete: Deployments, StatefulSets, DaemonSets.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use vk_core::provider::PodUid;

use crate::agreement::{agree, live_at_backend};
use crate::history::History;
use crate::objects::{CONTROLLERS_PATIENCE, Objects};
use crate::pods::{Pods, condition, container, exit_code, is_true, phase_of, status_of, uid_of};
use crate::virtual_node::{VirtualNode, delete_object};
use crate::wait::{eventually_within, holds};
use crate::workload::{deployment, template};
use crate::world::World;

/// Waits until so many pods of a Deployment's present template are available, and no other pod is there.
pub async fn until_rolled_out(deployments: &Objects<Deployment>, name: &str, replicas: i32) {
    let what = format!("has rolled out {replicas} pods");
    deployments
        .until(name, &what, |deployment| {
            let status = deployment.status.clone().unwrap_or_default();
            let counts = [status.replicas, status.updated_replicas, status.available_replicas];
            status.observed_generation >= deployment.metadata.generation
                && counts.map(Option::unwrap_or_default) == [replicas; 3]
        })
        .await;
}

/// Waits until the namespace has exactly so many pods, all of them ready, and returns them.
pub async fn until_ready_pods(pods: &Pods, count: usize) -> Vec<Pod> {
    let ready = |list: &[Pod]| list.len() == count && list.iter().all(|pod| is_true(pod, "Ready"));
    pods.until_all(&format!("{count} ready pods and no other"), ready).await
}

fn uids(pods: &[Pod]) -> BTreeSet<PodUid> {
    pods.iter().map(uid_of).collect()
}

/// Waits until nothing is left of the scenario's pods, and checks that the backend keeps nothing.
pub async fn until_nothing_is_left(world: &World, node: &VirtualNode, pods: &Pods) {
    until_ready_pods(pods, 0).await;
    agree(world, node).await;
    assert_eq!(node.backend.pod_count(), 0, "the backend keeps nothing");
}

/// A Deployment of 50 pods is scaled to 100, rolled, and scaled to nothing; every pod runs once.
pub async fn a_deployment_is_scaled_rolled_and_emptied(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let deployments = Objects::<Deployment>::of(world);
    deployments.create(deployment("web", &node.name, 50, &[])).await;
    until_rolled_out(&deployments, "web", 50).await;
    let first = uids(&until_ready_pods(&pods, 50).await);
    agree(world, &node).await;

    deployments.patch("web", &json!({"spec": {"replicas": 100}})).await;
    until_rolled_out(&deployments, "web", 100).await;
    let second = uids(&until_ready_pods(&pods, 100).await);
    agree(world, &node).await;
    assert!(first.is_subset(&second), "none of the first was replaced");

    let rolled = json!({"spec": {"template": {"metadata": {"annotations": {"example.com/rolled": "once"}}}}});
    deployments.patch("web", &rolled).await;
    until_rolled_out(&deployments, "web", 100).await;
    let third = uids(&until_ready_pods(&pods, 100).await);
    agree(world, &node).await;
    assert!(third.is_disjoint(&second), "all were replaced");

    deployments.patch("web", &json!({"spec": {"replicas": 0}})).await;
    until_rolled_out(&deployments, "web", 0).await;
    until_nothing_is_left(world, &node, &pods).await;
    history.assert_no_flaps();
    assert_eq!(history.count(), 200, "each pod was replaced once");
    assert_eq!(node.backend.ledger().started, 200);
    deployments.delete("web").await;
    node.remove(world).await;
}

/// A Deployment whose node's object is deleted keeps its pods, and is scaled up on the node that came back.
pub async fn a_deployment_keeps_its_pods_when_the_nodes_object_is_deleted(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let deployments = Objects::<Deployment>::of(world);
    deployments.create(deployment("web", &node.name, 3, &[])).await;
    let before = uids(&until_ready_pods(&pods, 3).await);
    for _ in 0..2 {
        let old = node.until_ready(world).await.uid();
        delete_object(world, &node.name).await;
        node.until(world, "is back", |node| node.uid() != old).await;
    }
    node.until_ready(world).await;
    deployments.patch("web", &json!({"spec": {"replicas": 6}})).await;
    let after = uids(&until_ready_pods(&pods, 6).await);
    assert!(before.is_subset(&after), "none was replaced");
    agree(world, &node).await;
    history.assert_no_flaps();
    assert_eq!(node.backend.ledger().started, 6);
    deployments.delete("web").await;
    until_nothing_is_left(world, &node, &pods).await;
    node.remove(world).await;
}

/// Holds that nothing of an earlier pod of its name shows in a pod.
fn assert_unmarked(pod: &Pod) {
    let container = container(pod).expect("a container status");
    assert_eq!(container.restart_count, 0, "{container:#?}");
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    assert!(last.is_none() && exit_code(pod).is_none(), "{container:#?}");
    assert!(condition(pod, "example.com/Marked").is_none(), "{:#?}", pod.status);
    assert!(!pod.labels().contains_key("example.com/marked"), "{:#?}", pod.metadata);
}

/// Gives each pod of a StatefulSet a past: a restart, a condition, a label.
async fn mark(pods: &Pods, node: &VirtualNode, names: &[&str]) {
    for name in names {
        let uid = uid_of(&pods.get(name).await);
        assert!(node.backend.exit(&uid, "a", 7), "{name} runs");
        pods.patch(name, &json!({"metadata": {"labels": {"example.com/marked": "yes"}}})).await;
        let marked = json!({"status": {"conditions": [{"type": "example.com/Marked", "status": "True"}]}});
        pods.patch_status(name, &marked).await;
        pods.until(name, "was restarted", |pod| {
            is_true(pod, "Ready") && container(pod).is_some_and(|container| container.restart_count == 1)
        })
        .await;
    }
}

/// Waits until the namespace has exactly so many pods, all of them ready and none of these.
async fn until_renewed(pods: &Pods, old: &BTreeSet<PodUid>, count: usize) -> Vec<Pod> {
    let is_renewed = |pod: &Pod| is_true(pod, "Ready") && !old.contains(&uid_of(pod));
    let renewed = |list: &[Pod]| list.len() == count && list.iter().all(is_renewed);
    pods.until_all(&format!("{count} pods, all of them new and ready"), renewed).await
}

/// A StatefulSet that is deleted and made again has pods of the same names, which know nothing of the earlier
/// ones: neither after a deletion in good order nor when the earlier ones are still being stopped.
///
/// Needs the real controllers.
pub async fn a_stateful_set_made_again_inherits_nothing(world: &World) {
    const NAMES: [&str; 3] = ["db-0", "db-1", "db-2"];
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let sets = Objects::<StatefulSet>::of(world);
    let set = |script: &[(&str, &str)]| {
        json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "replicas": 3,
            "selector": {"matchLabels": {"app": "db"}},
            "template": template("db", &node.name, script),
        }})
    };
    sets.create(set(&[("termination-latency", "1s")])).await;
    let first = uids(&until_ready_pods(&pods, 3).await);
    mark(&pods, &node, &NAMES).await;
    sets.delete("db").await;
    sets.until_gone("db").await;
    // Its pods are still there, or still being stopped.
    sets.create(set(&[("termination-latency", "3s")])).await;
    let second = until_renewed(&pods, &first, 3).await;
    second.iter().for_each(assert_unmarked);
    agree(world, &node).await;

    let second = uids(&second);
    mark(&pods, &node, &NAMES).await;
    for name in NAMES {
        pods.delete_within(name, 0).await;
    }
    let third = until_renewed(&pods, &second, 3).await;
    third.iter().for_each(assert_unmarked);
    agree(world, &node).await;
    assert_eq!(live_at_backend(&node), uids(&third), "only the last ones run");
    for name in NAMES {
        assert_unmarked(&pods.get(name).await);
    }

    sets.patch("db", &json!({"spec": {"replicas": 0}})).await;
    until_nothing_is_left(world, &node, &pods).await;
    history.assert_no_flaps();
    assert_eq!(history.count(), 9);
    assert_eq!(node.backend.ledger().started, 9);
    sets.delete("db").await;
    node.remove(world).await;
}

async fn label(world: &World, node: &str, key: &str, value: Value) {
    let nodes: Api<Node> = Api::all(world.client());
    let patch = json!({"metadata": {"labels": {key: value}}});
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the node is labelled");
}

/// A DaemonSet has one pod on each of its nodes, follows their labels, and is rolled.
///
/// Needs the real controllers.
pub async fn a_daemon_set_follows_its_nodes(world: &World) {
    let key = format!("example.com/{}", world.namespace);
    let (one, two) = (VirtualNode::ready(world).await, VirtualNode::ready(world).await);
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let sets = Objects::<DaemonSet>::of(world);
    let mut pod = template("agent", &one.name, &[("termination-latency", "300ms")]);
    pod["spec"]["nodeSelector"] = json!({key.as_str(): "yes"});
    let set = json!({"metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}}, "template": pod,
    }});
    label(world, &one.name, &key, json!("yes")).await;
    sets.create(set).await;
    until_ready_pods(&pods, 1).await;
    label(world, &two.name, &key, json!("yes")).await;
    let both = uids(&until_ready_pods(&pods, 2).await);
    for node in [&one, &two] {
        agree(world, node).await;
        assert_eq!(live_at_backend(node).len(), 1, "one on each node");
    }

    let rolled = json!({"spec": {"template": {"metadata": {"annotations": {"example.com/rolled": "once"}}}}});
    sets.patch("agent", &rolled).await;
    let renewed = uids(&until_renewed(&pods, &both, 2).await);

    label(world, &one.name, &key, Value::Null).await;
    let left = until_ready_pods(&pods, 1).await;
    assert!(uids(&left).is_subset(&renewed), "the other one is not touched");
    for (node, count) in [(&one, 0), (&two, 1)] {
        agree(world, node).await;
        assert_eq!(live_at_backend(node).len(), count);
        assert_eq!(node.backend.pod_count(), count);
    }
    sets.delete("agent").await;
    until_nothing_is_left(world, &two, &pods).await;
    history.assert_no_flaps();
    assert_eq!(history.count(), 4);
    one.remove(world).await;
    two.remove(world).await;
}

/// `kubectl delete --force --grace-period=0` removes a Deployment's pods at once; the node stops what still runs, and
/// runs the replacements meanwhile.
///
/// Needs the real control plane, and kubectl.
pub async fn pods_deleted_by_force_with_kubectl_are_stopped_and_replaced(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let deployments = Objects::<Deployment>::of(world);
    let script = [("termination-latency", "2s")];
    deployments.create(deployment("web", &node.name, 10, &script)).await;
    let first = uids(&until_ready_pods(&pods, 10).await);
    world.kubectl(&["delete", "pods", "--selector=app=web", "--force", "--grace-period=0"]).await;
    let objects = uids(&pods.list().await);
    assert!(objects.is_disjoint(&first), "the objects are gone at once");
    until_renewed(&pods, &first, 10).await;
    agree(world, &node).await;
    assert!(live_at_backend(&node).is_disjoint(&first), "and so is what ran");
    assert_eq!(node.backend.ledger().started, 20);

    // And a pod that nobody replaces.
    let lone = pods.create(&crate::workload::annotated("lone", &node.name, &script)).await;
    pods.until_ready("lone").await;
    world.kubectl(&["delete", "pod", "lone", "--force", "--grace-period=0"]).await;
    assert!(pods.api.get_opt("lone").await.expect("an answer").is_none());
    agree(world, &node).await;
    assert!(!live_at_backend(&node).contains(&uid_of(&lone)));

    deployments.delete("web").await;
    until_nothing_is_left(world, &node, &pods).await;
    history.assert_no_flaps();
    node.remove(world).await;
}

/// A namespace that is deleted goes when its pods have stopped, each in its own time, and leaves nothing running.
pub async fn a_deleted_namespace_leaves_nothing_running(world: &World) {
    let node = VirtualNode::ready(world).await;
    let doomed = format!("{}-doomed", world.namespace);
    let namespaces: Api<Namespace> = Api::all(world.client());
    let object = serde_json::from_value(json!({"metadata": {"name": doomed}})).expect("a namespace");
    namespaces.create(&PostParams::default(), &object).await.expect("the namespace is created");
    let accounts = Objects::<ServiceAccount>::in_namespace(world, &doomed);
    accounts.until("default", "is there", |_| true).await;
    let pods = Objects::<Pod>::in_namespace(world, &doomed);
    let history = History::of_all(pods.api.clone()).await;
    let deployments = Objects::<Deployment>::in_namespace(world, &doomed);
    deployments.create(deployment("web", &node.name, 5, &[("termination-latency", "700ms")])).await;
    deployments.create(deployment("quick", &node.name, 5, &[("termination-exit-code", "0")])).await;
    for name in ["web", "quick"] {
        until_rolled_out(&deployments, name, 5).await;
    }
    agree(world, &node).await;
    let running = live_at_backend(&node);

    namespaces.delete(&doomed, &DeleteParams::default()).await.expect("the deletion is accepted");
    eventually_within("the namespace is gone", CONTROLLERS_PATIENCE, async || {
        let left = namespaces.get_opt(&doomed).await.map_err(|error| error.to_string())?;
        holds(left.is_none(), || format!("{left:#?}"))
    })
    .await;
    agree(world, &node).await;
    assert_eq!(node.backend.pod_count(), 0, "nothing is left");
    for uid in &running {
        let last = history.last_of(uid).await;
        assert_eq!(phase_of(&last), Some("Succeeded"), "its end was told: {:#?}", status_of(&last));
    }
    history.assert_no_flaps();
    node.remove(world).await;
}
