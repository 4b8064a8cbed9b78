//! The configuration file: its shape, and nothing else. What is left out keeps its default.

pub(crate) mod document;
pub(crate) mod flags;
pub(crate) mod keys;
pub(crate) mod load;
mod merge;
mod node;
pub(crate) mod scalar;
pub(crate) mod settings;
mod strict;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use self::document::{Document, Lines};
use self::scalar::{
    Address, Amount, FieldPath, LabelKey, LabelValue, NodeName, OperatingSystem, Period, Ratio, Socket,
    TaintSpec, Text, Url,
};

use crate::fault::Faults;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct File {
    /// Which API server, and as whom.
    pub(crate) cluster: Cluster,
    /// How the kubelet API of every node is served.
    pub(crate) kubelet_api: KubeletApi,
    /// Where the daemon tells about itself: metrics and health.
    pub(crate) admin: Admin,
    /// What is logged, and how.
    pub(crate) log: Log,
    /// Where traces go.
    pub(crate) tracing: Tracing,
    /// Who this daemon is among daemons of one node, such as its pod's UID; without it, this process.
    pub(crate) instance: Option<String>,
    /// The backend of every node that names none of its own.
    pub(crate) provider: Option<ProviderSection>,
    /// A file in the backend's own format, instead of the settings below its name.
    pub(crate) provider_config: Option<PathBuf>,
    /// What the nodes share. A node's own section wins; maps are merged key by key.
    pub(crate) node_defaults: Shared,
    /// The nodes of this process.
    pub(crate) nodes: Vec<Node>,
    /// The line of each key, where the file has lines.
    #[serde(skip)]
    pub(crate) lines: Lines,
}

impl File {
    /// Reads a document.
    pub(crate) fn of(document: &Document) -> Result<Self, Faults> {
        let mut file = Self { lines: document.lines(), ..document.read()? };
        let own = file.nodes.iter_mut().filter_map(|node| node.provider.as_mut());
        for section in file.provider.iter_mut().chain(own) {
            section.lines = file.lines.clone();
        }
        Ok(file)
    }
}

/// `cluster:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Cluster {
    /// A kubeconfig file; without one `$KUBECONFIG`, `~/.kube/config` or the pod's service account.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context in it; without one its current context.
    pub(crate) context: Option<String>,
    /// A kubeconfig that may only ask for a node's client certificate. With it the node is its own user,
    /// `system:node:NAME`, and `kubeconfig` is written here.
    pub(crate) bootstrap_kubeconfig: Option<PathBuf>,
    /// Where that certificate and its key are kept. Default `/var/lib/vk-node/pki`.
    pub(crate) cert_dir: Option<PathBuf>,
    /// An API server's URL that replaces the kubeconfig's.
    pub(crate) server: Option<Url>,
    /// How long the API server may take to answer at start. Default 10 s.
    pub(crate) connect_timeout: Option<Period>,
    /// How long the nodes may take to become Ready; `0` is for ever. Default 0.
    pub(crate) startup_timeout: Option<Period>,
}

/// `kubeletApi:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct KubeletApi {
    /// The address to listen on. Default `0.0.0.0`.
    pub(crate) listen: Option<Address>,
    /// The first node's port; a further node without a port of its own has the next one. Default 10250.
    pub(crate) port: Option<u16>,
    /// The serving certificate, PEM; without one a self-signed certificate is made at start.
    pub(crate) cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub(crate) key_file: Option<PathBuf>,
    /// Asks the cluster for the serving certificate and renews it (signer `kubernetes.io/kubelet-serving`). Default no.
    #[serde(rename = "serverTLSBootstrap")]
    pub(crate) server_tls_bootstrap: Option<bool>,
    /// Who signs the API server's client certificate, PEM; without it the cluster's ConfigMap
    /// `kube-system/extension-apiserver-authentication` is asked.
    pub(crate) client_ca_file: Option<PathBuf>,
    /// Common names of client certificates that may do anything, such as the API server's; for identities
    /// that may not create SubjectAccessReviews.
    pub(crate) trusted_clients: Vec<String>,
    /// Opens `/stats/summary` and `/metrics/resource`, and nothing else, to callers without credentials.
    /// Default no.
    pub(crate) anonymous_metrics: Option<bool>,
    /// Connections at once, upgraded ones included. Default 1024.
    pub(crate) max_connections: Option<usize>,
    /// How long a connection of exec, attach or port-forward may carry nothing at all. Default 4 h.
    pub(crate) streaming_connection_idle_timeout: Option<Period>,
    /// How long a client may take to open the streams it asked for. Default 30 s.
    pub(crate) stream_creation_timeout: Option<Period>,
    /// Execs, attachments and port-forward connections of one node at once. Default 2000.
    pub(crate) max_stream_sessions: Option<usize>,
    /// Streams of one of them. Default 4096.
    pub(crate) max_streams_per_session: Option<usize>,
    /// Serves everything to everyone. For experiments on a machine of one's own. Default no.
    pub(crate) insecure_allow_anonymous: Option<bool>,
}

/// `log:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Log {
    /// A level, or `tracing-subscriber` directives such as `info,vk_core=debug`. Default `info`.
    pub(crate) level: Option<String>,
    /// `text` or `json`. Default `text`.
    pub(crate) format: Option<LogFormat>,
}

/// `admin:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Admin {
    /// Address and port of `/metrics`, `/livez` and `/readyz`, plain HTTP. Default none.
    pub(crate) listen: Option<Socket>,
}

/// `tracing:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Tracing {
    /// An OTLP receiver's URL; `/v1/traces` is added. Default none.
    pub(crate) endpoint: Option<Url>,
    /// The share of pods that are traced. Default 1.
    pub(crate) sample_ratio: Option<Ratio>,
    /// `service.name`. Default `vk-node`.
    pub(crate) service_name: Option<String>,
    /// Further attributes of every trace's resource.
    pub(crate) attributes: BTreeMap<Text, Text>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// One node: its name, and what differs from `nodeDefaults:`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Node {
    /// Its name in the cluster.
    pub(crate) name: NodeName,
    /// The kubelet API's port.
    pub(crate) port: Option<u16>,
    #[serde(default)]
    pub(crate) addresses: Vec<Address>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<LabelKey, LabelValue>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<LabelKey, Text>,
    pub(crate) taints: Option<Vec<TaintSpec>>,
    #[serde(default)]
    pub(crate) capacity: BTreeMap<LabelKey, Amount>,
    pub(crate) os: Option<OperatingSystem>,
    pub(crate) provider: Option<ProviderSection>,
}

/// `nodeDefaults:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Shared {
    /// `InternalIP` addresses; without any, the address this machine reaches the API server from.
    pub(crate) addresses: Vec<Address>,
    /// Labels added to the node's own.
    pub(crate) labels: BTreeMap<LabelKey, LabelValue>,
    /// Annotations.
    pub(crate) annotations: BTreeMap<LabelKey, Text>,
    /// Taints instead of `virtual-kubelet.io/provider=<provider>:NoSchedule`; an empty list is none.
    pub(crate) taints: Option<Vec<TaintSpec>>,
    /// Capacity that replaces the provider's, resource by resource.
    pub(crate) capacity: BTreeMap<LabelKey, Amount>,
    /// `linux` or `windows`, where the provider leaves that open.
    pub(crate) os: Option<OperatingSystem>,
    /// The version the node reports; without one the API server's, with ours added.
    pub(crate) kubelet_version: Option<String>,
    /// `NodeConfig::pod_workers`.
    pub(crate) pod_workers: Option<usize>,
    /// `NodeConfig::provider_calls`.
    pub(crate) provider_calls: Option<usize>,
    /// `NodeConfig::provider_timeout`.
    pub(crate) provider_timeout: Option<Period>,
    /// `NodeConfig::drift_check_interval`.
    pub(crate) drift_check_interval: Option<Period>,
    /// `NodeConfig::ping_interval`.
    pub(crate) ping_interval: Option<Period>,
    /// `NodeConfig::ping_timeout`.
    pub(crate) ping_timeout: Option<Period>,
    /// `NodeConfig::status_report_interval`.
    pub(crate) status_report_interval: Option<Period>,
    /// `NodeConfig::lease_duration`.
    pub(crate) lease_duration: Option<Period>,
    /// `NodeConfig::min_backoff`.
    pub(crate) min_backoff: Option<Period>,
    /// `NodeConfig::max_backoff`.
    pub(crate) max_backoff: Option<Period>,
    /// `NodeConfig::creation_grace`.
    pub(crate) creation_grace: Option<Period>,
    /// `NodeConfig::deletion_slack`.
    pub(crate) deletion_slack: Option<Period>,
    /// `NodeConfig::pending_status_delay`.
    pub(crate) pending_status_delay: Option<Period>,
    /// `NodeConfig::mass_absence_percent`.
    pub(crate) mass_absence_percent: Option<u8>,
    /// `NodeConfig::mass_absence_floor`.
    pub(crate) mass_absence_floor: Option<usize>,
    /// `NodeConfig::normal_events_per_second`.
    pub(crate) normal_events_per_second: Option<u32>,
    /// `NodeConfig::late_bound_fields`.
    pub(crate) late_bound_fields: Option<vk_core::config::LateBoundPolicy>,
    /// `NodeConfig::ignored_fields`.
    pub(crate) ignored_fields: Vec<FieldPath>,
    /// `NodeConfig::drain_timeout`.
    pub(crate) drain_timeout: Option<Period>,
    /// `NodeConfig::websocket_streams`.
    pub(crate) websocket_streams: Option<bool>,
    /// `NodeConfig::deregister_on_shutdown`.
    pub(crate) deregister: Option<bool>,
    /// `NodeConfig::drain_pods_on_shutdown`.
    pub(crate) drain: Option<bool>,
}

/// `provider:`, a backend's name with its settings: `provider: mock` or `provider: {mock: {…}}`.
///
/// The settings are read by the backend's own type, in [`backends`](crate::backends): a backend that is not
/// built in still has a name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProviderSection {
    /// `mock`, `aci`, …
    pub(crate) name: String,
    /// What stands below the name.
    pub(crate) settings: serde_json::Value,
    /// The line of each key of the file that it was read from, for faults.
    pub(crate) lines: Lines,
}

impl ProviderSection {
    /// That backend with its defaults.
    pub(crate) fn named(name: impl Into<String>) -> Self {
        let settings = serde_json::Value::Object(serde_json::Map::new());
        Self { name: name.into(), settings, lines: Lines::default() }
    }

    /// Whether anything stands below the name.
    pub(crate) fn has_settings(&self) -> bool {
        self.settings.as_object().is_none_or(|settings| !settings.is_empty())
    }
}

impl<'de> Deserialize<'de> for ProviderSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Section;

        impl<'de> Visitor<'de> for Section {
            type Value = ProviderSection;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a provider's name, or its name with its settings below")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<ProviderSection, E> {
                Ok(ProviderSection::named(name))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ProviderSection, A::Error> {
                let Some((name, settings)) = map.next_entry::<String, Option<serde_json::Value>>()? else {
                    return Err(A::Error::custom("empty provider section: name one provider, such as mock"));
                };
                if let Some(second) = map.next_key::<String>()? {
                    return Err(A::Error::custom(format!(
                        "two providers, {name:?} and {second:?}: name one, or give a node its own provider"
                    )));
                }
                let mut section = ProviderSection::named(name);
                if let Some(settings) = settings.filter(|value| !value.is_null()) {
                    section.settings = settings;
                }
                Ok(section)
            }
        }

        deserializer.deserialize_any(Section)
    }
}
