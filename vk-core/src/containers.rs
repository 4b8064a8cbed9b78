//! What a kubelet does with a pod's containers, for backends that do not do it themselves: pure state
//! machines, and a driver for them.
//!
//! | machine | decides |
//! |---|---|
//! | [`PodMachine`] | which container is started and which is stopped next: init containers in order, sidecars, app containers, restarts, the end |
//! | [`CrashLoop`] | how long a container waits before it is started again |
//! | [`ProbeMachine`] | when a probe runs, and what its results come to |
//!
//! None of them reads a clock or calls anything: they are told what happened and when, and asked what to do.
//! [`PodRunner`] tells and asks them, and does what they say on a [`ContainerBackend`], whose documentation has the
//! contract that such a backend keeps. `docs/container-backends.md` says what it has to remember, what it costs, and
//! when to write a [`Provider`](crate::provider::Provider) instead.

pub use self::backend::{
    BackendEvent, ContainerBackend, ContainerResize, ContainerRun, ContainerSpec, Image,
    LONGEST_TERMINATION_MESSAGE, RunExit, RunRecord, RunState, SandboxRecord,
};
pub use self::crash_loop::CrashLoop;
pub use self::dial::Dial;
pub use self::machine::{Action, End, PodMachine};
pub use self::probe::{ProbeKind, ProbeMachine, ProbeResult};
pub use self::runner::PodRunner;

mod backend;
mod command;
mod crash_loop;
mod dial;
mod hook;
mod machine;
mod probe;
mod probing;
mod runner;
mod words;
