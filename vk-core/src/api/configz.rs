//! `GET /configz`: the node's settings under the kubelet's names (`KubeletConfiguration`,
//! `kubelet.config.k8s.io/v1beta1`), as far as they mean the same thing here.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{KubeletApi, access, reply};
use crate::config::NodeConfig;

/// The settings, or 404 like a kubelet that registered none.
pub(super) fn configz(api: &KubeletApi) -> Response {
    let mut all = Map::new();
    if let Some(config) = &api.config {
        all.insert("kubeletconfig".to_owned(), kubelet_configuration(api, config));
    }
    match serde_json::to_vec(&Value::Object(all)) {
        Ok(document) => reply::nosniff(reply::json(Body::from(document))),
        Err(error) => reply::error_line(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn kubelet_configuration(api: &KubeletApi, config: &NodeConfig) -> Value {
    let rules = api.access.summary();
    let burst = u64::from(config.normal_events_per_second) * 5;
    let mut settings = json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "enableServer": true,
        "port": config.port,
        "authentication": {
            "x509": {},
            "webhook": { "enabled": rules.webhook, "cacheTTL": span(access::TOKEN_TTL) },
            "anonymous": { "enabled": rules.anonymous },
        },
        "authorization": {
            "mode": if rules.everyone { "AlwaysAllow" } else { "Webhook" },
            "webhook": {
                "cacheAuthorizedTTL": span(access::ALLOWED_TTL),
                "cacheUnauthorizedTTL": span(access::DENIED_TTL),
            },
        },
        "eventRecordQPS": config.normal_events_per_second,
        "eventBurst": burst,
        "enableDebuggingHandlers": true,
        "streamingConnectionIdleTimeout": span(api.streams.limits().idle_timeout),
        "nodeStatusUpdateFrequency": span(config.ping_interval),
        "nodeStatusReportFrequency": span(config.status_report_interval),
        "nodeLeaseDurationSeconds": config.lease_duration.as_secs(),
        "runtimeRequestTimeout": span(config.provider_timeout),
        "enableSystemLogHandler": false,
        "enableSystemLogQuery": false,
        "enableProfilingHandler": false,
        "enableDebugFlagsHandler": false,
        "shutdownGracePeriod": span(config.drain_timeout),
        // None of it is theirs alone.
        "shutdownGracePeriodCriticalPods": "0s",
        "registerNode": true,
    });
    if let Some(taints) = &config.taints {
        settings["registerWithTaints"] = json!(taints);
    }
    settings
}

/// A duration as Go's `metav1.Duration` writes it: `1h2m3.5s`.
fn span(duration: Duration) -> String {
    let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
    let seconds = duration.as_secs_f64() % 60.0;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{Backend, api, get};
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (seconds, text) in
            [(0.0, "0s"), (0.5, "0.5s"), (120.0, "2m0s"), (300.0, "5m0s"), (3661.5, "1h1m1.5s")]
        {
            assert_eq!(span(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn settings_have_the_kubelets_names_and_this_nodes_values() {
        let mut config = NodeConfig::new("node-1").with_port(10_300);
        config.lease_duration = Duration::from_mins(1);
        let api = api(Backend::default(), Vec::new()).with_config(Arc::new(config));
        let answer = get(&api, "/configz").await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let document: Value = serde_json::from_str(&answer.body).unwrap();
        let settings = &document["kubeletconfig"];
        assert_eq!(settings["kind"], "KubeletConfiguration");
        assert_eq!((&settings["port"], &settings["nodeLeaseDurationSeconds"]), (&json!(10_300), &json!(60)));
        assert_eq!(settings["nodeStatusReportFrequency"], "5m0s");
        assert_eq!(settings["authorization"]["mode"], "AlwaysAllow");
    }
}
