//! One node, put together.

use std::fmt;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::stream::StreamLimits;
use crate::api::tls::Serving;
use crate::api::{self, Access, KubeletApi, Limits};
use crate::client::{PodWatch, impatient};
use crate::clock::Clock;
use crate::config::{Markings, NodeConfig};
use crate::events::{EventFlusher, Recorder};
use crate::health::{Concern, Health};
use crate::metrics::{Kind, Metrics};
use crate::node::{
    Heartbeat, HeartbeatError, Instance, LeaseHandle, LeaseKeeper, LeaseRuntime, LeaseStatus, NodeContext,
    RegisterError, Registered, deregister, ensure_registered,
};
use crate::pods::{PodLookup, Pods};
use crate::provider::{Metered, Provider};
use crate::shutdown::Shutdown;

/// A node of a cluster, ready to run.
///
/// # Flow
/// [`run`](Self::run) serves the kubelet API and registers the node at once, and works on its pods from the
/// registration on; the node becomes `Ready` when its pods have been listed on both sides, and its provider is well.
///
/// # Shutdown
/// [`Shutdown::drain`]: the node becomes NotReady, no pod is started any more, followed logs end, statuses that
/// are left are written, the lease is released. Pods go on at the backend unless
/// [`drain_pods_on_shutdown`](NodeConfig::drain_pods_on_shutdown) is set; the Node object stays unless
/// [`deregister_on_shutdown`](NodeConfig::deregister_on_shutdown) is. [`Shutdown::abort`], or dropping the
/// future: everything stops where it is, and the next start finds it.
#[derive(Debug)]
#[must_use = "a node does nothing until it is run"]
pub struct Node {
    context: NodeContext,
    pods: Pods,
    flusher: EventFlusher,
    lease: Option<LeaseRuntime>,
    server: Option<ApiServer>,
    shown: Shown,
}

/// What the kubelet API bears and shows, whoever serves it.
#[derive(Clone, Debug, Default)]
struct Shown {
    streams: StreamLimits,
    flags: Vec<(String, String)>,
}

/// Where and for whom the kubelet API is served.
pub struct ApiServer {
    /// The socket; its port is [`NodeConfig::port`].
    pub listener: TcpListener,
    /// Its certificate, which is kept fresh while the node runs.
    pub tls: Serving,
    /// Who may call.
    pub access: Access,
    /// Bounds on connections.
    pub limits: Limits,
}

impl ApiServer {
    /// The kubelet API on that socket, with that certificate, for those whom `access` lets in; with the default
    /// [`limits`](Self::limits).
    #[must_use]
    pub fn new(listener: TcpListener, tls: Serving, access: Access) -> Self {
        Self { listener, tls, access, limits: Limits::default() }
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// Why a node ended without being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The node could not be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The node is not ours any more.
    #[error(transparent)]
    Heartbeat(#[from] HeartbeatError),
    /// The kubelet API cannot be served.
    #[error("node {node}: cannot serve the kubelet API")]
    Serve {
        /// The node.
        node: String,
        /// What is wrong with its TLS.
        source: api::tls::Error,
    },
    /// A task of the node ended by itself, which none of them does.
    #[error("node {node}: its {task} ended unexpectedly")]
    TaskEnded {
        /// The node.
        node: String,
        /// Which task.
        task: &'static str,
    },
}

/// Builds a [`Node`].
#[derive(Debug)]
#[must_use = "call build"]
pub struct NodeBuilder {
    context: NodeContext,
    lease: Option<LeaseRuntime>,
    server: Option<ApiServer>,
    shown: Shown,
}

impl NodeBuilder {
    /// The thread on which the lease is renewed. Without one the lease is renewed on the caller's runtime with
    /// the node's own client: in order for tests in paused time, and for nothing else.
    pub fn lease_runtime(mut self, runtime: LeaseRuntime) -> Self {
        self.lease = Some(runtime);
        self
    }

    /// Serves the kubelet API. Without it `kubectl logs` and metrics have nobody to ask.
    pub fn serve_api(mut self, server: ApiServer) -> Self {
        self.server = Some(server);
        self
    }

    /// Bounds on exec, attach and port-forward.
    pub fn stream_limits(mut self, limits: StreamLimits) -> Self {
        self.shown.streams = limits;
        self
    }

    /// The daemon's settings, name and value, for `/flagz` of the kubelet API. They must hold no secrets. Default
    /// none.
    pub fn flags(mut self, flags: Vec<(String, String)>) -> Self {
        self.shown.flags = flags;
        self
    }

    /// The wall clock. Default: the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.context.clock = clock;
        self
    }

    /// Who we are among daemons that claim this node's name. Default: this process on this machine.
    pub fn instance(mut self, instance: Instance) -> Self {
        self.context.instance = instance;
        self
    }

    /// Labels, annotations and taints that replace those of the settings whenever they change, while the node
    /// runs. Default: they never do.
    pub fn markings(mut self, markings: watch::Receiver<Markings>) -> Self {
        self.context.markings = markings;
        self
    }

    /// The node.
    pub fn build(self) -> Node {
        let Self { mut context, lease, server, shown } = self;
        let watch = PodWatch::new();
        context.client = impatient(context.client, context.metrics.cluster(), &watch);
        context.provider = Arc::new(Metered::new(context.provider, context.metrics.clone()));
        let (recorder, flusher) =
            Recorder::new(context.client.clone(), &context.config, context.clock.clone());
        context.recorder = recorder.clone();
        let pods = Pods::new(
            &context.config,
            Arc::clone(&context.provider),
            context.client.clone(),
            recorder,
            context.clock.clone(),
            &context.metrics,
            context.seen.subscribe(),
        );
        observe(&context, &pods, watch);
        Node { context, pods, flusher, lease, server, shown }
    }
}

impl Node {
    /// Starts to build a node of `client`'s cluster whose pods run at `provider`.
    pub fn builder(config: NodeConfig, provider: Arc<dyn Provider>, client: kube::Client) -> NodeBuilder {
        NodeBuilder {
            context: NodeContext::new(client, config, provider),
            lease: None,
            server: None,
            shown: Shown::default(),
        }
    }

    /// The node's pods, from memory.
    #[must_use]
    pub fn pods(&self) -> Arc<dyn PodLookup> {
        self.pods.lookup()
    }

    /// What the node counts, for an [admin port](crate::admin).
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.context.metrics.clone()
    }

    /// Whether the node makes progress and is ready, for an [admin port](crate::admin).
    #[must_use]
    pub fn health(&self) -> Health {
        self.context.health.clone()
    }

    /// The kubelet API as a service without sockets, for tests and for embedders with a server of their own.
    #[must_use]
    pub fn kubelet_api(&self, access: Access) -> KubeletApi {
        kubelet_api(&self.context, &self.pods, access, &self.shown)
    }

    /// Runs until `shutdown` is wished.
    ///
    /// # Errors
    /// [`NodeError`], when the node cannot be registered, or another daemon has taken it over. Trouble with the
    /// API server or the provider later on is no error: it is waited out.
    ///
    /// # Cancellation
    /// May be dropped anywhere, like a killed process.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), NodeError> {
        // Cancel-safe: an abort is allowed to stop everything where it is.
        tokio::select! {
            ended = self.run_and_drain(&shutdown) => ended,
            () = shutdown.aborted() => Ok(()),
        }
    }

    async fn run_and_drain(self, shutdown: &Shutdown) -> Result<(), NodeError> {
        let Self { context, pods, flusher, lease, server, shown } = self;
        let config = Arc::clone(&context.config);
        let pods = Arc::new(pods);
        // One token per task: they are stopped in an order.
        let (stop_api, stop_pods, stop_events) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        if let Some(server) = server {
            let ApiServer { listener, tls, access, limits } = server;
            let config =
                tls.config().map_err(|source| NodeError::Serve { node: config.name.clone(), source })?;
            let api = kubelet_api(&context, &pods, access.clone(), &shown);
            let (client, clock, metrics) = (context.client.clone(), context.clock.clone(), api.metrics());
            let stop = stop_api.clone();
            tasks.spawn(async move {
                let serving = api::serve(listener, config, &api, limits, stop);
                // Cancel-safe: what is being renewed is renewed by the next start.
                tokio::select! {
                    () = serving => {}
                    () = tls.keep(&client, &clock, &metrics) => {}
                    () = access.keep(&clock, &metrics) => {}
                }
                "kubelet API"
            });
        }
        tasks.spawn({
            let stop = stop_events.clone();
            async move {
                flusher.run(stop).await;
                "event writer"
            }
        });

        // Cancel-safe: what the registration wrote is found by the next one.
        let registered = tokio::select! {
            registered = ensure_registered(&context) => registered?,
            () = shutdown.draining() => return Ok(()),
        };
        tracing::info!(node = config.name, server = registered.server_version(), "registered");
        // Not before the lease is ours: until then the pods are another daemon's, whose backend this one may not see.
        tasks.spawn({
            let (pods, stop) = (Arc::clone(&pods), stop_pods.clone());
            async move {
                pods.run(stop).await;
                "pod engine"
            }
        });
        let lease = lease.unwrap_or_else(|| LeaseRuntime::current(context.client.clone()));
        context.health.check("registered", Concern::Readiness, || Ok(()));
        let uid = registered.uid();
        let lease = LeaseKeeper::new(&registered).spawn(&lease);
        observe_lease(&context, &lease);
        let beating = beat(registered, &lease, &pods, &mut tasks, shutdown, &config);
        // Boxed: it lives as long as the node, and is large.
        let ended = Box::pin(beating).await;
        if ended.is_ok() {
            // NotReady was said by the heartbeat; nothing new comes now.
            stop_api.cancel();
            pods.drain(config.drain_pods_on_shutdown, config.drain_timeout).await;
            if config.deregister_on_shutdown {
                let uid = uid.borrow().clone();
                if let Err(error) = deregister(&context, &uid).await {
                    tracing::warn!(node = config.name, %error, "the Node object was not deleted");
                }
            }
        }
        stop_api.cancel();
        stop_pods.cancel();
        stop_events.cancel();
        while tasks.join_next().await.is_some() {}
        // Last: a successor may take the node over as soon as its lease is released.
        lease.stop().await;
        ended
    }
}

/// Keeps the heartbeat until a drain is wished or something ends that should not.
async fn beat(
    registered: Registered,
    lease: &LeaseHandle,
    pods: &Pods,
    tasks: &mut JoinSet<&'static str>,
    shutdown: &Shutdown,
    config: &NodeConfig,
) -> Result<(), NodeError> {
    let stop = CancellationToken::new();
    let heartbeat = Heartbeat::new(registered, pods.synced(), lease.status()).run(stop.clone());
    tokio::pin!(heartbeat);
    // Cancel-safe: the heartbeat is pinned and goes on below; a joined task is gone either way.
    let ended = tokio::select! {
        ended = &mut heartbeat => return ended.map_err(NodeError::from),
        () = shutdown.draining() => Ok(()),
        task = tasks.join_next() => {
            let task = task.and_then(Result::ok).unwrap_or("task");
            Err(NodeError::TaskEnded { node: config.name.clone(), task })
        }
    };
    stop.cancel();
    heartbeat.await?;
    ended
}

fn kubelet_api(context: &NodeContext, pods: &Pods, access: Access, shown: &Shown) -> KubeletApi {
    let api = KubeletApi::new(
        context.config.name.as_str(),
        Arc::clone(&context.provider),
        pods.lookup(),
        access,
        context.clock.clone(),
    );
    api.with_config(Arc::clone(&context.config))
        .with_metrics(context.metrics.clone())
        .with_health(context.health.clone())
        .with_stream_limits(shown.streams)
        .with_flags(shown.flags.clone())
}

/// Checks and figures of a node that need no lease.
fn observe(context: &NodeContext, pods: &Pods, watch: PodWatch) {
    let health = &context.health;
    health.check("pod-watch", Concern::Liveness, move || watch.verdict());
    let progress = pods.progress();
    health.check("pod-workers", Concern::Liveness, move || progress.verdict());
    health.check("registered", Concern::Readiness, || Err("the node is not registered yet".to_owned()));
    let synced = pods.synced();
    health.check("pods-listed", Concern::Readiness, move || {
        let listed = *synced.borrow();
        listed.then_some(()).ok_or_else(|| {
            "the pods have not been listed yet, at the API server or at the provider".to_owned()
        })
    });
    pods.observe(&context.metrics);
    let absence = pods.mass_absence();
    let help = "Whether a listing of the backend is not believed, because it lacks too many pods at once";
    context.metrics.sample(Kind::Gauge, "vk_mass_absence", help, "", move || {
        vec![("", f64::from(u8::from(absence.borrow().is_some())))]
    });
    let recorder = context.recorder.clone();
    let help = "Kubernetes events, by what became of them: written, dropped for a limit, or failed";
    context.metrics.sample(Kind::Counter, "vk_events", help, "outcome", move || {
        let counts = recorder.counts();
        vec![
            ("written", counts.written as f64),
            ("dropped-full", counts.dropped_full as f64),
            ("dropped-spam", counts.dropped_spam as f64),
            ("dropped-budget", counts.dropped_budget as f64),
            ("failed", counts.failed as f64),
        ]
    });
}

fn observe_lease(context: &NodeContext, lease: &LeaseHandle) {
    let (status, duration) = (lease.status(), context.config.lease_duration);
    context.health.check("lease", Concern::Liveness, move || {
        let status = status.borrow();
        match status.age() {
            // Then the node's status is its heartbeat.
            _ if status.out_of_reach => Ok(()),
            Some(age) if age > duration => {
                Err(format!("not renewed for {} s, and it lasts {} s", age.as_secs(), duration.as_secs()))
            }
            _ => Ok(()),
        }
    });
    sample_lease(&context.metrics, lease.status());
}

/// The lease's age, which there is none of before there is a lease.
pub(crate) fn sample_lease(metrics: &Metrics, status: watch::Receiver<LeaseStatus>) {
    let help = "How long ago the node's lease was renewed; absent before the first time";
    metrics.sample(Kind::Gauge, "vk_lease_age_seconds", help, "", move || {
        status.borrow().age().map(|age| ("", age.as_secs_f64())).into_iter().collect()
    });
}
