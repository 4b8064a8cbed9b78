//! Reviews: questions that are answered and not stored.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Call, json_response};
use crate::authorize::{self, Attributes};
use crate::error::{ApiError, Cause};
use crate::identity::Identity;
use crate::tokens;

pub(super) fn review(call: &Call<'_>) -> Result<Response, ApiError> {
    let resource = call.target.resource;
    let (mut body, _) = call.decoded_body()?;
    if resource.group == "authorization.k8s.io" && !resource.kind.starts_with("Self") {
        check_review(&body["spec"])?;
    }
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    body["status"] = match resource.kind {
        "TokenReview" => token_review(call, &body["spec"])?,
        "SelfSubjectReview" => json!({"userInfo": call.caller.user_info()}),
        "SelfSubjectRulesReview" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": call.server.config().rbac,
        }),
        "SelfSubjectAccessReview" => access(call, call.caller, &body["spec"]),
        _ => access(call, &subject(&body["spec"]), &body["spec"]),
    };
    Ok(json_response(StatusCode::CREATED, body.to_string()))
}

/// Whether it is asked about somebody, and about one thing.
fn check_review(spec: &Value) -> Result<(), ApiError> {
    let one = spec["resourceAttributes"].is_object() != spec["nonResourceAttributes"].is_object();
    let somebody = spec["user"].as_str().is_some_and(|user| !user.is_empty()) || spec["groups"].is_array();
    let cause = if !one {
        let text = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        Cause::invalid("spec", &spec["nonResourceAttributes"], text)
    } else if somebody {
        return Ok(());
    } else {
        Cause::invalid("spec.user", &"".into(), "at least one of user or group must be specified")
    };
    let mut error = ApiError::invalid_options(".authorization.k8s.io", "", &[cause]);
    error.details.remove("kind");
    error.details.insert("group".to_owned(), "authorization.k8s.io".into());
    Err(error)
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn token_review(call: &Call<'_>, spec: &Value) -> Result<Value, ApiError> {
    let token = spec["token"].as_str().unwrap_or("");
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = strings(&spec["audiences"]);
    Ok(match tokens::identify(call.server, token, &audiences) {
        Some((identity, audiences)) => {
            let mut status = json!({"authenticated": true, "user": identity.user_info()});
            if !audiences.is_empty() {
                status["audiences"] = audiences.into();
            }
            status
        }
        None => json!({"user": {}, "error": "invalid bearer token"}),
    })
}

fn subject(spec: &Value) -> Identity {
    Identity {
        user: spec["user"].as_str().unwrap_or("").to_owned(),
        groups: strings(&spec["groups"]),
        uid: spec["uid"].as_str().unwrap_or("").to_owned(),
        extra: Vec::new(),
    }
}

fn access(call: &Call<'_>, subject: &Identity, spec: &Value) -> Value {
    let attributes = Attributes::of_review(spec);
    match authorize::decide(call.server, subject, &attributes) {
        Ok(reason) => with_reason(json!({"allowed": true}), reason),
        Err(reason) => with_reason(json!({"allowed": false}), reason),
    }
}

fn with_reason(mut status: Value, reason: String) -> Value {
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}
