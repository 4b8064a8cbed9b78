//! `GET /metrics` and its neighbours, but for those that are about resource usage.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::KubeletApi;
use super::stats::Text;
use crate::containers::ProbeKind;
use crate::health::Finding;
use crate::metrics::{PROBE_BUCKETS, PROCESS_START, ProbeCount, ProbeCounts};
use crate::provider::ContainerRef;

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

/// `GET /metrics/probes`: the kubelet's families, which have samples where the node runs the probes, and the process's
/// start.
pub(super) fn probes(counts: &ProbeCounts) -> Response {
    let mut text = Text::default();
    let counts = counts.all();
    if !counts.is_empty() {
        probe_durations(&mut text, &counts);
        let help =
            "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
        text.family("prober_probe_total", "counter", help);
        for ((container, kind), count) in &counts {
            let kind = format!("{kind:?}");
            for (result, times) in &count.results {
                let labels = [
                    ("container", &*container.name),
                    ("namespace", &*container.pod.namespace),
                    ("pod", &*container.pod.name),
                    ("pod_uid", container.pod.uid.as_str()),
                    ("probe_type", &kind),
                    ("result", result),
                ];
                text.sample(&labels, times, None);
            }
        }
    }
    text.family(
        "process_start_time_seconds",
        "gauge",
        "[ALPHA] Start time of the process since unix epoch in seconds.",
    );
    text.sample(&[], PROCESS_START.as_second(), None);
    document(text.finish())
}

fn probe_durations(text: &mut Text, counts: &BTreeMap<(ContainerRef, ProbeKind), ProbeCount>) {
    let name = "prober_probe_duration_seconds";
    text.family(name, "histogram", "[ALPHA] Duration in seconds for a probe response.");
    for ((container, kind), count) in counts {
        // A kubelet leaves startup probes out here.
        if *kind == ProbeKind::Startup {
            continue;
        }
        let kind = format!("{kind:?}");
        let labels = [
            ("container", &*container.name),
            ("namespace", &*container.pod.namespace),
            ("pod", &*container.pod.name),
            ("probe_type", &*kind),
        ];
        let ends = PROBE_BUCKETS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        let totals = count.buckets.iter().copied().chain([count.total()]);
        for (end, total) in ends.zip(totals) {
            let with_end = [&labels[..], &[("le", &*end)]].concat();
            text.part("_bucket", &with_end, total);
        }
        text.part("_sum", &labels, count.took.as_secs_f64());
        text.part("_count", &labels, count.total());
    }
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
