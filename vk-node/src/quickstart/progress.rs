//! What the quickstart says while it works.

use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

/// Lines with the time since the start.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    /// Begins now.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// A step that has been taken.
    pub(crate) fn step(&self, text: &str) {
        self.say(&format!("[{}] {text}", seconds(self.start.elapsed())));
    }

    /// The one line of the result.
    pub(crate) fn end(&self, result: &str) {
        self.say(&format!("quickstart {result} ({})", seconds(self.start.elapsed()).trim()));
    }

    /// A line as it is. A reader that has gone away is no reason to stop.
    #[allow(clippy::unused_self, reason = "what is said is part of the progress")]
    pub(crate) fn say(&self, line: &str) {
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

fn seconds(time: Duration) -> String {
    format!("{:6.2} s", time.as_secs_f64())
}
