//! Pods that are not where they should be.

use std::time::Duration;

use tokio::time::sleep;
use vk_core::config::NodeConfig;
use vk_core::provider::Verb;

use crate::agreement::{agree, live_at_backend};
use crate::history::History;
use crate::pods::{Pods, is_true, status_of, uid_of};
use crate::virtual_node::VirtualNode;
use crate::workload::pod;
use crate::world::World;

/// Looks for drift every second or so, and believes a listing soon after a creation.
fn looks_often(config: &mut NodeConfig) {
    config.drift_check_interval = Duration::from_secs(1);
    config.creation_grace = Duration::from_secs(1);
}

async fn twenty(pods: &Pods, node: &VirtualNode) -> Vec<String> {
    let names: Vec<_> = (0..20).map(|i| format!("p{i}")).collect();
    for name in &names {
        pods.create(&pod(name, &node.name)).await;
    }
    for name in &names {
        pods.until_ready(name).await;
    }
    // Until a listing without them would be proof.
    sleep(Duration::from_secs(2)).await;
    names
}

/// One pod that the backend has lost has failed, and says why.
pub async fn a_pod_that_the_backend_lost_has_failed(world: &World) {
    let node = VirtualNode::ready_with(world, looks_often).await;
    let pods = Pods::of(world);
    let names = twenty(&pods, &node).await;
    let lost = pods.get(&names[7]).await;
    assert!(node.backend.vanish(&uid_of(&lost)));
    let failed = pods.until_phase(&names[7], "Failed").await;
    let status = status_of(&failed);
    assert_eq!(status.reason.as_deref(), Some("NotFound"), "{status:#?}");
    assert!(!is_true(&failed, "Ready"));
    for name in names.iter().filter(|name| **name != names[7]) {
        assert!(is_true(&pods.get(name).await, "Ready"), "{name} is none of this");
    }
    agree(world, &node).await;
    node.remove(world).await;
}

/// A backend that has lost all pods at once is not believed: no pod is ended, none is started again, and the
/// node says so.
pub async fn a_mass_disappearance_is_not_taken_for_deletion(world: &World) {
    let node = VirtualNode::ready_with(world, looks_often).await;
    let pods = Pods::of(world);
    let names = twenty(&pods, &node).await;
    let history = History::of(world).await;
    let creates = node.backend.ledger().creates;
    assert_eq!(node.backend.vanish_all(), 20);
    // By a listing of the node's own, and by a watch that begins anew.
    sleep(Duration::from_secs(5)).await;
    node.backend.cut_watches();
    sleep(Duration::from_secs(5)).await;
    for name in &names {
        assert!(is_true(&pods.get(name).await, "Ready"), "{name} was ended");
    }
    assert_eq!(node.backend.ledger().creates, creates, "nothing is started again");
    history.assert_no_flaps();

    // A deletion that was asked for is another matter.
    pods.delete(&names[0]).await;
    pods.until_gone(&names[0]).await;
    node.remove(world).await;
}

/// A backend that cannot be listed has lost nothing.
pub async fn a_listing_that_fails_is_no_absence(world: &World) {
    let node = VirtualNode::ready_with(world, looks_often).await;
    let pods = Pods::of(world);
    let names = twenty(&pods, &node).await;
    node.backend.fail(Verb::List, 1.0);
    node.backend.cut_watches();
    sleep(Duration::from_secs(10)).await;
    for name in &names {
        assert!(is_true(&pods.get(name).await, "Ready"), "{name} was ended");
    }
    assert_eq!(live_at_backend(&node).len(), 20);
    node.backend.fail(Verb::List, 0.0);
    agree(world, &node).await;
    node.remove(world).await;
}
