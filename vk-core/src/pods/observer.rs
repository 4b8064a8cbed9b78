//! What the backend says of its pods, written into the table.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::narrate::narrate;
use super::record::{CreateCall, Presence, Record};
use super::state::PodState;
use super::story::Story;
use super::table::PodTable;
use crate::backoff::backoff;
use crate::config::NodeConfig;
use crate::events::Recorder;
use crate::metrics::ProbeCounts;
use crate::provider::{Feature, ObservedPod, PodEvent, PodRef, PodRuntime, Provider, Result};

/// Too many pods were missing from one listing at once for that to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MassAbsence {
    /// How many pods the listing lacked.
    pub missing: usize,
    /// How many it should have had.
    pub known: usize,
}

/// Feeds the table from the provider's watch, and from listings of its own.
#[derive(Debug)]
pub(crate) struct Observer {
    table: Arc<PodTable>,
    provider: Arc<dyn Provider>,
    recorder: Recorder,
    story: Story,
    config: NodeConfig,
    probes: ProbeCounts,
    /// The provider tells of containers what there is to tell.
    tells_itself: bool,
    /// One listing at a time; waiters share the next one. Holds when the last one began.
    looking: Mutex<Option<Instant>>,
    mass_absence: watch::Sender<Option<MassAbsence>>,
}

/// How much a listing proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// An item of the watch, in order with its other items.
    Watched,
    /// A call that began at this moment.
    Since(Instant),
}

impl Observer {
    pub(crate) fn new(
        table: Arc<PodTable>,
        provider: Arc<dyn Provider>,
        recorder: Recorder,
        story: Story,
        config: NodeConfig,
        probes: ProbeCounts,
    ) -> Self {
        Self {
            tells_itself: provider.native().contains(Feature::Events),
            table,
            provider,
            recorder,
            story,
            config,
            probes,
            looking: Mutex::new(None),
            mass_absence: watch::Sender::new(None),
        }
    }

    /// The standing refusal to believe a listing, if there is one.
    pub(crate) fn mass_absence(&self) -> watch::Receiver<Option<MassAbsence>> {
        self.mass_absence.subscribe()
    }

    /// Watches the provider until cancelled, and checks for drift now and then.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let drift = self.check_drift();
        // Cancel-safe: each branch applies an item in one go, under the table's lock.
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch() => {}
            () = drift => {}
        }
    }

    async fn watch(&self) {
        let mut failures = 0_u32;
        loop {
            let mut events = Arc::clone(&self.provider).watch_pods();
            while let Some(item) = self.next(&mut events).await {
                match item {
                    Ok(event) => {
                        failures = 0;
                        self.apply(event);
                    }
                    Err(error) => {
                        failures = failures.saturating_add(1);
                        tracing::warn!(error = error.chain(), "watching the provider's pods");
                        // A stream that fails at once and for ever must not spin.
                        tokio::time::sleep(backoff(&self.config, failures)).await;
                    }
                }
            }
            failures = failures.saturating_add(1);
            tokio::time::sleep(backoff(&self.config, failures)).await;
        }
    }

    /// The watch's next item. Until there was a first listing nothing can be done for any pod: the log says so, and a
    /// watch that has none in the time of a provider call has ended.
    async fn next<S: Stream + Unpin>(&self, events: &mut S) -> Option<S::Item> {
        let patience = [self.config.ping_timeout, self.config.provider_timeout];
        for patience in patience.into_iter().filter(|_| !self.table.is_backend_listed()) {
            // Cancel-safe: a stream's `next` holds nothing of its own.
            if let Ok(item) = tokio::time::timeout(patience, events.next()).await {
                return item;
            }
            tracing::warn!(
                provider = self.provider.name(),
                "the provider has not listed its pods yet; until then the node is not ready, and nothing is started or \
                 stopped"
            );
        }
        if self.table.is_backend_listed() { events.next().await } else { None }
    }

    async fn check_drift(&self) {
        loop {
            let jitter = 0.9 + 0.2 * fastrand::f64();
            tokio::time::sleep(self.config.drift_check_interval.mul_f64(jitter)).await;
            if let Err(error) = self.look(Instant::now()).await {
                tracing::warn!(error = error.chain(), "checking for drift");
            }
        }
    }

    /// Lists the backend, unless a listing that began after `since` has been applied already.
    pub(crate) async fn look(&self, since: Instant) -> Result<()> {
        let mut last = self.looking.lock().await;
        if last.is_some_and(|began| began >= since) {
            return Ok(());
        }
        let began = Instant::now();
        let listed = tokio::time::timeout(self.config.provider_timeout, self.provider.list_pods())
            .await
            .unwrap_or_else(|_| Err(crate::provider::Error::unavailable("list pods: no answer in time")))?;
        self.listed(listed, Listing::Since(began));
        *last = Some(began);
        Ok(())
    }

    fn apply(&self, event: PodEvent) {
        match event {
            PodEvent::Listed(pods) => self.listed(pods, Listing::Watched),
            PodEvent::Changed(pod) => self.present(pod),
            PodEvent::Gone { pod, last } => self.gone(&pod, last),
            PodEvent::Told { pod, event } => self.recorder.pod(&pod, event),
            PodEvent::Probed { container, kind, result, took } => {
                self.probes.count(container, kind, result, took);
            }
        }
    }

    fn present(&self, observed: ObservedPod) {
        let ObservedPod { pod, runtime } = observed;
        let mut records = self.table.lock();
        let record = self.table.entry(&mut records, &pod);
        let known = record.presence == Presence::Present
            && (runtime.is_none() || record.runtime.as_deref() == runtime.as_ref());
        if known && !record.missing {
            return;
        }
        let met = record.state.is_some();
        let before = record.present(runtime);
        let lines = match (&record.runtime, met) {
            (Some(now), true) if !self.tells_itself => narrate(&pod, before.as_deref(), now),
            _ => Vec::new(),
        };
        drop(records);
        if !lines.is_empty() {
            let _told = self.story.step("observe", &pod).entered();
            for line in lines {
                self.recorder.pod(&pod, line);
            }
        }
        self.table.queue.add(pod.uid);
    }

    fn gone(&self, pod: &PodRef, last: Option<PodRuntime>) {
        self.probes.forget(&pod.uid);
        let known = self.table.with(&pod.uid, |record| {
            if let Some(last) = last {
                record.runtime = Some(Box::new(last));
            }
            record.absent();
        });
        if known.is_some() {
            self.table.queue.add(pod.uid.clone());
        }
    }

    fn listed(&self, pods: Vec<ObservedPod>, listing: Listing) {
        let present: HashSet<_> = pods.iter().map(|observed| observed.pod.uid.clone()).collect();
        for observed in pods {
            self.present(observed);
        }

        let now = Instant::now();
        let mut changed = Vec::new();
        let mut records = self.table.lock();
        let known = records.values().filter(|r| r.presence == Presence::Present).count();
        let mut gone = Vec::new();
        for (uid, record) in records.iter_mut().filter(|(uid, _)| !present.contains(*uid)) {
            match absence(record, listing, now, self.config.creation_grace) {
                Absence::Proven => gone.push(uid.clone()),
                Absence::Later(wait) => {
                    record.missing = true;
                    changed.push((uid.clone(), wait));
                }
                Absence::Nothing => {}
            }
        }
        // Pods that were told to stop are expected to be missing.
        let surprising =
            gone.iter().filter(|uid| records.get(*uid).is_some_and(|r| r.state == Some(PodState::Syncing)));
        let surprising = surprising.count();
        let share = known.saturating_mul(usize::from(self.config.mass_absence_percent)) / 100;
        if surprising >= self.config.mass_absence_floor && surprising > share {
            gone.retain(|uid| records.get(uid).is_some_and(|r| r.state != Some(PodState::Syncing)));
            tracing::error!(
                missing = surprising,
                known,
                "a listing of the backend lacks too many pods at once; it is not believed"
            );
            self.mass_absence.send_replace(Some(MassAbsence { missing: surprising, known }));
        } else {
            self.mass_absence.send_if_modified(|standing| standing.take().is_some());
        }
        for uid in gone {
            if let Some(record) = records.get_mut(&uid) {
                record.absent();
                changed.push((uid, Duration::ZERO));
            }
        }
        drop(records);
        self.table.backend_listed();
        for (uid, wait) in changed {
            self.table.queue.add_after(uid, wait);
        }
    }
}

/// What a pod's absence from a listing means.
enum Absence {
    Proven,
    /// Look again after this long.
    Later(Duration),
    Nothing,
}

fn absence(record: &Record, listing: Listing, now: Instant, creation_grace: Duration) -> Absence {
    if record.state.is_some_and(PodState::is_over) && record.presence == Presence::Absent {
        return Absence::Nothing;
    }
    // Told to stop before this listing began: it has stopped.
    if let (Some(delete), Listing::Since(began)) = (record.delete, listing)
        && delete.at <= began
    {
        return Absence::Proven;
    }
    let accepted = match record.create {
        CreateCall::Accepted { at } => Some(at),
        CreateCall::NotSent | CreateCall::Sent { .. } => None,
    };
    match (record.presence, accepted) {
        // The listing may be older than the pod.
        (Presence::Present, Some(at)) if now < at + creation_grace => {
            Absence::Later(at + creation_grace - now)
        }
        (Presence::Present, _) => Absence::Proven,
        (_, Some(at)) => match listing {
            Listing::Since(began) if began >= at + creation_grace => Absence::Proven,
            Listing::Since(_) | Listing::Watched => Absence::Nothing,
        },
        (_, None) => Absence::Nothing,
    }
}
