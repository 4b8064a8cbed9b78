//! Stopping: a pod as a whole, or one run of one of its containers.
//!
//! Source: `killContainer` in `pkg/kubelet/kuberuntime`: the event first, then the preStop hook inside the grace
//! period, then its turn (sidecars wait for those that need them), then the signal, and always two seconds for it
//! to be heard.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pod::{Done, PodTask, Stop, Wake};
use super::unit::Kill;
use crate::events::{PodEventRecord, Reason};

/// What a signal is given even when the hook has used up the grace period (`minimumGracePeriodInSeconds`).
const LEAST: Duration = Duration::from_secs(2);

impl PodTask {
    /// Stops the pod: within `grace`, or its own grace period. Called again, the shorter time counts.
    pub(super) fn stop(&mut self, grace: Option<Duration>, deleted: bool) {
        let now = Instant::now();
        let grace = grace.unwrap_or_else(|| self.spec_grace());
        let deadline = (!grace.is_zero()).then(|| now + grace);
        let first = self.stop.is_none();
        let stop = self.stop.get_or_insert(Stop { deadline, deleted });
        stop.deleted |= deleted;
        // At once is the shortest of all.
        stop.deadline = stop.deadline.zip(deadline).map(|(a, b)| a.min(b));
        let deadline = stop.deadline;
        // What is being stopped already, for whatever reason, gets no longer than the pod.
        for kill in self.units.iter_mut().filter_map(|unit| unit.kill.as_mut()) {
            let shorter = match (kill.deadline, deadline) {
                (Some(old), Some(new)) => new < old,
                (old, None) => old.is_some(),
                (None, Some(_)) => false,
            };
            if shorter {
                kill.deadline = deadline;
                kill.in_hook &= deadline.is_some();
                kill.its_turn |= deadline.is_none();
                // The backend is told again.
                kill.sent = false;
            }
        }
        if first {
            self.machine.stop();
            self.cancel.cancel();
            for i in 0..self.units.len() {
                let before = self.end_before(&self.units[i]);
                self.units[i].waits_no_more(before);
            }
            self.stop_live();
        }
    }

    /// Begins to stop everything that runs; sidecars get their signal when it is their turn.
    pub(super) fn stop_live(&mut self) {
        let Some(stop) = self.stop else { return };
        let now = Instant::now();
        let grace = stop.deadline.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(now));
        for i in 0..self.units.len() {
            if self.units[i].is_live() {
                let why = format!("Stopping container {}", self.units[i].name());
                // Without any grace nobody waits for anybody.
                self.kill(i, grace, grace.is_zero(), &why);
            }
        }
    }

    /// Begins to stop a container's present run, unless that has begun.
    pub(super) fn kill(&mut self, i: usize, grace: Duration, its_turn: bool, why: &str) {
        if self.units[i].kill.is_some() || !self.units[i].is_live() {
            return;
        }
        self.tell(i, PodEventRecord::new(Reason::Killing, why));
        let hook = self.units[i].spec.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
        let hook = hook.filter(|_| !grace.is_zero());
        let deadline = (!grace.is_zero()).then(|| Instant::now() + grace);
        let in_hook = hook.is_some();
        self.units[i].kill = Some(Kill { deadline, hook_until: deadline, in_hook, its_turn, sent: false });
        if let Some(hook) = hook {
            let prober = self.prober(i);
            let (name, attempt) = (self.units[i].name().to_owned(), self.units[i].attempt);
            self.jobs.push(Box::pin(async move {
                let ended = match tokio::time::timeout(grace, prober.hook(&hook, grace)).await {
                    Ok(ended) => ended,
                    Err(_) => Err("it took longer than the grace period".to_owned()),
                };
                Done::PreStopped { name, attempt, ended }
            }));
        }
    }

    /// Begins to stop a container's present run, for another to take its place.
    pub(super) fn replace(&mut self, i: usize, grace: Duration, why: &str) {
        self.kill(i, grace, true, why);
        self.units[i].is_replaced = self.units[i].kill.is_some();
    }

    /// Nothing that needs this container runs any more: it may be told to stop.
    pub(super) fn its_turn(&mut self, name: &str) {
        let Some(i) = self.units.iter().position(|unit| unit.name() == name) else { return };
        if self.units[i].kill.is_none() {
            if self.machine.is_restarting_all() {
                // Those that are run again get no more than the least.
                self.kill(i, LEAST, true, "killing");
            } else {
                self.wind_down();
            }
        }
        if let Some(kill) = &mut self.units[i].kill {
            kill.its_turn = true;
        }
    }

    /// The pod has come to its end: what still runs stops within one grace period, each when it is its turn.
    fn wind_down(&mut self) {
        let grace = self.spec_grace();
        for i in 0..self.units.len() {
            let why = format!("Stopping container {}", self.units[i].name());
            self.kill(i, grace, grace.is_zero(), &why);
        }
    }

    /// Sends the signals that are due: after the hook and in turn, or when the grace period is over.
    pub(super) fn advance_kills(&mut self, now: Instant, wake: &mut Wake) {
        for i in 0..self.units.len() {
            let unit = &mut self.units[i];
            let live = unit.is_live();
            let Some(kill) = &mut unit.kill else { continue };
            if kill.sent || !live {
                continue;
            }
            if kill.in_hook && kill.deadline >= kill.hook_until {
                // The hook is given up in time by itself.
                continue;
            }
            if kill.in_hook || !kill.its_turn {
                // Without a deadline neither is waited for.
                let Some(deadline) = kill.deadline else { continue };
                if deadline > now {
                    wake.at(deadline);
                    continue;
                }
            }
            kill.sent = true;
            let left = match kill.deadline {
                Some(deadline) => deadline.saturating_duration_since(now).max(LEAST),
                None => Duration::ZERO,
            };
            let name = unit.name().to_owned();
            let run = unit.run(&self.pod.pod);
            self.machine.stopping(&name);
            let backend = Arc::clone(&self.shared.backend);
            self.jobs.push(Box::pin(async move {
                let mut pause = Duration::from_secs(1);
                while let Err(error) = backend.stop_container(&run, left).await {
                    tracing::warn!(%run, error = error.chain(), "stopping a container");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_mins(1));
                }
                Done::Nothing
            }));
        }
    }
}
