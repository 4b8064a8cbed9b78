//! One read for many pods: concurrent cached reads of an object share one call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::time::Instant;

use super::object::{Object, ObjectRef};
use super::reader::{Freshness, ObjectReader};
use super::tokens::{Token, TokenAsk};
use crate::provider::PodRef;

/// How long a read may take.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) type Answer = Result<Option<Arc<Object>>, Arc<kube::Error>>;

/// How long an answer about Services is good: pods that come together are told of the same ones.
const MOMENT: Duration = Duration::from_secs(1);

/// Reads, at most one cached one per object at a time.
///
/// Nothing but Services is kept once it has been answered, so an answer is never older than the API server's
/// own cache was when the call began. A read that has to be current is never shared: it would show the state at the
/// time when somebody else asked.
#[derive(Debug)]
pub(super) struct SharedReads<R> {
    reader: Arc<R>,
    /// Calls under way. As many as there are callers, who are limited by the node's workers.
    flights: Mutex<HashMap<ObjectRef, WeakShared<BoxFuture<'static, Answer>>>>,
    /// Services read within the last [`MOMENT`]. As many as there are namespaces.
    recent: Mutex<HashMap<ObjectRef, (Instant, Arc<Object>)>>,
}

impl<R: ObjectReader> SharedReads<R> {
    pub(super) fn new(reader: Arc<R>) -> Self {
        Self { reader, flights: Mutex::default(), recent: Mutex::default() }
    }

    pub(super) async fn read(&self, object: &ObjectRef, freshness: Freshness) -> Answer {
        match freshness {
            Freshness::Current => self.call(object, freshness).await,
            Freshness::Cached if object.kind.is_kept_for_a_moment() => self.read_recent(object).await,
            Freshness::Cached => self.join(object).await,
        }
    }

    async fn read_recent(&self, object: &ObjectRef) -> Answer {
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((read, found)) = recent().get(object)
            && now < *read + MOMENT
        {
            return Ok(Some(Arc::clone(found)));
        }
        let answer = self.join(object).await;
        let mut recent = recent();
        recent.retain(|_, (read, _)| now < *read + MOMENT);
        if let Ok(Some(found)) = &answer {
            recent.insert(object.clone(), (now, Arc::clone(found)));
        }
        answer
    }

    /// A token. Never shared: it is bound to one pod.
    pub(super) async fn token(&self, pod: &PodRef, ask: &TokenAsk) -> Result<Token, Arc<kube::Error>> {
        match tokio::time::timeout(TIMEOUT, self.reader.token(pod, ask)).await {
            Ok(answer) => answer.map_err(Arc::new),
            Err(elapsed) => Err(Arc::new(kube::Error::Service(Box::new(elapsed)))),
        }
    }

    fn join(&self, object: &ObjectRef) -> Shared<BoxFuture<'static, Answer>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.upgrade().is_some_and(|flight| flight.peek().is_none()));
        if let Some(flight) = flights.get(object).and_then(WeakShared::upgrade) {
            return flight;
        }
        let flight = self.call(object, Freshness::Cached).shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(object.clone(), weak);
        }
        flight
    }

    fn call(&self, object: &ObjectRef, freshness: Freshness) -> BoxFuture<'static, Answer> {
        let (reader, object) = (Arc::clone(&self.reader), object.clone());
        async move {
            match tokio::time::timeout(TIMEOUT, reader.read(&object, freshness)).await {
                Ok(answer) => answer.map(|object| object.map(Arc::new)).map_err(Arc::new),
                Err(elapsed) => Err(Arc::new(kube::Error::Service(Box::new(elapsed)))),
            }
        }
        .boxed()
    }
}
