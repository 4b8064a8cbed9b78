//! Namespaces: what comes with a new one, and what a missing or ending one refuses.
//!
//! Source: plugin/pkg/admission/namespace/lifecycle; pkg/controller/{serviceaccount,certificates/rootcacertpublisher}.

use serde_json::{Value, json};

use crate::ApiServer;
use crate::error::ApiError;
use crate::resources::{self, Resource};
use crate::store::{Key, Store, Transaction};

/// The ones every cluster has.
pub(crate) const INITIAL: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Refuses new objects in a namespace that doesn't exist or is ending.
pub(crate) fn check_open(
    store: &Store,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<(), ApiError> {
    if namespace.is_empty() {
        return Ok(());
    }
    let namespaces = resources::namespaces();
    let Some(found) = store.get(namespaces, &Key::new("", namespace)) else {
        return Err(ApiError::not_found(namespaces, namespace));
    };
    if found["status"]["phase"] == "Terminating" {
        let text =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = ApiError::forbidden(resource, name, &text);
        let cause = json!([{
            "reason": "NamespaceTerminating", "field": "metadata.namespace",
            "message": format!("namespace {namespace} is being terminated"),
        }]);
        error.details.insert("causes".to_owned(), cause);
        return Err(error);
    }
    Ok(())
}

/// Gives a new namespace what controllers give it on a real cluster: the default service account and the
/// CA's certificate.
pub(crate) fn furnish(t: &mut Transaction<'_>, server: &ApiServer, namespace: &str) {
    let mut account = json!({"apiVersion": "v1", "kind": "ServiceAccount"});
    account["metadata"] = metadata(server, namespace, "default");
    t.put(resources::service_accounts(), &Key::new(namespace, "default"), account);
    let mut authority =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": server.ca_certificate()}});
    authority["metadata"] = metadata(server, namespace, "kube-root-ca.crt");
    t.put(resources::config_maps(), &Key::new(namespace, "kube-root-ca.crt"), authority);
}

fn metadata(server: &ApiServer, namespace: &str, name: &str) -> Value {
    json!({"namespace": namespace, "name": name, "uid": server.new_uid(),
           "creationTimestamp": server.clock().time()})
}
