//! Graceful deletion: what a DELETE does to a pod before it goes.
//!
//! Source: apiserver `pkg/registry/rest/delete.go` `BeforeDelete`; pkg/registry/core/pod/strategy.go
//! `CheckGracefulDelete`; recordings of 1.37 for a shortened grace whose moment has passed.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::is_terminal;
use crate::clock::{format_time, parse_time};

/// What a DELETE comes to.
#[derive(Debug, PartialEq)]
pub(crate) enum Deletion {
    /// The pod stays, marked (again), until its kubelet deletes it with grace 0.
    Marked(Value),
    /// The pod is marked with grace 0 and goes at once.
    Immediate(Value),
    /// It was marked with grace 0 before; only the removal is left.
    Finish,
    /// A deletion with at most this grace is under way.
    Pending,
}

/// Begins, shortens or finishes the deletion of a pod with the grace the client asked for.
pub(crate) fn begin(pod: &Value, asked: Option<i64>, now: Timestamp) -> Deletion {
    let asked = asked.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let metadata = &pod["metadata"];
    if let Some(at) = metadata["deletionTimestamp"].as_str() {
        let Some(grace) = metadata["deletionGracePeriodSeconds"].as_i64().filter(|g| *g != 0) else {
            return Deletion::Finish;
        };
        return shorten(pod, asked, grace, parse_time(at).unwrap_or(now), now);
    }
    let mut grace = asked.or(pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(0);
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty();
    if unscheduled || is_terminal(pod) {
        grace = 0;
    }
    let grace = if grace < 0 { 1 } else { grace };
    let mut marked = pod.clone();
    mark(&mut marked, now + SignedDuration::from_secs(grace), grace);
    if let Some(generation) = metadata["generation"].as_i64() {
        marked["metadata"]["generation"] = (generation + 1).into();
    }
    if grace == 0 { Deletion::Immediate(marked) } else { Deletion::Marked(marked) }
}

fn shorten(pod: &Value, asked: Option<i64>, grace: i64, at: Timestamp, now: Timestamp) -> Deletion {
    let Some(mut period) = asked.filter(|period| *period < grace) else { return Deletion::Pending };
    let mut moment = at + SignedDuration::from_secs(period - grace);
    if moment < now {
        moment = now;
        period = period.min(1);
    }
    let mut marked = pod.clone();
    mark(&mut marked, moment, period);
    if period == 0 { Deletion::Immediate(marked) } else { Deletion::Marked(marked) }
}

fn mark(pod: &mut Value, at: Timestamp, grace: i64) {
    pod["metadata"]["deletionTimestamp"] = format_time(at).into();
    pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
               "status": {"phase": "Running"}})
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000_000 + second).unwrap()
    }

    fn marked(deletion: Deletion) -> (Value, &'static str) {
        match deletion {
            Deletion::Marked(pod) => (pod["metadata"].clone(), "marked"),
            Deletion::Immediate(pod) => (pod["metadata"].clone(), "immediate"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_running_pod_is_marked_and_its_generation_counts_up() {
        let (metadata, how) = marked(begin(&pod(), None, at(0)));
        assert_eq!(how, "marked");
        assert_eq!(metadata["deletionGracePeriodSeconds"], 30);
        assert_eq!(metadata["deletionTimestamp"], format_time(at(30)));
        assert_eq!(metadata["generation"], 2);
    }

    #[test]
    fn pods_nobody_runs_go_at_once() {
        let mut unscheduled = pod();
        unscheduled["spec"]["nodeName"] = "".into();
        let mut ended = pod();
        ended["status"]["phase"] = "Succeeded".into();
        for pod in [unscheduled, ended] {
            assert_eq!(marked(begin(&pod, Some(10), at(0))).1, "immediate");
        }
        assert_eq!(marked(begin(&pod(), Some(0), at(0))).1, "immediate");
        assert_eq!(marked(begin(&pod(), Some(-5), at(0))).0["deletionGracePeriodSeconds"], 1);
    }

    #[test]
    fn a_second_deletion_may_only_shorten() {
        let Deletion::Marked(first) = begin(&pod(), None, at(0)) else { panic!() };
        assert_eq!(begin(&first, None, at(1)), Deletion::Pending);
        assert_eq!(begin(&first, Some(60), at(1)), Deletion::Pending);
        let (metadata, _) = marked(begin(&first, Some(10), at(1)));
        assert_eq!(metadata["deletionTimestamp"], format_time(at(10)));
        assert_eq!(metadata["generation"], 2, "only the first deletion counts");
        // The moment has passed already: recorded as a grace of one second from now.
        let (metadata, _) = marked(begin(&first, Some(2), at(3)));
        assert_eq!(metadata["deletionGracePeriodSeconds"], 1);
        assert_eq!(metadata["deletionTimestamp"], format_time(at(3)));
        assert_eq!(marked(begin(&first, Some(0), at(3))).1, "immediate");
    }
}
