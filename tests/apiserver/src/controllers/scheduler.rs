//! Assigns pods to nodes.
//!
//! Filters: unschedulable, node selector and required node affinity, taints, host of `pods`, `cpu`,
//! `memory` and other requested resources. The node with the fewest pods wins. No preemption, no affinity
//! between pods, no volumes.
//!
//! Source: kube-scheduler's NodeUnschedulable, NodeAffinity, TaintToleration and NodeResourcesFit plugins.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::StreamExt;
use serde_json::{Value, json};

use super::{Change, emit, feed, is_deleting};
use crate::ApiServer;
use crate::nodes::tolerates;
use crate::pods::{bind_pod, containers, is_terminal, set_condition};
use crate::quantity;
use crate::resources;
use crate::selector::expressions_match;
use crate::store::{Change as Kind, Key, Object, Scope};

const NAME: &str = "default-scheduler";

/// Amounts by resource, in thousandths.
type Amounts = BTreeMap<String, i128>;

#[derive(Default)]
struct Scheduler {
    waiting: BTreeSet<Key>,
    /// Where each pod runs and what it takes.
    placed: HashMap<Key, (String, Amounts)>,
    used: HashMap<String, Amounts>,
}

pub(super) async fn run(server: ApiServer) {
    let mut changes = feed(&server, &[resources::pods(), resources::nodes()]);
    let mut scheduler = Scheduler::default();
    while let Some(batch) = changes.next().await {
        // Pods that waited get another chance when something may have made room.
        let mut retry = false;
        let mut fresh = BTreeSet::new();
        for (resource, event) in &batch {
            if resource.is(resources::nodes()) {
                retry = true;
            } else {
                retry |= scheduler.note((resource, event.clone()), &mut fresh);
            }
        }
        let round = if retry { scheduler.waiting.clone() } else { fresh };
        for key in round {
            scheduler.place(&server, &key);
        }
    }
}

impl Scheduler {
    /// Keeps the books; tells whether room was made.
    fn note(&mut self, (_, event): Change, fresh: &mut BTreeSet<Key>) -> bool {
        let pod = &event.object;
        let key = Key::of(pod);
        let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
        let gone = event.change == Kind::Deleted;
        if gone || is_terminal(pod) || node.is_empty() {
            let made_room = self.release(&key);
            let wants = !gone && node.is_empty() && is_ours(pod) && !is_deleting(pod);
            if wants && self.waiting.insert(key.clone()) {
                fresh.insert(key);
            } else if !wants {
                self.waiting.remove(&key);
            }
            return made_room;
        }
        self.waiting.remove(&key);
        self.occupy(key, node, requests(pod));
        false
    }

    fn occupy(&mut self, key: Key, node: &str, amounts: Amounts) {
        if self.placed.get(&key).is_some_and(|(n, a)| n == node && *a == amounts) {
            return;
        }
        self.release(&key);
        let used = self.used.entry(node.to_owned()).or_default();
        for (resource, amount) in &amounts {
            *used.entry(resource.clone()).or_default() += amount;
        }
        self.placed.insert(key, (node.to_owned(), amounts));
    }

    fn release(&mut self, key: &Key) -> bool {
        let Some((node, amounts)) = self.placed.remove(key) else { return false };
        if let Some(used) = self.used.get_mut(&node) {
            for (resource, amount) in &amounts {
                *used.entry(resource.clone()).or_default() -= amount;
            }
        }
        true
    }

    fn place(&mut self, server: &ApiServer, key: &Key) {
        let pods = resources::pods();
        let Some(pod) = server.store().get(pods, key) else { return };
        let assigned = !pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty();
        if assigned || is_deleting(&pod) || !is_ours(&pod) {
            return;
        }
        let wanted = requests(&pod);
        let nodes = server.store().all(resources::nodes(), &Scope::all());
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut best: Option<(i128, &str)> = None;
        for node in &nodes {
            let name = node["metadata"]["name"].as_str().unwrap_or("");
            let empty = Amounts::new();
            let used = self.used.get(name).unwrap_or(&empty);
            let found = obstacles(&pod, node, &wanted, used);
            if found.is_empty() {
                let load = used.get("pods").copied().unwrap_or(0);
                if best.is_none_or(|(least, _)| load < least) {
                    best = Some((load, name));
                }
            }
            for reason in found {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        match best {
            Some((_, node)) => self.bind(server, key, node, &pod, wanted),
            None => report(server, key, &pod, nodes.len(), &reasons),
        }
    }

    fn bind(&mut self, server: &ApiServer, key: &Key, node: &str, pod: &Object, wanted: Amounts) {
        let uid = json!({"uid": pod.uid()});
        match bind_pod(server.store(), server.clock(), key, node, &uid) {
            Ok(_) => {
                self.waiting.remove(key);
                self.occupy(key.clone(), node, wanted);
                let text = format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
                emit(server, (resources::pods(), pod), NAME, "Normal", "Scheduled", &text);
            }
            Err(error) => tracing::debug!(%error, pod = key.name, "not bound"),
        }
    }
}

fn is_ours(pod: &Value) -> bool {
    let gated = pod["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty());
    pod["spec"]["schedulerName"] == NAME && !gated && !is_terminal(pod)
}

/// What a pod takes: the sum of its containers, or its largest init container, and one of `pods`.
fn requests(pod: &Value) -> Amounts {
    let mut sum = Amounts::new();
    let mut largest = Amounts::new();
    for (field, container) in containers(pod) {
        let sidecar = container["restartPolicy"] == "Always";
        for (resource, amount) in container["resources"]["requests"].as_object().into_iter().flatten() {
            let amount = quantity::milli_of(amount).unwrap_or(0);
            if field == "initContainers" && !sidecar {
                let most = largest.entry(resource.clone()).or_default();
                *most = (*most).max(amount);
            } else {
                *sum.entry(resource.clone()).or_default() += amount;
            }
        }
    }
    for (resource, amount) in largest {
        let total = sum.entry(resource).or_default();
        *total = (*total).max(amount);
    }
    sum.insert("pods".to_owned(), 1000);
    sum
}

/// Why a pod can't go to a node, in the scheduler's words.
fn obstacles(pod: &Value, node: &Value, wanted: &Amounts, used: &Amounts) -> Vec<String> {
    let tolerations = &pod["spec"]["tolerations"];
    if node["spec"]["unschedulable"] == true {
        let taint = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        if !tolerates(tolerations, &taint) {
            return vec!["node(s) were unschedulable".to_owned()];
        }
    }
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let mut binding = taints.filter(|t| t["effect"] != "PreferNoSchedule");
    if let Some(taint) = binding.find(|t| !tolerates(tolerations, t)) {
        let text = |field: &str| taint[field].as_str().unwrap_or("").to_owned();
        return vec![format!("node(s) had untolerated taint {{{}: {}}}", text("key"), text("value"))];
    }
    if !fits_node(pod, node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
    }
    let allocatable = |resource: &str| {
        let status = &node["status"];
        let given = status["allocatable"].get(resource).or(status["capacity"].get(resource));
        given.and_then(quantity::milli_of).unwrap_or(0)
    };
    let mut found = Vec::new();
    for (resource, amount) in wanted.iter().filter(|(_, amount)| **amount > 0) {
        let taken = used.get(resource).copied().unwrap_or(0);
        if taken + amount > allocatable(resource) {
            let text = if resource == "pods" {
                "Too many pods".to_owned()
            } else {
                format!("Insufficient {resource}")
            };
            found.push(text);
        }
    }
    found
}

fn fits_node(pod: &Value, node: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let selected = pod["spec"]["nodeSelector"].as_object();
    if selected.into_iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
        return false;
    }
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let Some(terms) = required["nodeSelectorTerms"].as_array() else { return true };
    let name = json!({"metadata.name": node["metadata"]["name"]});
    terms.iter().any(|term| {
        let empty = |field: &str| term[field].as_array().is_none_or(Vec::is_empty);
        // A term without a condition selects nothing.
        !(empty("matchExpressions") && empty("matchFields"))
            && expressions_match(&term["matchExpressions"], labels)
            && expressions_match(&term["matchFields"], &name)
    })
}

/// Says on the pod why it waits, once per reason.
fn report(server: &ApiServer, key: &Key, pod: &Object, nodes: usize, reasons: &BTreeMap<String, usize>) {
    let message = if nodes == 0 {
        "no nodes available to schedule pods".to_owned()
    } else {
        let list: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        format!("0/{nodes} nodes are available: {}.", list.join(", "))
    };
    let old = pod["status"]["conditions"].as_array().into_iter().flatten();
    if old.into_iter().any(|c| c["type"] == "PodScheduled" && c["message"] == message.as_str()) {
        return;
    }
    let now = server.clock().time();
    let written = super::change(server, resources::pods(), key, "status", |pod| {
        set_condition(pod, "PodScheduled", "False", "Unschedulable", &message, &now);
    });
    if written.is_ok() {
        emit(server, (resources::pods(), pod), NAME, "Warning", "FailedScheduling", &message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Value {
        json!({
            "metadata": {"name": "n", "labels": {"type": "virtual-kubelet"}},
            "spec": {"taints": [{"key": "virtual-kubelet.io/provider", "value": "mock", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}},
        })
    }

    fn why(pod: &Value, used: &Amounts) -> Vec<String> {
        obstacles(pod, &node(), &requests(pod), used)
    }

    #[test]
    fn each_filter_says_why() {
        let tolerant = json!([{"key": "virtual-kubelet.io/provider", "operator": "Exists"}]);
        let container = json!({"resources": {"requests": {"cpu": "1500m"}}});
        let mut pod = json!({"spec": {"containers": [container], "tolerations": tolerant}});
        let none = Amounts::new();
        assert!(why(&pod, &none).is_empty());
        let full = Amounts::from([("cpu".to_owned(), 600), ("pods".to_owned(), 2000)]);
        assert_eq!(why(&pod, &full), ["Insufficient cpu", "Too many pods"]);
        pod["spec"]["nodeSelector"] = json!({"type": "virtual-kubelet"});
        assert!(why(&pod, &none).is_empty());
        pod["spec"]["nodeSelector"] = json!({"type": "bare-metal"});
        assert_eq!(why(&pod, &none), ["node(s) didn't match Pod's node affinity/selector"]);
        pod["spec"]["tolerations"] = json!([]);
        assert_eq!(why(&pod, &none), ["node(s) had untolerated taint {virtual-kubelet.io/provider: mock}"]);
    }

    #[test]
    fn required_affinity_is_any_term_with_all_expressions() {
        let term = |operator: &str| {
            json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{}, {"matchExpressions": [
                    {"key": "type", "operator": operator, "values": ["virtual-kubelet"]}]}],
            }}}}})
        };
        assert!(fits_node(&term("In"), &node()));
        assert!(!fits_node(&term("NotIn"), &node()));
    }

    #[test]
    fn init_containers_count_by_the_largest_and_sidecars_add_up() {
        let cpu = |amount: &str, policy: Option<&str>| json!({"restartPolicy": policy, "resources": {"requests": {"cpu": amount}}});
        let pod = json!({"spec": {
            "initContainers": [cpu("3", None), cpu("100m", Some("Always"))],
            "containers": [cpu("1", None), cpu("1", None)],
        }});
        assert_eq!(requests(&pod)["cpu"], 3000);
        assert_eq!(requests(&pod)["pods"], 1000);
    }
}
