//! Whether a node makes progress, and whether it is ready: named checks, asked when somebody asks.
//!
//! An open port says nothing. *Liveness* here means that work goes on: workers take pods that wait, the watch of
//! pods is alive, the lease is renewed. A failed liveness check names what is stuck. A restart is its remedy, or does no
//! harm: pods go on. *Readiness* means that the node can take pods: it is registered, it knows its pods, its
//! provider answers. What ails the backend is never a liveness failure.
//!
//! | check | of | fails when |
//! |---|---|---|
//! | `pod-workers` | liveness | pods wait, and none was taken for the provider's patience and five minutes |
//! | `pod-watch` | liveness | the watch of pods has failed for five minutes, or was not opened anew for eleven |
//! | `lease` | liveness | the lease was not renewed for its duration (where leases are allowed) |
//! | `registered` | readiness | the Node object has not been found or made yet |
//! | `pods-listed` | readiness | the pods have not been listed yet, at the API server or at the provider |
//! | `provider` | readiness | the provider does not answer, or says that it is not well |

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Progress: `/livez`, and `/healthz` of the kubelet API.
    Liveness,
    /// Readiness: `/readyz`, beside every liveness check.
    Readiness,
}

/// What a check found: nothing, or what is wrong.
pub type Verdict = Result<(), String>;

type Ask = Box<dyn Fn() -> Verdict + Send + Sync>;

/// The checks of one node. Cheap to clone; clones share the checks.
#[derive(Clone, Default)]
pub struct Health(Arc<RwLock<Vec<Check>>>);

struct Check {
    name: &'static str,
    concern: Concern,
    ask: Ask,
}

/// One check's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check's name, such as `lease`.
    pub name: &'static str,
    /// What it found.
    pub verdict: Verdict,
}

impl Health {
    /// No checks: always well.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check. It is called for each question, and must not wait; a check of the same name is replaced.
    pub fn check(
        &self,
        name: &'static str,
        concern: Concern,
        ask: impl Fn() -> Verdict + Send + Sync + 'static,
    ) {
        let check = Check { name, concern, ask: Box::new(ask) };
        let mut checks = self.0.write().unwrap_or_else(PoisonError::into_inner);
        checks.retain(|known| known.name != name);
        checks.push(check);
    }

    /// Asks every check about progress.
    #[must_use]
    pub fn liveness(&self) -> Vec<Finding> {
        self.ask(|check| check.concern == Concern::Liveness)
    }

    /// Asks every check there is: a node that does not live is not ready.
    #[must_use]
    pub fn readiness(&self) -> Vec<Finding> {
        self.ask(|_| true)
    }

    fn ask(&self, wanted: impl Fn(&Check) -> bool) -> Vec<Finding> {
        let checks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let asked = checks.iter().filter(|check| wanted(check));
        asked.map(|check| Finding { name: check.name, verdict: (check.ask)() }).collect()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(checks.iter().map(|check| check.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_asks_everything_and_liveness_only_about_progress() {
        let health = Health::new();
        health.check("lease", Concern::Liveness, || Ok(()));
        health.check("provider", Concern::Readiness, || Err("away".to_owned()));
        let lease = Finding { name: "lease", verdict: Ok(()) };
        let provider = Finding { name: "provider", verdict: Err("away".to_owned()) };
        assert_eq!(health.liveness(), std::slice::from_ref(&lease));
        assert_eq!(health.readiness(), [lease, provider]);
    }

    #[test]
    fn a_check_is_replaced_by_another_of_its_name() {
        let health = Health::new();
        health.check("lease", Concern::Liveness, || Err("none yet".to_owned()));
        health.clone().check("lease", Concern::Liveness, || Ok(()));
        assert_eq!(health.liveness(), [Finding { name: "lease", verdict: Ok(()) }]);
    }
}
