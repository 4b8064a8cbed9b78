//! The task of one pod: looks, decides, starts jobs, tells.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::ResourceRequirements;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::launch::{Launch, Launched};
use super::shared::{Letters, Mailbox, Shared};
use super::unit::{Life, Unit, termination};
use crate::containers::backend::{LONGEST_TERMINATION_MESSAGE, RunRecord, RunState, SandboxRecord};
use crate::containers::machine::{Action, End, PodMachine};
use crate::containers::probe::ProbeKind;
use crate::containers::probing::Finding;
use crate::containers::words::tail;
use crate::events::{PodEventRecord, Reason};
use crate::provider::{
    ContainerKind, Error, PodOutcome, PodRuntime, ResolvedPod, Result, Retry, Sandbox, VolumeContent,
};

/// How long a container that cannot be started for now waits until it is tried again (`backOffPeriod`).
pub(super) const HELD: Duration = Duration::from_secs(10);
/// How long a back-off that is over shows as such before the container is started again.
pub(super) const SHOWN: Duration = Duration::from_millis(150);
/// A hook without a limit of its own.
pub(super) const UNLIMITED: Duration = Duration::from_hours(24 * 365);

/// See the module.
pub(super) struct PodTask {
    pub(super) shared: Arc<Shared>,
    mail: Arc<Mailbox>,
    pub(super) pod: Arc<ResolvedPod>,
    pub(super) machine: PodMachine,
    pub(super) units: Vec<Unit>,
    pub(super) records: BTreeMap<(Arc<str>, u32), RunRecord>,
    phase: Phase,
    pub(super) ips: Vec<IpAddr>,
    /// When it was taken up; its deadline counts from here.
    since: Instant,
    started_at: jiff::Timestamp,
    /// The container that is being started, one at a time, until its postStart hook is over.
    pub(super) starting: Option<String>,
    /// Ends what is being started.
    pub(super) cancel: CancellationToken,
    /// Since when nothing runs and nothing will.
    ended_since: Option<Instant>,
    pub(super) stop: Option<Stop>,
    outcome: Option<PodOutcome>,
    /// Why it was evicted; forgotten if all its containers end well.
    pub(super) evicted: Option<PodOutcome>,
    /// When its volumes are measured.
    pub(super) measured_next: Option<Instant>,
    /// Its containers were there before this task; nothing is told before it has looked at all of them.
    pub(super) adopting: bool,
    failures: u32,
    pub(super) jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    pub(super) ended: bool,
}

/// How far the sandbox has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    None {
        not_before: Option<Instant>,
    },
    Creating,
    Ready,
    /// Everything has ended; the sandbox is to be stopped, or removed if the pod was deleted.
    Ending {
        not_before: Option<Instant>,
    },
    Stopping,
    Stopped,
    /// Nothing is left of it at the backend.
    Removed,
}

/// How long after its last container's end a pod's sandbox is left, so that this end is told before that of the pod: a
/// kubelet takes about a second for it.
const LAG: Duration = Duration::from_secs(1);

/// The pod is to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    pub(super) deadline: Option<Instant>,
    /// Nothing of it is to be kept.
    pub(super) deleted: bool,
}

/// A job has ended.
#[derive(Debug)]
pub(super) enum Done {
    Sandbox(Result<Vec<IpAddr>>),
    Launched {
        name: String,
        attempt: u32,
        launched: Option<Launched>,
    },
    Hooked {
        name: String,
        attempt: u32,
        ended: Option<Result<(), String>>,
    },
    PreStopped {
        name: String,
        attempt: u32,
        ended: Result<(), String>,
    },
    Probed {
        name: String,
        attempt: u32,
        kind: ProbeKind,
        finding: Finding,
        took: Duration,
    },
    LastWords {
        name: String,
        attempt: u32,
        text: String,
    },
    /// How many bytes each volume takes.
    Measured(Result<BTreeMap<String, u64>>),
    /// The sandbox was removed, or only stopped.
    Finished {
        removed: bool,
        ended: Result<()>,
    },
    Resized {
        name: String,
        attempt: u32,
        resources: ResourceRequirements,
        ended: Result<()>,
    },
    Nothing,
}

impl PodTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        mail: Arc<Mailbox>,
        pod: Arc<ResolvedPod>,
        found: Option<SandboxRecord>,
    ) -> Self {
        let spec = pod.object.spec.clone().unwrap_or_default();
        let mut units = Vec::new();
        for container in spec.init_containers.iter().flatten() {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            let kind = if sidecar { ContainerKind::Sidecar } else { ContainerKind::Init };
            units.push(Unit::new(kind, container.clone()));
        }
        units.extend(spec.containers.iter().map(|c| Unit::new(ContainerKind::App, c.clone())));
        units.extend(spec.ephemeral_containers.iter().flatten().map(Unit::ephemeral));
        let started_at = shared.clock.now();
        let mut task = Self {
            machine: PodMachine::new(&spec),
            mail,
            pod,
            units,
            records: BTreeMap::new(),
            phase: Phase::None { not_before: None },
            ips: Vec::new(),
            since: Instant::now(),
            started_at,
            starting: None,
            cancel: CancellationToken::new(),
            stop: None,
            ended_since: None,
            outcome: None,
            evicted: None,
            measured_next: None,
            adopting: false,
            failures: 0,
            jobs: FuturesUnordered::new(),
            ended: false,
            shared,
        };
        if let Some(found) = found {
            task.adopt(found);
        }
        task
    }

    /// Takes up what was there before.
    fn adopt(&mut self, found: SandboxRecord) {
        self.adopting = true;
        self.ips = found.ips;
        self.started_at = found.created_at;
        let age = self.shared.clock.now().duration_since(found.created_at);
        let age = Duration::try_from(age).unwrap_or_default();
        self.since = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        self.phase = if found.stopped { Phase::Stopped } else { Phase::Ready };
        for record in found.runs {
            let record = self.clean(record);
            self.records.insert((Arc::clone(&record.run.container.name), record.run.attempt), record);
        }
        for unit in &mut self.units {
            let of = |record: &&RunRecord| record.run.name() == unit.name();
            // What was created and never started is created and started again under the same number.
            let mut runs: Vec<_> =
                self.records.values().filter(of).filter(|r| r.state != RunState::Created).collect();
            let Some(last) = runs.pop() else { continue };
            if let Some(before) = runs.pop()
                && let RunState::Exited(exit) = &before.state
            {
                let end = termination(before, exit, tail(&exit.message, LONGEST_TERMINATION_MESSAGE));
                unit.ended_before(end);
            }
            unit.attempt = last.run.attempt;
            unit.life = Life::Up;
            self.machine.adopted(&unit.spec.name, last.run.attempt);
        }
    }

    /// Works on the pod until it is gone from the backend.
    pub(super) async fn run(mut self) {
        while !self.ended {
            let letters = self.mail.take();
            self.read(letters);
            let wake = self.step();
            self.publish();
            if self.ended {
                break;
            }
            let wake = wake.unwrap_or_else(|| Instant::now() + UNLIMITED);
            // Cancel-safe: jobs go on in their set, and mail stays until it is taken.
            tokio::select! {
                () = self.mail.news.notified() => {}
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.done(done),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn read(&mut self, letters: Letters) {
        for (key, record) in letters.runs {
            // A listing may have been begun before news that came first.
            if self.records.get(&key).is_none_or(|known| record.state.follows(&known.state)) {
                let record = self.clean(record);
                self.records.insert(key, record);
            }
        }
        if let Some(pod) = letters.pod {
            self.change(pod);
        }
        if let Some(grace) = letters.delete {
            self.stop(Some(grace), true);
        }
        if letters.lost && !matches!(self.phase, Phase::Stopping | Phase::Removed) {
            self.ended = true;
            self.cancel.cancel();
            self.shared.gone(&self.pod.pod);
        }
    }

    /// The pod is wanted otherwise.
    fn change(&mut self, pod: Arc<ResolvedPod>) {
        let spec = pod.object.spec.clone().unwrap_or_default();
        self.machine.extend(&spec);
        for container in spec.ephemeral_containers.iter().flatten() {
            if !self.units.iter().any(|unit| unit.name() == container.name) {
                self.units.push(Unit::ephemeral(container));
            }
        }
        let wanted = spec.init_containers.iter().flatten().chain(&spec.containers);
        for wanted in wanted {
            let Some(i) = self.units.iter().position(|unit| unit.name() == wanted.name) else { continue };
            let changed = self.units[i].spec.image != wanted.image;
            let resizes = self.units[i].resizes(wanted);
            self.units[i].spec = Arc::new(wanted.clone());
            // What it waited for may be there now.
            if self.units[i].pull.is_none() || changed {
                self.machine.release(&wanted.name);
            }
            if changed {
                self.units[i].pull = None;
                if self.units[i].is_live() && self.stop.is_none() {
                    self.machine.replacing(&wanted.name, true);
                    let why = format!("Container {} definition changed, will be restarted", wanted.name);
                    let grace = self.spec_grace();
                    self.replace(i, grace, &why);
                }
            } else if let Some(restarts) = resizes
                && self.units[i].is_live()
                && self.stop.is_none()
            {
                if restarts {
                    self.machine.replacing(&wanted.name, true);
                    let why = format!("Container {} resize requires restart", wanted.name);
                    self.replace(i, self.spec_grace(), &why);
                } else {
                    self.resize(i, Duration::ZERO);
                }
            }
        }
        let files = |pod: &ResolvedPod, name: &str| {
            pod.volumes.iter().find(|volume| volume.name == name).and_then(|volume| match &volume.content {
                VolumeContent::Files(files) => Some(files.clone()),
                _ => None,
            })
        };
        let changed: Vec<_> = pod
            .volumes
            .iter()
            .filter(|volume| {
                let new = files(&pod, &volume.name);
                new.is_some() && new != files(&self.pod, &volume.name)
            })
            .cloned()
            .collect();
        if (!changed.is_empty() || self.adopting) && self.phase == Phase::Ready {
            let all = pod.volumes.iter().filter(|volume| matches!(volume.content, VolumeContent::Files(_)));
            let volumes = if changed.is_empty() { all.cloned().collect() } else { changed };
            let (backend, pod) = (Arc::clone(&self.shared.backend), pod.pod.clone());
            self.jobs.push(Box::pin(async move {
                if let Err(error) = backend.publish_files(&pod, &volumes).await {
                    tracing::warn!(%pod, error = error.chain(), "publishing files");
                }
                Done::Nothing
            }));
        }
        self.pod = pod;
    }

    /// Gives a running container the resources that its specification has, after a pause.
    fn resize(&mut self, i: usize, pause: Duration) {
        let (unit, backend) = (&self.units[i], Arc::clone(&self.shared.backend));
        let (name, run) = (unit.spec.name.clone(), unit.run(&self.pod.pod));
        let resources = unit.spec.resources.clone().unwrap_or_default();
        self.jobs.push(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let ended = match backend.resize() {
                Some(capability) => capability.resize_container(&run, &resources).await,
                None => Err(Error::rejected("resources", "the backend resizes no containers")),
            };
            Done::Resized { name, attempt: run.attempt, resources, ended }
        }));
    }

    fn resized(&mut self, name: &str, attempt: u32, resources: ResourceRequirements, ended: Result<()>) {
        let Some(i) = self.units.iter().position(|unit| unit.name() == name) else { return };
        let unit = &mut self.units[i];
        if unit.attempt != attempt || !unit.is_live() {
            return;
        }
        match ended {
            Ok(()) => unit.has(resources),
            // What is wanted by now is tried again; what is not any more has a job of its own.
            Err(error) if unit.spec.resources.as_ref() == Some(&resources) => {
                tracing::warn!(pod = %self.pod.pod, container = name, error = error.chain(), "resizing");
                if error.retry() != Retry::Never {
                    self.resize(i, HELD);
                }
            }
            Err(_) => {}
        }
    }

    /// Decides what is due now. When to decide again at the latest.
    fn step(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut wake = Wake(None);
        self.settle();
        self.check_deadline(now, &mut wake);
        self.check_volumes(now, &mut wake);
        if let (Phase::None { not_before }, None) = (self.phase, self.stop) {
            match not_before.filter(|due| *due > now) {
                Some(due) => wake.at(due),
                None => self.create_sandbox(),
            }
        }
        if self.machine.is_to_begin_again() && self.starting.is_none() {
            self.begin_again();
        }
        if self.phase == Phase::Ready {
            let (actions, due) = self.machine.plan(now);
            wake.maybe(due);
            for action in actions {
                match action {
                    Action::Stop(name) => self.its_turn(&name),
                    Action::Start(name) => wake.maybe(self.start(&name, now)),
                }
            }
        }
        self.advance_kills(now, &mut wake);
        wake.maybe(self.probe(now));
        self.tell_back_offs(now, &mut wake);
        for unit in &mut self.units {
            if let Some(pull) = &mut unit.pull
                && let Some(at) = pull.tell_at
            {
                if at > now {
                    wake.at(at);
                    continue;
                }
                pull.tell_at = None;
                let image = unit.spec.image.clone().unwrap_or_default();
                let message = format!("Back-off pulling image \"{image}\"");
                let full = format!("{message}: ErrImagePull: {}", pull.message);
                unit.waits("ImagePullBackOff", full);
                let (kind, name) = (unit.kind, unit.spec.name.clone());
                let event = PodEventRecord::new(Reason::BackOff, message).about_kind(kind, name.clone());
                self.shared.tell(&self.pod.pod, event.normal());
                let event = PodEventRecord::new(Reason::Failed, "Error: ImagePullBackOff");
                self.shared.tell(&self.pod.pod, event.about_kind(kind, name));
            }
        }
        self.check_end(now, &mut wake);
        wake.0
    }

    fn create_sandbox(&mut self) {
        self.phase = Phase::Creating;
        let (backend, pod) = (Arc::clone(&self.shared.backend), Arc::clone(&self.pod));
        self.jobs.push(Box::pin(async move { Done::Sandbox(backend.create_sandbox(&pod).await) }));
    }

    fn check_deadline(&mut self, now: Instant, wake: &mut Wake) {
        let spec = self.pod.object.spec.as_ref();
        let Some(seconds) = spec.and_then(|spec| spec.active_deadline_seconds) else { return };
        if self.stop.is_some() || !matches!(self.phase, Phase::None { .. } | Phase::Creating | Phase::Ready) {
            return;
        }
        let due = self.since + Duration::from_secs(seconds.max(0).unsigned_abs());
        if due > now {
            return wake.at(due);
        }
        if self.machine.end().is_some() {
            // It was in time: only that it has ended is not told yet.
            return;
        }
        let message = "Pod was active on the node longer than the specified deadline";
        self.shared.tell(&self.pod.pod, PodEventRecord::new(Reason::DeadlineExceeded, message));
        self.outcome = Some(PodOutcome {
            reason: "DeadlineExceeded".to_owned(),
            message: message.to_owned(),
            disruption: false,
        });
        self.stop(None, false);
    }

    /// Starts a container, unless another one is being started. When to look again.
    fn start(&mut self, name: &str, now: Instant) -> Option<Instant> {
        if self.starting.is_some() {
            return None;
        }
        let unit = self.units.iter_mut().find(|unit| unit.name() == name)?;
        if let Some(back_off) = unit.backs_off.take() {
            unit.backs_off(back_off.pause, &self.pod.pod);
            self.machine.held(name, now + SHOWN);
            return Some(now + SHOWN);
        }
        unit.resources = Some(Box::new(unit.spec.resources.clone().unwrap_or_default()));
        let attempt = self.machine.next_attempt(name);
        let launch = Launch {
            shared: Arc::clone(&self.shared),
            pod: Arc::clone(&self.pod),
            kind: unit.kind,
            spec: Arc::clone(&unit.spec),
            attempt,
        };
        self.starting = Some(name.to_owned());
        self.cancel = CancellationToken::new();
        let (cancel, name) = (self.cancel.clone(), name.to_owned());
        self.jobs.push(Box::pin(async move {
            // Cancel-safe: what was created or started all the same is stopped with the sandbox.
            let launched = tokio::select! {
                () = cancel.cancelled() => None,
                launched = launch.run() => Some(launched),
            };
            Done::Launched { name, attempt, launched }
        }));
        None
    }

    pub(super) fn done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Nothing => {}
            Done::Resized { name, attempt, resources, ended } => {
                self.resized(&name, attempt, resources, ended);
            }
            Done::Measured(usage) => self.measured(usage),
            Done::Sandbox(Ok(ips)) => {
                self.ips = ips;
                self.failures = 0;
                self.phase = Phase::Ready;
            }
            Done::Sandbox(Err(error)) => self.no_sandbox(&error, now),
            Done::Launched { name, attempt, launched } => self.launched(&name, attempt, launched, now),
            Done::Hooked { name, attempt, ended } => self.hooked(&name, attempt, ended),
            Done::PreStopped { name, attempt, ended } => {
                let Some(i) = self.present(&name, attempt) else { return };
                if let Err(why) = ended {
                    tracing::warn!(pod = %self.pod.pod, container = name, why, "preStop hook");
                    let event = PodEventRecord::new(Reason::FailedPreStopHook, "PreStopHook failed");
                    self.tell(i, event);
                }
                if let Some(kill) = &mut self.units[i].kill {
                    kill.in_hook = false;
                }
            }
            Done::Probed { name, attempt, kind, finding, took } => {
                self.probed(&name, attempt, kind, &finding, took);
            }
            Done::LastWords { name, attempt, text } => {
                let Some(i) = self.present(&name, attempt) else { return };
                self.finish(i, &text);
            }
            Done::Finished { removed, ended: Ok(()) } => {
                self.failures = 0;
                self.phase = if removed { Phase::Removed } else { Phase::Stopped };
            }
            Done::Finished { ended: Err(error), .. } => {
                tracing::warn!(pod = %self.pod.pod, error = error.chain(), "ending the sandbox");
                self.phase = Phase::Ending { not_before: Some(now + self.pause()) };
            }
        }
    }

    fn pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        Duration::from_secs(1 << self.failures.min(6)).min(Duration::from_mins(1))
    }

    fn no_sandbox(&mut self, error: &Error, now: Instant) {
        let message = error.chain();
        // A kubelet mounts volumes before it makes a sandbox.
        let event = if message.starts_with("MountVolume.") {
            PodEventRecord::new(Reason::FailedMount, message)
        } else {
            let message = format!("Failed to create pod sandbox: {message}");
            PodEventRecord::new(Reason::FailedCreatePodSandBox, message)
        };
        self.shared.tell(&self.pod.pod, event);
        if error.retry() == Retry::Never {
            // It can never run here.
            self.outcome = Some(PodOutcome {
                reason: error.reason().to_owned(),
                message: error.to_string(),
                disruption: false,
            });
            self.phase = Phase::None { not_before: None };
            return self.stop(Some(Duration::ZERO), false);
        }
        let pause = match error.retry() {
            Retry::After(pause) => pause,
            _ => self.pause(),
        };
        self.phase = Phase::None { not_before: Some(now + pause) };
    }

    /// Ends the sandbox when nothing runs in it or ever will.
    fn check_end(&mut self, now: Instant, wake: &mut Wake) {
        if self.starting.is_some() || self.units.iter().any(|unit| unit.life != Life::Idle) {
            return;
        }
        let deleted = self.stop.is_some_and(|stop| stop.deleted);
        match self.phase {
            Phase::Stopped if deleted => {}
            Phase::Creating | Phase::Stopping | Phase::Stopped | Phase::Removed => return,
            Phase::Ending { not_before: Some(due) } if due > now => return wake.at(due),
            Phase::Ending { .. } => {}
            Phase::None { .. } if self.stop.is_none() => return,
            Phase::None { .. } | Phase::Ready => {
                if self.machine.end().is_none() {
                    return;
                }
                let since = *self.ended_since.get_or_insert(now);
                if !deleted && self.phase == Phase::Ready && now < since + LAG {
                    return wake.at(since + LAG);
                }
            }
        }
        if self.adopting && self.phase == Phase::Ready && !deleted {
            self.adopting = false;
        }
        tracing::debug!(pod = %self.pod.pod, end = ?self.machine.end().unwrap_or(End::Failed), "all have ended");
        self.phase = Phase::Stopping;
        let (backend, pod) = (Arc::clone(&self.shared.backend), self.pod.pod.clone());
        self.jobs.push(Box::pin(async move {
            let ended =
                if deleted { backend.remove_sandbox(&pod).await } else { backend.stop_sandbox(&pod).await };
            Done::Finished { removed: deleted, ended }
        }));
    }

    fn publish(&mut self) {
        if self.ended {
            return;
        }
        let gone = matches!(self.phase, Phase::Stopped | Phase::Removed);
        if self.adopting && !gone {
            return;
        }
        let runtime = PodRuntime {
            sandbox: match self.phase {
                Phase::None { .. } | Phase::Creating => Sandbox::Pending,
                Phase::Ready | Phase::Ending { .. } | Phase::Stopping => Sandbox::Ready,
                Phase::Stopped | Phase::Removed => Sandbox::Gone,
            },
            ips: self.ips.clone(),
            started_at: Some(self.started_at),
            containers: self.units.iter().filter_map(|unit| unit.told().cloned()).collect(),
            outcome: self.outcome.clone().or_else(|| self.eviction().filter(|_| gone)),
        };
        self.shared.publish(&self.pod.pod, runtime);
        if self.phase == Phase::Removed {
            self.ended = true;
            self.shared.gone(&self.pod.pod);
        }
    }

    pub(super) fn spec_grace(&self) -> Duration {
        let spec = self.pod.object.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        Duration::from_secs(seconds.max(0).unsigned_abs())
    }

    pub(super) fn tell(&self, i: usize, event: PodEventRecord) {
        let unit = &self.units[i];
        self.shared.tell(&self.pod.pod, event.about_kind(unit.kind, unit.spec.name.clone()));
    }
}

/// The earliest of several moments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wake(pub(super) Option<Instant>);

impl Wake {
    pub(super) fn at(&mut self, moment: Instant) {
        self.0 = Some(self.0.map_or(moment, |known| known.min(moment)));
    }

    fn maybe(&mut self, moment: Option<Instant>) {
        if let Some(moment) = moment {
            self.at(moment);
        }
    }
}
