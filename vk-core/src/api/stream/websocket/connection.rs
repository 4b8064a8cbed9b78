//! A connection whose messages belong to channels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::super::activity::{Activity, Gone};
use super::super::pipe::{Out, out_queue};
use super::channels::{Coding, Said};

/// How often a client is told that we are alive while nothing of it is read. Kubernetes' clients ping every
/// 5 s and give up when no pong has come for 61 s, although a held-back stdin is a process' good right; any
/// pong will do for them (RFC 6455, 5.5.3 allows unasked ones). It also finds out a client that is gone, which
/// only writing can tell while nothing is read.
const REASSURANCE: Duration = Duration::from_secs(10);

/// A connection to be [run](Self::run).
#[derive(Debug)]
pub(in super::super) struct Channels<S> {
    socket: WebSocketStream<S>,
    coding: Coding,
    inlets: HashMap<u8, mpsc::Sender<Bytes>>,
    first: Vec<(u8, Bytes)>,
    idle: Duration,
    queue: mpsc::Receiver<Out>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channels<S> {
    /// A connection that hands what comes to `inlets`, says `first` at once, and then what is put into the
    /// returned queue.
    pub(in super::super) async fn new(
        io: S,
        coding: Coding,
        inlets: HashMap<u8, mpsc::Sender<Bytes>>,
        first: Vec<(u8, Bytes)>,
        idle: Duration,
    ) -> (Self, mpsc::Sender<Out>) {
        let (sender, queue) = out_queue();
        let socket = super::server(io).await;
        (Self { socket, coding, inlets, first, idle, queue }, sender)
    }

    /// Carries messages until the client is gone. May be dropped at any moment.
    pub(in super::super) async fn run(self) -> Gone {
        let activity = Activity::new();
        let held = AtomicBool::new(false);
        let (sink, stream) = self.socket.split();
        let shared = Shared { coding: self.coding, activity: &activity, held: &held };
        tokio::select! {
            gone = read(&shared, stream, self.inlets) => gone,
            gone = write(&shared, sink, self.first, self.queue) => gone,
            gone = activity.idle_for(self.idle) => gone,
        }
    }
}

struct Shared<'a> {
    coding: Coding,
    activity: &'a Activity,
    /// Whether the reader waits for a consumer.
    held: &'a AtomicBool,
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared<'_>,
    mut stream: SplitStream<WebSocketStream<S>>,
    mut inlets: HashMap<u8, mpsc::Sender<Bytes>>,
) -> Gone {
    while let Some(message) = stream.next().await {
        shared.activity.note();
        let message = match message {
            Ok(message @ (Message::Binary(_) | Message::Text(_))) => message.into_data(),
            // The answer to a close is sent by asking for what follows it.
            Ok(_) => continue,
            Err(Error::ConnectionClosed) => break,
            Err(error) => return Gone::broken(error),
        };
        match shared.coding.decode(message) {
            Ok(Said::Data(channel, data)) => {
                // What was not asked for is passed over.
                let Some(inlet) = inlets.get(&channel).filter(|_| !data.is_empty()) else { continue };
                shared.held.store(true, Ordering::Relaxed);
                let taken = inlet.send(data).await.is_ok();
                shared.held.store(false, Ordering::Relaxed);
                if !taken {
                    inlets.remove(&channel);
                }
            }
            Ok(Said::Close(channel)) => {
                inlets.remove(&channel);
            }
            Ok(Said::Nothing) => {}
            Err(error) => return Gone::broken(error),
        }
    }
    Gone::Closed
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared<'_>,
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    first: Vec<(u8, Bytes)>,
    mut queue: mpsc::Receiver<Out>,
) -> Gone {
    for (channel, data) in first {
        if let Err(error) = sink.send(shared.coding.encode(channel, &data)).await {
            return Gone::broken(error);
        }
    }
    let mut reassurance = tokio::time::interval(REASSURANCE);
    reassurance.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut open = true;
    loop {
        let out = tokio::select! {
            biased;
            out = queue.recv(), if open => out,
            _ = reassurance.tick(), if open => {
                if shared.held.load(Ordering::Relaxed)
                    && let Err(error) = sink.send(Message::Pong(Bytes::new())).await
                {
                    return Gone::broken(error);
                }
                continue;
            }
            else => std::future::pending().await,
        };
        let mut next = out;
        if next.is_none() {
            open = false;
        }
        while let Some(out) = next {
            let sent = match out {
                Out::Data(channel, data) => sink.feed(shared.coding.encode(channel as u8, &data)).await,
                Out::Goodbye => {
                    let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                    sink.feed(Message::Close(Some(end))).await
                }
                // There is no half-close from here to there, and no refusal.
                Out::Reply(_) | Out::Close(_) | Out::Reset(..) => Ok(()),
            };
            if let Err(error) = sent {
                return ended(error).await;
            }
            next = queue.try_recv().ok();
        }
        if let Err(error) = sink.flush().await {
            return ended(error).await;
        }
        shared.activity.note();
    }
}

/// A connection in the middle of its closing takes nothing more; its reader tells when it is over.
async fn ended(error: Error) -> Gone {
    match error {
        Error::ConnectionClosed | Error::Protocol(_) => std::future::pending().await,
        error => Gone::broken(error),
    }
}
