//! What things are called: pods by UID, containers by pod and name.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

/// A pod's UID, the only key under which anything about a pod is kept.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(Arc<str>);

impl PodUid {
    /// Wraps a UID as the API server assigned it.
    #[must_use]
    pub fn new(uid: impl Into<Arc<str>>) -> Self {
        Self(uid.into())
    }

    /// The UID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One incarnation of a pod: its UID, with namespace and name for people and for logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRef {
    /// The key.
    pub uid: PodUid,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`. Not unique over time.
    pub name: Arc<str>,
}

impl PodRef {
    /// A reference from its parts.
    #[must_use]
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>, uid: impl Into<Arc<str>>) -> Self {
        Self { uid: PodUid::new(uid), namespace: namespace.into(), name: name.into() }
    }

    /// The reference of an API object; `None` if it has no UID, namespace or name, which no object read
    /// from an API server lacks.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        Some(Self::new(meta.namespace.as_deref()?, meta.name.as_deref()?, meta.uid.as_deref()?))
    }

    /// A container of this pod.
    #[must_use]
    pub fn container(&self, name: impl Into<Arc<str>>) -> ContainerRef {
        ContainerRef { pod: self.clone(), name: name.into() }
    }
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A container of one incarnation of a pod: app, init, sidecar or ephemeral.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerRef {
    /// The pod.
    pub pod: PodRef,
    /// The container's name, unique in the pod.
    pub name: Arc<str>,
}

impl fmt::Display for ContainerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pod, self.name)
    }
}
