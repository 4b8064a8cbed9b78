//! The settings as flags with their values, for people: `/flagz` of a node's kubelet API.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use humantime::format_duration;
use vk_core::config::LateBoundPolicy;

use crate::config::LogFormat;
use crate::config::settings::{NodeSettings, Settings};

/// Every flag, with the value that holds for a node, wherever it comes from; empty where nothing was said and
/// something else decides. There are no secrets among them: files are named, and a URL's user is left out.
pub(crate) fn of(settings: &Settings, node: &NodeSettings) -> Vec<(String, String)> {
    let Settings { cluster, kubelet_api: api, admin, log, tracing, instance, .. } = settings;
    let config = &node.config;
    let bootstrap = cluster.bootstrap.as_ref();
    let (cert, key) = api.serving.clone().unzip();
    let cert_dir = bootstrap.map(|b| &b.cert_dir).or(api.requested_in.as_ref());
    let taints = config.taints.as_deref().unwrap_or_default().iter().map(|taint| {
        format!("{}={}:{}", taint.key, taint.value.as_deref().unwrap_or_default(), taint.effect)
    });
    let capacity = config.capacity.iter().map(|(name, amount)| format!("{name}={}", amount.0));
    let attributes = tracing.as_ref().map(|tracing| pairs(&tracing.attributes));
    let flags: Vec<(&str, String)> = vec![
        ("kubeconfig", file(cluster.kubeconfig.as_ref())),
        ("context", text(cluster.context.as_ref())),
        ("server", url(cluster.server.as_ref())),
        ("bootstrap-kubeconfig", file(bootstrap.map(|b| &b.kubeconfig))),
        ("cert-dir", file(cert_dir)),
        ("connect-timeout", period(cluster.connect_timeout)),
        ("startup-timeout", period(cluster.startup_timeout.unwrap_or_default())),
        ("provider", node.provider.name.clone()),
        ("provider-config", file(node.provider_file.as_ref())),
        ("nodename", config.name.clone()),
        ("os", text(node.os.as_ref())),
        ("node-ip", list(&config.addresses)),
        ("label", pairs(&config.labels)),
        ("annotation", pairs(&config.annotations)),
        ("taint", list(taints)),
        ("disable-taint", config.taints.as_ref().is_some_and(Vec::is_empty).to_string()),
        ("capacity", list(capacity)),
        ("pod-workers", config.pod_workers.to_string()),
        ("drift-check-interval", period(config.drift_check_interval)),
        ("kubelet-version", text(config.kubelet_version.as_ref())),
        ("provider-calls", config.provider_calls.to_string()),
        ("provider-timeout", period(config.provider_timeout)),
        ("ping-interval", period(config.ping_interval)),
        ("ping-timeout", period(config.ping_timeout)),
        ("status-report-interval", period(config.status_report_interval)),
        ("lease-duration", period(config.lease_duration)),
        ("min-backoff", period(config.min_backoff)),
        ("max-backoff", period(config.max_backoff)),
        ("creation-grace", period(config.creation_grace)),
        ("deletion-slack", period(config.deletion_slack)),
        ("pending-status-delay", period(config.pending_status_delay)),
        ("mass-absence-percent", config.mass_absence_percent.to_string()),
        ("mass-absence-floor", config.mass_absence_floor.to_string()),
        ("normal-events-per-second", config.normal_events_per_second.to_string()),
        ("late-bound-fields", policy(config.late_bound_fields).to_owned()),
        ("ignored-fields", list(config.ignored_fields.paths())),
        ("instance", text(instance.as_ref())),
        ("websocket-streams", config.websocket_streams.to_string()),
        ("deregister", config.deregister_on_shutdown.to_string()),
        ("drain", config.drain_pods_on_shutdown.to_string()),
        ("drain-timeout", period(config.drain_timeout)),
        ("listen", api.listen.to_string()),
        ("port", config.port.to_string()),
        ("tls-cert-file", file(cert.as_ref())),
        ("tls-private-key-file", file(key.as_ref())),
        ("rotate-server-certificates", api.requested_in.is_some().to_string()),
        ("client-ca-file", file(api.client_ca.as_ref())),
        ("trusted-client", list(&api.trusted_clients)),
        ("anonymous-metrics", api.anonymous_metrics.to_string()),
        ("insecure-allow-anonymous", api.insecure_allow_anonymous.to_string()),
        ("max-connections", api.limits.connections.to_string()),
        ("streaming-connection-idle-timeout", period(api.streams.idle_timeout)),
        ("stream-creation-timeout", period(api.streams.creation_timeout)),
        ("max-stream-sessions", api.streams.sessions.to_string()),
        ("max-streams-per-session", api.streams.streams.to_string()),
        ("admin-listen", text(admin.as_ref())),
        ("log-level", log.level.clone()),
        ("log-format", format_of(log.format).to_owned()),
        ("otlp-endpoint", url(tracing.as_ref().map(|tracing| &tracing.endpoint))),
        ("trace-sample-ratio", text(tracing.as_ref().map(|tracing| tracing.sample_ratio))),
        ("trace-service-name", text(tracing.as_ref().map(|tracing| &tracing.service_name))),
        ("trace-attribute", attributes.unwrap_or_default()),
    ];
    flags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn text(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn file(path: Option<&PathBuf>) -> String {
    text(path.map(|path| path.display()))
}

fn period(length: Duration) -> String {
    format_duration(length).to_string()
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

fn pairs(map: &BTreeMap<String, String>) -> String {
    list(map.iter().map(|(key, value)| format!("{key}={value}")))
}

/// Without whoever stands before the `@`.
fn url(url: Option<&Uri>) -> String {
    let Some(url) = url else { return String::new() };
    let place = url.authority().map_or("", |authority| authority.as_str());
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    format!("{}://{place}{}", url.scheme_str().unwrap_or_default(), url.path())
}

fn policy(policy: LateBoundPolicy) -> &'static str {
    match policy {
        LateBoundPolicy::Fail => "fail",
        LateBoundPolicy::Empty => "empty",
        LateBoundPolicy::NodeIp => "node-ip",
    }
}

fn format_of(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}
