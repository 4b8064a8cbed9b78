//! Waiting for conditions.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a condition may take to come true, unless a test says otherwise.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `look` yields something for which it answers `Ok`, and returns that.
///
/// `look` returns `Err(what it saw)` while the condition does not hold.
///
/// # Panics
/// When the condition does not hold within `within`; the message has what was waited for, and the last look.
pub async fn eventually_within<T, E: Debug>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(5);
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= deadline => {
                panic!("{what}: not within {within:?}; last seen: {seen:#?}")
            }
            Err(_) => sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// [`eventually_within`] the usual [`PATIENCE`].
pub async fn eventually<T, E: Debug>(what: &str, look: impl AsyncFnMut() -> Result<T, E>) -> T {
    eventually_within(what, PATIENCE, look).await
}

/// Turns a condition into what [`eventually`] wants: `Ok(())`, or what was seen.
pub fn holds<E>(condition: bool, seen: impl FnOnce() -> E) -> Result<(), E> {
    if condition { Ok(()) } else { Err(seen()) }
}
