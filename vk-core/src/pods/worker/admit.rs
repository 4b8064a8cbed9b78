//! Letting pods in, one after the other in the order of their creation.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Worker;
use crate::backoff::backoff;
use crate::events::PodEventRecord;
use crate::node::{NodeResources, labels, resources};
use crate::pods::admission::{Demand, Ground, Host, Ledger, Refusal, check};
use crate::pods::record::CreateCall;
use crate::pods::source::chain;
use crate::pods::state::PodInput;
use crate::pods::status::Situation;
use crate::pods::table::Arrivals;
use crate::provider::{Error, NodeInfo, PodRef, PodUid};

/// For how long an answer about the node is new.
const FRESH: Duration = Duration::from_secs(1);

/// What the admission of a node's pods is decided with.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The Node object as it was last seen; `None` before the node is registered.
    node: watch::Receiver<Option<Arc<Node>>>,
    pub(super) ledger: Arc<Ledger>,
    /// Decisions are made one at a time: each counts on those before it.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Pods whose change of resources waits for room.
    deferred: Mutex<BTreeSet<PodUid>>,
    offer: Mutex<Option<Offer>>,
}

/// What the provider last said that it has.
#[derive(Clone, Debug)]
struct Offer {
    info: NodeInfo,
    allocatable: NodeResources,
    at: Instant,
}

impl Admission {
    pub(crate) fn new(node: watch::Receiver<Option<Arc<Node>>>) -> Self {
        Self {
            node,
            ledger: Arc::default(),
            turn: tokio::sync::Mutex::default(),
            deferred: Mutex::default(),
            offer: Mutex::default(),
        }
    }

    /// Returns when there is a Node object.
    pub(crate) async fn until_registered(&self) {
        // Without a sender there never will be one.
        if self.node.clone().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when something that was taken has been given back.
    pub(crate) async fn until_freed(&self) {
        self.ledger.freed.notified().await;
    }

    fn deferred(&self) -> MutexGuard<'_, BTreeSet<PodUid>> {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod waits for room.
    pub(super) fn defer(&self, uid: &PodUid) {
        self.deferred().insert(uid.clone());
    }

    pub(super) fn take_deferred(&self) -> BTreeSet<PodUid> {
        std::mem::take(&mut self.deferred())
    }

    fn offer(&self) -> Option<Offer> {
        self.offer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Worker {
    /// What the provider has for pods, asked now.
    pub(super) async fn ask_for_offer(&self) -> Result<NodeResources, String> {
        let asked = timeout(self.config.ping_timeout, self.provider.node_info()).await;
        let info = asked
            .unwrap_or_else(|_| Err(Error::unavailable("node info: no answer in time")))
            .map_err(|error| error.chain())?;
        let (_, allocatable) = resources(&self.config, &info).map_err(|error| chain(&error))?;
        let offer = Offer { info, allocatable: allocatable.clone(), at: Instant::now() };
        *self.admission.offer.lock().unwrap_or_else(PoisonError::into_inner) = Some(offer);
        Ok(allocatable)
    }

    /// Whether the pod has its place, or needs none because it is not going to be created.
    pub(super) fn is_admitted(&self, uid: &PodUid) -> bool {
        self.table.with(uid, |record| !record.awaits_admission()).unwrap_or(true)
    }

    /// Decides about every pod whose admission is open: pods that came together are let in as they were created,
    /// whoever's pass comes first. `current` is the pod of this one.
    pub(super) async fn admit(&self, current: &PodUid) {
        let _turn = self.admission.turn.lock().await;
        let arrivals = self.table.take_arrivals();
        // What runs already has its place, come what may: it was let in by an earlier process of this node.
        let mut undecided = Arrivals::new();
        for (key, uid) in arrivals {
            let is_new = self.table.with(&uid, |record| {
                let state = record.state?;
                if record.awaits_admission() {
                    return Some(true);
                }
                if !state.is_over()
                    && record.was_created()
                    && record.place.is_none()
                    && let Some(desired) = &record.desired
                {
                    record.place = Some(self.admission.ledger.take(Arc::clone(&desired.demand)));
                }
                Some(false)
            });
            // Also where nothing is known of the backend yet.
            if let Some(None | Some(true)) = is_new {
                undecided.insert(key, uid);
            }
        }
        let mut again = Arrivals::new();
        for (key, uid) in undecided {
            let open = self.table.with(&uid, |record| {
                let desired = record.desired.clone().filter(|_| record.awaits_admission());
                (record.pod.clone(), record.state.is_none(), desired)
            });
            match open {
                Some((pod, _, Some(desired))) => match desired.pod() {
                    Ok(object) => {
                        if !self.decide_admission(&pod, &object, &desired.demand).await {
                            again.insert(key, uid);
                        } else if uid != *current {
                            self.table.queue.add(uid);
                        }
                    }
                    Err(error) => tracing::error!(%pod, %error, "reading back a kept pod"),
                },
                Some((_, true, None)) => drop(again.insert(key, uid)),
                _ => {}
            }
        }
        self.table.put_back(again);
    }

    /// The node as it is known.
    pub(super) fn host(&self) -> Option<Host> {
        let node = self.admission.node.borrow().clone();
        self.host_of(node.as_deref())
    }

    fn host_of(&self, node: Option<&Node>) -> Option<Host> {
        let offer = self.admission.offer()?;
        let mut host = Host::new(node?, &offer.info, &offer.allocatable);
        host.fill_in(labels(&self.config, Some(&offer.info)));
        Some(host)
    }

    /// False: it could not be decided.
    async fn decide_admission(&self, pod: &PodRef, object: &Pod, demand: &Arc<Demand>) -> bool {
        let mut looked_again = (false, false);
        let mut node = self.admission.node.borrow().clone();
        let refusal = loop {
            let (Some(offer), Some(host)) = (self.admission.offer(), self.host_of(node.as_deref())) else {
                return false;
            };
            let verdict = check(object, demand, &host, &self.admission.ledger.taken());
            let Err(refusal) = verdict else { break None };
            // A refusal is for good, so it is not given on the strength of what may be out of date.
            match refusal.rests_on {
                Ground::Capacity if !looked_again.0 && offer.at.elapsed() > FRESH => {
                    looked_again.0 = true;
                    if let Err(error) = self.ask_for_offer().await {
                        self.put_off(pod, &error);
                        return false;
                    }
                }
                Ground::Labels if !looked_again.1 => {
                    looked_again.1 = true;
                    match self.publisher.read_node().await {
                        Ok(read) => node = read.map(Arc::new).or(node),
                        Err(kube::Error::Api(status)) if status.code == 403 => {}
                        Err(error) => {
                            self.put_off(pod, &chain(&error));
                            return false;
                        }
                    }
                }
                _ => break Some(refusal),
            }
        };
        match refusal {
            None => {
                let place = self.admission.ledger.take(Arc::clone(demand));
                self.table.with(&pod.uid, |record| {
                    if record.awaits_admission() {
                        record.place = Some(place);
                    }
                });
            }
            Some(refusal) => self.turn_away(pod, &refusal),
        }
        true
    }

    fn put_off(&self, pod: &PodRef, error: &str) {
        self.pause(pod, "looking at the node before a pod is refused", error, |failures| {
            backoff(&self.config, failures)
        });
    }

    /// The pod can never run here, as a kubelet says it.
    fn turn_away(&self, pod: &PodRef, refusal: &Refusal) {
        let told = PodEventRecord::rejected(&*refusal.reason, &*refusal.message);
        let was_open = self.table.with(&pod.uid, |record| {
            if !record.awaits_admission() {
                return false;
            }
            record.situation =
                Situation::Refused { reason: refusal.reason.clone(), message: refusal.message.clone() };
            record.create = CreateCall::NotSent;
            record.input(PodInput::Rejected);
            true
        });
        if was_open == Some(true) {
            self.recorder.pod(pod, told);
        }
    }
}
