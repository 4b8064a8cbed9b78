//! The conditions of a pod (`pkg/kubelet/status/generate.go`, and the merge in `status_manager.go`).

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::containers::{self, Lists, View};
use super::phase::Phase;
use super::wanted;
use crate::pods::resize::{IN_PROGRESS, PENDING};
use crate::provider::{PodOutcome, Sandbox};

const SANDBOX: &str = "PodReadyToStartContainers";
const INITIALIZED: &str = "Initialized";
const READY: &str = "Ready";
const CONTAINERS_READY: &str = "ContainersReady";
const SCHEDULED: &str = "PodScheduled";
const RESTARTING: &str = "AllContainersRestarting";
const DISRUPTION: &str = "DisruptionTarget";

const TRUE: &str = "True";
const FALSE: &str = "False";

const SANDBOX_NOT_READY: &str = "PodSandboxNotReady";
const NO_SANDBOX: &str = "no pod sandbox exists";
const LOST_SANDBOX: &str = "pod sandbox is not ready";

/// Whether a node alone writes conditions of this type. All others are left as they are.
pub(in crate::pods) fn is_owned(kind: &str) -> bool {
    matches!(
        kind,
        SANDBOX | INITIALIZED | READY | CONTAINERS_READY | SCHEDULED | RESTARTING | PENDING | IN_PROGRESS
    )
}

/// Whether a node may write conditions of this type besides others. It never removes them.
pub(in crate::pods) fn is_shared(kind: &str) -> bool {
    kind == DISRUPTION
}

/// What conditions are made from.
pub(super) struct Facts<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) lists: &'a Lists,
    /// The phase by the containers' states, which the conditions show before the status may.
    pub(super) apparent: Phase,
    /// The phase that is written.
    pub(super) phase: Phase,
    /// Set when the pod ends now, and by no fault of its own.
    pub(super) disruption: Option<&'a PodOutcome>,
    pub(super) generation: Option<i64>,
    /// Nothing runs, on evidence beyond the observation.
    pub(super) ended: bool,
    pub(super) now: &'a Time,
}

/// A verdict, before times and generation are added.
struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    const YES: Self = Self { holds: true, reason: None, message: None };

    fn no(reason: &'static str, message: impl Into<Option<String>>) -> Self {
        Self { holds: false, reason: Some(reason), message: message.into() }
    }
}

/// All conditions, in a kubelet's order: those of others first.
pub(super) fn conditions(facts: &Facts<'_>) -> Vec<PodCondition> {
    let current = facts.view.current.conditions.as_deref().unwrap_or_default();
    let mut all = Vec::with_capacity(current.len() + 6);
    // Those about a change of resources are the caller's to set, and come first; nothing is changed at the end.
    let about_resize = |c: &&PodCondition| c.type_ == PENDING || c.type_ == IN_PROGRESS;
    if !facts.phase.is_terminal() {
        all.extend(current.iter().filter(about_resize).cloned());
    }
    all.extend(current.iter().filter(|c| !is_owned(&c.type_)).cloned());
    if let Some(outcome) = facts.disruption {
        let verdict = Verdict {
            holds: true,
            reason: Some("TerminationByKubelet"),
            message: Some(outcome.message.clone()).filter(|m| !m.is_empty()),
        };
        let condition = facts.condition(DISRUPTION, verdict);
        match all.iter_mut().find(|c| c.type_ == DISRUPTION) {
            Some(old) => *old = condition,
            None => all.push(condition),
        }
    }

    let mut containers_ready = facts.containers_ready();
    let mut ready = match &containers_ready {
        Verdict { holds: true, .. } => facts.gates_ready(&all),
        Verdict { reason, message, .. } => {
            Verdict { holds: false, reason: *reason, message: message.clone() }
        }
    };
    if facts.phase.is_terminal() && (ready.holds || containers_ready.holds) {
        containers_ready = ended(facts.phase);
        ready = ended(facts.phase);
    }
    all.push(facts.condition(SANDBOX, facts.sandbox()));
    all.push(facts.condition(INITIALIZED, facts.initialized()));
    all.push(facts.condition(READY, ready));
    all.push(facts.condition(CONTAINERS_READY, containers_ready));
    all.push(facts.condition(SCHEDULED, Verdict::YES));
    if wanted::may_restart_all(facts.view.spec) {
        let mut condition = facts.condition(RESTARTING, facts.restarting());
        // The one condition on which a kubelet sets no generation.
        condition.observed_generation = None;
        all.push(condition);
    }
    all
}

/// In a pod whose phase is terminal already, perhaps set by another: what cannot be true any more.
pub(super) fn close(conditions: &mut [PodCondition], phase: Phase, gone: bool, now: &Time) {
    for condition in conditions.iter_mut().filter(|c| c.status == TRUE) {
        let verdict = match condition.type_.as_str() {
            READY | CONTAINERS_READY => ended(phase),
            SANDBOX if gone => Verdict::no(SANDBOX_NOT_READY, LOST_SANDBOX.to_owned()),
            _ => continue,
        };
        FALSE.clone_into(&mut condition.status);
        condition.reason = verdict.reason.map(str::to_owned);
        condition.message = verdict.message;
        condition.last_transition_time = Some(now.clone());
    }
}

fn ended(phase: Phase) -> Verdict {
    Verdict::no(if phase == Phase::Succeeded { "PodCompleted" } else { "PodFailed" }, None)
}

impl Facts<'_> {
    fn condition(&self, kind: &str, verdict: Verdict) -> PodCondition {
        let status = if verdict.holds { TRUE } else { FALSE };
        let since = self.present(kind).filter(|c| c.status == status);
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            observed_generation: self.generation,
            last_transition_time: since
                .and_then(|c| c.last_transition_time.clone())
                .or_else(|| Some(self.now.clone())),
            last_probe_time: None,
        }
    }

    /// The condition as it is now.
    fn present(&self, kind: &str) -> Option<&PodCondition> {
        self.view.current.conditions.iter().flatten().find(|c| c.type_ == kind)
    }

    fn sandbox(&self) -> Verdict {
        let present = self.present(SANDBOX);
        let existed = || {
            present.is_some_and(|c| c.status == TRUE || c.message.as_deref() == Some(LOST_SANDBOX))
                || self.lists.init.iter().chain(&self.lists.main).any(containers::was_started)
        };
        let lost = || Verdict::no(SANDBOX_NOT_READY, LOST_SANDBOX.to_owned());
        match self.view.runtime.map(|r| r.sandbox) {
            Some(Sandbox::Ready) if !self.ended => Verdict::YES,
            Some(Sandbox::Gone | Sandbox::Ready) => lost(),
            // Nothing is known yet, for instance after a restart of the node: no reason to deny it.
            None if !self.ended && present.is_some_and(|c| c.status == TRUE) => Verdict::YES,
            Some(Sandbox::Pending) | None if existed() => lost(),
            Some(Sandbox::Pending) | None => Verdict::no(SANDBOX_NOT_READY, NO_SANDBOX.to_owned()),
        }
    }

    fn initialized(&self) -> Verdict {
        if self.apparent == Phase::Succeeded {
            return Verdict { holds: true, reason: Some("PodCompleted"), message: None };
        }
        let begun = |s: &ContainerStatus| containers::is_running(s) || containers::ended(s).is_some();
        // Once initialized, a pod stays so while its sidecars or all of its containers start again.
        if self.lists.main.iter().any(begun) || self.present(INITIALIZED).is_some_and(|c| c.status == TRUE) {
            return Verdict::YES;
        }
        let incomplete = self.lists.init_with_spec(self.view.spec).filter(|(container, status)| {
            if container.is_sidecar() { status.started != Some(true) } else { !status.ready }
        });
        match names(incomplete.map(|(_, status)| status.name.as_str())) {
            Some(names) => {
                Verdict::no("ContainersNotInitialized", format!("containers with incomplete status: {names}"))
            }
            None => Verdict::YES,
        }
    }

    fn containers_ready(&self) -> Verdict {
        if self.apparent.is_terminal() {
            return ended(self.apparent);
        }
        let spec = self.view.spec;
        let sidecars = self.lists.init_with_spec(spec).filter(|(container, _)| container.is_sidecar());
        let unready = sidecars.chain(self.lists.main_with_spec(spec)).filter(|(_, status)| !status.ready);
        match names(unready.map(|(_, status)| status.name.as_str())) {
            Some(names) => {
                Verdict::no("ContainersNotReady", format!("containers with unready status: {names}"))
            }
            None => Verdict::YES,
        }
    }

    fn gates_ready(&self, conditions: &[PodCondition]) -> Verdict {
        let unmet: Vec<_> = self
            .view
            .spec
            .readiness_gates
            .iter()
            .flatten()
            .filter_map(|gate| {
                let gate = &gate.condition_type;
                match conditions.iter().find(|c| c.type_ == *gate) {
                    None => Some(format!(
                        "corresponding condition of pod readiness gate \"{gate}\" does not exist."
                    )),
                    Some(c) if c.status == TRUE => None,
                    Some(c) => Some(format!(
                        "the status of pod readiness gate \"{gate}\" is not \"True\", but {}",
                        c.status
                    )),
                }
            })
            .collect();
        if unmet.is_empty() { Verdict::YES } else { Verdict::no("ReadinessGatesNotReady", unmet.join(", ")) }
    }

    /// From the exit that asks for it until nothing of the old containers is left.
    fn restarting(&self) -> Verdict {
        if self.apparent.is_terminal() {
            return ended(self.apparent);
        }
        let spec = self.view.spec;
        let all = || self.lists.init_with_spec(spec).chain(self.lists.main_with_spec(spec));
        let asked = self.present(RESTARTING).is_some_and(|c| c.status == TRUE)
            || all().any(|(c, s)| containers::ended(s).is_some_and(|end| wanted::restarts_all(&c, end)));
        let left = all().any(|(_, s)| containers::is_running(s) || containers::ended(s).is_some());
        if asked && left {
            Verdict {
                holds: true,
                reason: Some("RestartAllContainersStarted"),
                message: Some("container exited with restart policy rule".to_owned()),
            }
        } else {
            Verdict { holds: false, reason: None, message: None }
        }
    }
}

/// Names as a kubelet lists them, `[a b]`.
fn names<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut text = String::new();
    for name in names {
        text.push(if text.is_empty() { '[' } else { ' ' });
        text.push_str(name);
    }
    if text.is_empty() {
        return None;
    }
    text.push(']');
    Some(text)
}
