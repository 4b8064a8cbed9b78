//! Waiting for a condition with a deadline, saying what is waited for.

use std::time::Duration;

use anyhow::{Result, bail};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// How often a wait that goes on says so.
const REMINDER: Duration = Duration::from_secs(5);

/// A point in real time. This crate drives operating system processes, which don't follow a paused clock.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "processes live in real time; no runtime and no paused clock here"
    )]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Blocks the thread for one polling period.
#[expect(
    clippy::disallowed_methods,
    reason = "called from plain threads only; the callers wait on a condition"
)]
pub(crate) fn pause() {
    std::thread::sleep(PERIOD);
}

/// Looks at `condition` until it is met, it fails, or `limit` has passed.
///
/// `condition` returns `Ok(None)` when met and `Ok(Some(what))` with what it still waits for, which becomes part
/// of the error at the deadline. Progress goes to stderr every few seconds.
pub fn until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<String>>,
) -> Result<()> {
    let started = Stopwatch::start();
    let mut next = REMINDER;
    loop {
        let Some(missing) = condition()? else { return Ok(()) };
        let waited = started.elapsed();
        if waited >= limit {
            bail!("{what}: not after {} s: {missing}", limit.as_secs());
        }
        if waited >= next {
            next = waited + REMINDER;
            eprintln!("  still waiting for {what} ({} s): {missing}", waited.as_secs());
        }
        pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_met_at_once_needs_no_wait() {
        let mut looks = 0;
        let met = until("nothing", Duration::ZERO, || {
            looks += 1;
            Ok(None)
        });
        assert!(met.is_ok());
        assert_eq!(looks, 1);
    }

    #[test]
    fn a_deadline_names_what_was_missing() {
        let error = until("the server", Duration::ZERO, || Ok(Some("connection refused".to_owned())));
        let text = error.expect_err("the condition is never met").to_string();
        assert_eq!(text, "the server: not after 0 s: connection refused");
    }

    #[test]
    fn a_condition_that_fails_ends_the_wait() {
        let error = until("the server", Duration::from_mins(1), || bail!("it exited"));
        assert_eq!(error.expect_err("the condition fails").to_string(), "it exited");
    }
}
