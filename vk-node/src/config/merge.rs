//! Puts the layers of settings together: file, flags, environment.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use vk_core::api::Limits;
use vk_core::api::stream::StreamLimits;

use crate::args::Flags;
use crate::config::node::{DefaultTaint, set};
use crate::config::scalar::{
    Address, LabelKey, NodeName, OperatingSystem, Period, Ratio, Socket, TaintSpec, Text, Url,
};
use crate::config::settings::{
    BootstrapSettings, ClusterSettings, KubeletApiSettings, LogSettings, NodeSettings, Settings,
    TracingSettings,
};
use crate::config::{
    Admin, Cluster, File, KubeletApi, Log, LogFormat, Node, ProviderSection, Shared, Tracing,
};
use crate::env::{Environment, TaintParts};
use crate::fault::{Fault, Faults};
use crate::telemetry;

/// See [`Settings::merge`].
pub(super) fn merge(
    file: File,
    source: String,
    mut flags: Flags,
    environment: Environment,
) -> Result<Settings, Faults> {
    let mut faults = Faults::default();
    let mut notes = flags.translate();
    notes.extend(environment.notes);
    let mut draft = Draft::from_file(file, source, &mut faults);
    for layer in std::iter::once(flags).chain(environment.layers) {
        draft.apply(layer, &mut notes, &mut faults);
    }
    draft.cluster.kubeconfig = draft.cluster.kubeconfig.or(environment.default_kubeconfig.map(PathBuf::from));
    draft.tracing.endpoint = draft.tracing.endpoint.or(environment.default_otlp_endpoint);
    set(&mut draft.taint.key, environment.taint.key);
    set(&mut draft.taint.value, environment.taint.value);
    set(&mut draft.taint.effect, environment.taint.effect);
    let settings = draft.finish(environment.default_node_name.as_deref(), notes, &mut faults);
    faults.or(settings)
}

/// The settings while the layers are applied.
struct Draft {
    source: String,
    cluster: Cluster,
    kubelet_api: KubeletApi,
    admin: Admin,
    log: Log,
    tracing: Tracing,
    instance: Option<String>,
    nodes: Vec<DraftNode>,
    provider_file: Option<PathBuf>,
    /// Where the file says its backend's settings twice.
    doubled: Option<String>,
    taint: TaintParts,
}

struct DraftNode {
    name: Option<NodeName>,
    port: Option<u16>,
    provider: Option<(ProviderSection, String)>,
    shared: Shared,
}

impl Draft {
    fn from_file(file: File, source: String, faults: &mut Faults) -> Self {
        let doubled = file.provider_config.as_ref().and_then(|_| {
            let own = file.nodes.iter().filter_map(|node| node.provider.as_ref());
            let section = file.provider.iter().chain(own).find(|section| section.has_settings())?;
            Some(format!("provider.{}", section.name))
        });
        let provider = file.provider.map(|section| {
            let path = format!("provider.{}", section.name);
            (section, path)
        });
        let all = file
            .nodes
            .iter()
            .enumerate()
            .map(|(index, node)| (format!("nodes[{index}].taints"), &node.taints));
        for (path, taints) in all.chain([("nodeDefaults.taints".to_owned(), &file.node_defaults.taints)]) {
            for (index, what) in doubled_taints(taints.as_deref().unwrap_or_default()) {
                let path = format!("{path}[{index}]");
                faults.push(Fault::new(what, file.lines.place(&path, &source), "keep one"));
            }
        }
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
            admin: file.admin,
            log: file.log,
            tracing: file.tracing,
            instance: file.instance,
            nodes,
            provider_file: file.provider_config,
            doubled,
            taint: TaintParts::default(),
        }
    }

    fn apply(&mut self, layer: Flags, notes: &mut Vec<String>, faults: &mut Faults) {
        set(&mut self.cluster.kubeconfig, layer.kubeconfig);
        set(&mut self.cluster.context, layer.context);
        set(&mut self.cluster.server, layer.server);
        set(&mut self.cluster.bootstrap_kubeconfig, layer.bootstrap_kubeconfig);
        set(&mut self.cluster.cert_dir, layer.cert_dir);
        set(&mut self.cluster.connect_timeout, layer.connect_timeout);
        set(&mut self.cluster.startup_timeout, layer.startup_timeout);
        set(&mut self.admin.listen, layer.admin_listen);
        set(&mut self.tracing.endpoint, layer.otlp_endpoint);
        set(&mut self.tracing.sample_ratio, layer.trace_sample_ratio);
        set(&mut self.tracing.service_name, layer.trace_service_name);
        self.tracing.attributes.extend(layer.trace_attribute);
        let api = &mut self.kubelet_api;
        set(&mut api.listen, layer.listen);
        set(&mut api.cert_file, layer.tls_cert_file);
        set(&mut api.key_file, layer.tls_private_key_file);
        set(&mut api.client_ca_file, layer.client_ca_file);
        set(&mut api.server_tls_bootstrap, layer.rotate_server_certificates);
        if !layer.trusted_client.is_empty() {
            api.trusted_clients = layer.trusted_client;
        }
        set(&mut api.anonymous_metrics, layer.anonymous_metrics);
        set(&mut api.insecure_allow_anonymous, layer.insecure_allow_anonymous);
        set(&mut api.max_connections, layer.max_connections);
        set(&mut api.streaming_connection_idle_timeout, layer.streaming_connection_idle_timeout);
        set(&mut api.stream_creation_timeout, layer.stream_creation_timeout);
        set(&mut api.max_stream_sessions, layer.max_stream_sessions);
        set(&mut api.max_streams_per_session, layer.max_streams_per_session);
        set(&mut self.instance, layer.instance);
        set(&mut self.log.level, layer.log_level);
        set(&mut self.log.format, layer.log_format);
        set(&mut self.provider_file, layer.provider_config);

        if let Some(port) = layer.port {
            api.port = Some(port);
            if let [only] = &mut self.nodes[..] {
                only.port = Some(port);
            }
        }
        if let Some(name) = layer.nodename {
            match &mut self.nodes[..] {
                [only] => only.name = Some(name),
                several => faults.push(Fault::new(
                    format!("one node name, {:?}, for {} nodes", name.0, several.len()),
                    format!("in --nodename, beside {}", self.source),
                    "name the nodes in the file alone",
                )),
            }
        }
        let taints = faults.keep(self.taints_of(&layer.taint, notes)).flatten();
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
            if !layer.ignored_fields.is_empty() {
                shared.ignored_fields.clone_from(&layer.ignored_fields);
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
            set(&mut shared.os, layer.os.clone());
            set(&mut shared.kubelet_version, layer.kubelet_version.clone());
            macro_rules! set_all {
                ($($field:ident),* $(,)?) => {$( set(&mut shared.$field, layer.$field); )*};
            }
            set_all!(
                pod_workers,
                provider_calls,
                provider_timeout,
                drift_check_interval,
                ping_interval,
                ping_timeout,
                status_report_interval,
                lease_duration,
                min_backoff,
                max_backoff,
                creation_grace,
                deletion_slack,
                pending_status_delay,
                mass_absence_percent,
                mass_absence_floor,
                normal_events_per_second,
                late_bound_fields,
                websocket_streams,
                deregister,
                drain,
                drain_timeout,
            );
        }
    }

    /// `--taint` takes a taint, and Go's form: a key alone, for the provider's own taint.
    fn taints_of(
        &mut self,
        given: &[String],
        notes: &mut Vec<String>,
    ) -> Result<Option<Vec<TaintSpec>>, Fault> {
        let fault = |message: String| Fault::of_scalar(&message, "in --taint");
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
        if let Some((_, what)) = doubled_taints(&taints).next() {
            return Err(Fault::new(what, "in --taint or VK_TAINT", "keep one"));
        }
        Ok((!taints.is_empty()).then_some(taints))
    }

    /// The settings, with faults for what does not go together.
    fn finish(self, default_name: Option<&str>, said: Vec<String>, faults: &mut Faults) -> Settings {
        if let Some(path) = self.doubled.as_ref().filter(|_| self.provider_file.is_some()) {
            faults.push(Fault::new(
                "settings below the provider's name, and in a file of its own",
                place(&format!("{path}, providerConfig"), &self.source),
                "keep one of the two",
            ));
        }
        let bootstrap = self.bootstrap(faults);
        let serving = self.serving(faults);
        let requested_in = self.requested_in(faults);
        let (limits, streams) = self.limits(faults);
        let nodes = Self::nodes(
            self.nodes,
            self.kubelet_api.port.unwrap_or(10250),
            default_name,
            &self.taint,
            self.provider_file.as_ref(),
            &self.source,
            faults,
        );
        let listen =
            self.kubelet_api.listen.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Address(address)| address);
        let admin = self.admin.listen.map(|Socket(address)| address);
        if let Some(admin) = admin
            && let Some(node) =
                nodes.iter().find(|node| node.config.port == admin.port() && admin.port() != 0)
            && (admin.ip() == listen || admin.ip().is_unspecified() || listen.is_unspecified())
        {
            faults.push(Fault::new(
                format!("port {} for the admin port and for node {:?}", admin.port(), node.config.name),
                place("admin.listen", &self.source),
                "give it a port of its own, such as 10248",
            ));
        }
        let period = |value: Option<Period>, default: Duration| value.map_or(default, |Period(d)| d);
        let connect_timeout = period(self.cluster.connect_timeout, Duration::from_secs(10));
        if connect_timeout.is_zero() {
            faults.push(Fault::new(
                "connectTimeout of 0",
                place("cluster.connectTimeout", &self.source),
                "give the API server some time, such as 10s",
            ));
        }
        if self.kubelet_api.trusted_clients.iter().any(|name| name.trim().is_empty()) {
            faults.push(Fault::new(
                "an empty name among trustedClients",
                place("kubeletApi.trustedClients", &self.source),
                "write the common name of a client certificate",
            ));
        }
        let log = LogSettings {
            level: self.log.level.unwrap_or_else(|| "info".to_owned()),
            format: self.log.format.unwrap_or(LogFormat::Text),
        };
        faults.keep(telemetry::filter(&log.level).map(drop));
        Settings {
            cluster: ClusterSettings {
                kubeconfig: self.cluster.kubeconfig,
                context: self.cluster.context,
                bootstrap,
                server: self.cluster.server.map(|Url(url)| url),
                connect_timeout,
                startup_timeout: Some(period(self.cluster.startup_timeout, Duration::ZERO))
                    .filter(|timeout| !timeout.is_zero()),
            },
            kubelet_api: KubeletApiSettings {
                listen,
                requested_in,
                serving,
                client_ca: self.kubelet_api.client_ca_file,
                trusted_clients: self.kubelet_api.trusted_clients,
                anonymous_metrics: self.kubelet_api.anonymous_metrics.unwrap_or(false),
                insecure_allow_anonymous: self.kubelet_api.insecure_allow_anonymous.unwrap_or(false),
                limits,
                streams,
            },
            admin,
            log,
            tracing: self.tracing.endpoint.map(|Url(endpoint)| TracingSettings {
                endpoint,
                sample_ratio: self.tracing.sample_ratio.map_or(1.0, |Ratio(ratio)| ratio),
                service_name: self.tracing.service_name.unwrap_or_else(|| "vk-node".to_owned()),
                attributes: self.tracing.attributes.into_iter().map(|(Text(k), Text(v))| (k, v)).collect(),
            }),
            instance: self.instance.filter(|instance| !instance.is_empty()),
            nodes,
            source: self.source,
            notes: said,
        }
    }

    fn bootstrap(&self, faults: &mut Faults) -> Option<BootstrapSettings> {
        let kubeconfig = self.cluster.bootstrap_kubeconfig.clone()?;
        let path = "cluster.bootstrapKubeconfig";
        if self.cluster.kubeconfig.is_none() {
            faults.push(Fault::new(
                "bootstrapKubeconfig without kubeconfig",
                place(path, &self.source),
                "say with cluster.kubeconfig or --kubeconfig where to write the node's own",
            ));
        }
        if self.nodes.len() > 1 {
            faults.push(Fault::new(
                format!("one node identity for {} nodes", self.nodes.len()),
                place(path, &self.source),
                "run one daemon for each node, or use a service account for all of them",
            ));
        }
        Some(BootstrapSettings { kubeconfig, cert_dir: self.cert_dir() })
    }

    fn cert_dir(&self) -> PathBuf {
        self.cluster.cert_dir.clone().unwrap_or_else(|| PathBuf::from("/var/lib/vk-node/pki"))
    }

    /// Where a serving certificate that the cluster signs is kept, if there is to be one.
    fn requested_in(&self, faults: &mut Faults) -> Option<PathBuf> {
        if !self.kubelet_api.server_tls_bootstrap? {
            return None;
        }
        let api = &self.kubelet_api;
        if api.cert_file.is_some() || api.key_file.is_some() {
            faults.push(Fault::new(
                "serverTLSBootstrap beside certFile and keyFile",
                place("kubeletApi", &self.source),
                "choose one: ask the cluster, or bring a certificate",
            ));
        }
        if self.nodes.len() > 1 {
            faults.push(Fault::new(
                format!("serverTLSBootstrap for {} nodes", self.nodes.len()),
                place("kubeletApi.serverTLSBootstrap", &self.source),
                "the cluster signs for a node's own identity alone: run one daemon for each node",
            ));
        }
        Some(self.cert_dir())
    }

    /// What the kubelet API bears.
    fn limits(&self, faults: &mut Faults) -> (Limits, StreamLimits) {
        let api = &self.kubelet_api;
        let (mut limits, mut streams) = (Limits::default(), StreamLimits::default());
        let counts = [
            ("maxConnections", api.max_connections, &mut limits.connections, 1),
            ("maxStreamSessions", api.max_stream_sessions, &mut streams.sessions, 1),
            // A forwarded connection's data and errors.
            ("maxStreamsPerSession", api.max_streams_per_session, &mut streams.streams, 2),
        ];
        for (key, given, limit, least) in counts {
            let Some(given) = given else { continue };
            *limit = given;
            if given < least {
                let path = format!("kubeletApi.{key}");
                let what = format!("{key} of {given}");
                faults.push(Fault::new(what, place(&path, &self.source), format!("allow at least {least}")));
            }
        }
        let periods = [
            (
                "streamingConnectionIdleTimeout",
                api.streaming_connection_idle_timeout,
                &mut streams.idle_timeout,
            ),
            ("streamCreationTimeout", api.stream_creation_timeout, &mut streams.creation_timeout),
        ];
        for (key, given, limit) in periods {
            let Some(Period(given)) = given else { continue };
            *limit = given;
            if given.is_zero() {
                let path = format!("kubeletApi.{key}");
                let what = format!("{key} of 0");
                faults.push(Fault::new(what, place(&path, &self.source), "give it a length, such as 10s"));
            }
        }
        (limits, streams)
    }

    fn serving(&self, faults: &mut Faults) -> Option<(PathBuf, PathBuf)> {
        let (have, want, flag) = match (&self.kubelet_api.cert_file, &self.kubelet_api.key_file) {
            (Some(cert), Some(key)) => return Some((cert.clone(), key.clone())),
            (None, None) => return None,
            (Some(_), None) => ("certFile", "keyFile", "--tls-private-key-file"),
            (None, Some(_)) => ("keyFile", "certFile", "--tls-cert-file"),
        };
        faults.push(Fault::new(
            format!("{have} without {want}"),
            place("kubeletApi", &self.source),
            format!("add {want}, or {flag}"),
        ));
        None
    }

    fn nodes(
        drafts: Vec<DraftNode>,
        first_port: u16,
        default_name: Option<&str>,
        taint: &TaintParts,
        provider_file: Option<&PathBuf>,
        source: &str,
        faults: &mut Faults,
    ) -> Vec<NodeSettings> {
        let mut nodes = Vec::new();
        let mut names = BTreeSet::new();
        let mut ports = BTreeSet::new();
        let several = drafts.len() > 1;
        for (index, draft) in drafts.into_iter().enumerate() {
            let path = if several { format!("nodes[{index}]") } else { "nodes".to_owned() };
            let name = match (draft.name, default_name) {
                (Some(NodeName(name)), _) => name,
                (None, Some(name)) => {
                    let read = name.parse().map_err(|message: String| {
                        Fault::of_scalar(&message, "in the variable DEFAULT_NODE_NAME")
                    });
                    faults.keep(read).map_or_else(|| name.to_owned(), |NodeName(name)| name)
                }
                (None, None) => "virtual-kubelet".to_owned(),
            };
            let provider = draft.provider.unwrap_or_else(|| {
                faults.push(Fault::new(
                    "no provider",
                    place("provider", source),
                    "add provider: mock to the file, or --provider mock",
                ));
                (ProviderSection::named(""), "provider".to_owned())
            });
            let (provider, provider_path) = provider;
            let port = match draft.port {
                Some(port) => port,
                // Port 0 is any free port, for each node.
                None if first_port == 0 => 0,
                None => {
                    u16::try_from(index).ok().and_then(|n| first_port.checked_add(n)).unwrap_or_else(|| {
                        faults.push(Fault::new(
                            format!("no port left for node {name:?}"),
                            place(&path, source),
                            "give the nodes ports of their own",
                        ));
                        0
                    })
                }
            };
            if !names.insert(name.clone()) {
                faults.push(Fault::new(
                    format!("two nodes called {name:?}"),
                    place(&format!("{path}.name"), source),
                    "give each a name of its own",
                ));
            }
            if port != 0 && !ports.insert(port) {
                faults.push(Fault::new(
                    format!("port {port} for two nodes"),
                    place(&format!("{path}.port"), source),
                    "give each a port of its own, or leave the port out",
                ));
            }
            let taint = DefaultTaint { parts: taint, provider: &provider.name };
            let os = draft.shared.os.clone().map(|OperatingSystem(os)| os);
            let (config, wrong) = draft.shared.into_config(name, port, &taint);
            for (key, what, fix) in wrong {
                faults.push(Fault::new(what, place(&format!("nodeDefaults.{key}"), source), fix));
            }
            nodes.push(NodeSettings {
                config,
                provider,
                os,
                provider_file: provider_file.cloned(),
                provider_path,
            });
        }
        nodes
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
        set(&mut shared.os, node.os);
        let own = node.provider.map(|section| {
            let path = format!("nodes[{index}].provider.{}", section.name);
            (section, path)
        });
        Self { name: Some(node.name), port: node.port, provider: own.or_else(|| provider.cloned()), shared }
    }
}

/// Taints with a key and an effect that an earlier one has: the API server takes no such node.
fn doubled_taints(taints: &[TaintSpec]) -> impl Iterator<Item = (usize, String)> + '_ {
    let same = |a: &TaintSpec, b: &TaintSpec| (&a.0.key, &a.0.effect) == (&b.0.key, &b.0.effect);
    taints
        .iter()
        .enumerate()
        .filter(move |(index, taint)| taints[..*index].iter().any(|other| same(other, taint)))
        .map(|(index, TaintSpec(taint))| {
            (index, format!("two taints with the key {:?} and the effect {}", taint.key, taint.effect))
        })
}

fn place(path: &str, source: &str) -> String {
    format!("in {source} ({path})")
}
