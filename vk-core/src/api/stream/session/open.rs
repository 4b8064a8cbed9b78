//! How a session's streams come to be: one by one over SPDY, all at once over WebSocket.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::options::Wanted;
use super::super::pipe::{Inlet, Out, Outlet, Side, inlet};
use super::super::spdy::{Incoming, StreamId};
use super::{Ending, Kind, Protocol, Session};

/// Streams that have been opened so far.
#[derive(Default)]
struct Streams(HashMap<u8, Stream>);

struct Stream {
    id: StreamId,
    inlet: Inlet,
    outlet: Outlet,
    side: Arc<Side>,
}

impl Streams {
    fn has(&self, kind: Kind) -> bool {
        self.0.contains_key(&(kind as u8))
    }

    fn put(&mut self, kind: Kind, stream: Stream) {
        self.0.insert(kind as u8, stream);
    }

    /// The session, if the error stream is there.
    fn into_session(
        mut self,
        wanted: Wanted,
        protocol: Protocol,
        queue: mpsc::Sender<Out>,
    ) -> Option<Session> {
        let mut ending = Ending { queue, inputs: Vec::new(), outputs: Vec::new(), status: protocol.status };
        for (kind, stream) in &self.0 {
            if *kind == Kind::Stdin as u8 || *kind == Kind::Resize as u8 {
                ending.inputs.push(stream.id);
            } else if *kind != Kind::Error as u8 {
                ending.outputs.push((stream.id, Arc::clone(&stream.side)));
            }
        }
        let mut take = |kind: Kind| self.0.remove(&(kind as u8));
        let error = take(Kind::Error)?.outlet;
        let mut input = |kind| {
            take(kind).map(|stream| {
                // We write nothing there, and its end is not told with a FIN but with a reset.
                stream.side.reset();
                stream.inlet
            })
        };
        let (stdin, resize) = (input(Kind::Stdin), input(Kind::Resize));
        let (stdout, stderr) = (take(Kind::Stdout), take(Kind::Stderr));
        Some(Session {
            tty: wanted.tty,
            stdin,
            stdout: stdout.map(|stream| stream.outlet),
            stderr: stderr.map(|stream| stream.outlet),
            resize,
            error,
            ending,
        })
    }
}

/// Waits until the client has opened the streams it asked for. `None` when it will not.
pub(in super::super) async fn over_spdy(
    wanted: Wanted,
    protocol: Protocol,
    mut incoming: mpsc::Receiver<Incoming>,
    queue: mpsc::Sender<Out>,
) -> Option<Session> {
    let mut missing: Vec<Kind> = Kind::of(wanted, protocol).collect();
    let mut streams = Streams::default();
    while !missing.is_empty() {
        let stream = incoming.recv().await?;
        let kind = stream.headers.get("streamtype").and_then(Kind::named);
        let Some(kind) = kind.filter(|kind| missing.contains(kind) && !streams.has(*kind)) else {
            tracing::debug!(headers = ?stream.headers, "stream refused: not asked for");
            stream.refuse(&queue).await;
            continue;
        };
        missing.retain(|left| *left != kind);
        let id = stream.id;
        let accepted = stream.accept(&queue).await;
        let (inlet, outlet, side) = (accepted.inlet, accepted.outlet, accepted.side);
        streams.put(kind, Stream { id, inlet, outlet, side });
    }
    streams.into_session(wanted, protocol, queue)
}

/// The streams of a session over WebSocket channels, before its connection is there.
#[derive(Debug)]
pub(in super::super) struct Opening {
    wanted: Wanted,
    protocol: Protocol,
    /// Where the connection's reader puts what comes.
    pub(in super::super) inlets: HashMap<u8, mpsc::Sender<Bytes>>,
    /// What is said at once: an empty message on the first channel that we write to, for "connected".
    pub(in super::super) first: Vec<(u8, Bytes)>,
    ends: Vec<(Kind, Inlet)>,
}

impl Opening {
    pub(in super::super) fn new(wanted: Wanted, protocol: Protocol) -> Self {
        let (mut inlets, mut ends) = (HashMap::new(), Vec::new());
        for kind in Kind::of(wanted, protocol) {
            let (sender, inlet) = inlet();
            if kind.is_input() {
                inlets.insert(kind as u8, sender);
            }
            ends.push((kind, inlet));
        }
        let connected = ends.iter().map(|(kind, _)| *kind).find(|kind| !kind.is_input());
        let first = connected.map(|kind| (kind as u8, Bytes::new())).into_iter().collect();
        Self { wanted, protocol, inlets, first, ends }
    }

    /// The session, whose streams are all open.
    pub(in super::super) fn session(self, queue: mpsc::Sender<Out>) -> Option<Session> {
        let mut streams = Streams::default();
        for (kind, inlet) in self.ends {
            let (id, side) = (StreamId::from(kind as u8), Arc::new(Side::default()));
            let outlet = Outlet::new(id, &queue, Arc::clone(&side));
            streams.put(kind, Stream { id, inlet, outlet, side });
        }
        streams.into_session(self.wanted, self.protocol, queue)
    }
}
