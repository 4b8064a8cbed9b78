//! Renews the node's lease, whatever else happens.
//!
//! The lease is what keeps the cluster from declaring the node dead (KEP-589), so nothing may be in its way: it
//! has a thread and a connection of its own ([`LeaseRuntime`]), and waits for nobody.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::PostParams;
use tokio::runtime::{self, Handle};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::call::{Backoff, CallError, call_within};
use super::claim::{LEASE_NAMESPACE, LeaseForm, Title, UNMARKED, renewed_at};
use super::register::Registered;
use crate::client::counted;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Attempts without a pause after a failure, the kubelet's `maxUpdateRetries`.
const IMMEDIATE: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The kubelet's `maxBackoff`.
const LONGEST_PAUSE: Duration = Duration::from_secs(7);
/// The same while the lease has not expired: until then every attempt counts.
const LONGEST_PAUSE_IN_TIME: Duration = Duration::from_secs(2);
/// How long giving up the lease may take.
const RELEASE: Duration = Duration::from_secs(2);
/// Renewals by nobody we know, one after the other, that make a second daemon. One alone may be somebody
/// with kubectl.
const STRANGE_RENEWALS: u32 = 3;

/// How the lease is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseStatus {
    /// When it was last renewed.
    pub renewed: Option<Instant>,
    /// Whether the API server does not let us have it: forbidden, or without its namespace.
    pub out_of_reach: bool,
    /// The instance that has taken the lease from us. This daemon must not act for the node any more.
    pub lost_to: Option<String>,
}

impl LeaseStatus {
    /// How long ago the lease was renewed; `None` if it never was.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.renewed.map(|renewed| renewed.elapsed())
    }
}

/// Why leases cannot be renewed at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// The operating system gave no thread.
    #[error("start the lease thread")]
    Thread(#[source] std::io::Error),
    /// No client could be made for it.
    #[error("make a client for the lease thread")]
    Connect(#[source] Box<kube::Error>),
    /// The thread ended while it started.
    #[error("the lease thread ended while it started")]
    Ended,
}

/// Where leases are renewed. Cheap to clone; many nodes can share one.
#[derive(Clone)]
pub struct LeaseRuntime {
    handle: Handle,
    client: kube::Client,
    /// Ends the thread with the last clone.
    thread: Option<Arc<DropGuard>>,
}

impl LeaseRuntime {
    /// A thread with a runtime of its own. `connect` is called on it, so that the connections belong to it
    /// too: `LeaseRuntime::start(|| kube::Client::try_from(config))`.
    pub async fn start(
        connect: impl FnOnce() -> kube::Result<kube::Client> + Send + 'static,
    ) -> Result<Self, LeaseError> {
        let (sender, receiver) = oneshot::channel();
        let end = CancellationToken::new();
        let ended = end.clone();
        let body = move || {
            let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(sender.send(Err(LeaseError::Thread(error)))),
            };
            runtime.block_on(async move {
                let client = connect().map_err(|error| LeaseError::Connect(Box::new(error)));
                let started = client.is_ok();
                if sender.send(client.map(|client| (Handle::current(), client))).is_ok() && started {
                    ended.cancelled().await;
                }
            });
        };
        thread::Builder::new().name("node-lease".to_owned()).spawn(body).map_err(LeaseError::Thread)?;
        let thread = Some(Arc::new(end.drop_guard()));
        let (handle, client) = receiver.await.map_err(|_| LeaseError::Ended)??;
        Ok(Self { handle, client, thread })
    }

    /// The caller's runtime, for tests in paused time. Not for a daemon: whatever blocks that runtime delays the
    /// lease.
    #[must_use]
    pub fn current(client: kube::Client) -> Self {
        Self { handle: Handle::current(), client, thread: None }
    }
}

impl fmt::Debug for LeaseRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseRuntime").field("own_thread", &self.thread.is_some()).finish_non_exhaustive()
    }
}

/// Renews one node's lease.
#[derive(Debug)]
#[must_use = "the lease is renewed only once it is spawned"]
pub struct LeaseKeeper {
    form: LeaseForm,
    clock: Clock,
    metrics: Metrics,
    /// The lease as the API server had it last; `None` if it has none.
    lease: Option<Lease>,
    /// Whether that has changed since, as a conflict says.
    stale: bool,
    owner: watch::Receiver<String>,
    status: watch::Sender<LeaseStatus>,
    /// When we renewed it last, or tried to.
    tried: VecDeque<Timestamp>,
    strange_renewals: u32,
}

/// A lease that is being renewed. Dropping it ends the renewals and leaves the lease as it is, as the death of the
/// process would.
#[derive(Debug)]
#[must_use = "dropping it ends the renewals"]
pub struct LeaseHandle {
    status: watch::Receiver<LeaseStatus>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Keeps the thread.
    _runtime: LeaseRuntime,
}

impl LeaseHandle {
    /// The lease's state, for the heartbeat and for liveness.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LeaseStatus> {
        self.status.clone()
    }

    /// Ends the renewals and gives the lease up, so that a successor need not wait for it to expire. Takes two
    /// seconds at most.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // The keeper bounds itself; this is for a thread that is gone.
        if timeout(2 * RELEASE, &mut self.task).await.is_err() {
            tracing::warn!("the lease was not released in time");
        }
    }
}

impl Drop for LeaseHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What became of an attempt to renew.
enum Attempt {
    Renewed,
    /// Read it, and try again with what is there.
    Changed,
    OutOfReach(CallError),
    Failed(CallError),
    Lost(String),
}

impl LeaseKeeper {
    /// The keeper of a registered node's lease.
    pub fn new(registered: &Registered) -> Self {
        let context = registered.context();
        let claimed = registered.claim().cloned();
        let tried = claimed.as_ref().and_then(renewed_at).into_iter().collect();
        let renewed = claimed.as_ref().map(|_| Instant::now());
        let status = LeaseStatus { renewed, out_of_reach: claimed.is_none(), lost_to: None };
        Self {
            form: LeaseForm::of(context),
            clock: context.clock.clone(),
            metrics: context.metrics.clone(),
            stale: claimed.is_none(),
            lease: claimed,
            owner: registered.uid(),
            status: watch::Sender::new(status),
            tried,
            strange_renewals: 0,
        }
    }

    /// Starts to renew.
    pub fn spawn(self, runtime: &LeaseRuntime) -> LeaseHandle {
        let stop = CancellationToken::new();
        let status = self.status.subscribe();
        let task = runtime.handle.spawn(self.run(runtime.client.clone(), stop.clone()));
        LeaseHandle { status, stop, task, _runtime: runtime.clone() }
    }

    async fn run(mut self, client: kube::Client, stop: CancellationToken) {
        // Made here, so that what it runs on is the lease's own.
        let client = counted(client, self.metrics.cluster());
        let api: Api<Lease> = Api::namespaced(client, LEASE_NAMESPACE);
        // Cancel-safe: the keeper may be interrupted anywhere; the next renewal reads what it left.
        stop.run_until_cancelled(self.renew_for_ever(&api)).await;
        if stop.is_cancelled() {
            self.release(&api).await;
        }
    }

    /// Ends only when the lease is lost.
    async fn renew_for_ever(&mut self, api: &Api<Lease>) {
        let interval = self.interval();
        // A Node that does not own its lease yet does so at once. Otherwise nodes that started together do
        // not renew together.
        let mut wait = if self.is_owned() { interval.mul_f64(fastrand::f64()) } else { Duration::ZERO };
        let mut spread = !wait.is_zero();
        let mut owners = true;
        loop {
            tokio::select! {
                // Cancel-safe: a change stays marked as unseen until `attempt` reads it.
                changed = self.owner.changed(), if owners => owners = changed.is_ok(),
                // Cancel-safe: nothing is lost but the time waited, and the other arm renews.
                () = sleep(wait) => {}
            }
            let Some(renewed) = self.renew(api).await else { return };
            wait = if !renewed {
                // Out of reach: nothing urgent, the status keeps the node alive.
                self.form.duration
            } else if spread {
                interval.mul_f64(1.0 + 0.04 * fastrand::f64())
            } else {
                interval.mul_f64(fastrand::f64())
            };
            spread |= renewed;
        }
    }

    fn is_owned(&self) -> bool {
        let owner = self.owner.borrow();
        let owners = self.lease.as_ref().and_then(|lease| lease.metadata.owner_references.as_deref());
        owners.is_some_and(|owners| owners.iter().any(|reference| reference.uid == *owner))
    }

    /// A quarter of the lease's duration, as the kubelet's `nodeLeaseRenewIntervalFraction`.
    fn interval(&self) -> Duration {
        self.form.duration / 4
    }

    /// Tries until it is done. `Some(false)` if it is out of reach, `None` if it is lost.
    async fn renew(&mut self, api: &Api<Lease>) -> Option<bool> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.attempt(api).await {
                Attempt::Renewed => {
                    self.status.send_modify(|status| {
                        status.renewed = Some(Instant::now());
                        status.out_of_reach = false;
                    });
                    return Some(true);
                }
                Attempt::Lost(instance) => {
                    tracing::error!(
                        node = self.form.node,
                        instance,
                        "another daemon has taken the node's lease"
                    );
                    self.status.send_modify(|status| status.lost_to = Some(instance));
                    return None;
                }
                Attempt::OutOfReach(error) => {
                    let news = self
                        .status
                        .send_if_modified(|status| !std::mem::replace(&mut status.out_of_reach, true));
                    if news {
                        tracing::warn!(node = self.form.node, %error,
                            "the node's lease is out of reach; grant get, create and update on leases in \
                             kube-node-lease");
                    }
                    return Some(false);
                }
                Attempt::Changed if attempt < IMMEDIATE => {}
                Attempt::Changed => sleep(FIRST_PAUSE).await,
                Attempt::Failed(error) => {
                    if attempt >= IMMEDIATE || error.retry_after().is_some() {
                        let age = self.status.borrow().age();
                        tracing::warn!(node = self.form.node, attempt, ?age, %error,
                            "the node's lease was not renewed");
                        let in_time = age.is_some_and(|age| age < self.form.duration);
                        let longest = if in_time { LONGEST_PAUSE_IN_TIME } else { LONGEST_PAUSE };
                        sleep(backoff.pause(&error).min(longest)).await;
                    }
                }
            }
        }
    }

    async fn attempt(&mut self, api: &Api<Lease>) -> Attempt {
        let limit = self.interval();
        let owner = self.owner.borrow_and_update().clone();
        let undisturbed = !self.stale;
        if self.stale {
            match call_within(limit, api.get_opt(&self.form.node)).await {
                Ok(lease) => {
                    if let Some(lease) = &lease
                        && let Err(instance) = self.still_ours(lease)
                    {
                        return Attempt::Lost(instance);
                    }
                    self.lease = lease;
                    self.stale = false;
                }
                // The conflict may have been none: what we know is worth a try, and overwrites nothing newer.
                Err(error) if error.is_transient() && self.lease.is_some() => {}
                Err(error) => return failed(error),
            }
        }
        let now = self.clock.now();
        self.remember(now);
        let params = PostParams::default();
        let result = match self.lease.clone() {
            Some(lease) => {
                let renewed = self.form.renewed(lease, Some(&owner), now);
                call_within(limit, api.replace(&self.form.node, &params, &renewed)).await
            }
            None => call_within(limit, api.create(&params, &self.form.fresh(Some(&owner), now))).await,
        };
        match result {
            Ok(lease) => {
                self.lease = Some(lease);
                self.stale = false;
                if undisturbed {
                    self.strange_renewals = 0;
                }
                Attempt::Renewed
            }
            // Somebody wrote it or deleted it, or an answer to us was lost.
            Err(error) if error.is_conflict() || (self.lease.is_some() && error.is_not_found()) => {
                self.stale = true;
                Attempt::Changed
            }
            Err(error) => failed(error),
        }
    }

    /// Whether a lease that changed under us is still ours to renew; if not, whose it is.
    fn still_ours(&mut self, lease: &Lease) -> Result<(), String> {
        match self.form.title(lease) {
            Title::Held(instance) | Title::Other(instance) => Err(instance),
            Title::Free | Title::Unmarked => {
                if renewed_at(lease).is_some_and(|at| !self.tried.contains(&at)) {
                    self.strange_renewals += 1;
                }
                if self.strange_renewals >= STRANGE_RENEWALS {
                    return Err(UNMARKED.to_owned());
                }
                Ok(())
            }
        }
    }

    fn remember(&mut self, at: Timestamp) {
        // The API server keeps microseconds.
        let at = Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at);
        if self.tried.len() >= 16 {
            self.tried.pop_front();
        }
        self.tried.push_back(at);
    }

    /// Gives the lease up, unless somebody else has it by now.
    async fn release(&mut self, api: &Api<Lease>) {
        let release = async {
            let mut lease = self.lease.take();
            // A renewal that was cut off has changed the lease since we knew it.
            for _ in 0..2 {
                let known = match lease.take() {
                    Some(lease) => lease,
                    None => api.get(&self.form.node).await?,
                };
                if self.form.title(&known) != Title::Free {
                    break;
                }
                let released = LeaseForm::released(known);
                match api.replace(&self.form.node, &PostParams::default(), &released).await {
                    Err(kube::Error::Api(status)) if status.is_conflict() => {}
                    done => return done.map(drop),
                }
            }
            Ok(())
        };
        if let Err(error) = call_within(RELEASE, release).await {
            tracing::debug!(node = self.form.node, %error, "the lease was not released and will expire");
        }
    }
}

fn failed(error: CallError) -> Attempt {
    if error.is_forbidden() || error.is_not_found() {
        Attempt::OutOfReach(error)
    } else {
        Attempt::Failed(error)
    }
}
