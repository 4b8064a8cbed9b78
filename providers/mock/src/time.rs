//! Sums of times that cannot overflow.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The moment `delay` after `time`, or the end of the calendar.
pub(crate) fn after(time: Timestamp, delay: Duration) -> Timestamp {
    SignedDuration::try_from(delay)
        .ok()
        .and_then(|delay| time.checked_add(delay).ok())
        .unwrap_or(Timestamp::MAX)
}

/// How long it is from `earlier` to `later`; zero if it is the other way round.
pub(crate) fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}
