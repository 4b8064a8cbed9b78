//! `emptyDir` volumes that outgrow their `sizeLimit`: the pod is evicted.
//!
//! Source: `emptyDirLimitEviction` in `pkg/kubelet/eviction`, whose loop looks every ten seconds; oracle cases
//! emptydir-over-size-limit*. An evicted pod whose containers all exit with 0 has succeeded, and no word of it stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::time::Instant;

use super::pod::{Done, PodTask, Wake};
use crate::events::{PodEventRecord, Reason};
use crate::node::quantity::nano;
use crate::provider::{ContainerState, ExitStatus, PodOutcome, Result, VolumeContent};

/// How often volumes are measured.
const PERIOD: Duration = Duration::from_secs(10);

/// What containers of an evicted pod are given (`immediateEvictionGracePeriodSeconds`).
const GRACE: Duration = Duration::from_secs(1);

impl PodTask {
    /// Measures the volumes when it is time, if any has a limit.
    pub(super) fn check_volumes(&mut self, now: Instant, wake: &mut Wake) {
        if self.stop.is_some() || self.limits().next().is_none() {
            return;
        }
        let due = *self.measured_next.get_or_insert(now + PERIOD);
        if due > now {
            return wake.at(due);
        }
        self.measured_next = Some(now + PERIOD);
        wake.at(now + PERIOD);
        let (backend, pod) = (Arc::clone(&self.shared.backend), self.pod.pod.clone());
        self.jobs.push(Box::pin(async move { Done::Measured(backend.volume_usage(&pod).await) }));
    }

    /// Evicts the pod if a volume takes more than it may.
    pub(super) fn measured(&mut self, usage: Result<BTreeMap<String, u64>>) {
        let usage = match usage {
            Ok(usage) => usage,
            Err(error) => {
                return tracing::warn!(pod = %self.pod.pod, error = error.chain(), "measuring volumes");
            }
        };
        let exceeds = |name: &str, limit: &Quantity| {
            let taken = usage.get(name).map(|bytes| i128::from(*bytes) * 1_000_000_000);
            taken.zip(nano(limit)).is_some_and(|(taken, limit)| taken > limit)
        };
        let over = self.limits().find(|(name, limit)| exceeds(name, limit));
        let Some(message) = over.map(|(name, limit)| {
            format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ", limit.0)
        }) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        self.shared.tell(&self.pod.pod, PodEventRecord::new(Reason::Evicted, message.clone()));
        self.evicted = Some(PodOutcome { reason: "Evicted".to_owned(), message, disruption: false });
        self.stop(Some(GRACE), false);
    }

    /// What an eviction comes to, once all containers have ended.
    pub(super) fn eviction(&self) -> Option<PodOutcome> {
        let has_failed = |state: &ContainerState| match state {
            ContainerState::Terminated(end) => end.exit != ExitStatus::Code(0),
            _ => true,
        };
        let mut seen = self.units.iter().filter_map(|unit| unit.told());
        self.evicted.clone().filter(|_| seen.any(|container| has_failed(&container.state)))
    }

    /// Volumes with a limit.
    fn limits(&self) -> impl Iterator<Item = (&str, &Quantity)> {
        self.pod.volumes.iter().filter_map(|volume| match &volume.content {
            VolumeContent::EmptyDir(empty) => Some((volume.name.as_str(), empty.size_limit.as_ref()?)),
            _ => None,
        })
    }
}
