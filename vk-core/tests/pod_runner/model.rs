//! What a kubelet makes of a pod, from what its containers did: a reference to hold the runner to.
//!
//! It is written from the kubelet's rules (`computePodActions`, `getPhase`, `GeneratePodReadyCondition`, KEP-753,
//! KEP-5532), not from the code under test, and shares nothing with it. It reads a journal in order, says what in it
//! no kubelet would have done, and what the pod's status has to be once nothing has happened for a moment.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus, Probe};
use tokio::time::Instant;

use crate::backend::Deed;
use crate::plot::GATE;

/// How long after its last deed a pod is looked at: what is due has been done by then.
pub(crate) const CALM: Duration = Duration::from_millis(700);
/// How late a start may be. A runner lets the end of a run be seen before the next one.
const LATE: Duration = Duration::from_millis(500);
const LEAST: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Init,
    Sidecar,
    App,
    Ephemeral,
}

/// Results of one probe of one run.
#[derive(Clone, Debug)]
struct Tally {
    succeeds: i32,
    fails: i32,
    last: Option<bool>,
    in_a_row: i32,
    verdict: Option<bool>,
}

impl Tally {
    fn of(probe: Option<&Probe>, first: Option<bool>) -> Option<Self> {
        let probe = probe?;
        let (succeeds, fails) = (probe.success_threshold.unwrap_or(1), probe.failure_threshold.unwrap_or(3));
        Some(Self { succeeds, fails, last: None, in_a_row: 0, verdict: first })
    }

    fn count(&mut self, well: bool) {
        self.in_a_row = if self.last == Some(well) { self.in_a_row + 1 } else { 1 };
        self.last = Some(well);
        if self.in_a_row >= if well { self.succeeds } else { self.fails } {
            self.verdict = Some(well);
        }
    }
}

fn passes(tally: Option<&Tally>) -> bool {
    tally.is_none_or(|tally| tally.verdict == Some(true))
}

/// A run that goes on.
#[derive(Clone, Debug)]
struct Live {
    startup: Option<Tally>,
    liveness: Option<Tally>,
    readiness: Option<Tally>,
    /// Its probe has failed: since when, and how long it is given.
    condemned: Option<(Instant, Duration)>,
    told: bool,
}

/// A container.
#[derive(Clone, Debug)]
struct Part {
    spec: Container,
    kind: Kind,
    starts: u32,
    /// It was started since all containers were last run again.
    begun: bool,
    live: Option<Live>,
    /// Code and time of the last end, and the time of the one before.
    last: Option<(i32, Instant)>,
    /// The code that is shown of the run before the present one.
    shown: Option<i32>,
    /// The end that its pause is counted from.
    counts_from: Option<Instant>,
    replaced: bool,
    pause: Option<(Duration, Instant)>,
}

impl Part {
    fn new(spec: &Container, kind: Kind) -> Self {
        Self {
            spec: spec.clone(),
            kind,
            starts: 0,
            begun: false,
            live: None,
            last: None,
            shown: None,
            counts_from: None,
            replaced: false,
            pause: None,
        }
    }

    fn policy<'a>(&'a self, pod: &'a str) -> &'a str {
        self.spec.restart_policy.as_deref().unwrap_or(pod)
    }

    fn rule(&self, code: i32) -> Option<&str> {
        let rules = self.spec.restart_policy_rules.iter().flatten();
        let mut matching = rules.filter(|rule| {
            let on = rule.exit_codes.as_ref().expect("exit codes");
            on.values.iter().flatten().any(|value| *value == code) == (on.operator == "In")
        });
        matching.next().map(|rule| rule.action.as_str())
    }

    /// Whether it runs again after its last end.
    fn comes_back(&self, pod: &str) -> bool {
        let Some((code, _)) = self.last else { return true };
        if self.replaced {
            return true;
        }
        match self.kind {
            Kind::Ephemeral => false,
            // Its success is what the others wait for.
            Kind::Init if code == 0 => false,
            _ if self.rule(code).is_some() => true,
            _ => match self.policy(pod) {
                "Always" => true,
                "OnFailure" => code != 0,
                _ => false,
            },
        }
    }

    /// It has ended, and for good.
    fn is_over(&self, pod: &str) -> bool {
        self.begun && self.live.is_none() && !self.comes_back(pod)
    }

    /// When it may be started again.
    fn due(&self) -> Option<Instant> {
        let from = self.counts_from?;
        Some(from + self.wait(from))
    }

    fn wait(&self, from: Instant) -> Duration {
        match self.pause {
            Some((pause, set)) if from.saturating_duration_since(set) <= Duration::from_mins(10) => pause,
            _ => Duration::ZERO,
        }
    }

    /// Those behind it may go on.
    fn lets_pass(&self) -> bool {
        match (self.kind, &self.live) {
            (Kind::Sidecar, Some(live)) => passes(live.startup.as_ref()),
            (Kind::Init, None) => self.begun && matches!(self.last, Some((0, _))),
            _ => false,
        }
    }

    fn is_ready(&self) -> bool {
        self.live
            .as_ref()
            .is_some_and(|live| passes(live.startup.as_ref()) && passes(live.readiness.as_ref()))
    }
}

/// See the module.
#[derive(Debug)]
#[expect(clippy::option_option, reason = "whether there is one, and what it says")]
pub(crate) struct Model {
    policy: String,
    grace: Duration,
    parts: Vec<Part>,
    gate: Option<Option<bool>>,
    active_until: Option<Instant>,
    /// It is being stopped; the moment is when its grace is over, none is at once.
    stopped: Option<Option<Instant>>,
    /// Nothing of it that counts runs again; since when.
    over: Option<Instant>,
    /// How it ends.
    phase: Option<&'static str>,
    /// How it ends is left open.
    open: bool,
    restarting: bool,
    last_deed: Instant,
}

type Verdict = Result<(), String>;

impl Model {
    pub(crate) fn new(pod: &Pod, now: Instant) -> Self {
        let spec = pod.spec.clone().expect("a specification");
        let init = spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            Part::new(container, if sidecar { Kind::Sidecar } else { Kind::Init })
        });
        let app = spec.containers.iter().map(|container| Part::new(container, Kind::App));
        let seconds = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
        Self {
            policy: spec.restart_policy.clone().unwrap_or_default(),
            grace: seconds(spec.termination_grace_period_seconds.unwrap_or(30)),
            parts: init.chain(app).collect(),
            gate: spec.readiness_gates.is_some().then_some(None),
            active_until: spec.active_deadline_seconds.map(|s| now + seconds(s)),
            stopped: None,
            over: None,
            phase: None,
            open: false,
            restarting: false,
            last_deed: now,
        }
    }

    /// The gate's condition has been set.
    pub(crate) fn set_gate(&mut self, holds: bool) {
        if let Some(gate) = &mut self.gate {
            *gate = Some(holds);
        }
    }

    /// Takes in what was done, and says what is wrong with it.
    pub(crate) fn hear(&mut self, at: Instant, deed: &Deed) -> Verdict {
        self.pass(at);
        self.last_deed = at;
        match deed {
            Deed::Started { name, attempt } => self.started(name, *attempt, at),
            Deed::StartFailed { name, attempt } => {
                self.started(name, *attempt, at)?;
                self.ended(name, 128, at)
            }
            Deed::Ended { name, code } => self.ended(name, *code, at),
            Deed::Term { name, grace } => self.told(name, *grace, at),
            Deed::Probed { name, kind, well } => self.probed(name, kind, *well, at),
            Deed::Deleted { grace } => {
                self.stop((!grace.is_zero()).then(|| at + *grace));
                Ok(())
            }
            Deed::Added { name } => {
                let spec = Container { name: name.clone(), ..Container::default() };
                self.parts.push(Part::new(&spec, Kind::Ephemeral));
                Ok(())
            }
            Deed::SandboxStopped | Deed::SandboxRemoved => {
                let live: Vec<_> = self.live().map(|part| part.spec.name.clone()).collect();
                demand(live.is_empty(), || format!("its sandbox goes while {live:?} run"))
            }
        }
    }

    /// Time has come to be this.
    pub(crate) fn pass(&mut self, now: Instant) {
        if let Some(until) = self.active_until.filter(|until| *until <= now)
            && self.stopped.is_none()
        {
            self.active_until = None;
            if self.over.is_none() {
                self.phase = Some("Failed");
            } else {
                // In time, if nothing is left of it. Else its sidecars are, and which of the two counts is not for
                // this model.
                let left = self.live().count();
                self.open = left > 0;
            }
            if self.over.is_none() || self.open {
                self.stop(Some(until + self.grace));
            }
        }
    }

    fn stop(&mut self, deadline: Option<Instant>) {
        let before = self.stopped.get_or_insert(deadline);
        *before = before.zip(deadline).map(|(a, b)| a.min(b));
    }

    fn live(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.live.is_some())
    }

    fn part(&mut self, name: &str) -> &mut Part {
        self.parts.iter_mut().find(|part| part.spec.name == name).expect("a container of the pod")
    }

    fn is_begun(&self) -> bool {
        self.parts.iter().any(|part| part.kind == Kind::App && part.begun)
    }

    /// The first container before the app containers that does not let those behind it pass.
    fn front(&self) -> Option<usize> {
        self.parts
            .iter()
            .position(|part| matches!(part.kind, Kind::Init | Kind::Sidecar) && !part.lets_pass())
    }

    fn is_over(&self) -> Option<&'static str> {
        if self.restarting {
            return None;
        }
        let of = |kind| self.parts.iter().filter(move |part| part.kind == kind);
        let failed = |part: &Part| part.last.is_some_and(|(code, _)| code != 0);
        if of(Kind::Init).any(|part| part.is_over(&self.policy) && failed(part)) {
            return Some("Failed");
        }
        let ended = of(Kind::App).all(|part| part.is_over(&self.policy));
        ended.then(|| if of(Kind::App).any(failed) { "Failed" } else { "Succeeded" })
    }

    fn started(&mut self, name: &str, attempt: u32, at: Instant) -> Verdict {
        demand(self.stopped.is_none(), || format!("{name} is started in a pod that stops"))?;
        demand(self.over.is_none(), || format!("{name} is started in a pod that is over"))?;
        let begun = self.is_begun();
        let front = self.front();
        let i = self.parts.iter().position(|part| part.spec.name == name).expect("a container");
        let restarting = self.restarting;
        let policy = self.policy.clone();
        let part = &mut self.parts[i];
        demand(part.live.is_none(), || format!("two runs of {name}"))?;
        demand(attempt == part.starts, || format!("run {attempt} of {name} follows {} others", part.starts))?;
        if part.kind != Kind::Ephemeral {
            demand(!restarting, || format!("{name} is started before all have ended"))?;
            let in_turn = match part.kind {
                Kind::Init => !begun && front == Some(i),
                Kind::Sidecar => begun || front == Some(i),
                _ => begun || front.is_none(),
            };
            demand(in_turn, || format!("{name} is started out of turn"))?;
        }
        if part.begun {
            demand(part.comes_back(&policy), || format!("{name} is run again after {:?}", part.last))?;
            let due = part.due();
            demand(due.is_none_or(|due| at >= due), || {
                format!("{name} is run again before its back-off is over")
            })?;
            let (_, end) = part.last.expect("an end");
            let latest = due.unwrap_or(end).max(end) + LATE;
            demand(!begun || at <= latest, || format!("{name} is run again {:?} late", at - latest + LATE))?;
            if let Some(from) = part.counts_from {
                let wait = part.wait(from);
                let next = if wait.is_zero() { Duration::from_secs(10) } else { wait * 2 };
                part.pause = Some((next.min(Duration::from_mins(5)), at));
            }
        }
        part.starts += 1;
        part.begun = true;
        part.replaced = false;
        part.live = Some(Live {
            startup: Tally::of(part.spec.startup_probe.as_ref(), None),
            liveness: Tally::of(part.spec.liveness_probe.as_ref(), Some(true)),
            readiness: Tally::of(part.spec.readiness_probe.as_ref(), Some(false)),
            condemned: None,
            told: false,
        });
        Ok(())
    }

    fn ended(&mut self, name: &str, code: i32, at: Instant) -> Verdict {
        let done = self.stopped.is_some() || self.over.is_some();
        let policy = self.policy.clone();
        let part = self.part(name);
        let live = part.live.take().ok_or_else(|| format!("{name} ends and did not run"))?;
        let before = part.last.map(|(_, at)| at);
        // One pass kills it and starts it again; if it has to back off then, a later one looks at this end.
        let waits = before.is_some_and(|end| end + part.wait(end) > at);
        part.replaced = live.condemned.is_some() && part.policy(&policy) != "Never" && !waits;
        part.counts_from = if part.replaced { before } else { Some(at) };
        part.last = Some((code, at));
        part.shown = Some(code);
        let all = !done && !part.replaced && part.rule(code) == Some("RestartAllContainers");
        self.restarting |= all;
        let mut regular = self.parts.iter().filter(|part| part.kind != Kind::Ephemeral);
        if self.restarting && !done && regular.all(|part| part.live.is_none()) {
            self.restarting = false;
            for part in self.parts.iter_mut().filter(|part| part.kind != Kind::Ephemeral) {
                (part.begun, part.replaced) = (false, false);
                // How a kubelet shows what it has removed.
                part.shown = part.shown.map(|_| 137);
                (part.last, part.counts_from, part.pause) = (None, None, None);
            }
        }
        if !done && let Some(phase) = self.is_over() {
            (self.over, self.phase) = (Some(at), Some(phase));
        }
        Ok(())
    }

    fn told(&mut self, name: &str, grace: Duration, at: Instant) -> Verdict {
        let own = self.grace;
        let stop = self.stopped;
        let until = stop.unwrap_or_else(|| self.over.map(|over| over + own));
        let (over, restarting) = (self.over.is_some(), self.restarting);
        let i = self.parts.iter().position(|part| part.spec.name == name).expect("a container");
        let others: Vec<_> = self
            .live()
            .filter(|part| part.kind != Kind::Sidecar)
            .chain(self.parts[i + 1..].iter().filter(|part| part.live.is_some()))
            .map(|part| part.spec.name.clone())
            .collect();
        let part = &mut self.parts[i];
        let live = part.live.as_mut().ok_or_else(|| format!("{name} is told to stop and does not run"))?;
        live.told = true;
        if let Some((_, given)) = live.condemned {
            let given = given.max(LEAST);
            return demand(stop.is_some() || grace == given, || {
                format!("{name} is given {grace:?} after its probe failed, not {given:?}")
            });
        }
        demand(stop.is_some() || over || restarting, || format!("{name} is stopped for nothing"))?;
        if restarting && stop.is_none() {
            return demand(grace == LEAST, || format!("{name} is given {grace:?} to be run again"));
        }
        let given = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(at).max(LEAST));
        demand(grace <= given, || format!("{name} is given {grace:?}, not {given:?}"))?;
        let early = part.kind == Kind::Sidecar && until.is_some_and(|until| at < until);
        demand(!early || others.is_empty(), || format!("sidecar {name} is stopped before {others:?}"))
    }

    fn probed(&mut self, name: &str, kind: &str, well: bool, at: Instant) -> Verdict {
        let grace = self.grace;
        let stopped = self.stopped.is_some();
        let part = self.part(name);
        let spec = part.spec.clone();
        let live = part.live.as_mut().ok_or_else(|| format!("{name} is probed and does not run"))?;
        let started = passes(live.startup.as_ref());
        demand(kind == "startup" || started, || format!("{kind} of {name} is probed before it has started"))?;
        demand(kind != "startup" || !started, || {
            format!("{name} is asked whether it has started once more")
        })?;
        let (tally, probe) = match kind {
            "startup" => (&mut live.startup, spec.startup_probe),
            "liveness" => (&mut live.liveness, spec.liveness_probe),
            _ => (&mut live.readiness, spec.readiness_probe),
        };
        let tally = tally.as_mut().ok_or_else(|| format!("{name} has no {kind} probe"))?;
        tally.count(well);
        let failed = tally.verdict == Some(false) && kind != "readiness";
        demand(!failed || live.condemned.is_none(), || format!("{name} is probed after it has failed"))?;
        if failed && !stopped {
            demand(!live.told, || format!("{kind} of {name} is probed while it stops"))?;
            let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
            let own = own.map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
            live.condemned = Some((at, own.unwrap_or(grace)));
        }
        Ok(())
    }

    /// Whether nothing has happened for a moment, so that everything due has been done.
    pub(crate) fn is_calm(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_deed) >= CALM
    }

    /// What the pod's status has to be in a calm moment while it is neither over nor stopped, and that nothing is
    /// left undone.
    pub(crate) fn judge(&self, status: &PodStatus, now: Instant) -> Verdict {
        if self.stopped.is_some() {
            return Ok(());
        }
        for part in self.live() {
            let live = part.live.as_ref().expect("it runs");
            let name = &part.spec.name;
            demand(live.condemned.is_none() || live.told, || {
                format!("{name} has failed and is left running")
            })?;
        }
        if self.over.is_some() {
            // Its sidecars are told to stop one by one, each within the grace period.
            let told = self.live().any(|part| part.live.as_ref().is_some_and(|live| live.told));
            return demand(self.live().next().is_none() || told, || "what is left is not stopped".to_owned());
        }
        if self.restarting {
            return Ok(());
        }
        self.judge_starts(now)?;
        for part in &self.parts {
            part.judge(status).map_err(|why| format!("{}: {why}", part.spec.name))?;
        }
        let apps = || self.parts.iter().filter(|part| part.kind == Kind::App);
        let phase = if apps().all(|part| part.starts > 0) { "Running" } else { "Pending" };
        same("phase", status.phase.as_deref(), Some(phase))?;
        let condition = |kind: &str| {
            let all = status.conditions.iter().flatten();
            all.clone().find(|condition| condition.type_ == kind).map(|condition| condition.status == "True")
        };
        let begun = apps().any(|part| part.starts > 0);
        let unfinished = self.parts.iter().any(|part| part.kind == Kind::Init && !part.lets_pass());
        // Sidecars that had all started, if only for a moment, may start again without the pod being new.
        if begun || unfinished || self.front().is_none() {
            same("Initialized", condition("Initialized"), Some(begun || !unfinished))?;
        }
        let counts = |part: &&Part| matches!(part.kind, Kind::App | Kind::Sidecar);
        let ready = self.parts.iter().filter(counts).all(Part::is_ready);
        same("ContainersReady", condition("ContainersReady"), Some(ready))?;
        let open = self.gate.is_none_or(|gate| gate == Some(true));
        same("Ready", condition("Ready"), Some(ready && open))
    }

    fn judge_starts(&self, now: Instant) -> Verdict {
        let is_due = |part: &Part| {
            let waits = part.due().is_some_and(|due| due + LATE > now);
            part.live.is_none() && !waits && (!part.begun || part.comes_back(&self.policy))
        };
        let begun = self.is_begun();
        // One that is being replaced may hold up the others, or not: a kubelet does both in one pass.
        let held_up = self
            .parts
            .iter()
            .any(|part| part.kind == Kind::Sidecar && part.live.as_ref().is_some_and(|live| live.told));
        if held_up && !begun {
            return Ok(());
        }
        let front = self.front().filter(|_| !begun);
        for (i, part) in self.parts.iter().enumerate() {
            let in_turn = match part.kind {
                Kind::Init => !begun && front == Some(i),
                Kind::Sidecar => begun || front == Some(i),
                Kind::App => front.is_none(),
                Kind::Ephemeral => !part.begun,
            };
            demand(!in_turn || !is_due(part), || format!("{} is not started", part.spec.name))?;
        }
        Ok(())
    }

    /// How the pod has to have ended; `None` if this model does not say.
    pub(crate) fn end(&self) -> Option<&'static str> {
        if self.phase.is_some() || self.open {
            return self.phase.filter(|_| !self.open);
        }
        let all_well = |part: &Part| part.begun && part.live.is_none() && matches!(part.last, Some((0, _)));
        let well = self.parts.iter().filter(|part| part.kind == Kind::App).all(all_well);
        Some(if well { "Succeeded" } else { "Failed" })
    }

    /// By when nothing of it may be left.
    pub(crate) fn gone_by(&self, now: Instant) -> Instant {
        self.stopped.flatten().unwrap_or(now).max(now) + LEAST + Duration::from_secs(1)
    }
}

impl Part {
    /// What is shown of it.
    fn judge(&self, status: &PodStatus) -> Verdict {
        let lists = [
            &status.init_container_statuses,
            &status.container_statuses,
            &status.ephemeral_container_statuses,
        ];
        let mut all = lists.into_iter().flatten().flatten();
        let shown: &ContainerStatus =
            all.find(|shown| shown.name == self.spec.name).ok_or("nothing is shown of it")?;
        let again = u32::from(!self.begun && self.starts > 0);
        let restarts = (self.starts + again).saturating_sub(1);
        same("restartCount", u32::try_from(shown.restart_count).ok(), Some(restarts))?;
        let state = shown.state.clone().unwrap_or_default();
        same("running", state.running.is_some(), self.live.is_some())?;
        let before = shown.last_state.clone().and_then(|last| last.terminated);
        let ended = match &self.live {
            Some(_) => before,
            None => state.terminated.or(before),
        };
        if self.begun {
            same("exit code", ended.map(|end| end.exit_code), self.shown)?;
        }
        if self.kind != Kind::Ephemeral && self.kind != Kind::Init {
            same("ready", shown.ready, self.is_ready())?;
        }
        Ok(())
    }
}

fn demand(holds: bool, why: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(why()) }
}

fn same<T: Copy + PartialEq + std::fmt::Debug>(what: &str, is: T, ought: T) -> Verdict {
    demand(is == ought, || format!("{what} is {is:?}, not {ought:?}"))
}

/// What holds for every row of statuses of one pod.
pub(crate) fn judge_row(statuses: &[(Instant, PodStatus)]) -> Verdict {
    let rank = |status: &PodStatus| match status.phase.as_deref() {
        Some("Running") => 1,
        Some("Succeeded" | "Failed") => 2,
        _ => 0,
    };
    let counts = |status: &PodStatus| -> Vec<(String, i32)> {
        let lists = [&status.init_container_statuses, &status.container_statuses];
        lists.into_iter().flatten().flatten().map(|shown| (shown.name.clone(), shown.restart_count)).collect()
    };
    for pair in statuses.windows(2) {
        let [(_, before), (_, after)] = pair else { continue };
        demand(rank(before) <= rank(after), || format!("from {:?} to {:?}", before.phase, after.phase))?;
        let ended = rank(before) == 2;
        demand(!ended || before.phase == after.phase, || "one end follows another".to_owned())?;
        for (name, count) in counts(before) {
            let now = counts(after).into_iter().find(|(other, _)| *other == name).map(|(_, count)| count);
            demand(now >= Some(count), || format!("restarts of {name} from {count} to {now:?}"))?;
        }
    }
    for (_, status) in statuses {
        let holds = |kind: &str| {
            let mut all = status.conditions.iter().flatten();
            all.any(|condition| condition.type_ == kind && condition.status == "True")
        };
        demand(!holds("Ready") || holds("ContainersReady"), || "ready before its containers".to_owned())?;
        let apps = status.container_statuses.iter().flatten();
        let unready = apps.clone().find(|shown| !shown.ready);
        demand(!holds("ContainersReady") || unready.is_none(), || format!("ready without {unready:?}"))?;
    }
    Ok(())
}

/// That no status says ready while its gate does not hold.
pub(crate) fn judge_gate(pod: &Pod, statuses: &[(Instant, PodStatus)]) -> Verdict {
    let gated = pod.spec.as_ref().is_some_and(|spec| spec.readiness_gates.is_some());
    let early = statuses.iter().any(|(_, status)| {
        let holds = |kind: &str| {
            let mut all = status.conditions.iter().flatten();
            all.any(|condition| condition.type_ == kind && condition.status == "True")
        };
        holds("Ready") && !holds(GATE)
    });
    demand(!gated || !early, || "ready before its gate".to_owned())
}
