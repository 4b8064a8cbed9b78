//! Streams between a client and a container: logs, exec, attach, port-forward.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::error::Result;

/// Bytes towards a container. End of file means that the client closed its side.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// Bytes from a container. A write waits while the client is slow; dropping it closes the stream.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection in both directions, with half-close.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The streams of an exec or attach session. A terminal has one merged output and a size; pipes have
/// neither.
pub enum ExecIo {
    /// `tty: true`.
    Tty {
        /// What the user types, if asked for.
        stdin: Option<Reader>,
        /// The terminal's output.
        output: Writer,
        /// Window sizes: the first at once, then every change; sizes not yet read are merged.
        resize: mpsc::Receiver<TerminalSize>,
    },
    /// `tty: false`.
    Pipes {
        /// Standard input, if asked for.
        stdin: Option<Reader>,
        /// Standard output, if asked for.
        stdout: Option<Writer>,
        /// Standard error, if asked for.
        stderr: Option<Writer>,
    },
}

impl std::fmt::Debug for ExecIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tty { .. } => "ExecIo::Tty",
            Self::Pipes { .. } => "ExecIo::Pipes",
        })
    }
}

/// A terminal's window, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How a process ended. A non-zero code is an answer, not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code; a signal n is 128 + n.
    Code(i32),
    /// It ended, and the backend does not say how.
    Unknown,
}

/// Which part of a container's log is wanted, as `v1.PodLogOptions` asks for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogOptions {
    /// The run before the present one.
    pub previous: bool,
    /// Go on with new lines until the container ends.
    pub follow: bool,
    /// Where to begin; `None` is the first line.
    pub start: Option<LogStart>,
    /// Only so many of the last lines; `Some(0)` is none of the present ones.
    pub tail: Option<u64>,
    /// Prefix each line with its time. Done by the node.
    pub timestamps: bool,
    /// Stop after so many bytes, in the middle of a line if need be. Done by the node.
    pub limit_bytes: Option<u64>,
    /// Only one of the two outputs. Done by the node.
    pub output: Option<LogOutput>,
}

/// Where a log begins: `sinceSeconds` and `sinceTime` exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStart {
    /// Lines no older than this.
    Ago(Duration),
    /// Lines written at this moment or later.
    At(Timestamp),
}

/// Which of a container's outputs a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of a container's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// When it was written, by the backend's clock.
    pub time: Timestamp,
    /// Where it was written; backends that merge the two say `Stdout`.
    pub output: LogOutput,
    /// The bytes, with the line's end if it has one.
    pub line: Bytes,
}

/// A log being read. Items come in order; an `Err` ends the log with that error; dropping it stops the
/// read at the backend.
pub type LogStream = BoxStream<'static, Result<LogEntry>>;

/// Applies [`LogOptions::start`] and [`LogOptions::tail`] to the history of a log.
///
/// For providers that hold or page through the log themselves: push every entry of the history, oldest
/// first, then take what is left. Holds at most `tail` entries when a tail is asked for.
#[derive(Debug)]
pub struct LogSelection {
    since: Option<Timestamp>,
    tail: Option<usize>,
    kept: VecDeque<LogEntry>,
}

impl LogSelection {
    /// A selection at a moment; `sinceSeconds` counts back from it.
    #[must_use]
    pub fn new(options: &LogOptions, now: Timestamp) -> Self {
        let since = options.start.map(|start| match start {
            LogStart::At(time) => time,
            LogStart::Ago(ago) => jiff::SignedDuration::try_from(ago)
                .ok()
                .and_then(|ago| now.checked_sub(ago).ok())
                .unwrap_or(Timestamp::MIN),
        });
        let tail = options.tail.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
        Self { since, tail, kept: VecDeque::new() }
    }

    /// Takes the next entry of the history into account.
    pub fn push(&mut self, entry: LogEntry) {
        if self.since.is_some_and(|since| entry.time < since) {
            return;
        }
        match self.tail {
            Some(0) => {}
            Some(tail) => {
                if self.kept.len() == tail {
                    self.kept.pop_front();
                }
                self.kept.push_back(entry);
            }
            None => self.kept.push_back(entry),
        }
    }

    /// The selected entries, oldest first.
    #[must_use]
    pub fn into_entries(self) -> Vec<LogEntry> {
        self.kept.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(second: i64) -> LogEntry {
        let time = Timestamp::from_second(second).expect("a small number of seconds");
        LogEntry { time, output: LogOutput::Stdout, line: Bytes::from(format!("{second}\n")) }
    }

    fn select(options: &LogOptions) -> Vec<i64> {
        let now = Timestamp::from_second(10).expect("a small number of seconds");
        let mut selection = LogSelection::new(options, now);
        (1..=9).map(entry).for_each(|e| selection.push(e));
        selection.into_entries().iter().map(|e| e.time.as_second()).collect()
    }

    #[test]
    fn a_tail_of_zero_selects_nothing_and_no_tail_selects_all() {
        assert_eq!(select(&LogOptions { tail: Some(0), ..LogOptions::default() }), [0_i64; 0]);
        assert_eq!(select(&LogOptions::default()), (1..=9).collect::<Vec<_>>());
    }

    #[test]
    fn the_start_is_applied_before_the_tail() {
        let start = Some(LogStart::Ago(Duration::from_secs(3)));
        assert_eq!(select(&LogOptions { start, ..LogOptions::default() }), [7, 8, 9]);
        assert_eq!(select(&LogOptions { start, tail: Some(2), ..LogOptions::default() }), [8, 9]);
        assert_eq!(select(&LogOptions { start, tail: Some(5), ..LogOptions::default() }), [7, 8, 9]);
    }
}
