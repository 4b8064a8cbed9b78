//! The pods of the node: desired and observed, and what is done about the difference.
//!
//! ```text
//! source ──desired──▶ table ◀──observed── observer ◀── Provider::watch_pods, list_pods
//!                       │ queue (one key per UID)
//!                       ▼
//!                    worker: publish ▸ decide ▸ one step ▸ again ──▶ resolve ──▶ Provider
//!                       │
//!                       └──▶ publisher ──▶ API server
//! ```

pub(crate) mod patch;
pub(crate) mod resolve;
mod state;
pub(crate) mod status;

mod admission;
mod decide;
mod narrate;
mod observer;
mod publisher;
mod queue;
mod record;
mod resize;
mod source;
mod story;
mod table;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::observer::{MassAbsence, Observer};
use self::publisher::Publisher;
#[cfg(test)]
pub(crate) use self::record::Desired;
use self::resolve::{KubeReader, ResolveOptions, Resolver};
use self::state::PodInput;
use self::story::Story;
use self::table::PodTable;
use self::worker::{Admission, Worker};
use crate::backoff::backoff;
use crate::clock::Clock;
use crate::config::NodeConfig;
use crate::events::Recorder;
use crate::health::Verdict;
use crate::metrics::{Kind, Metrics};
use crate::provider::{ContainerState, Feature, PodOutcome, PodRuntime, Provider, Sandbox};

/// What the kubelet API may know of the node's pods. Implemented by the pod table; answers come from
/// memory and never wait.
pub trait PodLookup: fmt::Debug + Send + Sync {
    /// The present incarnation of a name, with the latest status this node knows.
    fn find(&self, namespace: &str, name: &str) -> Option<Pod>;
    /// The incarnation with this UID.
    fn find_by_uid(&self, uid: &str) -> Option<Pod>;
    /// Every pod bound to this node, with the latest status, in no order.
    fn all(&self) -> Vec<Pod>;
}

/// The pods of one node, and everything that works on them.
#[derive(Debug)]
pub(crate) struct Pods {
    worker: Arc<Worker>,
    client: ClientOf,
}

/// How long workers may be busy with the API server before none of them counts as alive: several of its requests'
/// patience.
const SLOWEST: Duration = Duration::from_mins(5);

/// Whether workers take what waits.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    table: Arc<PodTable>,
    patience: Duration,
}

impl Progress {
    /// Whether they do.
    pub(crate) fn verdict(&self) -> Verdict {
        match self.table.queue.stalled() {
            Some(age) if age > self.patience => Err(format!(
                "{} pods wait, and no worker has taken one for {} s",
                self.table.queue.depth()[0],
                age.as_secs()
            )),
            _ => Ok(()),
        }
    }
}

/// A client without a `Debug` of its own.
struct ClientOf(kube::Client);

impl fmt::Debug for ClientOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("kube::Client")
    }
}

impl Pods {
    /// Prepares to run the pods that are bound to `config.name`. None is created before there is a `node`, by which
    /// it is decided whether they may.
    #[must_use]
    pub(crate) fn new(
        config: &NodeConfig,
        provider: Arc<dyn Provider>,
        client: kube::Client,
        recorder: Recorder,
        clock: Clock,
        metrics: &Metrics,
        node: watch::Receiver<Option<Arc<Node>>>,
    ) -> Self {
        let table = Arc::new(PodTable::new(config));
        let story = Story::new(&config.name, provider.name());
        let observer = Observer::new(
            Arc::clone(&table),
            Arc::clone(&provider),
            recorder.clone(),
            story.clone(),
            config.clone(),
            metrics.probes().clone(),
        );
        let native = provider.native();
        let options = ResolveOptions {
            late_bound: config.late_bound_fields,
            partial: native.contains(Feature::PartialPods),
            tokens: native.contains(Feature::Files),
            ..ResolveOptions::default()
        };
        let reader = KubeReader::new(client.clone()).as_node(config.node_identity);
        let worker = Worker {
            native,
            table,
            provider,
            observer: Arc::new(observer),
            publisher: Publisher::new(client.clone(), &config.name),
            resolver: Resolver::with_reader(reader, recorder.clone())
                .with_options(options)
                .with_host_ips(config.addresses.iter().copied()),
            recorder,
            story,
            clock,
            slots: Arc::new(Semaphore::new(config.pod_workers.max(1))),
            creates: Semaphore::new(config.provider_calls.max(1)),
            updates: Semaphore::new(config.provider_calls.max(1)),
            deletes: Semaphore::new(config.provider_calls.max(1)),
            draining: AtomicBool::new(false),
            admission: Admission::new(node),
            may_create: AtomicBool::new(false),
            metrics: metrics.work().clone(),
            config: config.clone(),
        };
        Self { worker: Arc::new(worker), client: ClientOf(client) }
    }

    /// The pods as the kubelet API sees them.
    #[must_use]
    pub(crate) fn lookup(&self) -> Arc<dyn PodLookup> {
        Arc::clone(&self.worker.table) as Arc<dyn PodLookup>
    }

    /// Becomes true when the pods have been listed, at the API server and at the provider.
    #[must_use]
    pub(crate) fn synced(&self) -> watch::Receiver<bool> {
        self.worker.table.subscribe_synced()
    }

    /// The standing refusal to believe a listing of the backend, if there is one.
    #[must_use]
    pub(crate) fn mass_absence(&self) -> watch::Receiver<Option<MassAbsence>> {
        self.worker.observer.mass_absence()
    }

    /// Whether workers take what waits.
    pub(crate) fn progress(&self) -> Progress {
        let config = &self.worker.config;
        Progress { table: Arc::clone(&self.worker.table), patience: config.provider_timeout + SLOWEST }
    }

    /// Adds the figures that are looked up in the table.
    pub(crate) fn observe(&self, metrics: &Metrics) {
        let table = Arc::clone(&self.worker.table);
        let help = "Pods in the queue, by state: ready for a worker, with a worker, or later";
        metrics.sample(Kind::Gauge, "vk_queue_pods", help, "state", move || {
            let [ready, active, later] = table.queue.depth();
            vec![("ready", ready as f64), ("active", active as f64), ("later", later as f64)]
        });
        let table = Arc::clone(&self.worker.table);
        let help = "Pods that this node knows, in the API or at the backend";
        metrics.sample(Kind::Gauge, "vk_pods", help, "", move || vec![("", table.lock().len() as f64)]);
        let table = Arc::clone(&self.worker.table);
        let help = "Number of pods that have a running pod sandbox";
        metrics.sample(Kind::Gauge, "kubelet_running_pods", help, "", move || {
            let records = table.lock();
            let ready = |runtime: &&PodRuntime| runtime.sandbox == Sandbox::Ready;
            let running =
                records.values().filter_map(|record| record.runtime.as_deref()).filter(ready).count();
            vec![("", running as f64)]
        });
        let table = Arc::clone(&self.worker.table);
        let help = "Number of containers currently running";
        metrics.sample(Kind::Gauge, "kubelet_running_containers", help, "container_state", move || {
            let mut counts = [("created", 0.0), ("running", 0.0), ("exited", 0.0)];
            for record in table.lock().values() {
                for container in record.runtime.iter().flat_map(|runtime| &runtime.containers) {
                    let state = match container.state {
                        ContainerState::Running { .. } => 1,
                        ContainerState::Terminated(_) => 2,
                        ContainerState::Waiting { .. } => 0,
                    };
                    counts[state].1 += 1.0;
                }
            }
            counts.to_vec()
        });
    }

    /// Runs until cancelled: watches both sides and works on every pod that needs it. Passes that are under
    /// way when it is cancelled are dropped; what they did is found again by the next process.
    ///
    /// # Cancellation
    /// Dropping it does the same.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let stop = stop.child_token();
        // The passes are tasks of their own, and must not outlive this one.
        let _passes_end = stop.clone().drop_guard();
        let table = Arc::clone(&self.worker.table);
        let source =
            source::run(self.client.0.clone(), &self.worker.config, Arc::clone(&table), stop.clone());
        let passes = TaskTracker::new();
        let dispatch = async {
            while let Some(uid) = table.queue.next().await {
                let Ok(permit) = Arc::clone(&self.worker.slots).acquire_owned().await else { return };
                let worker = Arc::clone(&self.worker);
                let stop = stop.clone();
                passes.spawn(async move {
                    let began = Instant::now();
                    let pass = std::panic::AssertUnwindSafe(worker.pass(&uid, permit)).catch_unwind();
                    // Cancel-safe: see `run`.
                    let ended = tokio::select! {
                        () = stop.cancelled() => return,
                        ended = pass => ended,
                    };
                    let outcome = if ended.is_ok() { "done" } else { "panicked" };
                    worker.metrics.pass(outcome, began.elapsed());
                    if ended.is_err() {
                        tracing::error!(k8s.pod.uid = %uid, "a pass over a pod panicked; it is repeated later");
                        worker.table.queue.add_after(uid.clone(), backoff(&worker.config, 5));
                    }
                    worker.table.queue.done(&uid);
                });
            }
        };
        let capacity = async {
            self.worker.learn_about_node().await;
            std::future::pending::<()>().await;
        };
        let resizes = async {
            loop {
                self.worker.admission.until_freed().await;
                self.worker.retry_resizes();
            }
        };
        // Cancel-safe: see above.
        tokio::select! {
            () = stop.cancelled() => {}
            () = resizes => {}
            () = capacity => {}
            () = source => {}
            () = self.worker.observer.run(stop.clone()) => {}
            () = dispatch => {}
        }
        table.queue.close();
        passes.close();
        passes.wait().await;
    }

    /// Starts no more pods, writes what is left to write, and returns when that is done or time is up. With
    /// `stop_pods`, first stops every pod and waits for its end. [`run`](Self::run) has to go on meanwhile.
    pub(crate) async fn drain(&self, stop_pods: bool, within: Duration) {
        let worker = &self.worker;
        worker.draining.store(true, Ordering::Release);
        if stop_pods {
            for record in worker.table.lock().values_mut() {
                record.eviction = Some(PodOutcome {
                    reason: "Terminated".to_owned(),
                    message: "Pod was terminated in response to imminent node shutdown.".to_owned(),
                    disruption: true,
                });
                record.input(PodInput::DeleteRequested);
                worker.table.queue.add(record.pod.uid.clone());
            }
        }
        let quiet = async {
            while !self.is_quiet(stop_pods) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(within, quiet).await.is_err() {
            tracing::warn!(?within, "not everything was written in time; the next start finishes it");
        }
    }

    fn is_quiet(&self, stop_pods: bool) -> bool {
        let table = &self.worker.table;
        let unwritten = table.lock().values().any(|record| {
            let ending = record.state.is_some_and(|s| s == state::PodState::Terminated);
            let stopping = stop_pods && record.state == Some(state::PodState::Terminating);
            ending || stopping || record.publish_not_before.is_some()
        });
        !unwritten && table.queue.busy() == 0
    }
}
