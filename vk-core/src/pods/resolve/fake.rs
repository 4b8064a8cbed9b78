//! An API server's objects in memory, for the tests of this room.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use kube::core::Status;
use tokio::sync::{Notify, mpsc};

use super::object::{Object, ObjectKind, ObjectRef};
use super::reader::{Freshness, ObjectReader, Sighting};
use super::tokens::{Token, TokenAsk};
use crate::provider::PodRef;

type Change = Result<Sighting, kube::Error>;

#[derive(Clone, Debug, Default)]
pub(super) struct Fake {
    state: Arc<Mutex<State>>,
    moved: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<ObjectRef, Object>,
    /// Objects that the cache has not heard of yet.
    uncached: HashSet<ObjectRef>,
    /// HTTP statuses with which reads, listings and watches fail.
    failing: HashMap<ObjectRef, u16>,
    watches: Vec<(ObjectRef, mpsc::UnboundedSender<Change>)>,
    version: u64,
    log: Vec<String>,
    /// How many tokens were given out.
    tokens: u32,
}

pub(super) fn map(name: &str) -> ObjectRef {
    ObjectRef { kind: ObjectKind::ConfigMap, namespace: "ns".into(), name: name.into() }
}

pub(super) fn secret(name: &str) -> ObjectRef {
    ObjectRef { kind: ObjectKind::Secret, namespace: "ns".into(), name: name.into() }
}

/// An object of the pods' namespace.
pub(super) fn of_kind(kind: ObjectKind, name: &str) -> ObjectRef {
    ObjectRef { kind, namespace: "ns".into(), name: name.into() }
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Creates or replaces an object.
    pub(super) fn put<B: Into<Bytes>>(
        &self,
        object: &ObjectRef,
        data: impl IntoIterator<Item = (&'static str, B)>,
    ) {
        let data = data.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        self.put_object(object, Object { data, ..Object::default() });
    }

    pub(super) fn put_object(&self, object: &ObjectRef, mut content: Object) {
        let mut state = self.state();
        state.version += 1;
        let version = Some(state.version.to_string());
        content.version.clone_from(&version);
        state.objects.insert(object.clone(), content);
        state.send(object, &version);
    }

    pub(super) fn delete(&self, object: &ObjectRef) {
        let mut state = self.state();
        state.version += 1;
        state.objects.remove(object);
        state.send(object, &None);
    }

    /// Hides an object from cached reads.
    pub(super) fn lag(&self, object: &ObjectRef) {
        self.state().uncached.insert(object.clone());
    }

    /// Answers every call about the object with this HTTP status; 0 ends it.
    pub(super) fn fail(&self, object: &ObjectRef, code: u16) {
        self.state().failing.insert(object.clone(), code);
    }

    /// Ends every watch, with an error or as a server does from time to time.
    pub(super) fn cut_watches(&self, code: Option<u16>) {
        for (_, watch) in self.state().watches.drain(..) {
            if let Some(code) = code {
                watch.send(Err(status(code))).ok();
            }
        }
    }

    /// What was called since the last time this was asked.
    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// Waits until that many watches are open at once.
    pub(super) async fn watches(&self, count: usize) {
        loop {
            let moved = self.moved.notified();
            {
                let mut state = self.state();
                state.watches.retain(|(_, watch)| !watch.is_closed());
                if state.watches.len() == count {
                    return;
                }
            }
            tokio::select! {
                () = moved => {}
                // Closed receivers do not notify.
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
    }

    fn answer<T>(
        &self,
        call: &str,
        object: &ObjectRef,
        give: impl FnOnce(&mut State) -> T,
    ) -> Result<T, kube::Error> {
        let mut state = self.state();
        if !object.kind.is_kept_for_a_moment() {
            state.log.push(format!("{call} {}", object.name));
        }
        match state.failing.get(object) {
            Some(code) if *code > 0 => Err(status(*code)),
            _ => Ok(give(&mut state)),
        }
    }
}

impl State {
    fn send(&mut self, object: &ObjectRef, sighting: &Sighting) {
        self.watches.retain(|(watched, watch)| watched != object || watch.send(Ok(sighting.clone())).is_ok());
    }
}

fn status(code: u16) -> kube::Error {
    kube::Error::Api(Box::new(Status { code, message: "the fake says no".into(), ..Status::default() }))
}

impl ObjectReader for Fake {
    async fn read(&self, object: &ObjectRef, freshness: Freshness) -> Result<Option<Object>, kube::Error> {
        // A call takes its time, in which others come and share it.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.answer(&format!("{freshness:?}"), object, |state| {
            let hidden = freshness == Freshness::Cached && state.uncached.contains(object);
            state.objects.get(object).filter(|_| !hidden).cloned()
        })
    }

    async fn look(&self, object: &ObjectRef) -> Result<(Sighting, String), kube::Error> {
        self.answer("Look", object, |state| {
            let sighting = state.objects.get(object).and_then(|object| object.version.clone());
            (sighting, state.version.to_string())
        })
    }

    async fn token(&self, pod: &PodRef, ask: &TokenAsk) -> Result<Token, kube::Error> {
        let account = of_kind(ObjectKind::ServiceAccount, &ask.account);
        self.answer("Token", &account, |state| {
            state.tokens += 1;
            let text = format!("{}/{}/{}/{}", pod.uid, ask.account, ask.audience, state.tokens);
            Token { text: text.into(), life: Duration::from_secs(ask.seconds.unsigned_abs()) }
        })
    }

    async fn watch(
        &self,
        object: &ObjectRef,
        after: &str,
    ) -> Result<BoxStream<'static, Change>, kube::Error> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.answer("Watch", object, |state| {
            // What happened between the listing and this call.
            if state.version.to_string() != after {
                let sighting = state.objects.get(object).and_then(|object| object.version.clone());
                sender.send(Ok(sighting)).ok();
            }
            state.watches.push((object.clone(), sender));
        })?;
        self.moved.notify_waiters();
        Ok(stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) })
            .boxed())
    }
}

/// Keeps the order of a list of pairs readable in a test.
pub(super) fn pairs<const N: usize>(all: [(&str, &str); N]) -> BTreeMap<String, String> {
    all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
