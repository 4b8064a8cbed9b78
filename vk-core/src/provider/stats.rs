//! Resource usage as a provider measures it. Field names follow the kubelet's summary API
//! (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`).

use jiff::Timestamp;

use super::identity::PodRef;

/// Usage of the node and of its pods.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// The node as a whole; `None` lets the core add up the pods.
    pub node: Option<NodeUsage>,
    /// Each pod that has figures.
    pub pods: Vec<PodUsage>,
}

/// Usage of the node as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct NodeUsage {
    /// Processor time.
    pub cpu: Option<CpuUsage>,
    /// Memory.
    pub memory: Option<MemoryUsage>,
    /// Bytes on the network.
    pub network: Option<NetworkUsage>,
    /// The filesystem that pods' files are on.
    pub filesystem: Option<FilesystemUsage>,
}

/// Usage of one pod.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PodUsage {
    /// Which pod.
    pub pod: PodRef,
    /// Since when it runs.
    pub started_at: Option<Timestamp>,
    /// The pod as a whole; `None` lets the core add up the containers.
    pub cpu: Option<CpuUsage>,
    /// The pod as a whole; `None` lets the core add up the containers.
    pub memory: Option<MemoryUsage>,
    /// Bytes on the network; containers share it.
    pub network: Option<NetworkUsage>,
    /// What its files take, those of its containers and its `emptyDir`s together.
    pub ephemeral_storage: Option<FilesystemUsage>,
    /// Its running containers.
    pub containers: Vec<ContainerUsage>,
}

/// Usage of one container.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ContainerUsage {
    /// Its name in the pod.
    pub name: String,
    /// Since when this run of it runs.
    pub started_at: Option<Timestamp>,
    /// Processor time.
    pub cpu: Option<CpuUsage>,
    /// Memory.
    pub memory: Option<MemoryUsage>,
    /// What its writable layer takes.
    pub root_filesystem: Option<FilesystemUsage>,
}

/// Processor time, sampled at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuUsage {
    /// When the sample was taken, by the backend's clock.
    pub time: Timestamp,
    /// Nanoseconds of processor time since the start; never goes back.
    pub usage_core_nano_seconds: Option<u64>,
    /// Present rate, in nanocores.
    pub usage_nano_cores: Option<u64>,
}

/// Memory, sampled at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUsage {
    /// When the sample was taken, by the backend's clock.
    pub time: Timestamp,
    /// Bytes that cannot be reclaimed.
    pub working_set_bytes: Option<u64>,
    /// Bytes in use, caches included.
    pub usage_bytes: Option<u64>,
    /// Bytes of anonymous memory.
    pub rss_bytes: Option<u64>,
    /// Bytes left until the limit.
    pub available_bytes: Option<u64>,
}

/// Bytes on a network interface since the start, sampled at one moment; they never go back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkUsage {
    /// When the sample was taken, by the backend's clock.
    pub time: Timestamp,
    /// The interface, such as `eth0`.
    pub interface: String,
    /// Bytes received.
    pub rx_bytes: Option<u64>,
    /// Packets that were not received whole.
    pub rx_errors: Option<u64>,
    /// Bytes sent.
    pub tx_bytes: Option<u64>,
    /// Packets that were not sent.
    pub tx_errors: Option<u64>,
}

/// A filesystem, sampled at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilesystemUsage {
    /// When the sample was taken, by the backend's clock.
    pub time: Timestamp,
    /// Bytes left.
    pub available_bytes: Option<u64>,
    /// Bytes in all.
    pub capacity_bytes: Option<u64>,
    /// Bytes that this pod or container takes.
    pub used_bytes: Option<u64>,
}

impl Usage {
    /// Usage of pods, without a figure for the node.
    #[must_use]
    pub fn of_pods(pods: Vec<PodUsage>) -> Self {
        Self { node: None, pods }
    }
}

impl PodUsage {
    /// A pod's containers.
    #[must_use]
    pub fn new(pod: PodRef, started_at: Option<Timestamp>, containers: Vec<ContainerUsage>) -> Self {
        Self { pod, started_at, cpu: None, memory: None, network: None, ephemeral_storage: None, containers }
    }
}

impl ContainerUsage {
    /// A container's figures.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        started_at: Option<Timestamp>,
        cpu: Option<CpuUsage>,
        memory: Option<MemoryUsage>,
    ) -> Self {
        Self { name: name.into(), started_at, cpu, memory, root_filesystem: None }
    }
}

impl CpuUsage {
    /// A counter of nanoseconds at a moment.
    #[must_use]
    pub fn counted(time: Timestamp, usage_core_nano_seconds: u64) -> Self {
        Self { time, usage_core_nano_seconds: Some(usage_core_nano_seconds), usage_nano_cores: None }
    }
}

impl MemoryUsage {
    /// A working set at a moment.
    #[must_use]
    pub fn working_set(time: Timestamp, bytes: u64) -> Self {
        Self {
            time,
            working_set_bytes: Some(bytes),
            usage_bytes: None,
            rss_bytes: None,
            available_bytes: None,
        }
    }
}

impl NetworkUsage {
    /// Bytes received and sent until a moment.
    #[must_use]
    pub fn counted(time: Timestamp, interface: impl Into<String>, rx_bytes: u64, tx_bytes: u64) -> Self {
        Self {
            time,
            interface: interface.into(),
            rx_bytes: Some(rx_bytes),
            rx_errors: None,
            tx_bytes: Some(tx_bytes),
            tx_errors: None,
        }
    }
}

impl FilesystemUsage {
    /// Bytes in use at a moment.
    #[must_use]
    pub fn used(time: Timestamp, bytes: u64) -> Self {
        Self { time, available_bytes: None, capacity_bytes: None, used_bytes: Some(bytes) }
    }
}
