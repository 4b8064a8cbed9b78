//! Calls of the API server.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Labels, Timings, seconds};

/// Counts of calls to the API server.
#[derive(Clone, Debug)]
pub(crate) struct ClusterMetrics {
    requests: Family<Labels<3>, Counter>,
    durations: Timings<2>,
}

impl ClusterMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self { requests: Family::default(), durations: Family::new_with_constructor(seconds) };
        registry.register(
            "vk_api_requests",
            "Requests to the API server, by verb, resource and status code; \"error\" if no answer came",
            metrics.requests.clone(),
        );
        registry.register(
            "vk_api_request_duration_seconds",
            "How long the API server took to begin its answer, by verb and resource",
            metrics.durations.clone(),
        );
        metrics
    }

    /// An answer began, or none came.
    pub(crate) fn answered(
        &self,
        verb: &'static str,
        resource: &'static str,
        code: Option<u16>,
        took: Duration,
    ) {
        let code = code.map_or_else(|| "error".into(), |code| code.to_string().into());
        let labels = [("verb", verb.into()), ("resource", resource.into())];
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        let [verb, resource] = labels;
        self.requests.get_or_create(&[verb, resource, ("code", code)]).inc();
    }
}
