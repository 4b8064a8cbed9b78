//! What the Node object should say: a pure function of the configuration and the provider's answer.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::ownership::{OWNED_ANNOTATION, Owned};
use super::patch::may_label_itself;
use super::quantity;
use crate::config::NodeConfig;
use crate::provider::NodeInfo;

/// The taint that keeps pods away which do not ask for a virtual node.
pub const PROVIDER_TAINT: &str = "virtual-kubelet.io/provider";

/// Resources of a provider that does not say how much it has. `pods` is the kubelet's `maxPods`; a node
/// without it gets no pods at all.
const DEFAULT_CAPACITY: [(&str, &str); 4] =
    [("cpu", "10000"), ("memory", "4Ti"), ("ephemeral-storage", "4Ti"), ("pods", "110")];

/// The features that a node may declare, of those that are ours (KEP-5328, KEP-4006).
const WEBSOCKET_STREAMS: &str = "ExtendWebSocketsToKubelet";
/// The first minor version whose API server heeds the declaration, and keeps it.
const DECLARED_FROM: u32 = 36;

/// Why no Node object can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The name is no name for a node.
    #[error("node name {name:?}: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An amount cannot be read.
    #[error(
        "{origin} of {resource:?} is {value:?}, which is no quantity such as \"4\", \"500m\" or \"16Gi\""
    )]
    Quantity {
        /// `capacity` or `allocatable`, and who said so.
        origin: &'static str,
        /// The resource.
        resource: String,
        /// What was said.
        value: String,
    },
}

/// The parts of a Node object that are ours.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DesiredNode {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) provider_id: Option<String>,
    pub(crate) capacity: BTreeMap<String, Quantity>,
    pub(crate) allocatable: BTreeMap<String, Quantity>,
    pub(crate) addresses: Vec<NodeAddress>,
    pub(crate) port: u16,
    pub(crate) system: NodeSystemInfo,
    /// `status.declaredFeatures`; `None` for an API server that knows no such thing.
    pub(crate) declared_features: Option<Vec<String>>,
    /// Whether the provider has had its say. If not, what it would have said is missing here, and an existing
    /// object is not changed on the strength of that.
    pub(crate) complete: bool,
}

impl DesiredNode {
    pub(crate) fn new(
        config: &NodeConfig,
        provider: &str,
        info: Option<&NodeInfo>,
        server_version: &str,
    ) -> Result<Self, ObjectError> {
        check_name(&config.name)?;
        let (capacity, allocatable) = match info {
            Some(info) => resources(config, info)?,
            None => Default::default(),
        };
        Ok(Self {
            name: config.name.clone(),
            labels: labels(config, info),
            annotations: config.annotations.clone(),
            taints: config.taints.clone().unwrap_or_else(|| vec![provider_taint(provider)]),
            provider_id: info.map(|info| {
                let own = || format!("virtual-kubelet://{provider}/{}", config.name);
                info.provider_id.clone().unwrap_or_else(own)
            }),
            capacity,
            allocatable,
            addresses: addresses(config),
            port: config.port,
            system: system_info(config, provider, info, server_version),
            declared_features: declared_features(config, info, server_version),
            complete: info.is_some(),
        })
    }

    /// What we answer for from now on.
    pub(crate) fn owned(&self) -> Owned {
        Owned {
            labels: self.labels.keys().cloned().collect(),
            annotations: self.annotations.keys().cloned().collect(),
            taints: self.taints.iter().map(Owned::taint).collect(),
            resources: self.capacity.keys().cloned().collect(),
        }
    }

    /// The object for its creation.
    pub(crate) fn to_node(&self, conditions: Vec<NodeCondition>) -> Node {
        let mut annotations = self.annotations.clone();
        annotations.insert(OWNED_ANNOTATION.to_owned(), self.owned().to_string());
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: (!self.taints.is_empty()).then(|| self.taints.clone()),
                provider_id: self.provider_id.clone(),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                capacity: Some(self.capacity.clone()),
                allocatable: Some(self.allocatable.clone()),
                addresses: Some(self.addresses.clone()),
                conditions: Some(conditions),
                daemon_endpoints: Some(self.daemon_endpoints()),
                node_info: Some(self.system.clone()),
                declared_features: self.declared_features.clone().filter(|features| !features.is_empty()),
                ..NodeStatus::default()
            }),
        }
    }

    /// The same without the labels that a node may not give itself.
    pub(crate) fn restricted(&self) -> Self {
        let mut restricted = self.clone();
        restricted.labels.retain(|label, _| may_label_itself(label));
        restricted
    }

    pub(crate) fn daemon_endpoints(&self) -> NodeDaemonEndpoints {
        NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.port) }) }
    }
}

/// What the node declares, sorted.
fn declared_features(
    config: &NodeConfig,
    info: Option<&NodeInfo>,
    server_version: &str,
) -> Option<Vec<String>> {
    let mut parts = server_version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
    if (major, minor) < (1, DECLARED_FROM) {
        return None;
    }
    let mut all: Vec<_> = info.map(|info| info.declared_features.clone()).unwrap_or_default();
    if config.websocket_streams {
        all.push(WEBSOCKET_STREAMS.to_owned());
    }
    all.sort();
    all.dedup();
    Some(all)
}

/// The default taint.
fn provider_taint(provider: &str) -> Taint {
    Taint {
        key: PROVIDER_TAINT.to_owned(),
        value: Some(provider.to_owned()),
        effect: "NoSchedule".to_owned(),
        time_added: None,
    }
}

/// A DNS subdomain that is also a label value, as it becomes `kubernetes.io/hostname`.
fn check_name(name: &str) -> Result<(), ObjectError> {
    let wrong = |reason| Err(ObjectError::Name { name: name.to_owned(), reason });
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.is_empty() {
        return wrong("it is empty; give the node a name");
    }
    if name.len() > 63 {
        return wrong("it is longer than 63 characters, so it cannot be the label kubernetes.io/hostname");
    }
    if !name.chars().all(|c| alphanumeric(c) || c == '-' || c == '.')
        || !name.split('.').all(|part| part.starts_with(alphanumeric) && part.ends_with(alphanumeric))
    {
        return wrong(
            "it may have lower-case letters, digits, '-' and '.' only, and each part between dots begins and ends \
             with a letter or digit",
        );
    }
    Ok(())
}

pub(crate) fn labels(config: &NodeConfig, info: Option<&NodeInfo>) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", config.name.as_str()),
        ("kubernetes.io/role", "agent"),
        // The cluster autoscaler leaves such nodes out of its limits.
        ("type", "virtual-kubelet"),
        ("node.kubernetes.io/exclude-from-external-load-balancers", "true"),
        ("alpha.service-controller.kubernetes.io/exclude-balancer", "true"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    if let Some(info) = info {
        for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
            labels.insert(format!("{prefix}/os"), operating_system(info).to_owned());
            labels.insert(format!("{prefix}/arch"), architecture(info).to_owned());
        }
        labels.extend(info.labels.clone());
    }
    labels.extend(config.labels.clone());
    labels
}

pub(crate) fn operating_system(info: &NodeInfo) -> &str {
    or_default(&info.operating_system, "linux")
}

fn architecture(info: &NodeInfo) -> &str {
    or_default(&info.architecture, "amd64")
}

fn or_default<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

pub(crate) type Resources = BTreeMap<String, Quantity>;

/// Capacity and allocatable: the configuration's, else the provider's, else the defaults.
pub(crate) fn resources(config: &NodeConfig, info: &NodeInfo) -> Result<(Resources, Resources), ObjectError> {
    let mut capacity: Resources = DEFAULT_CAPACITY
        .iter()
        .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())))
        .collect();
    capacity.extend(checked("the provider's capacity", &info.capacity)?);
    let mut allocatable = capacity.clone();
    if let Some(stated) = &info.allocatable {
        let stated = checked("the provider's allocatable", stated)?;
        allocatable.extend(stated.into_iter().filter(|(name, _)| capacity.contains_key(name)));
    }
    let overrides = checked("the configured capacity", &config.capacity)?;
    capacity.extend(overrides.clone());
    allocatable.extend(overrides);
    for (name, amount) in &mut allocatable {
        if let Some(limit) = capacity.get(name)
            && quantity::nano(amount) > quantity::nano(limit)
        {
            amount.clone_from(limit);
        }
    }
    Ok((capacity, allocatable))
}

fn checked(origin: &'static str, resources: &Resources) -> Result<Resources, ObjectError> {
    for (name, amount) in resources {
        if quantity::nano(amount).is_none_or(|amount| amount < 0) {
            return Err(ObjectError::Quantity { origin, resource: name.clone(), value: amount.0.clone() });
        }
    }
    Ok(resources.clone())
}

/// In the kubelet's order.
fn addresses(config: &NodeConfig) -> Vec<NodeAddress> {
    let address = |type_: &str, address| NodeAddress { type_: type_.to_owned(), address };
    let ips = config.addresses.iter().map(|ip| address("InternalIP", ip.to_string()));
    ips.chain([address("Hostname", config.name.clone())]).collect()
}

fn system_info(
    config: &NodeConfig,
    provider: &str,
    info: Option<&NodeInfo>,
    server_version: &str,
) -> NodeSystemInfo {
    let ours = env!("CARGO_PKG_VERSION");
    let mut system = NodeSystemInfo {
        kubelet_version: config.kubelet_version.clone().unwrap_or_else(|| kubelet_version(server_version)),
        os_image: format!("Virtual Kubelet ({provider})"),
        container_runtime_version: format!("{provider}://{ours}"),
        ..NodeSystemInfo::default()
    };
    if let Some(info) = info {
        operating_system(info).clone_into(&mut system.operating_system);
        architecture(info).clone_into(&mut system.architecture);
        system.kernel_version.clone_from(&info.kernel_version);
        if !info.os_image.is_empty() {
            system.os_image.clone_from(&info.os_image);
        }
        if !info.container_runtime_version.is_empty() {
            system.container_runtime_version.clone_from(&info.container_runtime_version);
        }
    }
    system
}

/// The API server's version as our own, so that version-skew checks see none. `v1.37.2+k3s1` becomes
/// `v1.37.2-vk-0.1.0`.
fn kubelet_version(server_version: &str) -> String {
    let ours = env!("CARGO_PKG_VERSION");
    let version = server_version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.').map(str::parse::<u32>);
    let numbers = (numbers.next(), numbers.next(), numbers.next(), numbers.next());
    if let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) = numbers {
        return format!("v{major}.{minor}.{patch}-vk-{ours}");
    }
    tracing::warn!(server_version, "the API server's version cannot be read; the node reports v1.37.0");
    format!("v1.37.0-vk-{ours}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(of: &[(&str, &str)]) -> Resources {
        of.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
    }

    fn config() -> NodeConfig {
        NodeConfig::new("virtual-1")
            .with_address("192.0.2.10".parse().unwrap())
            .with_address("2001:db8::a".parse().unwrap())
    }

    fn desired(config: &NodeConfig, info: &NodeInfo) -> DesiredNode {
        DesiredNode::new(config, "mock", Some(info), "v1.37.2").unwrap()
    }

    #[test]
    fn a_node_with_defaults() {
        let info = NodeInfo::new(amounts(&[("cpu", "20"), ("memory", "100Gi"), ("pods", "20")]));
        let node = desired(&config(), &info).to_node(Vec::new());
        insta::assert_snapshot!(serde_saphyr::to_string(&node).unwrap());
    }

    #[test]
    fn a_node_with_everything_said() {
        let mut info = NodeInfo::new(amounts(&[("cpu", "8"), ("nvidia.com/gpu", "4"), ("pods", "500")]));
        info.operating_system = "windows".to_owned();
        info.architecture = "arm64".to_owned();
        info.allocatable = Some(amounts(&[("cpu", "9"), ("pods", "400"), ("unknown", "1")]));
        info.labels.insert("topology.kubernetes.io/region".to_owned(), "eu-1".to_owned());
        info.labels.insert("type".to_owned(), "other".to_owned());
        info.provider_id = Some("mock://1".to_owned());
        info.os_image = "Ubuntu".to_owned();
        info.kernel_version = "6.1".to_owned();
        info.container_runtime_version = "containerd://2.0".to_owned();
        let mut config = config().with_label("type", "virtual-kubelet").with_label("team", "a");
        config.taints = Some(Vec::new());
        config.annotations.insert("note".to_owned(), "x".to_owned());
        config.capacity = amounts(&[("memory", "1Gi")]);
        config.kubelet_version = Some("v1.30.0-x".to_owned());
        config.port = 10251;
        let node = desired(&config, &info).to_node(Vec::new());
        insta::assert_snapshot!(serde_saphyr::to_string(&node).unwrap());
    }

    #[test]
    fn a_provider_that_has_not_answered_yet_leaves_its_part_open() {
        let desired = DesiredNode::new(&config(), "mock", None, "v1.37.2").unwrap();
        assert!(!desired.complete);
        assert!(desired.capacity.is_empty());
        assert!(!desired.labels.contains_key("kubernetes.io/os"));
        assert_eq!(desired.provider_id, None);
        assert_eq!(desired.taints.len(), 1);
    }

    #[test]
    fn allocatable_never_exceeds_capacity() {
        let mut info = NodeInfo::new(amounts(&[("cpu", "1"), ("memory", "1Gi")]));
        info.allocatable = Some(amounts(&[("cpu", "1001m"), ("memory", "1023Mi")]));
        let desired = desired(&config(), &info);
        assert_eq!(desired.allocatable["cpu"].0, "1");
        assert_eq!(desired.allocatable["memory"].0, "1023Mi");
    }

    #[test]
    fn a_wrong_amount_is_named_with_its_resource_and_its_origin() {
        let info = NodeInfo::new(amounts(&[("memory", "4 GB")]));
        let error = DesiredNode::new(&config(), "mock", Some(&info), "v1.37.2").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the provider's capacity of \"memory\" is \"4 GB\", which is no quantity such as \"4\", \"500m\" or \"16Gi\""
        );
    }

    #[test]
    fn the_kubelet_version_follows_the_api_server() {
        let ours = env!("CARGO_PKG_VERSION");
        for (server, kubelet) in [
            ("v1.37.2", "v1.37.2"),
            ("v1.31.4-gke.100", "v1.31.4"),
            ("v1.35.4+k3s1", "v1.35.4"),
            ("1.36.0", "v1.36.0"),
            ("master", "v1.37.0"),
        ] {
            assert_eq!(kubelet_version(server), format!("{kubelet}-vk-{ours}"));
        }
    }

    #[test]
    fn a_name_that_the_api_server_would_refuse_is_refused_first() {
        for name in ["", "Virtual", "a_b", "-a", "a-", "a..b", ".a", &"a".repeat(64)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "virtual-1", "ip-10-0-0-1.eu-1.internal", &"a".repeat(63)] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn features_are_declared_to_api_servers_that_heed_them() {
        let mut config = NodeConfig::new("n");
        for (version, declares) in [
            ("v1.37.2", true),
            ("v1.36.0-gke.1", true),
            ("v1.35.4", false),
            ("v1.9.0", false),
            ("odd", false),
        ] {
            let declared =
                declared_features(&config, None, version).is_some_and(|features| !features.is_empty());
            assert_eq!(declared, declares, "{version}");
        }
        config.websocket_streams = false;
        assert_eq!(declared_features(&config, None, "v1.37.2"), Some(Vec::new()));
        let info =
            NodeInfo { declared_features: vec!["B".to_owned(), "A".to_owned()], ..NodeInfo::default() };
        let both = Some(vec!["A".to_owned(), "B".to_owned()]);
        assert_eq!(declared_features(&config, Some(&info), "v1.37.2"), both);
    }
}
