//! The pods bound to this node, from the API server into the table. The only reader of pods.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio_util::sync::CancellationToken;

use super::record::Desired;
use super::table::PodTable;
use crate::backoff::WatchBackoff;
use crate::config::NodeConfig;
use crate::provider::PodUid;

/// Watches until cancelled. Only writes into the table: a reader that waits gets its watch cut.
pub(crate) async fn run(
    client: kube::Client,
    config: &NodeConfig,
    table: Arc<PodTable>,
    stop: CancellationToken,
) {
    let pauses = WatchBackoff::new(config);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", config.name));
    let mut events = watcher(Api::<Pod>::all(client), config).backoff(pauses).boxed();
    let mut listing = HashSet::new();
    loop {
        // Cancel-safe: an event is applied in one go after the select.
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            Some(Ok(event)) => apply(&table, &mut listing, event),
            Some(Err(error)) => tracing::warn!(error = chain(&error), "watching this node's pods"),
            // The watcher's stream has no end of its own.
            None => return,
        }
    }
}

fn apply(table: &PodTable, listing: &mut HashSet<PodUid>, event: watcher::Event<Pod>) {
    match event {
        watcher::Event::Init => listing.clear(),
        watcher::Event::InitApply(pod) => {
            if let Some((pod, desired)) = Desired::of(pod) {
                listing.insert(pod.uid.clone());
                table.desired(&pod, desired);
            }
        }
        watcher::Event::InitDone => {
            table.listed_by_source(listing);
            listing.clear();
        }
        watcher::Event::Apply(pod) => {
            if let Some((pod, desired)) = Desired::of(pod) {
                table.desired(&pod, desired);
            }
        }
        watcher::Event::Delete(pod) => {
            if let Some((pod, desired)) = Desired::of(pod) {
                // The last version tells the grace period of a forced deletion.
                table.desired(&pod, desired);
                table.gone(&pod.uid);
            }
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some errors repeat their cause in their own text.
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}
