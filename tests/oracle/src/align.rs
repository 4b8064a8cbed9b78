//! Two sequences of a pod's versions, laid side by side.
//!
//! A kubelet does not write the same sequence twice: it writes what it finds when it looks, and changes that fall into
//! one look are one write. So a recorded version need not occur, and another may, where one of these says so, and
//! nowhere else (the recordings' README, "Do not compare literally"):
//!
//! * **creating**: it differs from the version beside it, or from one of the other sequence, only in `PodReadyToStartContainers` and the addresses that
//!   come with the sandbox, and no container has run, or the phase is terminal;
//! * **short run**: it lasts less than [`SHORT`], and shows a container running that has ended in the next version, or
//!   the end of a run that the next version has as its last state;
//! * **blend**: each container in it, the phase, and each condition's status is as in the version before or in the one
//!   after: two changes that one write took together and the other did not. Ours may last less than [`SHORT`];
//! * **readying**: it lasts less than [`SHORT`], and the next differs from it only in what has become ready. Whether a
//!   container's first probe finds it listening already is a race.
//!
//! The write before a terminal phase is none of these: that the phase lags behind is the kubelet's way.

use serde_json::Value;

use crate::snapshot::Snapshot;

/// How long, in seconds, a version may have lasted that need not be seen.
pub const SHORT: f64 = 2.0;

/// Two sequences, laid side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alignment {
    /// Indices of versions that are the same, rising in both.
    pub pairs: Vec<(usize, usize)>,
    /// Indices of recorded versions that did not occur and should have.
    pub missing: Vec<usize>,
    /// Indices of versions that occurred and should not have.
    pub extra: Vec<usize>,
}

/// Lays `ours` beside the recorded sequence, whose last version has to be `ours`' last.
#[must_use]
pub fn align(recorded: &[Snapshot], ours: &[Snapshot]) -> Alignment {
    let pairs = longest_common(recorded, ours);
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    for index in 0..recorded.len() {
        if !pairs.iter().any(|pair| pair.0 == index) {
            let bounds = neighbours(&pairs, recorded, |pair| pair.0, index);
            let shown_otherwise = is_creating_elsewhere(&recorded[index], ours);
            if !shown_otherwise && !may_be_left_out(recorded, index, bounds, true) {
                missing.push(index);
            }
        }
    }
    for index in 0..ours.len() {
        if !pairs.iter().any(|pair| pair.1 == index) {
            let bounds = neighbours(&pairs, ours, |pair| pair.1, index);
            let shown_otherwise = is_creating_elsewhere(&ours[index], recorded);
            if !shown_otherwise && !may_be_left_out(ours, index, bounds, false) {
                extra.push(index);
            }
        }
    }
    Alignment { pairs, missing, extra }
}

/// The longest common subsequence.
fn longest_common(recorded: &[Snapshot], ours: &[Snapshot]) -> Vec<(usize, usize)> {
    let mut lengths = vec![vec![0_usize; ours.len() + 1]; recorded.len() + 1];
    for (r, theirs) in recorded.iter().enumerate().rev() {
        for (o, own) in ours.iter().enumerate().rev() {
            lengths[r][o] = if theirs.is(own) {
                lengths[r + 1][o + 1] + 1
            } else {
                lengths[r + 1][o].max(lengths[r][o + 1])
            };
        }
    }
    let (mut r, mut o, mut pairs) = (0, 0, Vec::new());
    while r < recorded.len() && o < ours.len() {
        if recorded[r].is(&ours[o]) {
            pairs.push((r, o));
            (r, o) = (r + 1, o + 1);
        } else if lengths[r + 1][o] >= lengths[r][o + 1] {
            r += 1;
        } else {
            o += 1;
        }
    }
    pairs
}

/// The versions on both sides of an unpaired one that are paired.
fn neighbours<'a>(
    pairs: &[(usize, usize)],
    sequence: &'a [Snapshot],
    side: impl Fn(&(usize, usize)) -> usize,
    index: usize,
) -> (Option<&'a Snapshot>, Option<&'a Snapshot>) {
    let before = pairs.iter().map(&side).rfind(|paired| *paired < index);
    let after = pairs.iter().map(&side).find(|paired| *paired > index);
    (before.map(|index| &sequence[index]), after.map(|index| &sequence[index]))
}

fn may_be_left_out(
    sequence: &[Snapshot],
    index: usize,
    (before, after): (Option<&Snapshot>, Option<&Snapshot>),
    is_recorded: bool,
) -> bool {
    let version = &sequence[index];
    let beside = [index.checked_sub(1), Some(index + 1)];
    let beside = beside.into_iter().flatten().filter_map(|index| sequence.get(index));
    if beside.clone().any(|other| is_creating(version, other)) {
        return true;
    }
    let Some(next) = sequence.get(index + 1) else { return false };
    // The terminal phase comes with a write of its own, after the write of the last container's end. Nobody has to
    // show it apart where a deletion hurries; nobody may leave it out where it was recorded.
    let is_deleted = !version.get("grace").is_null();
    if is_recorded && next.has_ended() && !version.has_ended() && !is_deleted {
        return false;
    }
    // How long a recorded version lasted that says nothing of its own is the kubelet's affair: it retries in its time.
    let is_short = next.at - version.at < SHORT;
    if (is_recorded || is_short) && is_blend(version, before, after, is_short) {
        return true;
    }
    is_short && (is_short_run(version, next) || is_readying(version, next))
}

/// Where it shows how far the sandbox is.
const SANDBOX: [&str; 3] = ["condition PodReadyToStartContainers", "podIP", "podIPs"];

/// Whether the two differ only in how far the sandbox is, and nothing has run in it yet or will again.
fn is_creating(version: &Snapshot, other: &Snapshot) -> bool {
    let waits = |(_, container): (&str, &Value)| container["state"]["waiting"].is_object();
    version.containers().next().is_some()
        && (version.has_ended() || version.containers().all(waits))
        && version.differences(other).iter().all(|(place, ..)| SANDBOX.contains(place))
}

/// Whether nothing has run in it yet, and the other sequence shows the same with its sandbox further or less far.
fn is_creating_elsewhere(version: &Snapshot, others: &[Snapshot]) -> bool {
    !version.has_ended() && others.iter().any(|other| is_creating(version, other))
}

/// Whether a container runs in it that has ended in the next.
fn is_short_run(version: &Snapshot, next: &Snapshot) -> bool {
    version.containers().any(|(place, container)| {
        let after = next.get(place);
        container != after && runs_into(container, after)
    })
}

/// Whether the next differs only in that something has become ready.
fn is_readying(version: &Snapshot, next: &Snapshot) -> bool {
    version.differences(next).iter().all(|(place, earlier, later)| {
        if let Some(kind) = place.strip_prefix("condition ") {
            matches!(kind, "Ready" | "ContainersReady") && earlier["status"] == "False"
        } else if place.starts_with("container ") {
            earlier["ready"] == false && unready(earlier) == unready(later)
        } else {
            false
        }
    })
}

/// Whether all of it is as before or as after; of a short one, also what has run into what is after.
fn is_blend(version: &Snapshot, before: Option<&Snapshot>, after: Option<&Snapshot>, is_short: bool) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return false };
    // How far the sandbox is goes one way, and what is mixed here is from after it was made.
    version.core.keys().filter(|place| !SANDBOX.contains(&place.as_str())).all(|place| {
        let [version, before, after] = [version, before, after].map(|snapshot| snapshot.get(place));
        if place.starts_with("condition ") {
            let status = &version["status"];
            status == &before["status"] || status == &after["status"]
        } else {
            alike(version, before) || alike(version, after) || (is_short && runs_into(version, after))
        }
    })
}

/// Whether a container's value is a run, or its end, that the other has behind it.
fn runs_into(version: &Value, after: &Value) -> bool {
    let ids = |container: &Value| {
        ["/state/terminated/containerID", "/lastState/terminated/containerID"]
            .map(|place| container.pointer(place).cloned().unwrap_or_default())
    };
    let run = &version["containerID"];
    run.is_string() && ids(after).contains(run)
}

/// Whether two values are the same, or those of a container that has yet to become ready in the first.
fn alike(version: &Value, other: &Value) -> bool {
    version == other
        || (version["ready"] == false
            && version["state"]["running"].is_object()
            && unready(version) == unready(other))
}

/// A container's value without its readiness.
fn unready(container: &Value) -> Value {
    let mut container = container.clone();
    if let Some(fields) = container.as_object_mut() {
        fields.remove("ready");
        fields.remove("started");
    }
    container
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::case::Transition;

    fn container(name: &str, state: &Value, id: &str) -> Value {
        json!({"name": name, "state": state, "containerID": id})
    }

    fn waiting(name: &str) -> Value {
        container(name, &json!({"waiting": {"reason": "ContainerCreating"}}), "")
    }

    fn running(name: &str) -> Value {
        container(name, &json!({"running": {"startedAt": "+1s"}}), "1")
    }

    fn ended(name: &str) -> Value {
        container(name, &json!({"terminated": {"exitCode": 0, "containerID": "1"}}), "1")
    }

    /// A sequence of versions, each with when it came, its phase and its containers.
    fn sequence(versions: &[(f64, &str, Vec<Value>)]) -> Vec<Snapshot> {
        let transitions = versions.iter().map(|(at, phase, containers)| Transition {
            at: *at,
            status: json!({"phase": phase, "containerStatuses": containers}),
            ..Transition::default()
        });
        Snapshot::series(&transitions.collect::<Vec<_>>())
    }

    #[test]
    fn equal_sequences_align_whole() {
        let one = sequence(&[(0., "Pending", vec![waiting("a")]), (1., "Running", vec![running("a")])]);
        assert_eq!(align(&one, &one), Alignment { pairs: vec![(0, 0), (1, 1)], ..Alignment::default() });
    }

    #[test]
    fn two_starts_may_be_one_write_if_they_were_close() {
        let apart = |second: f64| {
            sequence(&[
                (0., "Pending", vec![waiting("a"), waiting("b")]),
                (1., "Pending", vec![running("a"), waiting("b")]),
                (second, "Running", vec![running("a"), running("b")]),
            ])
        };
        let at_once = sequence(&[
            (0., "Pending", vec![waiting("a"), waiting("b")]),
            (1., "Running", vec![running("a"), running("b")]),
        ]);
        assert_eq!(align(&apart(1.5), &at_once).missing, [0_usize; 0]);
        assert_eq!(align(&at_once, &apart(1.5)).extra, [0_usize; 0]);
        assert_eq!(align(&apart(5.), &at_once).missing, [0_usize; 0]);
        assert_eq!(align(&at_once, &apart(5.)).extra, [1]);
    }

    #[test]
    fn a_short_run_may_be_skipped_and_a_long_one_may_not() {
        let with = |end: f64| {
            sequence(&[
                (0., "Pending", vec![waiting("a")]),
                (1., "Running", vec![running("a")]),
                (end, "Running", vec![ended("a")]),
            ])
        };
        let without = sequence(&[(0., "Pending", vec![waiting("a")]), (1., "Running", vec![ended("a")])]);
        assert_eq!(align(&with(1.4), &without).missing, [0_usize; 0]);
        assert_eq!(align(&with(9.), &without).missing, [1]);
    }

    #[test]
    fn a_lagging_phase_has_to_be_shown_where_it_was_recorded() {
        let lags = sequence(&[
            (0., "Running", vec![running("a")]),
            (1., "Running", vec![ended("a")]),
            (2., "Succeeded", vec![ended("a")]),
        ]);
        let hurries = sequence(&[(0., "Running", vec![running("a")]), (1., "Succeeded", vec![ended("a")])]);
        assert_eq!(align(&lags, &hurries).missing, [1]);
        assert_eq!(align(&hurries, &lags).extra, [0_usize; 0]);
    }

    #[test]
    fn a_state_that_never_was_is_extra_however_short() {
        let recorded = sequence(&[(0., "Pending", vec![waiting("a")]), (1., "Running", vec![running("a")])]);
        let ours = sequence(&[
            (0., "Pending", vec![waiting("a")]),
            (0.5, "Failed", vec![waiting("a")]),
            (1., "Running", vec![running("a")]),
        ]);
        assert_eq!(align(&recorded, &ours).extra, [1]);
    }

    #[test]
    fn creating_may_show_once_or_twice() {
        let version = |at: f64, ready: &str, containers: Vec<Value>| Transition {
            at,
            status: json!({
                "phase": "Pending",
                "conditions": [{"type": "PodReadyToStartContainers", "status": ready}],
                "containerStatuses": containers,
            }),
            ..Transition::default()
        };
        let twice = Snapshot::series(&[
            version(0., "False", vec![waiting("a")]),
            version(9., "True", vec![waiting("a")]),
            version(10., "True", vec![running("a")]),
        ]);
        let once = Snapshot::series(&[
            version(0., "False", vec![waiting("a")]),
            version(1., "True", vec![running("a")]),
        ]);
        assert_eq!(align(&twice, &once).missing, [0_usize; 0]);
        assert_eq!(align(&once, &twice).extra, [0_usize; 0]);
    }
}
