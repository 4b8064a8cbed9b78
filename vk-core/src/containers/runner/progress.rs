//! What becomes of containers: started, held up, hooked, ended.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use super::launch::{Launched, without_secrets};
use super::pod::{Done, HELD, PodTask, SHOWN, UNLIMITED, Wake};
use super::unit::{BackOff, Life, Pull, Unit, restarting_all, termination};
use crate::containers::ContainerBackend;
use crate::containers::backend::{LONGEST_TERMINATION_MESSAGE, RunExit, RunRecord, RunState};
use crate::containers::machine::Action;
use crate::containers::probing::Prober;
use crate::containers::words::{tail, whose};
use crate::events::{PodEventRecord, Reason};
use crate::provider::{
    ContainerKind, ContainerRef, ContainerState, Error, ExitStatus, LogOptions, Termination,
};

/// When a failed pull shows as a back-off.
const PULL_TOLD: Duration = Duration::from_secs(1);
/// When a restart's back-off shows at the latest: a kubelet looks at every pod about once a minute.
const BACK_OFF_TOLD: Duration = Duration::from_mins(1);
const LONGEST_PULL_BACK_OFF: Duration = Duration::from_mins(5);
/// Lines and bytes of a log that stand in for a termination message (`MaxContainerTerminationMessageLogLines`).
const LOG_LINES: u64 = 80;
const LOG_BYTES: usize = 2048;

impl PodTask {
    pub(super) fn launched(&mut self, name: &str, attempt: u32, launched: Option<Launched>, now: Instant) {
        self.starting = None;
        let Some(i) = self.units.iter().position(|unit| unit.name() == name) else { return };
        let Some(launched) = launched else { return };
        let unit = &mut self.units[i];
        match launched {
            Launched::Held { reason, message } => {
                let mut until = now + HELD.mul_f64(1.0 + 0.5 * fastrand::f64());
                if reason == "ErrImagePull" {
                    let failures = unit.pull.as_ref().map_or(0, |pull| pull.failures);
                    let pause = (HELD * (1 << failures.min(6))).min(LONGEST_PULL_BACK_OFF);
                    until = now + pause;
                    let tell_at = Some(now + PULL_TOLD);
                    unit.pull = Some(Pull {
                        failures: failures.saturating_add(1),
                        message: message.clone(),
                        tell_at,
                    });
                } else {
                    // The image is there, or was not asked for: what is lacking now is something else.
                    unit.pull = None;
                }
                unit.waits(reason, message);
                self.machine.held(name, until);
            }
            Launched::Failed { message } => {
                unit.pull = None;
                self.machine.starting(name, now);
                unit.attempt = attempt;
                self.never_started(i, &message);
            }
            Launched::Started => {
                unit.pull = None;
                unit.attempt = attempt;
                self.machine.starting(name, now);
                self.clear_away(i);
                let hook = self.units[i].spec.lifecycle.as_ref().and_then(|l| l.post_start.clone());
                match hook {
                    None => self.units[i].life = Life::Up,
                    Some(hook) => {
                        self.units[i].life = Life::Hook;
                        self.starting = Some(name.to_owned());
                        let (prober, cancel) = (self.prober(i), self.cancel.clone());
                        let name = name.to_owned();
                        self.jobs.push(Box::pin(async move {
                            let ended = tokio::select! {
                                () = cancel.cancelled() => None,
                                ended = prober.hook(&hook, UNLIMITED) => Some(ended),
                            };
                            Done::Hooked { name, attempt, ended }
                        }));
                    }
                }
            }
        }
        if self.stop.is_some() {
            // Told to stop while it was being started.
            self.stop_live();
        }
    }

    /// A run that was created and could not be started has ended with 128.
    pub(super) fn never_started(&mut self, i: usize, message: &str) {
        let now = self.shared.clock.now();
        let run = self.units[i].run(&self.pod.pod);
        let key = (Arc::clone(&run.container.name), run.attempt);
        let known = self.records.get(&key);
        let user = known.and_then(|record| record.user.clone());
        let (id, image_id) =
            known.map(|record| (record.id.clone(), record.image_id.clone())).unwrap_or_default();
        let image = self.units[i].spec.image.clone().unwrap_or_default();
        let mut exit = RunExit::new(ExitStatus::Code(128), jiff::Timestamp::UNIX_EPOCH, now);
        exit.start_error = Some(message.to_owned());
        let mut record = RunRecord::new(run, id, RunState::Exited(exit));
        record.image = image;
        record.image_id = image_id;
        record.user = user;
        self.records.insert(key, record);
        self.finish(i, "");
        let unit = &mut self.units[i];
        if self.machine.comes_back(&unit.spec.name, 128) {
            unit.waits("RunContainerError", message);
        }
    }

    pub(super) fn hooked(&mut self, name: &str, attempt: u32, ended: Option<Result<(), String>>) {
        self.starting = None;
        let Some(i) = self.present(name, attempt) else { return };
        if self.units[i].life == Life::Hook {
            self.units[i].life = Life::Up;
        }
        if let Some(Err(why)) = ended
            && self.stop.is_none()
        {
            self.tell(i, PodEventRecord::new(Reason::FailedPostStartHook, "PostStartHook failed"));
            // It is not told as running on its way out.
            self.units[i].life = Life::Hook;
            self.units[i].hook_error = Some(why);
            let grace = self.spec_grace();
            self.kill(i, grace, true, "FailedPostStartHook");
        }
    }

    /// The unit of that name, if that is its present run.
    pub(super) fn present(&self, name: &str, attempt: u32) -> Option<usize> {
        let is = |unit: &Unit| unit.name() == name && unit.attempt == attempt && unit.life != Life::Idle;
        self.units.iter().position(is)
    }

    /// Takes over what the backend says of the present runs.
    pub(super) fn settle(&mut self) {
        for i in 0..self.units.len() {
            let unit = &self.units[i];
            let key = (Arc::from(unit.name()), unit.attempt);
            let Some(record) = self.records.get(&key) else { continue };
            match (unit.life, &record.state) {
                (Life::Up, RunState::Running { started_at }) => {
                    let (record, started_at) = (record.clone(), *started_at);
                    let unit = &mut self.units[i];
                    let is_new = unit.runs(&record, started_at);
                    if is_new {
                        let age = self.shared.clock.now().duration_since(started_at);
                        let age = Duration::try_from(age).unwrap_or_default();
                        let began = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
                        unit.begin_probes(began);
                    }
                    unit.judge();
                    let started = unit.is_started();
                    self.machine.running(&unit.spec.name, started);
                    if is_new {
                        // The others' last runs are out of sight by now, too.
                        self.units.iter_mut().for_each(Unit::forgets_restart_of_all);
                    }
                }
                (Life::Up, RunState::Exited(exit)) => self.ended(i, &exit.clone()),
                (Life::Hook, RunState::Exited(exit)) if self.starting.as_deref() != Some(unit.name()) => {
                    self.ended(i, &exit.clone());
                }
                _ => {}
            }
        }
        self.adopting &= self.units.iter().any(|unit| {
            (unit.life == Life::Up
                && unit.seen.as_ref().is_none_or(|seen| matches!(seen.state, ContainerState::Waiting { .. })))
                || unit.life == Life::Ending
                || unit.awaits_readiness(Instant::now())
        });
    }

    /// A run has ended: what did it say last?
    pub(super) fn ended(&mut self, i: usize, exit: &RunExit) {
        let unit = &mut self.units[i];
        let fallback = unit.spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if fallback && exit.code() != 0 && exit.message.is_empty() && self.shared.backend.logs().is_some() {
            unit.life = Life::Ending;
            let (backend, name, attempt) =
                (Arc::clone(&self.shared.backend), unit.spec.name.clone(), unit.attempt);
            let container = self.pod.pod.container(name.as_str());
            self.jobs.push(Box::pin(async move {
                let text = last_words(&backend, &container).await;
                Done::LastWords { name, attempt, text }
            }));
            return;
        }
        let message = tail(&exit.message, LONGEST_TERMINATION_MESSAGE);
        self.finish(i, &message);
    }

    /// The present run has ended for all that is to be known of it.
    pub(super) fn finish(&mut self, i: usize, message: &str) {
        let now = Instant::now();
        let unit = &mut self.units[i];
        let key = (Arc::from(unit.name()), unit.attempt);
        let Some(record) = self.records.get(&key).cloned() else { return };
        let RunState::Exited(exit) = &record.state else { return };
        let name = unit.spec.name.clone();
        let replaced = unit.is_replaced;
        let running = replaced.then(|| unit.told().cloned().map(Box::new)).flatten();
        unit.ends(&record, termination(&record, exit, message.to_owned()));
        self.machine.ended(&name, exit.code(), now);
        let comes_back = self.machine.comes_back(&name, exit.code()) && !self.machine.is_restarting_all();
        if let Some(why) = unit.hook_error.take()
            && comes_back
        {
            unit.waits("PostStartHookError", why);
            return self.backs_off(i, comes_back, now);
        }
        if comes_back && !replaced {
            // Long enough for the end to be seen, as with a kubelet that looks for ends now and then.
            self.machine.held(&name, now + SHOWN);
        }
        // Not if it has to wait, be it for its back-off or for its turn behind another that waits.
        let at_once = self.machine.plan(now).0.contains(&Action::Start(name.clone()));
        if comes_back && self.stop.is_none() && at_once {
            unit.veil = running;
        }
        self.backs_off(i, comes_back, now);
    }

    /// Tells that a container that has ended waits before it is started again, if it does.
    fn backs_off(&mut self, i: usize, comes_back: bool, now: Instant) {
        let unit = &mut self.units[i];
        let name = unit.spec.name.clone();
        let waits = self.machine.backs_off_until(&name).is_some_and(|until| until > now);
        if comes_back && waits && self.stop.is_none() {
            let pause = self.machine.pause(&name);
            unit.backs_off = Some(BackOff { pause, tell_at: now + BACK_OFF_TOLD });
            let message =
                format!("Back-off restarting failed container {name} in pod {}", whose(&self.pod.pod));
            self.tell(i, PodEventRecord::new(Reason::BackOff, message));
        }
    }

    /// Shows the back-offs that have lasted for long and are not over.
    pub(super) fn tell_back_offs(&mut self, now: Instant, wake: &mut Wake) {
        for unit in &mut self.units {
            let Some(back_off) = unit.backs_off else { continue };
            if back_off.tell_at > now {
                wake.at(back_off.tell_at);
                continue;
            }
            unit.backs_off = None;
            unit.backs_off(back_off.pause, &self.pod.pod);
        }
    }

    /// What the backend tells of a run, without the values of Secrets.
    pub(super) fn clean(&self, mut record: RunRecord) -> RunRecord {
        let container = self.pod.containers.iter().find(|container| container.name == record.run.name());
        if let RunState::Exited(exit) = &mut record.state
            && let Some(container) = container
            && let Some(why) = exit.start_error.take()
        {
            let (command, args, env) = (&container.command, &container.args, &container.env);
            exit.start_error = Some(without_secrets(why, command, args, env));
        }
        record
    }

    /// How the run before the present one ended, as far as it is known.
    pub(super) fn end_before(&self, unit: &Unit) -> Option<Termination> {
        let key = (Arc::from(unit.name()), unit.attempt.checked_sub(1)?);
        let record = self.records.get(&key)?;
        let RunState::Exited(exit) = &record.state else { return None };
        Some(termination(record, exit, tail(&exit.message, LONGEST_TERMINATION_MESSAGE)))
    }

    /// Removes what is left of runs that nobody asks for any more: of each container the last and the one before stay.
    pub(super) fn clear_away(&mut self, i: usize) {
        let (name, attempt) = (self.units[i].spec.name.clone(), self.units[i].attempt);
        let old: Vec<_> = self
            .records
            .keys()
            .filter(|(of, number)| **of == *name && number.saturating_add(1) < attempt)
            .cloned()
            .collect();
        for key in old {
            self.records.remove(&key);
            self.remove(key);
        }
    }

    pub(super) fn remove(&mut self, (name, attempt): (Arc<str>, u32)) {
        let run = crate::containers::ContainerRun::new(self.pod.pod.container(name), attempt);
        let backend = Arc::clone(&self.shared.backend);
        self.jobs.push(Box::pin(async move {
            if let Err(error) = backend.remove_container(&run).await {
                // It goes with its sandbox at the latest.
                tracing::warn!(%run, error = error.chain(), "removing what is left of a run");
            }
            Done::Nothing
        }));
    }

    /// All have ended to be run again from the beginning.
    pub(super) fn begin_again(&mut self) {
        self.machine.begin_again();
        let keys: Vec<_> = self.records.keys().cloned().collect();
        for key in keys {
            let regular = |unit: &&Unit| unit.kind != ContainerKind::Ephemeral;
            if self.units.iter().filter(regular).any(|unit| *unit.name() == *key.0) {
                self.records.remove(&key);
                self.remove(key);
            }
        }
        for unit in self.units.iter_mut().filter(|unit| unit.kind != ContainerKind::Ephemeral) {
            let restarts = self.machine.next_attempt(&unit.spec.name);
            unit.begins_again(restarting_all(), restarts);
            // That is shown before it goes on.
            self.machine.held(&unit.spec.name, Instant::now() + SHOWN);
        }
    }

    pub(super) fn prober(&self, i: usize) -> Prober {
        let unit = &self.units[i];
        Prober {
            backend: Arc::clone(&self.shared.backend),
            dial: self.shared.dial,
            container: self.pod.pod.container(unit.name()),
            spec: Arc::clone(&unit.spec),
            ips: self.ips.clone(),
        }
    }
}

/// The end of a container's log.
async fn last_words(backend: &Arc<dyn ContainerBackend>, container: &ContainerRef) -> String {
    let Some(logs) = backend.logs() else { return String::new() };
    let options = LogOptions { tail: Some(LOG_LINES), ..LogOptions::default() };
    let read = async {
        let mut text = Vec::new();
        let mut lines = logs.container_logs(container, &options).await?;
        while let Some(line) = lines.next().await {
            text.extend_from_slice(&line?.line);
        }
        Ok::<_, Error>(text)
    };
    match tokio::time::timeout(HELD, read).await {
        Ok(Ok(text)) => tail(&text, LOG_BYTES),
        Ok(Err(error)) => {
            tracing::warn!(%container, error = error.chain(), "reading a log for the termination message");
            String::new()
        }
        Err(_) => String::new(),
    }
}
