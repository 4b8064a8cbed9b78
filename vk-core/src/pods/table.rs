//! Every pod this node knows, by UID.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;
use tokio::time::Instant;

use super::PodLookup;
use super::queue::WorkQueue;
use super::record::{Desired, Presence, Record};
use super::state::{ApiView, PodInput};
use crate::config::NodeConfig;
use crate::provider::{PodRef, PodUid};

/// See [`PodTable::arrivals`].
pub(crate) type Arrivals = BTreeMap<(i64, u64), PodUid>;

type Records = HashMap<PodUid, Box<Record>>;

/// The records, and the queue of those that need a pass. Records are changed under one short lock; nothing
/// is awaited with it held.
#[derive(Debug)]
pub(crate) struct PodTable {
    /// Boxed: a map has room for nearly twice what it holds.
    records: Mutex<Records>,
    pub(crate) queue: WorkQueue<PodUid>,
    /// Pods whose admission is open, in the order in which it is decided: by creation, then as they came.
    arrivals: Mutex<Arrivals>,
    /// The pods of the API server have been listed.
    source_synced: watch::Sender<bool>,
    /// The pods of the backend have been listed.
    backend_listed: AtomicBool,
    /// Both have been.
    synced: watch::Sender<bool>,
    quiet: std::time::Duration,
    /// How many pods have come.
    serial: AtomicU64,
}

impl PodTable {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        Self {
            records: Mutex::new(HashMap::new()),
            queue: WorkQueue::new(),
            arrivals: Mutex::default(),
            serial: AtomicU64::new(0),
            source_synced: watch::Sender::new(false),
            backend_listed: AtomicBool::new(false),
            synced: watch::Sender::new(false),
            quiet: config.pending_status_delay,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes a pod's record.
    pub(crate) fn with<T>(&self, uid: &PodUid, f: impl FnOnce(&mut Record) -> T) -> Option<T> {
        self.lock().get_mut(uid).map(|record| f(record))
    }

    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods whose admission is open. They are open no longer, unless they are [put back](Self::put_back).
    pub(crate) fn take_arrivals(&self) -> Arrivals {
        std::mem::take(&mut self.arrivals())
    }

    /// These are still to be decided, and before those that came later.
    pub(crate) fn put_back(&self, undecided: Arrivals) {
        self.arrivals().extend(undecided);
    }

    pub(crate) fn is_source_synced(&self) -> bool {
        *self.source_synced.borrow()
    }

    /// Becomes true when the pods of the API server and of the backend have been listed.
    pub(crate) fn subscribe_synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// One of both has been listed; whoever comes second says so.
    fn note_synced(&self) {
        if self.is_source_synced() && self.is_backend_listed() {
            self.synced.send_replace(true);
        }
    }

    pub(crate) fn is_backend_listed(&self) -> bool {
        self.backend_listed.load(Ordering::Acquire)
    }

    /// A pod's record, made if need be, with the backend's silence so far taken for what it is.
    pub(crate) fn entry<'a>(&self, records: &'a mut Records, pod: &PodRef) -> &'a mut Record {
        let listed = self.is_backend_listed();
        records.entry(pod.uid.clone()).or_insert_with(|| {
            let mut record = Box::new(Record::new(pod.clone(), Instant::now(), self.quiet));
            if listed {
                // New since the listing, which is complete: the backend does not have it.
                record.presence = Presence::Absent;
            }
            // A pod that only the backend has is an orphan once the API server has said so itself.
            record.suspect = self.is_source_synced();
            record
        })
    }

    /// The API object is now like this. Older versions than the one known are ignored.
    pub(crate) fn desired(&self, pod: &PodRef, desired: Desired) {
        let mut records = self.lock();
        let quiet = self.quiet;
        let record = self.entry(&mut records, pod);
        record.suspect = false;
        if record.desired.as_ref().is_some_and(|known| desired.is_stale_beside(known)) {
            return;
        }
        record.last_grace = desired.deletion.map_or(desired.spec_grace, |deletion| deletion.grace);
        let deleting = desired.deletion.is_some();
        if deleting && record.desired.as_ref().is_none_or(|known| known.deletion.is_none()) {
            record.quiet_until = Instant::now() + quiet;
            // The pause was for what failed before, such as the creation.
            record.forget_failures();
        }
        if let (Some(deletion), Some(known)) = (desired.deletion, &record.desired)
            && known.deletion.is_none_or(|known| known.grace != deletion.grace)
        {
            record.deletion_seen = Some(Instant::now());
        }
        // Somebody else has ended the pod (the pod garbage collector): it has to stop.
        let ended = desired.view == ApiView::Terminal;
        if !std::mem::replace(&mut record.has_arrived, true) {
            let key = (desired.created, self.serial.fetch_add(1, Ordering::Relaxed));
            self.arrivals().insert(key, pod.uid.clone());
        }
        record.note_change(&desired);
        record.desired = Some(desired);
        record.confirmed_gone = false;
        record.recover();
        if deleting || ended {
            record.input(PodInput::DeleteRequested);
            record.interrupt.notify_waiters();
        }
        drop(records);
        self.queue.add(pod.uid.clone());
    }

    /// The API object is gone, on the API server's own word about this UID.
    pub(crate) fn gone(&self, uid: &PodUid) {
        let known = self.with(uid, |record| {
            record.suspect = false;
            record.confirmed_gone = true;
            let deletion = record.desired.take().and_then(|desired| desired.deletion);
            match deletion {
                Some(deletion) => record.last_grace = deletion.grace,
                None => record.forget_failures(),
            }
            record.recover();
            record.input(PodInput::DeleteRequested);
            record.interrupt.notify_waiters();
        });
        if known.is_some() {
            self.queue.add(uid.clone());
        }
    }

    /// The API server has been listed completely; pods that were not in the listing need a second look.
    pub(crate) fn listed_by_source(&self, present: &std::collections::HashSet<PodUid>) {
        let mut look = Vec::new();
        for (uid, record) in self.lock().iter_mut() {
            if !present.contains(uid) {
                record.suspect = true;
                look.push(uid.clone());
            }
        }
        self.source_synced.send_replace(true);
        self.note_synced();
        for uid in look {
            self.queue.add(uid);
        }
    }

    /// The backend has been listed completely for the first time: what it does not have is absent.
    pub(crate) fn backend_listed(&self) {
        if self.backend_listed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.note_synced();
        let mut look = Vec::new();
        for (uid, record) in self.lock().iter_mut() {
            if record.presence == Presence::Unknown {
                record.presence = Presence::Absent;
            }
            record.recover();
            look.push(uid.clone());
        }
        for uid in look {
            self.queue.add(uid);
        }
    }

    pub(crate) fn forget(&self, uid: &PodUid) {
        self.lock().remove(uid);
    }

    /// A record's object: taken under the lock, decoded by the caller without it.
    fn kept(record: &Record) -> Option<Kept> {
        Some(Kept { desired: record.desired.clone()?, telling: record.telling.clone() })
    }
}

impl PodLookup for PodTable {
    fn find(&self, namespace: &str, name: &str) -> Option<Pod> {
        // Of two incarnations the one that is not being deleted is meant.
        let kept = self
            .lock()
            .values()
            .filter(|r| &*r.pod.name == name && &*r.pod.namespace == namespace && r.desired.is_some())
            .min_by_key(|r| r.desired.as_ref().is_some_and(|d| d.deletion.is_some()))
            .and_then(|record| Self::kept(record))?;
        kept.pod()
    }

    fn find_by_uid(&self, uid: &str) -> Option<Pod> {
        let kept = self.lock().get(&PodUid::new(uid)).and_then(|record| Self::kept(record))?;
        kept.pod()
    }

    fn all(&self) -> Vec<Pod> {
        let kept: Vec<_> = self.lock().values().filter_map(|record| Self::kept(record)).collect();
        kept.iter().filter_map(Kept::pod).collect()
    }
}

/// A pod's object as it is kept, and what is being written over its status.
struct Kept {
    desired: Desired,
    telling: Option<Box<PodStatus>>,
}

impl Kept {
    /// The object with the latest status that anybody may have been told.
    fn pod(&self) -> Option<Pod> {
        let mut pod = self.desired.pod().ok()?;
        if let Some(telling) = &self.telling {
            let mut status = serde_json::to_value(&pod.status).ok()?;
            for (field, value) in serde_json::to_value(telling).ok()?.as_object()? {
                status[field] = value.clone();
            }
            pod.status = serde_json::from_value(status).ok()?;
        }
        Some(pod)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_being_written_of_a_pod_is_known_before_the_answer() {
        let object = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u", "resourceVersion": "1"},
            "spec": {"containers": [{"name": "a"}]},
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        }));
        let (pod, desired) = Desired::of(object.expect("a pod")).expect("a complete pod");
        let table = PodTable::new(&NodeConfig::new("n"));
        table.desired(&pod, desired);
        let status = || table.find("default", "p").and_then(|pod| pod.status).expect("a status");
        assert_eq!(status().phase.as_deref(), Some("Pending"));
        let running = PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() };
        table.with(&pod.uid, |record| record.telling = Some(Box::new(running)));
        assert_eq!(status().phase.as_deref(), Some("Running"));
        assert_eq!(status().qos_class.as_deref(), Some("BestEffort"), "what is not written stays");
        table.with(&pod.uid, |record| record.telling = None);
        assert_eq!(status().phase.as_deref(), Some("Pending"), "a write that failed has told nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_does_not_wait_for_the_pause_of_a_failed_creation() {
        let object = |version: &str, deleted: Option<&str>| {
            let object = serde_json::from_value(serde_json::json!({
                "metadata": {"name": "p", "namespace": "default", "uid": "u", "resourceVersion": version,
                    "deletionTimestamp": deleted},
                "spec": {"containers": [{"name": "a"}]},
            }));
            Desired::of(object.expect("a pod")).expect("a complete pod")
        };
        let table = PodTable::new(&NodeConfig::new("n"));
        let (pod, desired) = object("1", None);
        table.desired(&pod, desired);
        let pause = |record: &mut Record| {
            record.failures = 9;
            record.not_before = Some(Instant::now() + Duration::from_mins(5));
        };
        table.with(&pod.uid, pause);
        table.desired(&pod, object("2", Some("2026-01-01T00:00:30Z")).1);
        let known = table.with(&pod.uid, |record| (record.failures, record.not_before));
        assert_eq!(known, Some((0, None)));
        table.with(&pod.uid, pause);
        table.desired(&pod, object("3", Some("2026-01-01T00:00:30Z")).1);
        let known = table.with(&pod.uid, |record| record.failures);
        assert_eq!(known, Some(9), "a deletion that fails keeps its own pause");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_whose_files_show_its_labels_is_given_again_when_they_change() {
        let object = |version: &str, label: &str, path: &str| {
            let items = serde_json::json!([{"path": "f", "fieldRef": {"fieldPath": path}}]);
            let object = serde_json::from_value(serde_json::json!({
                "metadata": {"name": "p", "namespace": "default", "uid": "u", "resourceVersion": version,
                    "labels": {"a": label}},
                "spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v", "downwardAPI": {"items": items}}]},
            }));
            Desired::of(object.expect("a pod")).expect("a complete pod")
        };
        for (path, shows) in [("metadata.labels['a']", true), ("metadata.name", false)] {
            let table = PodTable::new(&NodeConfig::new("n"));
            let (pod, desired) = object("1", "one", path);
            table.desired(&pod, desired);
            table.with(&pod.uid, |record| record.stale = false);
            table.desired(&pod, object("2", "one", path).1);
            assert_eq!(table.with(&pod.uid, |record| record.stale), Some(false), "{path}");
            table.desired(&pod, object("3", "two", path).1);
            assert_eq!(table.with(&pod.uid, |record| record.stale), Some(shows), "{path}");
        }
    }
}
