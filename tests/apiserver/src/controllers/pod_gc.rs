//! Fails and removes the pods of nodes that are gone.
//!
//! Source: pkg/controller/podgc.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{change, delete};
use crate::ApiServer;
use crate::pods::{is_terminal, set_condition};
use crate::resources;
use crate::rest::DeleteOptions;
use crate::store::{Key, Object, Scope};

const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be missing.
const QUARANTINE: Duration = Duration::from_secs(40);

pub(super) async fn run(server: ApiServer) {
    let mut missing: HashMap<String, Instant> = HashMap::new();
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let gone = |node: &str| server.store().get(resources::nodes(), &Key::new("", node)).is_none();
        missing.retain(|node, _| gone(node));
        for pod in server.store().all(resources::pods(), &Scope::all()) {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
            if node.is_empty() || !gone(node) {
                continue;
            }
            let since = *missing.entry(node.to_owned()).or_insert_with(Instant::now);
            if since.elapsed() >= QUARANTINE {
                collect(&server, &pod);
            }
        }
    }
}

fn collect(server: &ApiServer, pod: &Object) {
    let pods = resources::pods();
    if !is_terminal(pod) {
        let now = server.clock().time();
        let written = change(server, pods, &Key::of(pod), "status", |pod| {
            pod["status"]["phase"] = "Failed".into();
            let (reason, text) = ("DeletionByPodGC", "PodGC: node no longer exists");
            set_condition(pod, "DisruptionTarget", "True", reason, text, &now);
        });
        if written.is_err() {
            return;
        }
    }
    delete(server, pods, pod, DeleteOptions::grace(0));
}
