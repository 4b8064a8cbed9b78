//! Which of a pod's containers is started and which is stopped next.
//!
//! ```text
//!  init ▸ init ▸ sidecar (goes on once started) ▸ init ▸ … ▸ app containers together
//!  end:   app containers together ▸ sidecars, the last one first, each once those behind it have ended
//! ```
//!
//! Ephemeral containers are started beside whatever the others do, once, and stop with the app containers.
//!
//! Source: `computePodActions` and `killContainersWithSyncResult` in `pkg/kubelet/kuberuntime`; KEP-753 (sidecars),
//! KEP-5532 (rules for single containers and for all of them).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, PodSpec};
use tokio::time::Instant;

use super::crash_loop::CrashLoop;
use crate::pods::status::{restarts_after, restarts_all_after};
use crate::provider::ContainerKind;

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the container, for the first time or again.
    Start(String),
    /// Stop the container.
    Stop(String),
}

/// How a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every app container exited 0.
    Succeeded,
    /// One did not, or an init container failed for good, or the pod was stopped before it came to its end.
    Failed,
}

/// The containers of one pod.
#[derive(Clone, Debug)]
pub struct PodMachine {
    pod_policy: Option<String>,
    /// Init containers and sidecars in their order, then app containers.
    members: Vec<Member>,
    stopping: bool,
    /// A rule asks for all containers to be run again: first all of them end.
    restarting_all: bool,
}

#[derive(Clone, Debug)]
struct Member {
    name: String,
    kind: ContainerKind,
    policy: Option<String>,
    rules: Vec<ContainerRestartRule>,
    state: State,
    restarts: u32,
    back_off: CrashLoop,
    /// The end that the pause before the next start is counted from. Of a run that was killed to be replaced it is
    /// the end before that, as a kubelet does not look at the one it has just made.
    counts_from: Option<Instant>,
    last_end: Option<Instant>,
    /// It is run again whatever its policy says.
    replaced: bool,
    /// It is not started before this: its image or its configuration is not there.
    held: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Never started.
    New,
    /// Being started.
    Starting,
    /// Running; `started` says that its startup probe and postStart hook have passed.
    Running {
        started: bool,
    },
    /// Told to stop, and running on.
    Stopping,
    Ended {
        code: i32,
    },
}

impl State {
    fn may_run(self) -> bool {
        matches!(self, Self::Starting | Self::Running { .. } | Self::Stopping)
    }
}

impl Member {
    fn new(container: &Container, kind: ContainerKind) -> Self {
        Self {
            name: container.name.clone(),
            kind,
            policy: container.restart_policy.clone(),
            rules: container.restart_policy_rules.clone().unwrap_or_default(),
            state: State::New,
            restarts: 0,
            back_off: CrashLoop::default(),
            counts_from: None,
            last_end: None,
            replaced: false,
            held: None,
        }
    }

    fn ephemeral(container: &EphemeralContainer) -> Self {
        let name = container.name.clone();
        Self::new(&Container { name, ..Container::default() }, ContainerKind::Ephemeral)
    }

    fn restarts_after(&self, pod: Option<&str>, code: i32) -> bool {
        match self.kind {
            // Success is what the others wait for; only failure is tried again, and not under Never.
            ContainerKind::Init => {
                code != 0 && restarts_after(self.policy.as_deref(), &self.rules, pod, code)
            }
            ContainerKind::Ephemeral => false,
            _ => restarts_after(self.policy.as_deref(), &self.rules, pod, code),
        }
    }
}

impl PodMachine {
    /// A pod of which nothing runs yet.
    #[must_use]
    pub fn new(spec: &PodSpec) -> Self {
        let init = spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            Member::new(container, if sidecar { ContainerKind::Sidecar } else { ContainerKind::Init })
        });
        let app = spec.containers.iter().map(|container| Member::new(container, ContainerKind::App));
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(Member::ephemeral);
        Self {
            pod_policy: spec.restart_policy.clone(),
            members: init.chain(app).chain(ephemeral).collect(),
            stopping: false,
            restarting_all: false,
        }
    }

    /// Takes up the ephemeral containers that have been added to the pod.
    pub fn extend(&mut self, spec: &PodSpec) {
        for container in spec.ephemeral_containers.iter().flatten() {
            if self.member(&container.name).is_none() {
                self.members.push(Member::ephemeral(container));
            }
        }
    }

    /// A run that was there before this machine: it has been restarted so often.
    /// [`running`](Self::running) or [`ended`](Self::ended) follows.
    pub fn adopted(&mut self, name: &str, restarts: u32) {
        if let Some(member) = self.member(name) {
            member.restarts = restarts;
            member.state = State::Starting;
        }
    }

    /// The container is being started.
    pub fn starting(&mut self, name: &str, now: Instant) {
        let Some(member) = self.member(name) else { return };
        if let State::Ended { .. } = member.state {
            if let Some(end) = member.counts_from {
                member.back_off.restarted(end, now);
            }
            member.restarts = member.restarts.saturating_add(1);
        }
        member.replaced = false;
        member.held = None;
        member.state = State::Starting;
    }

    /// The container cannot be started now, nor before `until` unless it is [released](Self::release): nothing of it
    /// was run.
    pub fn held(&mut self, name: &str, until: Instant) {
        if let Some(member) = self.member(name) {
            member.held = Some(until);
        }
    }

    /// What a container could not be started for may be there now.
    pub fn release(&mut self, name: &str) {
        if let Some(member) = self.member(name) {
            member.held = None;
        }
    }

    /// The container is being stopped so that another run takes its place: its probe has failed, or its
    /// specification has changed. It comes back unless its policy is `Never`, or, with `regardless`, in any case.
    /// Whether it comes back.
    pub fn replacing(&mut self, name: &str, regardless: bool) -> bool {
        let stopping = self.stopping;
        let pod = self.pod_policy.clone();
        let Some(member) = self.member(name).filter(|member| member.state.may_run()) else { return false };
        let never = member.policy.as_deref().or(pod.as_deref()) == Some("Never");
        member.state = State::Stopping;
        member.replaced = !stopping && (regardless || !never) && member.kind != ContainerKind::Ephemeral;
        member.replaced
    }

    /// The container runs; `started` once its startup probe and its postStart hook have passed.
    pub fn running(&mut self, name: &str, started: bool) {
        if let Some(member) = self.member(name)
            && matches!(member.state, State::Starting | State::Running { .. })
        {
            member.state = State::Running { started };
        }
    }

    /// The container is being stopped.
    pub fn stopping(&mut self, name: &str) {
        if let Some(member) = self.member(name)
            && member.state.may_run()
        {
            member.state = State::Stopping;
        }
    }

    /// The container has ended, or could not be started.
    pub fn ended(&mut self, name: &str, code: i32, now: Instant) {
        // Of a pod that has come to its end nothing is run again, whatever a sidecar's rules say of its own end.
        let over = self.stopping || self.verdict().is_some();
        let Some(member) = self.member(name) else { return };
        let before = member.last_end.replace(now);
        // The pass that has it killed starts it again, unless it has to back off by the end before; a later pass looks at
        // this end as at any other.
        let waits = before.is_some_and(|end| end + member.back_off.pause(end) > now);
        member.replaced &= !waits;
        member.counts_from = if member.replaced { before } else { Some(now) };
        let all = !over && !member.replaced && restarts_all_after(&member.rules, code);
        member.state = State::Ended { code };
        self.restarting_all |= all;
    }

    /// Whether all containers have ended to be run again, every one from the beginning of the pod's life.
    #[must_use]
    pub fn is_to_begin_again(&self) -> bool {
        let regular = || self.members.iter().filter(|member| member.kind != ContainerKind::Ephemeral);
        self.restarting_all && !self.stopping && !regular().any(|member| member.state.may_run())
    }

    /// What is left of all containers has been cleared away: their next runs are restarts.
    pub fn begin_again(&mut self) {
        self.restarting_all = false;
        for member in self.members.iter_mut().filter(|member| member.kind != ContainerKind::Ephemeral) {
            if member.state != State::New {
                member.restarts = member.restarts.saturating_add(1);
            }
            member.state = State::New;
            member.back_off = CrashLoop::default();
            member.counts_from = None;
            member.last_end = None;
        }
    }

    /// The pod is to stop.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// How often the container was started again.
    #[must_use]
    pub fn restarts(&self, name: &str) -> u32 {
        self.members.iter().find(|member| member.name == name).map_or(0, |member| member.restarts)
    }

    /// What to do now, and when to ask again if nothing happens meanwhile.
    #[must_use]
    pub fn plan(&self, now: Instant) -> (Vec<Action>, Option<Instant>) {
        if self.stopping || self.verdict().is_some() {
            return (self.stops(), None);
        }
        let mut plan = Plan { actions: Vec::new(), wake: None, now };
        for member in self.of(ContainerKind::Ephemeral) {
            self.start(member, &mut plan);
        }
        if self.restarting_all {
            let regular = self.members.iter().filter(|member| member.kind != ContainerKind::Ephemeral);
            plan.actions.extend(regular.filter_map(stop));
            return (plan.actions, plan.wake);
        }
        // Once an app container was started, init containers are not looked at any more.
        let begun = self.of(ContainerKind::App).any(|member| member.state != State::New);
        let first = |member: &&Member| matches!(member.kind, ContainerKind::Init | ContainerKind::Sidecar);
        for member in self.members.iter().filter(first) {
            let passed = match (member.kind, member.state) {
                (ContainerKind::Init, State::Ended { code: 0, .. }) => true,
                (ContainerKind::Init, _) if begun => true,
                (ContainerKind::Sidecar, State::Running { started }) => started || begun,
                _ => {
                    self.start(member, &mut plan);
                    begun
                }
            };
            if !passed {
                return (plan.actions, plan.wake);
            }
        }
        for member in self.of(ContainerKind::App) {
            self.start(member, &mut plan);
        }
        (plan.actions, plan.wake)
    }

    /// How the pod ended, once nothing of it may run any more.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        if self.members.iter().any(|member| member.state.may_run()) {
            return None;
        }
        let all_well =
            || self.of(ContainerKind::App).all(|m| matches!(m.state, State::Ended { code: 0, .. }));
        let stopped = || if all_well() { End::Succeeded } else { End::Failed };
        self.verdict().or_else(|| self.stopping.then(stopped))
    }

    /// What the containers have come to, if none of those that count will run again. Sidecars never count.
    fn verdict(&self) -> Option<End> {
        if self.restarting_all {
            return None;
        }
        let policy = self.pod_policy.as_deref();
        let for_good = |member: &Member| match member.state {
            State::Ended { code, .. } if !member.replaced && !member.restarts_after(policy, code) => {
                Some(code)
            }
            _ => None,
        };
        if self.of(ContainerKind::Init).filter_map(for_good).any(|code| code != 0) {
            return Some(End::Failed);
        }
        let codes: Option<Vec<_>> = self.of(ContainerKind::App).map(for_good).collect();
        codes.map(|codes| if codes.iter().all(|code| *code == 0) { End::Succeeded } else { End::Failed })
    }

    fn stops(&self) -> Vec<Action> {
        let sidecar = |member: &&Member| member.kind == ContainerKind::Sidecar;
        let others = || self.members.iter().filter(|member| !sidecar(member));
        if others().any(|member| member.state.may_run()) {
            return others().filter_map(stop).collect();
        }
        // The last one that may still run; those before it wait for its end.
        let last = self.members.iter().rev().filter(sidecar).find(|member| member.state.may_run());
        last.and_then(stop).into_iter().collect()
    }

    fn start(&self, member: &Member, plan: &mut Plan) {
        let paused = match member.state {
            State::New => None,
            State::Ended { code, .. }
                if member.replaced || member.restarts_after(self.pod_policy.as_deref(), code) =>
            {
                member.counts_from.map(|end| end + member.back_off.pause(end))
            }
            _ => return,
        };
        match paused.into_iter().chain(member.held).max() {
            Some(due) if due > plan.now => {
                plan.wake = Some(plan.wake.map_or(due, |wake| wake.min(due)));
            }
            _ => plan.actions.push(Action::Start(member.name.clone())),
        }
    }

    /// Which run of the container the next one is: 0 for the first.
    #[must_use]
    pub fn next_attempt(&self, name: &str) -> u32 {
        let member = self.members.iter().find(|member| member.name == name);
        member.map_or(0, |member| {
            let again = !matches!(member.state, State::New);
            member.restarts.saturating_add(u32::from(again))
        })
    }

    /// When the container may be started again after its last end, if its back-off is not over by then.
    #[must_use]
    pub fn backs_off_until(&self, name: &str) -> Option<Instant> {
        let member = self.members.iter().find(|member| member.name == name)?;
        let end = member.counts_from?;
        let pause = member.back_off.pause(end);
        (!pause.is_zero()).then(|| end + pause)
    }

    /// The pause between the end of the container's last run and its next one; zero is not at all.
    #[must_use]
    pub fn pause(&self, name: &str) -> Duration {
        let member = self.members.iter().find(|member| member.name == name);
        let end = member.and_then(|member| Some((member, member.counts_from?)));
        end.map_or(Duration::ZERO, |(member, end)| member.back_off.pause(end))
    }

    /// Whether the container is run again after this end, if nothing else happens.
    #[must_use]
    pub fn comes_back(&self, name: &str, code: i32) -> bool {
        let Some(member) = self.members.iter().find(|member| member.name == name) else { return false };
        let over = self.stopping || self.verdict().is_some();
        !over && (member.replaced || member.restarts_after(self.pod_policy.as_deref(), code))
    }

    /// Whether all containers are being stopped to be run again.
    #[must_use]
    pub fn is_restarting_all(&self) -> bool {
        self.restarting_all && !self.stopping
    }

    fn of(&self, kind: ContainerKind) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.kind == kind)
    }

    fn member(&mut self, name: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.name == name)
    }
}

fn stop(member: &Member) -> Option<Action> {
    let running = matches!(member.state, State::Starting | State::Running { .. });
    running.then(|| Action::Stop(member.name.clone()))
}

struct Plan {
    actions: Vec<Action>,
    wake: Option<Instant>,
    now: Instant,
}

#[cfg(test)]
mod tests;
