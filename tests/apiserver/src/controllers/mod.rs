//! Small stand-ins for the scheduler and the controller manager.
//!
//! They live beside the store: their reads and writes are neither counted nor subject to fault rules. Each
//! is level-triggered: it decides from what is stored, not from the event that woke it.

mod certificates;
mod deployment;
mod disruption;
mod garbage;
mod job;
mod namespace;
mod node;
mod pod_gc;
mod replica_set;
mod scheduler;
mod taints;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::ApiServer;
use crate::error::ApiError;
use crate::identity::Identity;
use crate::kinds;
use crate::resources::{self, Resource};
use crate::rest::{self, DeleteOptions, delete_object};
use crate::selector::Selector;
use crate::store::{Event, Key, Object, Scope};

/// A controller that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Controller {
    /// Assigns pods to nodes: selector, required node affinity, taints, capacity; least-loaded node first.
    Scheduler,
    /// Deployment to ReplicaSets: rolling update, recreate, history.
    Deployment,
    /// ReplicaSet to pods.
    ReplicaSet,
    /// Job to pods: completions, back-off limit, pod failure policy on exit codes.
    Job,
    /// Deletes what lost its owner; orphans or deletes dependents as a deletion asked.
    GarbageCollector,
    /// Empties and ends namespaces that are being deleted.
    Namespace,
    /// Taints nodes by readiness; nodes without heartbeats for 50 s become unknown.
    NodeLifecycle,
    /// Deletes pods that don't tolerate a `NoExecute` taint, in time.
    TaintEviction,
    /// Fails and removes pods of nodes that are gone for 40 s.
    PodGc,
    /// Signs approved certificate requests; approves those of node clients, not those of kubelet servers.
    Certificates,
    /// As [`Controller::Certificates`], and approves kubelet serving certificates too.
    CertificatesApproveServing,
    /// Keeps the status of disruption budgets.
    Disruption,
}

impl Controller {
    /// All of them, kubelet serving certificates approved.
    pub const ALL: [Self; 11] = [
        Self::Scheduler,
        Self::Deployment,
        Self::ReplicaSet,
        Self::Job,
        Self::GarbageCollector,
        Self::Namespace,
        Self::NodeLifecycle,
        Self::TaintEviction,
        Self::PodGc,
        Self::CertificatesApproveServing,
        Self::Disruption,
    ];
}

/// Controllers that run until this is dropped.
#[derive(Debug)]
pub struct Running {
    _tasks: JoinSet<()>,
}

impl ApiServer {
    /// Starts controllers; they stop when the returned value is dropped.
    #[must_use = "dropping it stops the controllers"]
    pub fn start(&self, controllers: impl IntoIterator<Item = Controller>) -> Running {
        let mut tasks = JoinSet::new();
        for controller in controllers {
            let server = self.clone();
            match controller {
                Controller::Scheduler => tasks.spawn(scheduler::run(server)),
                Controller::Deployment => tasks.spawn(deployment::run(server)),
                Controller::ReplicaSet => tasks.spawn(replica_set::run(server)),
                Controller::Job => tasks.spawn(job::run(server)),
                Controller::GarbageCollector => tasks.spawn(garbage::run(server)),
                Controller::Namespace => tasks.spawn(namespace::run(server)),
                Controller::NodeLifecycle => tasks.spawn(node::run(server)),
                Controller::TaintEviction => tasks.spawn(taints::run(server)),
                Controller::PodGc => tasks.spawn(pod_gc::run(server)),
                Controller::Certificates => tasks.spawn(certificates::run(server, false)),
                Controller::CertificatesApproveServing => tasks.spawn(certificates::run(server, true)),
                Controller::Disruption => tasks.spawn(disruption::run(server)),
            };
        }
        Running { _tasks: tasks }
    }
}

/// A change a controller is told of.
type Change = (&'static Resource, Arc<Event>);

/// What there is and what changes, in batches of what is ready. A subscription that fell behind starts over.
fn feed(server: &ApiServer, resources: &[&'static Resource]) -> BoxStream<'static, Vec<Change>> {
    let one = |resource: &'static Resource| {
        let server = server.clone();
        let start = server.store().follow(resource);
        futures::stream::unfold(start, move |mut subscription| {
            let server = server.clone();
            async move {
                loop {
                    if let Some(event) = subscription.backlog.pop_front() {
                        return Some(((resource, event), subscription));
                    }
                    match subscription.queue.recv().await {
                        Some(event) => return Some(((resource, event), subscription)),
                        None => subscription = server.store().follow(resource),
                    }
                }
            }
        })
        .boxed()
    };
    futures::stream::select_all(resources.iter().map(|r| one(r))).ready_chunks(1024).boxed()
}

/// Keys of the objects of `kind` that a batch is about: themselves, or owners of others.
fn affected(batch: &[Change], resource: &Resource) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for (changed, event) in batch {
        if changed.is(resource) {
            keys.insert(Key::of(&event.object));
            continue;
        }
        let versions = [Some(&event.object), event.before.as_ref()];
        for object in versions.into_iter().flatten() {
            if let Some(owner) = controller_of(object).filter(|o| o["kind"] == resource.kind) {
                let namespace = object["metadata"]["namespace"].as_str().unwrap_or("");
                keys.insert(Key::new(namespace, owner["name"].as_str().unwrap_or("")));
            }
        }
    }
    keys
}

/// The owner that controls an object.
fn controller_of(object: &Value) -> Option<&Value> {
    object["metadata"]["ownerReferences"].as_array()?.iter().find(|o| o["controller"] == true)
}

fn is_controlled_by(object: &Value, owner: &Object) -> bool {
    controller_of(object).is_some_and(|o| o["uid"] == owner.uid())
}

fn owner_reference(resource: &Resource, owner: &Object) -> Value {
    json!([{
        "apiVersion": resource.api_version(), "kind": resource.kind, "name": owner["metadata"]["name"],
        "uid": owner.uid(), "controller": true, "blockOwnerDeletion": true,
    }])
}

/// Makes an owner the controller of what its selector matches and nobody controls.
fn adopt(server: &ApiServer, owner: (&Resource, &Object), resource: &'static Resource) {
    let (owner_resource, owner) = owner;
    let Some(selector) = Selector::of_workload(&owner["spec"]["selector"]) else { return };
    let namespace = owner["metadata"]["namespace"].as_str().unwrap_or("");
    for object in server.store().all(resource, &Scope::in_namespace(namespace)) {
        let matches = selector.matches_labels(&object["metadata"]["labels"]);
        if !matches || controller_of(&object).is_some() || is_deleting(&object) {
            continue;
        }
        let adopted = change(server, resource, &Key::of(&object), "", |object| {
            object["metadata"]["ownerReferences"] = owner_reference(owner_resource, owner);
        });
        if let Err(error) = adopted {
            tracing::debug!(%error, "orphan is gone");
        }
    }
}

fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Changes an object (`subresource` empty) or its status under the usual rules; no change, no write.
fn change(
    server: &ApiServer,
    resource: &'static Resource,
    key: &Key,
    subresource: &str,
    edit: impl Fn(&mut Value),
) -> Result<Arc<Object>, ApiError> {
    server.store().update(resource, key, |old| {
        let mut new = Value::clone(old);
        edit(&mut new);
        kinds::prepare_update(resource, subresource, old, &mut new)?;
        kinds::drop_nulls(&mut new);
        Ok((new != **old).then_some(new))
    })
}

/// Creates an object as a controller.
fn create(
    server: &ApiServer,
    resource: &'static Resource,
    namespace: &str,
    object: Value,
) -> Result<Arc<Object>, ApiError> {
    let caller = Identity::new("system:kube-controller-manager", []);
    rest::create_object(server, resource, namespace, rest::decode(resource, object)?, &caller, false)
}

/// Deletes one incarnation of an object; another under the name, or none, is left alone.
fn delete(server: &ApiServer, resource: &'static Resource, object: &Object, options: DeleteOptions) {
    let options = DeleteOptions { uid: Some(object.uid().to_owned()), ..options };
    if let Err(error) = delete_object(server, resource, &Key::of(object), &options) {
        tracing::debug!(%error, "nothing to delete");
    }
}

/// Writes an event about an object.
fn emit(
    server: &ApiServer,
    about: (&Resource, &Object),
    component: &str,
    kind: &str,
    reason: &str,
    message: &str,
) {
    let (resource, object) = about;
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or("");
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    let id = server.new_uid().replace('-', "");
    let time = server.clock().time();
    let event = json!({
        "metadata": {"name": format!("{name}.{}", &id[..16])},
        "involvedObject": {
            "apiVersion": resource.api_version(), "kind": resource.kind, "name": name,
            "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": kind, "reason": reason, "message": message, "count": 1,
        "firstTimestamp": time, "lastTimestamp": time,
        "source": {"component": component}, "reportingComponent": component,
    });
    if let Err(error) = create(server, resources::events(), namespace, event) {
        // An event of an ending namespace, for one.
        tracing::debug!(%error, "event not written");
    }
}
