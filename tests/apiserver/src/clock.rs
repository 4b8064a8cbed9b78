//! Wall-clock time that follows `tokio::time`, so that paused test time moves timestamps too.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// The server's clock: the wall clock at its start, plus tokio's elapsed time, plus a settable jump.
#[derive(Debug)]
pub struct Clock {
    base: Timestamp,
    start: Instant,
    jump_millis: AtomicI64,
}

impl Clock {
    /// A clock that reads `base` now.
    #[must_use]
    pub fn starting_at(base: Timestamp) -> Self {
        Self { base, start: Instant::now(), jump_millis: AtomicI64::new(0) }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::MAX);
        let jump = SignedDuration::from_millis(self.jump_millis.load(Ordering::Relaxed));
        self.base.saturating_add(elapsed).and_then(|t| t.saturating_add(jump)).unwrap_or(Timestamp::MAX)
    }

    /// Moves the clock by `by`, forwards or backwards, without touching tokio's timers: what a stepped
    /// system clock looks like.
    pub fn jump(&self, by: SignedDuration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.jump_millis.fetch_add(millis, Ordering::Relaxed);
    }

    /// `metav1.Time`: whole seconds, such as `2026-11-23T22:18:00Z`.
    #[must_use]
    pub fn time(&self) -> String {
        format_time(self.now())
    }

    /// `metav1.MicroTime`: six digits, such as `2026-11-23T22:18:00.000000Z`.
    #[must_use]
    pub fn micro_time(&self) -> String {
        format!("{:.6}", self.now())
    }
}

/// A timestamp as `metav1.Time`: whole seconds, the fraction cut off.
#[must_use]
pub(crate) fn format_time(at: Timestamp) -> String {
    let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
    format!("{whole:.0}")
}

/// Reads a `metav1.Time` or `MicroTime`.
#[must_use]
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_follows_tokio_and_jumps() {
        let clock = Clock::starting_at("2026-01-02T03:04:05.9Z".parse().unwrap());
        assert_eq!(clock.time(), "2026-01-02T03:04:05Z");
        assert_eq!(clock.micro_time(), "2026-01-02T03:04:05.900000Z");
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(clock.time(), "2026-01-02T03:05:05Z");
        clock.jump(SignedDuration::from_hours(-1));
        assert_eq!(clock.time(), "2026-01-02T02:05:05Z");
    }
}
