//! The difference between the Node object as it is and as it should be, as patches of what is ours: pure
//! functions, and nothing when nothing differs.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Map, Value, json};

use super::conditions;
use super::object::DesiredNode;
use super::ownership::{GO_META_ANNOTATION, GO_STATUS_ANNOTATION, OWNED_ANNOTATION, Owned, Past};
use super::quantity;

/// What the API server does not let this client do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// No labels beyond those that a node may give itself (admission plugin NodeRestriction).
    pub(crate) node_labels_only: bool,
    /// No change of taints after creation (NodeRestriction).
    pub(crate) no_taints: bool,
    /// No patch of the Node itself but only of its status (the Go Virtual Kubelet's RBAC): labels and
    /// annotations go with the status, taints and providerID not at all.
    pub(crate) status_only: bool,
}

/// A patch of the object itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ObjectPatch {
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    taints: Option<Vec<Taint>>,
    provider_id: Option<String>,
}

impl ObjectPatch {
    /// From `live` to `desired`.
    pub(crate) fn between(live: &Node, desired: &DesiredNode, limits: Limits) -> Self {
        if !desired.complete {
            // What the provider contributes is unknown, and must not be removed for that.
            return Self::default();
        }
        let past = Past::of(live);
        let mut owned = desired.owned();
        let may = |label: &str| !limits.node_labels_only || may_label_itself(label);
        owned.labels.retain(|label| may(label));
        let mut labels = changes(live.metadata.labels.as_ref(), &desired.labels, &past.owned.labels);
        labels.retain(|label, _| may(label));
        let live_annotations = live.metadata.annotations.as_ref();
        let mut annotations = changes(live_annotations, &desired.annotations, &past.owned.annotations);
        let annotation = |key: &str| live_annotations.and_then(|all| all.get(key));
        for key in [GO_META_ANNOTATION, GO_STATUS_ANNOTATION] {
            if annotation(key).is_some() {
                annotations.insert(key.to_owned(), Value::Null);
            }
        }
        let spec = live.spec.as_ref();
        let mut patch = Self { labels, annotations, taints: None, provider_id: None };
        let live_taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        if limits.no_taints || limits.status_only {
            owned.taints.clone_from(&past.owned.taints);
        } else {
            patch.taints = taints(live_taints, &desired.taints, &past.owned.taints);
        }
        if !limits.status_only && spec.is_none_or(|spec| spec.provider_id.is_none()) {
            patch.provider_id.clone_from(&desired.provider_id);
        }
        let owned = owned.to_string();
        if annotation(OWNED_ANNOTATION) != Some(&owned) {
            patch.annotations.insert(OWNED_ANNOTATION.to_owned(), owned.into());
        }
        patch
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn has_taints(&self) -> bool {
        self.taints.is_some()
    }

    /// Whether it needs labels that NodeRestriction forbids.
    pub(crate) fn has_forbidden_labels(&self) -> bool {
        self.labels.keys().any(|label| !may_label_itself(label))
    }

    /// A JSON merge patch. It applies to this incarnation of the object only, and, where it replaces the
    /// whole list of taints, to this version of it.
    pub(crate) fn to_json(&self, live: &Node) -> Value {
        let mut metadata = json!({ "uid": live.metadata.uid });
        if self.taints.is_some() {
            metadata["resourceVersion"] = json!(live.metadata.resource_version);
        }
        if !self.labels.is_empty() {
            metadata["labels"] = self.labels.clone().into();
        }
        if !self.annotations.is_empty() {
            metadata["annotations"] = self.annotations.clone().into();
        }
        let mut spec = Map::new();
        if let Some(taints) = &self.taints {
            spec.insert("taints".to_owned(), json!(taints));
        }
        if let Some(provider_id) = &self.provider_id {
            spec.insert("providerID".to_owned(), json!(provider_id));
        }
        let mut patch = json!({ "metadata": metadata });
        if !spec.is_empty() {
            patch["spec"] = spec.into();
        }
        patch
    }
}

/// A strategic-merge patch of the status to what it should be; `None` if nothing differs but heartbeats and
/// `due` does not ask for those.
pub(crate) fn status_patch(
    live: &Node,
    desired: &DesiredNode,
    ours: &[NodeCondition],
    due: bool,
) -> Option<Value> {
    let nothing = NodeStatus::default();
    let status = live.status.as_ref().unwrap_or(&nothing);
    let past = Past::of(live);
    let mut patch = Map::new();
    if desired.complete {
        let resources = [
            ("capacity", status.capacity.as_ref(), &desired.capacity),
            ("allocatable", status.allocatable.as_ref(), &desired.allocatable),
        ];
        for (field, live, desired) in resources {
            let changes = amounts(live, desired, &past.owned);
            if !changes.is_empty() {
                patch.insert(field.to_owned(), changes.into());
            }
        }
        let info = status.node_info.as_ref();
        // What we leave empty is not ours.
        let info = diff_fields(info.map(|i| json!(i)).as_ref(), &json!(desired.system));
        if !info.is_empty() {
            patch.insert("nodeInfo".to_owned(), info.into());
        }
    }
    if status.addresses.as_deref().unwrap_or_default() != desired.addresses {
        patch.insert("addresses".to_owned(), replaced(&desired.addresses));
    }
    let endpoints = desired.daemon_endpoints();
    if status.daemon_endpoints.as_ref() != Some(&endpoints) {
        patch.insert("daemonEndpoints".to_owned(), json!(endpoints));
    }
    let live_conditions = status.conditions.as_deref().unwrap_or_default();
    let left_over: Vec<_> = live_conditions
        .iter()
        .filter(|c| past.conditions.contains(&c.type_) && !ours.iter().any(|our| our.type_ == c.type_))
        .map(|c| json!({ "$patch": "delete", "type": c.type_ }))
        .collect();
    let differ = conditions::differ(live_conditions, ours) || !left_over.is_empty();
    if !differ && !due && patch.is_empty() {
        return None;
    }
    // Beside other changes only: an API server with the feature switched off drops the field every time.
    if let Some(features) = &desired.declared_features
        && status.declared_features.as_deref().unwrap_or_default() != features
    {
        patch.insert("declaredFeatures".to_owned(), json!(features));
    }
    // Every write is a heartbeat.
    let conditions: Vec<_> = ours.iter().map(|c| json!(c)).chain(left_over).collect();
    patch.insert("conditions".to_owned(), conditions.into());
    Some(json!({ "metadata": { "uid": live.metadata.uid }, "status": patch }))
}

/// What to set and what to remove (`null`) in a map of texts.
fn changes(
    live: Option<&BTreeMap<String, String>>,
    desired: &BTreeMap<String, String>,
    owned: &BTreeSet<String>,
) -> Map<String, Value> {
    let live = |key: &String| live.and_then(|live| live.get(key));
    let set = desired
        .iter()
        .filter(|(key, value)| live(key) != Some(value))
        .map(|(key, value)| (key.clone(), json!(value)));
    let unset = owned
        .iter()
        .filter(|key| !desired.contains_key(*key) && live(key).is_some())
        .map(|key| (key.clone(), Value::Null));
    set.chain(unset).collect()
}

/// The same for amounts, which are compared by value. A resource without a domain is a node's own to state,
/// whoever stated it before.
fn amounts(
    live: Option<&BTreeMap<String, Quantity>>,
    desired: &BTreeMap<String, Quantity>,
    owned: &Owned,
) -> Map<String, Value> {
    let nothing = BTreeMap::new();
    let live = live.unwrap_or(&nothing);
    let set = desired
        .iter()
        .filter(|(name, amount)| !live.get(*name).is_some_and(|live| quantity::equal(live, amount)))
        .map(|(name, amount)| (name.clone(), json!(amount)));
    let ours = |name: &str| owned.resources.contains(name) || !name.contains('/');
    let unset = live
        .keys()
        .filter(|name| ours(name) && !desired.contains_key(*name))
        .map(|name| (name.clone(), Value::Null));
    set.chain(unset).collect()
}

/// The list of taints with ours changed in place and the others' left; `None` if it is as it should be.
fn taints(live: &[Taint], desired: &[Taint], owned: &BTreeSet<String>) -> Option<Vec<Taint>> {
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    // No value and an empty one are the same to the API server.
    let value = |taint: &Taint| taint.value.clone().filter(|value| !value.is_empty());
    let mut taints = Vec::with_capacity(live.len() + desired.len());
    for taint in live {
        match desired.iter().find(|ours| same(ours, taint)) {
            Some(ours) if value(ours) == value(taint) => taints.push(taint.clone()),
            // The time at which a NoExecute taint was added is not ours.
            Some(ours) => taints.push(Taint { value: value(ours), ..taint.clone() }),
            None if owned.contains(&Owned::taint(taint)) => {}
            None => taints.push(taint.clone()),
        }
    }
    taints.extend(desired.iter().filter(|ours| !live.iter().any(|t| same(ours, t))).cloned());
    (taints != live).then_some(taints)
}

/// The non-empty text fields in which `desired` differs.
fn diff_fields(live: Option<&Value>, desired: &Value) -> Map<String, Value> {
    let Value::Object(desired) = desired else { return Map::new() };
    desired
        .iter()
        .filter(|(field, value)| {
            // A first write has to name every field: the schema requires them.
            let ours = live.is_none() || value.as_str() != Some("");
            ours && live.and_then(|live| live.get(field.as_str())) != Some(value)
        })
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect()
}

/// The list of addresses merges by type, which is not unique, so it is replaced as a whole.
fn replaced(addresses: &[NodeAddress]) -> Value {
    let directive = json!({ "$patch": "replace" });
    std::iter::once(directive).chain(addresses.iter().map(|a| json!(a))).collect()
}

/// Whether NodeRestriction lets a node set this label on itself (`pkg/apis/well_known_labels.go` of
/// k8s.io/kubelet, and `getForbiddenLabels` of the plugin).
pub(crate) fn may_label_itself(label: &str) -> bool {
    const ALLOWED: [&str; 11] = [
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    ];
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within =
        |of: &str| domain.strip_suffix(of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    !(within("kubernetes.io") || within("k8s.io"))
        || ALLOWED.contains(&label)
        || within("kubelet.kubernetes.io")
        || within("node.kubernetes.io")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::config::NodeConfig;
    use crate::node::conditions::{Readiness, conditions};
    use crate::provider::NodeInfo;

    const NO_LIMITS: Limits = Limits { node_labels_only: false, no_taints: false, status_only: false };

    fn info() -> NodeInfo {
        let mut info = NodeInfo::new([("cpu".to_owned(), Quantity("4".to_owned()))].into());
        info.labels.insert("topology.kubernetes.io/region".to_owned(), "eu-1".to_owned());
        info
    }

    fn config() -> NodeConfig {
        NodeConfig::new("n").with_address("192.0.2.1".parse().unwrap()).with_label("team", "a")
    }

    fn desired(config: &NodeConfig, info: Option<&NodeInfo>) -> DesiredNode {
        DesiredNode::new(config, "mock", info, "v1.37.2").unwrap()
    }

    fn ours(live: &Node) -> Vec<NodeCondition> {
        let status = live.status.clone().unwrap_or_default();
        conditions(&status.conditions.unwrap_or_default(), &Readiness::Ready, Timestamp::UNIX_EPOCH)
    }

    /// A node as the API server would have it after its creation.
    fn live() -> Node {
        let mut node = desired(&config(), Some(&info())).to_node(ours(&Node::default()));
        node.metadata.uid = Some("u1".to_owned());
        node.metadata.resource_version = Some("7".to_owned());
        node
    }

    fn object_patch(live: &Node, desired: &DesiredNode) -> Value {
        ObjectPatch::between(live, desired, NO_LIMITS).to_json(live)
    }

    fn taint(key: &str, value: Option<&str>, effect: &str) -> Taint {
        Taint {
            key: key.to_owned(),
            value: value.map(str::to_owned),
            effect: effect.to_owned(),
            time_added: None,
        }
    }

    #[test]
    fn a_node_as_it_should_be_is_not_patched() {
        let live = live();
        let desired = desired(&config(), Some(&info()));
        assert!(ObjectPatch::between(&live, &desired, NO_LIMITS).is_empty());
        assert_eq!(status_patch(&live, &desired, &ours(&live), false), None);
    }

    #[test]
    fn declared_features_go_with_the_next_write_and_are_no_reason_for_one() {
        let mut live = live();
        live.status.as_mut().unwrap().declared_features = None;
        let mut config = config();
        let desired_now = desired(&config, Some(&info()));
        assert_eq!(status_patch(&live, &desired_now, &ours(&live), false), None);
        let patch = status_patch(&live, &desired_now, &ours(&live), true).unwrap();
        assert_eq!(patch["status"]["declaredFeatures"], json!(["ExtendWebSocketsToKubelet"]));
        config.websocket_streams = false;
        live.status.as_mut().unwrap().declared_features = Some(vec!["ExtendWebSocketsToKubelet".to_owned()]);
        let patch = status_patch(&live, &desired(&config, Some(&info())), &ours(&live), true).unwrap();
        assert_eq!(patch["status"]["declaredFeatures"], json!([]));
    }

    #[test]
    fn what_others_added_stays_and_what_they_changed_of_ours_is_repaired() {
        let mut live = live();
        let labels = live.metadata.labels.as_mut().unwrap();
        labels.insert("theirs".to_owned(), "x".to_owned());
        labels.insert("type".to_owned(), "changed".to_owned());
        labels.remove("kubernetes.io/role");
        live.spec.as_mut().unwrap().taints = Some(vec![taint("theirs", None, "NoExecute")]);
        let patch = object_patch(&live, &desired(&config(), Some(&info())));
        assert_eq!(
            patch,
            json!({
                "metadata": {
                    "uid": "u1",
                    "resourceVersion": "7",
                    "labels": { "type": "virtual-kubelet", "kubernetes.io/role": "agent" },
                },
                "spec": { "taints": [
                    { "key": "theirs", "effect": "NoExecute" },
                    { "key": "virtual-kubelet.io/provider", "value": "mock", "effect": "NoSchedule" },
                ] },
            })
        );
    }

    #[test]
    fn what_is_configured_no_more_goes_even_after_a_restart() {
        let mut old = config().with_label("gone", "x");
        old.annotations.insert("gone".to_owned(), "x".to_owned());
        old.taints = Some(vec![taint("gone", None, "NoSchedule"), taint("kept", Some("a"), "NoSchedule")]);
        let mut live = desired(&old, Some(&info())).to_node(Vec::new());
        live.metadata.uid = Some("u1".to_owned());
        let mut new = config();
        new.taints = Some(vec![taint("kept", Some("b"), "NoSchedule")]);
        let mut patch = object_patch(&live, &desired(&new, Some(&info())));
        let owned = patch["metadata"]["annotations"]["virtual-kubelet.io/owned"].take();
        assert!(!owned.as_str().unwrap().contains("gone"), "{owned}");
        assert_eq!(patch["metadata"]["labels"], json!({ "gone": null }));
        assert_eq!(patch["metadata"]["annotations"]["gone"], json!(null));
        assert_eq!(patch["spec"]["taints"], json!([{ "key": "kept", "value": "b", "effect": "NoSchedule" }]));
    }

    #[test]
    fn a_node_left_by_a_go_virtual_kubelet_is_cleaned_up() {
        let live: Node = serde_json::from_value(json!({
            "metadata": {
                "name": "n", "uid": "u1", "resourceVersion": "7",
                "labels": { "type": "virtual-kubelet", "old": "x", "users": "y" },
                "annotations": {
                    "virtual-kubelet.io/last-applied-object-meta":
                        r#"{"labels":{"type":"virtual-kubelet","old":"x"}}"#,
                    "virtual-kubelet.io/last-applied-node-status":
                        r#"{"capacity":{"cpu":"2","acme/fpga":"1"},"conditions":[{"type":"OutOfDisk","status":"False"}]}"#,
                    "users": "y",
                },
            },
            "spec": { "taints": [
                { "key": "virtual-kubelet.io/provider", "value": "old", "effect": "NoExecute" },
                { "key": "users", "effect": "NoSchedule" },
            ] },
            "status": {
                "capacity": { "cpu": "2", "acme/fpga": "1", "users/fpga": "1" },
                "conditions": [
                    { "type": "OutOfDisk", "status": "False" },
                    { "type": "Users", "status": "True" },
                ],
            },
        }))
        .unwrap();
        let desired = desired(&config(), Some(&info()));
        let object = object_patch(&live, &desired);
        assert_eq!(object["metadata"]["labels"]["old"], json!(null));
        assert!(object["metadata"]["labels"].get("users").is_none());
        let annotations = object["metadata"]["annotations"].as_object().unwrap();
        assert_eq!(annotations["virtual-kubelet.io/last-applied-object-meta"], json!(null));
        assert_eq!(annotations["virtual-kubelet.io/last-applied-node-status"], json!(null));
        assert!(!annotations.contains_key("users"));
        assert_eq!(
            object["spec"]["taints"],
            json!([
                { "key": "users", "effect": "NoSchedule" },
                { "key": "virtual-kubelet.io/provider", "value": "mock", "effect": "NoSchedule" },
            ])
        );
        let status = status_patch(&live, &desired, &ours(&live), false).unwrap();
        let capacity = &status["status"]["capacity"];
        assert_eq!((&capacity["cpu"], &capacity["acme/fpga"]), (&json!("4"), &json!(null)));
        assert!(capacity.get("users/fpga").is_none());
        let conditions = status["status"]["conditions"].as_array().unwrap();
        assert!(conditions.contains(&json!({ "$patch": "delete", "type": "OutOfDisk" })));
        assert!(conditions.iter().all(|c| c["type"] != "Users"));
    }

    #[test]
    fn a_provider_without_an_answer_removes_nothing() {
        let live = live();
        let desired = desired(&config(), None);
        assert!(ObjectPatch::between(&live, &desired, NO_LIMITS).is_empty());
        assert_eq!(status_patch(&live, &desired, &ours(&live), false), None);
    }

    #[test]
    fn a_provider_id_is_set_once_and_never_changed() {
        let mut live = live();
        let mut info = info();
        info.provider_id = Some("mock://2".to_owned());
        let desired = desired(&config(), Some(&info));
        assert!(ObjectPatch::between(&live, &desired, NO_LIMITS).is_empty());
        live.spec.as_mut().unwrap().provider_id = None;
        assert_eq!(object_patch(&live, &desired)["spec"], json!({ "providerID": "mock://2" }));
    }

    #[test]
    fn amounts_are_compared_by_value_and_changes_followed() {
        let mut live = live();
        let capacity = live.status.as_mut().unwrap().capacity.as_mut().unwrap();
        capacity.insert("cpu".to_owned(), Quantity("4000m".to_owned()));
        capacity.insert("hugepages-2Mi".to_owned(), Quantity("0".to_owned()));
        let mut info = info();
        assert_eq!(
            status_patch(&live, &desired(&config(), Some(&info)), &ours(&live), false).unwrap()["status"]["capacity"],
            json!({ "hugepages-2Mi": null })
        );
        info.capacity.insert("cpu".to_owned(), Quantity("5".to_owned()));
        let patch = status_patch(&live, &desired(&config(), Some(&info)), &ours(&live), false).unwrap();
        assert_eq!(patch["status"]["capacity"]["cpu"], "5");
        assert_eq!(patch["status"]["allocatable"], json!({ "cpu": "5" }));
    }

    #[test]
    fn a_due_report_is_conditions_alone() {
        let live = live();
        let patch = status_patch(&live, &desired(&config(), Some(&info())), &ours(&live), true).unwrap();
        let fields: Vec<_> = patch["status"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["conditions"]);
        assert_eq!(patch["metadata"], json!({ "uid": "u1" }));
    }

    #[test]
    fn changed_addresses_replace_the_whole_list() {
        let live = live();
        let config = config().with_address("2001:db8::1".parse().unwrap());
        let patch = status_patch(&live, &desired(&config, Some(&info())), &ours(&live), false).unwrap();
        assert_eq!(
            patch["status"]["addresses"],
            json!([
                { "$patch": "replace" },
                { "type": "InternalIP", "address": "192.0.2.1" },
                { "type": "InternalIP", "address": "2001:db8::1" },
                { "type": "Hostname", "address": "n" },
            ])
        );
    }

    #[test]
    fn a_restricted_node_touches_only_what_it_may() {
        let mut live = live();
        live.metadata.labels = None;
        live.spec.as_mut().unwrap().taints = None;
        let desired = desired(&config(), Some(&info()));
        assert!(ObjectPatch::between(&live, &desired, NO_LIMITS).has_forbidden_labels());
        let limits = Limits { node_labels_only: true, no_taints: true, status_only: false };
        let patch = ObjectPatch::between(&live, &desired, limits);
        assert!(!patch.has_forbidden_labels());
        assert!(!patch.has_taints());
        let labels: Vec<_> = patch.labels.keys().map(String::as_str).collect();
        assert_eq!(
            labels,
            [
                "beta.kubernetes.io/arch",
                "beta.kubernetes.io/os",
                "kubernetes.io/arch",
                "kubernetes.io/hostname",
                "kubernetes.io/os",
                "node.kubernetes.io/exclude-from-external-load-balancers",
                "team",
                "topology.kubernetes.io/region",
                "type",
            ]
        );
    }

    #[test]
    fn the_labels_that_a_node_may_give_itself_are_kubernetes_own_rule() {
        for label in ["type", "example.com/a", "a.kubelet.kubernetes.io/x", "notkubernetes.io/x"] {
            assert!(may_label_itself(label), "{label}");
        }
        for label in [
            "kubernetes.io/role",
            "node-restriction.kubernetes.io/a",
            "x.node-restriction.kubernetes.io/a",
            "k8s.io/a",
        ] {
            assert!(!may_label_itself(label), "{label}");
        }
    }
}
