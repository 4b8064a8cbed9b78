//! The eviction API.
//!
//! Source: pkg/registry/core/pod/storage/eviction.go.

use serde_json::{Value, json};

use super::{is_terminal, set_condition};
use crate::ApiServer;
use crate::error::ApiError;
use crate::resources;
use crate::rest::{DeleteOptions, delete_object};
use crate::selector::Selector;
use crate::store::{Key, Scope};

/// `pods/NAME/eviction`: deletes the pod unless a disruption budget forbids it.
pub(crate) fn evict(server: &ApiServer, key: &Key, body: &Value) -> Result<Value, ApiError> {
    let pods = resources::pods();
    let store = server.store();
    if body["metadata"]["name"] != key.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let pod = store.get(pods, key).ok_or_else(|| ApiError::not_found(pods, &key.name))?;
    let options = DeleteOptions::parse(&body["deleteOptions"])?;
    let waiting = pod["status"]["phase"] == "Pending" || !pod["metadata"]["deletionTimestamp"].is_null();
    if !is_terminal(&pod) {
        if !waiting {
            spend_budget(server, key, &pod)?;
        }
        let clock = server.clock();
        store.update(pods, key, |pod| {
            if options.dry_run {
                return Ok(None);
            }
            options.check(pods, pod)?;
            let mut pod = Value::clone(pod);
            set_condition(
                &mut pod,
                "DisruptionTarget",
                "True",
                "EvictionByEvictionAPI",
                "Eviction API: evicting",
                &clock.time(),
            );
            Ok(Some(pod))
        })?;
    }
    delete_object(server, pods, key, &options)?;
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}

/// Takes one allowed disruption from the budget that covers the pod.
fn spend_budget(server: &ApiServer, key: &Key, pod: &Value) -> Result<(), ApiError> {
    let budgets = resources::pod_disruption_budgets();
    let covers = |budget: &Value| {
        Selector::of_workload(&budget["spec"]["selector"])
            .is_some_and(|s| s.matches_labels(&pod["metadata"]["labels"]))
    };
    let mut matching = server.store().all(budgets, &Scope::in_namespace(&key.namespace));
    matching.retain(|b| covers(b));
    if matching.len() > 1 {
        let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(ApiError::new(500, "", text));
    }
    let Some(budget) = matching.first() else { return Ok(()) };
    let budget_key = Key::of(budget);
    server.store().update(budgets, &budget_key, |budget| {
        let status = &budget["status"];
        let name = &budget_key.name;
        let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
        let observed = status["observedGeneration"].as_i64().unwrap_or(0);
        if observed < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
            return Err(refused(
                10,
                &format!("The disruption budget {name} is still being processed by the server."),
            ));
        }
        if allowed <= 0 {
            let wanted = status["desiredHealthy"].as_i64().unwrap_or(0);
            let healthy = status["currentHealthy"].as_i64().unwrap_or(0);
            return Err(refused(
                0,
                &format!(
                    "The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
                ),
            ));
        }
        let mut budget = Value::clone(budget);
        budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
        Ok(Some(budget))
    })?;
    Ok(())
}

fn refused(retry_after: u32, why: &str) -> ApiError {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut error = ApiError::too_many(text, retry_after);
    let causes = json!([{"reason": "DisruptionBudget", "message": why}]);
    error.details.insert("causes".to_owned(), causes);
    error
}
