//! Puts the layers of settings together: file, flags, environment.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::args::Flags;
use crate::config::node::{DefaultTaint, set};
use crate::config::scalar::{Address, LabelKey, NodeName, Period, TaintSpec};
use crate::config::settings::{ClusterSettings, KubeletApiSettings, LogSettings, NodeSettings, Settings};
use crate::config::{Cluster, File, KubeletApi, Log, LogFormat, Node, ProviderSection, Shared};
use crate::env::{Environment, TaintParts};
use crate::fault::Fault;

/// See [`Settings::merge`].
pub(super) fn merge(
    file: File,
    source: String,
    mut flags: Flags,
    environment: Environment,
) -> Result<Settings, Fault> {
    let mut notes = flags.translate();
    notes.extend(environment.notes);
    let mut draft = Draft::from_file(file, source);
    for layer in std::iter::once(flags).chain(environment.layers) {
        draft.apply(layer, &mut notes)?;
    }
    draft.cluster.kubeconfig = draft.cluster.kubeconfig.or(environment.default_kubeconfig.map(PathBuf::from));
    set(&mut draft.taint.key, environment.taint.key);
    set(&mut draft.taint.value, environment.taint.value);
    set(&mut draft.taint.effect, environment.taint.effect);
    draft.finish(environment.default_node_name.as_deref(), notes)
}

/// The settings while the layers are applied.
struct Draft {
    source: String,
    cluster: Cluster,
    kubelet_api: KubeletApi,
    log: Log,
    instance: Option<String>,
    nodes: Vec<DraftNode>,
    provider_file: Option<PathBuf>,
    os: Option<String>,
    taint: TaintParts,
}

struct DraftNode {
    name: Option<NodeName>,
    port: Option<u16>,
    provider: Option<(ProviderSection, String)>,
    shared: Shared,
}

impl Draft {
    fn from_file(file: File, source: String) -> Self {
        let provider = file.provider.map(|section| {
            let path = format!("provider.{}", section.name);
            (section, path)
        });
        let mut nodes: Vec<DraftNode> = file
            .nodes
            .into_iter()
            .enumerate()
            .map(|(index, node)| DraftNode::from_file(index, node, &file.node_defaults, provider.as_ref()))
            .collect();
        if nodes.is_empty() {
            nodes.push(DraftNode { name: None, port: None, provider, shared: file.node_defaults });
        }
        Self {
            source,
            cluster: file.cluster,
            kubelet_api: file.kubelet_api,
            log: file.log,
            instance: file.instance,
            nodes,
            provider_file: None,
            os: None,
            taint: TaintParts::default(),
        }
    }

    fn apply(&mut self, layer: Flags, notes: &mut Vec<String>) -> Result<(), Fault> {
        set(&mut self.cluster.kubeconfig, layer.kubeconfig);
        set(&mut self.cluster.context, layer.context);
        set(&mut self.cluster.server, layer.server);
        set(&mut self.cluster.connect_timeout, layer.connect_timeout);
        set(&mut self.cluster.startup_timeout, layer.startup_timeout);
        let api = &mut self.kubelet_api;
        set(&mut api.listen, layer.listen);
        set(&mut api.cert_file, layer.tls_cert_file);
        set(&mut api.key_file, layer.tls_private_key_file);
        set(&mut api.client_ca_file, layer.client_ca_file);
        if !layer.trusted_client.is_empty() {
            api.trusted_clients = layer.trusted_client;
        }
        set(&mut api.anonymous_metrics, layer.anonymous_metrics);
        set(&mut api.insecure_allow_anonymous, layer.insecure_allow_anonymous);
        set(&mut self.instance, layer.instance);
        set(&mut self.log.level, layer.log_level);
        set(&mut self.log.format, layer.log_format);
        set(&mut self.provider_file, layer.provider_config);
        set(&mut self.os, layer.os.map(|os| os.to_lowercase()));

        if let Some(port) = layer.port {
            api.port = Some(port);
            if let [only] = &mut self.nodes[..] {
                only.port = Some(port);
            }
        }
        if let Some(name) = layer.nodename {
            match &mut self.nodes[..] {
                [only] => only.name = Some(name),
                several => {
                    return Err(Fault::new(
                        format!("one node name, {:?}, for {} nodes", name.0, several.len()),
                        format!("in --nodename, beside {}", self.source),
                        "name the nodes in the file alone",
                    ));
                }
            }
        }
        let taints = self.taints_of(&layer.taint, notes)?;
        for node in &mut self.nodes {
            if let Some(name) = &layer.provider {
                // The file's settings stay where they are for that very backend.
                if node.provider.as_ref().is_none_or(|(section, _)| section.name != *name) {
                    node.provider = Some((ProviderSection::named(name), format!("provider.{name}")));
                }
            }
            let shared = &mut node.shared;
            if !layer.node_ip.is_empty() {
                shared.addresses.clone_from(&layer.node_ip);
            }
            shared.labels.extend(layer.label.iter().cloned());
            shared.annotations.extend(layer.annotation.iter().cloned());
            shared.capacity.extend(layer.capacity.iter().cloned());
            if let Some(taints) = &taints {
                shared.taints = Some(taints.clone());
            }
            match layer.disable_taint {
                Some(true) => shared.taints = Some(Vec::new()),
                // Undoes an empty list of an earlier layer.
                Some(false) if shared.taints.as_ref().is_some_and(Vec::is_empty) => shared.taints = None,
                _ => {}
            }
            set(&mut shared.pod_workers, layer.pod_workers);
            set(&mut shared.drift_check_interval, layer.drift_check_interval);
            set(&mut shared.deregister, layer.deregister);
            set(&mut shared.drain, layer.drain);
            set(&mut shared.drain_timeout, layer.drain_timeout);
        }
        Ok(())
    }

    /// `--taint` takes a taint, and Go's form: a key alone, for the provider's own taint.
    fn taints_of(
        &mut self,
        given: &[String],
        notes: &mut Vec<String>,
    ) -> Result<Option<Vec<TaintSpec>>, Fault> {
        let fault = |message: String| {
            let (what, remedy) = message.split_once("\": ").unwrap_or((&message, "correct it"));
            Fault::new(format!("{what}\""), "in --taint", remedy)
        };
        let mut taints = Vec::new();
        for text in given {
            if text.contains([':', '=']) {
                taints.push(text.parse().map_err(fault)?);
            } else {
                let LabelKey(key) = text.parse().map_err(fault)?;
                notes.push(format!(
                    "--taint with a key alone is deprecated: use --taint {key}=PROVIDER:NoSchedule"
                ));
                self.taint.key = Some(key);
            }
        }
        Ok((!taints.is_empty()).then_some(taints))
    }

    fn finish(self, default_name: Option<&str>, said: Vec<String>) -> Result<Settings, Fault> {
        let server = self
            .cluster
            .server
            .map(|url| {
                url.parse::<http::Uri>().ok().filter(|uri| uri.scheme().is_some()).ok_or_else(|| {
                    Fault::new(
                        format!("bad URL {url:?}"),
                        place("cluster.server", &self.source),
                        "write it like https://192.0.2.1:6443",
                    )
                })
            })
            .transpose()?;
        let serving = match (self.kubelet_api.cert_file, self.kubelet_api.key_file) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (cert, _) => {
                let (have, want, flag) = if cert.is_some() {
                    ("certFile", "keyFile", "--tls-private-key-file")
                } else {
                    ("keyFile", "certFile", "--tls-cert-file")
                };
                return Err(Fault::new(
                    format!("{have} without {want}"),
                    place("kubeletApi", &self.source),
                    format!("add {want}, or {flag}"),
                ));
            }
        };

        let mut nodes = Vec::new();
        let first_port = self.kubelet_api.port.unwrap_or(10250);
        let mut names = BTreeSet::new();
        let mut ports = BTreeSet::new();
        let several = self.nodes.len() > 1;
        for (index, draft) in self.nodes.into_iter().enumerate() {
            let path = if several { format!("nodes[{index}]") } else { "nodes".to_owned() };
            let name = match (draft.name, default_name) {
                (Some(NodeName(name)), _) => name,
                (None, Some(name)) => {
                    let NodeName(name) = name.parse().map_err(|message: String| {
                        let (what, remedy) = message.split_once("\": ").unwrap_or((&message, "correct it"));
                        Fault::new(format!("{what}\""), "in the variable DEFAULT_NODE_NAME", remedy)
                    })?;
                    name
                }
                (None, None) => "virtual-kubelet".to_owned(),
            };
            let Some((provider, provider_path)) = draft.provider else {
                return Err(Fault::new(
                    "no provider",
                    place("provider", &self.source),
                    "add provider: mock to the file, or --provider mock",
                ));
            };
            let port = match draft.port {
                Some(port) => port,
                // Port 0 is any free port, for each node.
                None if first_port == 0 => 0,
                None => {
                    u16::try_from(index).ok().and_then(|n| first_port.checked_add(n)).ok_or_else(|| {
                        Fault::new(
                            format!("no port left for node {name:?}"),
                            place(&path, &self.source),
                            "give the nodes ports of their own",
                        )
                    })?
                }
            };
            if !names.insert(name.clone()) {
                return Err(Fault::new(
                    format!("two nodes called {name:?}"),
                    place(&format!("{path}.name"), &self.source),
                    "give each a name of its own",
                ));
            }
            if port != 0 && !ports.insert(port) {
                return Err(Fault::new(
                    format!("port {port} for two nodes"),
                    place(&format!("{path}.port"), &self.source),
                    "give each a port of its own, or leave the port out",
                ));
            }
            let taint = DefaultTaint { parts: &self.taint, provider: &provider.name };
            let config = draft.shared.into_config(name, port, &taint).map_err(|(key, what, fix)| {
                let path = format!("nodeDefaults.{key}");
                Fault::new(what, place(&path, &self.source), fix)
            })?;
            let provider_file = self.provider_file.clone();
            let os = self.os.clone();
            nodes.push(NodeSettings { config, provider, os, provider_file, provider_path });
        }
        let period = |value: Option<Period>, default: Duration| value.map_or(default, |Period(d)| d);
        let connect_timeout = period(self.cluster.connect_timeout, Duration::from_secs(10));
        if connect_timeout.is_zero() {
            return Err(Fault::new(
                "connectTimeout of 0",
                place("cluster.connectTimeout", &self.source),
                "give the API server some time, such as 10s",
            ));
        }
        Ok(Settings {
            cluster: ClusterSettings {
                kubeconfig: self.cluster.kubeconfig,
                context: self.cluster.context,
                server,
                connect_timeout,
                startup_timeout: Some(period(self.cluster.startup_timeout, Duration::ZERO))
                    .filter(|timeout| !timeout.is_zero()),
            },
            kubelet_api: KubeletApiSettings {
                listen: self
                    .kubelet_api
                    .listen
                    .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Address(address)| address),
                serving,
                client_ca: self.kubelet_api.client_ca_file,
                trusted_clients: self.kubelet_api.trusted_clients,
                anonymous_metrics: self.kubelet_api.anonymous_metrics.unwrap_or(false),
                insecure_allow_anonymous: self.kubelet_api.insecure_allow_anonymous.unwrap_or(false),
            },
            log: LogSettings {
                level: self.log.level.unwrap_or_else(|| "info".to_owned()),
                format: self.log.format.unwrap_or(LogFormat::Text),
            },
            instance: self.instance.filter(|instance| !instance.is_empty()),
            nodes,
            source: self.source,
            notes: said,
        })
    }
}

impl DraftNode {
    fn from_file(
        index: usize,
        node: Node,
        defaults: &Shared,
        provider: Option<&(ProviderSection, String)>,
    ) -> Self {
        let mut shared = defaults.clone();
        if !node.addresses.is_empty() {
            shared.addresses = node.addresses;
        }
        shared.labels.extend(node.labels);
        shared.annotations.extend(node.annotations);
        shared.capacity.extend(node.capacity);
        set(&mut shared.taints, node.taints);
        let own = node.provider.map(|section| {
            let path = format!("nodes[{index}].provider.{}", section.name);
            (section, path)
        });
        Self { name: Some(node.name), port: node.port, provider: own.or_else(|| provider.cloned()), shared }
    }
}

fn place(path: &str, source: &str) -> String {
    format!("in {source} ({path})")
}
