//! Writing a pod's status, and what the answer says.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::Worker;
use crate::backoff::api_backoff;
use crate::pods::publisher::{Publisher, Written};
use crate::pods::record::{Desired, Presence};
use crate::pods::resize::{IN_PROGRESS, PENDING};
use crate::pods::source::chain;
use crate::pods::state::{PodInput, PodState};
use crate::pods::status::{Situation, StatusInput, pod_status};
use crate::provider::{PodRef, PodUid};

impl Worker {
    /// Reads the object again after a write that was not answered. What may have been written has times in it, which
    /// a second write, from what was known before, would change. False while the API server does not tell.
    async fn is_settled(&self, uid: &PodUid) -> bool {
        let now = Instant::now();
        let open = self.table.with(uid, |record| {
            let is_due = record.publish_not_before.is_none_or(|until| until <= now);
            let is_open = record.unanswered && is_due && !record.suspect && record.desired.is_some();
            is_open.then(|| record.pod.clone())
        });
        let Some(pod) = open.flatten() else { return true };
        match self.publisher.read(&pod).await {
            Ok(object) => {
                self.table.with(uid, |record| record.unanswered = false);
                match object {
                    Some(object) => {
                        if let Some((pod, desired)) = Desired::of(object) {
                            self.table.desired(&pod, desired);
                        }
                    }
                    None => self.table.gone(uid),
                }
                true
            }
            Err(error) => {
                self.settle_write(&pod, false, Err(error));
                false
            }
        }
    }

    /// Writes the status if it says something new.
    pub(super) async fn publish(&self, uid: &PodUid) {
        if !self.is_settled(uid).await {
            return;
        }
        let now = Instant::now();
        let view = self.table.with(uid, |record| {
            let state = record.state?;
            let desired = record.desired.as_ref()?;
            // A kubelet says nothing of a pod before it is let in.
            if record.suspect || state == PodState::Released || record.awaits_admission() {
                return None;
            }
            if let Some(until) = record.publish_not_before.filter(|until| *until > now) {
                self.table.queue.add_after(uid.clone(), until - now);
                return None;
            }
            let mut runtime = record.runtime.clone();
            if let (Some(runtime), Some(outcome)) = (&mut runtime, &record.eviction) {
                runtime.outcome.get_or_insert_with(|| outcome.clone());
            }
            let untouched = record.presence != Presence::Present && !record.was_created();
            let is_given = record.applied.is_none_or(|applied| applied == desired.fingerprint);
            Some((
                record.pod.clone(),
                desired.clone(),
                runtime,
                record.situation.clone(),
                state,
                record.quiet_until,
                untouched,
                record.end_is_untold(),
                is_given,
            ))
        });
        let Some((pod, desired, runtime, situation, state, quiet_until, untouched, untold, is_given)) =
            view.flatten()
        else {
            // Without an object there is nobody to tell.
            self.table.with(uid, |record| {
                if record.desired.is_none() && record.confirmed_gone {
                    record.input(PodInput::StatusPublished);
                }
            });
            return;
        };
        // Decoded here, not under the table's lock.
        let mut object = match desired.pod() {
            Ok(object) => object,
            Err(error) => return tracing::error!(%pod, %error, "reading back a kept pod"),
        };
        // The status is of the pod that the provider has: the next process learns by it what is yet to be given.
        let observed = object.status.as_ref().and_then(|status| status.observed_generation);
        if state == PodState::Syncing && !is_given && observed.is_some() {
            object.metadata.generation = observed;
        }
        let none = PodStatus::default();
        let current = object.status.as_ref().unwrap_or(&none);
        let over = state.is_over();
        let refused = matches!(situation, Situation::Refused { .. });
        let removable = over && object.metadata.deletion_timestamp.is_some();
        let unawaited = object.metadata.finalizers.iter().flatten().next().is_none();
        if removable && !refused && ((untouched && current.start_time.is_none()) || (untold && unawaited)) {
            // It was never acknowledged and nothing ever ran, or nothing is known of how it ended and nobody holds the
            // object to learn it: its removal says it all.
            self.table.with(uid, |record| record.input(PodInput::StatusPublished));
            return;
        }
        self.finish_resize(&pod, &object);
        let shown = self.shown(&pod, &object);
        let wanted = pod_status(&StatusInput {
            pod: shown.as_ref().unwrap_or(&object),
            observed: runtime.as_deref(),
            situation: &situation,
            host_ips: &self.config.addresses,
            now: self.clock.now(),
        });
        let stopping = state == PodState::Terminating;
        let starting = !over && situation == Situation::Normal && wanted.phase.as_deref() == Some("Pending");
        if (starting || stopping) && now < quiet_until {
            return self.table.queue.add_after(uid.clone(), quiet_until - now);
        }
        let Some(patch) = Publisher::difference(&pod, current, &wanted) else {
            return self.settle_write(&pod, over, Ok(Written::Unchanged));
        };
        let writing = async {
            self.table.with(uid, |record| record.telling = Some(Box::new(wanted.clone())));
            let written = self.publisher.write(&pod, patch).await;
            if matches!(written, Ok(Written::Changed(_))) {
                tracing::info!(
                    phase = wanted.phase,
                    reason = wanted.reason,
                    cause = wanted.message,
                    "status written"
                );
            }
            let runs = |status: &PodStatus| status.phase.as_deref() == Some("Running");
            if matches!(written, Ok(Written::Changed(_))) && runs(&wanted) && !runs(current) {
                let created = object.metadata.creation_timestamp.as_ref();
                let age = created.map(|created| self.clock.now().duration_since(created.0));
                // A clock that is behind the API server's would say less than nothing.
                self.metrics.started(age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default());
            }
            self.settle_write(&pod, over, written);
        };
        writing.instrument(self.story.step("status", &pod)).await;
    }

    /// The object as its resources are allocated, with the conditions about a change of them; `None`: as it is.
    fn shown(&self, pod: &PodRef, object: &Pod) -> Option<Pod> {
        let about_resize = |kind: &str| kind == PENDING || kind == IN_PROGRESS;
        let resize = self.table.with(&pod.uid, |record| record.resize.clone()).flatten();
        let current = object.status.as_ref().and_then(|status| status.conditions.as_ref());
        let tells = current.into_iter().flatten().any(|condition| about_resize(&condition.type_));
        if resize.is_none() && !tells {
            return None;
        }
        let mut shown = object.clone();
        if let (Some(spec), Some(resize)) = (&mut shown.spec, &resize) {
            resize.allocation.apply(spec);
        }
        let status = shown.status.get_or_insert_default();
        let mut conditions = resize.map(|resize| resize.conditions()).unwrap_or_default();
        conditions.extend(
            status.conditions.iter().flatten().filter(|condition| !about_resize(&condition.type_)).cloned(),
        );
        status.conditions = Some(conditions);
        Some(shown)
    }

    fn settle_write(&self, pod: &PodRef, over: bool, written: Result<Written, kube::Error>) {
        let desired = match &written {
            Ok(Written::Changed(object)) => Desired::of(Pod::clone(object)),
            Ok(Written::Unchanged | Written::NoObject) | Err(_) => None,
        };
        let retry = self.table.with(&pod.uid, |record| {
            record.telling = None;
            match written {
            Ok(Written::Unchanged | Written::Changed(_)) => {
                // A deletion that the answer is the first to tell of is left to the watch, which acts on it.
                if let Some((_, desired)) = desired
                    && record.desired.as_ref().is_some_and(|known| {
                        !desired.is_stale_beside(known) && desired.deletion == known.deletion
                    })
                {
                    record.desired = Some(desired);
                }
                record.publish_failures = 0;
                record.publish_not_before = None;
                if over {
                    record.input(PodInput::StatusPublished);
                }
                None
            }
            Ok(Written::NoObject) => {
                record.suspect = true;
                // One conflict is looked into at once. If they go on although the object is there, it is not us.
                record.publish_failures = record.publish_failures.saturating_add(1);
                let pause = (record.publish_failures > 1)
                    .then(|| api_backoff(&self.config, record.publish_failures));
                record.publish_not_before = pause.map(|pause| Instant::now() + pause);
                None
            }
            Err(error) => {
                record.publish_failures = record.publish_failures.saturating_add(1);
                record.unanswered |= may_have_taken_effect(&error);
                let pause = api_backoff(&self.config, record.publish_failures);
                record.publish_not_before = Some(Instant::now() + pause);
                tracing::warn!(%pod, k8s.pod.uid = %pod.uid, error = chain(&error), "writing the pod's status");
                Some(pause)
            }
        }});
        if let Some(pause) = retry.flatten() {
            self.table.queue.add_after(pod.uid.clone(), pause);
        }
    }
}

/// Whether a request that failed like this may have done its work all the same.
fn may_have_taken_effect(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code))
}
