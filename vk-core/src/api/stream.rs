//! `exec`, `attach`, `portForward` and `run`.
//!
//! ```text
//!  upgrade ──▶ Spdy | Channels | Spdy in Tunnel     what is on the wire, in and out
//!                 │  Inlets, Outlets (pipe)
//!                 ▼
//!              Session | forward::Connection        what it means
//!                 │  ExecIo, Duplex
//!                 ▼
//!              Provider
//! ```
//!
//! One task carries a client's connection: its reader, its writer and the provider's work, so that the end of
//! any of them is the end of all. The wire is described in k/k `pkg/kubelet/server`, `k8s.io/cri-streaming` and
//! `k8s.io/apimachinery/pkg/util/httpstream`; KEP-4006 is about WebSockets.

mod activity;
mod counts;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod limits;
mod options;
mod pipe;
mod refusal;
mod run;
mod session;
mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod upgrade;
mod websocket;

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use http::header::RETRY_AFTER;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use self::activity::Gone;
pub use self::counts::StreamCounts;
use self::counts::{Counted, Gauge};
use self::forward::{PortChannels, Target};
pub use self::limits::StreamLimits;
use self::options::Wanted;
use self::refusal::Refusal;
use self::status::Outcome;
use self::upgrade::{Agreed, PortTransport, Transport};
use super::request::Call;
use super::routes::Endpoint;
use super::serve::Connection;
use super::{KubeletApi, reply};
use crate::metrics::{Metrics, Open};
use crate::provider::{ContainerRef, ExecIo, Provider};

/// How long clients may take to leave once the node shuts down.
const FAREWELL: Duration = Duration::from_secs(3);

/// The streams of a node.
#[derive(Debug)]
pub(super) struct Streams {
    limits: StreamLimits,
    slots: Arc<Semaphore>,
    exec: Gauge,
    attach: Gauge,
    port_forward: Gauge,
    forwarded: Gauge,
}

impl Streams {
    pub(super) fn new(limits: StreamLimits) -> Self {
        let slots = Arc::new(Semaphore::new(limits.sessions.min(Semaphore::MAX_PERMITS)));
        let (exec, attach, port_forward, forwarded) = Default::default();
        Self { limits, slots, exec, attach, port_forward, forwarded }
    }

    pub(super) fn limits(&self) -> &StreamLimits {
        &self.limits
    }

    pub(super) fn counts(&self) -> StreamCounts {
        StreamCounts {
            exec: self.exec.now(),
            attach: self.attach.now(),
            port_forward: self.port_forward.now(),
            forwarded_connections: self.forwarded.now(),
        }
    }

    fn slot(&self, kind: &'static str, gauge: &Gauge, metrics: &Metrics) -> Result<Slot, Box<Response>> {
        if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(Slot { _permit: permit, _counted: gauge.enter(), _open: metrics.port().stream(kind) });
        }
        let body = format!(
            "this node serves {} exec, attach and port-forward sessions at most, and has that many: try again \
             when one has ended",
            self.limits.sessions
        );
        let mut refusal = reply::text(StatusCode::TOO_MANY_REQUESTS, body);
        refusal.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static("1"));
        Err(Box::new(refusal))
    }
}

/// A session's place among those of the node.
#[derive(Debug)]
struct Slot {
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
    _open: Open,
}

/// Answers a streaming endpoint.
pub(super) async fn answer(api: &KubeletApi, mut call: Call, endpoint: Endpoint) -> Response {
    let answer = match endpoint {
        Endpoint::Run => run::run(api, &call).await,
        Endpoint::PortForward => port_forward(api, &mut call),
        _ => remote_command(api, &mut call, endpoint),
    };
    answer.unwrap_or_else(|refusal| *refusal)
}

/// What is done with a session's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Exec,
    Attach,
}

fn remote_command(api: &KubeletApi, call: &mut Call, endpoint: Endpoint) -> Result<Response, Box<Response>> {
    let wanted = Refusal::wanted(call)?;
    let container = Refusal::container(api, call, endpoint)?;
    Refusal::unless_upgrade(call)?;
    let Agreed { transport, response } = upgrade::remote_command(call)?;
    let verb = if endpoint == Endpoint::Attach { Verb::Attach } else { Verb::Exec };
    let (kind, gauge) = match verb {
        Verb::Exec => ("exec", &api.streams.exec),
        Verb::Attach => ("attach", &api.streams.attach),
    };
    let carrier = Carrier::new(api, call, kind, gauge)?;
    let work = Work {
        provider: Arc::clone(&api.provider),
        container,
        verb,
        command: options::command(call),
        closing: carrier.ending.closing.clone(),
    };
    tokio::spawn(async move {
        let container = work.container.clone();
        let gone = carrier.remote_command(transport, wanted, work).await;
        tracing::debug!(%container, ?verb, ended = gone.map(|gone| gone.to_string()), "session over");
    });
    Ok(response)
}

fn port_forward(api: &KubeletApi, call: &mut Call) -> Result<Response, Box<Response>> {
    let pod = Refusal::pod(api, call)?;
    Refusal::unless_capable(api, Endpoint::PortForward)?;
    Refusal::unless_upgrade(call)?;
    let Agreed { transport, response } = upgrade::port_forward(call)?;
    let ports = match transport {
        PortTransport::Channels(_) => {
            options::ports(call).map_err(|body| Box::new(reply::text(StatusCode::BAD_REQUEST, body)))?
        }
        PortTransport::Spdy | PortTransport::Tunnel => Vec::new(),
    };
    let carrier = Carrier::new(api, call, "port-forward", &api.streams.port_forward)?;
    let connections = api.streams.forwarded.clone();
    let target = Target { provider: Arc::clone(&api.provider), pod, connections };
    tokio::spawn(async move {
        let pod = target.pod.clone();
        let gone = carrier.port_forward(transport, ports, target).await;
        tracing::debug!(%pod, ended = gone.map(|gone| gone.to_string()), "port-forward over");
    });
    Ok(response)
}

/// A connection on its way to its new protocol.
struct Carrier {
    upgrade: OnUpgrade,
    limits: StreamLimits,
    ending: Ending,
    _slot: Slot,
    _connection: Option<Connection>,
}

/// How the node's own end comes to a session.
#[derive(Clone, Default)]
struct Ending {
    /// It is to end.
    closing: CancellationToken,
    /// Its time for that is over.
    abort: CancellationToken,
}

impl Ending {
    /// Waits until there is no more time.
    async fn cut(&self) {
        let farewell = async {
            self.closing.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            () = farewell => {}
            () = self.abort.cancelled() => {}
        }
    }
}

impl Carrier {
    fn new(
        api: &KubeletApi,
        call: &mut Call,
        kind: &'static str,
        gauge: &Gauge,
    ) -> Result<Self, Box<Response>> {
        let Some(upgrade) = call.parts.extensions.remove::<OnUpgrade>() else {
            let body = "unable to upgrade: unable to hijack response";
            return Err(Box::new(reply::error_line(StatusCode::INTERNAL_SERVER_ERROR, body)));
        };
        let connection = call.connection.clone();
        connection.iter().for_each(Connection::be_patient);
        let of = |connection: &Connection| Ending {
            closing: connection.closing().clone(),
            abort: connection.abort().clone(),
        };
        let ending = connection.as_ref().map(of).unwrap_or_default();
        let slot = api.streams.slot(kind, gauge, &api.metrics)?;
        Ok(Self { upgrade, limits: api.streams.limits, ending, _slot: slot, _connection: connection })
    }

    async fn remote_command(self, transport: Transport, wanted: Wanted, work: Work) -> Option<Gone> {
        let limits = self.limits;
        let io = TokioIo::new(self.upgrade.await.ok()?);
        match transport {
            Transport::Spdy(protocol) => {
                let (driver, queue, incoming) = spdy::serve(io, limits.streams, limits.idle_timeout);
                let session = async move {
                    let open = session::over_spdy(wanted, protocol, incoming, queue);
                    match tokio::time::timeout(limits.creation_timeout, open).await {
                        Ok(Some(session)) => session.run(|io| work.run(io)).await,
                        _ => return Next::Cut,
                    }
                    Next::Linger
                };
                Some(carry(driver.run(), session, &limits, &self.ending).await)
            }
            Transport::Channels(protocol, coding) => {
                let mut opening = session::Opening::new(wanted, protocol);
                let (inlets, first) = (take(&mut opening.inlets), take(&mut opening.first));
                let idle = limits.idle_timeout;
                let (driver, queue) =
                    websocket::connection::Channels::new(io, coding, inlets, first, idle).await;
                let session = async move {
                    if let Some(session) = opening.session(queue) {
                        session.run(|io| work.run(io)).await;
                    }
                    Next::Linger
                };
                Some(carry(driver.run(), session, &limits, &self.ending).await)
            }
        }
    }

    async fn port_forward(self, transport: PortTransport, ports: Vec<u16>, target: Target) -> Option<Gone> {
        let limits = self.limits;
        let io = TokioIo::new(self.upgrade.await.ok()?);
        let (streams, idle, patience) = (limits.streams, limits.idle_timeout, limits.creation_timeout);
        match transport {
            PortTransport::Spdy => {
                let (driver, queue, incoming) = spdy::serve(io, streams, idle);
                let session =
                    ended_by(&self.ending.closing, forward::over_spdy(target, incoming, queue, patience));
                Some(carry(driver.run(), session, &limits, &self.ending).await)
            }
            PortTransport::Tunnel => {
                let tunnel = websocket::Tunnel::new(websocket::server(io).await);
                let (driver, queue, incoming) = spdy::serve(tunnel, streams, idle);
                let session =
                    ended_by(&self.ending.closing, forward::over_spdy(target, incoming, queue, patience));
                Some(carry(driver.run(), session, &limits, &self.ending).await)
            }
            PortTransport::Channels(coding) => {
                let mut channels = PortChannels::new(ports);
                let (inlets, first) = (take(&mut channels.inlets), take(&mut channels.first));
                let (driver, queue) =
                    websocket::connection::Channels::new(io, coding, inlets, first, idle).await;
                let session =
                    ended_by(&self.ending.closing, forward::over_websocket(target, channels, queue));
                Some(carry(driver.run(), session, &limits, &self.ending).await)
            }
        }
    }
}

/// What becomes of a connection whose session is over.
enum Next {
    /// The client is to read the rest and to close.
    Linger,
    /// There is nothing to read.
    Cut,
}

/// Forwarded connections are cut when the node shuts down: there is no word for it on this wire.
async fn ended_by(closing: &CancellationToken, session: impl Future<Output = ()>) -> Next {
    tokio::select! {
        () = session => Next::Linger,
        () = closing.cancelled() => Next::Cut,
    }
}

/// Runs a session on its connection. A client that goes ends the session where it is; a session that ends
/// leaves the client its time to read the rest, for closing first would take that from it. A node that shuts down
/// leaves it little.
async fn carry(
    connection: impl Future<Output = Gone>,
    session: impl Future<Output = Next>,
    limits: &StreamLimits,
    ending: &Ending,
) -> Gone {
    let cut = ending.cut();
    tokio::pin!(connection, cut);
    let next = tokio::select! {
        gone = &mut connection => return gone,
        next = session => next,
        () = &mut cut => Next::Cut,
    };
    if matches!(next, Next::Cut) {
        return Gone::broken("ended by the node");
    }
    tokio::select! {
        gone = connection => gone,
        () = tokio::time::sleep(limits.linger) => Gone::broken("the client did not close the connection"),
        () = cut => Gone::broken("ended by the node"),
    }
}

/// What a session is for.
struct Work {
    provider: Arc<dyn Provider>,
    container: ContainerRef,
    verb: Verb,
    command: Vec<String>,
    closing: CancellationToken,
}

impl Work {
    async fn run(self, io: ExecIo) -> Outcome {
        let what = match self.verb {
            Verb::Exec => "error executing command in container",
            Verb::Attach => "error attaching to container",
        };
        let closing = self.closing.clone();
        tokio::select! {
            outcome = self.work(io, what) => outcome,
            () = closing.cancelled() => Outcome::Failed { what, reason: "the node is shutting down".to_owned() },
        }
    }

    async fn work(self, io: ExecIo, what: &'static str) -> Outcome {
        let container = &self.container;
        let done = match self.verb {
            Verb::Exec => match self.provider.exec() {
                Some(capability) => capability.exec(container, &self.command, io).await,
                None => return lacking(what),
            },
            Verb::Attach => match self.provider.attach() {
                Some(capability) => capability.attach(container, io).await,
                None => return lacking(what),
            },
        };
        match done {
            Ok(status) if self.verb == Verb::Exec => Outcome::Exited { command: self.command, status },
            Ok(_) => Outcome::Detached,
            Err(error) => {
                let uid = &container.pod.uid;
                tracing::info!(%container, %uid, error = error.chain(), "kubelet API: {what}");
                Outcome::failed(what, &error)
            }
        }
    }
}

/// Asked before, and again here since the capability is a reference.
fn lacking(what: &'static str) -> Outcome {
    Outcome::Failed { what, reason: "the provider has no such capability".to_owned() }
}
