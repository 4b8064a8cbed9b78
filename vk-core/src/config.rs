//! Settings of a node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub use crate::pods::resolve::LateBoundPolicy;
pub use crate::provider::IgnoredFields;

/// Everything about a node that is not its provider's business.
///
/// ```
/// use vk_core::config::NodeConfig;
///
/// let config = NodeConfig::new("virtual-1").with_address("192.0.2.10".parse().unwrap()).with_port(10250);
/// assert_eq!(config.lease_duration.as_secs(), 40);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "settings, each on its own")]
pub struct NodeConfig {
    /// The node's name, and its `kubernetes.io/hostname`. A lower-case DNS name.
    pub name: String,
    /// Who this daemon is among daemons that might stand for the same node: a text that stays the same over
    /// restarts and that no other daemon uses, such as the daemon's own pod's UID. `None` is this process
    /// on this host, whose successor on the same host takes over at once; elsewhere it waits until the lease
    /// has expired.
    pub instance: Option<String>,
    /// Whether the client is the node itself, `system:node:<name>`. Labels that the admission plugin NodeRestriction
    /// forbids it are then left out from the start, instead of when they are refused. Default no.
    pub node_identity: bool,
    /// Labels added to the node's own. They win over the provider's and over the defaults.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the node.
    pub annotations: BTreeMap<String, String>,
    /// The node's taints; `None` is `virtual-kubelet.io/provider=<provider>:NoSchedule`, and an empty list
    /// is none.
    pub taints: Option<Vec<Taint>>,
    /// Capacity that replaces the provider's, resource by resource.
    pub capacity: BTreeMap<String, Quantity>,
    /// The node's `InternalIP` addresses: where the API server finds the kubelet API, and the host IPs of
    /// its pods.
    pub addresses: Vec<IpAddr>,
    /// The kubelet API's port, in `status.daemonEndpoints.kubeletEndpoint`. Default 10250.
    pub port: u16,
    /// `nodeInfo.kubeletVersion`; `None` is the API server's own version with `-vk-<our version>` added.
    pub kubelet_version: Option<String>,
    /// How often the provider is asked for [`NodeInfo`](crate::provider::NodeInfo). Default 10 s, as
    /// the kubelet's `nodeStatusUpdateFrequency`.
    pub ping_interval: Duration,
    /// How long that may take before the node is `Ready=False`. Default 10 s.
    pub ping_timeout: Duration,
    /// How often an unchanged node status is written all the same. Default 5 min, as the kubelet's
    /// `nodeStatusReportFrequency`; [`ping_interval`](Self::ping_interval) where leases are forbidden.
    pub status_report_interval: Duration,
    /// `spec.leaseDurationSeconds` of the node's lease (KEP-589). Default 40 s. Renewed at a quarter of it.
    pub lease_duration: Duration,
    /// How many pods are worked on at once, and so how many calls to the API server are under way. Waiting
    /// for the provider does not count. Default 64.
    pub pod_workers: usize,
    /// How many creations are under way at the provider at once, and how many updates and deletions apart from them.
    /// Reads are not counted. Default 256.
    pub provider_calls: usize,
    /// How long a creation, an update, a deletion or a listing by the node may take before it is dropped and repeated
    /// later. Default 2 min.
    pub provider_timeout: Duration,
    /// How often every pod is compared with a fresh listing of the backend, besides what the provider's watch does.
    /// Default 5 min, with a tenth of jitter.
    pub drift_check_interval: Duration,
    /// First pause after a failed call of the provider or the API server, doubled up to
    /// [`max_backoff`](Self::max_backoff). Default 1 s.
    pub min_backoff: Duration,
    /// Longest pause between attempts; a pod that lives is never given up. Default 5 min. The API server is
    /// asked again after 10 s at the latest.
    pub max_backoff: Duration,
    /// How long a pod may be missing from the backend's listing after this process had its creation accepted, before
    /// that counts as absence. Default 1 min.
    pub creation_grace: Duration,
    /// How long past its grace period an accepted deletion may take before it is sent again. Default 30 s.
    pub deletion_slack: Duration,
    /// How long a start may take before `Pending` with `ContainerCreating` is written; a faster backend
    /// costs one status write. Default 1 s.
    pub pending_status_delay: Duration,
    /// The share of the pods at the backend, in percent, above which live ones that one listing lacks make it
    /// unbelievable: the node says so instead of ending the pods. Applies from
    /// [`mass_absence_floor`](Self::mass_absence_floor) pods up, and never to the first listing. Default 50.
    pub mass_absence_percent: u8,
    /// Fewer missing pods than this are never a mass absence. Default 5.
    pub mass_absence_floor: usize,
    /// Events about things going well: a sustained rate per second, with a burst of five times as many.
    /// Beyond it they are dropped and counted; warnings have a budget of their own. Default 10; 0 is
    /// warnings only.
    pub normal_events_per_second: u32,
    /// What variables get that refer to `status.podIP(s)`, where the backend does not know the pod's address
    /// before its containers start. Default: the pod is refused.
    pub late_bound_fields: LateBoundPolicy,
    /// Fields of pods that are passed over, with a warning, where the provider does not honour them. Default none: a
    /// pod that asks for such a field is refused.
    pub ignored_fields: IgnoredFields,
    /// Whether the API server may send exec, attach and port-forward as WebSockets straight to the kubelet API
    /// (KEP-4006): `ExtendWebSocketsToKubelet` in `status.declaredFeatures`, from Kubernetes 1.36 on. Without it,
    /// and to older API servers, they come as SPDY. Default yes.
    pub websocket_streams: bool,
    /// How long the pods' part of an orderly end may take: last statuses, calls under way, and the deletion of pods if
    /// that is wanted. Default 20 s.
    pub drain_timeout: Duration,
    /// Whether an orderly end also deletes the Node object. Default no.
    pub deregister_on_shutdown: bool,
    /// Whether an orderly end also stops this node's pods at the backend and waits for them, up to
    /// [`drain_timeout`](Self::drain_timeout). Default no: they go on running.
    pub drain_pods_on_shutdown: bool,
}

/// What of a node may change while it runs. See [`NodeBuilder::markings`](crate::NodeBuilder::markings).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Markings {
    /// As [`NodeConfig::labels`].
    pub labels: BTreeMap<String, String>,
    /// As [`NodeConfig::annotations`].
    pub annotations: BTreeMap<String, String>,
    /// As [`NodeConfig::taints`].
    pub taints: Option<Vec<Taint>>,
}

impl NodeConfig {
    /// A node of that name, with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            instance: None,
            node_identity: false,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            taints: None,
            capacity: BTreeMap::new(),
            addresses: Vec::new(),
            port: 10250,
            kubelet_version: None,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(10),
            status_report_interval: Duration::from_mins(5),
            lease_duration: Duration::from_secs(40),
            pod_workers: 64,
            provider_calls: 256,
            provider_timeout: Duration::from_mins(2),
            drift_check_interval: Duration::from_mins(5),
            min_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_mins(5),
            creation_grace: Duration::from_mins(1),
            deletion_slack: Duration::from_secs(30),
            pending_status_delay: Duration::from_secs(1),
            mass_absence_percent: 50,
            mass_absence_floor: 5,
            normal_events_per_second: 10,
            late_bound_fields: LateBoundPolicy::Fail,
            ignored_fields: IgnoredFields::default(),
            websocket_streams: true,
            drain_timeout: Duration::from_secs(20),
            deregister_on_shutdown: false,
            drain_pods_on_shutdown: false,
        }
    }

    /// Adds an `InternalIP`.
    #[must_use]
    pub fn with_address(mut self, address: IpAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Sets the kubelet API's port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// What of these may change while the node runs.
    #[must_use]
    pub fn markings(&self) -> Markings {
        Markings {
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
            taints: self.taints.clone(),
        }
    }

    /// The same settings with other markings.
    #[must_use]
    pub fn with_markings(mut self, markings: Markings) -> Self {
        Markings { labels: self.labels, annotations: self.annotations, taints: self.taints } = markings;
        self
    }
}
