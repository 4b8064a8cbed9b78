//! How long a container waits before it is started again (`CrashLoopBackOff`).
//!
//! Source: `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`doBackOff`) and `client-go/util/flowcontrol`; figures
//! checked against the oracle case crashloop-long: the first restart comes at once, the next after 10 s, then 20 s,
//! and so on to 5 min, whatever the exit codes.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_mins(5);
/// A container that has not been restarted for so long begins anew.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// The back-off of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrashLoop {
    /// The pause after the next end, and when it was set.
    next: Option<(Duration, Instant)>,
}

impl CrashLoop {
    /// How long a container that ended at `ended` waits; zero is not at all.
    #[must_use]
    pub fn pause(&self, ended: Instant) -> Duration {
        match self.next {
            Some((pause, set)) if ended.saturating_duration_since(set) <= FORGOTTEN => pause,
            _ => Duration::ZERO,
        }
    }

    /// The container is started again.
    pub fn restarted(&mut self, ended: Instant, now: Instant) {
        let pause = self.pause(ended);
        let next = if pause.is_zero() { FIRST } else { (pause * 2).min(LONGEST) };
        self.next = Some((next, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_from_ten_seconds_to_five_minutes_after_a_first_restart_at_once() {
        let mut back_off = CrashLoop::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let ended = now + Duration::from_secs(1);
            let pause = back_off.pause(ended);
            pauses.push(pause.as_secs());
            now = ended + pause;
            back_off.restarted(ended, now);
        }
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(back_off.pause(now + Duration::from_secs(601)), Duration::ZERO, "ten good minutes");
        assert_eq!(back_off.pause(now + Duration::from_mins(10)), LONGEST);
    }
}
