//! Counters that never go back, and sums where the provider gives none.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::provider::{
    ContainerUsage, CpuUsage, MemoryUsage, NetworkUsage, NodeUsage, PodUid, PodUsage, Usage,
};

/// What was published, by pod: as large as the pods that live.
///
/// A backend's counter may go back: it re-reads an older sample, restarts its agent, or loses a container from
/// a sum. Rates are computed from what we publish, so a published counter stays where it was until the
/// backend's has caught up. A container's counter begins anew with a later start, as the kubelet's does; the
/// pod's and the node's go on.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pods: HashMap<PodUid, PodCounters>,
    node: Option<CpuUsage>,
    node_total: u64,
    node_network: Option<NetworkUsage>,
}

#[derive(Debug, Default)]
struct PodCounters {
    containers: HashMap<String, Run>,
    total: u64,
    published: Option<CpuUsage>,
    network: Option<NetworkUsage>,
}

/// A run of a container.
#[derive(Debug, Default)]
struct Run {
    started_at: Option<Timestamp>,
    cpu: Option<CpuUsage>,
}

impl Counters {
    /// Takes a measurement in, and gives it back as it may be published: every counter at least as high as
    /// before, pods and node added up where they were missing.
    ///
    /// `lives` says of a pod without figures whether it is only missing from this measurement; `now` is the time
    /// of an idle node's figures.
    pub(super) fn publish(
        &mut self,
        mut usage: Usage,
        now: Timestamp,
        lives: impl Fn(&PodUid) -> bool,
    ) -> Usage {
        let measured: std::collections::HashSet<PodUid> =
            usage.pods.iter().map(|pod| pod.pod.uid.clone()).collect();
        self.pods.retain(|uid, _| measured.contains(uid) || lives(uid));
        for pod in &mut usage.pods {
            self.node_total += self.pods.entry(pod.pod.uid.clone()).or_default().publish(pod);
        }
        let given = usage.node.take().unwrap_or_default();
        let cpu = given.cpu.or_else(|| sum_cpu(&usage.pods, self.node_total, now));
        let memory = given.memory.or_else(|| match &usage.pods[..] {
            [] => Some(MemoryUsage::working_set(now, 0)),
            pods => sum_memory(pods.iter().filter_map(|pod| pod.memory)),
        });
        let cpu = cpu.map(|cpu| advance(&mut self.node, cpu).0);
        let network = given.network.map(|new| advance_network(&mut self.node_network, new));
        usage.node = Some(NodeUsage { cpu, memory, network, ..given });
        usage
    }
}

impl PodCounters {
    /// Returns by how much the pod's counter went up.
    fn publish(&mut self, pod: &mut PodUsage) -> u64 {
        let mut newest = None;
        for container in &mut pod.containers {
            let run = self.containers.entry(container.name.clone()).or_default();
            self.total += run.publish(container);
            if let Some(cpu) = container.cpu.filter(|cpu| cpu.usage_core_nano_seconds.is_some()) {
                newest = newest.max(Some(cpu.time));
            }
        }
        let names: Vec<&str> = pod.containers.iter().map(|container| container.name.as_str()).collect();
        self.containers.retain(|name, _| names.contains(&name.as_str()));
        if pod.memory.is_none() {
            pod.memory = sum_memory(pod.containers.iter().filter_map(|container| container.memory));
        }
        pod.network = pod.network.take().map(|new| advance_network(&mut self.network, new));
        let summed = || {
            let rates =
                pod.containers.iter().map(|container| container.cpu.and_then(|cpu| cpu.usage_nano_cores));
            newest.map(|time| CpuUsage {
                time,
                usage_core_nano_seconds: Some(self.total),
                usage_nano_cores: rates.sum(),
            })
        };
        let Some(cpu) = pod.cpu.or_else(summed) else { return 0 };
        let (cpu, more) = advance(&mut self.published, cpu);
        pod.cpu = Some(cpu);
        more
    }
}

impl Run {
    /// Returns by how much the container's counter went up.
    fn publish(&mut self, container: &mut ContainerUsage) -> u64 {
        match (self.started_at, container.started_at) {
            (Some(known), Some(new)) if new > known => *self = Self::default(),
            // Figures of a run that is over.
            (Some(known), Some(new)) if new < known => {
                (container.started_at, container.cpu) = (Some(known), self.cpu);
                return 0;
            }
            _ => {}
        }
        self.started_at = container.started_at.or(self.started_at);
        let Some(cpu) = container.cpu else { return 0 };
        let (cpu, more) = advance(&mut self.cpu, cpu);
        container.cpu = Some(cpu);
        more
    }
}

/// Publishes a sample after `last`: what to say now, and by how much the counter went up.
fn advance(last: &mut Option<CpuUsage>, new: CpuUsage) -> (CpuUsage, u64) {
    let Some(before) = *last else {
        *last = Some(new);
        return (new, new.usage_core_nano_seconds.unwrap_or(0));
    };
    if new.time < before.time {
        return (before, 0);
    }
    let Some(value) = new.usage_core_nano_seconds else {
        // Unknown this time: say so, but remember where the counter was.
        *last = Some(CpuUsage { time: new.time, ..before });
        return (new, 0);
    };
    let floor = before.usage_core_nano_seconds.unwrap_or(0);
    let published = CpuUsage { usage_core_nano_seconds: Some(value.max(floor)), ..new };
    *last = Some(published);
    (published, value.saturating_sub(floor))
}

/// The same for the counters of a network interface. Another interface counts from its own beginning.
fn advance_network(last: &mut Option<NetworkUsage>, new: NetworkUsage) -> NetworkUsage {
    let published = match last.take() {
        Some(before) if before.interface != new.interface => new,
        Some(before) if new.time < before.time => before,
        Some(before) => NetworkUsage {
            rx_bytes: new.rx_bytes.max(before.rx_bytes),
            rx_errors: new.rx_errors.max(before.rx_errors),
            tx_bytes: new.tx_bytes.max(before.tx_bytes),
            tx_errors: new.tx_errors.max(before.tx_errors),
            ..new
        },
        None => new,
    };
    *last = Some(published.clone());
    published
}

/// The node's processor time as the sum of what its pods used; pods that are gone stay in it.
fn sum_cpu(pods: &[PodUsage], total: u64, now: Timestamp) -> Option<CpuUsage> {
    let known = pods.iter().filter_map(|pod| pod.cpu).filter(|cpu| cpu.usage_core_nano_seconds.is_some());
    let time = match known.clone().map(|cpu| cpu.time).max() {
        Some(time) => time,
        None if pods.is_empty() => now,
        None => return None,
    };
    let usage_nano_cores = pods.iter().map(|pod| pod.cpu.and_then(|cpu| cpu.usage_nano_cores)).sum();
    Some(CpuUsage { time, usage_core_nano_seconds: Some(total), usage_nano_cores })
}

/// Sums what is known. What is left until the limits cannot be added up.
fn sum_memory(parts: impl Iterator<Item = MemoryUsage>) -> Option<MemoryUsage> {
    let add = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (known, None) | (None, known) => known,
    };
    parts.map(|part| MemoryUsage { available_bytes: None, ..part }).reduce(|a, b| MemoryUsage {
        time: a.time.max(b.time),
        working_set_bytes: add(a.working_set_bytes, b.working_set_bytes),
        usage_bytes: add(a.usage_bytes, b.usage_bytes),
        rss_bytes: add(a.rss_bytes, b.rss_bytes),
        available_bytes: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::PodRef;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn container(name: &str, started: i64, time: i64, nanos: u64) -> ContainerUsage {
        let memory = MemoryUsage::working_set(at(time), 10);
        ContainerUsage::new(name, Some(at(started)), Some(CpuUsage::counted(at(time), nanos)), Some(memory))
    }

    fn pod(name: &str, containers: Vec<ContainerUsage>) -> PodUsage {
        PodUsage::new(PodRef::new("default", name, format!("uid-{name}")), None, containers)
    }

    fn nanos(cpu: Option<CpuUsage>) -> Option<u64> {
        cpu.and_then(|cpu| cpu.usage_core_nano_seconds)
    }

    /// Container counters, pod counters, node counter.
    fn publish(
        counters: &mut Counters,
        pods: Vec<PodUsage>,
        alive: &[&str],
    ) -> (Vec<Option<u64>>, Vec<Option<u64>>, Option<u64>) {
        let usage = counters.publish(Usage::of_pods(pods), at(1_000), |uid| {
            alive.iter().any(|name| uid.as_str() == format!("uid-{name}"))
        });
        let containers = usage.pods.iter().flat_map(|pod| &pod.containers).map(|c| nanos(c.cpu)).collect();
        let pods = usage.pods.iter().map(|pod| nanos(pod.cpu)).collect();
        (containers, pods, usage.node.and_then(|node| nanos(node.cpu)))
    }

    #[test]
    fn pods_and_node_are_added_up() {
        let mut counters = Counters::default();
        let pods = vec![
            pod("x", vec![container("a", 1, 10, 5), container("b", 1, 11, 7)]),
            pod("y", vec![container("a", 1, 12, 100)]),
        ];
        let usage = counters.publish(Usage::of_pods(pods), at(1_000), |_| false);
        assert_eq!(nanos(usage.pods[0].cpu), Some(12));
        assert_eq!(usage.pods[0].cpu.unwrap().time, at(11));
        assert_eq!(usage.pods[0].memory.unwrap().working_set_bytes, Some(20));
        let node = usage.node.unwrap();
        assert_eq!((nanos(node.cpu), node.cpu.unwrap().time), (Some(112), at(12)));
        assert_eq!(node.memory.unwrap().working_set_bytes, Some(30));
    }

    #[test]
    fn the_providers_own_sums_win() {
        let mut given = pod("x", vec![container("a", 1, 10, 5)]);
        given.cpu = Some(CpuUsage::counted(at(10), 50));
        given.memory = Some(MemoryUsage::working_set(at(10), 500));
        let mut usage = Usage::of_pods(vec![given]);
        let node = NodeUsage { cpu: Some(CpuUsage::counted(at(10), 999)), ..NodeUsage::default() };
        usage.node = Some(node);
        let usage = Counters::default().publish(usage, at(1_000), |_| false);
        assert_eq!(nanos(usage.pods[0].cpu), Some(50));
        assert_eq!(usage.pods[0].memory.unwrap().working_set_bytes, Some(500));
        let node = usage.node.unwrap();
        assert_eq!((nanos(node.cpu), node.memory.unwrap().working_set_bytes), (Some(999), Some(500)));
    }

    #[test]
    fn a_counter_that_goes_back_stays_where_it_was() {
        let mut counters = Counters::default();
        let mut see =
            |time, value| publish(&mut counters, vec![pod("x", vec![container("a", 1, time, value)])], &[]);
        assert_eq!(see(10, 50), (vec![Some(50)], vec![Some(50)], Some(50)));
        assert_eq!(see(20, 40), (vec![Some(50)], vec![Some(50)], Some(50)));
        assert_eq!(see(30, 60), (vec![Some(60)], vec![Some(60)], Some(60)));
        // An older sample, from another replica of the backend.
        assert_eq!(see(25, 99), (vec![Some(60)], vec![Some(60)], Some(60)));
    }

    #[test]
    fn bytes_on_the_network_never_go_back_and_another_interface_counts_for_itself() {
        let mut counters = Counters::default();
        let mut see = |time, interface: &str, rx, tx| {
            let mut given = pod("x", Vec::new());
            given.network = Some(NetworkUsage::counted(at(time), interface, rx, tx));
            let usage = counters.publish(Usage::of_pods(vec![given]), at(1_000), |_| false);
            let network = usage.pods[0].network.clone().unwrap();
            (network.rx_bytes, network.tx_bytes)
        };
        assert_eq!(see(10, "eth0", 50, 5), (Some(50), Some(5)));
        assert_eq!(see(20, "eth0", 40, 6), (Some(50), Some(6)));
        assert_eq!(see(15, "eth0", 99, 99), (Some(50), Some(6)));
        assert_eq!(see(30, "eth1", 1, 1), (Some(1), Some(1)));
    }

    #[test]
    fn a_restarted_container_begins_anew_and_its_pod_goes_on() {
        let mut counters = Counters::default();
        let mut see = |started, time, value| {
            publish(&mut counters, vec![pod("x", vec![container("a", started, time, value)])], &[])
        };
        assert_eq!(see(1, 10, 50), (vec![Some(50)], vec![Some(50)], Some(50)));
        assert_eq!(see(15, 20, 5), (vec![Some(5)], vec![Some(55)], Some(55)));
        // The old run once more: the new one's figures stand.
        assert_eq!(see(1, 30, 70), (vec![Some(5)], vec![Some(55)], Some(55)));
    }

    #[test]
    fn the_node_keeps_what_pods_that_are_gone_have_used() {
        let mut counters = Counters::default();
        let x = || pod("x", vec![container("a", 1, 10, 50)]);
        let y = || pod("y", vec![container("a", 1, 10, 7)]);
        assert_eq!(publish(&mut counters, vec![x(), y()], &["x", "y"]).2, Some(57));
        assert_eq!(publish(&mut counters, vec![y()], &["y"]).2, Some(57));
        assert_eq!(publish(&mut counters, vec![], &[]).2, Some(57));
        assert!(counters.pods.is_empty());
    }

    #[test]
    fn a_pod_that_is_missing_for_a_while_is_not_counted_twice() {
        let mut counters = Counters::default();
        let x = || pod("x", vec![container("a", 1, 10, 50)]);
        assert_eq!(publish(&mut counters, vec![x()], &["x"]).2, Some(50));
        publish(&mut counters, vec![], &["x"]);
        assert_eq!(publish(&mut counters, vec![x()], &["x"]).2, Some(50));
    }

    #[test]
    fn what_is_unknown_is_absent_and_an_idle_node_is_at_zero() {
        let mut counters = Counters::default();
        let idle = counters.publish(Usage::default(), at(5), |_| false).node.unwrap();
        assert_eq!(nanos(idle.cpu), Some(0));
        assert_eq!(idle.memory, Some(MemoryUsage::working_set(at(5), 0)));
        let unknown = vec![pod("x", vec![ContainerUsage::new("a", None, None, None)])];
        let usage = Counters::default().publish(Usage::of_pods(unknown), at(5), |_| false);
        assert_eq!((usage.pods[0].cpu, usage.pods[0].memory), (None, None));
        assert_eq!(usage.node, Some(NodeUsage::default()));
    }
}
