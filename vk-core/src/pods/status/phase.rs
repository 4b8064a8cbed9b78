//! The phase of a pod, from its containers (`getPhase` in `pkg/kubelet/kubelet_pods.go`).

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodSpec, PodStatus};

use super::containers::{self, Lists, is_running};
use super::wanted::restarts;

/// A pod's phase. The order is the one in which a pod goes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// The phase written last. A pod without one, or with `Unknown`, is at its beginning.
    pub(super) fn of_status(status: &PodStatus) -> Self {
        match status.phase.as_deref() {
            Some("Running") => Self::Running,
            Some("Succeeded") => Self::Succeeded,
            Some("Failed") => Self::Failed,
            _ => Self::Pending,
        }
    }

    pub(super) fn is_terminal(self) -> bool {
        self >= Self::Succeeded
    }

    /// What the containers say, whether or not it may be published yet. `ended`: nothing will be restarted
    /// any more, whatever the restart policy.
    pub(super) fn of(spec: &PodSpec, lists: &Lists, ended: bool) -> Self {
        let mut uninitialized = false;
        let mut running = false;
        let mut waiting = false;
        let mut sidecar_pending = false;
        for (container, status) in lists.init_with_spec(spec) {
            let sidecar = container.is_sidecar();
            match state(status) {
                State::Running if sidecar => {
                    running = true;
                    sidecar_pending |= status.started != Some(true);
                }
                State::Waiting if sidecar => {
                    sidecar_pending = true;
                    waiting = true;
                }
                // An ended sidecar never decides.
                State::Ended(_) | State::Restarting(_) if sidecar => {}
                State::Running | State::Waiting => uninitialized = true,
                State::Ended(end) | State::Restarting(end) => {
                    if end.exit_code != 0 && !restarts(&container, spec, end) {
                        return Self::Failed;
                    }
                }
            }
        }

        let mut stopped = 0;
        let mut for_good = 0;
        let mut succeeded = 0;
        let mut begun = false;
        for (container, status) in lists.main_with_spec(spec) {
            match state(status) {
                State::Running => {
                    running = true;
                    begun = true;
                }
                State::Waiting => waiting = true,
                state @ (State::Ended(end) | State::Restarting(end)) => {
                    begun = true;
                    stopped += 1;
                    for_good += u32::from(!restarts(&container, spec, end));
                    succeeded += u32::from(matches!(state, State::Ended(_)) && end.exit_code == 0);
                }
            }
        }

        if uninitialized || (sidecar_pending && !begun) || waiting {
            Self::Pending
        } else if running {
            Self::Running
        } else if stopped == 0 {
            Self::Pending
        } else if !ended && stopped != for_good {
            Self::Running
        } else if stopped == succeeded {
            Self::Succeeded
        } else {
            Self::Failed
        }
    }
}

/// A container as the phase sees it.
#[derive(Clone, Copy)]
enum State<'a> {
    Running,
    /// Waiting, and never ran.
    Waiting,
    Ended(&'a ContainerStateTerminated),
    /// Waiting, after a run that ended so.
    Restarting(&'a ContainerStateTerminated),
}

fn state(status: &ContainerStatus) -> State<'_> {
    if is_running(status) {
        return State::Running;
    }
    match (containers::ended(status), containers::last_ended(status)) {
        (Some(end), _) => State::Ended(end),
        (None, Some(end)) => State::Restarting(end),
        (None, None) => State::Waiting,
    }
}
