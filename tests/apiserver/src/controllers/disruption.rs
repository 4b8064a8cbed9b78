//! Keeps the status of disruption budgets, which evictions are judged by.
//!
//! Source: pkg/controller/disruption. The expected count is that of the pods there are.

use std::collections::BTreeSet;

use futures::StreamExt;
use serde_json::{Value, json};

use super::{change, feed, is_deleting};
use crate::ApiServer;
use crate::pods::{condition, is_terminal, set_condition};
use crate::resources;
use crate::selector::Selector;
use crate::store::{Key, Scope};

pub(super) async fn run(server: ApiServer) {
    let budgets = resources::pod_disruption_budgets();
    let mut changes = feed(&server, &[budgets, resources::pods()]);
    while let Some(batch) = changes.next().await {
        let namespaces: BTreeSet<&str> =
            batch.iter().filter_map(|(_, e)| e.object["metadata"]["namespace"].as_str()).collect();
        for namespace in namespaces {
            for budget in server.store().all(budgets, &Scope::in_namespace(namespace)) {
                count(&server, &budget);
            }
        }
    }
}

fn count(server: &ApiServer, budget: &Value) {
    let key = Key::of(budget);
    let mut pods = server.store().all(resources::pods(), &Scope::in_namespace(&key.namespace));
    let selector = Selector::of_workload(&budget["spec"]["selector"]);
    pods.retain(|p| {
        !is_terminal(p) && selector.as_ref().is_some_and(|s| s.matches_labels(&p["metadata"]["labels"]))
    });
    let expected = pods.len() as i64;
    let healthy = pods.iter().filter(|p| condition(p, "Ready") == "True" && !is_deleting(p)).count() as i64;
    let share = |value: &Value| match value {
        Value::String(text) => {
            let percent = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).unwrap_or(0);
            (percent * expected + 99) / 100
        }
        other => other.as_i64().unwrap_or(0),
    };
    let desired = if budget["spec"]["maxUnavailable"].is_null() {
        share(&budget["spec"]["minAvailable"])
    } else {
        (expected - share(&budget["spec"]["maxUnavailable"])).max(0)
    };
    let now = server.clock().time();
    let written = change(server, resources::pod_disruption_budgets(), &key, "status", |budget| {
        let allowed = (healthy - desired).max(0);
        let generation = budget["metadata"]["generation"].clone();
        let (status, reason) =
            if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        set_condition(budget, "DisruptionAllowed", status, reason, "", &now);
        let mut conditions = budget["status"]["conditions"].take();
        for condition in conditions.as_array_mut().into_iter().flatten() {
            condition["message"] = "".into();
            condition["observedGeneration"] = generation.clone();
        }
        budget["status"] = json!({
            "observedGeneration": generation, "expectedPods": expected, "currentHealthy": healthy,
            "desiredHealthy": desired, "disruptionsAllowed": allowed, "conditions": conditions,
        });
    });
    if let Err(error) = written {
        tracing::debug!(%error, "budget is gone");
    }
}
