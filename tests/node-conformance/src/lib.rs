//! Node-level conformance: a running node of any make, checked from outside, as its users see it.
//!
//! The suite needs a client for the cluster and the node's name. It knows nothing of how the node is made: every
//! demand is what a kubelet does, seen through the API server. [`run()`] runs the checks one after the other and
//! returns a [`Report`]; `vk-node conformance --node NAME` is its command line.
//!
//! ```text
//!  suite::ALL ─▶ run ─▶ Bed (a namespace) ─▶ check(&Bed) ─▶ Checked ─▶ Report
//!                        └── closed after the check, however it ended
//! ```
//!
//! Each check is a public function in [`checks`], has a namespace of its own, and a stated [`Cost`]: how many pods, how
//! long at most. What a node does not offer, or the caller may not do, is *not applicable* and says why; it is never
//! passed.
//!
//! # Workloads
//!
//! Pods are bound to the node by `spec.nodeName` and tolerate every taint. Their commands are a busybox shell's. They carry
//! annotations for the mock provider too (`mock.virtual-kubelet.io/…`), which runs no command and has to be told how
//! it ends; no other node looks at them.

pub mod checks;

mod bed;
mod calls;
mod history;
mod pod;
mod run;
mod settings;
mod stop;
mod suite;
mod workload;

pub use vk_conformance::report::{Outcome, Report, Verdict};

pub use self::bed::{Bed, until_removed};
pub use self::run::{Progress, Refused, preflight, run};
pub use self::settings::{Glob, Settings};
pub use self::stop::{Checked, Stop};
pub use self::suite::{ALL, Check, Cost, selected};
