//! `GET /metrics/cadvisor`: what dashboards read, under cAdvisor's names and labels, as far as it is known
//! (`pkg/kubelet/server/server.go`, `containerPrometheusLabelsFunc`). A pod's own series have an empty `container`.

use std::collections::HashSet;
use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::super::KubeletApi;
use super::super::containers;
use super::exposition::{Seconds, Text};
use crate::node::quantity;
use crate::provider::{CpuUsage, FilesystemUsage, MemoryUsage, NetworkUsage, Usage};

/// A line of figures: of a container, or, with an empty name, of a pod.
struct Line<'a> {
    container: &'a str,
    id: String,
    image: String,
    name: String,
    namespace: &'a str,
    pod: &'a str,
    started_at: Option<Timestamp>,
    cpu: Option<CpuUsage>,
    memory: Option<MemoryUsage>,
    network: Option<&'a NetworkUsage>,
    filesystem: Option<FilesystemUsage>,
    /// `limits.memory` in bytes, and `limits.cpu` in thousandths.
    limits: [Option<u64>; 2],
}

/// The figures, or, without any, the sign that they could not be had.
pub(super) fn render(api: &KubeletApi, usage: Option<&Usage>) -> String {
    let lines = usage.map(|usage| lines(api, usage)).unwrap_or_default();
    let mut text = Text::default();
    let mut family = |name: &'static str,
                      kind,
                      help,
                      extra: Option<(&'static str, &str)>,
                      value: &dyn Fn(&Line<'_>) -> Option<Sample>| {
        let known = lines.iter().filter_map(|line| Some((line, value(line)?)));
        let mut known = known.peekable();
        if known.peek().is_none() {
            return;
        }
        text.family(name, kind, help);
        for (line, sample) in known {
            let interface = line.network.filter(|_| name.contains("_network_"));
            let extra = extra.or_else(|| Some(("interface", interface?.interface.as_str())));
            text.sample(&line.labels(extra), sample.value, sample.time);
        }
    };
    let total = Some(("cpu", "total"));
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        total,
        &|line| {
            let cpu = line.cpu?;
            Some(Sample::at(cpu.time, Seconds(cpu.usage_core_nano_seconds?)))
        },
    );
    let used = |line: &Line<'_>| Some(Sample::at(line.filesystem?.time, line.filesystem?.used_bytes?));
    family(
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
        // A backend has no device to name.
        Some(("device", "")),
        &used,
    );
    let memory = |pick: fn(&MemoryUsage) -> Option<u64>| {
        move |line: &Line<'_>| Some(Sample::at(line.memory?.time, pick(&line.memory?)?))
    };
    family(
        "container_memory_rss",
        "gauge",
        "Size of RSS in bytes.",
        None,
        &memory(|memory| memory.rss_bytes),
    );
    family(
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        None,
        &memory(|memory| memory.usage_bytes),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        None,
        &memory(|memory| memory.working_set_bytes),
    );
    let network = |pick: fn(&NetworkUsage) -> Option<u64>| {
        move |line: &Line<'_>| Some(Sample::at(line.network?.time, pick(line.network?)?))
    };
    family(
        "container_network_receive_bytes_total",
        "counter",
        "Cumulative count of bytes received",
        None,
        &network(|usage| usage.rx_bytes),
    );
    family(
        "container_network_receive_errors_total",
        "counter",
        "Cumulative count of errors encountered while receiving",
        None,
        &network(|usage| usage.rx_errors),
    );
    family(
        "container_network_transmit_bytes_total",
        "counter",
        "Cumulative count of bytes transmitted",
        None,
        &network(|usage| usage.tx_bytes),
    );
    family(
        "container_network_transmit_errors_total",
        "counter",
        "Cumulative count of errors encountered while transmitting",
        None,
        &network(|usage| usage.tx_errors),
    );
    let limit =
        |index: usize, factor: u64| move |line: &Line<'_>| Some(Sample::now(line.limits[index]? * factor));
    let period = |line: &Line<'_>| line.limits[1].map(|_| Sample::now(PERIOD));
    family("container_spec_cpu_period", "gauge", "CPU period of the container.", None, &period);
    family(
        "container_spec_cpu_quota",
        "gauge",
        "CPU quota of the container.",
        None,
        &limit(1, PERIOD / 1000),
    );
    family(
        "container_spec_memory_limit_bytes",
        "gauge",
        "Memory limit for the container.",
        None,
        &limit(0, 1),
    );
    family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        None,
        &|line| Some(Sample::now(line.started_at?.as_second())),
    );
    let failed = u8::from(usage.is_none());
    text.family(
        "container_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.sample(&[], failed, None);
    text.finish()
}

/// Microseconds of `cpu.cfs_period_us`, the kernel's and the kubelet's default.
const PERIOD: u64 = 100_000;

/// A value, with the time of its measurement if it was measured.
struct Sample {
    value: Box<dyn fmt::Display>,
    time: Option<Timestamp>,
}

impl Sample {
    fn at(time: Timestamp, value: impl fmt::Display + 'static) -> Self {
        Self { value: Box::new(value), time: Some(time) }
    }

    fn now(value: impl fmt::Display + 'static) -> Self {
        Self { value: Box::new(value), time: None }
    }
}

impl Line<'_> {
    /// cAdvisor's labels in their order, which is the alphabet's, with one more in its place.
    fn labels<'a>(&'a self, extra: Option<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
        let mut labels = vec![
            ("container", self.container),
            ("id", &self.id),
            ("image", &self.image),
            ("name", &self.name),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ];
        labels.extend(extra);
        labels.sort_unstable();
        labels
    }
}

fn lines<'a>(api: &KubeletApi, usage: &'a Usage) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for pod in &usage.pods {
        let (namespace, name, uid) = (&*pod.pod.namespace, &*pod.pod.name, pod.pod.uid.as_str());
        lines.push(Line {
            container: "",
            id: format!("/{uid}"),
            image: String::new(),
            name: String::new(),
            namespace,
            pod: name,
            started_at: pod.started_at,
            cpu: pod.cpu,
            memory: pod.memory,
            network: pod.network.as_ref(),
            filesystem: pod.ephemeral_storage,
            limits: [None; 2],
        });
        let object = api.pods.find_by_uid(uid);
        // A series may appear once; a backend that names a container twice is taken at its first word.
        let mut seen = HashSet::new();
        for container in pod.containers.iter().filter(|container| seen.insert(container.name.as_str())) {
            let images = object.iter().flat_map(containers::images);
            let image = images.filter(|(known, _)| *known == container.name).find_map(|(_, image)| image);
            lines.push(Line {
                container: &container.name,
                id: format!("/{uid}/{}", container.name),
                image: image.unwrap_or_default().to_owned(),
                name: format!("{name}_{namespace}_{}", container.name),
                namespace,
                pod: name,
                started_at: container.started_at,
                cpu: container.cpu,
                memory: container.memory,
                network: None,
                filesystem: container.root_filesystem,
                limits: object.as_ref().map(|pod| limits(pod, &container.name)).unwrap_or_default(),
            });
        }
    }
    lines
}

fn limits(pod: &Pod, name: &str) -> [Option<u64>; 2] {
    let spec = pod.spec.iter();
    let mut all = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let container: Option<&Container> = all.find(|container| container.name == name);
    let limits = container.and_then(|container| container.resources.as_ref()?.limits.as_ref());
    let nanos = |resource: &str| quantity::nano(limits?.get(resource)?);
    let whole = |nanos: i128, unit: i128| u64::try_from(nanos / unit).ok();
    [
        nanos("memory").and_then(|nanos| whole(nanos, 1_000_000_000)),
        nanos("cpu").and_then(|nanos| whole(nanos, 1_000_000)),
    ]
}
