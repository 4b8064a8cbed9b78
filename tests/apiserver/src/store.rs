//! The objects: one table per resource, one counter of revisions for all, and a bounded log of changes.
//!
//! Everything happens under one lock, held for a few map operations at a time; selectors are matched and
//! objects encoded outside it. Objects are shared, never cloned, between the tables, the log and the
//! watchers.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use serde::{Serialize, Serializer};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::resources::{self, Resource};
use crate::selector::Selector;

/// Namespace (empty for cluster-wide objects) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of(object: &Value) -> Self {
        let metadata = &object["metadata"];
        Self::new(metadata["namespace"].as_str().unwrap_or(""), metadata["name"].as_str().unwrap_or(""))
    }
}

/// One version of a stored object; its encoding is made once.
#[derive(Debug)]
pub(crate) struct Object {
    value: Value,
    /// Without `kind` and `apiVersion`, as lists of built-in kinds carry their items.
    bare: OnceLock<Bytes>,
}

impl Object {
    pub(crate) fn new(value: Value) -> Self {
        Self { value, bare: OnceLock::new() }
    }

    /// The object's JSON without `kind` and `apiVersion`.
    pub(crate) fn bare_json(&self) -> &Bytes {
        self.bare.get_or_init(|| Bytes::from(bare_json(&self.value)))
    }

    /// Appends the object's JSON.
    pub(crate) fn write_json(&self, out: &mut BytesMut) {
        let text = |field: &str| self.value[field].as_str().unwrap_or("");
        // Kinds and versions are plain words; and no object is empty, each has metadata.
        let head = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", text("kind"), text("apiVersion"));
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&self.bare_json()[1..]);
    }

    pub(crate) fn json(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bare_json().len() + 64);
        self.write_json(&mut out);
        out.freeze()
    }

    pub(crate) fn revision(&self) -> &str {
        self.value["metadata"]["resourceVersion"].as_str().unwrap_or("")
    }

    pub(crate) fn uid(&self) -> &str {
        self.value["metadata"]["uid"].as_str().unwrap_or("")
    }
}

impl Deref for Object {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One entry of the log. For `Deleted`, `object` is the last state with the revision of the deletion.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) change: Change,
    pub(crate) object: Arc<Object>,
    pub(crate) before: Option<Arc<Object>>,
}

/// Which objects of a resource a request is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
}

impl Scope {
    pub(crate) fn all() -> Self {
        Self::default()
    }

    pub(crate) fn in_namespace(namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), selector: Selector::default() }
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.namespace.as_deref().is_none_or(|ns| object["metadata"]["namespace"].as_str() == Some(ns))
            && self.selector.matches(object)
    }

    fn node(&self) -> Option<&str> {
        self.selector.exact(NODE_POINTER).filter(|n| !n.is_empty())
    }

    /// The narrowest index that holds every object of this scope.
    fn index(&self, resource: &Resource) -> Index {
        if let Some(name) = self.selector.exact("/metadata/name") {
            if !resource.namespaced {
                return Index::Object(Key::new("", name));
            }
            let namespace = self.namespace.as_deref().or(self.selector.exact("/metadata/namespace"));
            if let Some(namespace) = namespace {
                return Index::Object(Key::new(namespace, name));
            }
        }
        match (self.node(), &self.namespace) {
            (Some(node), _) => Index::Node(node.to_owned()),
            (None, Some(namespace)) => Index::Namespace(namespace.clone()),
            (None, None) => Index::All,
        }
    }
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) items: Vec<Arc<Object>>,
    /// The revision the list is true at.
    pub(crate) revision: u64,
    /// Last key of the page, when there is more, and how many more if that is known.
    pub(crate) more: Option<(Key, Option<usize>)>,
}

/// A live watch: what already happened, and a queue of what will.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) backlog: VecDeque<Arc<Event>>,
    pub(crate) revision: u64,
    pub(crate) queue: mpsc::Receiver<Arc<Event>>,
    pub(crate) control: WatchControl,
    registration: Registration,
}

/// The handle faults reach a live watch by.
#[derive(Clone, Debug)]
pub(crate) struct WatchControl {
    pub(crate) cut: CancellationToken,
    pub(crate) stalled: watch::Receiver<bool>,
}

impl Subscription {
    /// The newest revision of which nothing is still queued here: what a bookmark may promise.
    pub(crate) fn caught_up_to(&self) -> Option<u64> {
        let revision = self.registration.store.revision();
        self.queue.is_empty().then_some(revision)
    }
}

#[derive(Debug)]
struct Registration {
    store: Store,
    resource: usize,
    index: Index,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        let watchers = &mut state.tables[self.resource].watchers;
        if let Some(list) = watchers.get_mut(&self.index) {
            list.retain(|w| w.id != self.id);
            if list.is_empty() {
                watchers.remove(&self.index);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Index {
    Object(Key),
    Node(String),
    Namespace(String),
    All,
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    queue: mpsc::Sender<Arc<Event>>,
    cut: CancellationToken,
    stall: watch::Sender<bool>,
    /// A controller of this server; no client, so faults leave it alone.
    internal: bool,
}

#[derive(Debug, Default)]
struct Table {
    objects: BTreeMap<Key, Arc<Object>>,
    by_node: HashMap<String, BTreeSet<Key>>,
    log: VecDeque<Arc<Event>>,
    /// Revision of the newest event that is no longer in the log.
    compacted: u64,
    watchers: HashMap<Index, Vec<Watcher>>,
}

#[derive(Debug)]
struct State {
    revision: u64,
    next_watcher: u64,
    tables: Vec<Table>,
    log_limit: usize,
}

/// The store; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    state: Arc<Mutex<State>>,
}

/// Events a watcher may lag behind before it is cut off, as the real server cuts slow watchers.
const QUEUE: usize = 16_384;
const NODE_POINTER: &str = "/spec/nodeName";

impl Store {
    /// An empty store that keeps `log_limit` events per resource for watches to resume from.
    pub(crate) fn new(log_limit: usize) -> Self {
        let tables = resources::all().iter().map(|_| Table::default()).collect();
        let state = State { revision: 1, next_watcher: 0, tables, log_limit };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent after each map operation, so a panic elsewhere doesn't spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.lock().revision
    }

    pub(crate) fn get(&self, resource: &Resource, key: &Key) -> Option<Arc<Object>> {
        self.lock().tables[resource.id].objects.get(key).cloned()
    }

    pub(crate) fn len(&self, resource: &Resource) -> usize {
        self.lock().tables[resource.id].objects.len()
    }

    /// All objects of a scope, now.
    pub(crate) fn all(&self, resource: &Resource, scope: &Scope) -> Vec<Arc<Object>> {
        let mut items = self.lock().tables[resource.id].candidates(scope, None);
        items.retain(|o| scope.matches(o));
        items
    }

    /// A page of the objects of a scope: at most `limit`, after `after`, as of revision `at` (now, if
    /// `None`). An `at` that the log doesn't reach back to is an error.
    pub(crate) fn page(
        &self,
        resource: &Resource,
        scope: &Scope,
        at: Option<u64>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, ApiError> {
        let (mut items, revision) = {
            let state = self.lock();
            let table = &state.tables[resource.id];
            match at.filter(|at| *at < state.revision) {
                None => (table.candidates(scope, after), state.revision),
                Some(at) => (table.as_of(at, after)?, at),
            }
        };
        items.retain(|o| scope.matches(o));
        let mut more = None;
        if limit > 0 && items.len() > limit {
            let remaining = items.len() - limit;
            items.truncate(limit);
            // The real server counts only where no selector may hide a part.
            let remaining = scope.selector.is_empty().then_some(remaining);
            more = items.last().map(|last| (Key::of(last), remaining));
        }
        Ok(Page { items, revision, more })
    }

    /// Subscribes to changes after revision `from`; with `None`, from now on with the present objects as
    /// a backlog of additions. An expired `from` is an error.
    pub(crate) fn subscribe(
        &self,
        resource: &Resource,
        scope: &Scope,
        from: Option<u64>,
    ) -> Result<Subscription, ApiError> {
        self.register(resource, scope, from, false)
    }

    /// The subscription of a controller: everything there is, and what changes, whatever the faults.
    pub(crate) fn follow(&self, resource: &Resource) -> Subscription {
        self.register(resource, &Scope::all(), None, true).expect("only a revision to resume from expires")
    }

    fn register(
        &self,
        resource: &Resource,
        scope: &Scope,
        from: Option<u64>,
        internal: bool,
    ) -> Result<Subscription, ApiError> {
        let index = scope.index(resource);
        let mut state = self.lock();
        let revision = state.revision;
        let table = &state.tables[resource.id];
        let backlog = if let Some(from) = from {
            if from < table.compacted {
                return Err(too_old(from, table.compacted));
            }
            let start = table.log.partition_point(|e| e.revision <= from);
            table.log.range(start..).cloned().collect()
        } else {
            let mut objects = table.candidates(scope, None);
            objects.retain(|o| scope.matches(o));
            objects.into_iter().map(initial_event).collect()
        };
        let id = state.next_watcher;
        state.next_watcher += 1;
        let (sender, queue) = mpsc::channel(QUEUE);
        let (stall, stalled) = watch::channel(false);
        let cut = CancellationToken::new();
        let watcher = Watcher { id, queue: sender, cut: cut.clone(), stall, internal };
        state.tables[resource.id].watchers.entry(index.clone()).or_default().push(watcher);
        drop(state);
        Ok(Subscription {
            backlog,
            revision,
            queue,
            control: WatchControl { cut, stalled },
            registration: Registration { store: self.clone(), resource: resource.id, index, id },
        })
    }

    /// Runs `act` with the store to itself.
    pub(crate) fn transact<T>(&self, act: impl FnOnce(&mut Transaction<'_>) -> T) -> T {
        act(&mut Transaction { state: &mut self.lock() })
    }

    /// Replaces an object by what `change` makes of it, trying again when another writer came between.
    /// `Ok(None)` from `change` leaves it as it is.
    pub(crate) fn update(
        &self,
        resource: &Resource,
        key: &Key,
        mut change: impl FnMut(&Object) -> Result<Option<Value>, ApiError>,
    ) -> Result<Arc<Object>, ApiError> {
        loop {
            let old = self.get(resource, key).ok_or_else(|| ApiError::not_found(resource, &key.name))?;
            let Some(new) = change(&old)? else { return Ok(old) };
            let written = self.transact(|t| {
                let current = t.get(resource, key);
                let same = current.is_some_and(|c| Arc::ptr_eq(&c, &old));
                same.then(|| t.put(resource, key, new))
            });
            if let Some(written) = written {
                return Ok(written);
            }
        }
    }

    /// Forgets the log of a resource, so that every watch from before now is told 410 Expired.
    pub(crate) fn compact(&self, resource: &Resource) {
        let mut state = self.lock();
        let revision = state.revision;
        // A revision of its own, or a client that is up to date could still resume.
        state.revision += 1;
        let table = &mut state.tables[resource.id];
        table.log.clear();
        table.compacted = revision + 1;
    }

    /// Ends the live watches of a resource; returns how many.
    pub(crate) fn cut_watches(&self, resource: &Resource) -> usize {
        let mut count = 0;
        for list in self.lock().tables[resource.id].watchers.values_mut() {
            list.retain(|watcher| {
                if !watcher.internal {
                    watcher.cut.cancel();
                    count += 1;
                }
                watcher.internal
            });
        }
        count
    }

    /// Holds back (or lets go) what the live watches of a resource would send; returns how many.
    pub(crate) fn stall_watches(&self, resource: &Resource, stalled: bool) -> usize {
        let state = self.lock();
        let clients = state.tables[resource.id].watchers.values().flatten().filter(|w| !w.internal);
        clients.inspect(|watcher| _ = watcher.stall.send_replace(stalled)).count()
    }

    /// How many watches of a resource clients have open.
    pub(crate) fn watch_count(&self, resource: &Resource) -> usize {
        let state = self.lock();
        state.tables[resource.id].watchers.values().flatten().filter(|w| !w.internal).count()
    }
}

impl Table {
    fn candidates(&self, scope: &Scope, after: Option<&Key>) -> Vec<Arc<Object>> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let beyond = |key: &Key| after.is_none_or(|after| key > after);
        if let Some(node) = scope.node() {
            let keys = self.by_node.get(node).into_iter().flatten();
            return keys.filter(|k| beyond(k)).filter_map(|k| self.objects.get(k).cloned()).collect();
        }
        let start = match (after, &scope.namespace) {
            (Some(after), _) => Excluded(after.clone()),
            (None, Some(namespace)) => Included(Key::new(namespace, "")),
            (None, None) => Unbounded,
        };
        let range = self.objects.range((start, Unbounded));
        let inside = |key: &Key| scope.namespace.as_ref().is_none_or(|ns| key.namespace == *ns);
        range.take_while(|(k, _)| inside(k)).map(|(_, o)| o.clone()).collect()
    }

    /// The objects as they were at an earlier revision: the log undone.
    fn as_of(&self, revision: u64, after: Option<&Key>) -> Result<Vec<Arc<Object>>, ApiError> {
        if revision < self.compacted {
            return Err(ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
            ));
        }
        let mut objects = self.objects.clone();
        for event in self.log.iter().rev().take_while(|e| e.revision > revision) {
            let key = Key::of(&event.object);
            match &event.before {
                Some(before) => objects.insert(key, before.clone()),
                None => objects.remove(&key),
            };
        }
        Ok(objects.into_iter().filter(|(k, _)| after.is_none_or(|a| k > a)).map(|(_, o)| o).collect())
    }

    fn reindex(&mut self, key: &Key, before: Option<&Object>, after: Option<&Object>) {
        let (before, after) = (before.and_then(|o| node_of(o)), after.and_then(|o| node_of(o)));
        if before == after {
            return;
        }
        if let Some(node) = before
            && let Some(keys) = self.by_node.get_mut(node)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.by_node.remove(node);
            }
        }
        if let Some(node) = after {
            self.by_node.entry(node.to_owned()).or_default().insert(key.clone());
        }
    }

    fn publish(&mut self, event: Event, key: &Key, log_limit: usize) {
        let event = Arc::new(event);
        self.log.push_back(event.clone());
        while self.log.len() > log_limit {
            if let Some(dropped) = self.log.pop_front() {
                self.compacted = dropped.revision;
            }
        }
        if self.watchers.is_empty() {
            return;
        }
        let node = node_of(&event.object);
        let earlier = event.before.as_deref().and_then(|o| node_of(o)).filter(|n| Some(*n) != node);
        let indices = [
            Some(Index::All),
            Some(Index::Namespace(key.namespace.clone())),
            Some(Index::Object(key.clone())),
            node.map(|n| Index::Node(n.to_owned())),
            earlier.map(|n| Index::Node(n.to_owned())),
        ];
        for index in indices.into_iter().flatten() {
            if let Some(watchers) = self.watchers.get_mut(&index) {
                watchers.retain(|w| {
                    let sent = w.queue.try_send(event.clone()).is_ok();
                    if !sent {
                        w.cut.cancel();
                    }
                    sent
                });
            }
        }
    }
}

/// The store, locked: several reads and writes that happen as one.
pub(crate) struct Transaction<'a> {
    state: &'a mut State,
}

impl Transaction<'_> {
    pub(crate) fn get(&self, resource: &Resource, key: &Key) -> Option<Arc<Object>> {
        self.state.tables[resource.id].objects.get(key).cloned()
    }

    /// Writes an object under the next revision.
    pub(crate) fn put(&mut self, resource: &Resource, key: &Key, mut value: Value) -> Arc<Object> {
        self.state.revision += 1;
        let revision = self.state.revision;
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        let object = Arc::new(Object::new(value));
        let log_limit = self.state.log_limit;
        let table = &mut self.state.tables[resource.id];
        let before = table.objects.insert(key.clone(), object.clone());
        table.reindex(key, before.as_deref(), Some(&object));
        let change = if before.is_some() { Change::Modified } else { Change::Added };
        table.publish(Event { revision, change, object: object.clone(), before }, key, log_limit);
        object
    }

    /// Removes an object; returns its last state, under the revision of the removal.
    pub(crate) fn remove(&mut self, resource: &Resource, key: &Key) -> Option<Arc<Object>> {
        let log_limit = self.state.log_limit;
        let revision = self.state.revision + 1;
        let table = &mut self.state.tables[resource.id];
        let before = table.objects.remove(key)?;
        self.state.revision = revision;
        table.reindex(key, Some(&before), None);
        let mut last = before.value.clone();
        last["metadata"]["resourceVersion"] = revision.to_string().into();
        let object = Arc::new(Object::new(last));
        let event = Event { revision, change: Change::Deleted, object: object.clone(), before: Some(before) };
        table.publish(event, key, log_limit);
        Some(object)
    }
}

/// JSON of an object without `kind` and `apiVersion`.
pub(crate) fn bare_json(value: &Value) -> String {
    struct Bare<'a>(&'a Value);
    impl Serialize for Bare<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let fields = self.0.as_object().into_iter().flatten();
            serializer.collect_map(fields.filter(|(k, _)| !matches!(k.as_str(), "kind" | "apiVersion")))
        }
    }
    // A tree of JSON values always encodes.
    serde_json::to_string(&Bare(value)).unwrap_or_default()
}

fn initial_event(object: Arc<Object>) -> Arc<Event> {
    let revision = object.revision().parse().unwrap_or(0);
    Arc::new(Event { revision, change: Change::Added, object, before: None })
}

fn node_of(object: &Value) -> Option<&str> {
    // Only pods have a node name there; on other kinds the lookup finds nothing.
    object["spec"]["nodeName"].as_str().filter(|n| !n.is_empty())
}

fn too_old(asked: u64, oldest: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {asked} ({oldest})"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str) -> Value {
        json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"nodeName": node}})
    }

    fn on_node(node: &str) -> Scope {
        let selector = Selector::parse(resources::pods(), "", &format!("spec.nodeName={node}")).unwrap();
        Scope { namespace: None, selector }
    }

    fn put(store: &Store, name: &str, node: &str) -> Arc<Object> {
        store.transact(|t| t.put(resources::pods(), &Key::new("ns", name), pod(name, node)))
    }

    fn names(objects: &[Arc<Object>]) -> Vec<&str> {
        objects.iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_watch_of_one_node_hears_of_no_other() {
        let store = Store::new(100);
        let mut watch = store.subscribe(resources::pods(), &on_node("n1"), Some(1)).unwrap();
        put(&store, "a", "n1");
        put(&store, "b", "n2");
        put(&store, "a", "n2");
        assert_eq!(watch.queue.try_recv().unwrap().change, Change::Added);
        let moved = watch.queue.try_recv().unwrap();
        assert_eq!((moved.change, moved.object["spec"]["nodeName"].as_str()), (Change::Modified, Some("n2")));
        assert!(watch.queue.try_recv().is_err());
        assert_eq!(names(&store.all(resources::pods(), &on_node("n2"))), ["a", "b"]);
        assert!(store.all(resources::pods(), &on_node("n1")).is_empty());
    }

    #[test]
    fn a_list_goes_back_in_time_as_far_as_the_log() {
        let store = Store::new(3);
        let pods = resources::pods();
        put(&store, "a", "n");
        let then = store.revision();
        put(&store, "b", "n");
        store.transact(|t| t.remove(pods, &Key::new("ns", "a")));
        let now = store.page(pods, &Scope::all(), None, None, 0).unwrap();
        assert_eq!(names(&now.items), ["b"]);
        let before = store.page(pods, &Scope::all(), Some(then), None, 0).unwrap();
        assert_eq!((names(&before.items), before.revision), (vec!["a"], then));
        put(&store, "c", "n");
        put(&store, "d", "n");
        assert_eq!(store.page(pods, &Scope::all(), Some(then), None, 0).unwrap_err().code, 410);
        assert_eq!(store.subscribe(pods, &Scope::all(), Some(then)).unwrap_err().reason, "Expired");
    }

    #[test]
    fn pages_follow_each_other() {
        let store = Store::new(100);
        let pods = resources::pods();
        for name in ["a", "b", "c"] {
            put(&store, name, "n");
        }
        let first = store.page(pods, &Scope::in_namespace("ns"), None, None, 2).unwrap();
        let (last, remaining) = first.more.unwrap();
        assert_eq!((names(&first.items), remaining), (vec!["a", "b"], Some(1)));
        put(&store, "d", "n");
        let scope = Scope::in_namespace("ns");
        let second = store.page(pods, &scope, Some(first.revision), Some(&last), 2).unwrap();
        assert_eq!(names(&second.items), ["c"]);
        assert!(second.more.is_none());
    }

    #[test]
    fn a_watcher_that_does_not_read_is_cut_off() {
        let store = Store::new(10);
        let watch = store.subscribe(resources::pods(), &Scope::all(), Some(1)).unwrap();
        for _ in 0..=QUEUE {
            put(&store, "a", "n");
        }
        assert!(watch.control.cut.is_cancelled());
        assert_eq!(store.watch_count(resources::pods()), 0);
    }

    #[test]
    fn a_dropped_watch_is_forgotten() {
        let store = Store::new(10);
        let watch = store.subscribe(resources::pods(), &Scope::all(), None).unwrap();
        assert_eq!(store.watch_count(resources::pods()), 1);
        drop(watch);
        assert_eq!(store.watch_count(resources::pods()), 0);
    }
}
