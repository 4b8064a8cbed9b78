//! Port-forward: connections of a client to ports of a pod.

mod pairs;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

#[cfg(any(test, fuzzing))]
pub(super) use self::pairs::describe;
pub(super) use self::pairs::over_spdy;
use super::counts::Gauge;
use super::pipe::{Inlet, Out, Outlet, Side, inlet};
use super::spdy::{ResetStatus, StreamId};
use crate::provider::{Duplex, Error, PodRef, Provider};

/// Whose ports are meant.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) provider: Arc<dyn Provider>,
    pub(super) pod: PodRef,
    pub(super) connections: Gauge,
}

/// A client's connection to a port: its bytes both ways, and where it is told what went wrong.
#[derive(Debug)]
struct Connection {
    port: u16,
    id: StreamId,
    inlet: Inlet,
    outlet: Outlet,
    side: Arc<Side>,
    error: Outlet,
    queue: mpsc::Sender<Out>,
}

impl Target {
    /// Carries one connection to its end.
    async fn carry(self, connection: Connection) {
        let _counted = self.connections.enter();
        let Connection { port, id, inlet, outlet, side, mut error, queue } = connection;
        // Each failure here means that the client is gone, which its connection's driver tells.
        match self.connect(port).await {
            Ok(target) => {
                let broken = copy(inlet, outlet, target, &side).await;
                if broken {
                    let _ = queue.send(Out::Reset(id, ResetStatus::CANCEL)).await;
                }
            }
            Err(failure) => {
                let (pod, uid) = (&self.pod, &self.pod.uid);
                let (name, reason) = (&pod.name, failure.chain());
                tracing::info!(%pod, %uid, port, error = reason, "kubelet API: port not forwarded");
                let text = format!("error forwarding port {port} to pod {name}, uid {uid}: {reason}");
                let _ = error.write_all(text.as_bytes()).await;
                side.reset();
                let _ = error.shutdown().await;
                let _ = queue.send(Out::Reset(id, ResetStatus::CANCEL)).await;
                return;
            }
        }
        let _ = error.shutdown().await;
    }

    async fn connect(&self, port: u16) -> Result<Box<dyn Duplex>, Error> {
        let Some(capability) = self.provider.port_forward() else {
            return Err(Error::unavailable("the provider cannot forward ports"));
        };
        capability.connect(&self.pod, port).await
    }
}

/// Copies until both sides have ended; each end is passed on as it comes. Whether it broke off instead.
async fn copy(mut inlet: Inlet, mut outlet: Outlet, target: Box<dyn Duplex>, side: &Side) -> bool {
    let (mut from, mut to) = tokio::io::split(target);
    let up = async {
        up(&mut inlet, &mut to).await?;
        if side.is_reset() {
            // Not an end of one direction: the client is done with the connection.
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        to.shutdown().await
    };
    let down = down(&mut from, &mut outlet);
    tokio::try_join!(up, down).is_err()
}

async fn up(inlet: &mut Inlet, to: &mut WriteHalf<Box<dyn Duplex>>) -> std::io::Result<()> {
    while let Some(bytes) = inlet.next().await {
        to.write_all(&bytes).await?;
        to.flush().await?;
    }
    Ok(())
}

async fn down(from: &mut ReadHalf<Box<dyn Duplex>>, outlet: &mut Outlet) -> std::io::Result<()> {
    tokio::io::copy(from, outlet).await?;
    outlet.shutdown().await
}

/// A port-forward over WebSocket channels: one connection to each port. Channel 2i has the bytes, 2i + 1 the
/// error of port i, and each begins with the port's number, which is little-endian.
#[derive(Debug, Default)]
pub(super) struct PortChannels {
    /// Where the connection's reader puts what comes.
    pub(super) inlets: HashMap<u8, mpsc::Sender<Bytes>>,
    /// What is said at once.
    pub(super) first: Vec<(u8, Bytes)>,
    ports: Vec<(u8, u16, Inlet)>,
}

impl PortChannels {
    /// The channels of at most 127 ports.
    pub(super) fn new(ports: Vec<u16>) -> Self {
        let mut channels = Self::default();
        for (channel, port) in (0..u8::MAX).step_by(2).zip(ports) {
            let (sender, inlet) = inlet();
            channels.inlets.insert(channel, sender);
            let number = Bytes::copy_from_slice(&port.to_le_bytes());
            channels.first.extend([(channel, number.clone()), (channel + 1, number)]);
            channels.ports.push((channel, port, inlet));
        }
        channels
    }
}

/// Carries the connections of a port-forward over channels until all have ended.
pub(super) async fn over_websocket(target: Target, channels: PortChannels, queue: mpsc::Sender<Out>) {
    let mut connections = JoinSet::new();
    for (channel, port, inlet) in channels.ports {
        let (id, side) = (StreamId::from(channel), Arc::new(Side::default()));
        let outlet = Outlet::new(id, &queue, Arc::clone(&side));
        let error = Outlet::new(id + 1, &queue, Arc::default());
        let connection = Connection { port, id, inlet, outlet, side, error, queue: queue.clone() };
        connections.spawn(target.clone().carry(connection));
    }
    while connections.join_next().await.is_some() {}
    let _ = queue.send(Out::Goodbye).await;
}
