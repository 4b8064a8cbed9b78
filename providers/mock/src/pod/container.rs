//! A container of a pod: what it is doing, and what it did before.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use serde::{Deserialize, Serialize};
use vk_core::provider::{
    ContainerKind, ContainerState, Error, ExitStatus, ObservedContainer, PodRef, ResolvedContainer, Result,
    Termination,
};

use super::environ::Environ;
use super::restart::{self, Policy, Restarts};
use crate::ids;
use crate::script::{ContainerScript, Run as RunLength};
use crate::time::{after, between};

/// The exit code of a process that was killed: 128 + SIGKILL.
pub(crate) const KILLED: i32 = 137;
/// How much of a command line is kept for the log.
const COMMAND_SHOWN: usize = 240;

/// One container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Container {
    pub(crate) name: Box<str>,
    #[serde(with = "kind")]
    pub(crate) kind: ContainerKind,
    pub(crate) image: Box<str>,
    /// The command line, cut, without secrets; shown in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) command: Option<Box<str>>,
    pub(crate) env_count: u16,
    /// What commands see. It may hold secrets, so it is not in the state file: after a restart they see none.
    #[serde(skip)]
    pub(crate) env: Environ,
    /// `ports[].containerPort`
    #[serde(default, skip_serializing_if = "<[u16]>::is_empty")]
    pub(crate) ports: Box<[u16]>,
    /// The main process, where it is a shell with an input of its own: it runs for whoever attaches.
    #[serde(skip)]
    pub(crate) shell: Option<Box<[String]>>,
    restarts_by: Restarts,
    /// `lifecycle.preStop.sleep.seconds`
    pre_stop_seconds: u32,
    pub(crate) state: State,
    /// The run before the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<Box<Run>>,
    pub(crate) restarts: u32,
    /// Back-offs since the last long run.
    backoffs: u32,
    /// How long all finished runs took together.
    ran_before: Duration,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum State {
    /// Not started yet.
    Waiting,
    /// Running.
    Running {
        since: Timestamp,
        ready: bool,
        /// When it becomes ready, if it is not yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ready_at: Option<Timestamp>,
        /// When and how it will end, if that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<End>,
    },
    /// Ended; will be started again when the back-off is over. Shows the end of the run.
    BackOff { run: Run, until: Timestamp },
    /// The back-off is over; the next start is at hand. Shows `CrashLoopBackOff`.
    CrashLoop { run: Run, until: Timestamp },
    /// Ended for good.
    Ended(Run),
}

/// How a run will end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) at: Timestamp,
    pub(crate) code: i32,
    pub(crate) oom: bool,
}

/// A run that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) attempt: u32,
    pub(crate) started: Timestamp,
    pub(crate) finished: Timestamp,
    pub(crate) code: i32,
    pub(crate) oom: bool,
}

impl Container {
    /// A container that has not been started; `place` is its path in the pod.
    ///
    /// # Errors
    /// [`Error::Rejected`] for a field that this backend cannot honour.
    pub(crate) fn new(
        container: &ResolvedContainer,
        spec: Option<&v1::Container>,
        stdin: bool,
        pod: Policy,
        place: &str,
    ) -> Result<Self> {
        let lifecycle = spec.and_then(|spec| spec.lifecycle.as_ref());
        let sleep = lifecycle.and_then(|l| l.pre_stop.as_ref()).and_then(|hook| hook.sleep.as_ref());
        Ok(Self {
            name: container.name.as_str().into(),
            kind: container.kind,
            image: container.image.as_str().into(),
            command: command_line(container),
            env: Environ::of(&container.env),
            ports: declared_ports(spec),
            shell: stdin.then(|| shell(container)).flatten(),
            env_count: u16::try_from(container.env.len()).unwrap_or(u16::MAX),
            restarts_by: Restarts::of(spec, container.kind, pod)
                .map_err(|(path, reason)| Error::rejected(format!("{place}.{path}"), reason))?,
            pre_stop_seconds: sleep.map_or(0, |sleep| u32::try_from(sleep.seconds).unwrap_or(0)),
            state: State::Waiting,
            last: None,
            restarts: 0,
            backoffs: 0,
            ran_before: Duration::ZERO,
        })
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether it shows as ready: a running init container does not, a finished one does.
    fn is_ready(&self) -> bool {
        let is_init = self.kind == ContainerKind::Init;
        match &self.state {
            State::Running { ready, .. } => *ready && !is_init,
            State::BackOff { run, .. } | State::Ended(run) => is_init && run.code == 0,
            State::Waiting | State::CrashLoop { .. } => false,
        }
    }

    /// What changes when, and only when, a watcher would see a change.
    pub(crate) fn glimpse(&self) -> (u8, bool, u32) {
        let state = match &self.state {
            State::Waiting => 0,
            State::Running { .. } => 1,
            State::BackOff { .. } | State::Ended(_) => 2,
            State::CrashLoop { .. } => 3,
        };
        (state, self.is_ready(), self.restarts)
    }

    /// Whether it counts for the pod's end: sidecars do not.
    pub(crate) fn is_main(&self) -> bool {
        self.kind != ContainerKind::Sidecar
    }

    /// How long all finished runs took together.
    pub(crate) fn ran_before(&self) -> Duration {
        self.ran_before
    }

    /// When there is something to do.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        match &self.state {
            State::Running { ready_at, end, .. } => {
                ready_at.iter().copied().chain(end.map(|end| end.at)).min()
            }
            State::BackOff { until, .. } | State::CrashLoop { until, .. } => Some(*until),
            State::Waiting | State::Ended(_) => None,
        }
    }

    /// Starts a run.
    pub(crate) fn start(&mut self, now: Timestamp, script: &ContainerScript) {
        if let State::BackOff { run, .. } | State::CrashLoop { run, .. } | State::Ended(run) = self.state {
            self.last = Some(Box::new(run));
            self.restarts += 1;
        }
        let ready_at = after(now, script.readiness_delay);
        let ready = ready_at <= now;
        self.state = State::Running {
            since: now,
            ready,
            ready_at: (!ready).then_some(ready_at),
            end: self.scripted_end(now, script),
        };
    }

    fn scripted_end(&self, now: Timestamp, script: &ContainerScript) -> Option<End> {
        let length = match script.run {
            RunLength::For(length) => Some(length),
            RunLength::Forever => None,
            RunLength::ByKind if !script.exit_codes.is_empty() => Some(Duration::ZERO),
            RunLength::ByKind => (self.kind == ContainerKind::Init).then_some(Duration::ZERO),
        };
        let code = script.exit_code(self.restarts);
        let exit = length.map(|length| End { at: after(now, length), code, oom: false });
        let oom = script.oom_after.map(|delay| End { at: after(now, delay), code: KILLED, oom: true });
        // At one and the same moment, memory runs out first.
        oom.into_iter().chain(exit).min_by_key(|end| end.at)
    }

    /// Does what is due. `stopping` keeps an ended container from being started again.
    pub(crate) fn advance(&mut self, now: Timestamp, script: &ContainerScript, stopping: bool) {
        match &mut self.state {
            State::Running { end: Some(end), .. } if end.at <= now => {
                let end = *end;
                self.finish(end, script, stopping);
            }
            State::Running { ready, ready_at, .. } if ready_at.is_some_and(|at| at <= now) => {
                (*ready, *ready_at) = (true, None);
            }
            State::BackOff { run, until } if *until <= now => {
                let until = after(*until, restart::CRASH_LOOP_SHOWN);
                self.state = State::CrashLoop { run: *run, until };
            }
            State::CrashLoop { until, .. } if *until <= now => self.start(now, script),
            _ => {}
        }
    }

    /// Ends the present run, and begins the next one if that is due at once.
    pub(crate) fn finish(&mut self, end: End, script: &ContainerScript, stopping: bool) {
        let State::Running { since, .. } = self.state else { return };
        let finished = end.at.max(since);
        self.ran_before += between(since, finished);
        let run = Run { attempt: self.restarts, started: since, finished, code: end.code, oom: end.oom };
        if stopping || !self.restarts_by.after(end.code) {
            self.state = State::Ended(run);
            return;
        }
        let (delay, backoffs) = restart::backoff(self.backoffs, between(since, finished));
        self.backoffs = backoffs;
        self.state = State::BackOff { run, until: after(finished, delay) };
        if delay.is_zero() {
            self.start(finished, script);
        }
    }

    /// Sends SIGTERM, and SIGKILL at `kill_at`.
    pub(crate) fn signal(&mut self, now: Timestamp, kill_at: Timestamp, script: &ContainerScript) {
        let State::Running { end, .. } = &mut self.state else { return };
        let pre_stop = Duration::from_secs(self.pre_stop_seconds.into());
        let exits = script.termination_latency.map(|latency| after(after(now, pre_stop), latency));
        // A process that is done exactly when the kill comes is killed.
        let ending = match exits {
            Some(at) if at < kill_at => {
                End { at, code: script.termination_exit_code.unwrap_or(0), oom: false }
            }
            _ => End { at: kill_at, code: KILLED, oom: false },
        };
        if end.is_none_or(|end| end.at > ending.at) {
            *end = Some(ending);
        }
    }

    /// Kills at `kill_at` what would end later.
    pub(crate) fn hasten(&mut self, kill_at: Timestamp) {
        if let State::Running { end, .. } = &mut self.state
            && end.is_none_or(|end| end.at > kill_at)
        {
            *end = Some(End { at: kill_at, code: KILLED, oom: false });
        }
    }

    /// Whether nothing of it runs, or will.
    pub(crate) fn has_stopped(&self) -> bool {
        matches!(self.state, State::Waiting | State::Ended(_))
    }

    /// The pod is being stopped: what waits for a restart will not be started again.
    pub(crate) fn give_up_restarts(&mut self) {
        if let State::BackOff { run, .. } | State::CrashLoop { run, .. } = &self.state {
            self.state = State::Ended(*run);
        }
    }

    /// What a watcher sees; nothing before the first start, unless it waits for a reason of its own.
    pub(crate) fn observe(
        &self,
        pod: &PodRef,
        script: &ContainerScript,
        waiting_for: Option<&str>,
    ) -> Option<ObservedContainer> {
        let waiting =
            |reason: &str, message: String| ContainerState::Waiting { reason: reason.into(), message };
        let (state, last) = match &self.state {
            State::Waiting => (waiting(waiting_for?, String::new()), None),
            State::Running { since, .. } => {
                (ContainerState::Running { started_at: *since }, self.last.as_deref())
            }
            State::BackOff { run, .. } | State::Ended(run) => {
                (ContainerState::Terminated(self.termination(pod, script, run)), self.last.as_deref())
            }
            State::CrashLoop { run, .. } => {
                let (delay, _) = restart::backoff(self.backoffs - 1, Duration::ZERO);
                let message = format!(
                    "back-off {} restarting failed container={} pod={}_{}({})",
                    go_duration(delay),
                    self.name,
                    pod.name,
                    pod.namespace,
                    pod.uid
                );
                (waiting("CrashLoopBackOff", message), Some(run))
            }
        };
        let started = !matches!(state, ContainerState::Waiting { .. });
        let mut observed = ObservedContainer::new(&*self.name, state);
        observed.last = last.map(|run| self.termination(pod, script, run));
        observed.restart_count = i32::try_from(self.restarts).unwrap_or(i32::MAX);
        observed.ready = Some(self.is_ready());
        observed.started = Some(self.is_running());
        if started || observed.last.is_some() {
            observed.image_id = Some(ids::image_id(&self.image));
            observed.container_id = Some(ids::container_id(pod.uid.as_str(), &self.name, self.restarts));
        }
        Some(observed)
    }

    fn termination(&self, pod: &PodRef, script: &ContainerScript, run: &Run) -> Termination {
        let mut termination = Termination::new(ExitStatus::Code(run.code));
        termination.reason = run.oom.then(|| "OOMKilled".to_owned());
        termination.message.clone_from(&script.termination_message);
        termination.started_at = Some(run.started);
        termination.finished_at = Some(run.finished);
        termination.container_id = Some(ids::container_id(pod.uid.as_str(), &self.name, run.attempt));
        termination
    }
}

/// `10s`, `1m20s`, `5m0s`: whole seconds as Go writes them.
fn go_duration(duration: Duration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

fn declared_ports(spec: Option<&v1::Container>) -> Box<[u16]> {
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ports.iter().filter_map(|port| u16::try_from(port.container_port).ok()).collect()
}

/// The command line, if it is a shell's.
fn shell(container: &ResolvedContainer) -> Option<Box<[String]>> {
    let words = container.command.iter().chain(&container.args).map(|word| word.expose().to_owned());
    let words: Box<[String]> = words.collect();
    let program = words.first()?.rsplit('/').next()?;
    matches!(program, "sh" | "bash").then_some(words)
}

/// The command line for the log. `Display` of a [`Value`](vk_core::provider::Value) hides secrets.
fn command_line(container: &ResolvedContainer) -> Option<Box<str>> {
    let words: Vec<String> =
        container.command.iter().chain(&container.args).map(ToString::to_string).collect();
    if words.is_empty() {
        return None;
    }
    let mut line = words.join(" ");
    if let Some((cut, _)) = line.char_indices().nth(COMMAND_SHOWN) {
        line.truncate(cut);
        line.push('…');
    }
    Some(line.into())
}

/// [`ContainerKind`] as text.
mod kind {
    use super::{ContainerKind, Deserialize};

    const NAMES: [(ContainerKind, &str); 4] = [
        (ContainerKind::Init, "init"),
        (ContainerKind::Sidecar, "sidecar"),
        (ContainerKind::App, "app"),
        (ContainerKind::Ephemeral, "ephemeral"),
    ];

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    pub(super) fn serialize<S: serde::Serializer>(kind: &ContainerKind, to: S) -> Result<S::Ok, S::Error> {
        let name = NAMES.iter().find(|(known, _)| known == kind).map_or("app", |(_, name)| name);
        to.serialize_str(name)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<ContainerKind, D::Error> {
        let name = String::deserialize(from)?;
        let kind = NAMES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind);
        kind.ok_or_else(|| serde::de::Error::custom(format_args!("unknown kind of container {name:?}")))
    }
}
