//! The wall clock, as a value.

use jiff::Timestamp;
use tokio::time::Instant;

/// Tells the time of day.
///
/// [`Clock::system`] asks the operating system. [`Clock::virtual_from`] follows tokio's clock, so that in a
/// test with paused time the timestamps in statuses and leases move exactly as the timers do.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Virtual { base: Timestamp, origin: Instant },
}

impl Clock {
    /// The operating system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that shows `base` now and goes on with tokio's time. Needs a tokio runtime.
    #[must_use]
    pub fn virtual_from(base: Timestamp) -> Self {
        Self(Source::Virtual { base, origin: Instant::now() })
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Virtual { base, origin } => jiff::SignedDuration::try_from(origin.elapsed())
                .ok()
                .and_then(|elapsed| base.checked_add(elapsed).ok())
                .unwrap_or(Timestamp::MAX),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_virtual_clock_moves_with_paused_time() {
        let clock = Clock::virtual_from(Timestamp::UNIX_EPOCH);
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(clock.now().as_second(), 90);
    }
}
