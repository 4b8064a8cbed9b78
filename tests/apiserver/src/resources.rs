//! The table of resources the server knows, one line each.

use std::sync::LazyLock;

use k8s_openapi::api::{
    apps::v1 as apps, authorization::v1 as authz, autoscaling::v2 as autoscaling, batch::v1 as batch,
    certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, networking::v1 as networking, node::v1 as node, policy::v1 as policy,
    rbac::v1 as rbac, scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::{
    api::authentication::v1 as authn, apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::shape;

/// One resource: where it is served, and the rules that differ from the plain ones.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "a row of independent facts")]
pub(crate) struct Resource {
    /// Position in the table; the store's key for it.
    pub(crate) id: usize,
    /// API group; empty for core.
    pub(crate) group: &'static str,
    /// Version within the group.
    pub(crate) version: &'static str,
    /// Plural name, as in the path.
    pub(crate) plural: &'static str,
    /// Singular name.
    pub(crate) singular: &'static str,
    /// Kind of its objects.
    pub(crate) kind: &'static str,
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
    /// Short names for kubectl.
    pub(crate) short: &'static [&'static str],
    /// Categories for kubectl, such as `all`.
    pub(crate) categories: &'static [&'static str],
    /// Whether `metadata.generation` counts the changes of `spec`.
    pub(crate) generation: bool,
    /// Subresources besides those handled by name.
    pub(crate) subresources: &'static [&'static str],
    /// Whether deletion answers with the object instead of a `Status`.
    pub(crate) returns_deleted: bool,
    /// Whether objects are stored, or only answered (reviews).
    pub(crate) stored: bool,
    /// Field selectors besides `metadata.name` and `metadata.namespace`.
    pub(crate) fields: &'static [(&'static str, &'static str)],
    /// Checks the types of the fields and drops those the kind doesn't have.
    pub(crate) normalize: fn(Value) -> Result<Value, serde_json::Error>,
}

impl Resource {
    /// `group/version`, or just the version in the core group.
    #[must_use]
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `plural.group`, as error messages name it.
    #[must_use]
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether the resource has the subresource.
    #[must_use]
    pub(crate) fn has_subresource(&self, name: &str) -> bool {
        self.subresources.contains(&name)
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    fn short(mut self, short: &'static [&'static str]) -> Self {
        self.short = short;
        self
    }

    fn all(mut self) -> Self {
        self.categories = &["all"];
        self
    }

    fn generation(mut self) -> Self {
        self.generation = true;
        self
    }

    fn sub(mut self, subresources: &'static [&'static str]) -> Self {
        self.subresources = subresources;
        self
    }

    fn returns_deleted(mut self) -> Self {
        self.returns_deleted = true;
        self
    }

    fn fields(mut self, fields: &'static [(&'static str, &'static str)]) -> Self {
        self.fields = fields;
        self
    }

    fn review(mut self) -> Self {
        self.stored = false;
        self
    }
}

/// All resources, in the order discovery lists them.
pub(crate) fn all() -> &'static [Resource] {
    &TABLE
}

/// The resource served at a path.
#[must_use]
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    TABLE.iter().find(|r| r.plural == plural && r.group == group && r.version == version)
}

/// The resource of a kind.
#[must_use]
pub(crate) fn of_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    TABLE.iter().find(|r| r.kind == kind && r.group == group && r.version == version)
}

macro_rules! shorthand {
    ($($name:ident = $group:literal / $version:literal / $plural:literal),* $(,)?) => {$(
        #[doc = concat!("The resource `", $plural, "`.")]
        #[must_use]
        pub(crate) fn $name() -> &'static Resource {
            static FOUND: LazyLock<&'static Resource> =
                LazyLock::new(|| find($group, $version, $plural).expect("a row of the table"));
            &FOUND
        }
    )*};
}

shorthand! {
    pods = "" / "v1" / "pods",
    nodes = "" / "v1" / "nodes",
    namespaces = "" / "v1" / "namespaces",
    events = "" / "v1" / "events",
    service_accounts = "" / "v1" / "serviceaccounts",
    config_maps = "" / "v1" / "configmaps",
    secrets = "" / "v1" / "secrets",
    leases = "coordination.k8s.io" / "v1" / "leases",
    deployments = "apps" / "v1" / "deployments",
    replica_sets = "apps" / "v1" / "replicasets",
    jobs = "batch" / "v1" / "jobs",
    csrs = "certificates.k8s.io" / "v1" / "certificatesigningrequests",
    pod_disruption_budgets = "policy" / "v1" / "poddisruptionbudgets",
    events_v1 = "events.k8s.io" / "v1" / "events",
}

/// The value without fields the type doesn't have; an error where a field has another type.
pub(crate) fn normalize<T: Serialize + DeserializeOwned>(value: Value) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(serde_json::from_value::<T>(value)?)?;
    shape::tidy(&mut value);
    shape::settle_quantities(&mut value).map_err(serde::de::Error::custom)?;
    Ok(value)
}

fn row<T: Serialize + DeserializeOwned>(
    group_version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    namespaced: bool,
) -> Resource {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    Resource {
        id: 0,
        group,
        version,
        plural,
        singular,
        kind,
        namespaced,
        short: &[],
        categories: &[],
        generation: false,
        subresources: &[],
        returns_deleted: false,
        stored: true,
        fields: &[],
        normalize: normalize::<T>,
    }
}

fn spaced<T: Serialize + DeserializeOwned>(
    group_version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
) -> Resource {
    row::<T>(group_version, plural, singular, kind, true)
}

fn global<T: Serialize + DeserializeOwned>(
    group_version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
) -> Resource {
    row::<T>(group_version, plural, singular, kind, false)
}

// Field selectors: pkg/apis/*/v1/conversion.go. The second half is where the value stands.
const POD_FIELDS: &[(&str, &str)] = &[
    ("spec.nodeName", "/spec/nodeName"),
    ("spec.restartPolicy", "/spec/restartPolicy"),
    ("spec.schedulerName", "/spec/schedulerName"),
    ("spec.serviceAccountName", "/spec/serviceAccountName"),
    ("spec.hostNetwork", "/spec/hostNetwork"),
    ("status.phase", "/status/phase"),
    ("status.podIP", "/status/podIP"),
    ("status.podIPs", "/status/podIP"),
    ("status.nominatedNodeName", "/status/nominatedNodeName"),
];
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject.kind", "/involvedObject/kind"),
    ("involvedObject.namespace", "/involvedObject/namespace"),
    ("involvedObject.name", "/involvedObject/name"),
    ("involvedObject.uid", "/involvedObject/uid"),
    ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
    ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    ("reason", "/reason"),
    ("reportingComponent", "/reportingComponent"),
    ("source", "/source/component"),
    ("type", "/type"),
];
const EVENT_V1_FIELDS: &[(&str, &str)] = &[
    ("regarding.kind", "/involvedObject/kind"),
    ("regarding.namespace", "/involvedObject/namespace"),
    ("regarding.name", "/involvedObject/name"),
    ("regarding.uid", "/involvedObject/uid"),
    ("regarding.apiVersion", "/involvedObject/apiVersion"),
    ("regarding.resourceVersion", "/involvedObject/resourceVersion"),
    ("regarding.fieldPath", "/involvedObject/fieldPath"),
    ("reason", "/reason"),
    ("reportingController", "/reportingComponent"),
    ("type", "/type"),
];
const STATUS: &[&str] = &["status"];
const SCALED: &[&str] = &["status", "scale"];

static TABLE: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let mut table = core_rows();
    table.extend(workload_rows());
    table.extend(cluster_rows());
    for (id, resource) in table.iter_mut().enumerate() {
        resource.id = id;
    }
    table
});

fn core_rows() -> Vec<Resource> {
    vec![
        spaced::<core::Binding>("v1", "bindings", "binding", "Binding").review(),
        spaced::<core::ConfigMap>("v1", "configmaps", "configmap", "ConfigMap").short(&["cm"]),
        spaced::<core::Endpoints>("v1", "endpoints", "endpoints", "Endpoints").short(&["ep"]),
        spaced::<core::Event>("v1", "events", "event", "Event").short(&["ev"]).fields(EVENT_FIELDS),
        spaced::<core::LimitRange>("v1", "limitranges", "limitrange", "LimitRange").short(&["limits"]),
        global::<core::Namespace>("v1", "namespaces", "namespace", "Namespace")
            .short(&["ns"])
            .sub(&["status", "finalize"])
            .fields(&[("status.phase", "/status/phase"), ("name", "/metadata/name")]),
        global::<core::Node>("v1", "nodes", "node", "Node")
            .short(&["no"])
            .sub(&["status", "proxy"])
            .fields(&[("spec.unschedulable", "/spec/unschedulable")]),
        spaced::<core::PersistentVolumeClaim>(
            "v1",
            "persistentvolumeclaims",
            "persistentvolumeclaim",
            "PersistentVolumeClaim",
        )
        .short(&["pvc"])
        .sub(STATUS)
        .returns_deleted(),
        global::<core::PersistentVolume>("v1", "persistentvolumes", "persistentvolume", "PersistentVolume")
            .short(&["pv"])
            .sub(STATUS)
            .returns_deleted(),
        spaced::<core::Pod>("v1", "pods", "pod", "Pod")
            .short(&["po"])
            .all()
            .generation()
            .sub(&[
                "attach",
                "binding",
                "ephemeralcontainers",
                "eviction",
                "exec",
                "log",
                "portforward",
                "proxy",
                "resize",
                "status",
            ])
            .returns_deleted()
            .fields(POD_FIELDS),
        spaced::<core::PodTemplate>("v1", "podtemplates", "podtemplate", "PodTemplate").returns_deleted(),
        spaced::<core::ReplicationController>(
            "v1",
            "replicationcontrollers",
            "replicationcontroller",
            "ReplicationController",
        )
        .short(&["rc"])
        .all()
        .generation()
        .sub(SCALED)
        .fields(&[("status.replicas", "/status/replicas")]),
        spaced::<core::ResourceQuota>("v1", "resourcequotas", "resourcequota", "ResourceQuota")
            .short(&["quota"])
            .sub(STATUS)
            .returns_deleted(),
        spaced::<core::Secret>("v1", "secrets", "secret", "Secret").fields(&[("type", "/type")]),
        spaced::<core::ServiceAccount>("v1", "serviceaccounts", "serviceaccount", "ServiceAccount")
            .short(&["sa"])
            .sub(&["token"])
            .returns_deleted(),
        spaced::<core::Service>("v1", "services", "service", "Service")
            .short(&["svc"])
            .all()
            .sub(STATUS)
            .returns_deleted()
            .fields(&[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")]),
    ]
}

fn workload_rows() -> Vec<Resource> {
    vec![
        spaced::<apps::ControllerRevision>(
            "apps/v1",
            "controllerrevisions",
            "controllerrevision",
            "ControllerRevision",
        ),
        spaced::<apps::DaemonSet>("apps/v1", "daemonsets", "daemonset", "DaemonSet")
            .short(&["ds"])
            .all()
            .generation()
            .sub(STATUS),
        spaced::<apps::Deployment>("apps/v1", "deployments", "deployment", "Deployment")
            .short(&["deploy"])
            .all()
            .generation()
            .sub(SCALED),
        spaced::<apps::ReplicaSet>("apps/v1", "replicasets", "replicaset", "ReplicaSet")
            .short(&["rs"])
            .all()
            .generation()
            .sub(SCALED)
            .fields(&[("status.replicas", "/status/replicas")]),
        spaced::<apps::StatefulSet>("apps/v1", "statefulsets", "statefulset", "StatefulSet")
            .short(&["sts"])
            .all()
            .generation()
            .sub(SCALED),
        spaced::<autoscaling::HorizontalPodAutoscaler>(
            "autoscaling/v2",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
            "HorizontalPodAutoscaler",
        )
        .short(&["hpa"])
        .all()
        .sub(STATUS),
        spaced::<batch::CronJob>("batch/v1", "cronjobs", "cronjob", "CronJob")
            .short(&["cj"])
            .all()
            .generation()
            .sub(STATUS),
        spaced::<batch::Job>("batch/v1", "jobs", "job", "Job")
            .all()
            .generation()
            .sub(STATUS)
            .fields(&[("status.successful", "/status/succeeded")]),
        spaced::<policy::PodDisruptionBudget>(
            "policy/v1",
            "poddisruptionbudgets",
            "poddisruptionbudget",
            "PodDisruptionBudget",
        )
        .short(&["pdb"])
        .generation()
        .sub(STATUS),
    ]
}

fn cluster_rows() -> Vec<Resource> {
    vec![
        global::<authn::TokenReview>(
            "authentication.k8s.io/v1",
            "tokenreviews",
            "tokenreview",
            "TokenReview",
        )
        .review(),
        global::<authn::SelfSubjectReview>(
            "authentication.k8s.io/v1",
            "selfsubjectreviews",
            "selfsubjectreview",
            "SelfSubjectReview",
        )
        .review(),
        spaced::<authz::LocalSubjectAccessReview>(
            "authorization.k8s.io/v1",
            "localsubjectaccessreviews",
            "localsubjectaccessreview",
            "LocalSubjectAccessReview",
        )
        .review(),
        global::<authz::SelfSubjectAccessReview>(
            "authorization.k8s.io/v1",
            "selfsubjectaccessreviews",
            "selfsubjectaccessreview",
            "SelfSubjectAccessReview",
        )
        .review(),
        global::<authz::SelfSubjectRulesReview>(
            "authorization.k8s.io/v1",
            "selfsubjectrulesreviews",
            "selfsubjectrulesreview",
            "SelfSubjectRulesReview",
        )
        .review(),
        global::<authz::SubjectAccessReview>(
            "authorization.k8s.io/v1",
            "subjectaccessreviews",
            "subjectaccessreview",
            "SubjectAccessReview",
        )
        .review(),
        global::<certificates::CertificateSigningRequest>(
            "certificates.k8s.io/v1",
            "certificatesigningrequests",
            "certificatesigningrequest",
            "CertificateSigningRequest",
        )
        .short(&["csr"])
        .sub(&["approval", "status"])
        .fields(&[("spec.signerName", "/spec/signerName")]),
        spaced::<coordination::Lease>("coordination.k8s.io/v1", "leases", "lease", "Lease"),
        spaced::<discovery::EndpointSlice>(
            "discovery.k8s.io/v1",
            "endpointslices",
            "endpointslice",
            "EndpointSlice",
        ),
        // Stored as the core event it also is; see `events.rs`.
        spaced::<core::Event>("events.k8s.io/v1", "events", "event", "Event")
            .short(&["ev"])
            .fields(EVENT_V1_FIELDS),
        global::<extensions::CustomResourceDefinition>(
            "apiextensions.k8s.io/v1",
            "customresourcedefinitions",
            "customresourcedefinition",
            "CustomResourceDefinition",
        )
        .short(&["crd", "crds"])
        .sub(STATUS),
        spaced::<networking::Ingress>("networking.k8s.io/v1", "ingresses", "ingress", "Ingress")
            .short(&["ing"])
            .generation()
            .sub(STATUS),
        spaced::<networking::NetworkPolicy>(
            "networking.k8s.io/v1",
            "networkpolicies",
            "networkpolicy",
            "NetworkPolicy",
        )
        .short(&["netpol"])
        .generation(),
        global::<node::RuntimeClass>("node.k8s.io/v1", "runtimeclasses", "runtimeclass", "RuntimeClass"),
        global::<rbac::ClusterRoleBinding>(
            "rbac.authorization.k8s.io/v1",
            "clusterrolebindings",
            "clusterrolebinding",
            "ClusterRoleBinding",
        ),
        global::<rbac::ClusterRole>(
            "rbac.authorization.k8s.io/v1",
            "clusterroles",
            "clusterrole",
            "ClusterRole",
        ),
        spaced::<rbac::RoleBinding>(
            "rbac.authorization.k8s.io/v1",
            "rolebindings",
            "rolebinding",
            "RoleBinding",
        ),
        spaced::<rbac::Role>("rbac.authorization.k8s.io/v1", "roles", "role", "Role"),
        global::<scheduling::PriorityClass>(
            "scheduling.k8s.io/v1",
            "priorityclasses",
            "priorityclass",
            "PriorityClass",
        )
        .short(&["pc"]),
        global::<storage::CSIDriver>("storage.k8s.io/v1", "csidrivers", "csidriver", "CSIDriver")
            .returns_deleted(),
        global::<storage::CSINode>("storage.k8s.io/v1", "csinodes", "csinode", "CSINode").returns_deleted(),
        global::<storage::StorageClass>(
            "storage.k8s.io/v1",
            "storageclasses",
            "storageclass",
            "StorageClass",
        )
        .short(&["sc"])
        .returns_deleted(),
        global::<storage::VolumeAttachment>(
            "storage.k8s.io/v1",
            "volumeattachments",
            "volumeattachment",
            "VolumeAttachment",
        )
        .sub(STATUS)
        .returns_deleted(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_resource_is_found_by_its_path_and_its_kind() {
        for resource in all() {
            let found = find(resource.group, resource.version, resource.plural).unwrap();
            assert!(found.is(resource), "{} is listed twice", resource.qualified());
            assert!(of_kind(&resource.api_version(), resource.kind).unwrap().is(resource));
        }
    }

    #[test]
    fn fields_of_no_kind_are_dropped_and_wrong_types_refused() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [], "colour": "red"}});
        let pod = (pods().normalize)(pod).unwrap();
        assert_eq!(pod["kind"], "Pod");
        assert_eq!(pod["spec"].get("colour"), None);
        (pods().normalize)(json!({"spec": {"containers": "none"}})).unwrap_err();
    }
}
