//! Deletes pods from nodes with `NoExecute` taints, when their toleration ends.
//!
//! Source: pkg/controller/tainteviction.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::{change, delete, emit, feed, is_deleting};
use crate::ApiServer;
use crate::nodes::is_tolerated_by;
use crate::pods::set_condition;
use crate::resources;
use crate::rest::DeleteOptions;
use crate::selector::Selector;
use crate::store::{Key, Object, Scope};

const NAME: &str = "taint-eviction-controller";

pub(super) async fn run(server: ApiServer) {
    let mut changes = feed(&server, &[resources::pods(), resources::nodes()]);
    // When each pod's time is up, by UID.
    let mut due: HashMap<String, (Instant, Key)> = HashMap::new();
    loop {
        let next = due.values().map(|(at, _)| *at).min();
        // Cancel-safe: a batch is handled before the next wait.
        tokio::select! {
            batch = changes.next() => {
                let Some(batch) = batch else { return };
                let mut keys = BTreeSet::new();
                for (resource, event) in batch {
                    if resource.is(resources::pods()) {
                        keys.insert(Key::of(&event.object));
                    } else {
                        let before = event.before.as_ref().map(|b| &b["spec"]["taints"]);
                        if before != Some(&event.object["spec"]["taints"]) {
                            keys.extend(pods_of(&server, &event.object));
                        }
                    }
                }
                for key in keys {
                    judge(&server, key, &mut due);
                }
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
        let now = Instant::now();
        let expired: Vec<String> =
            due.iter().filter(|(_, (at, _))| *at <= now).map(|(u, _)| u.clone()).collect();
        for uid in expired {
            if let Some((_, key)) = due.remove(&uid) {
                evict(&server, &key, &uid);
            }
        }
        due.retain(|uid, (_, key)| {
            server.store().get(resources::pods(), key).is_some_and(|p| p.uid() == uid && !is_deleting(&p))
        });
    }
}

fn pods_of(server: &ApiServer, node: &Value) -> Vec<Key> {
    let name = node["metadata"]["name"].as_str().unwrap_or("");
    let Ok(selector) = Selector::parse(resources::pods(), "", &format!("spec.nodeName={name}")) else {
        return Vec::new();
    };
    let pods = server.store().all(resources::pods(), &Scope { namespace: None, selector });
    pods.iter().map(|p| Key::of(p)).collect()
}

/// Sets, keeps or cancels a pod's term.
fn judge(server: &ApiServer, key: Key, due: &mut HashMap<String, (Instant, Key)>) {
    let Some(pod) = server.store().get(resources::pods(), &key) else { return };
    match term(server, &pod).filter(|_| !is_deleting(&pod)) {
        None => drop(due.remove(pod.uid())),
        Some(term) => {
            // A term that runs is not begun anew.
            due.entry(pod.uid().to_owned()).or_insert((Instant::now() + term, key));
        }
    }
}

/// How long a pod may stay: `None` for good, zero if it must go.
fn term(server: &ApiServer, pod: &Object) -> Option<Duration> {
    let node = pod["spec"]["nodeName"].as_str()?;
    let node = server.store().get(resources::nodes(), &Key::new("", node))?;
    let tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let mut shortest = None;
    for taint in taints.filter(|t| t["effect"] == "NoExecute") {
        let fitting: Vec<&Value> = tolerations.iter().filter(|t| is_tolerated_by(taint, t)).collect();
        if fitting.is_empty() {
            return Some(Duration::ZERO);
        }
        let limits = fitting.iter().filter_map(|t| t["tolerationSeconds"].as_i64());
        if let Some(least) = limits.min() {
            let least = Duration::from_secs(u64::try_from(least).unwrap_or(0));
            shortest = Some(shortest.map_or(least, |s: Duration| s.min(least)));
        }
    }
    shortest
}

fn evict(server: &ApiServer, key: &Key, uid: &str) {
    let pods = resources::pods();
    let Some(pod) = server.store().get(pods, key).filter(|p| p.uid() == uid) else { return };
    // The toleration may have been extended, or the taint lifted, at the last moment.
    if term(server, &pod).is_none() {
        return;
    }
    let now = server.clock().time();
    let text = format!("Marking for deletion Pod {}/{}", key.namespace, key.name);
    emit(server, (pods, &pod), NAME, "Normal", "TaintManagerEviction", &text);
    let written = change(server, pods, key, "status", |pod| {
        set_condition(
            pod,
            "DisruptionTarget",
            "True",
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
            &now,
        );
    });
    if let Err(error) = written {
        tracing::debug!(%error, "pod is gone");
    }
    delete(server, pods, &pod, DeleteOptions::default());
}
