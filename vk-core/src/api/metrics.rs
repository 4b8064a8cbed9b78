//! `GET /metrics` and its neighbours, but for those that are about resource usage.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::response::Response;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};

use super::KubeletApi;
use super::stats::Text;
use crate::containers::ProbeKind;
use crate::health::Finding;
use crate::metrics::{PROBE_BUCKETS, PROCESS_START, ProbeCount, ProbeCounts, protobuf};
use crate::provider::ContainerRef;

/// What the kubelet calls the text format; parsers that don't know `escaping` skip it.
const CONTENT: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
const STARTED: HeaderName = HeaderName::from_static("process-start-time-unix");

/// The same in protobuf.
const PROTOBUF: HeaderValue = HeaderValue::from_static(
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; \
     escaping=underscores",
);

/// A document in the text format, or in protobuf for those who would rather have that, with the header that scrapers
/// tell restarts by.
pub(crate) fn document(text: String, asked: &HeaderMap) -> Response {
    let (body, content) = if prefers_protobuf(asked) {
        (Body::from(protobuf::of_text(&text)), PROTOBUF)
    } else {
        (Body::from(text), CONTENT)
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content);
    headers.insert(STARTED, HeaderValue::from(PROCESS_START.as_second()));
    response
}

/// Whether protobuf comes before text among what is accepted, by weight and then by order. OpenMetrics is not offered,
/// as the kubelet does not.
fn prefers_protobuf(asked: &HeaderMap) -> bool {
    let accepted = asked.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut best: Option<(f64, bool)> = None;
    for clause in accepted.flat_map(|value| value.split(',')) {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let is = |name: &str, wanted: &[&str]| {
            let value = parameters.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| *value);
            wanted.contains(&value)
        };
        let protobuf = match media {
            "application/vnd.google.protobuf" => {
                if !is("proto", &["io.prometheus.client.MetricFamily"]) || !is("encoding", &["delimited"]) {
                    continue;
                }
                true
            }
            "text/plain" if is("version", &["", "0.0.4"]) => false,
            _ => continue,
        };
        let weight =
            parameters.iter().find(|(name, _)| *name == "q").and_then(|(_, value)| value.parse().ok());
        let weight: f64 = weight.unwrap_or(1.0);
        if best.is_none_or(|(known, _)| weight > known) {
            best = Some((weight, protobuf));
        }
    }
    best.is_some_and(|(_, protobuf)| protobuf)
}

/// `GET /metrics`: the node about itself.
pub(super) fn node(api: &KubeletApi, asked: &HeaderMap) -> Response {
    document(api.metrics.text(), asked)
}

/// `GET /metrics/probes`: the kubelet's families, which have samples where the node runs the probes, and the process's
/// start.
pub(super) fn probes(counts: &ProbeCounts, asked: &HeaderMap) -> Response {
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
    document(text.finish(), asked)
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
pub(super) fn slis(liveness: &[Finding], asked: &HeaderMap) -> Response {
    let mut text = Text::default();
    let help = "[STABLE] This metric records the result of a single healthcheck.";
    text.family("kubernetes_healthcheck", "gauge", help);
    let checks = [("log", true), ("ping", true), ("syncloop", super::health::syncloop(liveness).is_ok())];
    for (name, well) in checks {
        text.sample(&[("name", name), ("type", "healthz")], u8::from(well), None);
    }
    document(text.finish(), asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protobuf_is_for_those_who_would_rather_have_it() {
        let protobuf =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, expected) in [
            (String::new(), false),
            ("*/*".to_owned(), false),
            ("text/plain".to_owned(), false),
            (protobuf.to_owned(), true),
            (format!("{protobuf};q=0.7,text/plain;version=0.0.4;q=0.3"), true),
            (format!("{protobuf};q=0.2, text/plain;version=0.0.4;q=0.3"), false),
            (format!("{protobuf}, text/plain"), true),
            (format!("text/plain, {protobuf}"), false),
            (format!("application/openmetrics-text;version=1.0.0,{protobuf};q=0.1"), true),
            (protobuf.replace("delimited", "text"), false),
            (protobuf.replace("io.prometheus.client.MetricFamily", "x.y.Z"), false),
        ] {
            let mut asked = HeaderMap::new();
            asked.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(prefers_protobuf(&asked), expected, "{accept}");
        }
    }
}
