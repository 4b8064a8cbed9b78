//! The kubelet API's port: connections, requests, callers, streams.

use std::borrow::Cow;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Labels, Timings, seconds};

/// Counts of the kubelet API's port.
#[derive(Clone, Debug)]
pub(crate) struct PortMetrics {
    requests: Family<Labels<4>, Counter>,
    durations: Timings<4>,
    inflight: Family<Labels<4>, Gauge>,
    open: Gauge,
    accepted: Counter,
    refused: Family<Labels<1>, Counter>,
    denied: Family<Labels<1>, Counter>,
    reviews: Family<Labels<2>, Counter>,
    streams: Family<Labels<1>, Gauge>,
    streams_opened: Family<Labels<1>, Counter>,
}

/// Counts down when it is dropped.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Open {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl PortMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds),
            inflight: Family::default(),
            open: Gauge::default(),
            accepted: Counter::default(),
            refused: Family::default(),
            denied: Family::default(),
            reviews: Family::default(),
            streams: Family::default(),
            streams_opened: Family::default(),
        };
        // The first three are the kubelet's own (pkg/kubelet/server/metrics/metrics.go).
        registry.register(
            "kubelet_http_requests",
            "Number of the http requests received since the server started",
            metrics.requests.clone(),
        );
        registry.register(
            "kubelet_http_requests_duration_seconds",
            "Duration in seconds to serve http requests",
            metrics.durations.clone(),
        );
        registry.register(
            "kubelet_http_inflight_requests",
            "Number of the inflight http requests",
            metrics.inflight.clone(),
        );
        registry.register(
            "vk_connections_open",
            "Connections to the kubelet API that are open, upgraded ones included",
            metrics.open.clone(),
        );
        registry.register(
            "vk_connections_accepted",
            "Connections to the kubelet API that were accepted",
            metrics.accepted.clone(),
        );
        registry.register(
            "vk_connections_refused",
            "Connections to the kubelet API that were closed for breaking a limit, by reason: full, handshake-failed, \
             handshake-timeout, no-request, idle, head-too-large, bad-request, body-missing, reads-nothing (of an \
             answer), client-gone (its machine answers no more)",
            metrics.refused.clone(),
        );
        registry.register(
            "vk_requests_denied",
            "Requests of the kubelet API that were not let in, by status code",
            metrics.denied.clone(),
        );
        registry.register(
            "vk_access_reviews",
            "Questions to the API server about callers of the kubelet API (token, access), by outcome",
            metrics.reviews.clone(),
        );
        registry.register(
            "vk_streams_open",
            "Streams with containers that are open, by kind (exec, attach, port-forward, log)",
            metrics.streams.clone(),
        );
        registry.register(
            "vk_streams_opened",
            "Streams with containers that were opened, by kind",
            metrics.streams_opened.clone(),
        );
        metrics
    }

    /// A request has come. What it returns counts it as under way; hand it back when the answer's head is there.
    pub(crate) fn request(&self, method: &str, path: &'static str, long_running: bool) -> Request {
        let method = match method {
            known @ ("GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS" | "CONNECT"
            | "TRACE") => Cow::Owned(known.to_owned()),
            // Any other word is the caller's invention.
            _ => Cow::Borrowed("other"),
        };
        let long = if long_running { "true" } else { "false" };
        let labels = [
            ("long_running", long.into()),
            ("method", method),
            ("path", path.into()),
            ("server_type", "readwrite".into()),
        ];
        self.requests.get_or_create(&labels).inc();
        let open = Open::new(self.inflight.get_or_create(&labels).clone());
        Request { labels, _open: open }
    }

    /// Its answer is there.
    pub(crate) fn answered(&self, request: &Request, took: Duration) {
        self.durations.get_or_create(&request.labels).observe(took.as_secs_f64());
    }

    /// A connection is open as long as this lives.
    pub(crate) fn connection(&self) -> Open {
        self.accepted.inc();
        Open::new(self.open.clone())
    }

    /// A connection broke a limit.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason.into())]).inc();
    }

    /// A caller was not let in.
    pub(crate) fn denied(&self, code: u16) {
        self.denied.get_or_create(&[("code", code.to_string().into())]).inc();
    }

    /// The API server was asked about a caller.
    pub(crate) fn review(&self, kind: &'static str, outcome: &'static str) {
        self.reviews.get_or_create(&[("kind", kind.into()), ("outcome", outcome.into())]).inc();
    }

    /// A stream with a container is open as long as this lives.
    pub(crate) fn stream(&self, kind: &'static str) -> Open {
        let labels = [("kind", kind.into())];
        self.streams_opened.get_or_create(&labels).inc();
        Open::new(self.streams.get_or_create(&labels).clone())
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Request {
    labels: Labels<4>,
    _open: Open,
}
