//! Events under two groups: stored once, as the core event, and translated at the edge.
//!
//! Source: k8s.io/api `events/v1`, pkg/apis/events/v1/conversion.go. The other group's names for the same
//! fields are `regarding`, `note`, `reportingController` and the `deprecated*` ones.

use serde_json::{Map, Value};

use crate::resources::{self, Resource};

/// (core name, events.k8s.io name).
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// The resource under which objects of `resource` are stored.
pub(crate) fn stored_as(resource: &'static Resource) -> &'static Resource {
    if resource.is(resources::events_v1()) { resources::events() } else { resource }
}

/// How an object reads under `resource`, where that differs from how it is stored.
pub(crate) fn view(resource: &Resource, object: &Value) -> Option<Value> {
    resource.is(resources::events_v1()).then(|| {
        let mut view = renamed(object, |core| NAMES.iter().find(|(c, _)| *c == core).map(|(_, v1)| *v1));
        view["apiVersion"] = "events.k8s.io/v1".into();
        if let Some(fields) = view.as_object_mut() {
            // This group leaves them out where they are empty.
            fields.retain(|key, value| {
                !matches!(key.as_str(), "reportingController" | "reportingInstance") || value != ""
            });
        }
        view
    })
}

/// The stored form of an object a client sent to `resource`.
pub(crate) fn stored(resource: &Resource, object: Value) -> Value {
    if !resource.is(resources::events_v1()) {
        return object;
    }
    let mut core = renamed(&object, |v1| NAMES.iter().find(|(_, n)| *n == v1).map(|(core, _)| *core));
    core["apiVersion"] = "v1".into();
    core
}

fn renamed(object: &Value, name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let fields = object.as_object().into_iter().flatten();
    let renamed: Map<String, Value> =
        fields.map(|(key, value)| (name(key).unwrap_or(key).to_owned(), value.clone())).collect();
    Value::Object(renamed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_reads_under_both_groups() {
        let sent = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "reason": "r",
                          "regarding": {"name": "p"}, "reportingController": "c", "series": {"count": 2}});
        let core = stored(resources::events_v1(), sent.clone());
        assert_eq!(core["message"], "n");
        assert_eq!(core["involvedObject"]["name"], "p");
        assert_eq!(core["apiVersion"], "v1");
        assert_eq!(view(resources::events_v1(), &core).unwrap(), sent);
        assert_eq!(view(resources::events(), &core), None);
    }
}
