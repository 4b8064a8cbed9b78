//! Empties namespaces that are being deleted, then lets them go.
//!
//! Source: pkg/controller/namespace/deletion.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::{change, delete, feed, is_deleting};
use crate::ApiServer;
use crate::resources;
use crate::rest::{self, DeleteOptions};
use crate::store::{Key, Scope};

/// How often a namespace that isn't empty yet is looked at again.
const PERIOD: Duration = Duration::from_millis(500);

pub(super) async fn run(server: ApiServer) {
    let mut changes = feed(&server, &[resources::namespaces()]);
    let mut ending: BTreeSet<String> = BTreeSet::new();
    let mut again = interval(PERIOD);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Cancel-safe: a batch is handled before the next wait; ticks only repeat the work.
        tokio::select! {
            batch = changes.next() => {
                let Some(batch) = batch else { return };
                for (_, event) in batch {
                    let name = event.object["metadata"]["name"].as_str().unwrap_or("").to_owned();
                    if is_deleting(&event.object) {
                        ending.insert(name);
                    }
                }
            }
            _ = again.tick(), if !ending.is_empty() => {}
        }
        ending.retain(|name| !end(&server, name));
    }
}

/// Deletes what is left in a namespace; tells whether it is gone.
fn end(server: &ApiServer, name: &str) -> bool {
    let namespaces = resources::namespaces();
    let key = Key::new("", name);
    let Some(namespace) = server.store().get(namespaces, &key).filter(|n| is_deleting(n)) else {
        return true;
    };
    let scope = Scope::in_namespace(name);
    let mut left = 0;
    for resource in
        resources::all().iter().filter(|r| r.namespaced && r.stored && !r.is(resources::events_v1()))
    {
        for object in server.store().all(resource, &scope) {
            if !is_deleting(&object) {
                delete(server, resource, &object, DeleteOptions::background());
            }
        }
        left += server.store().all(resource, &scope).len();
    }
    if left > 0 {
        return false;
    }
    let written = change(server, namespaces, &key, "finalize", |n| n["spec"] = json!({}));
    if let Ok(written) = written {
        rest::finish_deletion(server, namespaces, &key, &written);
    }
    server.store().get(namespaces, &key).is_none_or(|n| n.uid() != namespace.uid())
}
