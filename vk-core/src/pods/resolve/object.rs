//! The objects a pod refers to: what they are called, and what is in them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

/// An object that a pod refers to by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// What it is.
    pub kind: ObjectKind,
    /// Its namespace: the pod's.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

/// The kinds that pods take environment and files from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ObjectKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret: nothing of its data may be shown.
    Secret,
}

impl ObjectKind {
    /// As the API writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// As a kubelet's messages write it.
    pub(super) fn lower(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

/// A ConfigMap or Secret as it was read.
///
/// `Debug` shows keys, never values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// `metadata.resourceVersion`.
    pub version: Option<String>,
    /// `data`.
    pub data: BTreeMap<String, Bytes>,
    /// A ConfigMap's `binaryData`: files only, never environment.
    pub binary: BTreeMap<String, Bytes>,
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
        }
    }
}

impl From<Secret> for Object {
    fn from(secret: Secret) -> Self {
        Self {
            version: secret.metadata.resource_version,
            data: secret.data.into_iter().flatten().map(|(k, b)| (k, Bytes::from(b.0))).collect(),
            binary: BTreeMap::new(),
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
            binary: BTreeMap::new(),
        };
        let shown = format!("{object:?}");
        assert!(shown.contains("password") && shown.contains('7'), "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }
}
