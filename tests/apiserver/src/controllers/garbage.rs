//! Deletes what lost its owner.
//!
//! Source: pkg/controller/garbagecollector.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use serde_json::Value;

use super::{change, delete, feed, is_deleting};
use crate::ApiServer;
use crate::resources::{self, Resource};
use crate::rest::DeleteOptions;
use crate::store::{Change as Kind, Key, Object};

/// (resource's id, key).
type Reference = (usize, Key);

#[derive(Default)]
struct Graph {
    /// Dependents by their owner's UID.
    dependents: HashMap<String, BTreeSet<Reference>>,
}

pub(super) async fn run(server: ApiServer) {
    let watched: Vec<&'static Resource> = resources::all()
        .iter()
        .filter(|r| r.stored && !r.is(resources::events()) && !r.is(resources::events_v1()))
        .collect();
    let mut changes = feed(&server, &watched);
    let mut graph = Graph::default();
    while let Some(batch) = changes.next().await {
        for (resource, event) in &batch {
            graph.note(resource, event.change, &event.object, event.before.as_ref());
        }
        // The graph first, so that a deletion in this batch finds its dependents.
        for (resource, event) in &batch {
            match event.change {
                Kind::Deleted => graph.owner_is_gone(&server, event.object.uid()),
                _ => graph.settle(&server, resource, &event.object),
            }
            if event.change != Kind::Added {
                // A change or loss of a dependent may be what an owner waits for.
                for owner in owners(&event.object) {
                    if let Some((resource, owner)) = find(&server, &event.object, owner) {
                        graph.settle(&server, resource, &owner);
                    }
                }
            }
        }
    }
}

fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten()
}

/// The owner a reference names, if it is there. An owner of an unknown kind can't be judged.
fn find(
    server: &ApiServer,
    dependent: &Value,
    reference: &Value,
) -> Option<(&'static Resource, Arc<Object>)> {
    let text = |field: &str| reference[field].as_str().unwrap_or("");
    let resource = resources::of_kind(text("apiVersion"), text("kind"))?;
    let namespace =
        if resource.namespaced { dependent["metadata"]["namespace"].as_str().unwrap_or("") } else { "" };
    let found = server.store().get(resource, &Key::new(namespace, text("name")))?;
    (reference["uid"] == found.uid()).then_some((resource, found))
}

fn is_known_kind(reference: &Value) -> bool {
    let text = |field: &str| reference[field].as_str().unwrap_or("");
    resources::of_kind(text("apiVersion"), text("kind")).is_some()
}

impl Graph {
    fn note(
        &mut self,
        resource: &Resource,
        change: Kind,
        object: &Arc<Object>,
        before: Option<&Arc<Object>>,
    ) {
        let reference = (resource.id, Key::of(object));
        for owner in before.into_iter().flat_map(|b| owners(b)) {
            let uid = owner["uid"].as_str().unwrap_or("");
            if let Some(dependents) = self.dependents.get_mut(uid) {
                dependents.remove(&reference);
                if dependents.is_empty() {
                    self.dependents.remove(uid);
                }
            }
        }
        if change != Kind::Deleted {
            for owner in owners(object) {
                let uid = owner["uid"].as_str().unwrap_or("").to_owned();
                self.dependents.entry(uid).or_default().insert(reference.clone());
            }
        }
    }

    fn dependents(&self, server: &ApiServer, uid: &str) -> Vec<(&'static Resource, Arc<Object>)> {
        let references = self.dependents.get(uid).into_iter().flatten();
        references
            .filter_map(|(id, key)| {
                let resource = &resources::all()[*id];
                Some((resource, server.store().get(resource, key)?))
            })
            .filter(|(_, object)| owners(object).any(|o| o["uid"] == uid))
            .collect()
    }

    fn owner_is_gone(&self, server: &ApiServer, uid: &str) {
        for (resource, dependent) in self.dependents(server, uid) {
            self.settle(server, resource, &dependent);
        }
    }

    /// Does what an object's owners, or its own deletion, ask for.
    fn settle(&self, server: &ApiServer, resource: &'static Resource, object: &Arc<Object>) {
        let has = |finalizer: &str| {
            let list = object["metadata"]["finalizers"].as_array().into_iter().flatten();
            is_deleting(object) && list.into_iter().any(|f| f == finalizer)
        };
        if has("orphan") {
            self.orphan(server, resource, object);
        } else if has("foregroundDeletion") {
            self.delete_dependents(server, resource, object);
        }
        let references: Vec<&Value> = owners(object).collect();
        if references.is_empty() || is_deleting(object) {
            return;
        }
        let dangling = |r: &&&Value| is_known_kind(r) && find(server, object, r).is_none();
        let lost: Vec<&str> = references.iter().filter(dangling).filter_map(|r| r["uid"].as_str()).collect();
        if lost.len() == references.len() {
            delete(server, resource, object, DeleteOptions::default());
        } else if !lost.is_empty() {
            disown(server, resource, object, &lost);
        }
    }

    fn orphan(&self, server: &ApiServer, resource: &'static Resource, owner: &Arc<Object>) {
        for (kind, dependent) in self.dependents(server, owner.uid()) {
            disown(server, kind, &dependent, &[owner.uid()]);
        }
        remove_finalizer(server, resource, owner, "orphan");
    }

    fn delete_dependents(&self, server: &ApiServer, resource: &'static Resource, owner: &Arc<Object>) {
        let dependents = self.dependents(server, owner.uid());
        let blocks = |object: &Value| {
            owners(object).any(|o| o["uid"] == owner.uid() && o["blockOwnerDeletion"] == true)
        };
        let waits = dependents.iter().any(|(_, d)| blocks(d));
        for (kind, dependent) in &dependents {
            if !is_deleting(dependent) {
                delete(server, kind, dependent, DeleteOptions::foreground());
            }
        }
        if !waits {
            remove_finalizer(server, resource, owner, "foregroundDeletion");
        }
    }
}

fn disown(server: &ApiServer, resource: &'static Resource, object: &Arc<Object>, uids: &[&str]) {
    let written = change(server, resource, &Key::of(object), "", |object| {
        if let Some(list) = object["metadata"]["ownerReferences"].as_array_mut() {
            list.retain(|o| !uids.contains(&o["uid"].as_str().unwrap_or("")));
            if list.is_empty() {
                object["metadata"]["ownerReferences"] = Value::Null;
            }
        }
    });
    if let Err(error) = written {
        tracing::debug!(%error, "dependent is gone");
    }
}

fn remove_finalizer(server: &ApiServer, resource: &'static Resource, object: &Arc<Object>, name: &str) {
    let key = Key::of(object);
    let written = change(server, resource, &key, "", |object| {
        if let Some(list) = object["metadata"]["finalizers"].as_array_mut() {
            list.retain(|f| f != name);
            if list.is_empty() {
                object["metadata"]["finalizers"] = Value::Null;
            }
        }
    });
    match written {
        Ok(written) => drop(crate::rest::finish_deletion(server, resource, &key, &written)),
        Err(error) => tracing::debug!(%error, "owner is gone"),
    }
}
