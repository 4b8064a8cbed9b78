//! Service-account tokens: signed claims, checked by signing again (the signature is deterministic).
//!
//! Source: pkg/registry/core/serviceaccount/storage/token.go; KEP-1205.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::TokenRequest;
use serde_json::{Value, json};

use crate::ApiServer;
use crate::clock::format_time;
use crate::error::{ApiError, Cause};
use crate::identity::Identity;
use crate::resources;
use crate::rest::decode_as;
use crate::store::Key;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;

fn invalid(cause: &Cause) -> ApiError {
    let mut error =
        ApiError::invalid_options("TokenRequest.authentication.k8s.io", "", std::slice::from_ref(cause));
    error.details.insert("kind".to_owned(), "TokenRequest".into());
    error.details.insert("group".to_owned(), "authentication.k8s.io".into());
    error
}

/// `serviceaccounts/NAME/token`: answers a TokenRequest.
pub(crate) fn request(server: &ApiServer, key: &Key, mut body: Value) -> Result<Value, ApiError> {
    let accounts = resources::service_accounts();
    let account =
        server.store().get(accounts, key).ok_or_else(|| ApiError::not_found(accounts, &key.name))?;
    body = decode_as::<TokenRequest>("authentication.k8s.io/v1", "TokenRequest", body)?;
    let spec = &body["spec"];
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(3600);
    if seconds < SHORTEST {
        let cause = Cause::invalid(
            "spec.expirationSeconds",
            &seconds.into(),
            "may not specify a duration less than 10 minutes",
        );
        return Err(invalid(&cause));
    }
    if seconds > LONGEST {
        let text = "may not specify a duration larger than 2^32 seconds";
        return Err(invalid(&Cause::invalid("spec.expirationSeconds", &seconds.into(), text)));
    }
    let audiences = match spec["audiences"].as_array() {
        Some(audiences) if !audiences.is_empty() => Value::from(audiences.clone()),
        _ => json!([ISSUER]),
    };
    let now = server.clock().now();
    let expires = now + SignedDuration::from_secs(seconds);
    let mut kubernetes = json!({
        "namespace": key.namespace, "serviceaccount": {"name": key.name, "uid": account.uid()},
    });
    if spec["boundObjectRef"].is_object() {
        bind(server, key, &spec["boundObjectRef"], &mut kubernetes)?;
    }
    let claims = json!({
        "iss": ISSUER, "aud": audiences, "iat": now.as_second(), "nbf": now.as_second(),
        "exp": expires.as_second(), "jti": server.new_uid(),
        "sub": format!("system:serviceaccount:{}:{}", key.namespace, key.name),
        "kubernetes.io": kubernetes,
    });
    let token = sign(server, &claims).ok_or_else(|| ApiError::internal("the token could not be signed"))?;
    body["kind"] = "TokenRequest".into();
    body["apiVersion"] = "authentication.k8s.io/v1".into();
    body["metadata"] = json!({
        "name": key.name, "namespace": key.namespace, "uid": account.uid(),
        "creationTimestamp": format_time(now),
    });
    body["spec"]["audiences"] = audiences;
    body["spec"]["expirationSeconds"] = seconds.into();
    if body["spec"]["boundObjectRef"].is_null()
        && let Some(spec) = body["spec"].as_object_mut()
    {
        spec.remove("boundObjectRef");
    }
    body["status"] = json!({"token": token, "expirationTimestamp": format_time(expires)});
    Ok(body)
}

/// Checks that the object a token is bound to exists, and notes it (and a pod's node) in the claims.
fn bind(server: &ApiServer, key: &Key, reference: &Value, claims: &mut Value) -> Result<(), ApiError> {
    let name = reference["name"].as_str().unwrap_or("");
    let (resource, namespace, field) = match reference["kind"].as_str() {
        Some("Pod") => (resources::pods(), key.namespace.as_str(), "pod"),
        Some("Secret") => (resources::secrets(), key.namespace.as_str(), "secret"),
        Some("Node") => (resources::nodes(), "", "node"),
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type /{}, Kind={}",
                reference["apiVersion"].as_str().unwrap_or(""),
                other.unwrap_or("")
            )));
        }
    };
    let object = server
        .store()
        .get(resource, &Key::new(namespace, name))
        .ok_or_else(|| ApiError::not_found(resource, name))?;
    let uid = reference["uid"].as_str().unwrap_or("");
    if !uid.is_empty() && uid != object.uid() {
        let mut error = ApiError::conflict(
            resource,
            name,
            &format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        );
        // Here the real server names the kind, not the resource.
        error.message = error.message.replacen(resource.plural, resource.kind, 1);
        error.details.insert("kind".to_owned(), resource.kind.into());
        return Err(error);
    }
    if resource.is(resources::pods()) {
        let account = object["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        if account != key.name {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                key.name
            )));
        }
        let node = object["spec"]["nodeName"].as_str().unwrap_or("");
        if let Some(found) = server.store().get(resources::nodes(), &Key::new("", node)) {
            claims["node"] = json!({"name": node, "uid": found.uid()});
        }
    }
    claims[field] = json!({"name": name, "uid": object.uid()});
    Ok(())
}

fn sign(server: &ApiServer, claims: &Value) -> Option<String> {
    let head = json!({"alg": "EdDSA", "typ": "JWT", "kid": "vk-apiserver"});
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(head.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = server.pki().sign_token(&text).ok()?;
    Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The user behind a token, if it is one of ours for one of the audiences (the server's own, if none are
/// given), in its time, and what it is bound to still exists.
pub(crate) fn identify(
    server: &ApiServer,
    token: &str,
    audiences: &[String],
) -> Option<(Identity, Vec<String>)> {
    if let Some(identity) = server.static_token(token) {
        return Some((identity, audiences.to_vec()));
    }
    let (text, signature) = token.rsplit_once('.')?;
    let expected = server.pki().sign_token(text).ok()?;
    if URL_SAFE_NO_PAD.decode(signature).ok()? != expected {
        return None;
    }
    let (_, claims) = text.split_once('.')?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let own = [ISSUER.to_owned()];
    let wanted = if audiences.is_empty() { &own[..] } else { audiences };
    let granted = claims["aud"].as_array()?;
    let matching: Vec<String> = wanted.iter().filter(|a| granted.iter().any(|g| g == *a)).cloned().collect();
    let now = server.clock().now();
    let until = Timestamp::from_second(claims["exp"].as_i64()?).ok()?;
    if matching.is_empty() || now >= until {
        return None;
    }
    let kubernetes = &claims["kubernetes.io"];
    let namespace = kubernetes["namespace"].as_str()?;
    let account = &kubernetes["serviceaccount"];
    let alive = |resource, namespace: &str, reference: &Value| {
        let name = reference["name"].as_str().unwrap_or("");
        let found = server.store().get(resource, &Key::new(namespace, name));
        found.is_some_and(|o| reference["uid"] == o.uid())
    };
    let bound = |field: &str, resource, namespace: &str| {
        kubernetes[field].is_null() || alive(resource, namespace, &kubernetes[field])
    };
    let live = alive(resources::service_accounts(), namespace, account)
        && bound("pod", resources::pods(), namespace)
        && bound("secret", resources::secrets(), namespace);
    if !live {
        return None;
    }
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let mut identity = Identity::service_account(namespace, &text(&account["name"]), &text(&account["uid"]));
    if let Some(id) = claims["jti"].as_str() {
        let key = "authentication.kubernetes.io/credential-id".to_owned();
        identity.extra.push((key, vec![format!("JTI={id}")]));
    }
    for (field, prefix) in [("pod", "pod"), ("node", "node")] {
        if kubernetes[field].is_object() {
            for part in ["name", "uid"] {
                let key = format!("authentication.kubernetes.io/{prefix}-{part}");
                identity.extra.push((key, vec![text(&kubernetes[field][part])]));
            }
        }
    }
    Some((identity, matching))
}
