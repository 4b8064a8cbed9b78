//! Kubernetes Events about pods and about the node.
//!
//! ```text
//!  any task ─▶ Recorder ─▶ bounded queue ─▶ EventFlusher ─▶ spam filter ─▶ budget ─▶ series ─▶ API server
//! ```
//!
//! [`Recorder`] never waits: an event that finds the queue full is dropped and counted. [`EventFlusher`] is
//! the one writer. What happens again within the memory of the flusher raises the `count` of the first event
//! instead of making another one, as client-go's correlator does.
//!
//! Events name the source `kubelet` on this node, as a kubelet's do, and not `<node>/pod-controller` as the Go
//! Virtual Kubelet's: `kubectl describe` and dashboards then show them as they show any other node's, and the
//! reasons alone tell the two apart.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::config::NodeConfig;
use crate::provider::{ContainerKind, PodRef};

pub use self::counts::EventCounts;
pub use self::flusher::EventFlusher;
pub use self::reason::{NodeReason, Reason, Severity};

use self::counts::Counters;

pub(crate) mod budget;
mod counts;
mod flusher;
mod reason;
mod series;

/// Events that may wait for the flusher. It takes them out as fast as they come, so this is for bursts
/// inside one poll of it.
const QUEUE: usize = 4096;

/// Records events without ever making the caller wait. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Sink);

#[derive(Clone, Debug, Default)]
enum Sink {
    #[default]
    Off,
    Queue {
        sender: mpsc::Sender<Recorded>,
        counters: Arc<Counters>,
    },
    Memory(Arc<Mutex<Vec<Recorded>>>),
}

/// An event with the object it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// About a pod.
    Pod(PodRef, PodEventRecord),
    /// About the node.
    Node {
        /// The Node object's UID.
        uid: String,
        /// Why.
        reason: NodeReason,
        /// One sentence for people.
        message: String,
    },
}

/// An event about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEventRecord {
    /// Why.
    pub reason: Reason,
    /// The reason's word where it is none of a fixed few: an admission's (`OutOfcpu`, `NodeAffinity`).
    pub word: Option<Box<str>>,
    /// Whether something is wrong. [`Reason::severity`] unless changed by [`normal`](Self::normal).
    pub severity: Severity,
    /// One sentence for people, without secrets.
    pub message: String,
    /// The container it is about.
    pub container: Option<String>,
    /// What kind of container that is. [`ContainerKind::App`] where there is none.
    pub container_kind: ContainerKind,
}

impl PodEventRecord {
    /// An event about the pod as a whole.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            word: None,
            severity: reason.severity(),
            message: message.into(),
            container: None,
            container_kind: ContainerKind::App,
        }
    }

    /// The event of a pod that is not let in, with the admission's reason.
    #[must_use]
    pub fn rejected(word: impl Into<Box<str>>, message: impl Into<String>) -> Self {
        Self { word: Some(word.into()), ..Self::new(Reason::Rejected, message) }
    }

    /// The event's `reason`.
    #[must_use]
    pub fn reason_word(&self) -> &str {
        self.word.as_deref().unwrap_or(self.reason.as_str())
    }

    /// The same, about one of its app containers (`involvedObject.fieldPath: spec.containers{name}`).
    #[must_use]
    pub fn about(self, container: impl Into<String>) -> Self {
        self.about_kind(ContainerKind::App, container)
    }

    /// The same, about a container of that kind (`spec.initContainers{name}`,
    /// `spec.ephemeralContainers{name}`).
    #[must_use]
    pub fn about_kind(mut self, kind: ContainerKind, container: impl Into<String>) -> Self {
        self.container = Some(container.into());
        self.container_kind = kind;
        self
    }

    /// The same, as news and not as a warning: a kubelet reports `BackOff` for an image that way, and for a
    /// container as a warning.
    #[must_use]
    pub fn normal(mut self) -> Self {
        self.severity = Severity::Normal;
        self
    }

    /// `involvedObject.fieldPath`.
    #[must_use]
    pub fn field_path(&self) -> Option<String> {
        let list = match self.container_kind {
            ContainerKind::App => "containers",
            ContainerKind::Init | ContainerKind::Sidecar => "initContainers",
            ContainerKind::Ephemeral => "ephemeralContainers",
        };
        self.container.as_ref().map(|name| format!("spec.{list}{{{name}}}"))
    }
}

impl Recorder {
    /// A recorder, and the flusher that writes what it records. Nothing is written unless
    /// [`EventFlusher::run`] is polled.
    pub fn new(client: kube::Client, config: &NodeConfig, clock: Clock) -> (Self, EventFlusher) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let counters = Arc::new(Counters::default());
        let flusher = EventFlusher::new(client, config, clock, receiver, Arc::clone(&counters));
        (Self(Sink::Queue { sender, counters }), flusher)
    }

    /// A recorder that writes nothing.
    #[must_use]
    pub fn disabled() -> Self {
        Self(Sink::Off)
    }

    /// A recorder for tests: it keeps everything, without limit, for [`recorded`](Self::recorded).
    #[must_use]
    pub fn recording() -> Self {
        Self(Sink::Memory(Arc::default()))
    }

    /// What a [`recording`](Self::recording) recorder has kept, oldest first. Empty for other recorders.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        match &self.0 {
            Sink::Memory(kept) => kept.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Sink::Off | Sink::Queue { .. } => Vec::new(),
        }
    }

    /// Records an event about a pod.
    pub fn pod(&self, pod: &PodRef, event: PodEventRecord) {
        // The log tells the same story as the events, and all of it: events may be dropped.
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    k8s.pod.uid = %pod.uid,
                    %pod,
                    reason = event.reason_word(),
                    container = event.container,
                    "{}",
                    event.message
                )
            };
        }
        match event.severity {
            Severity::Normal => tell!(info),
            Severity::Warning => tell!(warn),
        }
        self.push(Recorded::Pod(pod.clone(), event));
    }

    /// Records an event about the Node object with that UID.
    pub fn node(&self, uid: &str, reason: NodeReason, message: impl Into<String>) {
        self.push(Recorded::Node { uid: uid.to_owned(), reason, message: message.into() });
    }

    /// How many events were written, and how many were dropped and why.
    #[must_use]
    pub fn counts(&self) -> EventCounts {
        match &self.0 {
            Sink::Queue { counters, .. } => counters.snapshot(),
            Sink::Off | Sink::Memory(_) => EventCounts::default(),
        }
    }

    fn push(&self, event: Recorded) {
        match &self.0 {
            Sink::Off => {}
            Sink::Queue { sender, counters } => {
                if sender.try_send(event).is_err() {
                    counters.dropped_full();
                }
            }
            Sink::Memory(kept) => kept.lock().unwrap_or_else(PoisonError::into_inner).push(event),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_recorder_keeps_what_it_was_given_in_order() {
        let recorder = Recorder::recording();
        let pod = PodRef::new("default", "web", "u1");
        let event = PodEventRecord::new(Reason::Started, "Container started").about("a");
        recorder.pod(&pod, event.clone());
        recorder.clone().node("n1", NodeReason::Starting, "Starting.");
        assert_eq!(
            recorder.recorded(),
            [
                Recorded::Pod(pod, event),
                Recorded::Node {
                    uid: "n1".to_owned(),
                    reason: NodeReason::Starting,
                    message: "Starting.".to_owned()
                },
            ]
        );
    }

    #[test]
    fn the_field_path_names_the_list_that_the_container_is_in() {
        let path = |kind| PodEventRecord::new(Reason::Started, "").about_kind(kind, "a").field_path();
        assert_eq!(path(ContainerKind::App).as_deref(), Some("spec.containers{a}"));
        assert_eq!(path(ContainerKind::Init).as_deref(), Some("spec.initContainers{a}"));
        assert_eq!(path(ContainerKind::Sidecar).as_deref(), Some("spec.initContainers{a}"));
        assert_eq!(path(ContainerKind::Ephemeral).as_deref(), Some("spec.ephemeralContainers{a}"));
        assert_eq!(PodEventRecord::new(Reason::Started, "").field_path(), None);
    }
}
