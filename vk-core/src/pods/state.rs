//! Where a pod is in its life: a total transition function over a small table.
//!
//! ```text
//!             CreateSent              ObservedLive
//!  Accepted ─────────────▶ Creating ───────────────▶ Syncing
//!     │                        │                        │
//!     │ DeleteRequested        │ DeleteRequested        │ DeleteRequested
//!     ▼                        ▼                        ▼
//!     └──────────────────▶ Terminating ◀────────────────┘
//!                              │ ObservedTerminal, ObservedGone
//!                              ▼
//!                          Terminated ──StatusPublished──▶ Released
//! ```
//!
//! `Terminated` is also reached from the upper row when the pod ends by itself, is lost, or is rejected.
//! `Terminated` and `Released` are apart because "everything has stopped" and "the API server knows" are
//! apart, and that gap is where statuses get lost.

/// A pod's place in its life, as far as this process knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum PodState {
    /// Bound to this node; nothing has been asked of the backend. The next pass resolves and creates it.
    Accepted,
    /// A create was sent and may have taken effect, whatever its answer was. The next pass looks for the
    /// pod, and repeats the create if that failed.
    Creating,
    /// Seen at the backend. The next pass publishes what changed.
    Syncing,
    /// Has to stop. The next pass sends the deletion, or waits for its effect.
    Terminating,
    /// Nothing of it can run any more. The next pass publishes the terminal status.
    Terminated,
    /// The API server knows the end. The next pass removes the object if that is wanted, frees what is left
    /// at the backend, and forgets the pod once its object is gone.
    Released,
}

/// Something that happened to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum PodInput {
    /// A create is about to be sent. Recorded before the call, because a cancelled call may have taken
    /// effect.
    CreateSent,
    /// The pod can never run here.
    Rejected,
    /// The backend has the pod, and it may run.
    ObservedLive,
    /// The backend has the pod, and nothing of it can run any more.
    ObservedTerminal,
    /// The backend does not have the pod, on evidence.
    ObservedGone,
    /// The API object is marked for deletion, or gone.
    DeleteRequested,
    /// The API server has the terminal status, or there is no object left to write it to.
    StatusPublished,
}

impl PodState {
    /// Every state.
    #[cfg(test)]
    pub(super) const ALL: [Self; 6] =
        [Self::Accepted, Self::Creating, Self::Syncing, Self::Terminating, Self::Terminated, Self::Released];

    /// The state after an input; the same state where the input changes nothing.
    #[must_use]
    #[expect(clippy::match_same_arms, reason = "each line is a row of the table")]
    pub(super) const fn next(self, input: PodInput) -> Self {
        use PodInput as I;
        match (self, input) {
            (Self::Accepted | Self::Creating, I::CreateSent) => Self::Creating,
            (Self::Accepted | Self::Creating, I::ObservedLive) => Self::Syncing,
            (Self::Accepted | Self::Creating, I::Rejected) => Self::Terminated,
            (
                Self::Accepted | Self::Creating | Self::Syncing | Self::Terminating,
                I::ObservedTerminal | I::ObservedGone,
            ) => Self::Terminated,
            (Self::Accepted | Self::Creating | Self::Syncing, I::DeleteRequested) => Self::Terminating,
            (Self::Terminated, I::StatusPublished) => Self::Released,
            (state, _) => state,
        }
    }

    /// Where a pod that this process has just met stands, from what the API server and the backend say.
    /// The backend's word about a pod that has ended counts for more than the API's.
    #[must_use]
    #[expect(clippy::match_same_arms, reason = "each line is a row of the table, in order of precedence")]
    pub(super) const fn recover(api: ApiView, backend: BackendView) -> Self {
        match (backend, api) {
            (BackendView::Terminal | BackendView::Absent, ApiView::Terminal) => Self::Released,
            // Somebody else (the pod garbage collector, an eviction) has ended it; it must stop.
            (BackendView::Live, ApiView::Terminal | ApiView::Gone | ApiView::Deleting) => Self::Terminating,
            (BackendView::Live, ApiView::Fresh | ApiView::Started) => Self::Syncing,
            (BackendView::Terminal, ApiView::Gone) => Self::Released,
            (BackendView::Terminal, _) => Self::Terminated,
            (BackendView::Absent, ApiView::Fresh) => Self::Accepted,
            // It ran once and the backend has lost it: running it again in silence would be a lie.
            (BackendView::Absent, ApiView::Started | ApiView::Deleting) => Self::Terminated,
            (BackendView::Absent, ApiView::Gone) => Self::Released,
        }
    }

    /// Whether everything has stopped.
    #[must_use]
    pub(super) const fn is_over(self) -> bool {
        matches!(self, Self::Terminated | Self::Released)
    }
}

impl PodInput {
    /// Every input.
    #[cfg(test)]
    pub(super) const ALL: [Self; 7] = [
        Self::CreateSent,
        Self::Rejected,
        Self::ObservedLive,
        Self::ObservedTerminal,
        Self::ObservedGone,
        Self::DeleteRequested,
        Self::StatusPublished,
    ];
}

/// What the API server says of a pod that this process has just met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiView {
    /// Never reported as started.
    Fresh,
    /// Reported as started at some time: a container ran.
    Started,
    /// Marked for deletion, not terminal.
    Deleting,
    /// `Succeeded` or `Failed`.
    Terminal,
    /// No such object.
    Gone,
}

/// What the backend says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackendView {
    /// It is there and may run.
    Live,
    /// It is there and has ended.
    Terminal,
    /// A complete listing does not have it.
    Absent,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_transition_table_is_this_one() {
        let mut table = String::new();
        for state in PodState::ALL {
            for input in PodInput::ALL {
                let next = state.next(input);
                if next != state {
                    writeln!(table, "{state:?} + {input:?} -> {next:?}").expect("a string takes all");
                }
            }
        }
        insta::assert_snapshot!(table, @r"
        Accepted + CreateSent -> Creating
        Accepted + Rejected -> Terminated
        Accepted + ObservedLive -> Syncing
        Accepted + ObservedTerminal -> Terminated
        Accepted + ObservedGone -> Terminated
        Accepted + DeleteRequested -> Terminating
        Creating + Rejected -> Terminated
        Creating + ObservedLive -> Syncing
        Creating + ObservedTerminal -> Terminated
        Creating + ObservedGone -> Terminated
        Creating + DeleteRequested -> Terminating
        Syncing + ObservedTerminal -> Terminated
        Syncing + ObservedGone -> Terminated
        Syncing + DeleteRequested -> Terminating
        Terminating + ObservedTerminal -> Terminated
        Terminating + ObservedGone -> Terminated
        Terminated + StatusPublished -> Released
        ");
    }

    #[test]
    fn what_is_over_never_comes_back() {
        for state in PodState::ALL.into_iter().filter(|s| s.is_over()) {
            for input in PodInput::ALL {
                assert!(state.next(input).is_over(), "{state:?} + {input:?}");
            }
        }
    }

    #[test]
    fn no_input_moves_a_pod_backwards() {
        for state in PodState::ALL {
            for input in PodInput::ALL {
                assert!(state.next(input) >= state, "{state:?} + {input:?}");
            }
        }
    }
}
