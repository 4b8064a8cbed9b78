//! What to do next about a pod: a pure function of its record.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::record::{CreateCall, DeleteCall, Presence, Record};
use super::state::{BackendView, PodState};

/// The next step of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, until something changes.
    Wait,
    /// Nothing, until something changes or this long has passed.
    WaitFor(Duration),
    /// Read the API object itself: a listing without it is no proof.
    Confirm,
    /// Resolve and create.
    Create,
    /// Look for a pod whose creation was accepted and that no listing has shown.
    Look,
    /// Give the backend the changed specification.
    Update,
    /// Stop it.
    Delete {
        /// How long it may take.
        grace: Duration,
    },
    /// Nothing was ever started, but addresses may be reserved: have them freed.
    Release,
    /// Nothing can run any more, because nothing was ever started.
    Settle,
    /// Remove the API object.
    Remove,
    /// Drop the record.
    Forget,
}

impl Step {
    /// What metrics call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Wait | Self::WaitFor(_) => "wait",
            Self::Confirm => "confirm",
            Self::Create => "create",
            Self::Look => "look",
            Self::Update => "update",
            Self::Delete { .. } => "delete",
            Self::Release => "release",
            Self::Settle => "settle",
            Self::Remove => "remove",
            Self::Forget => "forget",
        }
    }
}

/// How long the rules wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// A created pod may be missing from listings for this long.
    pub(crate) creation_grace: Duration,
    /// A deletion that was accepted is repeated when the pod is still there this long after its grace.
    pub(crate) deletion_slack: Duration,
}

/// How long an accepted deletion is given to announce its end before the backend is listed.
const LOOK_DELAY: Duration = Duration::from_secs(1);

/// The next step. `wall` is the time of day, `now` the timers' clock.
pub(crate) fn decide(record: &Record, now: Instant, wall: Timestamp, patience: &Patience) -> Step {
    if record.suspect {
        return backed_off(record, now, Step::Confirm);
    }
    let Some(state) = record.state else { return Step::Wait };
    match state {
        PodState::Accepted => backed_off(record, now, Step::Create),
        PodState::Creating => match record.create {
            CreateCall::Accepted { at } => {
                // Accepted and not seen: it needs time to show up, then a look.
                let due = at + patience.creation_grace;
                if now < due { Step::WaitFor(due - now) } else { backed_off(record, now, Step::Look) }
            }
            CreateCall::NotSent | CreateCall::Sent { .. } => backed_off(record, now, Step::Create),
        },
        PodState::Syncing if record.missing => backed_off(record, now, Step::Look),
        PodState::Syncing => {
            let changed = record.wanted() != record.applied;
            let due = record.refresh_at;
            let resizes = record.resize.as_ref().is_some_and(|resize| resize.due);
            let is_due = due.is_some_and(|due| due <= now);
            if record.stale || resizes || is_due || (changed && record.applied.is_some()) {
                backed_off(record, now, Step::Update)
            } else {
                due.map_or(Step::Wait, |due| Step::WaitFor(due - now))
            }
        }
        PodState::Terminating => terminate(record, now, wall, patience),
        // Refused, or deleted while no process was there, after its addresses were reserved.
        PodState::Terminated | PodState::Released if is_to_release(record) => {
            backed_off(record, now, Step::Release)
        }
        PodState::Terminated => Step::Wait,
        PodState::Released => match &record.desired {
            Some(desired) if desired.deletion.is_some() && !record.removed => {
                backed_off(record, now, Step::Remove)
            }
            Some(_) => Step::Wait,
            None if record.presence == Presence::Unknown => Step::Wait,
            // Free what the backend keeps of it, once.
            None if record.presence == Presence::Present && record.delete.is_none() => {
                backed_off(record, now, Step::Delete { grace: Duration::ZERO })
            }
            None => Step::Forget,
        },
    }
}

/// Whether addresses of a pod that is over may still be reserved. A pod that another process met may have run, which does
/// no harm: its addresses are freed twice.
fn is_to_release(record: &Record) -> bool {
    let is_leaving = record.desired.as_ref().is_some_and(|desired| desired.deletion.is_some());
    record.holds_addresses() && (record.promised == Some(true) || is_leaving)
}

fn terminate(record: &Record, now: Instant, wall: Timestamp, patience: &Patience) -> Step {
    if record.presence == Presence::Absent && !record.was_created() {
        let holds = record.holds_addresses();
        return if holds { backed_off(record, now, Step::Release) } else { Step::Settle };
    }
    let grace = match record.desired.as_ref().and_then(|desired| desired.deletion) {
        Some(deletion) => {
            if let Some(seen) = record.deletion_seen {
                deletion.grace.saturating_sub(now.saturating_duration_since(seen))
            } else {
                let left = deletion.deadline.duration_since(wall);
                Duration::try_from(left).unwrap_or(Duration::ZERO).min(deletion.grace)
            }
        }
        None => record.last_grace,
    };
    match record.delete {
        None => backed_off(record, now, Step::Delete { grace }),
        Some(DeleteCall { at, grace: sent }) => {
            let shortened = record.desired.as_ref().and_then(|d| d.deletion).is_some_and(|d| d.grace < sent);
            if shortened && record.backend_view() == BackendView::Live {
                return backed_off(record, now, Step::Delete { grace });
            }
            // What was never seen announces no end: a complete listing after the deletion is the proof.
            let unseen = record.presence == Presence::Absent || record.missing;
            let due = at + if unseen { LOOK_DELAY } else { sent + patience.deletion_slack };
            if now < due {
                Step::WaitFor(due - now)
            } else if unseen {
                backed_off(record, now, Step::Look)
            } else {
                backed_off(record, now, Step::Delete { grace })
            }
        }
    }
}

fn backed_off(record: &Record, now: Instant, step: Step) -> Step {
    match record.not_before {
        Some(until) if until > now => Step::WaitFor(until - now),
        _ => step,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::pods::record::Desired;
    use crate::provider::{PodRuntime, Sandbox};

    const SECOND: Duration = Duration::from_secs(1);

    fn patience() -> Patience {
        Patience { creation_grace: 60 * SECOND, deletion_slack: 30 * SECOND }
    }

    /// A record of a pod; `deleting` marks its object for deletion in 30 s with that grace.
    fn record(state: Option<PodState>, presence: Presence, deleting: bool) -> Record {
        let mut object: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u", "resourceVersion": "7"},
            "spec": {"containers": [{"name": "a"}]},
        }))
        .expect("a pod");
        if deleting {
            let deadline = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(30);
            object.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(deadline));
            object.metadata.deletion_grace_period_seconds = Some(30);
        }
        let (pod, desired) = Desired::of(object).expect("a complete pod");
        let mut record = Record::new(pod, Instant::now(), SECOND);
        record.desired = Some(desired);
        record.presence = presence;
        record.state = state;
        record
    }

    fn step(record: &Record) -> Step {
        decide(record, Instant::now(), Timestamp::UNIX_EPOCH, &patience())
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_done_about_a_pod_before_both_sides_have_been_listed() {
        assert_eq!(step(&record(None, Presence::Unknown, true)), Step::Wait);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_missing_from_an_api_listing_is_read_before_anything_is_done_about_it() {
        for state in PodState::ALL {
            let mut record = record(Some(state), Presence::Present, false);
            record.suspect = true;
            assert_eq!(step(&record), Step::Confirm, "{state:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_are_reserved_are_freed_before_a_pod_that_was_never_created_goes() {
        let mut record = record(Some(PodState::Terminating), Presence::Absent, true);
        record.promised = Some(true);
        assert_eq!(step(&record), Step::Release);
        record.promised = Some(false);
        assert_eq!(step(&record), Step::Settle);
        // An earlier process may have reserved them, if the pod wants to know them.
        record.promised = None;
        record.desired.as_mut().expect("it has an object").wants_address = true;
        assert_eq!(step(&record), Step::Release);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_pod_has_its_addresses_freed_and_one_that_ended_keeps_its_logs() {
        let mut record = record(Some(PodState::Terminated), Presence::Absent, false);
        record.promised = Some(true);
        assert_eq!(step(&record), Step::Release);
        record.create = CreateCall::Accepted { at: Instant::now() };
        assert_eq!(step(&record), Step::Wait);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_create_is_repeated_only_after_its_pause() {
        let mut record = record(Some(PodState::Creating), Presence::Absent, false);
        record.create = CreateCall::Sent { at: Instant::now() };
        record.not_before = Some(Instant::now() + 5 * SECOND);
        assert_eq!(step(&record), Step::WaitFor(5 * SECOND));
        tokio::time::advance(5 * SECOND).await;
        assert_eq!(step(&record), Step::Create);
    }

    #[tokio::test(start_paused = true)]
    async fn an_accepted_create_that_is_not_seen_is_looked_for_after_its_grace_and_never_repeated() {
        let mut record = record(Some(PodState::Creating), Presence::Absent, false);
        record.create = CreateCall::Accepted { at: Instant::now() };
        assert_eq!(step(&record), Step::WaitFor(60 * SECOND));
        tokio::time::advance(60 * SECOND).await;
        assert_eq!(step(&record), Step::Look);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_was_never_sent_to_the_backend_is_settled_without_a_call() {
        assert_eq!(step(&record(Some(PodState::Terminating), Presence::Absent, true)), Step::Settle);
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_sent_is_what_is_left_of_it() {
        let record = record(Some(PodState::Terminating), Presence::Present, true);
        assert_eq!(step(&record), Step::Delete { grace: 30 * SECOND });
        let late = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(22);
        let step = decide(&record, Instant::now(), late, &patience());
        assert_eq!(step, Step::Delete { grace: 8 * SECOND });
        let overdue = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(99);
        let step = decide(&record, Instant::now(), overdue, &patience());
        assert_eq!(step, Step::Delete { grace: Duration::ZERO });
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_that_we_saw_is_timed_by_our_own_timers() {
        let mut record = record(Some(PodState::Terminating), Presence::Present, true);
        record.deletion_seen = Some(Instant::now());
        tokio::time::advance(4 * SECOND).await;
        let tomorrow = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(24);
        let step = decide(&record, Instant::now(), tomorrow, &patience());
        assert_eq!(step, Step::Delete { grace: 26 * SECOND });
    }

    #[tokio::test(start_paused = true)]
    async fn an_accepted_deletion_is_repeated_past_grace_and_slack_but_the_object_stays() {
        let mut record = record(Some(PodState::Terminating), Presence::Present, true);
        record.delete = Some(DeleteCall { at: Instant::now(), grace: 30 * SECOND });
        assert_eq!(step(&record), Step::WaitFor(60 * SECOND));
        tokio::time::advance(60 * SECOND).await;
        assert!(matches!(step(&record), Step::Delete { .. }), "never Remove while it may run");
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_without_an_answer_is_deleted_and_then_looked_for() {
        let mut record = record(Some(PodState::Terminating), Presence::Absent, true);
        record.create = CreateCall::Sent { at: Instant::now() };
        assert!(matches!(step(&record), Step::Delete { .. }));
        record.delete = Some(DeleteCall { at: Instant::now(), grace: 30 * SECOND });
        assert_eq!(step(&record), Step::WaitFor(LOOK_DELAY));
        tokio::time::advance(LOOK_DELAY).await;
        assert_eq!(step(&record), Step::Look);
    }

    #[tokio::test(start_paused = true)]
    async fn the_object_is_removed_once_and_the_record_is_forgotten_when_it_is_gone() {
        let mut record = record(Some(PodState::Released), Presence::Absent, true);
        assert_eq!(step(&record), Step::Remove);
        record.removed = true;
        assert_eq!(step(&record), Step::Wait);
        record.desired = None;
        assert_eq!(step(&record), Step::Forget);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_backend_keeps_of_an_ended_pod_is_freed_once_when_its_object_is_gone() {
        let mut record = record(Some(PodState::Released), Presence::Present, false);
        let runtime = PodRuntime { sandbox: Sandbox::Gone, ..PodRuntime::default() };
        record.runtime = Some(Box::new(runtime));
        assert_eq!(step(&record), Step::Wait, "its logs are kept while the object is there");
        record.desired = None;
        assert_eq!(step(&record), Step::Delete { grace: Duration::ZERO });
        record.delete = Some(DeleteCall { at: Instant::now(), grace: Duration::ZERO });
        assert_eq!(step(&record), Step::Forget);
    }
}
