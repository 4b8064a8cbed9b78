//! `GET /metrics/resource`: processor and memory, as metrics-server reads them
//! (`pkg/kubelet/metrics/collectors/resource_metrics.go`).
//!
//! Labels are written `container`, `pod`, `namespace` and `namespace`, `pod`: Prometheus and metrics-server
//! don't mind the order, and the Go Virtual Kubelet's end-to-end suite takes the second label for the pod's
//! name.

use std::collections::HashSet;

use jiff::Timestamp;

use super::exposition::{Seconds, Text};
use crate::provider::{ContainerUsage, CpuUsage, MemoryUsage, PodUsage, Usage};

/// The figures, or, without any, the sign that they could not be had.
pub(super) fn render(usage: Option<&Usage>) -> String {
    let mut text = Text::default();
    let nothing = Usage::default();
    let known = usage.unwrap_or(&nothing);
    let containers = || {
        known.pods.iter().flat_map(|pod| {
            // A series may appear once; a backend that names a container twice is taken at its first word.
            let mut seen = HashSet::new();
            let first = pod.containers.iter().filter(move |container| seen.insert(container.name.as_str()));
            first.map(move |container| (pod, container))
        })
    };

    text.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    for (pod, container) in containers() {
        if let Some((value, time)) = cpu(container.cpu) {
            text.sample(&container_labels(pod, container), value, Some(time));
        }
    }
    text.family(
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    );
    for (pod, container) in containers() {
        if let Some((value, time)) = memory(container.memory) {
            text.sample(&container_labels(pod, container), value, Some(time));
        }
    }
    text.family(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    for (pod, container) in containers() {
        if let Some(started) = container.started_at.and_then(nanoseconds) {
            text.sample(&container_labels(pod, container), Seconds(started), None);
        }
    }
    let node = known.node.as_ref();
    text.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    if let Some((value, time)) = cpu(node.and_then(|node| node.cpu)) {
        text.sample(&[], value, Some(time));
    }
    text.family(
        "node_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the node in bytes",
    );
    if let Some((value, time)) = memory(node.and_then(|node| node.memory)) {
        text.sample(&[], value, Some(time));
    }
    text.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    for pod in &known.pods {
        if let Some((value, time)) = cpu(pod.cpu) {
            text.sample(&pod_labels(pod), value, Some(time));
        }
    }
    text.family("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes");
    for pod in &known.pods {
        if let Some((value, time)) = memory(pod.memory) {
            text.sample(&pod_labels(pod), value, Some(time));
        }
    }
    text.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.sample(&[], u8::from(usage.is_none()), None);
    text.finish()
}

fn container_labels<'a>(pod: &'a PodUsage, container: &'a ContainerUsage) -> [(&'static str, &'a str); 3] {
    [("container", &container.name), ("pod", &pod.pod.name), ("namespace", &pod.pod.namespace)]
}

fn pod_labels(pod: &PodUsage) -> [(&'static str, &str); 2] {
    [("namespace", &pod.pod.namespace), ("pod", &pod.pod.name)]
}

/// A known zero is written as the smallest figure there is: metrics-server drops the whole pod, or the node,
/// for a zero.
fn cpu(usage: Option<CpuUsage>) -> Option<(Seconds, Timestamp)> {
    let usage = usage?;
    Some((Seconds(usage.usage_core_nano_seconds?.max(1)), usage.time))
}

fn memory(usage: Option<MemoryUsage>) -> Option<(u64, Timestamp)> {
    let usage = usage?;
    Some((usage.working_set_bytes?.max(1), usage.time))
}

fn nanoseconds(time: Timestamp) -> Option<u64> {
    u64::try_from(time.as_nanosecond()).ok().filter(|nanos| *nanos > 0)
}
