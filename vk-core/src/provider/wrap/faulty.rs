//! A provider that fails on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::provider::{Error, NodeInfo, ObservedPod, PodEvent, PodRef, Provider, ResolvedPod, Result};

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// `node_info`
    NodeInfo,
    /// `create_pod`
    Create,
    /// `delete_pod`
    Delete,
    /// `list_pods`
    List,
}

#[derive(Clone, Copy, Debug, Default)]
struct Fault {
    fail_next: u32,
    fail_rate: f64,
    lose_next: u32,
    hang: bool,
    hang_after: bool,
}

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Fail,
    Lose,
    Hang,
    HangAfter,
}

/// The switchboard of a [`Faulty`] provider; clones share it. Nothing fails until told to.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Mutex<Switchboard>>);

#[derive(Debug)]
struct Switchboard {
    faults: BTreeMap<Verb, Fault>,
    dice: fastrand::Rng,
}

impl Default for Faults {
    fn default() -> Self {
        Self::seeded(0)
    }
}

impl Faults {
    /// A switchboard whose random failures follow from `seed`: the same calls in the same order fail.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let dice = fastrand::Rng::with_seed(seed);
        Self(Arc::new(Mutex::new(Switchboard { faults: BTreeMap::new(), dice })))
    }

    fn set(&self, verb: Verb, change: impl FnOnce(&mut Fault)) {
        change(self.lock().faults.entry(verb).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, Switchboard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `times` calls fail with [`Error::Unavailable`] and do not reach the inner provider.
    pub fn fail_next(&self, verb: Verb, times: u32) {
        self.set(verb, |fault| fault.fail_next = times);
    }

    /// The next `times` calls reach the inner provider, and their answer is lost: the caller sees
    /// [`Error::Unavailable`] all the same.
    pub fn lose_next(&self, verb: Verb, times: u32) {
        self.set(verb, |fault| fault.lose_next = times);
    }

    /// Each call fails with this probability (0 to 1), after the counted failures are used up.
    pub fn fail_rate(&self, verb: Verb, rate: f64) {
        self.set(verb, |fault| fault.fail_rate = rate.clamp(0.0, 1.0));
    }

    /// Calls never return, until switched off; those that hang by then go on hanging.
    pub fn hang(&self, verb: Verb, on: bool) {
        self.set(verb, |fault| fault.hang = on);
    }

    /// As [`hang`](Self::hang), but the call takes effect first: only its answer never comes.
    pub fn hang_after(&self, verb: Verb, on: bool) {
        self.set(verb, |fault| fault.hang_after = on);
    }

    /// Decides about the next call, and counts it.
    fn fate(&self, verb: Verb) -> Fate {
        let mut board = self.lock();
        let Switchboard { faults, dice } = &mut *board;
        let Some(fault) = faults.get_mut(&verb) else { return Fate::Pass };
        if fault.hang {
            Fate::Hang
        } else if fault.fail_next > 0 {
            fault.fail_next -= 1;
            Fate::Fail
        } else if fault.lose_next > 0 {
            fault.lose_next -= 1;
            Fate::Lose
        } else if fault.fail_rate > 0.0 && dice.f64() < fault.fail_rate {
            Fate::Fail
        } else if fault.hang_after {
            Fate::HangAfter
        } else {
            Fate::Pass
        }
    }

    /// Makes the call, or lets it fail, as the switchboard says. A call that is to fail is never polled.
    ///
    /// # Errors
    /// The call's own, or [`Error::Unavailable`] for an injected failure.
    pub async fn apply<T>(&self, verb: Verb, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.fate(verb) {
            Fate::Pass => call.await,
            Fate::Fail => Err(Error::unavailable(format!("{verb:?}: injected failure"))),
            Fate::Lose => {
                call.await?;
                Err(Error::unavailable(format!("{verb:?}: injected loss of the answer")))
            }
            Fate::Hang => std::future::pending().await,
            Fate::HangAfter => {
                call.await?;
                std::future::pending().await
            }
        }
    }
}

/// Fails, hangs or loses answers as its [`Faults`] say. For tests.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Provider>,
    faults: Faults,
}

impl Faulty {
    /// Puts a switchboard in front of a provider.
    #[must_use]
    pub fn new(inner: Arc<dyn Provider>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl Provider for Faulty {
    async fn node_info(&self) -> Result<NodeInfo> {
        self.faults.apply(Verb::NodeInfo, self.inner.node_info()).await
    }
    async fn create_pod(&self, pod: &ResolvedPod) -> Result<()> {
        self.faults.apply(Verb::Create, self.inner.create_pod(pod)).await
    }
    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        self.faults.apply(Verb::Delete, self.inner.delete_pod(pod, grace)).await
    }
    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        self.faults.apply(Verb::List, self.inner.list_pods()).await
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        Arc::clone(&self.inner).watch_pods()
    }
    crate::forward_capabilities!(inner);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::wrap::fake::{Fake, pod};

    const SOON: Duration = Duration::from_hours(1);

    fn faulty() -> (Arc<Fake>, Faults, Faulty) {
        let (fake, faults) = (Arc::new(Fake::default()), Faults::default());
        let inner: Arc<dyn Provider> = Arc::clone(&fake) as Arc<dyn Provider>;
        (fake, faults.clone(), Faulty::new(inner, faults))
    }

    #[tokio::test(start_paused = true)]
    async fn calls_pass_until_a_switch_is_set_and_each_verb_has_its_own() {
        let (fake, faults, faulty) = faulty();
        faulty.create_pod(&pod("u1")).await.unwrap();
        faults.fail_next(Verb::Delete, 1);
        faulty.create_pod(&pod("u1")).await.unwrap();
        assert!(faulty.delete_pod(&pod("u1").pod, Duration::ZERO).await.is_err());
        faulty.delete_pod(&pod("u1").pod, Duration::ZERO).await.unwrap();
        assert_eq!((fake.count("create"), fake.count("delete")), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_call_has_no_effect_and_a_lost_answer_has() {
        let (fake, faults, faulty) = faulty();
        faults.fail_next(Verb::Create, 2);
        faults.lose_next(Verb::Create, 1);
        for reached in [0, 0, 1] {
            let answer = faulty.create_pod(&pod("u1")).await;
            assert!(matches!(answer, Err(Error::Unavailable { .. })));
            assert_eq!(fake.count("create"), reached);
        }
        faulty.create_pod(&pod("u1")).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_call_never_returns_and_takes_effect_only_if_told_to() {
        let (fake, faults, faulty) = faulty();
        faults.hang(Verb::List, true);
        assert!(tokio::time::timeout(SOON, faulty.list_pods()).await.is_err());
        assert_eq!(fake.count("list"), 0);
        faults.hang(Verb::List, false);
        faults.hang_after(Verb::List, true);
        assert!(tokio::time::timeout(SOON, faulty.list_pods()).await.is_err());
        assert_eq!(fake.count("list"), 1);
        faults.hang_after(Verb::List, false);
        faulty.list_pods().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_failures_follows_from_the_seed() {
        async fn failures(seed: u64) -> Vec<bool> {
            let faults = Faults::seeded(seed);
            faults.fail_rate(Verb::List, 0.25);
            let faulty = Faulty::new(Arc::new(Fake::default()), faults);
            let mut failed = Vec::new();
            for _ in 0..1000 {
                failed.push(faulty.list_pods().await.is_err());
            }
            failed
        }
        let first = failures(7).await;
        assert_eq!(first, failures(7).await);
        assert_ne!(first, failures(8).await);
        let share = first.iter().filter(|failed| **failed).count();
        assert!((200..300).contains(&share), "{share} of 1000 at a rate of 0.25");
    }
}
