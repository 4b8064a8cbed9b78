//! One pass over one pod: publish what is known, decide, do one thing, again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument as _;

use super::decide::{Patience, Step, decide};
use super::observer::Observer;
use super::publisher::Publisher;
use super::record::{CreateCall, DeleteCall, Desired, Record, fingerprint, unlike, wants_address};
use super::resolve::{LateBound, ResolveError, Resolver};
use super::source::chain;
use super::state::{PodInput, PodState};
use super::status::Situation;
use super::story::Story;
use super::table::PodTable;
use crate::backoff::{api_backoff, backoff};
use crate::clock::Clock;
use crate::config::NodeConfig;
use crate::events::{PodEventRecord, Reason, Recorder};
use crate::metrics::WorkMetrics;
use crate::provider::{ContainerState, Error, Feature, Features, PodRef, PodUid, Provider, Retry};

mod admit;
mod refusal;
mod resize;
mod statuses;

pub(crate) use self::admit::Admission;

/// Does the work of the passes. Shared by all of them.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) table: Arc<PodTable>,
    pub(crate) provider: Arc<dyn Provider>,
    /// What the provider does by itself.
    pub(crate) native: Features,
    pub(crate) observer: Arc<Observer>,
    pub(crate) publisher: Publisher,
    pub(crate) resolver: Resolver,
    pub(crate) recorder: Recorder,
    pub(crate) story: Story,
    pub(crate) clock: Clock,
    pub(crate) config: NodeConfig,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) creates: Semaphore,
    pub(crate) updates: Semaphore,
    pub(crate) deletes: Semaphore,
    pub(crate) draining: AtomicBool,
    pub(crate) metrics: WorkMetrics,
    pub(crate) admission: Admission,
    /// What is needed to know of the node before a pod is created is known.
    pub(crate) may_create: AtomicBool,
}

/// Steps after which a pass lets others go first.
const STEPS_PER_PASS: usize = 16;

/// When a pod is looked at again whose admission could not be decided.
const UNDECIDED: Duration = Duration::from_secs(1);

/// A pass's place among those that may talk to the API server, given up while it waits for the provider.
struct Slot<'a> {
    slots: &'a Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Slot<'_> {
    /// Waits for something without holding the place.
    async fn outside<T>(&mut self, work: impl Future<Output = T>) -> T {
        drop(self.permit.take());
        let value = work.await;
        // The semaphore is never closed; without a permit the pass would only run unlimited.
        self.permit = Arc::clone(self.slots).acquire_owned().await.ok();
        value
    }
}

impl Worker {
    /// Works on a pod until there is nothing to do, or nothing to do yet.
    pub(crate) async fn pass(&self, uid: &PodUid, permit: OwnedSemaphorePermit) {
        let mut slot = Slot { slots: &self.slots, permit: Some(permit) };
        for _ in 0..STEPS_PER_PASS {
            // Boxed: a pass that waits costs what it holds.
            Box::pin(self.publish(uid)).await;
            let patience = self.patience();
            let decided = self.table.with(uid, |record| {
                record.stale &= self.renews();
                let step = decide(record, Instant::now(), self.clock.now(), &patience);
                (record.pod.clone(), step)
            });
            let Some((pod, step)) = decided else { return };
            let told = |step| self.story.step(step, &pod);
            let name = step.name();
            let failures = || self.table.with(uid, |record| record.failures).unwrap_or(0);
            let failed_before = failures();
            match step {
                Step::Wait => return,
                Step::WaitFor(delay) => return self.table.queue.add_after(uid.clone(), delay),
                Step::Confirm => self.confirm(&pod).instrument(told("confirm")).await,
                Step::Create if self.draining.load(Ordering::Acquire) => return,
                // Without it pods would be refused for good. The answer wakes all pods.
                Step::Create if !self.may_create.load(Ordering::Acquire) => return,
                Step::Create if !self.is_admitted(uid) => {
                    self.admit(uid).instrument(told("admit")).await;
                    if !self.is_admitted(uid) {
                        return self.table.queue.add_after(uid.clone(), UNDECIDED);
                    }
                }
                Step::Create => self.create(&pod, &mut slot).instrument(told("create")).await,
                Step::Look => self.look(&pod, &mut slot).instrument(told("look")).await,
                Step::Update => self.update(&pod, &mut slot).instrument(told("update")).await,
                Step::Delete { grace } => {
                    self.delete(&pod, grace, &mut slot).instrument(told("delete")).await;
                }
                Step::Release => self.release(&pod, &mut slot).instrument(told("release")).await,
                Step::Settle => {
                    if self.may_create.load(Ordering::Acquire) && !self.is_admitted(uid) {
                        self.admit(uid).instrument(told("admit")).await;
                    }
                    self.table.with(uid, Record::absent);
                }
                Step::Remove => self.remove(&pod).instrument(told("remove")).await,
                Step::Forget => {
                    if let Some(met) = self.table.with(uid, |record| record.met) {
                        self.story.end(&pod, met);
                    }
                    self.resolver.forget(uid);
                    return self.table.forget(uid);
                }
            }
            let outcome = if failures() > failed_before { "failed" } else { "done" };
            self.metrics.step(name, outcome);
        }
        self.table.queue.add(uid.clone());
    }

    fn patience(&self) -> Patience {
        Patience { creation_grace: self.config.creation_grace, deletion_slack: self.config.deletion_slack }
    }

    /// Asks the provider, until it answers, what pods may use, and waits for the Node object. Until then nothing is
    /// created: a provider that cannot say what it has is in no state to start pods either.
    pub(crate) async fn learn_about_node(&self) {
        let mut failures = 0;
        loop {
            match self.ask_for_offer().await {
                Ok(allocatable) => {
                    self.resolver.set_allocatable(allocatable);
                    self.admission.until_registered().await;
                    self.may_create.store(true, Ordering::Release);
                    let waiting: Vec<_> = self.table.lock().keys().cloned().collect();
                    return waiting.into_iter().for_each(|uid| self.table.queue.add(uid));
                }
                Err(error) => tracing::warn!(error, "asking the provider for the node's capacity"),
            }
            failures += 1;
            tokio::time::sleep(backoff(&self.config, failures)).await;
        }
    }

    /// Reads the object itself, where a listing left a doubt.
    async fn confirm(&self, pod: &PodRef) {
        match self.publisher.read(pod).await {
            Ok(Some(object)) => {
                if let Some((pod, desired)) = Desired::of(object) {
                    self.table.desired(&pod, desired);
                    self.table.with(&pod.uid, Record::recover);
                }
            }
            Ok(None) => self.table.gone(&pod.uid),
            Err(error) => self.api_failed(pod, "reading the pod", &error),
        }
    }

    /// Notes a failed step; the next attempt comes after a pause.
    fn failed(&self, pod: &PodRef, act: &str, error: &str, retry: Retry) {
        self.pause(pod, act, error, |failures| match retry {
            Retry::After(pause) => pause,
            Retry::Backoff | Retry::Never => backoff(&self.config, failures),
        });
    }

    /// Notes a step that failed at the API server.
    fn api_failed(&self, pod: &PodRef, act: &str, error: &(dyn std::error::Error + 'static)) {
        self.pause(pod, act, &chain(error), |failures| api_backoff(&self.config, failures));
    }

    fn pause(&self, pod: &PodRef, act: &str, error: &str, after: impl FnOnce(u32) -> Duration) {
        tracing::warn!(%pod, k8s.pod.uid = %pod.uid, error, "{act}");
        self.table.with(&pod.uid, |record| {
            record.failures = record.failures.saturating_add(1);
            record.not_before = Some(Instant::now() + after(record.failures));
        });
    }

    async fn create(&self, pod: &PodRef, slot: &mut Slot<'_>) {
        let Some(object) = self.object(pod) else { return };
        let Some(honoured) = self.honoured(pod, object) else { return };
        let object = &honoured.object;
        let late = match self.prepare(pod, object, slot).await {
            Ok(late) => late,
            Err(error) => return self.uncreated(pod, "reserving the pod's addresses", error),
        };
        let resolved = match self.resolver.resolve_with(object, &late).await {
            Ok(resolution) => resolution.pod,
            Err(error) => return self.unresolved(pod, error),
        };
        if self.is_unsent(pod) {
            self.tell_left_out(pod, &honoured);
        }
        let Some((interrupt, fingerprint, quiet_until)) = self.table.with(&pod.uid, |record| {
            record.create = CreateCall::Sent { at: Instant::now() };
            record.input(PodInput::CreateSent);
            let fingerprint = record.wanted();
            (Arc::clone(&record.interrupt), fingerprint, record.quiet_until)
        }) else {
            return;
        };
        let call = async {
            let _turn = self.creates.acquire().await;
            timeout(self.config.provider_timeout, self.provider.create_pod(&resolved))
                .await
                .unwrap_or_else(|_| Err(Error::unavailable("create pod: no answer in time")))
        };
        let answer = slot
            .outside(async {
                tokio::pin!(call);
                let interrupted = interrupt.notified();
                tokio::pin!(interrupted);
                let mut told = false;
                // A deletion that came before there was anything to interrupt.
                if self.table.with(&pod.uid, |r| r.state != Some(PodState::Creating)).unwrap_or(true) {
                    return None;
                }
                loop {
                    // Cancel-safe: a dropped create may have taken effect; the record says that it was sent.
                    tokio::select! {
                        answer = &mut call => return Some(answer),
                        () = &mut interrupted => return None,
                        () = sleep_until(quiet_until), if !told => {
                            told = true;
                            Box::pin(self.publish(&pod.uid)).await;
                        }
                    }
                }
            })
            .await;
        match answer {
            // The pod is to be deleted: its deletion comes after the dropped create.
            None => {}
            Some(Ok(())) => {
                self.table.with(&pod.uid, |record| {
                    record.create = CreateCall::Accepted { at: Instant::now() };
                    record.applied = fingerprint;
                    record.given = fingerprint;
                    record.failures = 0;
                    record.not_before = None;
                    if !matches!(record.situation, Situation::Ended { .. }) {
                        record.situation = Situation::Normal;
                    }
                });
                self.follow(pod);
                self.told_to_provider(
                    pod,
                    Reason::ProviderCreateSuccess,
                    "Create pod in provider successfully",
                );
            }
            Some(Err(error)) => self.uncreated(pod, "creating the pod in the provider", error),
        }
    }

    /// The provider has not made the pod: it is refused, or its owner is told why it waits.
    fn uncreated(&self, pod: &PodRef, act: &str, error: Error) {
        if let Error::Rejected { field, reason } = error {
            return self.refuse(pod, "ProviderRejected", &format!("{field}: {reason}"));
        }
        let message = error.chain();
        self.table.with(&pod.uid, |record| {
            record.situation =
                Situation::Failing { reason: "ProviderFailed".to_owned(), message: message.clone() };
        });
        self.record(pod, Reason::ProviderCreateFailed, &whose(pod, &message));
        self.failed(pod, act, &message, error.retry());
    }

    fn unresolved(&self, pod: &PodRef, error: ResolveError) {
        match error {
            ResolveError::Missing { waiting, missing } => {
                let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
                self.table.with(&pod.uid, |record| record.situation = Situation::Waiting(waiting));
                self.failed(pod, "waiting for what the pod refers to", &names.join(", "), Retry::Backoff);
                self.resolver.wake_when_present(pod, &missing, self.waker(false));
            }
            ResolveError::Invalid { field, reason } => {
                self.refuse(pod, "InvalidPod", &format!("{field}: {reason}"));
            }
            error @ ResolveError::Read { .. } => {
                self.api_failed(pod, "reading what the pod refers to", &error);
            }
        }
    }

    /// Works on the pod again, at once: `stale` if what its files came from has changed.
    fn waker(&self, stale: bool) -> Arc<dyn Fn(&PodUid) + Send + Sync> {
        let table = Arc::clone(&self.table);
        Arc::new(move |uid: &PodUid| {
            table.with(uid, |record| {
                record.not_before = None;
                record.stale |= stale;
            });
            table.queue.add(uid.clone());
        })
    }

    /// Whether the backend is given pods again that have not changed themselves.
    fn renews(&self) -> bool {
        let reasons = [Feature::FileUpdates, Feature::PartialPods, Feature::Adoption];
        self.provider.update().is_some() && reasons.iter().any(|reason| self.native.contains(*reason))
    }

    /// Keeps an eye on what the pod was resolved from, where the backend can do something about a change.
    fn follow(&self, pod: &PodRef) {
        let files = self.native.contains(Feature::FileUpdates);
        if self.provider.update().is_none() || !(files || self.native.contains(Feature::PartialPods)) {
            return;
        }
        self.resolver.wake_when_changed(pod, self.waker(true));
        let due = self.resolver.tokens_due(&pod.uid).filter(|_| files);
        self.table.with(&pod.uid, |record| record.refresh_at = due);
        if let Some(due) = due {
            self.table.queue.add_after(pod.uid.clone(), due.saturating_duration_since(Instant::now()));
        }
    }

    /// What the backend knows of the pod before its containers start, if the pod wants to know it.
    async fn prepare(&self, pod: &PodRef, object: &Pod, slot: &mut Slot<'_>) -> Result<LateBound, Error> {
        let known = self.table.with(&pod.uid, |r| r.runtime.as_ref().map(|runtime| runtime.ips.clone()));
        let mut late = LateBound { pod_ips: known.flatten().unwrap_or_default(), ..LateBound::default() };
        if late.pod_ips.is_empty()
            && let Some(capability) = self.provider.prepare()
            && wants_address(object)
        {
            self.table.with(&pod.uid, |record| record.promised = Some(true));
            let call = async {
                let _turn = self.creates.acquire().await;
                timeout(self.config.provider_timeout, capability.prepare_pod(pod))
                    .await
                    .unwrap_or_else(|_| Err(Error::unavailable("prepare pod: no answer in time")))
            };
            late.pod_ips = slot.outside(call).await?;
        }
        Ok(late)
    }

    /// The pod can never run here.
    fn refuse(&self, pod: &PodRef, reason: &str, message: &str) {
        self.record(pod, Reason::ProviderCreateFailed, &whose(pod, message));
        self.table.with(&pod.uid, |record| {
            record.situation = Situation::Refused { reason: reason.to_owned(), message: message.to_owned() };
            record.create = CreateCall::NotSent;
            record.input(PodInput::Rejected);
        });
    }

    async fn look(&self, pod: &PodRef, slot: &mut Slot<'_>) {
        let since = Instant::now();
        let looked = slot.outside(self.observer.look(since)).await;
        match looked {
            Ok(()) => {
                let now = Instant::now();
                self.table.with(&pod.uid, |record| {
                    // One that proves nothing (the mass-absence guard stands) is a failure, repeated at leisure.
                    if matches!(decide(record, now, self.clock.now(), &self.patience()), Step::Look) {
                        record.failures = record.failures.saturating_add(1);
                        record.not_before = Some(now + backoff(&self.config, record.failures));
                    }
                });
            }
            Err(error) => {
                self.failed(pod, "listing the provider's pods", &error.chain(), error.retry());
            }
        }
    }

    async fn update(&self, pod: &PodRef, slot: &mut Slot<'_>) {
        let Some(object) = self.object(pod) else { return };
        let object = self.allocate(pod, object).await;
        let given = fingerprint(&object);
        let known = self.table.with(&pod.uid, |record| {
            let fresh = record.stale || record.refresh_at.is_some_and(|due| due <= Instant::now());
            let same = record.given.or(record.applied) == Some(given);
            (same && !fresh).then(|| record.wanted())
        });
        if let Some(Some(fingerprint)) = known {
            // Only what cannot be given (yet) has changed.
            return self.applied(&pod.uid, fingerprint);
        }
        let Some(honoured) = self.honoured_again(pod, object) else { return };
        let object = &honoured.object;
        let Some(capability) = self.provider.update() else {
            let message = format!(
                "provider {} cannot change a running pod; it runs on as it was",
                self.provider.name()
            );
            let (fingerprint, applied) =
                self.table.with(&pod.uid, |record| (record.wanted(), record.applied)).unwrap_or_default();
            // Of what changed while no process was there nobody knows whether it is anything that runs.
            if applied != fingerprint.map(unlike) {
                self.record(pod, Reason::ProviderUpdateFailed, &message);
            }
            return self.applied(&pod.uid, fingerprint);
        };
        let late = match self.prepare(pod, object, slot).await {
            Ok(late) => late,
            Err(error) => {
                let message = error.chain();
                self.record(pod, Reason::ProviderUpdateFailed, &message);
                if error.retry() == Retry::Never {
                    let wanted = self.table.with(&pod.uid, |record| record.wanted());
                    return self.applied(&pod.uid, wanted.flatten());
                }
                return self.failed(pod, "reserving the pod's addresses", &message, error.retry());
            }
        };
        // Before anything is read: what changes from here on is another reason to do this again.
        let why = self.table.with(&pod.uid, |record| {
            record.stale = false;
            record.refresh_at = None;
            record.wanted() == record.applied
        });
        if why == Some(false) {
            self.tell_left_out(pod, &honoured);
        }
        let resolved = match self.resolver.resolve_with(object, &late).await {
            Ok(resolution) => resolution.pod,
            Err(error) => {
                self.table.with(&pod.uid, |record| record.stale = true);
                if let ResolveError::Missing { missing, .. } = &error {
                    let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
                    let message = format!("it runs on as it was, for want of {}", names.join(", "));
                    self.record(pod, Reason::ProviderUpdateFailed, &message);
                    self.resolver.wake_when_present(pod, missing, self.waker(true));
                }
                return self.api_failed(pod, "resolving the pod's update", &error);
            }
        };
        let Some(fingerprint) = self.table.with(&pod.uid, |record| record.wanted()) else {
            return;
        };
        let call = async {
            let _turn = self.updates.acquire().await;
            timeout(self.config.provider_timeout, capability.update_pod(&resolved))
                .await
                .unwrap_or_else(|_| Err(Error::unavailable("update pod: no answer in time")))
        };
        match slot.outside(call).await {
            Ok(()) => {
                self.applied(&pod.uid, fingerprint);
                self.table.with(&pod.uid, |record| {
                    record.given = Some(given);
                    if let Some(progress) = record.resize.as_mut().and_then(|resize| resize.progress.as_mut())
                    {
                        progress.taken = true;
                    }
                });
                self.follow(pod);
                // New contents of files, or a pod taken up after a restart, are no news to its owner.
                if why == Some(false) {
                    self.told_to_provider(
                        pod,
                        Reason::ProviderUpdateSuccess,
                        "Update pod in provider successfully",
                    );
                }
            }
            Err(error) => {
                let message = error.chain();
                self.record(pod, Reason::ProviderUpdateFailed, &message);
                if error.retry() == Retry::Never {
                    // It runs on as it was; the event says why.
                    self.applied(&pod.uid, fingerprint);
                } else {
                    self.table.with(&pod.uid, |record| record.stale = true);
                    self.failed(pod, "updating the pod in the provider", &message, error.retry());
                }
            }
        }
    }

    fn applied(&self, uid: &PodUid, fingerprint: Option<u64>) {
        self.table.with(uid, |record| {
            record.applied = fingerprint;
            record.failures = 0;
            record.not_before = None;
        });
    }

    async fn delete(&self, pod: &PodRef, grace: Duration, slot: &mut Slot<'_>) {
        // Taken before the call: the backend may announce the end before it answers.
        let running = self.table.with(&pod.uid, |record| running_containers(record)).unwrap_or_default();
        match slot.outside(self.delete_call(pod, grace)).await {
            Ok(()) | Err(Error::NotFound { .. }) => {
                self.table.with(&pod.uid, |record| {
                    record.delete = Some(DeleteCall { at: Instant::now(), grace });
                    record.failures = 0;
                    record.not_before = None;
                });
                // A provider that tells itself knows better which are told to stop.
                let told = self.native.contains(Feature::Events);
                for container in running.into_iter().filter(|_| !told) {
                    let message = format!("Stopping container {container}");
                    self.recorder.pod(pod, PodEventRecord::new(Reason::Killing, message).about(container));
                }
                self.told_to_provider(
                    pod,
                    Reason::ProviderDeleteSuccess,
                    "Delete pod in provider successfully",
                );
            }
            Err(error) => {
                let message = error.chain();
                self.record(pod, Reason::ProviderDeleteFailed, &message);
                self.failed(pod, "deleting the pod in the provider", &message, error.retry());
            }
        }
    }

    async fn delete_call(&self, pod: &PodRef, grace: Duration) -> Result<(), Error> {
        let _turn = self.deletes.acquire().await;
        timeout(self.config.provider_timeout, self.provider.delete_pod(pod, grace))
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("delete pod: no answer in time")))
    }

    /// Frees the addresses of a pod that is never created.
    async fn release(&self, pod: &PodRef, slot: &mut Slot<'_>) {
        let freed = match self.provider.prepare() {
            Some(_) => slot.outside(self.delete_call(pod, Duration::ZERO)).await,
            None => Ok(()),
        };
        match freed {
            Ok(()) | Err(Error::NotFound { .. }) => {
                self.table.with(&pod.uid, |record| {
                    record.promised = Some(false);
                    record.forget_failures();
                });
            }
            Err(error) => {
                let message = error.chain();
                self.record(pod, Reason::ProviderDeleteFailed, &message);
                self.failed(pod, "freeing the pod's addresses", &message, error.retry());
            }
        }
    }

    async fn remove(&self, pod: &PodRef) {
        match self.publisher.remove(pod).await {
            Ok(true) => {
                self.table.with(&pod.uid, |record| {
                    record.removed = true;
                    record.failures = 0;
                    record.not_before = None;
                });
            }
            // Gone, another one's name by now, or a conflict of another kind: a read tells.
            Ok(false) => {
                self.table.with(&pod.uid, |record| {
                    record.suspect = true;
                    record.failures = record.failures.saturating_add(1);
                    record.not_before = Some(Instant::now() + api_backoff(&self.config, record.failures));
                });
            }
            Err(error) => self.api_failed(pod, "removing the pod's object", &error),
        }
    }

    /// The pod's object, for the resolver.
    fn object(&self, pod: &PodRef) -> Option<Arc<Pod>> {
        let desired = self.table.with(&pod.uid, |record| record.desired.clone())??;
        match desired.pod() {
            Ok(mut object) => {
                object.status = None;
                Some(Arc::new(object))
            }
            Err(error) => {
                self.failed(pod, "reading back a kept pod", &error.to_string(), Retry::Backoff);
                None
            }
        }
    }

    /// Tells that the provider has taken a call, unless it tells itself what becomes of the pod: its users then see
    /// the kubelet's events and no others.
    fn told_to_provider(&self, pod: &PodRef, reason: Reason, message: &str) {
        if !self.native.contains(Feature::Events) {
            self.record(pod, reason, message);
        }
    }

    fn record(&self, pod: &PodRef, reason: Reason, message: &str) {
        self.recorder.pod(pod, PodEventRecord::new(reason, message));
    }
}

/// A failure's message that can be told from another incarnation's: `kubectl describe pod` shows no UID but in events.
fn whose(pod: &PodRef, message: &str) -> String {
    format!("{message} (pod {pod}, UID {})", pod.uid)
}

fn running_containers(record: &Record) -> Vec<String> {
    let containers = record.runtime.iter().flat_map(|runtime| &runtime.containers);
    containers
        .filter(|container| matches!(container.state, ContainerState::Running { .. }))
        .map(|container| container.name.clone())
        .collect()
}
