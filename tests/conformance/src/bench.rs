//! One clause's workbench: a connection, the pods it has made, and what was told of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use vk_core::provider::{
    ContainerRef, Error, Faults, Feature, PodRef, Provider, ResolvedPod, Result as Told, Retry,
};

use crate::check::{Check, fail, skip};
use crate::journal::{Journal, MAIN, Sights, Source};
use crate::pods::Plan;
use crate::subject::{Patience, Subject, Work};

mod clean;
mod draft;

/// See the module.
///
/// Every pod that a clause makes is known to its bench before the backend hears of it, so that
/// [`clean_up`](Self::clean_up) finds it whatever has happened in between.
#[derive(Debug)]
pub struct Bench {
    subject: Arc<dyn Subject>,
    patience: Patience,
    link: Mutex<Option<Link>>,
    journal: Arc<Journal>,
    made: Mutex<Vec<Made>>,
}

/// A pod, and whose it is.
#[derive(Clone, Debug)]
struct Made {
    pod: ResolvedPod,
    /// Whose connection it was made through, if not ours.
    owner: Option<Arc<dyn Provider>>,
}

#[derive(Debug)]
struct Link {
    provider: Arc<dyn Provider>,
    watch: Option<JoinHandle<()>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bench {
    /// Connects, and watches as a node does.
    ///
    /// # Errors
    /// A connection that is not made counts against the clause.
    pub async fn new(subject: Arc<dyn Subject>) -> Check<Self> {
        let patience = subject.patience();
        let bench = Self {
            subject,
            patience,
            link: Mutex::default(),
            journal: Arc::default(),
            made: Mutex::default(),
        };
        bench.connect(true).await?;
        Ok(bench)
    }

    async fn connect(&self, watching: bool) -> Check {
        let provider = match timeout(self.patience.call, self.subject.connect()).await {
            Ok(Ok(provider)) => provider,
            Ok(Err(error)) => return fail(format!("no connection: {}", error.chain())),
            Err(_) => return fail(format!("no connection within {:?}", self.patience.call)),
        };
        *lock(&self.link) = Some(Link { provider, watch: None });
        if watching {
            self.watch_again().await;
        }
        Ok(())
    }

    /// Ends the watch, as a clause does that wants to begin its own.
    pub async fn unwatch(&self) {
        let watch = lock(&self.link).as_mut().and_then(|link| link.watch.take());
        if let Some(watch) = watch {
            watch.abort();
            let _ = watch.await;
        }
    }

    /// Watches again after [`unwatch`](Self::unwatch), into the same journal. Waits for the watch's first word, as a
    /// node does, so that nothing happens before the watch has begun; what that word should be is a clause's.
    pub async fn watch_again(&self) {
        let since = self.journal.len();
        if let Some(link) = lock(&self.link).as_mut() {
            let watch = Arc::clone(&link.provider).watch_pods();
            link.watch = Some(tokio::spawn(Arc::clone(&self.journal).follow(watch)));
        }
        let first = async {
            loop {
                let changed = self.journal.changed();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if !self.watch_items(since).is_empty() {
                    return;
                }
                changed.await;
            }
        };
        let _ = timeout(self.patience.tell, first).await;
    }

    /// The daemon is restarted: everything of ours in memory is dropped. Nothing is asked of the new provider yet;
    /// [`adopt`](Self::adopt) is what a node does next.
    ///
    /// # Errors
    /// No new connection.
    pub async fn restart(&self) -> Check {
        self.unwatch().await;
        let before = lock(&self.link).take();
        drop(before);
        self.connect(true).await
    }

    /// Lists, and then gives every pod to a provider that has to be given them after a restart, as a node does.
    ///
    /// # Errors
    /// The provider takes none.
    pub async fn adopt(&self) -> Check {
        let provider = self.provider();
        self.look().await;
        if !provider.native().contains(Feature::Adoption) {
            return Ok(());
        }
        let Some(update) = provider.update() else {
            return fail(
                "Feature::Adoption is declared, and no capability to update pods, by which it is done",
            );
        };
        for made in self.made().into_iter().filter(|made| made.owner.is_none()) {
            self.call("update_pod", || update.update_pod(&made.pod)).await?;
        }
        Ok(())
    }

    /// The provider under test.
    ///
    /// # Panics
    /// Between the two halves of a restart, where no clause's code runs.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn Provider> {
        let link = lock(&self.link);
        link.as_ref().map(|link| Arc::clone(&link.provider)).expect("connected but for the time of a restart")
    }

    /// How long things take.
    #[must_use]
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// The switches of the backend's faults.
    ///
    /// # Errors
    /// Not applicable without any.
    pub fn faults(&self) -> Check<Faults> {
        match self.subject.faults() {
            Some(faults) => Ok(faults),
            None => skip("the backend cannot be made to fail (Subject::faults)"),
        }
    }

    /// Somebody else's connection.
    ///
    /// # Errors
    /// Not applicable without any.
    pub async fn neighbour(&self) -> Check<Arc<dyn Provider>> {
        match self.subject.neighbour().await {
            Some(Ok(provider)) => Ok(provider),
            Some(Err(error)) => fail(format!("no connection for the neighbour: {}", error.chain())),
            None => skip("nobody else uses the backend (Subject::neighbour)"),
        }
    }

    /// Not applicable unless the provider declares the feature.
    ///
    /// # Errors
    /// That it doesn't.
    pub fn needs(&self, feature: Feature) -> Check {
        if self.provider().native().contains(feature) {
            return Ok(());
        }
        skip(format!("the provider does not declare Feature::{feature:?}"))
    }

    /// Remembers a pod for the clean-up; to be called before the backend hears of it.
    pub fn remember(&self, pod: &ResolvedPod) {
        lock(&self.made).push(Made { pod: pod.clone(), owner: None });
    }

    /// Creates a pod through somebody else's connection.
    ///
    /// # Errors
    /// It is not accepted.
    pub async fn create_at(&self, owner: &Arc<dyn Provider>, pod: &ResolvedPod) -> Check {
        lock(&self.made).push(Made { pod: pod.clone(), owner: Some(Arc::clone(owner)) });
        self.call("create_pod (the neighbour's)", || owner.create_pod(pod)).await
    }

    /// Creates a pod.
    ///
    /// # Errors
    /// It is not accepted.
    pub async fn create(&self, pod: &ResolvedPod) -> Check {
        self.remember(pod);
        let provider = self.provider();
        self.call("create_pod", || provider.create_pod(pod)).await
    }

    /// Creates a pod again.
    ///
    /// # Errors
    /// It is not accepted.
    pub async fn create_again(&self, pod: &ResolvedPod) -> Check {
        let provider = self.provider();
        self.call("create_pod of a UID that exists", || provider.create_pod(pod)).await
    }

    /// Deletes a pod. Returns where in the journal what happens after it begins.
    ///
    /// # Errors
    /// It is not accepted.
    pub async fn delete(&self, pod: &PodRef, grace: Duration) -> Check<usize> {
        let provider = self.provider();
        self.call("delete_pod", || provider.delete_pod(pod, grace)).await?;
        Ok(self.journal.len())
    }

    /// Makes a pod of this plan run.
    ///
    /// # Errors
    /// It does not within the time for a start.
    pub async fn run(&self, plan: &Plan) -> Check<ResolvedPod> {
        let pod = self.draft(plan)?;
        self.create(&pod).await?;
        self.until_running(&pod.pod).await?;
        if matches!(plan.work, Work::Farewell { .. }) {
            // A process runs before it has said what it does when it is told to stop, and nothing tells when it has.
            sleep(Duration::from_secs(2)).await;
        }
        Ok(pod)
    }

    /// Makes a pod of this work run.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn running(&self, work: Work) -> Check<ResolvedPod> {
        self.run(&Plan::of(work)).await
    }

    /// Waits until the pod's container runs, or has run.
    ///
    /// # Errors
    /// It does not within the time for a start.
    pub async fn until_running(&self, pod: &PodRef) -> Check<Sights> {
        let started = |sights: &Sights| sights.running().next().is_some() || sights.ends().next().is_some();
        self.until(pod, 0, self.patience.start, "a start of its container", started).await
    }

    /// Waits until a run of its container has ended.
    ///
    /// # Errors
    /// It does not.
    pub async fn until_ended(&self, pod: &PodRef, since: usize) -> Check<Sights> {
        let within = self.patience.start + self.patience.tell;
        self.until(pod, since, within, "an end of its container", |sights| sights.ends().next().is_some())
            .await
    }

    /// Waits until a deleted pod is gone, by what was told after `since`.
    ///
    /// # Errors
    /// It is not within this time.
    pub async fn until_over(&self, pod: &PodRef, since: usize, within: Duration) -> Check<Sights> {
        self.until(pod, since, within, "its end", Sights::is_over).await
    }

    /// Waits for something to be told of a pod by watch or listing, listing again and again.
    ///
    /// # Errors
    /// It is not, within this time.
    pub async fn until(
        &self,
        pod: &PodRef,
        since: usize,
        within: Duration,
        what: &str,
        seen: impl Fn(&Sights) -> bool,
    ) -> Check<Sights> {
        let deadline = Instant::now() + within;
        let mut next_look = Instant::now();
        loop {
            let changed = self.journal.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let sights = self.journal.sights(&pod.uid, since);
            if seen(&sights) {
                return Ok(sights);
            }
            if Instant::now() >= deadline {
                return fail(format!(
                    "pod {}: {what} was not told within {within:?}; {}",
                    pod.uid,
                    sights.last()
                ));
            }
            if Instant::now() >= next_look {
                self.look().await;
                next_look = Instant::now() + self.patience.poll;
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(next_look.min(deadline)) => {}
            }
        }
    }

    /// Waits for something to be told of a pod by the watch alone; nothing is listed meanwhile.
    ///
    /// # Errors
    /// It is not, within this time.
    pub async fn until_watched(
        &self,
        pod: &PodRef,
        since: usize,
        within: Duration,
        what: &str,
        seen: impl Fn(&Sights) -> bool,
    ) -> Check<Sights> {
        let deadline = Instant::now() + within;
        loop {
            let changed = self.journal.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let sights = self.watched(pod, since);
            if seen(&sights) {
                return Ok(sights);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                let last = sights.last();
                return fail(format!(
                    "pod {}: {what} was not told by the watch within {within:?}; {last}",
                    pod.uid
                ));
            }
        }
    }

    /// What the watch has told of a pod.
    #[must_use]
    pub fn watched(&self, pod: &PodRef, since: usize) -> Sights {
        self.journal.sights(&pod.uid, since).by(Source::Watch)
    }

    /// What was told of a pod.
    #[must_use]
    pub fn sights(&self, pod: &PodRef, since: usize) -> Sights {
        self.journal.sights(&pod.uid, since)
    }

    /// The items that the watch has given from `since` on, errors as their texts.
    #[must_use]
    pub fn watch_items(&self, since: usize) -> Vec<Result<vk_core::provider::PodEvent, String>> {
        let notes = self.journal.notes(since).into_iter();
        notes.filter(|(source, _)| *source == Source::Watch).map(|(_, item)| item).collect()
    }

    /// Where the journal is now.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.journal.len()
    }

    /// Lists once, into the journal. A listing that fails says nothing, and is no failure of the clause.
    pub async fn look(&self) {
        let provider = self.provider();
        if let Ok(listed) = timeout(self.patience.call, provider.list_pods()).await {
            self.journal.listed(listed);
        }
    }

    /// A listing.
    ///
    /// # Errors
    /// There is none.
    pub async fn list(&self) -> Check<Vec<vk_core::provider::ObservedPod>> {
        let provider = self.provider();
        let pods = self.call("list_pods", || provider.list_pods()).await?;
        self.journal.listed(Ok(pods.clone()));
        Ok(pods)
    }

    /// Looks again and again for as long as something may still happen that should not.
    pub async fn quiet(&self) {
        let deadline = Instant::now() + self.patience.quiet;
        loop {
            self.look().await;
            if Instant::now() >= deadline {
                return;
            }
            sleep(self.patience.poll.min(deadline - Instant::now())).await;
        }
    }

    /// A call that has to succeed. It is repeated while the backend says that it will go better later: it is throttled,
    /// full or away.
    ///
    /// # Errors
    /// It has not, in time.
    pub async fn call<T, F>(&self, what: &str, call: impl Fn() -> F) -> Check<T>
    where
        F: Future<Output = Told<T>>,
    {
        let deadline = Instant::now() + self.patience.call;
        let mut pause = Duration::from_millis(200);
        loop {
            let error = match tokio::time::timeout_at(deadline, call()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => return fail(format!("{what} has not returned within {:?}", self.patience.call)),
            };
            let passing = matches!(
                error,
                Error::Throttled { .. } | Error::Unavailable { .. } | Error::Exhausted { .. }
            );
            pause = match error.retry() {
                Retry::After(after) => after,
                Retry::Backoff | Retry::Never => pause * 2,
            };
            if !passing || Instant::now() + pause >= deadline {
                return fail(format!("{what} failed ({}): {}", error.reason(), error.chain()));
            }
            sleep(pause).await;
        }
    }

    /// A call that may fail, once.
    ///
    /// # Errors
    /// It has not returned in time.
    pub async fn attempt<T>(&self, what: &str, call: impl Future<Output = Told<T>>) -> Check<Told<T>> {
        match timeout(self.patience.call, call).await {
            Ok(answer) => Ok(answer),
            Err(_) => fail(format!("{what} has not returned within {:?}", self.patience.call)),
        }
    }

    /// The test container of a pod.
    #[must_use]
    pub fn main(&self, pod: &ResolvedPod) -> ContainerRef {
        pod.pod.container(MAIN)
    }

    fn made(&self) -> Vec<Made> {
        lock(&self.made).clone()
    }
}
