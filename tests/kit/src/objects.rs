//! Objects of any one kind in a cluster's namespace: what controllers make pods from, and what they say of them.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::wait::{eventually_within, holds};

/// How long a controller may take. The real ones are held to 20 requests a second each, and a hundred pods that are
/// rolled out are some hundreds of requests.
pub const CONTROLLERS_PATIENCE: Duration = Duration::from_mins(3);

/// The objects of a kind.
#[derive(Clone, Debug)]
pub struct Objects<K> {
    /// For what has no shorthand here.
    pub api: Api<K>,
}

impl<K> Objects<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    /// Those of a cluster's namespace.
    #[must_use]
    pub fn of(cluster: &impl Cluster) -> Self {
        Self { api: cluster.api() }
    }

    /// Those of another namespace.
    #[must_use]
    pub fn in_namespace(cluster: &impl Cluster, namespace: &str) -> Self {
        Self { api: Api::namespaced(cluster.client(), namespace) }
    }

    /// Creates an object.
    ///
    /// # Panics
    /// When it is none of this kind, or the API server refuses it.
    pub async fn create(&self, object: Value) -> K {
        let object = serde_json::from_value(object).expect("an object of this kind");
        self.api.create(&PostParams::default(), &object).await.expect("the object is created")
    }

    /// Merges a patch into an object.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn patch(&self, name: &str, patch: &Value) -> K {
        let patch = Patch::Merge(patch);
        self.api.patch(name, &PatchParams::default(), &patch).await.expect("the object is patched")
    }

    /// Asks for an object's deletion, and its dependents' after it.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn delete(&self, name: &str) {
        self.api.delete(name, &DeleteParams::background()).await.expect("the deletion is accepted");
    }

    /// Waits until something holds for an object, and returns it.
    pub async fn until(&self, name: &str, what: &str, mut holds: impl FnMut(&K) -> bool) -> K {
        eventually_within(&format!("{} {name} {what}", K::kind(&())), CONTROLLERS_PATIENCE, async || {
            let object = self.api.get(name).await.map_err(|error| error.to_string())?;
            if holds(&object) { Ok(object) } else { Err(format!("{object:#?}")) }
        })
        .await
    }

    /// Waits until an object is gone.
    pub async fn until_gone(&self, name: &str) {
        eventually_within(&format!("{} {name} is gone", K::kind(&())), CONTROLLERS_PATIENCE, async || {
            let object = self.api.get_opt(name).await.map_err(|error| error.to_string())?;
            holds(object.is_none(), || format!("{object:#?}"))
        })
        .await;
    }
}
