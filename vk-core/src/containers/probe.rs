//! When a probe runs, and what its results come to.
//!
//! Source: `pkg/kubelet/prober/worker.go`. The first probe comes when the initial delay is over, at once if there is
//! none (oracle cases readiness-*, startup-*); the others a period after the one before was due. Liveness and
//! readiness wait for a startup probe to have passed.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::time::Instant;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Whether the container has started; until then the others wait. Failed: the container is restarted.
    Startup,
    /// Whether it works. Failed: it is restarted.
    Liveness,
    /// Whether it takes requests. Failed: the pod is not ready.
    Readiness,
}

/// What one run of a probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// It passed.
    Success,
    /// It did not.
    Failure,
    /// It could not be run; that counts for nothing.
    Unknown,
}

/// One probe of one run of a container.
#[derive(Clone, Debug)]
pub struct ProbeMachine {
    kind: ProbeKind,
    period: Duration,
    timeout: Duration,
    success_threshold: u32,
    failure_threshold: u32,
    due: Instant,
    /// `None` is a startup probe that has neither passed nor failed.
    verdict: Option<bool>,
    last: Option<ProbeResult>,
    in_a_row: u32,
    /// It has failed for good: the container is being restarted.
    over: bool,
}

impl ProbeMachine {
    /// The probe of a container that was started at `started`. Numbers that are not set are the API's defaults.
    #[must_use]
    pub fn new(kind: ProbeKind, probe: &Probe, started: Instant) -> Self {
        let seconds = |given: Option<i32>, default: u64| {
            Duration::from_secs(given.filter(|s| *s > 0).map_or(default, |s| u64::from(s.unsigned_abs())))
        };
        let times =
            |given: Option<i32>, default: u32| given.filter(|n| *n > 0).map_or(default, i32::unsigned_abs);
        Self {
            kind,
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success_threshold: times(probe.success_threshold, 1),
            failure_threshold: times(probe.failure_threshold, 3),
            due: started + seconds(probe.initial_delay_seconds, 0),
            verdict: match kind {
                ProbeKind::Startup => None,
                ProbeKind::Liveness => Some(true),
                ProbeKind::Readiness => Some(false),
            },
            last: None,
            in_a_row: 0,
            over: false,
        }
    }

    /// How long one run of it may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What its results have come to: passed, failed, or, of a startup probe, neither yet.
    #[must_use]
    pub fn verdict(&self) -> Option<bool> {
        self.verdict
    }

    /// When it runs next; `None` while it has nothing to find out. `started` is whether the container's startup
    /// probe has passed, or there is none.
    #[must_use]
    pub fn due(&self, started: bool) -> Option<Instant> {
        let held = match self.kind {
            ProbeKind::Startup => self.verdict == Some(true),
            ProbeKind::Liveness | ProbeKind::Readiness => !started,
        };
        (!held && !self.over).then_some(self.due)
    }

    /// A run of it has ended. Whether the verdict has changed.
    pub fn ended(&mut self, result: ProbeResult, now: Instant) -> bool {
        self.due += self.period;
        if self.due <= now {
            // Time that was missed is not made up for.
            self.due = now + self.period;
        }
        if result == ProbeResult::Unknown || self.over {
            return false;
        }
        self.in_a_row = if self.last == Some(result) { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = Some(result);
        let (passed, threshold) = match result {
            ProbeResult::Success => (true, self.success_threshold),
            _ => (false, self.failure_threshold),
        };
        if self.in_a_row < threshold {
            return false;
        }
        self.over = !passed && self.kind != ProbeKind::Readiness;
        let changed = self.verdict != Some(passed);
        self.verdict = Some(passed);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::ProbeResult::{Failure, Success, Unknown};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn probe(kind: ProbeKind, json: serde_json::Value) -> ProbeMachine {
        ProbeMachine::new(kind, &serde_json::from_value(json).unwrap(), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_probe_runs_at_once_and_the_next_a_period_later() {
        let begin = Instant::now();
        let mut readiness = probe(ProbeKind::Readiness, serde_json::json!({"periodSeconds": 2}));
        assert_eq!(readiness.due(true), Some(begin));
        readiness.ended(Success, begin + SECOND / 10);
        assert_eq!(readiness.due(true), Some(begin + 2 * SECOND));
        readiness.ended(Success, begin + 60 * SECOND);
        assert_eq!(readiness.due(true), Some(begin + 62 * SECOND), "missed runs are not made up for");
        let late = probe(ProbeKind::Liveness, serde_json::json!({"initialDelaySeconds": 7}));
        assert_eq!(late.due(true), Some(begin + 7 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn thresholds_count_results_in_a_row() {
        let json = serde_json::json!({"successThreshold": 2, "failureThreshold": 3});
        let mut readiness = probe(ProbeKind::Readiness, json);
        let now = Instant::now();
        let mut story = Vec::new();
        for result in [
            Success, Success, Failure, Failure, Success, Failure, Failure, Unknown, Failure, Success, Success,
        ] {
            readiness.ended(result, now);
            story.push(u8::from(readiness.verdict() == Some(true)));
        }
        assert_eq!(story, [0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_startup_probe_holds_the_others_back_until_it_has_passed() {
        let mut startup = probe(ProbeKind::Startup, serde_json::json!({"failureThreshold": 2}));
        let liveness = probe(ProbeKind::Liveness, serde_json::json!({}));
        assert_eq!((startup.verdict(), liveness.due(false)), (None, None));
        assert!(!startup.ended(Failure, Instant::now()));
        assert!(startup.ended(Success, Instant::now()));
        assert_eq!((startup.verdict(), startup.due(true)), (Some(true), None));
        assert!(liveness.due(true).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_liveness_or_startup_probe_is_over_and_readiness_goes_on() {
        for kind in [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness] {
            let mut probe = probe(kind, serde_json::json!({"failureThreshold": 1}));
            probe.ended(Failure, Instant::now());
            assert_eq!(probe.verdict(), Some(false));
            assert_eq!(probe.due(true).is_some(), kind == ProbeKind::Readiness, "{kind:?}");
        }
    }
}
