//! Running the probes of a pod's containers, and what follows from them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pod::{Done, PodTask, Wake};
use super::unit::outcome;
use crate::containers::probe::{ProbeKind, ProbeResult};
use crate::containers::probing::Finding;
use crate::events::{PodEventRecord, Reason};
use crate::provider::PodEvent;

impl PodTask {
    /// Runs the probes that are due. When the next ones are.
    pub(super) fn probe(&mut self, now: Instant) -> Option<Instant> {
        let mut wake = Wake(None);
        for i in 0..self.units.len() {
            let prober = self.prober(i);
            let stopping = self.stop.is_some();
            let unit = &mut self.units[i];
            let (started, attempt, killed) = (unit.is_started(), unit.attempt, unit.kill.is_some());
            for probe in unit.probes.iter_mut().filter(|probe| !probe.under_way) {
                // What is stopping is still looked at for whether it takes requests, and not for its health.
                if (stopping || killed) && probe.kind != ProbeKind::Readiness {
                    continue;
                }
                let Some(due) = probe.machine.due(started) else { continue };
                if due > now {
                    wake.at(due);
                    continue;
                }
                probe.under_way = true;
                let (prober, spec, kind) = (prober.clone(), Arc::clone(&probe.spec), probe.kind);
                let within = probe.machine.timeout();
                self.jobs.push(Box::pin(async move {
                    let name = prober.container.name.to_string();
                    let began = Instant::now();
                    let finding = prober.run(&spec, within).await;
                    let took = began.elapsed();
                    Done::Probed { name, attempt, kind, finding, took }
                }));
            }
        }
        wake.0
    }

    pub(super) fn probed(
        &mut self,
        name: &str,
        attempt: u32,
        kind: ProbeKind,
        finding: &Finding,
        took: Duration,
    ) {
        let now = Instant::now();
        let Some(i) = self.present(name, attempt) else { return };
        let Some(probe) = self.units[i].probe(kind) else { return };
        probe.under_way = false;
        probe.fresh = false;
        probe.machine.ended(finding.result, now);
        let said = match finding.result {
            ProbeResult::Failure => {
                Some((Reason::Unhealthy, format!("{kind:?} probe failed: {}", finding.output)))
            }
            ProbeResult::Unknown => Some((
                Reason::Unhealthy,
                format!("{kind:?} probe errored and resulted in unknown state: {}", finding.output),
            )),
            ProbeResult::Success if finding.warning => {
                Some((Reason::ProbeWarning, format!("{kind:?} probe warning: {}", finding.output)))
            }
            ProbeResult::Success => None,
        };
        if let Some((reason, message)) = said {
            self.tell(i, PodEventRecord::new(reason, message));
        }
        let container = self.pod.pod.container(name);
        let result = outcome(finding.result);
        self.shared.send_event(PodEvent::Probed { container, kind, result, took });
        let Some((kind, own_grace)) = self.units[i].failed_probe() else { return };
        if self.stop.is_some() || self.units[i].kill.is_some() {
            return;
        }
        let own = own_grace.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        let grace = own.unwrap_or_else(|| self.spec_grace());
        let probe = format!("{kind:?}").to_lowercase();
        let why = if self.machine.replacing(name, false) {
            format!("Container {name} failed {probe} probe, will be restarted")
        } else {
            format!("Stopping container {name}")
        };
        self.replace(i, grace, &why);
    }
}
