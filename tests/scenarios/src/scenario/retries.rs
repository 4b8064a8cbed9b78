//! What fails at first, and what can never work.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use vk_core::provider::Verb;
use vk_mock::{Act, MockConfig};

use crate::agreement::{agree, live_at_backend};
use crate::history::History;
use crate::pods::{Pods, phase_of, status_of, uid_of, waiting_reason};
use crate::virtual_node::{VirtualNode, backend_with, config};
use crate::workload::{annotated, pod};
use crate::world::World;

/// A creation that fails is repeated until it works, and says so meanwhile.
pub async fn a_creation_that_fails_is_repeated_until_it_works(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    for kind in ["unavailable", "exhausted", "throttled", "denied", "unexpected"] {
        let failure = format!("{kind}:3");
        let created = pods.create(&annotated(kind, &node.name, &[("fail-create", &failure)])).await;
        pods.until_event(&created, "ProviderCreateFailed").await;
        let ready = pods.until_ready(kind).await;
        let acts = node.backend.ledger().of(&uid_of(&ready));
        assert_eq!(acts, [Act::CreateFailed, Act::CreateFailed, Act::CreateFailed, Act::Created], "{kind}");
        pods.until_event(&created, "ProviderCreateSuccess").await;
    }
    agree(world, &node).await;
    node.remove(world).await;
}

/// While its creation fails, a pod says why in its status.
pub async fn a_pod_that_cannot_be_created_yet_says_why(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    pods.create(&annotated("waiting", &node.name, &[("fail-create", "exhausted:always")])).await;
    let waiting = pods.until("waiting", "says why", |pod| status_of(pod).message.is_some()).await;
    let status = status_of(&waiting);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(status.reason.as_deref(), Some("ProviderFailed"));
    assert!(status.message.unwrap_or_default().contains("scripted capacity"));
    agree_nothing_runs(world, &node, &pods, "waiting").await;
}

/// A pod that wants to know its address, and for which there is none, waits with the provider's reason; with an address
/// it runs.
pub async fn a_pod_whose_address_cannot_be_reserved_says_why(world: &World) {
    let node = VirtualNode::start(world, config(world), backend_with(world, two_addresses()));
    node.until_ready(world).await;
    let pods = Pods::of(world);
    for name in ["a", "b"] {
        pods.create(&knowing_its_address(pod(name, &node.name))).await;
        pods.until_ready(name).await;
    }
    let created = pods.create(&knowing_its_address(pod("late", &node.name))).await;
    let event = pods.until_event(&created, "ProviderCreateFailed").await;
    assert!(event.message.unwrap_or_default().contains("pod addresses"));
    let waiting = pods.until("late", "says why", |pod| status_of(pod).message.is_some()).await;
    assert_eq!(phase_of(&waiting), Some("Pending"));
    assert_eq!(status_of(&waiting).reason.as_deref(), Some("ProviderFailed"));
    pods.delete("a").await;
    pods.until_ready("late").await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// Addresses that were reserved for pods that never ran are free again: of a pod that was refused, of one that was
/// deleted while it waited, and of one that was deleted while the node was dead.
pub async fn addresses_reserved_for_nothing_are_free_again(world: &World) {
    let node = VirtualNode::start(world, config(world), backend_with(world, two_addresses()));
    node.until_ready(world).await;
    let pods = Pods::of(world);
    for name in ["refused-1", "refused-2"] {
        let refused = annotated(name, &node.name, &[("reject-create", "spec.hostPID")]);
        pods.create(&knowing_its_address(refused)).await;
        pods.until_phase(name, "Failed").await;
    }
    for name in ["deleted-1", "deleted-2"] {
        let created = pods.create(&knowing_its_address(needing(name, &node.name, "ConfigMap", false))).await;
        pods.until_event(&created, "MandatoryConfigMapNotFound").await;
        pods.delete(name).await;
        pods.until_gone(name).await;
    }
    let orphaned = ["orphaned-1", "orphaned-2"];
    for name in orphaned {
        let created = pods.create(&knowing_its_address(needing(name, &node.name, "ConfigMap", false))).await;
        pods.until_event(&created, "MandatoryConfigMapNotFound").await;
    }
    let (config, backend) = node.kill().await;
    for name in orphaned {
        pods.delete(name).await;
    }
    let node = VirtualNode::start(world, config, backend);
    for name in orphaned {
        pods.until_gone(name).await;
    }
    for name in ["a", "b"] {
        pods.create(&knowing_its_address(pod(name, &node.name))).await;
        pods.until_ready(name).await;
    }
    agree(world, &node).await;
    node.remove(world).await;
}

fn two_addresses() -> MockConfig {
    let mut config = MockConfig::default();
    config.pod_cidr = "10.88.0.0/30".parse().expect("a range");
    config
}

fn knowing_its_address(pod: Pod) -> Pod {
    let mut object = serde_json::to_value(pod).expect("a pod is JSON");
    let variable = json!({"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}});
    match object["spec"]["containers"][0]["env"].as_array_mut() {
        Some(variables) => variables.push(variable),
        None => object["spec"]["containers"][0]["env"] = json!([variable]),
    }
    serde_json::from_value(object).expect("a pod")
}

async fn agree_nothing_runs(world: &World, node: &VirtualNode, pods: &Pods, name: &str) {
    assert!(live_at_backend(node).is_empty());
    pods.delete(name).await;
    pods.until_gone(name).await;
    agree(world, node).await;
    assert_eq!(node.backend.ledger().started, 0);
}

/// A pod that the provider refuses fails for good, with the field in its message, and is not asked for again.
pub async fn a_refused_pod_fails_at_once_and_is_not_tried_again(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let created = pods.create(&annotated("refused", &node.name, &[("reject-create", "spec.hostPID")])).await;
    let refused = pods.until_phase("refused", "Failed").await;
    let status = status_of(&refused);
    assert_eq!(status.reason.as_deref(), Some("ProviderRejected"), "{status:#?}");
    assert!(status.message.unwrap_or_default().contains("spec.hostPID"));
    pods.until_event(&created, "ProviderCreateFailed").await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(node.backend.ledger().of(&uid_of(&refused)), [Act::CreateFailed], "one attempt, no more");
    agree(world, &node).await;
    pods.delete("refused").await;
    pods.until_gone("refused").await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// An answer to a creation that is lost does not start the pod twice.
pub async fn a_lost_answer_to_a_creation_starts_nothing_twice(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    node.backend.faults().lose_next(Verb::Create, 2);
    pods.create(&pod("lost", &node.name)).await;
    let ready = pods.until_ready("lost").await;
    let starts = node.backend.ledger().of(&uid_of(&ready)).into_iter().filter(|act| *act == Act::Created);
    assert_eq!(starts.count(), 1);
    agree(world, &node).await;
    node.remove(world).await;
}

/// An answer to a deletion that is lost does not keep the pod.
pub async fn a_lost_answer_to_a_deletion_keeps_nothing(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    pods.create(&pod("lost", &node.name)).await;
    pods.until_ready("lost").await;
    node.backend.faults().lose_next(Verb::Delete, 2);
    pods.delete("lost").await;
    pods.until_gone("lost").await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// A pod whose only container takes a variable from an object that is not there, and a file as well if it can do
/// without.
fn needing(name: &str, node: &str, kind: &str, optional: bool) -> Pod {
    let (key, volume) = match kind {
        "Secret" => ("secretKeyRef", json!({"secret": {"secretName": "late", "optional": optional}})),
        _ => ("configMapKeyRef", json!({"configMap": {"name": "late", "optional": optional}})),
    };
    let mut volume = volume;
    volume["name"] = json!("v");
    let mut object = serde_json::to_value(pod(name, node)).expect("a pod is JSON");
    let container = &mut object["spec"]["containers"][0];
    let mut source = json!({});
    source[key] = json!({"name": "late", "key": "k", "optional": optional});
    container["env"] = json!([{"name": "A", "valueFrom": source}]);
    if optional {
        // Without its volumes a pod does not get as far as its variables.
        container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        object["spec"]["volumes"] = json!([volume]);
    }
    serde_json::from_value(object).expect("a pod")
}

async fn create_late(world: &World, kind: &str) {
    let object: Value =
        json!({"metadata": {"name": "late"}, "data": {"k": if kind == "Secret" { "dg==" } else { "v" }}});
    let params = PostParams::default();
    if kind == "Secret" {
        let secret: Secret = serde_json::from_value(object).expect("a Secret");
        world.api().create(&params, &secret).await.expect("the Secret is created");
    } else {
        let map: ConfigMap = serde_json::from_value(object).expect("a ConfigMap");
        world.api().create(&params, &map).await.expect("the ConfigMap is created");
    }
}

async fn waits_for(world: &World, kind: &str) {
    // The pod's own retries come too late for this scenario: it is the object that wakes it.
    let node = VirtualNode::ready_with(world, |config| {
        config.min_backoff = Duration::from_mins(4);
        config.max_backoff = Duration::from_mins(5);
    })
    .await;
    let pods = Pods::of(world);
    let created = pods.create(&needing("needing", &node.name, kind, false)).await;
    pods.until_event(&created, &format!("Mandatory{kind}NotFound")).await;
    let waits = |pod: &Pod| waiting_reason(pod) == Some("CreateContainerConfigError");
    let waiting = pods.until("needing", "waits for what it needs", waits).await;
    assert_eq!(phase_of(&waiting), Some("Pending"));
    assert_eq!(node.backend.ledger().creates, 0, "nothing is asked of the backend meanwhile");

    create_late(world, kind).await;
    let since = Instant::now();
    let ready = pods.until_ready("needing").await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(waiting_reason(&ready), None);
    agree(world, &node).await;
    node.remove(world).await;
}

/// A pod that needs a ConfigMap waits for it, says so, and starts when it appears.
pub async fn a_missing_config_map_is_waited_for(world: &World) {
    waits_for(world, "ConfigMap").await;
}

/// A pod that needs a Secret waits for it, says so, and starts when it appears.
pub async fn a_missing_secret_is_waited_for(world: &World) {
    waits_for(world, "Secret").await;
}

/// What is optional and missing is told, and does not keep the pod from running.
pub async fn what_is_optional_is_not_waited_for(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    for kind in ["ConfigMap", "Secret"] {
        let name = format!("without-{}", kind.to_lowercase());
        let created = pods.create(&needing(&name, &node.name, kind, true)).await;
        pods.until_ready(&name).await;
        pods.until_event(&created, &format!("Optional{kind}NotFound")).await;
    }
    agree(world, &node).await;
    node.remove(world).await;
}

/// A pod that waits for what never comes can be deleted.
pub async fn a_pod_that_waits_for_a_secret_can_be_deleted(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let created = pods.create(&needing("needing", &node.name, "Secret", false)).await;
    pods.until_event(&created, "MandatorySecretNotFound").await;
    agree_nothing_runs(world, &node, &pods, "needing").await;
    node.remove(world).await;
}

/// A provider that fails half of all calls ends in the same state as one that does not.
pub async fn a_flaky_provider_ends_in_the_right_state(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    for verb in [Verb::Create, Verb::Delete, Verb::List] {
        node.backend.fail(verb, 0.5);
    }
    let names: Vec<_> = (0..20).map(|i| format!("p{i}")).collect();
    for name in &names {
        pods.create(&pod(name, &node.name)).await;
    }
    for name in &names {
        pods.until_ready(name).await;
    }
    for name in &names[..10] {
        pods.delete(name).await;
    }
    for name in &names[..10] {
        pods.until_gone(name).await;
    }
    let mut left: Vec<_> = pods.list().await.iter().map(ResourceExt::name_any).collect();
    left.sort_by_key(|name| name[1..].parse::<u32>().unwrap_or_default());
    assert_eq!(left, names[10..]);
    agree(world, &node).await;
    history.assert_no_flaps();
    node.remove(world).await;
}
