//! Keeps the Node object what it should be, and says that the node lives.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::NodeContext;
use super::call::{Backoff, CallError};
use super::conditions::{Readiness, conditions, is_ready};
use super::lease::LeaseStatus;
use super::object::DesiredNode;
use super::ping::{Ping, ping};
use super::register::{Registered, unsynced};
use super::writer::NodeWriter;
use crate::backoff::WatchBackoff;
use crate::config::NodeConfig;
use crate::events::NodeReason;
use crate::events::budget::TokenBucket;
use crate::health::Concern;
use crate::provider::NodeInfo;

/// How long a node that was ready when we started stays so while its pods are not known.
const SYNC_GRACE: Duration = Duration::from_secs(30);
/// How long the last status may take.
const GOODBYE: Duration = Duration::from_secs(5);
/// Why a node is not ready that was told to end.
const SHUTDOWN: &str = "NodeShutdown";

/// Why a heartbeat ended without being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeartbeatError {
    /// Another daemon has taken the node's lease; nothing more is written in its name.
    #[error("node {node} was taken over by another daemon ({instance})")]
    HeldByAnother {
        /// The node.
        node: String,
        /// What the other daemon calls itself.
        instance: String,
    },
}

/// Level-triggered: whatever woke it, it compares the object as it is with what it should be, and writes what
/// differs.
#[derive(Debug)]
pub struct Heartbeat {
    context: NodeContext,
    writer: NodeWriter,
    server_version: String,
    /// The object as last seen; `None` if it is gone.
    live: Option<Node>,
    /// Whether it has to be read before anything is decided.
    unsure: bool,
    /// Whether the watch's list has had it.
    listed: bool,
    desired: DesiredNode,
    provider: Readiness,
    /// What the provider last said of the node.
    info: Option<NodeInfo>,
    synced: watch::Receiver<bool>,
    lease: watch::Receiver<LeaseStatus>,
    uid: watch::Sender<String>,
    started: Instant,
    reported: Instant,
    /// Others may fight us over our fields, or delete the object again and again: such writes are rationed.
    repairs: TokenBucket,
    recreations: TokenBucket,
    told: Told,
}

/// What has been said once.
#[derive(Debug, Default)]
struct Told {
    provider_id: Option<String>,
    lease: bool,
}

type OwnNode = BoxStream<'static, Result<watcher::Event<Node>, watcher::Error>>;

impl Heartbeat {
    /// The heartbeat of a registered node. It is `Ready` once `synced` is true, and reports its status more
    /// often while `lease` is out of reach.
    #[must_use]
    pub fn new(
        registered: Registered,
        synced: watch::Receiver<bool>,
        lease: watch::Receiver<LeaseStatus>,
    ) -> Self {
        let now = Instant::now();
        registered.context.seen.send_replace(Some(Arc::new(registered.live.clone())));
        Self {
            writer: registered.writer,
            server_version: registered.server_version,
            live: Some(registered.live),
            unsure: false,
            listed: false,
            desired: registered.desired,
            provider: registered.ping.readiness,
            info: registered.ping.info,
            synced,
            lease,
            uid: registered.uid,
            started: now,
            reported: now,
            repairs: TokenBucket::new(0.1, 10, now),
            recreations: TokenBucket::new(0.05, 3, now),
            told: Told::default(),
            context: registered.context,
        }
    }

    /// Beats until `shutdown`, then says `Ready=False` with the reason `NodeShutdown`, which takes five seconds at
    /// most.
    ///
    /// # Errors
    /// Only when the node is no longer ours; then nothing is written.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), HeartbeatError> {
        self.tell_health();
        self.event(NodeReason::Starting, "Starting virtual kubelet.".to_owned());
        // Cancel-safe: a write that was cut off is found by comparing again.
        if let Some(error) = shutdown.run_until_cancelled(Box::pin(self.beat())).await {
            return Err(error);
        }
        if timeout(GOODBYE, self.say_goodbye()).await.is_err() {
            tracing::warn!(node = self.context.config.name, "the node's last status was not written");
        }
        Ok(())
    }

    async fn beat(&mut self) -> HeartbeatError {
        let config = self.context.config.clone();
        let mut own = Some(self.watch_own());
        let mut ticks = interval_at(Instant::now() + config.ping_interval, config.ping_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pinging: Option<BoxFuture<'static, Ping>> = None;
        let (mut syncs, mut leases, mut marks) = (true, true, true);
        let mut backoff = Backoff::new(Duration::from_millis(250), config.ping_interval / 3);
        // The earliest moment of the next comparison after a failure, and when it is due.
        let mut not_before = Instant::now();
        let mut due = Instant::now();
        loop {
            if let Some(instance) = self.lease.borrow_and_update().lost_to.clone() {
                return HeartbeatError::HeldByAnother { node: config.name.clone(), instance };
            }
            if Instant::now() >= due.max(not_before) {
                match self.reconcile().await {
                    Ok(next) => {
                        backoff.reset();
                        due = next;
                    }
                    Err(error) => {
                        let pause = backoff.pause(&error);
                        if error.is_transient() || error.is_conflict() || error.is_gone() {
                            tracing::debug!(node = config.name, %error, ?pause, "the node was not written");
                        } else {
                            tracing::warn!(node = config.name, %error, ?pause, "the node was not written");
                        }
                        not_before = Instant::now() + pause;
                    }
                }
            }
            tokio::select! {
                // Cancel-safe: the stream keeps its place.
                event = next_of(&mut own) => {
                    if !self.observe(event) {
                        own = None;
                    }
                    due = Instant::now();
                }
                // Cancel-safe: the interval keeps its place.
                _ = ticks.tick() => {
                    if pinging.is_none() {
                        pinging = Some(Box::pin(ping(self.context.provider.clone(), config.clone())));
                    }
                    if own.is_none() {
                        self.unsure = true;
                        due = Instant::now();
                    }
                }
                // Cancel-safe: the question stays open until it is answered.
                answer = answer_of(&mut pinging) => {
                    pinging = None;
                    self.provider_says(answer);
                    due = Instant::now();
                }
                // Cancel-safe: a change stays marked as unseen until it is read.
                changed = self.synced.changed(), if syncs => {
                    syncs = changed.is_ok();
                    due = Instant::now();
                }
                // Cancel-safe: a change stays marked as unseen until it is read.
                changed = self.lease.changed(), if leases => {
                    leases = changed.is_ok();
                    due = Instant::now();
                }
                // Cancel-safe: a change stays marked as unseen until it is read.
                changed = self.context.markings.changed(), if marks => {
                    marks = changed.is_ok();
                    if marks {
                        self.mark();
                        due = Instant::now();
                    }
                }
                // Cancel-safe: a point in time.
                () = sleep_until(due.max(not_before)) => {}
            }
        }
    }

    /// Compares and writes. The answer is when to do so again if nothing happens.
    async fn reconcile(&mut self) -> Result<Instant, CallError> {
        let result = self.write_what_differs().await;
        if let Err(error) = &result {
            self.unsure |= error.is_gone();
        }
        result
    }

    async fn write_what_differs(&mut self) -> Result<Instant, CallError> {
        if self.unsure {
            let live = self.writer.read().await?;
            self.see(live);
            self.unsure = false;
        }
        let Some(live) = self.live.clone() else { return self.create_again().await };

        let now = Instant::now();
        let readiness = self.readiness(&live);
        let ours = conditions(conditions_of(&live), &readiness, self.context.clock.now());
        let report = self.reported + self.report_interval();
        let written = self.writer.update_status(&live, &self.desired, &ours, now >= report).await?;
        let live = match written {
            Some(written) => {
                self.reported = Instant::now();
                self.tell_readiness(is_ready(conditions_of(&live)), is_ready(&ours), &readiness);
                self.live.insert(written).clone()
            }
            None => live,
        };

        let mut next = self.reported + self.report_interval();
        if let Some(silent) = self.lease_silent_at() {
            next = next.min(silent);
        }
        if matches!(self.unsynced_grace(), Some(left) if !left.is_zero()) {
            next = next.min(self.started + SYNC_GRACE);
        }
        if let Some(wait) = self.repairs.wait(now) {
            tracing::warn!(
                node = self.desired.name,
                "labels, annotations or taints of the node are changed as fast as they are repaired"
            );
            return Ok(next.min(now + wait));
        }
        match self.writer.update_object(&live, &self.desired).await {
            Ok(None) => {}
            Ok(Some(written)) => {
                self.repairs.take(now);
                self.live = Some(written);
            }
            Err(error) => {
                // A list of taints is written for one version of the object only.
                self.unsure |= error.is_conflict();
                return Err(error);
            }
        }
        self.tell_provider_id();
        Ok(next)
    }

    /// The object is gone. Its pods are collected after a while unless there is a node of that name again.
    async fn create_again(&mut self) -> Result<Instant, CallError> {
        let now = Instant::now();
        if let Some(wait) = self.recreations.wait(now) {
            tracing::warn!(node = self.desired.name, ?wait, "the node object is deleted again and again");
            return Ok(now + wait);
        }
        let synced = *self.synced.borrow();
        let readiness = if synced { self.provider.clone() } else { unsynced(&self.provider, false) };
        let ours = conditions(&[], &readiness, self.context.clock.now());
        let made = match self.writer.create(&self.desired, &ours).await {
            Ok(made) => made,
            Err(error) => {
                // Somebody else made it, or an answer to us was lost.
                self.unsure |= error.is_conflict();
                return Err(error);
            }
        };
        self.recreations.take(now);
        self.reported = Instant::now();
        self.see(Some(made));
        tracing::warn!(
            node = self.desired.name,
            uid = *self.uid.borrow(),
            "the node object was gone and is made again"
        );
        self.event(
            NodeReason::Reregistered,
            "The Node object was gone and has been created again.".to_owned(),
        );
        Ok(now)
    }

    fn readiness(&self, live: &Node) -> Readiness {
        match self.unsynced_grace() {
            None => self.provider.clone(),
            Some(left) => unsynced(&self.provider, is_ready(conditions_of(live)) && !left.is_zero()),
        }
    }

    /// `None` once the pods are known; until then, how long a node may still count as ready that was so before.
    fn unsynced_grace(&self) -> Option<Duration> {
        (!*self.synced.borrow()).then(|| SYNC_GRACE.saturating_sub(self.started.elapsed()))
    }

    /// The status keeps the node alive where the lease does not.
    fn report_interval(&self) -> Duration {
        let config = &self.context.config;
        let lease_alive = !self.lease.borrow().out_of_reach && self.lease_silent_at().is_some();
        if lease_alive { config.status_report_interval } else { config.ping_interval }
    }

    /// When the lease will have gone without renewal for half its duration; `None` if it has.
    fn lease_silent_at(&self) -> Option<Instant> {
        let renewed = self.lease.borrow().renewed?;
        let silent = renewed + self.context.config.lease_duration / 2;
        (silent > Instant::now()).then_some(silent)
    }

    fn provider_says(&mut self, answer: Ping) {
        self.provider = answer.readiness;
        if answer.info.is_some() {
            self.info = answer.info;
            self.describe();
        }
        self.tell_health();
    }

    /// For `/readyz`.
    fn tell_health(&self) {
        let verdict = match &self.provider {
            Readiness::Ready => Ok(()),
            Readiness::NotReady { reason, message } => Err(format!("{reason}: {message}")),
        };
        self.context.health.check("provider", Concern::Readiness, move || verdict.clone());
    }

    /// Takes over the markings as they are now.
    fn mark(&mut self) {
        let markings = self.context.markings.borrow_and_update().clone();
        let config = NodeConfig::clone(&self.context.config).with_markings(markings);
        tracing::info!(node = config.name, "labels, annotations and taints have changed");
        self.context.config = Arc::new(config);
        self.describe();
    }

    /// What the object should say, from the settings and the provider's last words.
    fn describe(&mut self) {
        let name = self.context.provider.name();
        match DesiredNode::new(&self.context.config, name, self.info.as_ref(), &self.server_version) {
            Ok(desired) => self.desired = desired,
            Err(error) => self.provider = Readiness::not_ready("InvalidNodeInfo", error.to_string()),
        }
    }

    fn watch_own(&self) -> OwnNode {
        let fields = format!("metadata.name={}", self.desired.name);
        let config = watcher::Config::default().fields(&fields);
        let pauses = WatchBackoff::new(&self.context.config);
        watcher(self.writer.api().clone(), config).backoff(pauses).boxed()
    }

    /// Takes in what the watch says. False if there is no watch to be had.
    fn observe(&mut self, event: Option<Result<watcher::Event<Node>, watcher::Error>>) -> bool {
        match event {
            Some(Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => {
                self.listed = true;
                if !self.is_older(&node) {
                    self.see(Some(node));
                }
            }
            Some(Ok(watcher::Event::Delete(node))) => {
                self.unsure |= self.live.as_ref().is_some_and(|live| live.metadata.uid == node.metadata.uid);
            }
            Some(Ok(watcher::Event::Init)) => self.listed = false,
            // It went in a gap of the watch, or the list is older than the object; a read tells.
            Some(Ok(watcher::Event::InitDone)) => self.unsure |= !self.listed,
            Some(Err(error)) => {
                if is_forbidden(&error) {
                    tracing::warn!(node = self.desired.name, %error,
                        "the node cannot be watched and is read now and then instead; grant list and watch on nodes");
                    return false;
                }
                tracing::debug!(node = self.desired.name, %error, "watching the node failed");
            }
            None => return false,
        }
        true
    }

    /// Whether the watch tells what we know better already, from the answer to a write of ours.
    fn is_older(&self, node: &Node) -> bool {
        let version = |node: &Node| node.metadata.resource_version.as_deref()?.parse::<u64>().ok();
        let known = self.live.as_ref().and_then(version);
        known.is_some() && version(node).is_some_and(|version| Some(version) < known)
    }

    fn see(&mut self, live: Option<Node>) {
        if let Some(uid) = live.as_ref().and_then(|node| node.metadata.uid.clone()) {
            self.uid.send_if_modified(|known| {
                let new = *known != uid;
                *known = uid;
                new
            });
        }
        if let Some(live) = &live {
            self.context.seen.send_replace(Some(Arc::new(live.clone())));
        }
        self.live = live;
    }

    async fn say_goodbye(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let readiness = Readiness::not_ready(SHUTDOWN, "node is shutting down");
        loop {
            let Some(live) = self.live.clone() else { return };
            let ours = conditions(conditions_of(&live), &readiness, self.context.clock.now());
            let error = match self.writer.update_status(&live, &self.desired, &ours, true).await {
                Ok(_) => {
                    self.tell_readiness(is_ready(conditions_of(&live)), false, &readiness);
                    return;
                }
                // Whoever made another one of the name has its status to write.
                Err(error) if error.is_gone() => return,
                Err(error) => error,
            };
            if error.is_transient() || error.is_conflict() {
                tokio::time::sleep(backoff.pause(&error)).await;
            } else {
                tracing::warn!(node = self.desired.name, %error, "the node's last status was refused");
                return;
            }
        }
    }

    fn tell_readiness(&self, before: bool, now: bool, readiness: &Readiness) {
        if before == now {
            return;
        }
        let name = &self.desired.name;
        let reason = if now { NodeReason::NodeReady } else { NodeReason::NodeNotReady };
        match readiness {
            Readiness::Ready => tracing::info!(node = name, "the node is ready"),
            // Wished for, and so no reason to warn.
            Readiness::NotReady { reason, .. } if reason == SHUTDOWN => {
                tracing::info!(node = name, "the node is not ready: it shuts down");
            }
            Readiness::NotReady { reason, message } => {
                tracing::warn!(node = name, reason, message, "the node is not ready");
            }
        }
        self.event(reason, format!("Node {name} status is now: {}", reason.as_str()));
    }

    fn tell_provider_id(&mut self) {
        if let Some(wanted) = self.writer.refused_provider_id()
            && self.told.provider_id.as_deref() != Some(wanted)
        {
            let wanted = wanted.to_owned();
            let message = format!(
                "spec.providerID cannot be changed to {wanted:?} once it is set; delete the Node object to have it set anew."
            );
            self.event(NodeReason::ProviderIDConflict, message);
            self.told.provider_id = Some(wanted);
        }
        if self.lease.borrow().out_of_reach && !std::mem::replace(&mut self.told.lease, true) {
            let message =
                "The lease in kube-node-lease is out of reach; the status is written more often instead.";
            self.event(NodeReason::LeaseForbidden, message.to_owned());
        }
    }

    fn event(&self, reason: NodeReason, message: String) {
        self.context.recorder.node(&self.uid.borrow(), reason, message);
    }
}

fn conditions_of(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code == 403,
        _ => false,
    }
}

/// The next event of the watch; never, without one.
async fn next_of(own: &mut Option<OwnNode>) -> Option<Result<watcher::Event<Node>, watcher::Error>> {
    match own {
        Some(own) => own.next().await,
        None => std::future::pending().await,
    }
}

/// The provider's answer; never, unless it was asked.
async fn answer_of(pinging: &mut Option<BoxFuture<'static, Ping>>) -> Ping {
    match pinging {
        Some(pinging) => pinging.await,
        None => std::future::pending().await,
    }
}
