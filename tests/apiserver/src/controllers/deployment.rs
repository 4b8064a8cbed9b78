//! Rolls a Deployment's template out through ReplicaSets.
//!
//! Source: pkg/controller/deployment. A pod is available as soon as it is ready; `minReadySeconds` and
//! `progressDeadlineSeconds` are not played.

use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};

use super::{
    adopt, affected, change, create, delete, emit, feed, is_controlled_by, is_deleting, owner_reference,
};
use crate::ApiServer;
use crate::pods::set_condition;
use crate::resources;
use crate::rest::DeleteOptions;
use crate::store::{Key, Object, Scope};

const NAME: &str = "deployment-controller";
const REVISION: &str = "deployment.kubernetes.io/revision";
const HASH: &str = "pod-template-hash";

pub(super) async fn run(server: ApiServer) {
    let mut changes = feed(&server, &[resources::deployments(), resources::replica_sets()]);
    while let Some(batch) = changes.next().await {
        for key in affected(&batch, resources::deployments()) {
            reconcile(&server, &key);
        }
    }
}

/// A deployment's sets: the one of its template, and the others, oldest revision first.
struct Sets {
    current: Option<Arc<Object>>,
    old: Vec<Arc<Object>>,
}

impl Sets {
    fn of(server: &ApiServer, deployment: &Object, namespace: &str) -> Self {
        let mut old = server.store().all(resources::replica_sets(), &Scope::in_namespace(namespace));
        old.retain(|s| is_controlled_by(s, deployment));
        old.sort_by_key(|s| revision(s));
        let same = |s: &Arc<Object>| {
            without_hash(&s["spec"]["template"]) == without_hash(&deployment["spec"]["template"])
        };
        let current = old.iter().position(same).map(|at| old.remove(at));
        Self { current, old }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.old.iter().chain(&self.current)
    }
}

fn reconcile(server: &ApiServer, key: &Key) {
    let Some(deployment) = server.store().get(resources::deployments(), key) else { return };
    if is_deleting(&deployment) {
        return;
    }
    adopt(server, (resources::deployments(), &deployment), resources::replica_sets());
    let mut sets = Sets::of(server, &deployment, &key.namespace);
    let paused = deployment["spec"]["paused"] == true;
    let recreate = deployment["spec"]["strategy"]["type"] == "Recreate";
    if !paused {
        let waits = recreate && sets.old.iter().any(|s| pods_of(s) > 0 || replicas(s) > 0);
        if recreate {
            sets.old.iter().for_each(|s| scale(server, &deployment, s, 0));
        }
        if !waits {
            ensure_current(server, &deployment, key, &mut sets);
        }
    }
    if let Some(current) = sets.current.clone() {
        if recreate || paused {
            let wanted = replicas(&deployment);
            if sets.old.iter().all(|s| replicas(s) == 0) {
                scale(server, &deployment, &current, wanted);
            }
        } else {
            roll(server, &deployment, &current, &sets.old);
        }
    }
    clean_up(server, &deployment, &sets);
    write_status(server, key);
}

fn replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(0)
}

fn pods_of(set: &Value) -> i64 {
    set["status"]["replicas"].as_i64().unwrap_or(0)
}

fn available(set: &Value) -> i64 {
    set["status"]["availableReplicas"].as_i64().unwrap_or(0)
}

fn revision(object: &Value) -> i64 {
    object["metadata"]["annotations"][REVISION].as_str().and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template["metadata"].get_mut("labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    template
}

/// Makes the set of the present template, or gives an old one that has it the newest revision.
fn ensure_current(server: &ApiServer, deployment: &Object, key: &Key, sets: &mut Sets) {
    let newest = sets.old.iter().map(|s| revision(s)).max().unwrap_or(0);
    let number = match &sets.current {
        Some(current) if revision(current) > newest => revision(current),
        _ => newest + 1,
    };
    let sets_resource = resources::replica_sets();
    let set = match &sets.current {
        Some(current) => change(server, sets_resource, &Key::of(current), "", |set| {
            set["metadata"]["annotations"][REVISION] = number.to_string().into();
        }),
        None => create(server, sets_resource, &key.namespace, new_set(deployment, key, number)),
    };
    match set {
        Ok(set) => sets.current = Some(set),
        Err(error) => {
            let text = format!("Failed to create new replica set: {error}");
            let about = (resources::deployments(), deployment);
            emit(server, about, NAME, "Warning", "ReplicaSetCreateError", &text);
        }
    }
    let written = change(server, resources::deployments(), key, "status", |d| {
        d["metadata"]["annotations"][REVISION] = number.to_string().into();
    });
    if let Err(error) = written {
        tracing::debug!(%error, "deployment is gone");
    }
}

fn new_set(deployment: &Object, key: &Key, number: i64) -> Value {
    let hash = template_hash(&deployment["spec"]["template"]);
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH] = hash.clone().into();
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = hash.clone().into();
    let mut annotations = deployment["metadata"]["annotations"].clone();
    if let Some(map) = annotations.as_object_mut() {
        map.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    annotations[REVISION] = number.to_string().into();
    json!({
        "metadata": {
            "name": format!("{}-{hash}", key.name), "labels": template["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": owner_reference(resources::deployments(), deployment),
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
    })
}

/// Ten characters that stand for a template (FNV-1a over its JSON).
fn template_hash(template: &Value) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in without_hash(template).to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut name = String::new();
    for _ in 0..10 {
        name.push(char::from(ALPHABET[(hash % 27) as usize]));
        hash /= 27;
    }
    name
}

/// A bound given as a number or a percentage of the replicas.
fn bound(value: &Value, replicas: i64, round_up: bool) -> i64 {
    match value {
        Value::Number(number) => number.as_i64().unwrap_or(0),
        Value::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            let product = percent * replicas;
            if round_up { (product + 99) / 100 } else { product / 100 }
        }
        _ => 0,
    }
}

/// One step of a rolling update: up as far as surge allows, down as far as availability allows.
fn roll(server: &ApiServer, deployment: &Object, current: &Arc<Object>, old: &[Arc<Object>]) {
    let wanted = replicas(deployment);
    let limits = &deployment["spec"]["strategy"]["rollingUpdate"];
    let surge = bound(&limits["maxSurge"], wanted, true);
    let mut unavailable = bound(&limits["maxUnavailable"], wanted, false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    let total: i64 = old.iter().map(|s| replicas(s)).sum::<i64>() + replicas(current);
    let present = replicas(current);
    let up = if present > wanted {
        wanted
    } else {
        present + (wanted - present).min((wanted + surge - total).max(0))
    };
    scale(server, deployment, current, up);
    // Down: what isn't available costs nothing; of the rest, what exceeds the least availability.
    let least = wanted - unavailable;
    let lacking_in_current = (up - available(current)).max(0);
    let mut sizes: Vec<i64> = old.iter().map(|s| replicas(s)).collect();
    let mut spare = sizes.iter().sum::<i64>() + up - least - lacking_in_current;
    if spare <= 0 {
        return;
    }
    for (set, size) in old.iter().zip(&mut sizes) {
        let unhealthy = (*size - available(set)).clamp(0, spare);
        *size -= unhealthy;
        spare -= unhealthy;
    }
    let healthy: i64 = old.iter().map(|s| available(s)).sum::<i64>() + available(current);
    let mut excess = (healthy - least).max(0);
    for size in &mut sizes {
        let down = (*size).min(excess);
        *size -= down;
        excess -= down;
    }
    for (set, size) in old.iter().zip(sizes) {
        scale(server, deployment, set, size);
    }
}

fn scale(server: &ApiServer, deployment: &Object, set: &Arc<Object>, wanted: i64) {
    let now = server.store().get(resources::replica_sets(), &Key::of(set));
    let Some(was) = now.map(|s| replicas(&s)).filter(|was| *was != wanted) else { return };
    let written = change(server, resources::replica_sets(), &Key::of(set), "", |set| {
        set["spec"]["replicas"] = wanted.into();
    });
    if written.is_ok() {
        let direction = if wanted > was { "up" } else { "down" };
        let name = set["metadata"]["name"].as_str().unwrap_or("");
        let text = format!("Scaled {direction} replica set {name} from {was} to {wanted}");
        emit(server, (resources::deployments(), deployment), NAME, "Normal", "ScalingReplicaSet", &text);
    }
}

/// Drops the oldest empty sets beyond the history limit.
fn clean_up(server: &ApiServer, deployment: &Object, sets: &Sets) {
    let limit = deployment["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10) as usize;
    let empty: Vec<_> = sets.old.iter().filter(|s| replicas(s) == 0 && pods_of(s) == 0).collect();
    for set in empty.iter().take(empty.len().saturating_sub(limit)) {
        delete(server, resources::replica_sets(), set, DeleteOptions::default());
    }
}

fn write_status(server: &ApiServer, key: &Key) {
    let Some(deployment) = server.store().get(resources::deployments(), key) else { return };
    let sets = Sets::of(server, &deployment, &key.namespace);
    let total: i64 = sets.all().map(|s| pods_of(s)).sum();
    let ready: i64 = sets.all().map(|s| available(s)).sum();
    let updated = sets.current.as_ref().map_or(0, |s| pods_of(s));
    let wanted = replicas(&deployment);
    let limits = &deployment["spec"]["strategy"]["rollingUpdate"];
    let least = wanted - bound(&limits["maxUnavailable"], wanted, false);
    let name = sets.current.as_ref().and_then(|s| s["metadata"]["name"].as_str()).unwrap_or("").to_owned();
    let now = server.clock().time();
    let written = change(server, resources::deployments(), key, "status", |d| {
        let conditions = d["status"]["conditions"].clone();
        d["status"] = json!({
            "observedGeneration": d["metadata"]["generation"], "replicas": total, "updatedReplicas": updated,
            "readyReplicas": ready, "availableReplicas": ready, "unavailableReplicas": (wanted - ready).max(0),
            "conditions": conditions,
        });
        let (status, reason, text) = if ready >= least {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        condition(d, "Available", status, reason, text, &now);
        let done = updated == wanted && total == wanted && ready == wanted;
        let (reason, verb) = if done {
            ("NewReplicaSetAvailable", "has successfully progressed")
        } else {
            ("ReplicaSetUpdated", "is progressing")
        };
        condition(d, "Progressing", "True", reason, &format!("ReplicaSet \"{name}\" {verb}."), &now);
        // Zero counts are left out, as the real server writes them.
        if let Some(status) = d["status"].as_object_mut() {
            status.retain(|_, v| *v != 0);
        }
    });
    if let Err(error) = written {
        tracing::debug!(%error, "deployment is gone");
    }
}

/// Sets a condition with the update time deployments have besides; equal ones keep it.
fn condition(deployment: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: &str) {
    let before = deployment["status"]["conditions"].as_array().into_iter().flatten();
    let same = before.into_iter().find(|c| {
        c["type"] == kind && c["status"] == status && c["reason"] == reason && c["message"] == message
    });
    let updated = same.map_or_else(|| now.into(), |c| c["lastUpdateTime"].clone());
    set_condition(deployment, kind, status, reason, message, now);
    let list = deployment["status"]["conditions"].as_array_mut().into_iter().flatten();
    for condition in list.filter(|c| c["type"] == kind) {
        condition["lastUpdateTime"] = updated.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_up_for_surge_and_down_for_loss() {
        assert_eq!(bound(&json!("25%"), 10, true), 3);
        assert_eq!(bound(&json!("25%"), 10, false), 2);
        assert_eq!(bound(&json!(4), 10, true), 4);
        assert_eq!(bound(&json!("25%"), 0, true), 0);
    }

    #[test]
    fn a_hash_stands_for_its_template_alone() {
        let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}});
        let mut labelled = template.clone();
        labelled["metadata"]["labels"][HASH] = "x".into();
        assert_eq!(template_hash(&template), template_hash(&labelled));
        let mut other = template.clone();
        other["spec"]["restartedAt"] = "now".into();
        assert_ne!(template_hash(&template), template_hash(&other));
    }
}
