//! The one writer of pods to the API server: statuses, and the removal of what has ended.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::Value;

use super::patch::status_patch;
use crate::incarnation;
use crate::provider::PodRef;

/// Writes for pods of any namespace.
#[derive(Clone)]
pub(crate) struct Publisher {
    client: kube::Client,
    node: Arc<str>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher")
    }
}

/// What became of a status.
#[derive(Debug)]
pub(crate) enum Written {
    /// The API server has it already.
    Unchanged,
    /// Written; the object is now like this.
    Changed(Box<Pod>),
    /// There is no such object, or another one has its name.
    NoObject,
}

impl Publisher {
    /// A writer for the pods of a node.
    pub(crate) fn new(client: kube::Client, node: &str) -> Self {
        Self { client, node: node.into() }
    }

    fn api(&self, pod: &PodRef) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace)
    }

    /// What has to be written so that the API server's status is `wanted`: a strategic-merge patch of the fields a
    /// kubelet owns, with the UID in it. `None`: it is so already.
    pub(crate) fn difference(pod: &PodRef, current: &PodStatus, wanted: &PodStatus) -> Option<Value> {
        status_patch(pod.uid.as_str(), current, wanted)
    }

    /// Writes a [`difference`](Self::difference).
    pub(crate) async fn write(&self, pod: &PodRef, patch: Value) -> Result<Written, kube::Error> {
        let params = PatchParams::default();
        match self.api(pod).patch_status(&pod.name, &params, &Patch::Strategic(patch)).await {
            Ok(object) if object.metadata.uid.as_deref() == Some(pod.uid.as_str()) => {
                Ok(Written::Changed(Box::new(object)))
            }
            Ok(_) => Ok(Written::NoObject),
            // 409 is contention beyond the API server's own retries: it is looked at again as well.
            Err(kube::Error::Api(status))
                if matches!(status.code, 404 | 409) || incarnation::is_another(&status) =>
            {
                Ok(Written::NoObject)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the object of exactly this UID at once. `false`: it is not there (any more), or so it seems.
    pub(crate) async fn remove(&self, pod: &PodRef) -> Result<bool, kube::Error> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(pod.uid.as_str().to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.api(pod).delete(&pod.name, &params).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the object of exactly this UID from the API server's store; `None` if there is none.
    ///
    /// As a listing of one: asked by name for a pod that is gone, the Node authorizer says 403, for it knows of no
    /// relation between the node and such a pod. Of a listing it asks only that it be of the node's own pods.
    pub(crate) async fn read(&self, pod: &PodRef) -> Result<Option<Pod>, kube::Error> {
        let fields = format!("metadata.name={},spec.nodeName={}", pod.name, self.node);
        let found = self.api(pod).list(&ListParams::default().fields(&fields)).await?;
        let is_it = |object: &Pod| object.metadata.uid.as_deref() == Some(pod.uid.as_str());
        Ok(found.items.into_iter().find(is_it))
    }

    /// The Node object; `None` if there is none.
    pub(crate) async fn read_node(&self) -> Result<Option<Node>, kube::Error> {
        Api::all(self.client.clone()).get_opt(&self.node).await
    }
}
