//! What a session's streams are made of, whatever the transport: bytes in, bytes out, and one queue to the
//! connection's writer that keeps their order.
//!
//! Nothing here drops a byte. A full queue makes whoever fills it wait: a provider whose client is slow, and
//! the connection's reader whose provider is slow, which then reads no more from the network.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::spdy::{ResetStatus, StreamId};

/// Bytes that travel together.
const CHUNK: usize = 32 * 1024;
/// Chunks that wait for a stream's consumer.
const INLET_QUEUE: usize = 4;
/// Chunks of all streams of a connection that wait for its writer.
const OUT_QUEUE: usize = 8;

/// Something for the connection's writer to do. A stream is named by its number: SPDY's, or a WebSocket channel.
#[derive(Debug)]
pub(super) enum Out {
    /// Accept the stream (SPDY).
    Reply(StreamId),
    /// Send bytes.
    Data(StreamId, Bytes),
    /// Nothing more will be sent on the stream.
    Close(StreamId),
    /// Nothing more is wanted from the stream (SPDY).
    Reset(StreamId, ResetStatus),
    /// The session is over (WebSocket).
    Goodbye,
}

/// The queue to the connection's writer.
pub(super) fn out_queue() -> (mpsc::Sender<Out>, mpsc::Receiver<Out>) {
    mpsc::channel(OUT_QUEUE)
}

/// How far our side of a stream is.
#[derive(Debug, Default)]
pub(super) struct Side(AtomicU8);

impl Side {
    const OPEN: u8 = 0;
    /// Dropped, and the end is not in the queue yet.
    const LEFT: u8 = 1;
    /// The end is in the queue.
    const CLOSED: u8 = 2;
    /// The peer wants nothing more.
    const RESET: u8 = 3;

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::OPEN
    }

    /// The peer wants nothing more.
    pub(super) fn reset(&self) {
        self.0.store(Self::RESET, Ordering::Release);
    }

    pub(super) fn is_reset(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::RESET
    }

    /// Whether it is now on the caller to put the end into the queue.
    pub(super) fn close(&self) -> bool {
        let before = self.0.fetch_max(Self::CLOSED, Ordering::AcqRel);
        before < Self::CLOSED
    }

    fn leave(&self) {
        let _ = self.0.compare_exchange(Self::OPEN, Self::LEFT, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// The writing end of a stream. Shutting it down, or dropping it, half-closes the stream.
#[derive(Debug)]
pub(super) struct Outlet {
    id: StreamId,
    queue: PollSender<Out>,
    side: Arc<Side>,
}

impl Outlet {
    pub(super) fn new(id: StreamId, queue: &mpsc::Sender<Out>, side: Arc<Side>) -> Self {
        Self { id, queue: PollSender::new(queue.clone()), side }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.queue.poll_reserve(cx).map_err(|_| broken())
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the client takes nothing more from this stream")
}

impl AsyncWrite for Outlet {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_room(cx))?;
        if !self.side.is_open() {
            self.queue.abort_send();
            return Poll::Ready(Err(broken()));
        }
        let length = bytes.len().min(CHUNK);
        let data = Out::Data(self.id, Bytes::copy_from_slice(&bytes[..length]));
        self.queue.send_item(data).map_err(|_| broken())?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's writer flushes whenever its queue is empty.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.side.is_open() {
            ready!(self.poll_room(cx))?;
            if self.side.close() {
                let id = self.id;
                self.queue.send_item(Out::Close(id)).map_err(|_| broken())?;
            } else {
                self.queue.abort_send();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if !self.side.is_open() {
            return;
        }
        self.side.leave();
        // With a full queue the end of the session puts it right.
        if let Some(permit) = self.queue.get_ref().and_then(|queue| queue.try_reserve().ok())
            && self.side.close()
        {
            permit.send(Out::Close(self.id));
        }
    }
}

/// The reading end of a stream. Dropping it discards what the peer still sends.
#[derive(Debug)]
pub(super) struct Inlet {
    queue: mpsc::Receiver<Bytes>,
    present: Bytes,
}

/// A stream's reading end, and where the connection's reader puts its bytes. Dropping that is the end of file.
pub(super) fn inlet() -> (mpsc::Sender<Bytes>, Inlet) {
    let (sender, queue) = mpsc::channel(INLET_QUEUE);
    (sender, Inlet { queue, present: Bytes::new() })
}

impl Inlet {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        if self.present.is_empty() {
            return self.queue.recv().await;
        }
        Some(std::mem::take(&mut self.present))
    }
}

impl AsyncRead for Inlet {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.present.is_empty() {
            match ready!(self.queue.poll_recv(cx)) {
                Some(bytes) => self.present = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.present.len().min(buffer.remaining());
        buffer.put_slice(&self.present[..length]);
        self.present.advance(length);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn outlet() -> (Outlet, mpsc::Receiver<Out>, Arc<Side>) {
        let (queue, receiver) = out_queue();
        let side = Arc::new(Side::default());
        (Outlet::new(3, &queue, Arc::clone(&side)), receiver, side)
    }

    fn drain(queue: &mut mpsc::Receiver<Out>) -> Vec<String> {
        std::iter::from_fn(|| queue.try_recv().ok())
            .map(|out| match out {
                Out::Data(id, data) => format!("{id}:{}", data.len()),
                Out::Close(id) => format!("{id} closed"),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_keep_their_order_and_the_end_comes_once() {
        let (mut outlet, mut queue, side) = outlet();
        outlet.write_all(&vec![0; CHUNK + 1]).await.unwrap();
        outlet.shutdown().await.unwrap();
        outlet.shutdown().await.unwrap();
        assert!(outlet.write_all(b"x").await.is_err());
        drop(outlet);
        assert!(!side.close());
        assert_eq!(drain(&mut queue), ["3:32768", "3:1", "3 closed"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_outlet_closes_its_stream_or_leaves_it_to_the_end_of_the_session() {
        let (first, mut queue, side) = outlet();
        drop(first);
        assert_eq!(drain(&mut queue), ["3 closed"]);
        assert!(!side.close());

        let (mut outlet, mut queue, side) = outlet();
        outlet.write_all(&vec![0; CHUNK * OUT_QUEUE]).await.unwrap();
        drop(outlet);
        assert_eq!(drain(&mut queue).len(), OUT_QUEUE);
        assert!(side.close());
    }

    #[tokio::test(start_paused = true)]
    async fn writing_waits_for_room_and_fails_once_the_client_resets_the_stream() {
        let (mut outlet, mut queue, side) = outlet();
        outlet.write_all(&vec![0; CHUNK * OUT_QUEUE]).await.unwrap();
        let more = tokio::time::timeout(std::time::Duration::from_hours(1), outlet.write_all(b"x")).await;
        assert!(more.is_err(), "a full queue makes the writer wait");
        side.reset();
        drain(&mut queue);
        assert_eq!(outlet.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        drop(outlet);
        assert!(drain(&mut queue).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_inlet_reads_what_was_put_in_and_then_its_end() {
        let (sender, mut inlet) = inlet();
        sender.send(Bytes::from_static(b"hello ")).await.unwrap();
        sender.send(Bytes::from_static(b"world")).await.unwrap();
        drop(sender);
        let mut first = [0; 3];
        inlet.read_exact(&mut first).await.unwrap();
        assert_eq!(inlet.next().await.as_deref(), Some(&b"lo "[..]));
        let mut rest = String::new();
        inlet.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&first, rest.as_str()), (b"hel", "world"));
    }
}
