//! The objects a pod refers to: what they are called, and what is in them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Secret, Service,
};

use super::services::ServiceFacts;

/// An object that a pod refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// What it is.
    pub kind: ObjectKind,
    /// Its namespace: the pod's, but for the Service `default/kubernetes`. Empty for what has none.
    pub namespace: Arc<str>,
    /// Its name. Empty for [`ObjectKind::Services`]; for [`ObjectKind::TrustBundles`] the signer's name and
    /// a label selector, with a space between.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.namespace, &*self.name) {
            ("", name) => write!(f, "{} {name}", self.kind.name()),
            (namespace, "") => write!(f, "{} in {namespace}", self.kind.name()),
            (namespace, name) => write!(f, "{} {namespace}/{name}", self.kind.name()),
        }
    }
}

/// The kinds that pods take environment, files and volumes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ObjectKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret: nothing of its data may be shown.
    Secret,
    /// One Service.
    Service,
    /// All Services of a namespace.
    Services,
    /// A ServiceAccount, of which only tokens are asked for.
    ServiceAccount,
    /// A PersistentVolumeClaim.
    Claim,
    /// A PersistentVolume.
    Volume,
    /// A ClusterTrustBundle.
    TrustBundle,
    /// All ClusterTrustBundles of a signer that have certain labels, as one.
    TrustBundles,
}

impl ObjectKind {
    /// As the API writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::Services => "Services",
            Self::ServiceAccount => "ServiceAccount",
            Self::Claim => "PersistentVolumeClaim",
            Self::Volume => "PersistentVolume",
            Self::TrustBundle => "ClusterTrustBundle",
            Self::TrustBundles => "ClusterTrustBundles of",
        }
    }

    /// As a kubelet's messages write it.
    pub(super) fn lower(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
            Self::Service | Self::Services => "services",
            Self::ServiceAccount => "serviceaccount",
            Self::Claim => "persistentvolumeclaim",
            Self::Volume => "persistentvolume",
            Self::TrustBundle | Self::TrustBundles => "clustertrustbundle",
        }
    }

    /// Whether single objects may be listed and watched by name with a node's own identity: the Node
    /// authorizer lets it do so with ConfigMaps and Secrets, and only read claims and volumes.
    pub(super) fn is_watchable(self) -> bool {
        matches!(self, Self::ConfigMap | Self::Secret)
    }

    /// Whether an answer may be a moment old. A kubelet reads Services from a cache, too.
    pub(super) fn is_kept_for_a_moment(self) -> bool {
        matches!(self, Self::Service | Self::Services)
    }
}

/// An object as it was read.
///
/// `Debug` shows keys, never values.
#[derive(Clone, Default, PartialEq)]
pub struct Object {
    /// `metadata.resourceVersion`.
    pub version: Option<String>,
    /// `data`.
    pub data: BTreeMap<String, Bytes>,
    /// A ConfigMap's `binaryData`: files only, never environment. A trust bundle's certificates.
    pub binary: BTreeMap<String, Bytes>,
    /// What other kinds hold.
    pub detail: Detail,
}

/// What there is in an object beside keys and values.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Detail {
    /// Nothing.
    #[default]
    None,
    /// Services with a cluster IP.
    Services(Vec<ServiceFacts>),
    /// The volume that a claim is bound to, if it is.
    Claim(Option<String>),
    /// A volume.
    Volume(Arc<PersistentVolumeSpec>),
}

impl Object {
    /// The bytes of a key as a file.
    pub(super) fn file(&self, key: &str) -> Option<&Bytes> {
        self.data.get(key).or_else(|| self.binary.get(key))
    }

    /// Every key with its bytes, as files.
    pub(super) fn files(&self) -> impl Iterator<Item = (&String, &Bytes)> {
        self.data.iter().chain(&self.binary)
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("version", &self.version)
            .field("keys", &self.files().map(|(key, _)| key).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl From<ConfigMap> for Object {
    fn from(map: ConfigMap) -> Self {
        Self {
            version: map.metadata.resource_version,
            data: map.data.into_iter().flatten().map(|(key, text)| (key, Bytes::from(text))).collect(),
            binary: map.binary_data.into_iter().flatten().map(|(k, b)| (k, Bytes::from(b.0))).collect(),
            detail: Detail::None,
        }
    }
}

impl From<Secret> for Object {
    fn from(secret: Secret) -> Self {
        Self {
            version: secret.metadata.resource_version,
            data: secret.data.into_iter().flatten().map(|(k, b)| (k, Bytes::from(b.0))).collect(),
            ..Self::default()
        }
    }
}

impl From<Service> for Object {
    fn from(service: Service) -> Self {
        let version = service.metadata.resource_version.clone();
        Self {
            version,
            detail: Detail::Services(ServiceFacts::of(&service).into_iter().collect()),
            ..Self::default()
        }
    }
}

impl From<PersistentVolumeClaim> for Object {
    fn from(claim: PersistentVolumeClaim) -> Self {
        let bound = claim.status.is_some_and(|status| status.phase.as_deref() == Some("Bound"));
        let volume = claim.spec.and_then(|spec| spec.volume_name).filter(|name| bound && !name.is_empty());
        Self { version: claim.metadata.resource_version, detail: Detail::Claim(volume), ..Self::default() }
    }
}

impl From<PersistentVolume> for Object {
    fn from(volume: PersistentVolume) -> Self {
        let spec = Arc::new(volume.spec.unwrap_or_default());
        Self { version: volume.metadata.resource_version, detail: Detail::Volume(spec), ..Self::default() }
    }
}

/// The key under which a trust bundle's certificates are kept in [`Object::binary`].
pub(super) const BUNDLE: &str = "trustBundle";

impl From<ClusterTrustBundle> for Object {
    fn from(bundle: ClusterTrustBundle) -> Self {
        let pem = Bytes::from(bundle.spec.trust_bundle);
        Self {
            version: bundle.metadata.resource_version,
            binary: [(BUNDLE.to_owned(), pem)].into(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_of_an_object_shows_keys_and_no_values() {
        let object = Object {
            version: Some("7".into()),
            data: [("password".to_owned(), Bytes::from("hunter2"))].into(),
            ..Object::default()
        };
        let shown = format!("{object:?}");
        assert!(shown.contains("password") && shown.contains('7'), "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }
}
