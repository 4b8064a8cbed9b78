//! The backend and the API server say the same.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use vk_core::provider::PodUid;

use crate::pods::phase_of;
use crate::virtual_node::VirtualNode;
use crate::wait::{eventually, holds};
use crate::world::World;

/// The API server's pods on a node.
///
/// # Errors
/// The API server's.
pub async fn at_api(world: &World, node: &str) -> Result<Vec<Pod>, kube::Error> {
    let api: Api<Pod> = Api::all(world.client());
    Ok(api.list(&ListParams::default().fields(&format!("spec.nodeName={node}"))).await?.items)
}

/// The UIDs of the pods that run, or may run, at the backend.
#[must_use]
pub fn live_at_backend(node: &VirtualNode) -> BTreeSet<PodUid> {
    node.backend.running().into_iter().map(|pod| pod.uid).collect()
}

/// What a backend has, seen beside the objects that the API server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The pods that run, or may run.
    pub live: BTreeSet<PodUid>,
    /// How many pods it keeps anything of.
    pub count: usize,
    /// How many of those have an object.
    pub with_object: usize,
}

/// Waits until backend and API server have exactly the same live pods and the backend keeps nothing of pods
/// that have no object, then checks that nothing was started twice.
///
/// # Panics
/// When they do not come to agree, or a pod was started twice.
pub async fn agree(world: &World, node: &VirtualNode) {
    agree_on(world, &node.name, |objects| Kept {
        live: live_at_backend(node),
        count: node.backend.pod_count(),
        with_object: objects.iter().filter(|uid| node.backend.observe(uid).is_some()).count(),
    })
    .await;
    let ledger = node.backend.ledger();
    assert!(ledger.is_complete(), "the backend's ledger has room for the whole scenario");
    assert_eq!(ledger.started_twice(), [], "pods that were started twice");
}

/// The first half of [`agree`], for any backend: `look` is given the UIDs of the node's objects.
///
/// # Panics
/// When they do not come to agree.
pub async fn agree_on(world: &World, node: &str, mut look: impl FnMut(&BTreeSet<PodUid>) -> Kept) {
    eventually("backend and API server agree", async || {
        let pods = at_api(world, node).await.map_err(|error| error.to_string())?;
        let uid = |pod: &Pod| pod.metadata.uid.clone().map(PodUid::new);
        let is_live = |pod: &&Pod| !matches!(phase_of(pod), Some("Succeeded" | "Failed"));
        let all: BTreeSet<_> = pods.iter().filter_map(uid).collect();
        let live: BTreeSet<_> = pods.iter().filter(is_live).filter_map(uid).collect();
        let kept = look(&all);
        // All that is kept is of these pods: neither more nor anything else.
        holds(live == kept.live && kept.count == kept.with_object, || {
            format!("API server: {all:?}\nof them live: {live:?}\nbackend: {kept:?}")
        })
    })
    .await;
}
