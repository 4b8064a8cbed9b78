//! Recordings of a real kubelet, and the comparison of what a node did with them.
//!
//! ```text
//!  case.yaml ──▶ Case ──▶ what is to be done: pod, objects, actions ──▶ whoever runs it ──▶ Run
//!                 │                                                                          │
//!                 └──▶ Recording ──▶ Snapshots ─┐                      ┌─ Snapshots ◀── Names┘
//!                                               ▼                      ▼
//!                                            compare ──▶ Differences ──▶ explained, or not
//! ```
//!
//! Nothing here does I/O but [`Case::read_folder`]: the command `cargo xtask oracle` runs cases on the real control plane
//! over the process backend, tests replay them in memory, and both compare by this crate.
//!
//! # What is compared
//!
//! Everything that a watch delivered of a pod, after [`Snapshot`]'s normal form: phase, reason and message; the
//! conditions and their order; each container's state, last state, readiness, restarts and exit codes; generation,
//! grace and finalizers; then the pod's events by reason, text and number, and the logs. Of times only the presence
//! counts, of ids which of a container's runs they name.
//!
//! The last state has to be equal. Of those before, every recorded one has to occur, in order, and no other may, but
//! for [what a kubelet itself does one time and not the other](align).

pub mod align;
mod case;
mod compare;
mod events;
mod explained;
mod names;
mod snapshot;
mod text;

pub use self::case::{Act, Action, Case, Event, Recording, Target, Transition};
pub use self::compare::{Difference, Run, Verdict, has_come_to_the_end, judge};
pub use self::explained::{EXPLANATIONS, Explanation};
pub use self::names::Names;
pub use self::snapshot::Snapshot;
