//! Which of a pod's containers is started and which is stopped next.
//!
//! ```text
//!  init ▸ init ▸ sidecar (goes on once started) ▸ init ▸ … ▸ app containers together
//!  end:   app containers together ▸ sidecars, the last one first, each once those behind it have ended
//! ```
//!
//! Source: `computePodActions` and `killContainersWithSyncResult` in `pkg/kubelet/kuberuntime`; KEP-753 (sidecars),
//! KEP-5532 (rules for single containers).

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, PodSpec};
use tokio::time::Instant;

use super::crash_loop::CrashLoop;
use crate::pods::status::restarts_after;
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
        at: Instant,
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
        }
    }

    fn restarts_after(&self, pod: Option<&str>, code: i32) -> bool {
        match self.kind {
            // Success is what the others wait for; only failure is tried again, and not under Never.
            ContainerKind::Init => {
                code != 0 && restarts_after(self.policy.as_deref(), &self.rules, pod, code)
            }
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
        Self { pod_policy: spec.restart_policy.clone(), members: init.chain(app).collect(), stopping: false }
    }

    /// The container is being started.
    pub fn starting(&mut self, name: &str, now: Instant) {
        let Some(member) = self.member(name) else { return };
        if let State::Ended { at, .. } = member.state {
            member.back_off.restarted(at, now);
            member.restarts = member.restarts.saturating_add(1);
        }
        member.state = State::Starting;
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
        if let Some(member) = self.member(name) {
            member.state = State::Ended { code, at: now };
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
        // Once an app container was started, init containers are not looked at any more.
        let begun = self.of(ContainerKind::App).any(|member| member.state != State::New);
        for member in self.members.iter().filter(|member| member.kind != ContainerKind::App) {
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
        let policy = self.pod_policy.as_deref();
        let for_good = |member: &Member| match member.state {
            State::Ended { code, .. } if !member.restarts_after(policy, code) => Some(code),
            _ => None,
        };
        if self.of(ContainerKind::Init).filter_map(for_good).any(|code| code != 0) {
            return Some(End::Failed);
        }
        let codes: Option<Vec<_>> = self.of(ContainerKind::App).map(for_good).collect();
        codes.map(|codes| if codes.iter().all(|code| *code == 0) { End::Succeeded } else { End::Failed })
    }

    fn stops(&self) -> Vec<Action> {
        let stop = |member: &Member| {
            let running = matches!(member.state, State::Starting | State::Running { .. });
            running.then(|| Action::Stop(member.name.clone()))
        };
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
        match member.state {
            State::New => plan.actions.push(Action::Start(member.name.clone())),
            State::Ended { code, at } if member.restarts_after(self.pod_policy.as_deref(), code) => {
                let due = at + member.back_off.pause(at);
                if due <= plan.now {
                    plan.actions.push(Action::Start(member.name.clone()));
                } else {
                    plan.wake = Some(plan.wake.map_or(due, |wake| wake.min(due)));
                }
            }
            _ => {}
        }
    }

    fn of(&self, kind: ContainerKind) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.kind == kind)
    }

    fn member(&mut self, name: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.name == name)
    }
}

struct Plan {
    actions: Vec<Action>,
    wake: Option<Instant>,
    now: Instant,
}

#[cfg(test)]
mod tests;
