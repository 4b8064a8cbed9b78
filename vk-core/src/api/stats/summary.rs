//! `GET /stats/summary`: the kubelet's summary API (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`).

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::provider::{ContainerUsage, CpuUsage, MemoryUsage, PodUsage, Usage};

/// The document. What is unknown is left out; this node measures processor and memory only, so that
/// `only_cpu_and_memory` has nothing to drop.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    node: Node<'a>,
    pods: Vec<Pod<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Node<'a> {
    #[serde(rename = "nodeName")]
    name: &'a str,
    start_time: Second,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pod<'a> {
    #[serde(rename = "podRef")]
    reference: PodRef<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Second>,
    containers: Vec<Container<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
}

#[derive(Serialize)]
struct PodRef<'a> {
    name: &'a str,
    namespace: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Container<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Second>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Second,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_nano_cores: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_core_nano_seconds: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    time: Second,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_set_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss_bytes: Option<u64>,
}

/// A moment as `metav1.Time` writes it: whole seconds.
struct Second(Timestamp);

impl Serialize for Second {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Rounds down, as Go does; a timestamp's whole second is a timestamp.
        let whole = Timestamp::from_second(self.0.as_second()).unwrap_or(self.0);
        serializer.collect_str(&whole)
    }
}

impl<'a> Summary<'a> {
    pub(super) fn new(name: &'a str, started: Timestamp, usage: &'a Usage) -> Self {
        let node = usage.node.as_ref();
        Self {
            node: Node {
                name,
                start_time: Second(started),
                cpu: node.and_then(|node| node.cpu).map(cpu),
                memory: node.and_then(|node| node.memory).map(memory),
            },
            pods: usage.pods.iter().map(pod).collect(),
        }
    }
}

fn pod(usage: &PodUsage) -> Pod<'_> {
    Pod {
        reference: PodRef {
            name: &usage.pod.name,
            namespace: &usage.pod.namespace,
            uid: usage.pod.uid.as_str(),
        },
        start_time: usage.started_at.map(Second),
        containers: usage.containers.iter().map(container).collect(),
        cpu: usage.cpu.map(cpu),
        memory: usage.memory.map(memory),
    }
}

fn container(usage: &ContainerUsage) -> Container<'_> {
    Container {
        name: &usage.name,
        start_time: usage.started_at.map(Second),
        cpu: usage.cpu.map(cpu),
        memory: usage.memory.map(memory),
    }
}

fn cpu(usage: CpuUsage) -> Cpu {
    Cpu {
        time: Second(usage.time),
        usage_nano_cores: usage.usage_nano_cores,
        usage_core_nano_seconds: usage.usage_core_nano_seconds,
    }
}

fn memory(usage: MemoryUsage) -> Memory {
    Memory {
        time: Second(usage.time),
        available_bytes: usage.available_bytes,
        usage_bytes: usage.usage_bytes,
        working_set_bytes: usage.working_set_bytes,
        rss_bytes: usage.rss_bytes,
    }
}
