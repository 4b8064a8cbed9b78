//! API errors as `metav1.Status`, with the reasons, codes and messages of the real server.
//!
//! Source: apimachinery `pkg/api/errors/errors.go` and the wire.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::resources::Resource;

/// A failed request: what `metav1.Status` carries.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`; empty where the real server leaves it out.
    pub reason: &'static str,
    /// Text for people, equal to the real server's.
    pub message: String,
    /// `details` of the status.
    pub details: Map<String, Value>,
}

/// One entry of a 422's `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueForbidden`, ...
    pub reason: &'static str,
    /// What is wrong, without the field's path.
    pub message: String,
    /// Path of the field.
    pub field: String,
}

impl Cause {
    /// A required field that is missing.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message =
            if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self { reason: "FieldValueRequired", message, field: field.into() }
    }

    /// A text of more bytes than are allowed.
    #[must_use]
    pub fn too_long(field: impl Into<String>, limit: usize) -> Self {
        let message = format!("Too long: may not be more than {limit} bytes");
        Self { reason: "FieldValueTooLong", message, field: field.into() }
    }

    /// A field with a value that is not allowed.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {value}: {detail}"),
            field: field.into(),
        }
    }

    /// A field that may not be set or changed.
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "FieldValueForbidden", message: format!("Forbidden: {detail}"), field: field.into() }
    }

    /// A field whose value is none of the supported ones.
    #[must_use]
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        Self {
            reason: "FieldValueNotSupported",
            message: format!("Unsupported value: {value}: supported values: {}", list.join(", ")),
            field: field.into(),
        }
    }

    /// A value that must be unique in its list and is not.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {value}"),
            field: field.into(),
        }
    }

    /// A reference to something that does not exist.
    #[must_use]
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self { reason: "FieldValueNotFound", message: format!("Not found: {value}"), field: field.into() }
    }
}

impl ApiError {
    /// An error with a code, a reason and a message.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Map::new() }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.detail("name", name);
        self.detail("group", resource.group);
        self.detail("kind", resource.plural);
        self
    }

    fn detail(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.details.insert(key.to_owned(), value.into());
        }
    }

    /// 404 for an object.
    #[must_use]
    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified()))
            .about(resource, name)
    }

    /// 404 for a path the server does not serve.
    #[must_use]
    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409 for a creation under a name in use.
    #[must_use]
    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.qualified()))
            .about(resource, name)
    }

    /// 409 with a text of its own.
    #[must_use]
    pub(crate) fn conflict(resource: &Resource, name: &str, text: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {text}", resource.qualified());
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// 409 for an update from a stale copy.
    #[must_use]
    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422 about the options of a request.
    pub(crate) fn invalid_options(kind: &str, name: &str, causes: &[Cause]) -> Self {
        let mut error = Self::new(422, "Invalid", String::new());
        error.detail("name", name);
        error.detail("kind", kind);
        error.with_causes(&format!("{kind} \"{name}\""), causes)
    }

    fn with_causes(mut self, subject: &str, causes: &[Cause]) -> Self {
        let texts: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let text = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
        self.message = format!("{subject} is invalid: {text}");
        let causes =
            causes.iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}));
        self.details.insert("causes".to_owned(), causes.collect());
        self
    }

    /// 422 with its causes.
    #[must_use]
    pub(crate) fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        let kind = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let mut error = Self::new(422, "Invalid", String::new());
        error.detail("name", name);
        error.detail("group", resource.group);
        error.detail("kind", resource.kind);
        error.with_causes(&format!("{kind} \"{name}\""), causes)
    }

    /// 403 about an object.
    #[must_use]
    pub(crate) fn forbidden(resource: &Resource, name: &str, text: &str) -> Self {
        let message = if name.is_empty() {
            format!("{} is forbidden: {text}", resource.qualified())
        } else {
            format!("{} \"{name}\" is forbidden: {text}", resource.qualified())
        };
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    #[must_use]
    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 410 with reason `Expired`: the client must list again.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 405.
    #[must_use]
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 429 that asks the client to wait.
    #[must_use]
    pub fn too_many(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut error = Self::new(429, "TooManyRequests", message);
        if retry_after_seconds > 0 {
            error.details.insert("retryAfterSeconds".to_owned(), retry_after_seconds.into());
        }
        error
    }

    /// 500.
    #[must_use]
    pub fn internal(text: &str) -> Self {
        let mut error = Self::new(500, "InternalError", format!("Internal error occurred: {text}"));
        error.details.insert("causes".to_owned(), json!([{"message": text}]));
        error
    }

    /// 503.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 415 for a body of a type the server does not read.
    #[must_use]
    pub(crate) fn unsupported_media_type() -> Self {
        let message = "the body of the request was in an unknown format - accepted media types include: \
                       application/json, application/yaml";
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// The `metav1.Status` object.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_empty() {
            status["details"] = Value::Object(self.details.clone());
        }
        status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (code, self.status().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.details.get("retryAfterSeconds").and_then(Value::as_u64) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;

    #[test]
    fn messages_are_the_real_servers() {
        let pods = resources::pods();
        let deployments = resources::find("apps", "v1", "deployments").unwrap();
        assert_eq!(ApiError::not_found(pods, "x").message, "pods \"x\" not found");
        assert_eq!(ApiError::not_found(deployments, "x").message, "deployments.apps \"x\" not found");
        assert_eq!(
            ApiError::modified(pods, "x").message,
            "Operation cannot be fulfilled on pods \"x\": the object has been modified; please apply your \
             changes to the latest version and try again"
        );
        let invalid = ApiError::invalid(pods, "x", &[Cause::required("spec.containers", "")]);
        assert_eq!(invalid.message, "Pod \"x\" is invalid: spec.containers: Required value");
        assert_eq!(invalid.status()["details"]["causes"][0]["field"], "spec.containers");
    }
}
