//! Every version of a namespace's pods, as a watch delivers them.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::pod::Seen;
use crate::stop::describe;

/// Pause before a watch that failed is opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Each version of each pod, in order.
    versions: Vec<Arc<Seen>>,
    /// The last version of those that are gone, as the deletion's event carries it.
    gone: Vec<Arc<Seen>>,
    /// How often the watch had to begin anew, and may have missed versions.
    gaps: usize,
    /// Why it last failed.
    error: Option<String>,
}

impl Log {
    /// The newest version of the pod that has this name now.
    pub(crate) fn newest(&self, name: &str) -> Option<&Arc<Seen>> {
        let newest = self.versions.iter().rev().find(|seen| seen.name() == name)?;
        (!self.is_gone(newest.uid())).then_some(newest)
    }

    pub(crate) fn is_gone(&self, uid: &str) -> bool {
        self.last(uid).is_some()
    }

    /// What a pod was when it went.
    pub(crate) fn last(&self, uid: &str) -> Option<&Arc<Seen>> {
        self.gone.iter().find(|seen| seen.uid() == uid)
    }

    /// Every version of a pod.
    pub(crate) fn versions(&self, uid: &str) -> Vec<Arc<Seen>> {
        self.versions.iter().filter(|seen| seen.uid() == uid).cloned().collect()
    }

    /// Whether versions may be missing.
    pub(crate) fn has_gaps(&self) -> bool {
        self.gaps > 1
    }

    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    fn add(&mut self, pod: &Pod) {
        let seen = Seen(serde_json::to_value(pod).unwrap_or(Value::Null));
        let known = self.versions.iter().rev().find(|other| other.uid() == seen.uid());
        if known.is_none_or(|known| known.version() != seen.version()) {
            self.versions.push(Arc::new(seen));
        }
    }

    fn remove(&mut self, pod: &Pod) {
        let seen = Seen(serde_json::to_value(pod).unwrap_or(Value::Null));
        if !self.is_gone(seen.uid()) {
            self.gone.push(Arc::new(seen));
        }
    }
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct History {
    log: watch::Sender<Log>,
    task: JoinHandle<()>,
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl History {
    /// Watches a namespace's pods from now on.
    pub(crate) fn of(pods: Api<Pod>) -> Self {
        let log = watch::Sender::new(Log::default());
        let task = tokio::spawn(follow(pods, log.clone()));
        Self { log, task }
    }

    /// What was seen, now and whenever there is more.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Log> {
        self.log.subscribe()
    }

    /// Looks at what was seen so far.
    pub(crate) fn now<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.log.borrow())
    }
}

async fn follow(pods: Api<Pod>, log: watch::Sender<Log>) {
    let mut events = watcher::watcher(pods, watcher::Config::default()).boxed();
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod)) => log.send_modify(|log| log.add(&pod)),
            Ok(Event::Delete(pod)) => log.send_modify(|log| log.remove(&pod)),
            Ok(Event::Init) => {
                listed.clear();
                log.send_modify(|log| log.gaps += 1);
            }
            Ok(Event::InitApply(pod)) => {
                listed.push(pod.metadata.uid.clone().unwrap_or_default());
                log.send_modify(|log| log.add(&pod));
            }
            // What went in a gap has left no event: its last known version stands for it.
            Ok(Event::InitDone) => log.send_modify(|log| {
                let mut gone: Vec<Arc<Seen>> = Vec::new();
                for seen in log.versions.iter().rev() {
                    let new = gone.iter().all(|other| other.uid() != seen.uid()) && !log.is_gone(seen.uid());
                    if new && !listed.iter().any(|uid| uid == seen.uid()) {
                        gone.push(Arc::clone(seen));
                    }
                }
                log.gone.append(&mut gone);
                log.error = None;
            }),
            Err(error) => {
                let error = match error {
                    watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
                        describe(&error)
                    }
                    other => other.to_string(),
                };
                log.send_modify(|log| log.error = Some(error));
                // The watcher goes on by itself; this keeps it from doing so in a loop.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
