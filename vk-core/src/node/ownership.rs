//! Which parts of the Node object are ours, remembered on the object itself.
//!
//! A label that was configured yesterday and is not today has to go, one that a user added has to stay, and
//! only a memory that outlives the process tells them apart. The Go Virtual Kubelet keeps such a memory in two
//! annotations of its own; what they say it owned is taken over, so that what it left is cleaned up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::core::v1::{Node, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::object::PROVIDER_TAINT;

/// The annotation that holds [`Owned`] as JSON.
pub(crate) const OWNED_ANNOTATION: &str = "virtual-kubelet.io/owned";
/// The Go Virtual Kubelet's: the metadata it wrote last.
pub(crate) const GO_META_ANNOTATION: &str = "virtual-kubelet.io/last-applied-object-meta";
/// The Go Virtual Kubelet's: the status it wrote last.
pub(crate) const GO_STATUS_ANNOTATION: &str = "virtual-kubelet.io/last-applied-node-status";

/// The keys of what is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Owned {
    pub(crate) labels: BTreeSet<String>,
    pub(crate) annotations: BTreeSet<String>,
    /// `key:effect`.
    pub(crate) taints: BTreeSet<String>,
    /// Of capacity and allocatable. Others may advertise extended resources of their own.
    pub(crate) resources: BTreeSet<String>,
}

/// What an object says about its past.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) owned: Owned,
    /// Types of conditions that a Go Virtual Kubelet wrote.
    pub(crate) conditions: BTreeSet<String>,
}

impl Owned {
    /// How a taint is remembered.
    pub(crate) fn taint(taint: &Taint) -> String {
        format!("{}:{}", taint.key, taint.effect)
    }
}

impl fmt::Display for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Past {
    pub(crate) fn of(node: &Node) -> Self {
        let empty = BTreeMap::new();
        let annotations = node.metadata.annotations.as_ref().unwrap_or(&empty);
        let mut past = Self::default();
        if let Some(text) = annotations.get(OWNED_ANNOTATION) {
            past.owned = read(OWNED_ANNOTATION, text);
        }
        if let Some(text) = annotations.get(GO_META_ANNOTATION) {
            let meta: ObjectMeta = read(GO_META_ANNOTATION, text);
            past.owned.labels.extend(meta.labels.unwrap_or_default().into_keys());
            past.owned.annotations.extend(meta.annotations.unwrap_or_default().into_keys());
            // It does not remember its taint, but the key is nobody else's.
            for effect in ["NoSchedule", "PreferNoSchedule", "NoExecute"] {
                past.owned.taints.insert(format!("{PROVIDER_TAINT}:{effect}"));
            }
        }
        if let Some(text) = annotations.get(GO_STATUS_ANNOTATION) {
            let status: NodeStatus = read(GO_STATUS_ANNOTATION, text);
            past.owned.resources.extend(status.capacity.unwrap_or_default().into_keys());
            past.conditions = status.conditions.unwrap_or_default().into_iter().map(|c| c.type_).collect();
        }
        past
    }
}

/// A broken memory is none: nothing is removed on the strength of it, and it is written anew.
fn read<T: Default + serde::de::DeserializeOwned>(annotation: &str, text: &str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::warn!(annotation, %error, "the node's annotation cannot be read and is ignored");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(annotations: &[(&str, &str)]) -> Node {
        let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Node {
            metadata: ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() },
            ..Node::default()
        }
    }

    fn set(keys: &[&str]) -> BTreeSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn what_is_owned_survives_being_written_down() {
        let owned = Owned { labels: set(&["a", "b/c"]), taints: set(&["k:NoSchedule"]), ..Owned::default() };
        let past = Past::of(&node(&[(OWNED_ANNOTATION, &owned.to_string())]));
        assert_eq!(past.owned, owned);
    }

    #[test]
    fn what_a_go_virtual_kubelet_wrote_is_taken_over() {
        let past = Past::of(&node(&[
            (
                GO_META_ANNOTATION,
                r#"{"name":"n","creationTimestamp":null,"labels":{"type":"virtual-kubelet","old":"x"}}"#,
            ),
            (
                GO_STATUS_ANNOTATION,
                r#"{"capacity":{"cpu":"2","acme/fpga":"1"},"conditions":[{"type":"OutOfDisk","status":"False"}]}"#,
            ),
        ]));
        assert_eq!(past.owned.labels, set(&["type", "old"]));
        assert_eq!(past.owned.resources, set(&["cpu", "acme/fpga"]));
        assert!(past.owned.taints.contains("virtual-kubelet.io/provider:NoSchedule"));
        assert_eq!(past.conditions, set(&["OutOfDisk"]));
    }

    #[test]
    fn a_broken_memory_owns_nothing() {
        let past = Past::of(&node(&[(OWNED_ANNOTATION, "{"), (GO_META_ANNOTATION, "[]")]));
        assert_eq!(past.owned.labels, BTreeSet::new());
    }
}
