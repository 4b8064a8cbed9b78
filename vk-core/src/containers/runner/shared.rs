//! What the runner's pods share: the backend, and what is known and told of each of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::containers::backend::{BackendEvent, ContainerBackend, RunRecord, SandboxRecord};
use crate::containers::dial::Dial;
use crate::events::PodEventRecord;
use crate::provider::{ObservedPod, PodEvent, PodRef, PodRuntime, PodUid, ResolvedPod, Sandbox};

/// Events that a watcher may be behind before it is given a new listing instead.
const BACKLOG: usize = 4096;
/// How long a removed pod is remembered, so that a listing from before its removal does not bring it back.
const REMEMBERED: Duration = Duration::from_mins(10);

/// See the module.
pub(super) struct Shared {
    pub(super) backend: Arc<dyn ContainerBackend>,
    pub(super) clock: Clock,
    pub(super) dial: Dial,
    pub(super) stop: CancellationToken,
    registry: Mutex<Registry>,
    told: broadcast::Sender<(u64, PodEvent)>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("backend", &self.backend).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Registry {
    pods: HashMap<PodUid, Entry>,
    removed: HashMap<PodUid, Instant>,
    /// The backend has said once what there is.
    has_listed: bool,
    /// Counts everything that was told, so that a listing knows what it includes.
    told: u64,
}

/// A pod that exists at the backend, or is about to.
#[derive(Debug)]
struct Entry {
    pod: PodRef,
    /// What was told of it last.
    runtime: Option<PodRuntime>,
    /// What the backend says of a pod that nobody works on: it was there before this process.
    found: Option<SandboxRecord>,
    /// The task that works on it.
    mail: Option<Arc<Mailbox>>,
    /// Since when it has a sandbox, as its task tells: a listing that was begun later has it.
    ready_since: Option<Instant>,
}

/// What a pod's task is to know. Newer news of one thing takes the place of older ones.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pub(super) letters: Mutex<Letters>,
    pub(super) news: Notify,
}

/// See [`Mailbox`].
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// The pod as it is wanted now.
    pub(super) pod: Option<Arc<ResolvedPod>>,
    /// It is to go, within so long.
    pub(super) delete: Option<Duration>,
    /// What became of its runs, by name and attempt.
    pub(super) runs: BTreeMap<(Arc<str>, u32), RunRecord>,
    /// The backend does not have it any more.
    pub(super) lost: bool,
}

impl Mailbox {
    pub(super) fn post(&self, write: impl FnOnce(&mut Letters)) {
        write(&mut self.letters.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_one();
    }

    pub(super) fn take(&self) -> Letters {
        std::mem::take(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What became of an attempt to put a task to work on a pod.
pub(super) enum Claim {
    /// There is one: this is its mailbox.
    Running(Arc<Mailbox>),
    /// The caller is to start one, on what the backend has already of the pod.
    Yours(Arc<Mailbox>, Option<SandboxRecord>),
}

impl Shared {
    pub(super) fn new(backend: Arc<dyn ContainerBackend>, clock: Clock, dial: Dial) -> Self {
        Self {
            backend,
            clock,
            dial,
            stop: CancellationToken::new(),
            registry: Mutex::default(),
            told: broadcast::Sender::new(BACKLOG),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task of a pod that exists.
    pub(super) fn mailbox(&self, uid: &PodUid) -> Option<Arc<Mailbox>> {
        self.lock().pods.get(uid)?.mail.clone()
    }

    /// Whether the pod exists at the backend, as far as is known.
    pub(super) fn knows(&self, uid: &PodUid) -> bool {
        self.lock().pods.contains_key(uid)
    }

    /// Whether the backend has said what there is: before that, not to know of a pod means nothing.
    pub(super) fn has_listed(&self) -> bool {
        self.lock().has_listed
    }

    /// Makes sure that there is one task for the pod.
    pub(super) fn claim(&self, pod: &PodRef) -> Claim {
        let mut registry = self.lock();
        registry.removed.remove(&pod.uid);
        let entry = registry.pods.entry(pod.uid.clone()).or_insert_with(|| Entry {
            pod: pod.clone(),
            runtime: None,
            found: None,
            mail: None,
            ready_since: None,
        });
        if let Some(mail) = &entry.mail {
            return Claim::Running(Arc::clone(mail));
        }
        let mail = Arc::<Mailbox>::default();
        entry.mail = Some(Arc::clone(&mail));
        Claim::Yours(mail, entry.found.take())
    }

    /// Tells how the pod is now, if that is news.
    pub(super) fn publish(&self, pod: &PodRef, runtime: PodRuntime) {
        let mut registry = self.lock();
        let Some(entry) = registry.pods.get_mut(&pod.uid) else { return };
        if entry.runtime.as_ref() == Some(&runtime) {
            return;
        }
        if runtime.sandbox == Sandbox::Ready {
            entry.ready_since.get_or_insert_with(Instant::now);
        }
        entry.runtime = Some(runtime.clone());
        self.send(&mut registry, PodEvent::Changed(ObservedPod::new(pod.clone(), runtime)));
    }

    /// Tells of something that happened to the pod.
    pub(super) fn tell(&self, pod: &PodRef, event: PodEventRecord) {
        self.send(&mut self.lock(), PodEvent::Told { pod: pod.clone(), event });
    }

    /// Tells that a probe was run.
    pub(super) fn send_event(&self, event: PodEvent) {
        self.send(&mut self.lock(), event);
    }

    /// The pod is gone from the backend.
    pub(super) fn gone(&self, pod: &PodRef) {
        let mut registry = self.lock();
        let now = Instant::now();
        registry.removed.retain(|_, at| now.saturating_duration_since(*at) < REMEMBERED);
        registry.removed.insert(pod.uid.clone(), now);
        let last = registry.pods.remove(&pod.uid).and_then(|entry| entry.runtime);
        self.send(&mut registry, PodEvent::Gone { pod: pod.clone(), last });
    }

    fn send(&self, registry: &mut Registry, event: PodEvent) {
        registry.told += 1;
        // Nobody watches: the next watch begins with a listing.
        let _ = self.told.send((registry.told, event));
    }

    /// What is told from now on, each with its number.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<(u64, PodEvent)> {
        self.told.subscribe()
    }

    /// Every pod, and the number of the last event that this includes.
    pub(super) fn snapshot(&self) -> (Vec<ObservedPod>, u64) {
        let registry = self.lock();
        let observed = registry.pods.values().map(|entry| {
            let found = entry.found.as_ref().filter(|found| found.stopped).map(remains);
            match entry.runtime.clone().or(found) {
                Some(runtime) => ObservedPod::new(entry.pod.clone(), runtime),
                // It goes on as it was; more is known when it is taken up.
                None => ObservedPod::existing(entry.pod.clone()),
            }
        });
        (observed.collect(), registry.told)
    }

    /// Takes in a complete listing that was begun at that moment.
    pub(super) fn listed(&self, sandboxes: Vec<SandboxRecord>, began: Instant) {
        let mut registry = self.lock();
        registry.has_listed = true;
        let listed: std::collections::HashSet<_> = sandboxes.iter().map(|s| s.pod.uid.clone()).collect();
        let mut lost = Vec::new();
        for (uid, entry) in &registry.pods {
            if listed.contains(uid) {
                continue;
            }
            if let Some(found) = &entry.found {
                lost.push(found.pod.clone());
            } else if let Some(mail) = &entry.mail
                && entry.ready_since.is_some_and(|since| since < began)
            {
                mail.post(|letters| letters.lost = true);
            }
        }
        for mut sandbox in sandboxes {
            if registry.removed.get(&sandbox.pod.uid).is_some_and(|at| *at >= began) {
                continue;
            }
            let entry = registry.pods.entry(sandbox.pod.uid.clone()).or_insert_with(|| Entry {
                pod: sandbox.pod.clone(),
                runtime: None,
                found: None,
                mail: None,
                ready_since: None,
            });
            if let Some(mail) = &entry.mail {
                mail.post(|letters| {
                    for record in sandbox.runs {
                        letters.run(record);
                    }
                });
            } else {
                if let Some(known) = entry.found.take() {
                    keep_newer(known, &mut sandbox);
                }
                entry.found = Some(sandbox);
            }
        }
        drop(registry);
        for pod in lost {
            self.gone(&pod);
        }
    }

    /// Takes in what the backend tells.
    pub(super) fn heard(&self, event: BackendEvent, now: Instant) {
        match event {
            BackendEvent::Listed(sandboxes) => self.listed(sandboxes, now),
            BackendEvent::Run(record) => {
                let mut registry = self.lock();
                let Some(entry) = registry.pods.get_mut(&record.run.container.pod.uid) else { return };
                match (&entry.mail, &mut entry.found) {
                    (Some(mail), _) => mail.post(|letters| letters.run(record)),
                    (None, Some(found)) => {
                        found.runs.retain(|known| known.run != record.run);
                        found.runs.push(record);
                    }
                    (None, None) => {}
                }
            }
            BackendEvent::Sandbox { pod, ips, stopped } => {
                let mut registry = self.lock();
                let found = registry.pods.get_mut(&pod.uid).and_then(|entry| entry.found.as_mut());
                if let Some(found) = found {
                    found.ips = ips;
                    found.stopped |= stopped;
                }
            }
            BackendEvent::Removed(pod) => {
                let mail = self.mailbox(&pod.uid);
                match mail {
                    Some(mail) => mail.post(|letters| letters.lost = true),
                    None if self.knows(&pod.uid) => self.gone(&pod),
                    None => {}
                }
            }
        }
    }
}

impl Letters {
    /// A run's news, unless it is older than what is known.
    fn run(&mut self, record: RunRecord) {
        let key = (Arc::clone(&record.run.container.name), record.run.attempt);
        if self.runs.get(&key).is_none_or(|known| record.state.follows(&known.state)) {
            self.runs.insert(key, record);
        }
    }
}

/// Keeps of what is known of a sandbox's runs what is newer than in a listing, which was true when it was begun.
fn keep_newer(known: SandboxRecord, listed: &mut SandboxRecord) {
    for old in known.runs {
        if let Some(new) = listed.runs.iter_mut().find(|new| new.run == old.run)
            && !new.state.follows(&old.state)
        {
            *new = old;
        }
    }
}

/// What is left of a pod that has ended, without its specification.
fn remains(found: &SandboxRecord) -> PodRuntime {
    use super::unit::termination;
    use crate::containers::backend::RunState;
    use crate::containers::words::tail;
    use crate::provider::{ContainerState, ObservedContainer};

    let mut runtime = PodRuntime { sandbox: Sandbox::Gone, ips: found.ips.clone(), ..PodRuntime::default() };
    runtime.started_at = Some(found.created_at);
    let mut latest: BTreeMap<&str, &RunRecord> = BTreeMap::new();
    for record in &found.runs {
        let newer = latest.get(record.run.name()).is_none_or(|known| known.run.attempt < record.run.attempt);
        if newer {
            latest.insert(record.run.name(), record);
        }
    }
    for (name, record) in latest {
        let RunState::Exited(exit) = &record.state else { continue };
        let mut exit = exit.clone();
        if let Some(why) = &mut exit.start_error {
            // The backend's words may quote a Secret, and which they are is not known without the pod.
            "it could not be started".clone_into(why);
        }
        let exit = &exit;
        let message = tail(&exit.message, crate::containers::LONGEST_TERMINATION_MESSAGE);
        let end = termination(record, exit, message);
        let mut container = ObservedContainer::new(name, ContainerState::Terminated(end));
        container.restart_count = i32::try_from(record.run.attempt).unwrap_or(i32::MAX);
        container.container_id = Some(record.id.clone());
        container.image_id = Some(record.image_id.clone()).filter(|id| !id.is_empty());
        runtime.containers.push(container);
    }
    runtime
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::backend::{ContainerRun, RunExit, RunState};
    use crate::provider::ExitStatus;

    fn record(state: RunState) -> RunRecord {
        let pod = PodRef::new("ns", "pod", "uid");
        RunRecord::new(ContainerRun::new(pod.container("a"), 0), "id", state)
    }

    #[test]
    fn a_listing_from_before_does_not_undo_what_was_heard_since() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let running = || record(RunState::Running { started_at: now });
        let ended = || record(RunState::Exited(RunExit::new(ExitStatus::Code(0), now, now)));
        let mut letters = Letters::default();
        letters.run(running());
        letters.run(ended());
        letters.run(running());
        assert_eq!(letters.runs.into_values().collect::<Vec<_>>(), [ended()]);

        let sandbox =
            |run| SandboxRecord { runs: vec![run], ..SandboxRecord::new(run_pod(), Vec::new(), now) };
        let mut listed = sandbox(running());
        keep_newer(sandbox(ended()), &mut listed);
        assert_eq!(listed.runs, [ended()]);
        let mut listed = sandbox(ended());
        keep_newer(sandbox(running()), &mut listed);
        assert_eq!(listed.runs, [ended()]);
    }

    fn run_pod() -> PodRef {
        PodRef::new("ns", "pod", "uid")
    }
}
