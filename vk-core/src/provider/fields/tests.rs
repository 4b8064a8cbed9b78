//! The table against the types, and what is found in pods.

use std::cell::RefCell;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde::Deserialize as _;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Value, json};

use super::table::TABLE;
use super::*;
use crate::provider::Feature;

/// Finds out which fields a type has: it is asked to deserialize itself, and says by that what it would read.
#[derive(Clone)]
struct Explorer<'a> {
    path: String,
    /// An element of a list: only if it is an object has it fields of its own.
    element: bool,
    leaves: &'a RefCell<BTreeSet<String>>,
}

impl Explorer<'_> {
    fn leaf(&self) {
        self.leaves.borrow_mut().insert(self.path.clone());
    }
}

impl<'de> Deserializer<'de> for Explorer<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        // As good a text as any, and a time.
        visitor.visit_str("2026-01-02T03:04:05Z")
    }
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_bool(true)
    }
    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_i32(1)
    }
    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_i64(1)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor
            .visit_map(serde::de::value::MapDeserializer::<_, Error>::new(std::iter::empty::<(&str, &str)>()))
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(One(Some(Self { element: true, ..self })))
    }
    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.element {
            self.path.push_str("[]");
        }
        visitor.visit_map(Each { explorer: self, fields: fields.iter(), current: "" })
    }
    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct enum
        identifier ignored_any
    }
}

struct One<'a>(Option<Explorer<'a>>);

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|explorer| seed.deserialize(explorer)).transpose()
    }
}

struct Each<'a> {
    explorer: Explorer<'a>,
    fields: std::slice::Iter<'static, &'static str>,
    current: &'static str,
}

impl<'de> MapAccess<'de> for Each<'_> {
    type Error = Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.fields.next() else { return Ok(None) };
        self.current = name;
        let name: StrDeserializer<'_, Error> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let path = format!("{}.{}", self.explorer.path, self.current);
        seed.deserialize(Explorer { path, element: false, leaves: self.explorer.leaves })
    }
}

/// Every field of a specification that holds a value, from the type itself.
fn leaves() -> BTreeSet<String> {
    let leaves = RefCell::default();
    PodSpec::deserialize(Explorer { path: "spec".to_owned(), element: false, leaves: &leaves }).unwrap();
    leaves.into_inner()
}

#[test]
fn every_field_of_a_pod_is_classified() {
    let leaves = leaves();
    assert!(leaves.len() > 800, "{}", leaves.len());
    let is_covered = |leaf: &str| {
        TABLE.index(leaf).is_some()
            || TABLE.fields.iter().any(|field| {
                field.whole
                    && leaf.strip_prefix(field.path.as_str()).is_some_and(|rest| rest.starts_with(['.', '[']))
            })
    };
    let missing: Vec<_> = leaves.iter().filter(|leaf| !is_covered(leaf)).collect();
    assert!(missing.is_empty(), "say in the table whose these fields are: {missing:#?}");
}

#[test]
fn every_classified_field_is_a_pods() {
    let leaves = leaves();
    let exists = |path: &str| {
        leaves.iter().any(|leaf| {
            leaf.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    let gone: Vec<_> = TABLE.fields.iter().map(|field| &field.path).filter(|path| !exists(path)).collect();
    assert!(gone.is_empty(), "no pod has these fields: {gone:#?}");
    let mut paths: Vec<_> = TABLE.fields.iter().map(|field| &field.path).collect();
    let count = paths.len();
    paths.dedup();
    assert_eq!(paths.len(), count, "a field is classified twice");
}

fn nothing() -> FieldSupport {
    FieldSupport::of_pods("bare", Features::NONE)
}

fn pod(spec: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn found(spec: &Value, support: &FieldSupport) -> Vec<String> {
    unsupported(&pod(spec), support).into_iter().map(|finding| finding.path).collect()
}

#[test]
fn of_a_backend_that_honours_nothing_every_field_that_is_its_own_is_refused() {
    for features in [Features::NONE, Features::of(&Feature::ALL)] {
        check(&FieldSupport::of_pods("bare", features)).unwrap();
    }
    check(&FieldSupport::of_containers("bare")).unwrap();
    check(&FieldSupport::of_pods("all", Features::NONE).native("spec")).unwrap();
}

#[test]
fn what_the_api_server_writes_by_itself_asks_for_nothing() {
    let written = json!({
        "automountServiceAccountToken": true, "dnsPolicy": "ClusterFirst", "enableServiceLinks": true,
        "hostIPC": false, "hostNetwork": false, "hostPID": false, "hostUsers": true, "nodeName": "n",
        "preemptionPolicy": "PreemptLowerPriority", "priority": 0, "restartPolicy": "Always",
        "schedulerName": "default-scheduler", "securityContext": {}, "serviceAccount": "default",
        "serviceAccountName": "default", "shareProcessNamespace": false, "terminationGracePeriodSeconds": 30,
        "tolerations": [{"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists"}],
        "volumes": [{"name": "kube-api-access-x2x2x", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
        ]}}],
        "containers": [{
            "name": "a", "image": "web:1", "imagePullPolicy": "IfNotPresent", "resources": {},
            "ports": [{"containerPort": 80, "protocol": "TCP"}], "securityContext": {"privileged": false},
            "stdin": false, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "volumeMounts": [{"name": "kube-api-access-x2x2x", "readOnly": true,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        }],
    });
    assert_eq!(found(&written, &nothing().native("*.image")), [""; 0]);
}

#[test]
fn fields_are_named_where_they_stand_all_at_once_with_what_to_do() {
    let support = nothing()
        .native("*.image")
        .native("*.env[].value")
        .native("*.env[].name")
        .refused("spec.hostNetwork", "pods have addresses of their own; leave it out")
        .only("*.securityContext.capabilities.add", &["SYS_PTRACE"], "it adds no other")
        .only("spec.containers[].resources.limits", &["cpu"], "it has no such resource")
        .only("spec.dnsPolicy", &["Default"], "it has no cluster DNS");
    let asking = json!({
        "hostNetwork": true, "dnsPolicy": "None",
        "volumes": [{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/"}}],
        "containers": [
            {"name": "a", "image": "i", "resources": {"limits": {"cpu": "1", "example.com/gpu": "1"}}},
            {"name": "b", "image": "i", "livenessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 3},
             "securityContext": {"capabilities": {"add": ["SYS_PTRACE", "NET_ADMIN"]}}},
        ],
    });
    let wanted = [
        "spec.containers[0].resources.limits[example.com/gpu]",
        "spec.containers[1].livenessProbe",
        "spec.containers[1].securityContext.capabilities.add[1]",
        "spec.dnsPolicy",
        "spec.hostNetwork",
        "spec.volumes[0].emptyDir",
        "spec.volumes[1].hostPath",
    ];
    assert_eq!(found(&asking, &support), wanted);
    let all = unsupported(&pod(&asking), &support);
    assert_eq!(all[2].why, "NET_ADMIN is not taken: it adds no other");
    assert_eq!(all[4].why, "pods have addresses of their own; leave it out");
    assert!(all[1].why.contains("bare") && all[1].why.contains("leave it out"), "{}", all[1].why);
}

#[test]
fn what_is_passed_over_goes_with_what_is_nothing_without_it() {
    let asking = pod(&json!({
        "hostPID": true,
        "volumes": [{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {"server": "s", "path": "/"}}],
        "containers": [{
            "name": "a", "image": "i",
            "livenessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 3},
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, "capabilities": {"add": ["A", "B", "C"]}},
            "volumeMounts": [{"name": "e", "mountPath": "/e"}, {"name": "h", "mountPath": "/h"}, {"name": "n", "mountPath": "/n"}],
        }],
    }));
    let support = FieldSupport::of_pods("some", Features::of(&[Feature::LivenessProbes]))
        .native("spec")
        .refused("spec.hostPID", "no")
        .refused("spec.volumes[].hostPath", "no")
        .refused("spec.volumes[].nfs", "no")
        .refused("*.livenessProbe.tcpSocket", "no")
        .refused("*.securityContext.seccompProfile", "no")
        .only("*.securityContext.capabilities.add", &["B"], "no");
    let findings = unsupported(&asking, &support);
    assert_eq!(findings.len(), 7, "{findings:#?}");
    let stripped = without(&asking, &findings).unwrap();
    let wanted = pod(&json!({
        "volumes": [{"name": "e", "emptyDir": {}}],
        "containers": [{
            "name": "a", "image": "i",
            "securityContext": {"capabilities": {"add": ["B"]}},
            "volumeMounts": [{"name": "e", "mountPath": "/e"}],
        }],
    }));
    assert_eq!(stripped, wanted);
    assert_eq!(unsupported(&stripped, &support), []);
}

#[test]
fn a_policy_names_fields_or_groups_of_them_and_nothing_else() {
    let ignored = IgnoredFields::at(["spec.securityContext", "*.stdin"]).unwrap();
    let support = nothing();
    let asking = json!({"securityContext": {"runAsUser": 1}, "hostPID": true, "containers": [{"name": "a", "stdin": true}]});
    let kept: Vec<_> =
        unsupported(&pod(&asking), &support).into_iter().filter(|f| !ignored.contains(f)).collect();
    assert_eq!(kept.iter().map(|f| f.field).collect::<Vec<_>>(), ["spec.hostPID"]);
    for unknown in ["spec", "", "spec.host", "hostPID", "metadata.name"] {
        assert_eq!(IgnoredFields::at([unknown]).unwrap_err().path, unknown);
    }
    let known = IgnoredFields::known();
    for path in ["spec.containers", "spec.containers[].securityContext", "spec.volumes[].hostPath.path"] {
        assert!(known.iter().any(|known| known == path), "{path}");
        assert!(IgnoredFields::at([path]).is_ok(), "{path}");
    }
}

#[test]
#[should_panic(expected = "spec.nodeSelector is no field that the bare provider could honour")]
fn a_provider_answers_for_its_own_fields_alone() {
    let _ = nothing().native("spec.nodeSelector");
}

#[test]
fn without_exec_no_probe_and_no_hook_runs_a_command() {
    let support = FieldSupport::of_containers("bare").native("spec").without_exec();
    let asking = json!({"containers": [{
        "name": "a", "livenessProbe": {"exec": {"command": ["true"]}}, "readinessProbe": {"httpGet": {"port": 1}},
        "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
    }]});
    let wanted = ["spec.containers[0].lifecycle.preStop.exec", "spec.containers[0].livenessProbe.exec"];
    assert_eq!(found(&asking, &support), wanted);
}
