//! `GET /stats/summary`: the kubelet's summary API (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`).

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::provider::{
    ContainerUsage, CpuUsage, FilesystemUsage, MemoryUsage, NetworkUsage, PodUsage, Usage,
};

/// The document. What is unknown is left out.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network<'a>>,
    #[serde(rename = "fs", skip_serializing_if = "Option::is_none")]
    filesystem: Option<Filesystem>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network<'a>>,
    #[serde(rename = "ephemeral-storage", skip_serializing_if = "Option::is_none")]
    ephemeral_storage: Option<Filesystem>,
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
    #[serde(rename = "rootfs", skip_serializing_if = "Option::is_none")]
    root_filesystem: Option<Filesystem>,
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

/// The default interface's figures beside all of them, which here are the same one's.
#[derive(Serialize)]
struct Network<'a> {
    time: Second,
    #[serde(flatten)]
    default: Interface<'a>,
    interfaces: [Interface<'a>; 1],
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Interface<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_errors: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Filesystem {
    time: Second,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
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
    /// The figures of a node that started then; with `everything`, also those that are not about processor and
    /// memory.
    pub(super) fn new(name: &'a str, started: Timestamp, usage: &'a Usage, everything: bool) -> Self {
        let node = usage.node.as_ref();
        let wide = node.filter(|_| everything);
        Self {
            node: Node {
                name,
                start_time: Second(started),
                cpu: node.and_then(|node| node.cpu).map(cpu),
                memory: node.and_then(|node| node.memory).map(memory),
                network: wide.and_then(|node| node.network.as_ref()).map(network),
                filesystem: wide.and_then(|node| node.filesystem).map(filesystem),
            },
            pods: usage.pods.iter().map(|usage| pod(usage, everything)).collect(),
        }
    }
}

fn pod(usage: &PodUsage, everything: bool) -> Pod<'_> {
    let wide = Some(usage).filter(|_| everything);
    Pod {
        reference: PodRef {
            name: &usage.pod.name,
            namespace: &usage.pod.namespace,
            uid: usage.pod.uid.as_str(),
        },
        start_time: usage.started_at.map(Second),
        containers: usage.containers.iter().map(|usage| container(usage, everything)).collect(),
        cpu: usage.cpu.map(cpu),
        memory: usage.memory.map(memory),
        network: wide.and_then(|usage| usage.network.as_ref()).map(network),
        ephemeral_storage: wide.and_then(|usage| usage.ephemeral_storage).map(filesystem),
    }
}

fn container(usage: &ContainerUsage, everything: bool) -> Container<'_> {
    Container {
        name: &usage.name,
        start_time: usage.started_at.map(Second),
        cpu: usage.cpu.map(cpu),
        memory: usage.memory.map(memory),
        root_filesystem: usage.root_filesystem.filter(|_| everything).map(filesystem),
    }
}

fn network(usage: &NetworkUsage) -> Network<'_> {
    let default = Interface {
        name: &usage.interface,
        rx_bytes: usage.rx_bytes,
        rx_errors: usage.rx_errors,
        tx_bytes: usage.tx_bytes,
        tx_errors: usage.tx_errors,
    };
    Network { time: Second(usage.time), default, interfaces: [default] }
}

fn filesystem(usage: FilesystemUsage) -> Filesystem {
    Filesystem {
        time: Second(usage.time),
        available_bytes: usage.available_bytes,
        capacity_bytes: usage.capacity_bytes,
        used_bytes: usage.used_bytes,
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
