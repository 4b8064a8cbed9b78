//! Pods that ask for what their provider does not honour.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use vk_core::config::{IgnoredFields, NodeConfig};
use vk_core::provider::FieldSupport;
use vk_mock::{MockBackend, MockProvider};

use crate::agreement::agree;
use crate::pods::{Pods, phase_of, status_of, uid_of};
use crate::virtual_node::{VirtualNode, backend, config};
use crate::workload::pod;
use crate::world::World;

/// What the node's provider says of two fields.
fn strict() -> FieldSupport {
    vk_mock::fields()
        .clone()
        .refused("spec.hostPID", "there is one process here; leave it out")
        .refused("*.securityContext.privileged", "nobody has rights here; leave it out")
}

fn start(world: &World, config: NodeConfig, backend: MockBackend, fields: FieldSupport) -> VirtualNode {
    let provider = MockProvider::new(backend.clone(), config.name.clone()).honouring(fields);
    VirtualNode::start_with(world, config, backend, Arc::new(provider))
}

/// A pod that asks for both.
fn asking(name: &str, node: &str) -> Pod {
    let mut asking = pod(name, node);
    let security = serde_json::from_value(json!({"privileged": true})).expect("a security context");
    if let Some(spec) = &mut asking.spec {
        spec.host_pid = Some(true);
        spec.containers[0].security_context = Some(security);
    }
    asking
}

fn counted(node: &VirtualNode, field: &str, outcome: &str) -> bool {
    let line = format!("vk_pod_unsupported_fields_total{{field=\"{field}\",outcome=\"{outcome}\"}} 1");
    node.metrics.text().lines().any(|counted| counted == line)
}

/// A pod is refused for every field that is not honoured, at once, aloud, and before anything of it is made.
pub async fn a_pod_is_refused_for_all_that_is_not_honoured_before_anything_is_made(world: &World) {
    let node = start(world, config(world), backend(world), strict());
    node.until_ready(world).await;
    let pods = Pods::of(world);
    let created = pods.create(&asking("asking", &node.name)).await;
    let refused = pods.until_phase("asking", "Failed").await;
    let status = status_of(&refused);
    assert_eq!(status.reason.as_deref(), Some("ProviderRejected"), "{status:#?}");
    let wanted = "spec.containers[0].securityContext.privileged: nobody has rights here; leave it out; \
                  spec.hostPID: there is one process here; leave it out";
    assert!(status.message.as_deref().is_some_and(|message| message.contains(wanted)), "{status:#?}");
    let event = pods.until_event(&created, "ProviderCreateFailed").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert!(event.message.is_some_and(|message| message.contains(wanted)));
    assert!(counted(&node, "spec.hostPID", "refused"), "{}", node.metrics.text());
    assert!(counted(&node, "spec.containers[].securityContext.privileged", "refused"));
    assert_eq!(node.backend.ledger().of(&uid_of(&refused)), [], "nothing reached the backend");
    // Another one, which asks for nothing of it, runs.
    pods.create(&pod("modest", &node.name)).await;
    pods.until_ready("modest").await;
    agree(world, &node).await;
    node.remove(world).await;
}

/// Fields that the node was told to pass over make a warning, and the pod runs.
pub async fn what_a_policy_names_is_passed_over_with_a_warning(world: &World) {
    let mut config = config(world);
    config.ignored_fields =
        IgnoredFields::at(["spec.hostPID", "*.securityContext"]).expect("fields that there are");
    let node = start(world, config, backend(world), strict());
    node.until_ready(world).await;
    let pods = Pods::of(world);
    let created = pods.create(&asking("asking", &node.name)).await;
    pods.until_ready("asking").await;
    let event = pods.until_event(&created, "UnsupportedField").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let message = event.message.unwrap_or_default();
    assert!(message.contains("passed over") && message.contains("spec.hostPID: there is one"), "{message}");
    assert!(message.contains("spec.containers[0].securityContext.privileged"), "{message}");
    let reasons = pods.event_reasons(&created).await;
    assert_eq!(reasons.iter().filter(|reason| *reason == "UnsupportedField").count(), 1, "{reasons:?}");
    assert!(counted(&node, "spec.hostPID", "ignored"), "{}", node.metrics.text());
    agree(world, &node).await;
    node.remove(world).await;
}

/// A pod that runs is not refused by a daemon that would not start it any more.
pub async fn a_pod_that_runs_is_never_refused(world: &World) {
    let node = start(world, config(world), backend(world), vk_mock::fields().clone());
    node.until_ready(world).await;
    let pods = Pods::of(world);
    let created = pods.create(&asking("asking", &node.name)).await;
    pods.until_ready("asking").await;
    let (config, backend) = node.kill().await;
    let node = start(world, config, backend, strict());
    node.until_ready(world).await;
    // A change of the pod takes the new daemon through a pass with it.
    let patch = json!({"spec": {"activeDeadlineSeconds": 86_400}});
    pods.patch("asking", &patch).await;
    pods.until_event(&created, "ProviderUpdateSuccess").await;
    assert_eq!(phase_of(&pods.get("asking").await), Some("Running"));
    agree(world, &node).await;
    node.remove(world).await;
}
