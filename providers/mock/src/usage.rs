//! Usage figures that follow from the pod and the time: plausible, never zero, never going back.

use std::time::Duration;

use jiff::Timestamp;
use vk_core::provider::{ContainerUsage, CpuUsage, MemoryUsage, NodeUsage, PodUsage, Usage};

use crate::backend::State;
use crate::ids;
use crate::pod::Pod;
use crate::pod::container::{Container, State as ContainerState};
use crate::time::between;

/// Processor time that starting a process takes.
const STARTUP_NANOS: u64 = 20_000_000;
/// What the node itself uses, in nanocores: 100m.
const NODE_NANOCORES: u64 = 100_000_000;
/// What the node itself uses, in bytes: 256Mi.
const NODE_BYTES: u64 = 256 << 20;

/// Usage of everything that runs.
pub(crate) fn measure(state: &State, now: Timestamp) -> Usage {
    let mut node = Figures {
        nanos: core_nanos(NODE_NANOCORES, between(state.since, now))
            + STARTUP_NANOS
            + state.retired_cpu_nanos,
        nanocores: NODE_NANOCORES,
        bytes: NODE_BYTES,
    };
    let mut pods = Vec::new();
    for pod in state.pods.values() {
        node.nanos = node.nanos.saturating_add(lifetime_nanos(pod, now));
        let mut containers = Vec::new();
        for container in &pod.containers {
            let ContainerState::Running { since, .. } = container.state else { continue };
            let figures = Figures::of_run(pod, container, since, now);
            node.nanocores += figures.nanocores;
            node.bytes += figures.bytes;
            let (cpu, memory) = (figures.cpu(now), figures.memory(now));
            containers.push(ContainerUsage::new(&*container.name, Some(since), Some(cpu), Some(memory)));
        }
        if !containers.is_empty() {
            pods.push(PodUsage::new(pod.id.clone(), pod.started_at(), containers));
        }
    }
    let mut usage = Usage::of_pods(pods);
    let mut of_node = NodeUsage::default();
    (of_node.cpu, of_node.memory) = (Some(node.cpu(now)), Some(node.memory(now)));
    usage.node = Some(of_node);
    usage
}

/// Processor time of all runs of all containers of a pod.
pub(crate) fn lifetime_nanos(pod: &Pod, now: Timestamp) -> u64 {
    let of_container = |container: &Container| {
        let (present, runs) = match &container.state {
            ContainerState::Waiting => return 0,
            ContainerState::Running { since, .. } => (between(*since, now), container.restarts + 1),
            ContainerState::BackOff { .. } | ContainerState::CrashLoop { .. } | ContainerState::Ended(_) => {
                (Duration::ZERO, container.restarts + 1)
            }
        };
        let busy = core_nanos(nanocores(pod, container), container.ran_before() + present);
        busy.saturating_add(STARTUP_NANOS * u64::from(runs))
    };
    pod.containers.iter().map(of_container).fold(0, u64::saturating_add)
}

/// Usage at one moment.
#[derive(Clone, Copy, Debug)]
struct Figures {
    nanos: u64,
    nanocores: u64,
    bytes: u64,
}

impl Figures {
    fn of_run(pod: &Pod, container: &Container, since: Timestamp, now: Timestamp) -> Self {
        let nanocores = nanocores(pod, container);
        let nanos = core_nanos(nanocores, between(since, now)).saturating_add(STARTUP_NANOS);
        Self { nanos, nanocores, bytes: bytes(pod, container) }
    }

    fn cpu(self, now: Timestamp) -> CpuUsage {
        let mut cpu = CpuUsage::counted(now, self.nanos);
        cpu.usage_nano_cores = Some(self.nanocores);
        cpu
    }

    fn memory(self, now: Timestamp) -> MemoryUsage {
        let mut memory = MemoryUsage::working_set(now, self.bytes);
        memory.usage_bytes = Some(self.bytes + self.bytes / 8);
        memory.rss_bytes = Some(self.bytes - self.bytes / 8);
        memory
    }
}

fn core_nanos(nanocores: u64, time: Duration) -> u64 {
    let nanos = u128::from(nanocores) * time.as_nanos() / 1_000_000_000;
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// As scripted, or from 5m to 50m.
fn nanocores(pod: &Pod, container: &Container) -> u64 {
    let scripted = pod.script.container(&container.name).cpu_usage;
    scripted.map_or_else(
        || 5_000_000 + ids::hash(&[pod.id.uid.as_str(), &container.name], 5) % 45_000_000,
        |cores| ((cores * 1e9) as u64).max(1),
    )
}

/// As scripted, or from 16Mi to 64Mi in whole pages.
fn bytes(pod: &Pod, container: &Container) -> u64 {
    let scripted = pod.script.container(&container.name).memory_usage;
    scripted.map_or_else(
        || (16 << 20) + ids::hash(&[pod.id.uid.as_str(), &container.name], 6) % (48 << 8) * 4096,
        |bytes| (bytes as u64).max(4096),
    )
}
