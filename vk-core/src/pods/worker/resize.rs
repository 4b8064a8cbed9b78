//! Changing the resources of running pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::Worker;
use crate::events::{PodEventRecord, Reason};
use crate::pods::admission::{Demand, Host, Place, check};
use crate::pods::resize::{Allocation, Pending, Progress, Resize, summary};
use crate::provider::{Feature, PodRef};

impl Worker {
    /// The pod as it is allocated, after having given it what it wants as far as that can be.
    pub(super) async fn allocate(&self, pod: &PodRef, object: Arc<Pod>) -> Arc<Pod> {
        let resize = self.table.with(&pod.uid, |record| {
            record.resize.as_mut().map(|resize| {
                resize.due = false;
                resize.allocation.clone()
            })
        });
        let Some(allocation) = resize.flatten() else { return object };
        let none = PodSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        if allocation.is_of(spec) {
            // Nothing else is wanted (any more).
            self.change_resize(pod, |resize| resize.pending = None);
            return object;
        }
        let Some((reason, message, infeasible)) = self.reserve(pod, &object, spec).await else {
            let generation = object.metadata.generation;
            self.change_resize(pod, |resize| {
                resize.allocation = Allocation::of(spec);
                resize.pending = None;
                resize.progress = Some(Progress { generation, since: self.clock.now(), taken: false });
            });
            let message = summary("started", spec, generation, "");
            self.recorder.pod(pod, PodEventRecord::new(Reason::ResizeStarted, message));
            // Shown before it is done, however fast that is.
            Box::pin(self.publish(&pod.uid)).await;
            return object;
        };
        let (now, generation) = (self.clock.now(), object.metadata.generation);
        let mut is_news = true;
        self.change_resize(pod, |resize| {
            let before = resize.pending.as_ref().filter(|before| before.infeasible == infeasible);
            is_news = before.is_none_or(|before| before.generation != generation);
            let since = before.map_or(now, |before| before.since);
            let message = message.clone();
            resize.pending = Some(Pending { infeasible, message, generation, since, looked: now });
        });
        if is_news {
            let kind = if infeasible { Reason::ResizeInfeasible } else { Reason::ResizeDeferred };
            let told = summary(&reason, spec, generation, &message);
            self.recorder.pod(pod, PodEventRecord::new(kind, told));
        }
        if !infeasible {
            self.admission.defer(&pod.uid);
        }
        let mut allocated = Pod::clone(&object);
        if let Some(spec) = &mut allocated.spec {
            allocation.apply(spec);
        }
        Arc::new(allocated)
    }

    /// Takes the room that the pod's new resources need in the place of what it has; or why that cannot be: a word, a
    /// message, and whether it never can.
    async fn reserve(&self, pod: &PodRef, object: &Pod, spec: &PodSpec) -> Option<(String, String, bool)> {
        if !self.native.contains(Feature::Resize) {
            let name = self.provider.name();
            let message = format!("provider {name} cannot change the resources of a running container");
            return Some(("Infeasible".to_owned(), message, true));
        }
        let _turn = self.admission.turn.lock().await;
        let wanted = Arc::new(Demand::of(spec));
        let host: Option<Host> = self.host();
        let had = self.table.with(&pod.uid, |record| record.place.as_ref().map(Place::demand));
        if let (Some(host), Some(Some(had))) = (host, had) {
            let others = self.admission.ledger.taken().without(&had);
            if let Err(refusal) = check(object, &wanted, &host, &others) {
                return Some((refusal.reason, refusal.message, false));
            }
        }
        let place = self.admission.ledger.take(wanted);
        self.table.with(&pod.uid, |record| {
            if !record.state.is_some_and(crate::pods::state::PodState::is_over) {
                record.place = Some(place);
            }
        });
        None
    }

    /// Ends a change that every container has by now.
    pub(super) fn finish_resize(&self, pod: &PodRef, object: &Pod) {
        let none = PodSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let done = self.table.with(&pod.uid, |record| {
            let resize = record.resize.as_mut()?;
            if !resize.is_done(record.runtime.as_deref()) {
                if resize.progress.is_none() && resize.pending.is_none() && resize.allocation.is_of(spec) {
                    record.resize = None;
                }
                return None;
            }
            let generation = resize.progress.take()?.generation;
            let mut allocated = spec.clone();
            resize.allocation.apply(&mut allocated);
            if resize.pending.is_none() && resize.allocation.is_of(spec) {
                record.resize = None;
            }
            Some((allocated, generation))
        });
        if let Some(Some((allocated, generation))) = done {
            let message = summary("completed", &allocated, generation, "");
            self.recorder.pod(pod, PodEventRecord::new(Reason::ResizeCompleted, message));
        }
    }

    /// Looks again at every change that waits for room.
    pub(crate) fn retry_resizes(&self) {
        for uid in self.admission.take_deferred() {
            self.table.with(&uid, |record| {
                if let Some(resize) = &mut record.resize {
                    resize.due = true;
                }
            });
            self.table.queue.add(uid);
        }
    }

    fn change_resize(&self, pod: &PodRef, change: impl FnOnce(&mut Resize)) {
        self.table.with(&pod.uid, |record| record.resize.as_deref_mut().map(change));
    }
}
