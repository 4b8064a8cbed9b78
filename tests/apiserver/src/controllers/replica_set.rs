//! Keeps as many pods as a ReplicaSet asks for.
//!
//! Source: pkg/controller/replicaset.

use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    adopt, affected, change, create, delete, emit, feed, is_controlled_by, is_deleting, owner_reference,
};
use crate::ApiServer;
use crate::clock::parse_time;
use crate::pods::{condition, is_terminal};
use crate::resources;
use crate::rest::DeleteOptions;
use crate::store::{Key, Object, Scope};

const NAME: &str = "replicaset-controller";

pub(super) async fn run(server: ApiServer) {
    let mut changes = feed(&server, &[resources::replica_sets(), resources::pods()]);
    while let Some(batch) = changes.next().await {
        for key in affected(&batch, resources::replica_sets()) {
            reconcile(&server, &key);
        }
    }
}

fn reconcile(server: &ApiServer, key: &Key) {
    let sets = resources::replica_sets();
    let Some(set) = server.store().get(sets, key) else { return };
    if !is_deleting(&set) {
        adopt(server, (sets, &set), resources::pods());
    }
    let pods = active_pods(server, &set, &key.namespace);
    if !is_deleting(&set) {
        let wanted = usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
        for _ in pods.len()..wanted {
            if !create_pod(server, &set, key) {
                break;
            }
        }
        let mut victims: Vec<&Arc<Object>> = pods.iter().collect();
        victims.sort_by_key(|pod| usefulness(pod));
        for pod in victims.into_iter().take(pods.len().saturating_sub(wanted)) {
            delete(server, resources::pods(), pod, DeleteOptions::default());
            let text = format!("Deleted pod: {}", pod["metadata"]["name"].as_str().unwrap_or(""));
            emit(server, (sets, &set), NAME, "Normal", "SuccessfulDelete", &text);
        }
    }
    write_status(server, &set, key);
}

/// Pods of a set that run or may come to run.
pub(super) fn active_pods(server: &ApiServer, owner: &Object, namespace: &str) -> Vec<Arc<Object>> {
    let mut pods = server.store().all(resources::pods(), &Scope::in_namespace(namespace));
    pods.retain(|p| is_controlled_by(p, owner) && !is_deleting(p) && !is_terminal(p));
    pods
}

fn create_pod(server: &ApiServer, set: &Object, key: &Key) -> bool {
    let template = &set["spec"]["template"];
    let pod = json!({
        "metadata": {
            "generateName": format!("{}-", key.name), "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"],
            "ownerReferences": owner_reference(resources::replica_sets(), set),
        },
        "spec": template["spec"],
    });
    let about = (resources::replica_sets(), set);
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

/// Pods that are missed least come first: unassigned, pending, not ready, youngest.
fn usefulness(pod: &Value) -> (bool, bool, bool, i64) {
    let created = pod["metadata"]["creationTimestamp"].as_str().and_then(parse_time);
    let age = created.unwrap_or(Timestamp::UNIX_EPOCH).as_second();
    (
        !pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty(),
        pod["status"]["phase"] == "Running",
        condition(pod, "Ready") == "True",
        -age,
    )
}

fn write_status(server: &ApiServer, set: &Object, key: &Key) {
    let pods = active_pods(server, set, &key.namespace);
    let ready = pods.iter().filter(|p| condition(p, "Ready") == "True").count();
    let mut stopping = server.store().all(resources::pods(), &Scope::in_namespace(&key.namespace));
    stopping.retain(|p| is_controlled_by(p, set) && is_deleting(p) && !is_terminal(p));
    let mut status = json!({
        "replicas": pods.len(), "observedGeneration": set["metadata"]["generation"],
        "terminatingReplicas": stopping.len(),
    });
    // Go leaves these out where they are zero.
    for (field, count) in
        [("fullyLabeledReplicas", pods.len()), ("readyReplicas", ready), ("availableReplicas", ready)]
    {
        if count > 0 {
            status[field] = count.into();
        }
    }
    let written = change(server, resources::replica_sets(), key, "status", |set| {
        let conditions = set["status"]["conditions"].clone();
        set["status"] = status.clone();
        set["status"]["conditions"] = conditions;
    });
    if let Err(error) = written {
        tracing::debug!(%error, "status of a replica set that is gone");
    }
}
