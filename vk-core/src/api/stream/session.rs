//! An exec or attach, whatever it travels over.

mod open;
mod resize;

use std::future::Future;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

pub(super) use self::open::{Opening, over_spdy};
#[cfg(any(test, fuzzing))]
pub(super) use self::resize::take_sizes;
use super::options::Wanted;
use super::pipe::{Inlet, Out, Outlet, Side};
use super::spdy::{ResetStatus, StreamId};
use super::status::Outcome;
use crate::provider::{ExecIo, Reader, Writer};

/// A version of `channel.k8s.io`, by what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    /// As it is called on the wire.
    pub(super) name: &'static str,
    /// The error stream carries a status object, not a text (4 and 5).
    pub(super) status: bool,
    /// There is a stream for window sizes (from 3 on).
    pub(super) resize: bool,
}

/// The streams of a client, all open.
#[derive(Debug)]
pub(super) struct Session {
    tty: bool,
    stdin: Option<Inlet>,
    stdout: Option<Outlet>,
    stderr: Option<Outlet>,
    resize: Option<Inlet>,
    error: Outlet,
    ending: Ending,
}

/// What is to be said when all is done, in the order in which nothing is lost.
#[derive(Debug)]
struct Ending {
    queue: mpsc::Sender<Out>,
    /// The client's streams: reset, so that it stops sending.
    inputs: Vec<StreamId>,
    /// Ours: ended after their last byte.
    outputs: Vec<(StreamId, Arc<Side>)>,
    status: bool,
}

impl Session {
    /// Gives the streams to `work`, and tells the client how that ended. When this returns, everything is in
    /// the connection's queue, in order.
    ///
    /// # Cancellation
    /// Dropping it drops the work: that is how a command ends whose client is gone.
    pub(super) async fn run<F>(self, work: impl FnOnce(ExecIo) -> F)
    where
        F: Future<Output = Outcome>,
    {
        let Self { tty, stdin, stdout, stderr, resize, error, ending } = self;
        let stdin = stdin.map(|inlet| Box::new(inlet) as Reader);
        let write = |outlet: Option<Outlet>| outlet.map(|outlet| Box::new(outlet) as Writer);
        let outcome = if tty {
            let (sizes, receiver) = mpsc::channel(1);
            let output = write(stdout).unwrap_or_else(|| Box::new(tokio::io::sink()));
            let work = work(ExecIo::Tty { stdin, output, resize: receiver });
            tokio::pin!(work);
            tokio::select! {
                outcome = &mut work => outcome,
                () = resize::forward(resize, sizes) => work.await,
            }
        } else {
            work(ExecIo::Pipes { stdin, stdout: write(stdout), stderr: write(stderr) }).await
        };
        ending.say(error, &outcome).await;
    }
}

impl Ending {
    /// Input is refused first, so that a client that is still sending does not keep itself from reading; the
    /// outputs' ends come after their last bytes, then the status, then nothing more.
    async fn say(self, mut error: Outlet, outcome: &Outcome) {
        for id in self.inputs {
            let _ = self.queue.send(Out::Reset(id, ResetStatus::CANCEL)).await;
        }
        for (id, side) in self.outputs {
            if side.close() {
                let _ = self.queue.send(Out::Close(id)).await;
            }
        }
        // Where the client is gone, the connection's driver says so.
        let _ = error.write_all(&outcome.to_wire(self.status)).await;
        let _ = error.shutdown().await;
        let _ = self.queue.send(Out::Goodbye).await;
    }
}

/// A stream of an exec or attach. The numbers are the WebSocket channels'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

impl Kind {
    /// By the header `streamtype`.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "stdin" => Self::Stdin,
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            "error" => Self::Error,
            "resize" => Self::Resize,
            _ => return None,
        })
    }

    /// Which streams belong to what is asked for.
    fn of(wanted: Wanted, protocol: Protocol) -> impl Iterator<Item = Self> {
        let asked = [
            (Self::Stdin, wanted.stdin),
            (Self::Stdout, wanted.stdout),
            (Self::Stderr, wanted.stderr),
            (Self::Error, true),
            (Self::Resize, wanted.tty && protocol.resize),
        ];
        asked.into_iter().filter(|(_, asked)| *asked).map(|(kind, _)| kind)
    }

    fn is_input(self) -> bool {
        matches!(self, Self::Stdin | Self::Resize)
    }
}
