//! One container of a pod, as its runner has it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Probe, ResourceRequirements};
use tokio::time::Instant;

use crate::containers::backend::{ContainerRun, RunExit, RunRecord};
use crate::containers::probe::{ProbeKind, ProbeMachine, ProbeResult};
use crate::containers::words::{duration, whose};
use crate::provider::{ContainerKind, ContainerState, ExitStatus, ObservedContainer, PodRef, Termination};

/// One container.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) kind: ContainerKind,
    pub(super) spec: Arc<Container>,
    /// What is told of it; `None` until there is something to tell.
    pub(super) seen: Option<ObservedContainer>,
    /// What is told of it instead while it is being replaced: a kubelet stops and starts a container in one pass,
    /// and writes nothing in between.
    pub(super) veil: Option<Box<ObservedContainer>>,
    /// Its present run, or its last.
    pub(super) attempt: u32,
    pub(super) life: Life,
    pub(super) probes: Vec<Probing>,
    pub(super) kill: Option<Kill>,
    /// Another run follows the present one at once, if it need not back off.
    pub(super) is_replaced: bool,
    /// Its postStart hook has failed with these words, and its run is being stopped for that.
    pub(super) hook_error: Option<String>,
    /// It ended and waits before it is started again, which does not show yet.
    pub(super) backs_off: Option<BackOff>,
    /// The resources of its present run, as far as this process knows.
    pub(super) resources: Option<Box<ResourceRequirements>>,
    /// Failed pulls of its image in a row, and when the back-off is told.
    pub(super) pull: Option<Pull>,
}

/// Why every container waits when all are run again (KEP-5532).
const RESTARTING_ALL: &str = "RestartingAllContainers";

/// How far the present run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// There is none.
    Idle,
    /// It was started, and its postStart hook is not over: nothing is told of it yet.
    Hook,
    /// It was started.
    Up,
    /// It has ended, and what it said last is being looked up.
    Ending,
}

/// An image that could not be fetched.
#[derive(Clone, Debug)]
pub(super) struct Pull {
    pub(super) failures: u32,
    pub(super) message: String,
    /// When `ErrImagePull` becomes `ImagePullBackOff`.
    pub(super) tell_at: Option<Instant>,
}

/// A pause before a container is started again.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackOff {
    pub(super) pause: Duration,
    /// When it shows at the latest.
    pub(super) tell_at: Instant,
}

/// A probe of the present run.
#[derive(Debug)]
pub(super) struct Probing {
    pub(super) kind: ProbeKind,
    pub(super) spec: Arc<Probe>,
    pub(super) machine: ProbeMachine,
    pub(super) under_way: bool,
    /// It has not been run yet.
    pub(super) fresh: bool,
}

/// A run being stopped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kill {
    /// When its grace period is over; `None` is at once.
    pub(super) deadline: Option<Instant>,
    /// When its preStop hook is given up; the deadline may have come nearer since it began.
    pub(super) hook_until: Option<Instant>,
    /// Its preStop hook is under way.
    pub(super) in_hook: bool,
    /// It need not wait for others to end first.
    pub(super) its_turn: bool,
    pub(super) sent: bool,
}

impl Unit {
    pub(super) fn new(kind: ContainerKind, spec: Container) -> Self {
        Self {
            kind,
            spec: Arc::new(spec),
            seen: None,
            veil: None,
            is_replaced: false,
            attempt: 0,
            life: Life::Idle,
            probes: Vec::new(),
            kill: None,
            hook_error: None,
            backs_off: None,
            resources: None,
            pull: None,
        }
    }

    pub(super) fn ephemeral(container: &EphemeralContainer) -> Self {
        // The two types have the same fields, but for one that a backend finds in the pod.
        let spec = serde_json::to_value(container).and_then(serde_json::from_value);
        let name = container.name.clone();
        let image = container.image.clone();
        let spec = spec.unwrap_or_else(|_| Container { name, image, ..Container::default() });
        Self::new(ContainerKind::Ephemeral, spec)
    }

    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(super) fn run(&self, pod: &PodRef) -> ContainerRun {
        ContainerRun::new(pod.container(self.name()), self.attempt)
    }

    /// Whether there is something to stop.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.life, Life::Hook | Life::Up)
    }

    fn entry(&mut self) -> &mut ObservedContainer {
        let name = self.spec.name.clone();
        let waiting = ContainerState::Waiting { reason: String::new(), message: String::new() };
        self.seen.get_or_insert_with(|| ObservedContainer::new(name, waiting))
    }

    /// It cannot be started for now.
    pub(super) fn waits(&mut self, reason: &str, message: impl Into<String>) {
        let waiting = ContainerState::Waiting { reason: reason.to_owned(), message: message.into() };
        self.veil = None;
        let seen = self.entry();
        let before = std::mem::replace(&mut seen.state, waiting);
        if let ContainerState::Terminated(end) = before {
            seen.last = Some(end);
        }
        seen.ready = Some(false);
        seen.started = Some(false);
    }

    /// It waits for so long after its end before it is started again.
    pub(super) fn backs_off(&mut self, pause: Duration, pod: &PodRef) {
        let (pause, name, pod) = (duration(pause), self.name(), whose(pod));
        let message = format!("back-off {pause} restarting failed container={name} pod={pod}");
        self.waits("CrashLoopBackOff", message);
    }

    /// It is not started again: what it waits after is its last end, and `before` the one before that.
    pub(super) fn waits_no_more(&mut self, before: Option<Termination>) {
        self.veil = None;
        self.backs_off = None;
        self.pull = None;
        let Some(seen) = &mut self.seen else { return };
        // Without an id all containers were being run again, and this one has no last run.
        if matches!(seen.state, ContainerState::Waiting { .. })
            && seen.container_id.is_some()
            && let Some(end) = seen.last.take()
        {
            seen.state = ContainerState::Terminated(end);
            seen.last = before;
        }
    }

    /// What is told of it.
    pub(super) fn told(&self) -> Option<&ObservedContainer> {
        self.veil.as_deref().or(self.seen.as_ref())
    }

    /// It runs. Whether that is news.
    pub(super) fn runs(&mut self, record: &RunRecord, started_at: jiff::Timestamp) -> bool {
        let (attempt, resources) = (self.attempt, self.resources.clone());
        self.veil = None;
        let seen = self.entry();
        if seen.container_id.as_deref() == Some(&record.id)
            && matches!(seen.state, ContainerState::Running { .. })
        {
            return false;
        }
        let before = std::mem::replace(&mut seen.state, ContainerState::Running { started_at });
        if let ContainerState::Terminated(end) = before {
            seen.last = Some(end);
        }
        seen.of_run(record, attempt);
        seen.resources = resources;
        true
    }

    /// Its present run has these resources.
    pub(super) fn has(&mut self, resources: ResourceRequirements) {
        self.resources = Some(Box::new(resources));
        if let Some(seen) = &mut self.seen {
            seen.resources.clone_from(&self.resources);
        }
    }

    /// The change from its present resources to those, if its run is to go on: whether a new run is needed for it.
    pub(super) fn resizes(&self, wanted: &Container) -> Option<bool> {
        let (old, new) = (self.spec.resources.clone(), wanted.resources.clone());
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        let amounts = |resources: &ResourceRequirements, name: &str| {
            [&resources.requests, &resources.limits]
                .map(|list| list.as_ref().and_then(|list| list.get(name)).cloned())
        };
        let mut changed =
            ["cpu", "memory"].into_iter().filter(|name| amounts(&old, name) != amounts(&new, name));
        let restarts = |name: &str| {
            let mut policies = wanted.resize_policy.iter().flatten();
            policies.any(|policy| policy.resource_name == name && policy.restart_policy == "RestartContainer")
        };
        let first = changed.next()?;
        Some(restarts(first) || changed.any(restarts))
    }

    /// Its run has ended so.
    pub(super) fn ends(&mut self, record: &RunRecord, end: Termination) {
        let attempt = self.attempt;
        self.veil = None;
        let seen = self.entry();
        let same = seen.container_id.as_deref() == Some(&record.id);
        let before = std::mem::replace(&mut seen.state, ContainerState::Terminated(end));
        // A run that was too short to be seen running follows the end of the one before.
        if let ContainerState::Terminated(end) = before
            && !same
        {
            seen.last = Some(end);
        }
        seen.of_run(record, attempt);
        seen.ready = Some(false);
        seen.started = Some(false);
        self.probes.clear();
        self.kill = None;
        self.is_replaced = false;
        self.life = Life::Idle;
    }

    /// The run that ended before the present one, as far as the backend still has it.
    pub(super) fn ended_before(&mut self, end: Termination) {
        self.entry().last = Some(end);
    }

    /// All containers are run again: nothing of the last run is left.
    pub(super) fn begins_again(&mut self, end: Termination, restarts: u32) {
        if self.seen.is_none() {
            return;
        }
        let message = end.message.clone().unwrap_or_default();
        let reason = end.reason.clone().unwrap_or_default();
        self.veil = None;
        let seen = self.entry();
        seen.state = ContainerState::Waiting { reason, message };
        seen.last = Some(end);
        seen.restart_count = i32::try_from(restarts).unwrap_or(i32::MAX);
        seen.container_id = None;
        self.backs_off = None;
    }

    /// The restart of all containers has begun: one that has yet to be started waits as at first.
    pub(super) fn forgets_restart_of_all(&mut self) {
        let Some(seen) = &mut self.seen else { return };
        if let ContainerState::Waiting { reason, message } = &mut seen.state
            && reason == RESTARTING_ALL
        {
            reason.clear();
            message.clear();
            seen.image_id = None;
        }
    }

    /// Begins the probes of a run that was started at that moment.
    pub(super) fn begin_probes(&mut self, started: Instant) {
        let probes = [
            (ProbeKind::Startup, &self.spec.startup_probe),
            (ProbeKind::Liveness, &self.spec.liveness_probe),
            (ProbeKind::Readiness, &self.spec.readiness_probe),
        ];
        self.probes = probes
            .into_iter()
            .filter_map(|(kind, spec)| {
                let spec = spec.as_ref()?;
                let machine = ProbeMachine::new(kind, spec, started);
                let spec = Arc::new(spec.clone());
                Some(Probing { kind, spec, machine, under_way: false, fresh: true })
            })
            .collect();
    }

    pub(super) fn probe(&mut self, kind: ProbeKind) -> Option<&mut Probing> {
        self.probes.iter_mut().find(|probe| probe.kind == kind)
    }

    /// Whether it has no such probe, or one that has passed.
    fn passes(&self, kind: ProbeKind) -> bool {
        let probe = self.probes.iter().find(|probe| probe.kind == kind);
        probe.is_none_or(|probe| probe.machine.verdict() == Some(true))
    }

    /// Whether its startup probe has passed, or there is none.
    pub(super) fn is_started(&self) -> bool {
        self.passes(ProbeKind::Startup)
    }

    /// Puts what the probes have come to into what is told.
    pub(super) fn judge(&mut self) {
        let started = self.is_started();
        let ready = started && self.passes(ProbeKind::Readiness);
        if let Some(seen) = &mut self.seen
            && matches!(seen.state, ContainerState::Running { .. })
        {
            seen.started = Some(started);
            seen.ready = Some(ready);
        }
    }

    /// A readiness probe that has had no time yet to find out anything.
    pub(super) fn awaits_readiness(&self, now: Instant) -> bool {
        let started = self.is_started();
        self.probes.iter().any(|probe| {
            let due = probe.machine.due(started).is_some_and(|due| due <= now);
            probe.kind == ProbeKind::Readiness && probe.fresh && (probe.under_way || due)
        })
    }

    /// A probe's verdict that has this run stopped.
    pub(super) fn failed_probe(&self) -> Option<(ProbeKind, Option<i64>)> {
        let failed =
            |probe: &&Probing| probe.kind != ProbeKind::Readiness && probe.machine.verdict() == Some(false);
        self.probes.iter().find(failed).map(|probe| (probe.kind, probe.spec.termination_grace_period_seconds))
    }
}

impl ObservedContainer {
    /// Takes over what a run's record says of it.
    fn of_run(&mut self, record: &RunRecord, attempt: u32) {
        self.restart_count = i32::try_from(attempt).unwrap_or(i32::MAX);
        self.container_id = Some(record.id.clone());
        self.image = Some(record.image.clone()).filter(|image| !image.is_empty());
        self.image_id = Some(record.image_id.clone()).filter(|id| !id.is_empty());
        self.user = record.user.as_deref().cloned();
    }
}

/// A run's end in the words of a status. `message` is its termination message.
pub(super) fn termination(record: &RunRecord, exit: &RunExit, message: String) -> Termination {
    let mut end = Termination::new(exit.status);
    end.started_at = Some(exit.started_at);
    end.finished_at = Some(exit.finished_at);
    end.container_id = Some(record.id.clone());
    end.message = Some(message).filter(|message| !message.is_empty());
    if let Some(why) = &exit.start_error {
        end.reason = Some("StartError".to_owned());
        end.message = Some(why.clone());
        // There was no start.
        end.started_at = Some(jiff::Timestamp::UNIX_EPOCH);
    } else if exit.oom_killed {
        end.reason = Some("OOMKilled".to_owned());
    }
    end
}

/// The end that every container is given when all are run again (KEP-5532).
pub(super) fn restarting_all() -> Termination {
    let mut end = Termination::new(ExitStatus::Code(137));
    end.reason = Some(RESTARTING_ALL.to_owned());
    end.message = Some("The container is removed because RestartAllContainers in place".to_owned());
    end
}

/// What is counted of a probe's run.
pub(super) fn outcome(result: ProbeResult) -> &'static str {
    match result {
        ProbeResult::Success => "successful",
        ProbeResult::Failure => "failed",
        ProbeResult::Unknown => "unknown",
    }
}
