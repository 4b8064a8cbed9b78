//! A pod's events, compared as what they say and how often.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::case::Event;
use crate::compare::Difference;
use crate::names::Names;
use crate::text;

/// Told again and again while something lasts: how often hangs on time alone.
const REPEATED: [&str; 8] = [
    "BackOff",
    "Unhealthy",
    "ProbeWarning",
    "FailedMount",
    "FailedCreatePodSandBox",
    "Failed",
    "Pulling",
    "ErrImageNeverPull",
];

/// What makes two events the same.
type Key = (String, String, String);

impl Names {
    /// An event of the API server's, as the recorder would have written it. `pod` is the pod's name.
    #[must_use]
    pub fn event(&self, event: &Value, pod: &str) -> Event {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (kind, name) = (text("/involvedObject/kind"), text("/involvedObject/name"));
        let object = if name == pod { kind.to_owned() } else { format!("{kind}/{}", self.text(name)) };
        Event {
            kind: text("/type").to_owned(),
            reason: text("/reason").to_owned(),
            message: self.text(text("/message")),
            count: event["count"].as_i64(),
            reporting_component: text("/reportingComponent").to_owned(),
            object,
            at: self.seconds(text("/firstTimestamp")).or_else(|| self.seconds(text("/eventTime"))),
            field_path: Some(text("/involvedObject/fieldPath").to_owned()).filter(|path| !path.is_empty()),
        }
    }
}

/// How the events differ. `ended`: nothing more happened to the pod, so that numbers are final too. `until`: when ours went
/// on to what was not recorded any more.
pub(crate) fn compare(
    recorded: &[Event],
    ours: &[Event],
    ended: bool,
    until: Option<f64>,
) -> Vec<Difference> {
    let (recorded, ours) = (count(recorded), count(ours));
    let mut differences = Vec::new();
    for (key, (times, about)) in &recorded {
        let place = format!("event {} of {}", key.0, key.1);
        match ours.get(key) {
            None => differences.push(Difference::new(place, &key.2, "never told")),
            Some((own, _)) => {
                let differs = if ended { own != times } else { own < times };
                // Of what others tell, controllers for one, only that they did.
                let is_ours = about.reporting_component == "kubelet";
                if differs && is_ours && !REPEATED.contains(&about.reason.as_str()) {
                    differences.push(Difference::new(
                        place,
                        format!("{times} times"),
                        format!("{own} times"),
                    ));
                }
            }
        }
    }
    for (key, _) in ours.iter().filter(|(key, (_, event))| {
        // What was told after the recorder had stopped looking is no part of the case.
        let later = until.zip(event.at).is_some_and(|(until, at)| at >= until.floor());
        // Controllers tell of their own affairs, a new node's taints for one, when they like.
        let is_theirs = event.reporting_component.ends_with("-controller");
        !recorded.contains_key(*key) && !later && !is_theirs
    }) {
        differences.push(Difference::new(format!("event {} of {}", key.0, key.1), "never told", &key.2));
    }
    differences
}

fn count(events: &[Event]) -> BTreeMap<Key, (i64, &Event)> {
    let mut counts: BTreeMap<Key, (i64, &Event)> = BTreeMap::new();
    for event in events {
        let about = match &event.field_path {
            Some(path) => format!("{} {path}", event.object),
            None => event.object.clone(),
        };
        let key = (format!("{} {}", event.kind, event.reason), about, text::normal(&event.message));
        counts.entry(key).or_insert((0, event)).0 += event.count.unwrap_or(1).max(1);
    }
    counts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(reason: &str, message: &str, count: i64) -> Event {
        Event {
            kind: "Normal".to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            count: Some(count),
            object: "Pod".to_owned(),
            reporting_component: "kubelet".to_owned(),
            field_path: Some("spec.containers{a}".to_owned()),
            ..Event::default()
        }
    }

    fn places(recorded: &[Event], ours: &[Event], ended: bool) -> Vec<String> {
        compare(recorded, ours, ended, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn how_events_were_counted_together_does_not_matter_but_their_sum_does() {
        let recorded = [event("Started", "Container started", 2), event("Started", "Container started", 1)];
        assert_eq!(places(&recorded, &[event("Started", "Container started", 3)], true), [""; 0]);
        assert_eq!(
            places(&recorded, &[event("Started", "Container started", 4)], true),
            ["event Normal Started of Pod spec.containers{a}: recorded 3 times, ours 4 times"]
        );
        assert_eq!(places(&recorded, &[event("Started", "Container started", 4)], false), [""; 0]);
    }

    #[test]
    fn an_event_that_is_missing_or_new_is_told() {
        let told = places(&[event("Killing", "Stopping container a", 1)], &[event("Started", "x", 1)], true);
        assert_eq!(told.len(), 2, "{told:?}");
    }

    #[test]
    fn how_often_a_probe_failed_is_not_compared() {
        let (few, many) = (
            event("Unhealthy", "Readiness probe failed: ", 1),
            event("Unhealthy", "Readiness probe failed: ", 9),
        );
        assert_eq!(places(&[few], &[many], true), [""; 0]);
    }

    #[test]
    fn a_live_event_is_read() {
        let names = Names { namespace: "c-x".to_owned(), ..Names::default() };
        let live = json!({"type": "Warning", "reason": "BackOff", "message": "in pod pod_c-x", "count": 3,
            "involvedObject": {"kind": "Pod", "name": "other", "fieldPath": "spec.containers{a}"}});
        let event = names.event(&live, "pod");
        assert_eq!(event.object, "Pod/other");
        assert_eq!(event.message, "in pod pod_<namespace>");
        assert_eq!(event.field_path.as_deref(), Some("spec.containers{a}"));
    }
}
