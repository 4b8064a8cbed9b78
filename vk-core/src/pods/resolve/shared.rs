//! One read for many pods: concurrent cached reads of an object share one call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::object::{Object, ObjectRef};
use super::reader::{Freshness, ObjectReader};

/// How long a read may take.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) type Answer = Result<Option<Arc<Object>>, Arc<kube::Error>>;

/// Reads, at most one cached one per object at a time.
///
/// Nothing is kept once it has been answered, so an answer is never older than the API server's own cache
/// was when the call began. A read that has to be current is never shared: it would show the state at the
/// time when somebody else asked.
#[derive(Debug)]
pub(super) struct SharedReads<R> {
    reader: Arc<R>,
    /// Calls under way. As many as there are callers, who are limited by the node's workers.
    flights: Mutex<HashMap<ObjectRef, WeakShared<BoxFuture<'static, Answer>>>>,
}

impl<R: ObjectReader> SharedReads<R> {
    pub(super) fn new(reader: Arc<R>) -> Self {
        Self { reader, flights: Mutex::default() }
    }

    pub(super) async fn read(&self, object: &ObjectRef, freshness: Freshness) -> Answer {
        match freshness {
            Freshness::Current => self.call(object, freshness).await,
            Freshness::Cached => self.join(object).await,
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
