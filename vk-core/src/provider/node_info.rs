//! What a provider says about the node it stands for.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The node as the backend sees it. See [`Provider::node_info`](super::Provider::node_info).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// `linux` or `windows`; the labels `kubernetes.io/os` and `beta.kubernetes.io/os`. Empty means
    /// `linux`.
    pub operating_system: String,
    /// Go's name of the processor architecture (`amd64`, `arm64`). Empty means `amd64`.
    pub architecture: String,
    /// Everything the backend could run at once: `cpu`, `memory`, `ephemeral-storage`, `pods`, and
    /// extended resources.
    pub capacity: BTreeMap<String, Quantity>,
    /// What of it pods may ask for; `None` means all. Never more than the capacity.
    pub allocatable: Option<BTreeMap<String, Quantity>>,
    /// Labels the backend adds to the node, such as region and zone.
    pub labels: BTreeMap<String, String>,
    /// `spec.providerID`. A scheme of the project's own: cloud controllers delete nodes whose scheme is
    /// theirs and whose machine they do not know.
    pub provider_id: Option<String>,
    /// `nodeInfo.osImage`.
    pub os_image: String,
    /// `nodeInfo.kernelVersion`.
    pub kernel_version: String,
    /// `nodeInfo.containerRuntimeVersion`, as `scheme://version`.
    pub container_runtime_version: String,
    /// Features of a kubelet's that pods may ask for and the backend has (KEP-5328), by the names of Kubernetes' feature
    /// gates; in `status.declaredFeatures` for the scheduler.
    pub declared_features: Vec<String>,
    /// Whether the backend enforces AppArmor profiles. Without it, pods that ask for one are refused with the reason
    /// `AppArmor`, as by a kubelet whose host has none.
    pub app_armor: bool,
    /// Whether pods can be started and watched right now.
    pub health: Health,
}

/// A backend's health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    #[default]
    Healthy,
    /// The node's `Ready` condition becomes `False` with this reason and message.
    Unhealthy {
        /// CamelCase, one word.
        reason: String,
        /// One sentence for people.
        message: String,
    },
}

impl NodeInfo {
    /// A healthy linux/amd64 node with the given capacity.
    #[must_use]
    pub fn new(capacity: BTreeMap<String, Quantity>) -> Self {
        Self {
            operating_system: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            capacity,
            ..Self::default()
        }
    }

    /// The same with that much of a resource, as a quantity is written: `with_capacity("memory", "64Gi")`. `cpu`,
    /// `memory` and `pods` are needed, or the scheduler puts nothing on the node.
    #[must_use]
    pub fn with_capacity(mut self, resource: impl Into<String>, quantity: impl Into<String>) -> Self {
        self.capacity.insert(resource.into(), Quantity(quantity.into()));
        self
    }

    /// The same with another label.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }
}
