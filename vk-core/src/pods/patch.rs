//! From two statuses to the write between them: a strategic merge patch for `pods/status`.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::status::{owns_condition, shares_condition};

/// The body of the patch that brings a pod's status from `current` to `wanted`, `None` if nothing of ours
/// differs.
///
/// Only fields that a node owns are looked at, only those that differ are sent, and what vanishes is sent as
/// `null`; times are compared in whole seconds, as the API keeps them. The UID in the metadata makes the API
/// server answer 409 when the name belongs to another incarnation by now.
///
/// How lists merge follows the API's own tags (`k8s.io/api/core/v1/types.go`): conditions by type, so that
/// others' conditions are not in the patch at all; addresses by IP; container statuses not at all, so that a
/// list is sent whole. Where a merged list changes, its order is sent along, as a kubelet does: others'
/// conditions come first.
///
/// # Panics
///
/// Never: a status is always representable in JSON.
#[must_use]
pub fn status_patch(uid: &str, current: &PodStatus, wanted: &PodStatus) -> Option<Value> {
    let mut patch = Patch(Map::new());
    patch.field("phase", current.phase.as_ref(), wanted.phase.as_ref());
    patch.field("reason", current.reason.as_ref(), wanted.reason.as_ref());
    patch.field("message", current.message.as_ref(), wanted.message.as_ref());
    patch.field(
        "observedGeneration",
        current.observed_generation.as_ref(),
        wanted.observed_generation.as_ref(),
    );
    patch.field("qosClass", current.qos_class.as_ref(), wanted.qos_class.as_ref());
    patch.field("hostIP", current.host_ip.as_ref(), wanted.host_ip.as_ref());
    patch.field("podIP", current.pod_ip.as_ref(), wanted.pod_ip.as_ref());
    patch.field("resources", current.resources.as_ref(), wanted.resources.as_ref());
    patch.field(
        "allocatedResources",
        current.allocated_resources.as_ref(),
        wanted.allocated_resources.as_ref(),
    );
    if !same_time(current.start_time.as_ref(), wanted.start_time.as_ref()) {
        patch.set("startTime", wanted.start_time.as_ref());
    }
    let ips =
        |status: &PodStatus| status.host_ips.iter().flatten().map(|ip| ip.ip.clone()).collect::<Vec<_>>();
    patch.addresses("hostIPs", &ips(current), &ips(wanted));
    let ips =
        |status: &PodStatus| status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect::<Vec<_>>();
    patch.addresses("podIPs", &ips(current), &ips(wanted));
    patch.list(
        "initContainerStatuses",
        current.init_container_statuses.as_deref(),
        wanted.init_container_statuses.as_deref(),
    );
    patch.list(
        "containerStatuses",
        current.container_statuses.as_deref(),
        wanted.container_statuses.as_deref(),
    );
    patch.list(
        "ephemeralContainerStatuses",
        current.ephemeral_container_statuses.as_deref(),
        wanted.ephemeral_container_statuses.as_deref(),
    );
    patch.conditions(
        current.conditions.as_deref().unwrap_or_default(),
        wanted.conditions.as_deref().unwrap_or_default(),
    );
    (!patch.0.is_empty()).then(|| json!({ "metadata": { "uid": uid }, "status": patch.0 }))
}

struct Patch(Map<String, Value>);

impl Patch {
    fn field<T: Serialize + PartialEq>(&mut self, name: &str, current: Option<&T>, wanted: Option<&T>) {
        if current != wanted {
            self.set(name, wanted);
        }
    }

    fn set<T: Serialize>(&mut self, name: &str, wanted: Option<&T>) {
        self.0.insert(name.to_owned(), to_value(&wanted));
    }

    /// A list without a merge key: sent whole.
    fn list<T: Serialize + PartialEq>(&mut self, name: &str, current: Option<&[T]>, wanted: Option<&[T]>) {
        let current = current.filter(|l| !l.is_empty());
        let wanted = wanted.filter(|l| !l.is_empty());
        if current == wanted {
            return;
        }
        // Compared as they are written: the API's times have whole seconds, and what is null is not there.
        let new = to_value(&wanted);
        if to_value(&current) != new {
            self.0.insert(name.to_owned(), new);
        }
    }

    fn addresses(&mut self, name: &str, current: &[String], wanted: &[String]) {
        if current == wanted {
            return;
        }
        if wanted.is_empty() {
            self.0.insert(name.to_owned(), Value::Null);
            return;
        }
        let order: Vec<_> = wanted.iter().map(|ip| json!({ "ip": ip })).collect();
        let mut list: Vec<_> =
            wanted.iter().filter(|ip| !current.contains(ip)).map(|ip| json!({ "ip": ip })).collect();
        list.extend(
            current
                .iter()
                .filter(|ip| !wanted.contains(ip))
                .map(|ip| json!({ "$patch": "delete", "ip": ip })),
        );
        self.0.insert(format!("$setElementOrder/{name}"), Value::Array(order));
        if !list.is_empty() {
            self.0.insert(name.to_owned(), Value::Array(list));
        }
    }

    fn conditions(&mut self, current: &[PodCondition], wanted: &[PodCondition]) {
        let ours = |c: &&PodCondition| owns_condition(&c.type_);
        let mut list = Vec::new();
        for new in wanted.iter().filter(|c| owns_condition(&c.type_) || shares_condition(&c.type_)) {
            let old = current.iter().find(|c| c.type_ == new.type_);
            if old.is_none_or(|old| !same_condition(old, new)) {
                list.push(condition(old, new));
            }
        }
        for old in current.iter().filter(ours) {
            if !wanted.iter().any(|c| c.type_ == old.type_) {
                list.push(json!({ "$patch": "delete", "type": old.type_ }));
            }
        }
        if !list.is_empty() {
            let order: Vec<_> = wanted.iter().map(|c| json!({ "type": c.type_ })).collect();
            self.0.insert("$setElementOrder/conditions".to_owned(), Value::Array(order));
            self.0.insert("conditions".to_owned(), Value::Array(list));
        }
    }
}

/// A condition's type and what of it differs.
fn condition(old: Option<&PodCondition>, new: &PodCondition) -> Value {
    let mut patch = Patch(Map::new());
    let none = PodCondition::default();
    let before = old.unwrap_or(&none);
    patch.0.insert("type".to_owned(), Value::String(new.type_.clone()));
    if before.status != new.status {
        patch.0.insert("status".to_owned(), Value::String(new.status.clone()));
    }
    patch.field("reason", before.reason.as_ref(), new.reason.as_ref());
    patch.field("message", before.message.as_ref(), new.message.as_ref());
    patch.field("observedGeneration", before.observed_generation.as_ref(), new.observed_generation.as_ref());
    if !same_time(before.last_transition_time.as_ref(), new.last_transition_time.as_ref()) {
        patch.set("lastTransitionTime", new.last_transition_time.as_ref());
    }
    if !same_time(before.last_probe_time.as_ref(), new.last_probe_time.as_ref()) {
        patch.set("lastProbeTime", new.last_probe_time.as_ref());
    }
    Value::Object(patch.0)
}

fn same_condition(a: &PodCondition, b: &PodCondition) -> bool {
    a.status == b.status
        && a.reason == b.reason
        && a.message == b.message
        && a.observed_generation == b.observed_generation
        && same_time(a.last_transition_time.as_ref(), b.last_transition_time.as_ref())
        && same_time(a.last_probe_time.as_ref(), b.last_probe_time.as_ref())
}

fn same_time(a: Option<&Time>, b: Option<&Time>) -> bool {
    a.map(|t| t.0.as_second()) == b.map(|t| t.0.as_second())
}

fn to_value<T: Serialize>(value: &T) -> Value {
    // The API types have string keys only, and a `Timestamp` holds no year that cannot be written.
    serde_json::to_value(value).expect("an API object is representable in JSON")
}
