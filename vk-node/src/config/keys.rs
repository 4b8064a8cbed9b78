//! Every key of the configuration file: its flag, its type, and whether a change of it can be taken over while
//! the daemon runs. What a key means and its default stand in its flag's help, once.

#[cfg(test)]
mod reference;

/// What a change of a key needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// SIGHUP, or a change of the file, takes it over.
    Reload,
    /// It is read at the start alone.
    Restart,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// Where it stands; `nodes[]` is each of the nodes.
    pub(crate) path: &'static str,
    /// The flag that sets it, and whose help tells what it means.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reference page and its tests"))]
    pub(crate) flag: &'static str,
    /// What it takes, and in which unit.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reference page and its tests"))]
    pub(crate) takes: Takes,
    /// What a change of it needs.
    pub(crate) effect: Effect,
}

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    File,
    Directory,
    Text,
    Texts,
    Url,
    /// With its default.
    Bool(bool),
    Period,
    Count(&'static str),
    Ratio,
    Percent,
    Port,
    Address,
    Addresses,
    Socket,
    Name,
    Labels,
    Annotations,
    Taints,
    NoTaints,
    Quantities,
    OperatingSystem,
    LogLevel,
    LogFormat,
    LateBound,
    Fields,
    Provider,
}

const fn key(path: &'static str, flag: &'static str, takes: Takes, effect: Effect) -> Key {
    Key { path, flag, takes, effect }
}

use self::Effect::{Reload, Restart};
use self::Takes as T;

/// All of them, in the order of the file.
pub(crate) const KEYS: &[Key] = &[
    key("cluster.kubeconfig", "kubeconfig", T::File, Restart),
    key("cluster.context", "context", T::Text, Restart),
    key("cluster.bootstrapKubeconfig", "bootstrap-kubeconfig", T::File, Restart),
    key("cluster.certDir", "cert-dir", T::Directory, Restart),
    key("cluster.server", "server", T::Url, Restart),
    key("cluster.connectTimeout", "connect-timeout", T::Period, Restart),
    key("cluster.startupTimeout", "startup-timeout", T::Period, Restart),
    key("kubeletApi.listen", "listen", T::Address, Restart),
    key("kubeletApi.port", "port", T::Port, Restart),
    key("kubeletApi.certFile", "tls-cert-file", T::File, Restart),
    key("kubeletApi.keyFile", "tls-private-key-file", T::File, Restart),
    key("kubeletApi.serverTLSBootstrap", "rotate-server-certificates", T::Bool(false), Restart),
    key("kubeletApi.clientCaFile", "client-ca-file", T::File, Restart),
    key("kubeletApi.trustedClients", "trusted-client", T::Texts, Restart),
    key("kubeletApi.anonymousMetrics", "anonymous-metrics", T::Bool(false), Restart),
    key("kubeletApi.insecureAllowAnonymous", "insecure-allow-anonymous", T::Bool(false), Restart),
    key("kubeletApi.maxConnections", "max-connections", T::Count("connections"), Restart),
    key("kubeletApi.streamingConnectionIdleTimeout", "streaming-connection-idle-timeout", T::Period, Restart),
    key("kubeletApi.streamCreationTimeout", "stream-creation-timeout", T::Period, Restart),
    key("kubeletApi.maxStreamSessions", "max-stream-sessions", T::Count("sessions"), Restart),
    key("kubeletApi.maxStreamsPerSession", "max-streams-per-session", T::Count("streams"), Restart),
    key("admin.listen", "admin-listen", T::Socket, Restart),
    key("log.level", "log-level", T::LogLevel, Reload),
    key("log.format", "log-format", T::LogFormat, Restart),
    key("tracing.endpoint", "otlp-endpoint", T::Url, Restart),
    key("tracing.sampleRatio", "trace-sample-ratio", T::Ratio, Restart),
    key("tracing.serviceName", "trace-service-name", T::Text, Restart),
    key("tracing.attributes", "trace-attribute", T::Annotations, Restart),
    key("instance", "instance", T::Text, Restart),
    key("provider", "provider", T::Provider, Restart),
    key("providerConfig", "provider-config", T::File, Restart),
    key("nodeDefaults.addresses", "node-ip", T::Addresses, Restart),
    key("nodeDefaults.labels", "label", T::Labels, Reload),
    key("nodeDefaults.annotations", "annotation", T::Annotations, Reload),
    key("nodeDefaults.taints", "taint", T::Taints, Reload),
    key("nodeDefaults.taints", "disable-taint", T::NoTaints, Reload),
    key("nodeDefaults.capacity", "capacity", T::Quantities, Restart),
    key("nodeDefaults.os", "os", T::OperatingSystem, Restart),
    key("nodeDefaults.kubeletVersion", "kubelet-version", T::Text, Restart),
    key("nodeDefaults.podWorkers", "pod-workers", T::Count("pods"), Restart),
    key("nodeDefaults.providerCalls", "provider-calls", T::Count("calls"), Restart),
    key("nodeDefaults.providerTimeout", "provider-timeout", T::Period, Restart),
    key("nodeDefaults.driftCheckInterval", "drift-check-interval", T::Period, Restart),
    key("nodeDefaults.pingInterval", "ping-interval", T::Period, Restart),
    key("nodeDefaults.pingTimeout", "ping-timeout", T::Period, Restart),
    key("nodeDefaults.statusReportInterval", "status-report-interval", T::Period, Restart),
    key("nodeDefaults.leaseDuration", "lease-duration", T::Period, Restart),
    key("nodeDefaults.minBackoff", "min-backoff", T::Period, Restart),
    key("nodeDefaults.maxBackoff", "max-backoff", T::Period, Restart),
    key("nodeDefaults.creationGrace", "creation-grace", T::Period, Restart),
    key("nodeDefaults.deletionSlack", "deletion-slack", T::Period, Restart),
    key("nodeDefaults.pendingStatusDelay", "pending-status-delay", T::Period, Restart),
    key("nodeDefaults.massAbsencePercent", "mass-absence-percent", T::Percent, Restart),
    key("nodeDefaults.massAbsenceFloor", "mass-absence-floor", T::Count("pods"), Restart),
    key("nodeDefaults.lateBoundFields", "late-bound-fields", T::LateBound, Restart),
    key("nodeDefaults.ignoredFields", "ignored-fields", T::Fields, Restart),
    key("nodeDefaults.normalEventsPerSecond", "normal-events-per-second", T::Count("events/s"), Restart),
    key("nodeDefaults.drainTimeout", "drain-timeout", T::Period, Restart),
    key("nodeDefaults.websocketStreams", "websocket-streams", T::Bool(true), Restart),
    key("nodeDefaults.deregister", "deregister", T::Bool(false), Restart),
    key("nodeDefaults.drain", "drain", T::Bool(false), Restart),
    key("nodes[].name", "nodename", T::Name, Restart),
    key("nodes[].port", "port", T::Port, Restart),
    key("nodes[].addresses", "node-ip", T::Addresses, Restart),
    key("nodes[].labels", "label", T::Labels, Reload),
    key("nodes[].annotations", "annotation", T::Annotations, Reload),
    key("nodes[].taints", "taint", T::Taints, Reload),
    key("nodes[].capacity", "capacity", T::Quantities, Restart),
    key("nodes[].os", "os", T::OperatingSystem, Restart),
    key("nodes[].provider", "provider", T::Provider, Restart),
];

/// What a change at a path of the file needs, such as `nodes[1].labels.zone`.
pub(crate) fn effect_of(path: &str) -> Effect {
    let mut general = String::new();
    for part in path.split('[') {
        match part.split_once(']') {
            Some((index, rest)) if index.bytes().all(|b| b.is_ascii_digit()) => {
                general.push_str("[]");
                general.push_str(rest);
            }
            _ => general.push_str(part),
        }
    }
    let below = |key: &&Key| {
        general.strip_prefix(key.path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    KEYS.iter().filter(below).map(|key| key.effect).next().unwrap_or(Restart)
}
