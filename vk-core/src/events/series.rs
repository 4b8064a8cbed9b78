//! Events that happened more than once: one API object each, with a count.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::Recorded;
use super::reason::Severity;

/// What makes two events the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) subject: Subject,
    pub(super) reason: Cow<'static, str>,
    pub(super) severity: Severity,
    pub(super) message: String,
    pub(super) field_path: Option<String>,
}

/// The object an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Pod { uid: Arc<str>, namespace: Arc<str>, name: Arc<str> },
    Node { uid: Arc<str> },
}

/// The same event, so many times.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// The API object's name, once it was tried to be created.
    pub(super) name: String,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) count: i32,
    /// The count that the API server has; 0 is no object.
    pub(super) written: i32,
    /// Whether it is being written, or waits to be.
    pub(super) pending: bool,
    touched: u64,
}

/// The series of the recent past. The size is client-go's `maxLruCacheEntries`.
#[derive(Debug, Default)]
pub(super) struct Memory {
    series: HashMap<Key, Series>,
    clock: u64,
}

const CAPACITY: usize = 4096;
/// Longest message kept, in bytes; the limit of `events.k8s.io/v1`.
const MESSAGE: usize = 1024;

impl Key {
    pub(super) fn of(event: Recorded) -> Self {
        match event {
            Recorded::Pod(pod, record) => Self {
                reason: record
                    .word
                    .clone()
                    .map_or(Cow::Borrowed(record.reason.as_str()), |word| Cow::Owned(word.into())),
                severity: record.severity,
                field_path: record.field_path(),
                message: truncated(record.message),
                subject: Subject::Pod {
                    uid: Arc::from(pod.uid.as_str()),
                    namespace: pod.namespace,
                    name: pod.name,
                },
            },
            Recorded::Node { uid, reason, message } => Self {
                reason: Cow::Borrowed(reason.as_str()),
                severity: reason.severity(),
                field_path: None,
                message: truncated(message),
                subject: Subject::Node { uid: Arc::from(uid) },
            },
        }
    }

    /// Where the event lives: beside its pod, and for a node in `default`, as a kubelet's.
    pub(super) fn namespace(&self) -> &str {
        match &self.subject {
            Subject::Pod { namespace, .. } => namespace,
            Subject::Node { .. } => "default",
        }
    }

    /// A name for the event as client-go makes them: the object's, a dot, and the time in hexadecimal.
    pub(super) fn event_name(&self, node: &str, at: Timestamp, serial: u64) -> String {
        let object = match &self.subject {
            Subject::Pod { name, .. } => name,
            Subject::Node { .. } => node,
        };
        // The serial keeps names apart when a clock stands still.
        let nanos = u64::try_from(at.as_nanosecond()).unwrap_or_default().wrapping_add(serial);
        let suffix = format!(".{nanos:x}");
        let room = 253 - suffix.len();
        let object = object.get(..room).unwrap_or(object).trim_end_matches(['.', '-']);
        format!("{object}{suffix}")
    }

    pub(super) fn event(&self, node: &str, series: &Series) -> Event {
        let involved_object = match &self.subject {
            Subject::Pod { uid, namespace, name } => ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(namespace.to_string()),
                name: Some(name.to_string()),
                uid: Some(uid.to_string()),
                field_path: self.field_path.clone(),
                resource_version: None,
            },
            Subject::Node { uid } => ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                uid: Some(uid.to_string()),
                ..ObjectReference::default()
            },
        };
        Event {
            metadata: ObjectMeta {
                name: Some(series.name.clone()),
                namespace: Some(self.namespace().to_owned()),
                ..ObjectMeta::default()
            },
            involved_object,
            reason: Some(self.reason.to_string()),
            message: Some(self.message.clone()),
            type_: Some(self.severity.as_str().to_owned()),
            source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(node.to_owned()) }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(node.to_owned()),
            count: Some(series.count),
            first_timestamp: Some(Time(series.first)),
            last_timestamp: Some(Time(series.last)),
            ..Event::default()
        }
    }
}

impl Memory {
    /// Counts an event. The answer is whether it has to be queued for writing.
    pub(super) fn count(&mut self, key: &Key, now: Timestamp) -> bool {
        self.clock += 1;
        if let Some(series) = self.series.get_mut(key) {
            series.count = series.count.saturating_add(1);
            series.last = now;
            series.touched = self.clock;
            return !std::mem::replace(&mut series.pending, true);
        }
        if self.series.len() >= CAPACITY {
            self.forget_the_older_half();
        }
        let series = Series {
            name: String::new(),
            first: now,
            last: now,
            count: 1,
            written: 0,
            pending: true,
            touched: self.clock,
        };
        self.series.insert(key.clone(), series);
        true
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Series> {
        self.series.get_mut(key)
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.series.remove(key);
    }

    /// Half at a time, so that the search for the oldest is paid for by thousands of events.
    fn forget_the_older_half(&mut self) {
        let mut ages: Vec<u64> = self.series.values().filter(|s| !s.pending).map(|s| s.touched).collect();
        ages.sort_unstable();
        let middle = ages.get(ages.len() / 2).copied().unwrap_or(u64::MAX);
        self.series.retain(|_, series| series.pending || series.touched > middle);
    }
}

fn truncated(mut message: String) -> String {
    if message.len() > MESSAGE {
        let end = (0..=MESSAGE - 3).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{PodEventRecord, Reason};
    use crate::provider::PodRef;

    fn key(message: &str) -> Key {
        let pod = PodRef::new("default", "web", "u1");
        Key::of(Recorded::Pod(pod, PodEventRecord::new(Reason::BackOff, message).about("a")))
    }

    #[test]
    fn an_event_reads_like_a_kubelets() {
        let at: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let key = key("Back-off restarting failed container");
        let name = key.event_name("virtual-1", at, 0);
        let series = Series { name, first: at, last: at, count: 1, written: 0, pending: true, touched: 0 };
        insta::assert_snapshot!(serde_saphyr::to_string(&key.event("virtual-1", &series)).unwrap());
    }

    #[test]
    fn the_same_event_is_counted_and_queued_once_until_it_is_written() {
        let mut memory = Memory::default();
        let now = Timestamp::UNIX_EPOCH;
        assert!(memory.count(&key("a"), now));
        assert!(!memory.count(&key("a"), now));
        assert!(memory.count(&key("b"), now));
        let series = memory.get_mut(&key("a")).unwrap();
        assert_eq!(series.count, 2);
        series.pending = false;
        assert!(memory.count(&key("a"), now));
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_the_younger_and_the_unwritten() {
        let mut memory = Memory::default();
        for n in 0..10 * CAPACITY {
            let key = key(&n.to_string());
            memory.count(&key, Timestamp::UNIX_EPOCH);
            if n > 0 {
                memory.get_mut(&key).unwrap().pending = false;
            }
        }
        assert!(memory.series.len() <= CAPACITY);
        assert!(memory.get_mut(&key("0")).is_some(), "still to be written");
        assert!(memory.get_mut(&key("1")).is_none());
        assert!(memory.get_mut(&key(&(10 * CAPACITY - 1).to_string())).is_some());
    }

    #[test]
    fn long_names_and_messages_are_cut_to_what_the_api_server_takes() {
        let pod = PodRef::new("default", format!("{}.b", "a".repeat(251)), "u1");
        let key = Key::of(Recorded::Pod(pod, PodEventRecord::new(Reason::Failed, "ü".repeat(2000))));
        let name = key.event_name("n", "2026-11-23T10:00:00Z".parse().unwrap(), 0);
        assert!(name.len() <= 253, "{}", name.len());
        assert!(key.message.len() <= MESSAGE && key.message.ends_with("ü..."));
    }

    #[test]
    fn names_differ_while_the_clock_stands_still() {
        let key = key("a");
        let at = Timestamp::UNIX_EPOCH;
        assert_ne!(key.event_name("n", at, 0), key.event_name("n", at, 1));
    }
}
