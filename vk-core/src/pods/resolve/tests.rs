//! Whole pods through the resolver.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::fake::Fake;
use super::*;

mod contents;
mod environment;
mod missing;
mod volumes;

/// A pod in namespace `ns` with this specification.
fn pod(spec: Json) -> Arc<Pod> {
    let metadata = json!({
        "name": "pod", "namespace": "ns", "uid": "u-1",
        "labels": {"app": "x", "example.test/l": "v"},
        "annotations": {"example.test/a": "q\"uote", "note": "two\nlines"},
    });
    let mut pod = json!({"metadata": metadata});
    pod["spec"] = spec;
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// A pod with one container `a` that has these fields.
fn pod_of(container: Json) -> Arc<Pod> {
    let mut container = container;
    container["name"] = "a".into();
    pod(json!({"nodeName": "node", "serviceAccountName": "default", "containers": [container]}))
}

fn resolver(fake: &Fake) -> Resolver<Fake> {
    Resolver::with_reader(fake.clone(), Recorder::default())
}

impl Resolver<Fake> {
    /// Events recorded for the pod so far, in no order that matters.
    fn events(&self) -> Vec<(Reason, String, Option<String>)> {
        let mut all: Vec<_> = self.memory().values().flat_map(|memory| memory.told.iter().cloned()).collect();
        all.sort();
        all
    }
}
