//! A log on its way to the client: pulled line by line, cut and stamped as asked for.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::provider::{LogEntry, LogOptions, LogOutput, LogStream};

/// Lines that are there at once travel together up to this many bytes; one longer line travels alone.
const BATCH: usize = 16 * 1024;

/// After so many entries without a byte for the client (the other output's, say) other tasks get a turn.
const TURN: usize = 1024;

/// Why a body ended before its log did: the connection is cut, so that the client doesn't take it for the end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    /// The provider failed.
    #[error("reading the log failed: {0}")]
    Provider(String),
    /// The node shuts down while the log is followed.
    #[error("the node is shutting down")]
    Closing,
}

/// The bytes of a log. Nothing is read ahead: the provider is asked for more when the client has taken what
/// there was. Dropping it drops the provider's stream.
pub(super) struct LogBody {
    log: LogStream,
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    timestamps: bool,
    output: Option<LogOutput>,
    left: Option<u64>,
    mid_line: bool,
    end: End,
}

/// How far a log is; it may have ended while its last batch has yet to go.
enum End {
    NotYet,
    Clean,
    Cut(Cut),
    // Told to the connection when it has had a turn to send what it has: on an error it drops the rest.
    Cutting(Cut),
}

impl LogBody {
    /// A body for the options; `closing` ends a followed log.
    pub(super) fn new(log: LogStream, options: &LogOptions, closing: Option<CancellationToken>) -> Self {
        let closing = closing.filter(|_| options.follow).map(|token| Box::pin(token.cancelled_owned()));
        Self {
            log,
            closing,
            timestamps: options.timestamps,
            output: options.output,
            left: options.limit_bytes,
            mid_line: false,
            end: End::NotYet,
        }
    }

    fn put(&mut self, batch: &mut BytesMut, entry: &LogEntry) {
        if self.output.is_some_and(|output| output != entry.output) || entry.line.is_empty() {
            return;
        }
        if self.timestamps && !self.mid_line {
            let stamp = stamp(entry.time);
            self.append(batch, stamp.as_bytes());
        }
        self.mid_line = !entry.line.ends_with(b"\n");
        self.append(batch, &entry.line);
    }

    fn append(&mut self, batch: &mut BytesMut, bytes: &[u8]) {
        let bytes = match &mut self.left {
            None => bytes,
            Some(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                &bytes[..taken]
            }
        };
        batch.put_slice(bytes);
    }
}

/// Nine digits, as the kubelet's log files have them, and a space.
fn stamp(time: Timestamp) -> String {
    format!("{time:.9} ")
}

impl Stream for LogBody {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut batch = BytesMut::new();
        let mut entries = 0;
        while matches!(self.end, End::NotYet) && batch.len() < BATCH {
            if self.left == Some(0) {
                self.end = End::Clean;
                break;
            }
            if self.closing.as_mut().is_some_and(|closing| closing.as_mut().poll(cx).is_ready()) {
                self.end = End::Cut(Cut::Closing);
                break;
            }
            entries += 1;
            if entries > TURN && batch.is_empty() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.log.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(entry))) => self.put(&mut batch, &entry),
                Poll::Ready(Some(Err(error))) => {
                    let error = error.chain();
                    tracing::warn!(error, "kubelet API: a log broke off");
                    self.end = End::Cut(Cut::Provider(error));
                }
                Poll::Ready(None) => self.end = End::Clean,
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if !batch.is_empty() {
            return Poll::Ready(Some(Ok(batch.freeze())));
        }
        match std::mem::replace(&mut self.end, End::Clean) {
            End::Cut(cut) => {
                self.end = End::Cutting(cut);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            End::Cutting(cut) => Poll::Ready(Some(Err(cut))),
            // The loop is left without a batch only when the log has ended.
            End::Clean | End::NotYet => Poll::Ready(None),
        }
    }
}
