//! `GET /metrics` and its neighbours, but for those that are about resource usage.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::KubeletApi;
use super::stats::Text;
use crate::health::Finding;
use crate::metrics::PROCESS_START;

/// What the kubelet calls the text format; parsers that don't know `escaping` skip it.
const CONTENT: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
const STARTED: HeaderName = HeaderName::from_static("process-start-time-unix");

/// A document in the text format, with the header that scrapers tell restarts by.
pub(crate) fn document(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, CONTENT);
    headers.insert(STARTED, HeaderValue::from(PROCESS_START.as_second()));
    response
}

/// `GET /metrics`: the node about itself.
pub(super) fn node(api: &KubeletApi) -> Response {
    document(api.metrics.text())
}

/// `GET /metrics/probes`: the kubelet's families without samples as long as no probe is run here, and the process's
/// start.
pub(super) fn probes() -> Response {
    let mut text = Text::default();
    text.family(
        "process_start_time_seconds",
        "gauge",
        "[ALPHA] Start time of the process since unix epoch in seconds.",
    );
    text.sample(&[], PROCESS_START.as_second(), None);
    document(text.finish())
}

/// `GET /metrics/slis`: the health checks as gauges (KEP-3466).
pub(super) fn slis(liveness: &[Finding]) -> Response {
    let mut text = Text::default();
    let help = "[STABLE] This metric records the result of a single healthcheck.";
    text.family("kubernetes_healthcheck", "gauge", help);
    let checks = [("log", true), ("ping", true), ("syncloop", super::health::syncloop(liveness).is_ok())];
    for (name, well) in checks {
        text.sample(&[("name", name), ("type", "healthz")], u8::from(well), None);
    }
    document(text.finish())
}
