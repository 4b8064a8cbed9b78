//! The verdict on a run: is it what was recorded?

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::align::align;
use crate::case::{Case, Event, Transition};
use crate::explained::{EXPLANATIONS, Explanation, REORDERED, WITHOUT_OWN_ANNOTATIONS};
use crate::snapshot::Snapshot;
use crate::{events, text};

/// What came of running a case, as the recorder would have written it: made by [`Names`](crate::Names).
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Every version of the pod that a watch delivered.
    pub transitions: Vec<Transition>,
    /// The events.
    pub events: Vec<Event>,
    /// Logs by container: those that the recording has.
    pub logs: BTreeMap<String, String>,
    /// Answers to actions that were not the recorded ones.
    pub answers: Vec<Difference>,
}

/// One point in which a run is not what was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where: `last state: phase`, `event Warning BackOff of Pod`, `log a`.
    pub place: String,
    /// What was recorded there.
    pub recorded: String,
    /// What came.
    pub ours: String,
}

/// What a run comes to.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is what was recorded.
    Equal,
    /// It is not, for good reasons.
    Explained(Vec<&'static Explanation>),
    /// It is not. What is explained of it is left out.
    Differs(Vec<Difference>),
}

impl Difference {
    /// A difference at a place.
    #[must_use]
    pub fn new(place: impl Into<String>, recorded: impl Into<String>, ours: impl Into<String>) -> Self {
        Self { place: place.into(), recorded: recorded.into(), ours: ours.into() }
    }

    /// Of two objects only what differs is shown.
    fn of_values(place: String, recorded: &Value, ours: &Value) -> Self {
        if let (Value::Object(theirs), Value::Object(own)) = (recorded, ours) {
            let only = |of: &Map<String, Value>, other: &Map<String, Value>| {
                let differs = |key: &&String| of.get(*key) != other.get(*key);
                let fields = of.keys().filter(differs).map(|key| format!("{key} {}", of[key.as_str()]));
                let fields: Vec<String> = fields.collect();
                if fields.is_empty() { "nothing".to_owned() } else { fields.join(", ") }
            };
            return Self::new(place, only(theirs, own), only(own, theirs));
        }
        let shown = |value: &Value| if value.is_null() { "nothing".to_owned() } else { value.to_string() };
        Self::new(place, shown(recorded), shown(ours))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: recorded {}, ours {}", self.place, self.recorded, self.ours)
    }
}

impl Verdict {
    /// Whether nothing is left to be explained.
    #[must_use]
    pub const fn is_well(&self) -> bool {
        !matches!(self, Self::Differs(_))
    }
}

/// Compares a run with its case's recording.
#[must_use]
pub fn judge(case: &Case, run: &Run) -> Verdict {
    let differences = differences(case, run);
    if differences.is_empty() {
        return Verdict::Equal;
    }
    let mut used: Vec<&'static Explanation> = Vec::new();
    let mut left = Vec::new();
    for difference in differences {
        match EXPLANATIONS.iter().find(|explanation| explanation.covers(case, &difference)) {
            Some(explanation) => used.push(explanation),
            None => left.push(difference),
        }
    }
    used.sort_by_key(|explanation| explanation.name);
    used.dedup_by_key(|explanation| explanation.name);
    if left.is_empty() { Verdict::Explained(used) } else { Verdict::Differs(left) }
}

/// Whether a run's versions came to the end of the recording, by a way that may be.
#[must_use]
pub fn has_come_to_the_end(case: &Case, transitions: &[Transition]) -> bool {
    let (recorded, ours) = (Snapshot::series(&case.recording.transitions), Snapshot::series(transitions));
    of_versions(&recorded, &ours).iter().all(|difference| difference.place.starts_with("details: "))
}

/// Every point in which a run is not what was recorded.
fn differences(case: &Case, run: &Run) -> Vec<Difference> {
    let recorded = Snapshot::series(&case.recording.transitions);
    let ours = Snapshot::series(&run.transitions);
    let mut found = run.answers.clone();
    found.extend(of_versions(&recorded, &ours));
    let ended = recorded.last().is_some_and(Snapshot::is_final);
    let end = recorded.last().and_then(|end| ours.iter().position(|own| own.is(end)));
    let until = end.filter(|_| !ended).and_then(|end| ours.get(end + 1)).map(|next| next.at);
    found.extend(events::compare(&case.recording.events, &run.events, ended, until));
    for (container, log) in &case.recording.logs {
        let log = text::log(log);
        match run.logs.get(container).map(|own| text::log(own)) {
            Some(own) if own == log => {}
            own => found.extend(of_logs(container, &log, &own.unwrap_or_default())),
        }
    }
    found
}

fn of_versions(recorded: &[Snapshot], ours: &[Snapshot]) -> Vec<Difference> {
    let Some(end) = recorded.last() else { return Vec::new() };
    let ends = ours.iter().enumerate().filter(|(_, own)| own.is(end)).map(|(index, _)| index);
    // A pod that was left running goes on after the recorder has stopped looking, and may come to the same state again.
    let mut ends: Vec<usize> = ends.collect();
    if end.is_final() {
        ends = ends.pop().into_iter().collect();
    }
    let mut found = Vec::new();
    for last in ends {
        found = of_versions_until(recorded, end, ours, last);
        if found.is_empty() {
            return found;
        }
    }
    if !found.is_empty() {
        return found;
    }
    let Some(own) = ours.last() else {
        return vec![Difference::new("pod", "versions of a pod", "none")];
    };
    end.differences(own)
        .into_iter()
        .map(|(place, recorded, ours)| Difference::of_values(format!("last state: {place}"), recorded, ours))
        .collect()
}

/// Compares with our versions up to the one that is the recorded end.
fn of_versions_until(
    recorded: &[Snapshot],
    end: &Snapshot,
    ours: &[Snapshot],
    last: usize,
) -> Vec<Difference> {
    let mut found = Vec::new();
    if end.is_final()
        && let Some(after) = ours.get(last + 1)
    {
        for (place, recorded, ours) in end.differences(after) {
            found.push(Difference::of_values(format!("after the last state: {place}"), recorded, ours));
        }
    }
    let ours = &ours[..=last];
    let alignment = align(recorded, ours);
    for index in &alignment.missing {
        let unpaired = (0..ours.len()).filter(|index| alignment.pairs.iter().all(|pair| pair.1 != *index));
        let nearest = nearest(&recorded[*index], unpaired.map(|index| &ours[index]));
        let before = index.checked_sub(1).map(|before| &recorded[before]);
        let other = nearest.or(before);
        let what = if nearest.is_some() { "in its place" } else { "missing; it differs from the one before" };
        for (place, theirs, own) in other.map(|other| recorded[*index].differences(other)).unwrap_or_default()
        {
            let place = format!("version at {:.1} s ({what}): {place}", recorded[*index].at);
            found.push(Difference::of_values(place, theirs, own));
        }
    }
    // Extra ones that no missing one was laid beside.
    if alignment.missing.is_empty() {
        for index in &alignment.extra {
            let before = index.checked_sub(1).map(|before| &ours[before]);
            for (place, own, theirs) in
                before.map(|before| ours[*index].differences(before)).unwrap_or_default()
            {
                let place = format!("version of ours at {:.1} s (never recorded): {place}", ours[*index].at);
                found.push(Difference::of_values(place, theirs, own));
            }
        }
    }
    for (place, theirs) in &end.details {
        let own = ours[last].details.get(place).unwrap_or(&Value::Null);
        if own != theirs {
            found.push(Difference::of_values(format!("details: {place}"), theirs, own));
        }
    }
    for (place, own) in ours[last].details.iter().filter(|(place, _)| !end.details.contains_key(*place)) {
        found.push(Difference::of_values(format!("details: {place}"), &Value::Null, own));
    }
    found
}

/// The version with the fewest differences.
fn nearest<'a>(version: &Snapshot, among: impl Iterator<Item = &'a Snapshot>) -> Option<&'a Snapshot> {
    among.min_by_key(|other| version.differences(other).len())
}

/// The first line in which two logs differ.
fn of_logs(container: &str, recorded: &str, ours: &str) -> Option<Difference> {
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    if sorted(recorded) == sorted(ours) {
        return Some(Difference::new(format!("log {container}"), "lines in an order", REORDERED));
    }
    let without: Vec<&str> =
        recorded.split('\n').filter(|line| !line.starts_with("kubernetes.io/config.")).collect();
    if without.join("\n") == ours {
        return Some(Difference::new(format!("log {container}"), "more lines", WITHOUT_OWN_ANNOTATIONS));
    }
    let mut ours = ours.split('\n');
    for (number, line) in recorded.split('\n').enumerate() {
        let own = ours.next();
        if own != Some(line) {
            let own = own.map_or_else(|| "the end".to_owned(), |own| format!("{own:?}"));
            return Some(Difference::new(
                format!("log {container} line {}", number + 1),
                format!("{line:?}"),
                own,
            ));
        }
    }
    let more = ours.next()?;
    Some(Difference::new(format!("log {container}"), "the end", format!("{more:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Recording;

    const CASE: &str = "
name: exit0
what: One container ends.
pod: {metadata: {name: pod}}
transitions:
- {at: 0.1, type: ADDED, generation: 1, status: {phase: Pending}}
- {at: 1.0, type: MODIFIED, generation: 1, status: {phase: Running, startTime: +0s}}
- {at: 9.0, type: MODIFIED, generation: 1, status: {phase: Succeeded, startTime: +0s}}
events:
- {type: Normal, reason: Started, message: Container started, count: 1, object: Pod}
logs: {a: \"hi\\n\"}
";

    fn recorded() -> (Case, Run) {
        let case = Case::parse(CASE).unwrap();
        let run = Run {
            transitions: case.recording.transitions.clone(),
            events: case.recording.events.clone(),
            logs: case.recording.logs.clone(),
            answers: Vec::new(),
        };
        (case, run)
    }

    fn told(case: &Case, run: &Run) -> Vec<String> {
        match judge(case, run) {
            Verdict::Equal => Vec::new(),
            Verdict::Explained(by) => by.iter().map(|each| format!("explained: {}", each.name)).collect(),
            Verdict::Differs(found) => found.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn what_was_recorded_is_equal_to_itself() {
        let (case, run) = recorded();
        assert_eq!(told(&case, &run), [""; 0]);
    }

    #[test]
    fn every_recording_is_equal_to_itself() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cases");
        for case in Case::read_folder(folder.as_ref()).unwrap() {
            let Recording { transitions, events, logs } = case.recording.clone();
            let run = Run { transitions, events, logs, answers: Vec::new() };
            assert_eq!(told(&case, &run), [""; 0], "{}", case.name);
        }
    }

    #[test]
    fn another_end_is_told_with_both_values() {
        let (case, mut run) = recorded();
        run.transitions[2].status["phase"] = "Failed".into();
        assert_eq!(told(&case, &run), ["last state: phase: recorded \"Succeeded\", ours \"Failed\""]);
    }

    #[test]
    fn a_version_that_is_missing_or_comes_after_the_end_is_told() {
        let (case, mut run) = recorded();
        run.transitions.remove(1);
        assert!(told(&case, &run)[0].starts_with("version at 1.0 s (missing"), "{:?}", told(&case, &run));
        let (case, mut run) = recorded();
        let mut after = run.transitions[2].clone();
        after.status["phase"] = "Running".into();
        run.transitions.push(after);
        assert!(told(&case, &run)[0].starts_with("after the last state: phase"));
    }

    #[test]
    fn a_log_is_told_by_its_first_line_that_differs() {
        let (case, mut run) = recorded();
        run.logs.insert("a".to_owned(), "ho\n".to_owned());
        assert_eq!(told(&case, &run), ["log a line 1: recorded \"hi\", ours \"ho\""]);
        run.logs.clear();
        assert_eq!(told(&case, &run), ["log a line 1: recorded \"hi\", ours \"\""]);
    }

    #[test]
    fn an_unforeseen_answer_is_told() {
        let (case, mut run) = recorded();
        run.answers.push(Difference::new("answer to delete", "200", "404"));
        assert_eq!(told(&case, &run).len(), 1);
    }
}
