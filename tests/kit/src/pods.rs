//! The pods of a cluster's namespace, as the API server has them.

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, PodCondition, PodStatus};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::Value;
use vk_core::provider::PodUid;

use crate::cluster::Cluster;
use crate::objects::CONTROLLERS_PATIENCE;
use crate::wait::{eventually, eventually_within, holds};

/// The pods of a namespace.
#[derive(Clone, Debug)]
pub struct Pods {
    /// For what has no shorthand here.
    pub api: Api<Pod>,
    events: Api<Event>,
}

impl Pods {
    /// Those of a cluster's namespace.
    #[must_use]
    pub fn of(cluster: &impl Cluster) -> Self {
        Self { api: cluster.api(), events: cluster.api() }
    }

    /// Creates a pod.
    ///
    /// # Panics
    /// When the API server refuses it.
    pub async fn create(&self, pod: &Pod) -> Pod {
        self.api.create(&PostParams::default(), pod).await.expect("the pod is created")
    }

    /// Asks for a pod's deletion, with its own grace period.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn delete(&self, name: &str) {
        self.api.delete(name, &DeleteParams::default()).await.expect("the deletion is accepted");
    }

    /// Asks for a pod's deletion with another grace period, in seconds; 0 forces it.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn delete_within(&self, name: &str, grace: u32) {
        let params = DeleteParams::default().grace_period(grace);
        self.api.delete(name, &params).await.expect("the deletion is accepted");
    }

    /// Merges a patch into a pod.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn patch(&self, name: &str, patch: &Value) -> Pod {
        let patch = Patch::Merge(patch);
        self.api.patch(name, &PatchParams::default(), &patch).await.expect("the pod is patched")
    }

    /// Asks for other resources of a running pod.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn resize(&self, name: &str, patch: &Value) -> Pod {
        let patch = Patch::Strategic(patch);
        let patched = self.api.patch_subresource("resize", name, &PatchParams::default(), &patch).await;
        patched.expect("the pod is patched")
    }

    /// Merges a patch into a pod's status, strategically, as somebody who is not the node.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn patch_status(&self, name: &str, patch: &Value) -> Pod {
        let patch = Patch::Strategic(patch);
        self.api.patch_status(name, &PatchParams::default(), &patch).await.expect("the status is patched")
    }

    /// A pod that is there.
    ///
    /// # Panics
    /// When it is not.
    pub async fn get(&self, name: &str) -> Pod {
        self.api.get(name).await.expect("the pod is there")
    }

    /// Every pod of the namespace.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn list(&self) -> Vec<Pod> {
        self.api.list(&ListParams::default()).await.expect("pods are listed").items
    }

    /// Waits until something holds for the pods of the namespace together, which controllers make, and returns
    /// them.
    pub async fn until_all(&self, what: &str, mut holds: impl FnMut(&[Pod]) -> bool) -> Vec<Pod> {
        eventually_within(what, CONTROLLERS_PATIENCE, async || {
            let pods = self.api.list(&ListParams::default()).await;
            let pods = pods.map_err(|error| vec![error.to_string()])?.items;
            if holds(&pods) { Ok(pods) } else { Err(pods.iter().map(in_short).collect::<Vec<_>>()) }
        })
        .await
    }

    /// Waits until something holds for a pod, and returns it.
    pub async fn until(&self, name: &str, what: &str, mut holds: impl FnMut(&Pod) -> bool) -> Pod {
        eventually(&format!("pod {name} {what}"), async || {
            let pod = self.api.get(name).await.map_err(|error| error.to_string())?;
            if holds(&pod) { Ok(pod) } else { Err(format!("{:#?}", (&pod.metadata, &pod.status))) }
        })
        .await
    }

    /// Waits until a pod has this phase, and returns it.
    pub async fn until_phase(&self, name: &str, phase: &str) -> Pod {
        self.until(name, &format!("is {phase}"), |pod| phase_of(pod) == Some(phase)).await
    }

    /// Waits until a pod runs and is ready, and returns it.
    pub async fn until_ready(&self, name: &str) -> Pod {
        let ready = |pod: &Pod| phase_of(pod) == Some("Running") && is_true(pod, "Ready");
        self.until(name, "is Ready", ready).await
    }

    /// Waits until a pod's object is gone.
    pub async fn until_gone(&self, name: &str) {
        eventually(&format!("pod {name} is gone"), async || {
            let pod = self.api.get_opt(name).await.map_err(|error| error.to_string())?;
            holds(pod.is_none(), || format!("{pod:#?}"))
        })
        .await;
    }

    /// Waits until an event with this reason was recorded about a pod, and returns it.
    pub async fn until_event(&self, pod: &Pod, reason: &str) -> Event {
        let fields = format!("involvedObject.uid={}", pod.uid().unwrap_or_default());
        eventually(&format!("event {reason} about pod {}", pod.name_any()), async || {
            let events = self.events.list(&ListParams::default().fields(&fields)).await;
            let events = events.map_err(|error| vec![error.to_string()])?.items;
            let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
            events.into_iter().find(|event| event.reason.as_deref() == Some(reason)).ok_or(reasons)
        })
        .await
    }

    /// The reasons of the events about a pod so far.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn event_reasons(&self, pod: &Pod) -> Vec<String> {
        let fields = format!("involvedObject.uid={}", pod.uid().unwrap_or_default());
        let events = self.events.list(&ListParams::default().fields(&fields)).await.expect("events");
        events.items.into_iter().filter_map(|event| event.reason).collect()
    }
}

/// A pod in a line.
fn in_short(pod: &Pod) -> String {
    let ready = if is_true(pod, "Ready") { "ready" } else { "not ready" };
    let leaving = if pod.metadata.deletion_timestamp.is_some() { ", being deleted" } else { "" };
    format!("{} {}: {}, {ready}{leaving}", pod.name_any(), uid_of(pod), phase_of(pod).unwrap_or("no phase"))
}

/// A pod's UID.
///
/// # Panics
/// When it has none: it does not come from an API server.
#[must_use]
pub fn uid_of(pod: &Pod) -> PodUid {
    PodUid::new(pod.uid().expect("a stored pod has a UID"))
}

/// A pod's phase.
#[must_use]
pub fn phase_of(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// A pod's status, empty if there is none.
#[must_use]
pub fn status_of(pod: &Pod) -> PodStatus {
    pod.status.clone().unwrap_or_default()
}

/// A condition of a pod.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition of a pod is `True`.
#[must_use]
pub fn is_true(pod: &Pod, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|condition| condition.status == "True")
}

/// The status of a pod's first container.
#[must_use]
pub fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

/// The exit code of a pod's first container, once it has ended.
#[must_use]
pub fn exit_code(pod: &Pod) -> Option<i32> {
    Some(container(pod)?.state.as_ref()?.terminated.as_ref()?.exit_code)
}

/// Why a pod's first container waits.
#[must_use]
pub fn waiting_reason(pod: &Pod) -> Option<&str> {
    container(pod)?.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}
