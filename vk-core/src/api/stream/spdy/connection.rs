//! The server's side of a connection: frames in, frames out, and who they are for.
//!
//! There is no flow control on this wire, so there is only one honest answer to a consumer that is too slow:
//! not to read. What must be said back at once (pings, refusals) has a short queue of its own, so that a
//! reader never waits for a writer that waits for the same client.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::super::activity::{Activity, Gone};
use super::super::pipe::{Inlet, Out, Outlet, Side, inlet, out_queue};
use super::{Decoder, Encoder, Frame, Headers, Limits, ResetStatus, StreamId};

/// Read at a time.
const READ: usize = 16 * 1024;
/// Written at a time, give or take a chunk.
const WRITE: usize = 64 * 1024;
/// Pings and refusals that wait for the writer.
const URGENT: usize = 32;
/// How often something is written while nothing is read, for then only writing can tell that the client is gone.
const PROBE: Duration = Duration::from_secs(10);
/// A ping of ours: even. Its echo says nothing that the connection's life does not.
const PROBE_ID: u32 = 2;
/// Streams that wait to be accepted.
const BACKLOG: usize = 16;

/// A stream that the client opened and nobody has accepted yet.
#[derive(Debug)]
pub(in super::super) struct Incoming {
    pub(in super::super) id: StreamId,
    pub(in super::super) headers: Headers,
    pub(in super::super) inlet: Inlet,
    side: Arc<Side>,
}

/// An accepted stream.
#[derive(Debug)]
pub(in super::super) struct Accepted {
    pub(in super::super) inlet: Inlet,
    pub(in super::super) outlet: Outlet,
    pub(in super::super) side: Arc<Side>,
}

impl Incoming {
    /// Accepts the stream: the reply is in the queue before anything that will be written to it.
    pub(in super::super) async fn accept(self, queue: &mpsc::Sender<Out>) -> Accepted {
        // A closed queue means that the connection is over, which its driver tells.
        let _ = queue.send(Out::Reply(self.id)).await;
        let outlet = Outlet::new(self.id, queue, Arc::clone(&self.side));
        Accepted { inlet: self.inlet, outlet, side: self.side }
    }

    /// Refuses the stream.
    pub(in super::super) async fn refuse(self, queue: &mpsc::Sender<Out>) {
        self.side.reset();
        let _ = queue.send(Out::Reset(self.id, ResetStatus::REFUSED_STREAM)).await;
    }
}

/// A connection to be [run](Self::run).
#[derive(Debug)]
pub(in super::super) struct Spdy<S> {
    io: S,
    streams: usize,
    idle: Duration,
    queue: mpsc::Receiver<Out>,
    incoming: mpsc::Sender<Incoming>,
}

/// The server's side of a connection, the queue to its writer, and the streams its client opens.
pub(in super::super) fn serve<S: AsyncRead + AsyncWrite>(
    io: S,
    streams: usize,
    idle: Duration,
) -> (Spdy<S>, mpsc::Sender<Out>, mpsc::Receiver<Incoming>) {
    let (sender, queue) = out_queue();
    let (incoming, accept) = mpsc::channel(BACKLOG);
    (Spdy { io, streams, idle, queue, incoming }, sender, accept)
}

impl<S: AsyncRead + AsyncWrite> Spdy<S> {
    /// Carries frames until the client is gone. May be dropped at any moment.
    pub(in super::super) async fn run(self) -> Gone {
        let activity = Activity::new();
        let (read, write) = tokio::io::split(self.io);
        let (urgent, urgencies) = mpsc::channel(URGENT);
        let held = AtomicBool::new(false);
        let reader = Reader {
            io: read,
            activity: &activity,
            held: &held,
            streams: HashMap::new(),
            limit: self.streams,
            last: 0,
            swept: 0,
            incoming: Some(self.incoming),
            urgent,
        };
        let writer = Writer { io: write, activity: &activity, held: &held };
        tokio::select! {
            gone = reader.run() => gone,
            gone = writer.run(self.queue, urgencies) => gone,
            gone = activity.idle_for(self.idle) => gone,
        }
    }
}

/// A stream, as the reader knows it.
struct Known {
    /// Gone once the client has closed its side, or the consumer wants no more.
    inlet: Option<mpsc::Sender<Bytes>>,
    side: Weak<Side>,
}

struct Reader<'a, R> {
    io: R,
    activity: &'a Activity,
    /// Whether it waits for a consumer.
    held: &'a AtomicBool,
    streams: HashMap<StreamId, Known>,
    limit: usize,
    last: StreamId,
    /// How many streams were left when the dead ones were last swept out.
    swept: usize,
    incoming: Option<mpsc::Sender<Incoming>>,
    urgent: mpsc::Sender<Frame>,
}

impl<R: AsyncRead + Unpin> Reader<'_, R> {
    async fn run(mut self) -> Gone {
        let mut decoder = Decoder::new(Limits::default());
        let mut buffer = BytesMut::new();
        loop {
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(Some(frame)) => {
                        if let Err(gone) = self.take(frame).await {
                            return gone;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return Gone::broken(error),
                }
            }
            buffer.reserve(READ);
            match self.io.read_buf(&mut buffer).await {
                Ok(0) => return Gone::Closed,
                Ok(_) => self.activity.note(),
                Err(error) => return Gone::broken(error),
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Gone> {
        match frame {
            Frame::SynStream { id, fin, headers, .. } => self.open(id, fin, headers).await?,
            Frame::Data { id, fin, data } => {
                if let Some(known) = self.streams.get_mut(&id) {
                    if let Some(inlet) = known.inlet.as_ref().filter(|_| !data.is_empty()) {
                        self.held.store(true, Ordering::Relaxed);
                        let taken = inlet.send(data).await.is_ok();
                        self.held.store(false, Ordering::Relaxed);
                        if !taken {
                            known.inlet = None;
                        }
                    }
                    if fin {
                        known.inlet = None;
                    }
                }
            }
            Frame::Headers { id, fin: true, .. } => {
                if let Some(known) = self.streams.get_mut(&id) {
                    known.inlet = None;
                }
            }
            Frame::RstStream { id, .. } => {
                if let Some(side) = self.streams.remove(&id).and_then(|known| known.side.upgrade()) {
                    side.reset();
                }
            }
            // Ours would be even, and we send none. One that finds no room is not missed: the next one counts.
            Frame::Ping(id) if id % 2 == 1 => {
                let _ = self.urgent.try_send(Frame::Ping(id));
            }
            Frame::GoAway { .. } => return Err(Gone::Closed),
            _ => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: StreamId, fin: bool, headers: Headers) -> Result<(), Gone> {
        if id.is_multiple_of(2) || id <= self.last {
            return self.refuse(id, ResetStatus::PROTOCOL_ERROR);
        }
        self.last = id;
        if self.streams.len() >= (self.swept * 2).max(64).min(self.limit) {
            self.streams.retain(|_, known| known.inlet.is_some() || known.side.strong_count() > 0);
            self.swept = self.streams.len();
        }
        let Some(incoming) = self.incoming.as_ref().filter(|_| self.streams.len() < self.limit) else {
            return self.refuse(id, ResetStatus::REFUSED_STREAM);
        };
        let (sender, inlet) = inlet();
        let side = Arc::new(Side::default());
        let known = Known { inlet: (!fin).then_some(sender), side: Arc::downgrade(&side) };
        if incoming.send(Incoming { id, headers, inlet, side }).await.is_err() {
            // Nobody takes streams any more.
            self.incoming = None;
            return self.refuse(id, ResetStatus::REFUSED_STREAM);
        }
        self.streams.insert(id, known);
        Ok(())
    }

    fn refuse(&self, id: StreamId, status: ResetStatus) -> Result<(), Gone> {
        let refusal = Frame::RstStream { id, status };
        self.urgent.try_send(refusal).map_err(|_| Gone::broken("too many streams refused at once"))
    }
}

struct Writer<'a, W> {
    io: W,
    activity: &'a Activity,
    held: &'a AtomicBool,
}

impl<W: AsyncWrite + Unpin> Writer<'_, W> {
    async fn run(mut self, mut queue: mpsc::Receiver<Out>, mut urgent: mpsc::Receiver<Frame>) -> Gone {
        let (mut encoder, mut buffer) = (Encoder::new(), BytesMut::new());
        // Once all is said the queue is closed; pings are still answered.
        let mut open = true;
        let mut probe = tokio::time::interval(PROBE);
        probe.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(frame) = urgent.recv() => encoder.encode(&frame, &mut buffer),
                _ = probe.tick() => {
                    if self.held.load(Ordering::Relaxed) {
                        encoder.encode(&Frame::Ping(PROBE_ID), &mut buffer);
                    }
                }
                out = queue.recv(), if open => match out {
                    Some(out) => put(&mut encoder, out, &mut buffer),
                    None => open = false,
                },
            }
            while buffer.len() < WRITE
                && let Ok(out) = queue.try_recv()
            {
                put(&mut encoder, out, &mut buffer);
            }
            if buffer.is_empty() {
                continue;
            }
            if let Err(error) = self.io.write_all(&buffer).await {
                return Gone::broken(error);
            }
            if let Err(error) = self.io.flush().await {
                return Gone::broken(error);
            }
            self.activity.note();
            buffer.clear();
        }
    }
}

fn put(encoder: &mut Encoder, out: Out, buffer: &mut BytesMut) {
    let frame = match out {
        Out::Reply(id) => Frame::SynReply { id, fin: false, headers: Headers::new() },
        Out::Data(id, data) => Frame::Data { id, fin: false, data },
        Out::Close(id) => Frame::Data { id, fin: true, data: Bytes::new() },
        Out::Reset(id, status) => Frame::RstStream { id, status },
        // A GOAWAY would make the client forget what it has not read yet.
        Out::Goodbye => return,
    };
    encoder.encode(&frame, buffer);
}
