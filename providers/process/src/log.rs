//! What a container wrote.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{broadcast, watch};
use vk_core::provider::{LogEntry, LogOptions, LogOutput, LogSelection, LogStream};

/// How much of a log is kept: a kubelet's `containerLogMaxSize`. What is older goes.
const LIMIT: usize = 10 << 20;

/// The longest line that is kept in one piece.
const LINE: usize = 16 << 10;

/// A run's log. It ends once, when both outputs have.
#[derive(Debug)]
pub(crate) struct Log {
    kept: Mutex<Kept>,
    /// How many entries there ever were, and whether there can be more.
    state: watch::Sender<(u64, bool)>,
    /// The bytes as they come, for who is attached.
    live: broadcast::Sender<(LogOutput, Bytes)>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<LogEntry>,
    bytes: usize,
    /// The number of the first entry.
    first: u64,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self {
            kept: Mutex::default(),
            state: watch::Sender::new((0, false)),
            live: broadcast::Sender::new(64),
        }
    }

    /// Reads both outputs to their ends. Where both have something, standard output comes first.
    pub(crate) async fn read_both(&self, out: impl AsyncRead + Unpin, err: impl AsyncRead + Unpin) {
        // Polled in this order, each for as long as it has something.
        futures::future::join(self.read(LogOutput::Stdout, out), self.read(LogOutput::Stderr, err)).await;
    }

    /// Reads an output to its end. A line without an end is an entry when the output ends.
    pub(crate) async fn read(&self, output: LogOutput, mut source: impl AsyncRead + Unpin) {
        let mut buffer = BytesMut::new();
        // An output that cannot be read any more has ended: a terminal says so with an error.
        while let Ok(1..) = source.read_buf(&mut buffer).await {
            let whole = buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let mut lines = buffer.split_to(whole);
            if !lines.is_empty() {
                // Nobody attached is no error.
                let _ = self.live.send((output, Bytes::copy_from_slice(&lines)));
            }
            while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                self.push(output, lines.split_to(end + 1).freeze());
            }
            while buffer.len() >= LINE {
                self.push(output, buffer.split_to(LINE).freeze());
            }
        }
        if !buffer.is_empty() {
            let _ = self.live.send((output, Bytes::copy_from_slice(&buffer)));
            self.push(output, buffer.freeze());
        }
    }

    fn push(&self, output: LogOutput, mut line: Bytes) {
        // A terminal ends lines with two characters, of which containerd keeps one.
        if line.ends_with(b"\r\n") {
            line.truncate(line.len() - 2);
            line = [&line[..], b"\n"].concat().into();
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += line.len();
        kept.entries.push_back(LogEntry { time: Timestamp::now(), output, line });
        while kept.bytes > LIMIT
            && let Some(oldest) = kept.entries.pop_front()
        {
            kept.bytes -= oldest.line.len();
            kept.first += 1;
        }
        let count = kept.first + kept.entries.len() as u64;
        drop(kept);
        self.state.send_modify(|state| state.0 = count);
    }

    /// Nothing more will be written.
    pub(crate) fn end(&self) {
        self.state.send_modify(|state| state.1 = true);
    }

    /// The outputs from now on.
    pub(crate) fn live(&self) -> broadcast::Receiver<(LogOutput, Bytes)> {
        self.live.subscribe()
    }

    fn from(&self, number: u64) -> (Vec<LogEntry>, u64) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = usize::try_from(number.saturating_sub(kept.first)).unwrap_or(usize::MAX);
        let end = kept.first + kept.entries.len() as u64;
        (kept.entries.iter().skip(skip).cloned().collect(), end)
    }
}

/// Opens a log. A followed one ends when it can grow no more.
pub(crate) fn open(log: &std::sync::Arc<Log>, options: &LogOptions) -> LogStream {
    let mut selection = LogSelection::new(options, Timestamp::now());
    let (history, end) = log.from(0);
    for entry in history {
        selection.push(entry);
    }
    let history = stream::iter(selection.into_entries().into_iter().map(Ok));
    if !options.follow {
        return history.boxed();
    }
    let state = log.state.subscribe();
    let follow = stream::unfold((log.clone(), state, end), |(log, mut state, next)| async move {
        loop {
            let ended = state.borrow_and_update().1;
            let (entries, end) = log.from(next);
            if !entries.is_empty() {
                return Some((stream::iter(entries.into_iter().map(Ok)), (log, state, end)));
            }
            if ended || state.changed().await.is_err() {
                return None;
            }
        }
    });
    history.chain(follow.flatten()).boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    async fn text(stream: LogStream) -> String {
        let lines: Vec<_> = stream.map(|entry| entry.unwrap().line).collect().await;
        String::from_utf8(lines.concat()).unwrap()
    }

    #[tokio::test]
    async fn a_last_line_without_its_end_shows_when_the_output_has_ended() {
        let log = Arc::new(Log::new());
        let (mut writer, reader) = tokio::io::duplex(64);
        let task = tokio::spawn({
            let log = log.clone();
            async move { log.read(LogOutput::Stdout, reader).await }
        });
        let followed = tokio::spawn(text(open(&log, &LogOptions { follow: true, ..LogOptions::default() })));
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"one\ntwo").await.unwrap();
        let mut state = log.state.subscribe();
        state.wait_for(|state| state.0 == 1).await.unwrap();
        assert_eq!(text(open(&log, &LogOptions::default())).await, "one\n");
        drop(writer);
        task.await.unwrap();
        log.end();
        assert_eq!(text(open(&log, &LogOptions::default())).await, "one\ntwo");
        assert_eq!(followed.await.unwrap(), "one\ntwo");
    }

    #[tokio::test]
    async fn only_so_much_of_a_log_is_kept() {
        let log = Arc::new(Log::new());
        let line = vec![b'x'; LINE];
        for _ in 0..=LIMIT / LINE {
            log.push(LogOutput::Stdout, Bytes::from(line.clone()));
        }
        log.push(LogOutput::Stdout, Bytes::from_static(b"last\n"));
        let kept = text(open(&log, &LogOptions::default())).await;
        assert!(kept.len() <= LIMIT && kept.ends_with("last\n"), "{}", kept.len());
    }
}
