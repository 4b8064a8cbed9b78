//! Follows the heartbeats of nodes: taints by readiness, and `Unknown` for those that fell silent.
//!
//! Source: pkg/controller/nodelifecycle.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{change, emit, feed};
use crate::ApiServer;
use crate::nodes::{NOT_READY, UNREACHABLE, clear_taint, set_taint};
use crate::pods::{condition, set_condition};
use crate::resources;
use crate::selector::Selector;
use crate::store::{Change as Kind, Key, Object, Scope};

const PERIOD: Duration = Duration::from_secs(5);
/// `--node-monitor-grace-period`.
const GRACE: Duration = Duration::from_secs(50);
const NAME: &str = "node-controller";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// A heartbeat as last seen, and when it last changed by this process's clock.
struct Heartbeat {
    mark: (Value, Value),
    since: Instant,
}

pub(super) async fn run(server: ApiServer) {
    let mut changes = feed(&server, &[resources::nodes()]);
    let mut heartbeats: HashMap<String, Heartbeat> = HashMap::new();
    let mut check = interval(PERIOD);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Cancel-safe: a batch is handled before the next wait.
        tokio::select! {
            batch = changes.next() => {
                let Some(batch) = batch else { return };
                for (_, event) in batch {
                    let name = event.object["metadata"]["name"].as_str().unwrap_or("");
                    if event.change == Kind::Deleted {
                        heartbeats.remove(name);
                    } else {
                        apply_taints(&server, name);
                    }
                }
            }
            _ = check.tick() => {
                for node in server.store().all(resources::nodes(), &Scope::all()) {
                    check_heartbeat(&server, &node, &mut heartbeats);
                }
            }
        }
    }
}

/// Brings the taints in line with readiness.
fn apply_taints(server: &ApiServer, name: &str) {
    let now = server.clock().time();
    let written = change(server, resources::nodes(), &Key::new("", name), "", |node| {
        let (not_ready, unreachable) = match condition(node, "Ready") {
            "True" => (false, false),
            "Unknown" => (false, true),
            _ => (true, false),
        };
        // Without any condition the node has only just been made: no eviction yet.
        let known = !condition(node, "Ready").is_empty();
        let cordoned = node["spec"]["unschedulable"] == true;
        for (key, effect, wanted) in [
            (NOT_READY, "NoSchedule", not_ready),
            (NOT_READY, "NoExecute", not_ready && known),
            (UNREACHABLE, "NoSchedule", unreachable),
            (UNREACHABLE, "NoExecute", unreachable),
            (UNSCHEDULABLE, "NoSchedule", cordoned),
        ] {
            if wanted {
                set_taint(node, key, effect, Some(&now));
            } else {
                clear_taint(node, key, effect);
            }
        }
    });
    if let Err(error) = written {
        tracing::debug!(%error, "node is gone");
    }
}

/// Either a lease that is renewed or a status that is posted keeps a node alive.
fn check_heartbeat(server: &ApiServer, node: &Object, heartbeats: &mut HashMap<String, Heartbeat>) {
    let name = node["metadata"]["name"].as_str().unwrap_or("");
    let lease = server.store().get(resources::leases(), &Key::new("kube-node-lease", name));
    let renewed = lease.map_or(Value::Null, |l| l["spec"]["renewTime"].clone());
    let ready = node["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
    let posted = ready.map_or(Value::Null, |c| c["lastHeartbeatTime"].clone());
    let mark = (renewed, posted);
    let heartbeat = heartbeats
        .entry(name.to_owned())
        .or_insert_with(|| Heartbeat { mark: mark.clone(), since: Instant::now() });
    if heartbeat.mark != mark {
        *heartbeat = Heartbeat { mark, since: Instant::now() };
    }
    if heartbeat.since.elapsed() > GRACE && condition(node, "Ready") != "Unknown" {
        give_up(server, node, name);
    }
}

fn give_up(server: &ApiServer, node: &Object, name: &str) {
    let now = server.clock().time();
    let was_ready = condition(node, "Ready") == "True";
    let written = change(server, resources::nodes(), &Key::new("", name), "status", |node| {
        for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
            let (reason, message) = if condition(node, kind).is_empty() {
                ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
            } else {
                ("NodeStatusUnknown", "Kubelet stopped posting node status.")
            };
            set_condition(node, kind, "Unknown", reason, message, &now);
        }
    });
    if written.is_err() {
        return;
    }
    apply_taints(server, name);
    if was_ready {
        let text = format!("Node {name} status is now: NodeNotReady");
        emit(server, (resources::nodes(), node), NAME, "Normal", "NodeNotReady", &text);
    }
    mark_pods_not_ready(server, name, &now);
}

fn mark_pods_not_ready(server: &ApiServer, node: &str, now: &str) {
    let pods = resources::pods();
    let Ok(selector) = Selector::parse(pods, "", &format!("spec.nodeName={node}")) else { return };
    for pod in server.store().all(pods, &Scope { namespace: None, selector }) {
        if condition(&pod, "Ready") == "True" {
            let written = change(server, pods, &Key::of(&pod), "status", |pod| {
                set_condition(pod, "Ready", "False", "", "", now);
            });
            if let Err(error) = written {
                tracing::debug!(%error, "pod is gone");
            }
        }
    }
}
