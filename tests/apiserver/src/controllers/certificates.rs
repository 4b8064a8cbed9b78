//! Approves and signs certificate requests.
//!
//! Source: pkg/controller/certificates/{approver,signer}.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{change, feed};
use crate::ApiServer;
use crate::resources;
use crate::store::{Key, Object};
use crate::tls::requested_names;

const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVER: &str = "kubernetes.io/kubelet-serving";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

pub(super) async fn run(server: ApiServer, approve_serving: bool) {
    let mut changes = feed(&server, &[resources::csrs()]);
    while let Some(batch) = changes.next().await {
        for (_, event) in batch {
            let key = Key::of(&event.object);
            if let Some(request) = server.store().get(resources::csrs(), &key) {
                settle(&server, &key, &request, approve_serving);
            }
        }
    }
}

fn has_condition(request: &Value, kind: &str) -> bool {
    request["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["type"] == kind))
}

fn settle(server: &ApiServer, key: &Key, request: &Object, approve_serving: bool) {
    let signer = request["spec"]["signerName"].as_str().unwrap_or("");
    if has_condition(request, "Denied") || has_condition(request, "Failed") {
        return;
    }
    let approved = has_condition(request, "Approved");
    let automatic = signer == NODE_CLIENT || (signer == NODE_SERVER && approve_serving);
    if !approved && automatic && is_for_node(request) {
        let now = server.clock().time();
        let written = change(server, resources::csrs(), key, "approval", |csr| {
            csr["status"]["conditions"] = json!([{
                "type": "Approved", "status": "True", "reason": "AutoApproved",
                "message": "Auto approving kubelet certificate after SubjectAccessReview.",
                "lastUpdateTime": now, "lastTransitionTime": now,
            }]);
        });
        if let Err(error) = written {
            tracing::debug!(%error, "request is gone");
        }
        return;
    }
    if approved
        && request["status"]["certificate"].is_null()
        && matches!(signer, NODE_CLIENT | NODE_SERVER | CLIENT)
    {
        sign(server, key, request);
    }
}

fn pem_of(request: &Value) -> Option<String> {
    let bytes = STANDARD.decode(request["spec"]["request"].as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

/// Whether a request is for `system:node:NAME` in `system:nodes`.
fn is_for_node(request: &Value) -> bool {
    pem_of(request).and_then(|pem| requested_names(&pem)).is_some_and(|(name, groups, _)| {
        name.strip_prefix("system:node:").is_some_and(|n| !n.is_empty()) && groups == ["system:nodes"]
    })
}

fn sign(server: &ApiServer, key: &Key, request: &Object) {
    let usages: Vec<&str> =
        request["spec"]["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let lifetime = request["spec"]["expirationSeconds"].as_u64().map(Duration::from_secs);
    let signed = pem_of(request).ok_or_else(|| "the request is not PEM".to_owned()).and_then(|pem| {
        // Certificates are checked against the real clock, whatever the server's says.
        server.pki().sign_request(&pem, &usages, lifetime, Timestamp::now()).map_err(|e| e.to_string())
    });
    let now = server.clock().time();
    let written = match &signed {
        Ok(certificate) => change(server, resources::csrs(), key, "status", |csr| {
            csr["status"]["certificate"] = STANDARD.encode(certificate).into();
        }),
        Err(why) => change(server, resources::csrs(), key, "approval", |csr| {
            let mut list = csr["status"]["conditions"].as_array().cloned().unwrap_or_default();
            list.push(json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure",
                             "message": why, "lastUpdateTime": now, "lastTransitionTime": now}));
            csr["status"]["conditions"] = list.into();
        }),
    };
    if let Err(error) = written {
        tracing::debug!(%error, "request is gone");
    }
}
