//! Writes the Node object: the only place that does.

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::Value;

use super::FIELD_MANAGER;
use super::call::{CallError, call};
use super::object::DesiredNode;
use super::patch::{Limits, ObjectPatch, status_patch};

/// Writes what differs and remembers what it may not write.
#[derive(Clone, Debug)]
pub(crate) struct NodeWriter {
    api: Api<Node>,
    name: String,
    limits: Limits,
    /// The providerID that we could not set, so as to say it once.
    refused_provider_id: Option<String>,
}

impl NodeWriter {
    pub(crate) fn new(client: kube::Client, name: &str) -> Self {
        Self {
            api: Api::all(client),
            name: name.to_owned(),
            limits: Limits::default(),
            refused_provider_id: None,
        }
    }

    /// The same without labels that a node may not give itself.
    pub(crate) fn with_node_labels_only(mut self) -> Self {
        self.limits.node_labels_only = true;
        self
    }

    pub(crate) fn api(&self) -> &Api<Node> {
        &self.api
    }

    /// The object as it is; `None` if there is none.
    pub(crate) async fn read(&self) -> Result<Option<Node>, CallError> {
        call(self.api.get_opt(&self.name)).await
    }

    /// Creates the object. A conflict (409) means that somebody else did.
    pub(crate) async fn create(
        &mut self,
        desired: &DesiredNode,
        conditions: &[NodeCondition],
    ) -> Result<Node, CallError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), dry_run: false };
        if !self.limits.node_labels_only {
            match call(self.api.create(&params, &desired.to_node(conditions.to_vec()))).await {
                Err(error) if error.is_forbidden() && restricted(&error) => self.no_forbidden_labels(&error),
                done => return done,
            }
        }
        call(self.api.create(&params, &desired.restricted().to_node(conditions.to_vec()))).await
    }

    /// Brings labels, annotations, taints and providerID to what they should be. `None` if they are.
    pub(crate) async fn update_object(
        &mut self,
        live: &Node,
        desired: &DesiredNode,
    ) -> Result<Option<Node>, CallError> {
        self.check_provider_id(live, desired);
        loop {
            let patch = ObjectPatch::between(live, desired, self.limits);
            if patch.is_empty() {
                return Ok(None);
            }
            tracing::debug!(node = self.name, patch = %patch.to_json(live), "the node object differs");
            let result = if self.limits.status_only {
                self.patch_status(&Patch::Merge(patch.to_json(live))).await
            } else {
                let patch = Patch::Merge(patch.to_json(live));
                call(self.api.patch(&self.name, &patch_params(), &patch)).await
            };
            match result {
                Ok(node) => return Ok(Some(node)),
                // Each arm sets a limit that was not set before, so this ends.
                Err(error) if error.is_forbidden() => {
                    if restricted(&error) && !self.limits.node_labels_only && patch.has_forbidden_labels() {
                        self.no_forbidden_labels(&error);
                    } else if restricted(&error) && !self.limits.no_taints && patch.has_taints() {
                        tracing::warn!(node = self.name, %error,
                            "this identity may not change its node's taints; they stay as they were at its creation");
                        self.limits.no_taints = true;
                    } else if !restricted(&error) && !self.limits.status_only {
                        tracing::warn!(node = self.name, %error,
                            "the node cannot be patched, only its status; grant the verb patch on nodes, \
                             or changed taints and providerID are not applied");
                        self.limits.status_only = true;
                    } else {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings the status to what it should be. `None` if it is and no report is `due`.
    pub(crate) async fn update_status(
        &self,
        live: &Node,
        desired: &DesiredNode,
        conditions: &[NodeCondition],
        due: bool,
    ) -> Result<Option<Node>, CallError> {
        match status_patch(live, desired, conditions, due) {
            Some(patch) => self.patch_status(&Patch::Strategic(patch)).await.map(Some),
            None => Ok(None),
        }
    }

    async fn patch_status(&self, patch: &Patch<Value>) -> Result<Node, CallError> {
        call(self.api.patch_status(&self.name, &patch_params(), patch)).await
    }

    fn no_forbidden_labels(&mut self, error: &CallError) {
        tracing::warn!(node = self.name, %error,
            "this identity may not set all of the node's labels; the node goes without those in kubernetes.io and \
             k8s.io that NodeRestriction forbids");
        self.limits.node_labels_only = true;
    }

    fn check_provider_id(&mut self, live: &Node, desired: &DesiredNode) {
        let is = live.spec.as_ref().and_then(|spec| spec.provider_id.as_ref());
        let (Some(is), Some(wanted)) = (is, &desired.provider_id) else { return };
        if is != wanted && self.refused_provider_id.as_ref() != Some(wanted) {
            tracing::warn!(
                node = self.name,
                is,
                wanted,
                "spec.providerID cannot be changed once it is set; delete the Node object to have it set anew"
            );
            self.refused_provider_id = Some(wanted.clone());
        }
    }

    /// The providerID that the provider wants and the API server does not let us set.
    pub(crate) fn refused_provider_id(&self) -> Option<&str> {
        self.refused_provider_id.as_deref()
    }
}

fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// Whether NodeRestriction refused it, and not RBAC: "is not allowed to modify labels", "… to modify taints",
/// "… to set the following labels" (`plugin/pkg/admission/noderestriction`).
fn restricted(error: &CallError) -> bool {
    error.message().contains("is not allowed to")
}
