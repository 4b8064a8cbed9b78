//! The provider contract as tests.
//!
//! ```text
//!  your Subject ──▶ Suite ──▶ for each Clause: Bench ──▶ connect, make pods, look, judge, delete ──▶ Report
//!                    │                           │
//!                    └─ Cost, before the run     └─ Journal: what watch and listing have told
//! ```
//!
//! A [`Subject`] says how to connect to a backend, and how it is made to run a few small workloads. [`CLAUSES`] are
//! the contract of [`vk_core::provider`], clause by clause; each is one public function in [`clauses`], and each is
//! about one thing: a provider with one mistake fails one clause. [`conformance!`] makes a test of each, and [`Suite`]
//! runs them all and writes a [`Report`](report::Report).
//!
//! # For a provider of your own
//!
//! In a crate of your own, with `vk-conformance` among the dev-dependencies, `tests/conformance.rs`:
//!
//! ```
//! use std::sync::Arc;
//!
//! use vk_conformance::{Patience, Recipe, Subject, Work};
//! use vk_core::clock::Clock;
//! use vk_core::containers::{Dial, PodRunner};
//! use vk_core::provider::{Provider, Result};
//! # use vk_mock::MockContainers as MyContainers;
//!
//! #[derive(Debug)]
//! struct MyBackend(MyContainers, Clock);
//!
//! #[vk_conformance::async_trait]
//! impl Subject for MyBackend {
//!     fn name(&self) -> String {
//!         "my backend".to_owned()
//!     }
//!     // A daemon starts: a new provider, for pods that may be there already.
//!     async fn connect(&self) -> Result<Arc<dyn Provider>> {
//!         Ok(Arc::new(PodRunner::dialing(Arc::new(self.0.clone()), self.1.clone(), Dial::PortForward)))
//!     }
//!     // Its images have a shell.
//!     fn recipe(&self, _container: &str, work: &Work) -> Option<Recipe> {
//!         Recipe::shell("tool:1", work)
//!     }
//!     fn patience(&self) -> Patience {
//!         Patience::local()
//!     }
//! }
//!
//! fn subject() -> MyBackend {
//!     let clock = Clock::virtual_from("2026-01-01T00:00:00Z".parse().unwrap());
//!     MyBackend(MyContainers::new(clock.clone()).with_image("tool:1"), clock)
//! }
//!
//! // One test for each clause, in paused time; without `paused`, in real time.
//! vk_conformance::conformance!(paused subject);
//! # fn main() {}
//! ```
//!
//! # What it costs
//!
//! [`Suite::cost`] says it before the run: how many pods, how many at once, and how long at most. Each clause has a
//! deadline, from [`Patience`]; what it made is deleted before the next one begins, also when it failed, took too long,
//! or the run was [stopped](Suite::run_until). On a backend that bills, a run is 120 small pods of about a minute.
//!
//! # What it can't see
//!
//! A provider is judged by what it says. One that keeps billing for what it no longer lists lies beyond reach, and so does
//! one that stops asking the backend when its watch is dropped, or does not. Faults are injected *below* the provider
//! ([`Subject::faults`]); without switches there, what a provider makes of a failing backend is not applicable.

pub use async_trait::async_trait;

pub use self::bench::Bench;
pub use self::check::{Check, Stop};
pub use self::clauses::{CLAUSES, Clause};
pub use self::pods::Plan;
pub use self::subject::{Answers, Errand, Patience, Recipe, Subject, Work};
#[doc(hidden)]
pub use self::suite::test as __test;
pub use self::suite::{Cost, Suite};

pub mod bench;
mod check;
pub mod clauses;
pub mod journal;
pub mod pods;
pub mod report;
pub mod subject;
mod suite;

/// A test for each clause, from a function (or any expression that can be called without arguments) that makes a
/// [`Subject`]; it is called inside the test's runtime.
///
/// `conformance!(subject)` runs in real time, `conformance!(paused subject)` in paused time, in which nothing takes long
/// and which is for backends in memory alone. A clause that does not apply passes, and says why on standard error.
#[macro_export]
macro_rules! conformance {
    (paused $subject:expr) => {
        $crate::with_clauses!($crate::__tests { true, $subject });
    };
    ($subject:expr) => {
        $crate::with_clauses!($crate::__tests { false, $subject });
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ({ $paused:literal, $subject:expr } $($module:ident $name:ident $pods:literal $demand:literal;)+) => {
        $(
            #[test]
            fn $name() {
                $crate::__test($paused, $subject, stringify!($name));
            }
        )+
    };
}
