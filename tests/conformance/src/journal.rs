//! What a provider has told of its pods, by watch and by listing, in the order in which it came.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::sync::Notify;
use vk_core::provider::{
    ContainerState, ObservedPod, PodEvent, PodRuntime, PodUid, Result as Told, Sandbox, Termination,
};

/// The one container of a test pod.
pub const MAIN: &str = "main";

/// Who told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `watch_pods`
    Watch,
    /// `list_pods`
    List,
}

/// What was told of one pod at one time.
#[derive(Clone, Debug, PartialEq)]
pub enum Sight {
    /// It exists.
    Exists,
    /// It is like this.
    Is(PodRuntime),
    /// It is gone, and was like this.
    Gone(Option<PodRuntime>),
    /// It is not in a complete listing.
    Absent,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    notes: Mutex<Vec<(Source, Result<PodEvent, String>)>>,
    wrote: Notify,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Vec<(Source, Result<PodEvent, String>)>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self, source: Source, item: Told<PodEvent>) {
        self.lock().push((source, item.map_err(|error| error.chain())));
        self.wrote.notify_waiters();
    }

    pub(crate) fn listed(&self, pods: Told<Vec<ObservedPod>>) {
        self.write(Source::List, pods.map(PodEvent::Listed));
    }

    /// Writes down what a watch tells until it ends.
    pub(crate) async fn follow(self: Arc<Self>, mut watch: BoxStream<'static, Told<PodEvent>>) {
        while let Some(item) = watch.next().await {
            self.write(Source::Watch, item);
        }
    }

    /// Everything so far.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// To be enabled before looking, so that nothing falls between the two.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.wrote.notified()
    }

    /// The items from `since` on.
    pub(crate) fn notes(&self, since: usize) -> Vec<(Source, Result<PodEvent, String>)> {
        self.lock().iter().skip(since).cloned().collect()
    }

    /// What was told of a pod from `since` on.
    pub(crate) fn sights(&self, uid: &PodUid, since: usize) -> Sights {
        let notes = self.lock();
        let told = notes.iter().skip(since).filter_map(|(source, item)| {
            let sight = sight(item.as_ref().ok()?, uid)?;
            Some((*source, sight))
        });
        Sights(told.collect())
    }
}

fn sight(event: &PodEvent, uid: &PodUid) -> Option<Sight> {
    let of = |pod: &ObservedPod| pod.runtime.clone().map_or(Sight::Exists, Sight::Is);
    match event {
        PodEvent::Listed(pods) => {
            let found = pods.iter().find(|pod| pod.pod.uid == *uid);
            Some(found.map_or(Sight::Absent, of))
        }
        PodEvent::Changed(pod) if pod.pod.uid == *uid => Some(of(pod)),
        PodEvent::Gone { pod, last } if pod.uid == *uid => Some(Sight::Gone(last.clone())),
        _ => None,
    }
}

/// What was told of one pod, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sights(pub Vec<(Source, Sight)>);

impl Sights {
    /// Only what this source told.
    #[must_use]
    pub fn by(&self, source: Source) -> Self {
        Self(self.0.iter().filter(|(by, _)| *by == source).cloned().collect())
    }

    /// How the pod was, time after time.
    #[must_use]
    pub fn runtimes(&self) -> impl DoubleEndedIterator<Item = &PodRuntime> {
        self.0.iter().filter_map(|(_, sight)| match sight {
            Sight::Is(runtime) | Sight::Gone(Some(runtime)) => Some(runtime),
            Sight::Exists | Sight::Gone(None) | Sight::Absent => None,
        })
    }

    /// How the pod was when its container ran.
    #[must_use]
    pub fn running(&self) -> impl DoubleEndedIterator<Item = &PodRuntime> {
        self.runtimes().filter(|runtime| is_running(runtime))
    }

    /// When the runs of its container began, as far as that was told: of runs under way, and of those that were over
    /// before anybody looked. Two that are less than a second apart are one run, told twice.
    #[must_use]
    pub fn starts(&self) -> Vec<Timestamp> {
        let running = self.runtimes().filter_map(|runtime| match runtime.container(MAIN)?.state {
            ContainerState::Running { started_at } => Some(started_at),
            ContainerState::Waiting { .. } | ContainerState::Terminated(_) => None,
        });
        let mut starts: Vec<_> = running.chain(self.ends().filter_map(|end| end.started_at)).collect();
        starts.sort_unstable();
        starts.dedup_by(|later, first| later.duration_since(*first).as_secs() < 1);
        starts
    }

    /// The ends of runs of its container that were told, in order, those of former runs included.
    #[must_use]
    pub fn ends(&self) -> impl DoubleEndedIterator<Item = &Termination> {
        self.runtimes().flat_map(|runtime| {
            let container = runtime.container(MAIN);
            let present = container.and_then(|container| match &container.state {
                ContainerState::Terminated(end) => Some(end),
                ContainerState::Waiting { .. } | ContainerState::Running { .. } => None,
            });
            let before = container.and_then(|container| container.last.as_ref());
            before.into_iter().chain(present)
        })
    }

    /// Whether it was said, in so many words or by a complete listing without it, that nothing of it can run any
    /// more. Only to be asked of what was told after the pod had been seen, or had been deleted.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.iter().any(|(_, sight)| match sight {
            Sight::Gone(_) | Sight::Absent => true,
            Sight::Is(runtime) => runtime.sandbox == Sandbox::Gone,
            Sight::Exists => false,
        })
    }

    /// The last of them, for people.
    #[must_use]
    pub fn last(&self) -> String {
        match self.0.last() {
            None => "nothing was told of it".to_owned(),
            Some((source, Sight::Exists)) => format!("the last word ({source:?}) is that it exists"),
            Some((source, Sight::Absent)) => format!("the last word ({source:?}) is a listing without it"),
            Some((source, Sight::Gone(None))) => format!("the last word ({source:?}) is that it is gone"),
            Some((source, Sight::Is(runtime) | Sight::Gone(Some(runtime)))) => {
                format!("the last word ({source:?}) is {}", show(runtime))
            }
        }
    }
}

/// Whether the test container runs.
#[must_use]
pub fn is_running(runtime: &PodRuntime) -> bool {
    let main = runtime.container(MAIN);
    main.is_some_and(|main| matches!(main.state, ContainerState::Running { .. }))
}

/// A pod's state in a few words.
#[must_use]
pub fn show(runtime: &PodRuntime) -> String {
    let containers = runtime.containers.iter().map(|container| {
        let state = match &container.state {
            ContainerState::Waiting { reason, .. } => format!("waits ({reason})"),
            ContainerState::Running { .. } => "runs".to_owned(),
            ContainerState::Terminated(end) => format!("ended ({:?})", end.exit),
        };
        format!("; {} {state}, restarted {} times", container.name, container.restart_count)
    });
    let containers: String = containers.collect();
    format!("sandbox {:?}, {} addresses{containers}", runtime.sandbox, runtime.ips.len())
}

#[cfg(test)]
mod tests {
    use vk_core::provider::{ExitStatus, ObservedContainer, PodRuntime};

    use super::*;

    #[test]
    fn a_run_that_nobody_saw_running_is_counted_once_by_what_its_end_says() {
        let at = |millis| Timestamp::from_millisecond(millis).expect("a time");
        let end = |from, to| Termination::new(ExitStatus::Code(3)).with_times(at(from), at(to));
        let first = ObservedContainer::running(MAIN, at(1_400));
        let second =
            ObservedContainer::terminated(MAIN, end(4_000, 6_000)).with_restarts(1, Some(end(1_000, 3_000)));
        let sights = [first, second].map(|container| {
            (Source::List, Sight::Is(PodRuntime::new(Sandbox::Ready).with_container(container)))
        });
        assert_eq!(Sights(sights.into()).starts(), [at(1_000), at(4_000)]);
    }
}
