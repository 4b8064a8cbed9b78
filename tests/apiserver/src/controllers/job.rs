//! Runs a Job's pods to completion.
//!
//! Non-indexed and indexed jobs, parallelism, the back-off limit (as a count; failed pods are replaced at
//! once, without the back-off itself), and pod failure policies.
//!
//! Source: pkg/controller/job.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};

use super::{affected, change, create, delete, emit, feed, is_controlled_by, is_deleting, owner_reference};
use crate::ApiServer;
use crate::pods::{condition, containers, is_terminal, set_condition};
use crate::resources;
use crate::rest::DeleteOptions;
use crate::store::{Key, Object, Scope};

const NAME: &str = "job-controller";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

pub(super) async fn run(server: ApiServer) {
    let mut changes = feed(&server, &[resources::jobs(), resources::pods()]);
    while let Some(batch) = changes.next().await {
        for key in affected(&batch, resources::jobs()) {
            reconcile(&server, &key);
        }
    }
}

fn is_finished(job: &Value) -> bool {
    condition(job, "Complete") == "True" || condition(job, "Failed") == "True"
}

/// What a failed pod means for its job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Count,
    Ignore,
    FailJob,
}

fn reconcile(server: &ApiServer, key: &Key) {
    let jobs = resources::jobs();
    let Some(job) = server.store().get(jobs, key) else { return };
    if is_deleting(&job) || is_finished(&job) {
        return;
    }
    let mut pods = server.store().all(resources::pods(), &Scope::in_namespace(&key.namespace));
    pods.retain(|p| is_controlled_by(p, &job));
    let phase = |p: &Value, phase: &str| p["status"]["phase"] == phase;
    let active: Vec<_> = pods.iter().filter(|p| !is_terminal(p) && !is_deleting(p)).cloned().collect();
    let terminating = pods.iter().filter(|p| !is_terminal(p) && is_deleting(p)).count();
    let verdicts: Vec<Verdict> = pods
        .iter()
        .filter(|p| phase(p, "Failed"))
        .map(|p| verdict(&job["spec"]["podFailurePolicy"], p))
        .collect();
    let failed = verdicts.iter().filter(|v| **v != Verdict::Ignore).count() as i64;
    let indexed = job["spec"]["completionMode"] == "Indexed";
    let done: Vec<&Arc<Object>> = pods.iter().filter(|p| phase(p, "Succeeded")).collect();
    let done_indices: BTreeSet<&str> = done.iter().filter_map(|p| index_of(p)).collect();
    let succeeded = if indexed { done_indices.len() } else { done.len() } as i64;
    let wanted = job["spec"]["completions"].as_i64().unwrap_or(1);
    let limit = job["spec"]["backoffLimit"].as_i64().unwrap_or(6);

    let end = if verdicts.contains(&Verdict::FailJob) {
        Some(("Failed", "PodFailurePolicy", "A pod failed in a way its policy fails the job for"))
    } else if failed > limit {
        Some(("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    } else if succeeded >= wanted {
        Some(("Complete", "CompletionsReached", "Reached expected number of succeeded pods"))
    } else {
        None
    };
    let mut running = active.len() as i64;
    if end.is_some() || job["spec"]["suspend"] == true {
        for pod in &active {
            delete(server, resources::pods(), pod, DeleteOptions::default());
        }
        running = 0;
    } else {
        let parallelism = job["spec"]["parallelism"].as_i64().unwrap_or(1);
        let open = (wanted - succeeded).min(parallelism);
        // Under this replacement policy a pod counts until it has ended.
        let waiting = if job["spec"]["podReplacementPolicy"] == "Failed" { terminating as i64 } else { 0 };
        let mut taken: BTreeSet<String> =
            active.iter().filter_map(|p| index_of(p)).map(str::to_owned).collect();
        taken.extend(done_indices.iter().map(|i| (*i).to_owned()));
        while running + waiting < open {
            let index = (0..wanted).map(|i| i.to_string()).find(|i| !taken.contains(i)).unwrap_or_default();
            if !create_pod(server, &job, key, indexed.then_some(&*index)) {
                break;
            }
            taken.insert(index);
            running += 1;
        }
    }
    let ready = active.iter().filter(|p| condition(p, "Ready") == "True").count();
    let counts = json!({"active": running, "ready": ready, "succeeded": succeeded, "failed": failed,
                        "terminating": terminating});
    let indices = indexed.then(|| done_indices.iter().copied().collect::<Vec<_>>().join(","));
    write_status(server, &job, key, &counts, indices.as_deref(), end);
}

fn index_of(pod: &Value) -> Option<&str> {
    pod["metadata"]["annotations"][INDEX].as_str()
}

fn create_pod(server: &ApiServer, job: &Object, key: &Key, index: Option<&str>) -> bool {
    let template = &job["spec"]["template"];
    let mut pod = json!({
        "metadata": {
            "generateName": format!("{}-", key.name), "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"],
            "ownerReferences": owner_reference(resources::jobs(), job),
        },
        "spec": template["spec"],
    });
    if let Some(index) = index {
        pod["metadata"]["generateName"] = format!("{}-{index}-", key.name).into();
        pod["metadata"]["annotations"][INDEX] = index.into();
        pod["metadata"]["labels"][INDEX] = index.into();
    }
    let about = (resources::jobs(), job);
    match create(server, resources::pods(), &key.namespace, pod) {
        Ok(pod) => {
            let text = format!("Created pod: {}", pod["metadata"]["name"].as_str().unwrap_or(""));
            emit(server, about, NAME, "Normal", "SuccessfulCreate", &text);
            true
        }
        Err(error) => {
            emit(server, about, NAME, "Warning", "FailedCreate", &format!("Error creating: {error}"));
            false
        }
    }
}

/// The first rule of the policy that fits decides.
fn verdict(policy: &Value, pod: &Value) -> Verdict {
    for rule in policy["rules"].as_array().into_iter().flatten() {
        let fits = if rule["onExitCodes"].is_object() {
            exit_codes_fit(&rule["onExitCodes"], pod)
        } else {
            rule["onPodConditions"].as_array().into_iter().flatten().any(|pattern| {
                let kind = pattern["type"].as_str().unwrap_or("");
                condition(pod, kind) == pattern["status"].as_str().unwrap_or("True")
            })
        };
        if fits {
            return match rule["action"].as_str() {
                Some("FailJob") => Verdict::FailJob,
                Some("Ignore") => Verdict::Ignore,
                _ => Verdict::Count,
            };
        }
    }
    Verdict::Count
}

fn exit_codes_fit(rule: &Value, pod: &Value) -> bool {
    let values: Vec<i64> =
        rule["values"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
    let wanted = rule["containerName"].as_str();
    let known: BTreeSet<&str> = containers(pod).filter_map(|(_, c)| c["name"].as_str()).collect();
    ["initContainerStatuses", "containerStatuses"]
        .iter()
        .flat_map(|field| pod["status"][*field].as_array().into_iter().flatten())
        .filter(|s| s["name"].as_str().is_some_and(|n| known.contains(n) && wanted.is_none_or(|w| w == n)))
        .filter_map(|s| s["state"]["terminated"]["exitCode"].as_i64())
        .any(|code| match rule["operator"].as_str() {
            Some("NotIn") => code != 0 && !values.contains(&code),
            _ => values.contains(&code),
        })
}

fn write_status(
    server: &ApiServer,
    job: &Object,
    key: &Key,
    counts: &Value,
    indices: Option<&str>,
    end: Option<(&str, &str, &str)>,
) {
    let now = server.clock().time();
    let written = change(server, resources::jobs(), key, "status", |job| {
        let status = &mut job["status"];
        for (field, count) in counts.as_object().into_iter().flatten() {
            // Zero counts are left out, as the real server writes them; two it writes always.
            let always = matches!(field.as_str(), "ready" | "terminating");
            status[field] = if *count == 0 && !always { Value::Null } else { count.clone() };
        }
        if status["startTime"].is_null() {
            status["startTime"] = now.clone().into();
        }
        if let Some(indices) = indices.filter(|i| !i.is_empty()) {
            status["completedIndexes"] = indices.into();
        }
        status["uncountedTerminatedPods"] = json!({});
        let Some((kind, reason, message)) = end else { return };
        if kind == "Complete" {
            status["completionTime"] = now.clone().into();
            set_condition(job, "SuccessCriteriaMet", "True", reason, message, &now);
        } else {
            set_condition(job, "FailureTarget", "True", reason, message, &now);
        }
        set_condition(job, kind, "True", reason, message, &now);
    });
    if let (Ok(_), Some((kind, reason, message))) = (written, end) {
        let about = (resources::jobs(), job);
        if kind == "Complete" {
            emit(server, about, NAME, "Normal", "Completed", "Job completed");
        } else {
            emit(server, about, NAME, "Warning", reason, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        ]});
        let pod = |code: i64| {
            json!({"spec": {"containers": [{"name": "a"}]}, "status": {"containerStatuses": [
                {"name": "a", "state": {"terminated": {"exitCode": code}}}]}})
        };
        assert!(verdict(&policy, &pod(42)) == Verdict::FailJob);
        assert!(verdict(&policy, &pod(1)) == Verdict::Count);
        let mut disrupted = pod(42);
        disrupted["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
        assert!(verdict(&policy, &disrupted) == Verdict::Ignore);
    }
}
