//! The verbs, over any resource.

mod delete;
mod metadata;
mod options;
mod read;
mod reviews;
mod scale;
mod write;

pub(crate) use self::delete::{DeleteOptions, delete_object};
pub(crate) use self::metadata::qualified_name;
pub(crate) use self::write::{create_object, finish_deletion, uid_conflict};

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use k8s_openapi::api::core::v1::Binding;
use k8s_openapi::api::policy::v1::Eviction;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::ApiServer;
use crate::error::ApiError;
use crate::form::Form;
use crate::identity::Identity;
use crate::pods;
use crate::request::{Query, Target, Verb};
use crate::resources;
use crate::store::{Key, Object};
use crate::tokens;

/// A request with everything that belongs to it.
pub(crate) struct Call<'a> {
    pub(crate) server: &'a ApiServer,
    pub(crate) target: &'a Target,
    pub(crate) query: &'a Query,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) caller: &'a Identity,
}

impl Call<'_> {
    fn key(&self) -> Key {
        Key::new(&self.target.namespace, &self.target.name)
    }

    fn form(&self) -> Result<Form, ApiError> {
        Form::negotiate(self.headers, self.query)
    }

    /// One object in the form the client asked for.
    fn one(&self, object: &Arc<Object>) -> Result<Bytes, ApiError> {
        Ok(self.form()?.one(self.target.resource, object, self.server.clock().now()))
    }

    /// A list in that form.
    fn list(&self, items: &[Arc<Object>], metadata: &Value) -> Result<Bytes, ApiError> {
        Ok(self.form()?.list(self.target.resource, items, metadata, self.server.clock().now()))
    }

    /// Whether nothing is to be stored; the options are checked before.
    fn dry_run(&self) -> bool {
        self.query.has("dryRun")
    }

    /// The body as an object of the resource, and what to warn of.
    fn decoded_body(&self) -> Result<(Value, Vec<String>), ApiError> {
        let body = self.parsed_body(self.target.resource.kind)?;
        decode_noting(self.target.resource, body, Unknown::of(self.query))
    }

    /// The body as an object of a kind.
    fn parsed_body(&self, kind: &str) -> Result<Value, ApiError> {
        let media = media_type(self.headers);
        if !matches!(media, "" | "application/json" | "application/yaml") {
            return Err(ApiError::unsupported_media_type());
        }
        match parse(&self.body, media == "application/yaml") {
            Ok(Value::Null) => Ok(Value::Object(Map::new())),
            Ok(body @ Value::Object(_)) => Ok(body),
            Ok(_) => Err(unrecognized(kind, "couldn't get version/kind; json parse error: not an object")),
            Err(why) => Err(unrecognized(kind, &why)),
        }
    }

    /// The options of a deletion; nothing is no options.
    fn delete_options(&self) -> Result<Value, ApiError> {
        if self.body.is_empty() { Ok(Value::Object(Map::new())) } else { self.parsed_body("DeleteOptions") }
    }
}

/// Answers a request.
pub(crate) fn answer(call: &Call<'_>) -> Result<Response, ApiError> {
    let target = call.target;
    let resource = target.resource;
    if !target.subresource.is_empty() && !resource.has_subresource(&target.subresource) {
        return Err(ApiError::no_such_path());
    }
    if !resource.stored {
        return match target.verb {
            Verb::Create if resource.plural == "bindings" => bind(call, ""),
            Verb::Create => reviews::review(call),
            _ => Err(ApiError::method_not_allowed()),
        };
    }
    match target.verb {
        Verb::Create | Verb::Update | Verb::Patch => options::check_write(target.verb, call.query)?,
        Verb::List | Verb::Watch => options::check_list(target.verb, call.query)?,
        _ => {}
    }
    match (resource.plural, target.subresource.as_str(), target.verb) {
        ("pods", "binding", Verb::Create) => bind(call, &target.name),
        ("pods", "eviction", Verb::Create) => {
            let body = decode_as::<Eviction>("policy/v1", "Eviction", call.parsed_body("Eviction")?)?;
            let status = pods::evict(call.server, &call.key(), &body)?;
            Ok(json_response(StatusCode::CREATED, status.to_string()))
        }
        ("serviceaccounts", "token", Verb::Create) => {
            let token = tokens::request(call.server, &call.key(), call.parsed_body("TokenRequest")?)?;
            Ok(json_response(StatusCode::CREATED, token.to_string()))
        }
        (_, "scale", _) => scale::answer(call),
        (_, "binding" | "eviction" | "token", _) => Err(ApiError::method_not_allowed()),
        (_, _, Verb::Get) => read::get(call),
        (_, _, Verb::List) => read::list(call),
        (_, _, Verb::Watch) => read::watch(call),
        (_, "", Verb::Create) => write::create(call),
        (_, _, Verb::Update) => write::update(call),
        (_, _, Verb::Patch) => write::patch(call),
        (_, "", Verb::Delete) => delete::delete(call),
        (_, "", Verb::DeleteCollection) => delete::delete_collection(call),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// A JSON answer.
pub(crate) fn json_response(code: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    let mut response = (code, body.into()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Adds a warning per line, which kubectl prints.
fn warn(mut response: Response, warnings: &[String]) -> Response {
    for text in warnings {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// Assigns the pod that the path or, if that names none, the body names.
fn bind(call: &Call<'_>, name: &str) -> Result<Response, ApiError> {
    let body = decode_as::<Binding>("v1", "Binding", call.parsed_body("Binding")?)?;
    let given = body["metadata"]["name"].as_str().unwrap_or("");
    let name = if name.is_empty() { given } else { name };
    if !given.is_empty() && given != name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    let key = Key::new(&call.target.namespace, name);
    let status = pods::bind(call.server.store(), call.server.clock(), &key, &body)?;
    Ok(json_response(StatusCode::CREATED, status.to_string()))
}

/// The type of the body, without parameters.
fn media_type(headers: &HeaderMap) -> &str {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    given.split(';').next().unwrap_or("").trim()
}

/// Reads JSON, or YAML where that may come; the error is what the real server puts before its decoder's words, and
/// ours.
fn parse(body: &[u8], yaml: bool) -> Result<Value, String> {
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(_) if yaml => {
            let text = std::str::from_utf8(body).map_err(|error| format!("yaml: {error}"))?;
            serde_saphyr::from_str(text).map_err(|error| format!("yaml: {error}"))
        }
        Err(error) => Err(format!("couldn't get version/kind; json parse error: {error}")),
    }
}

fn unrecognized(kind: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why}"))
}

/// Checks what a client sent against its resource: kind, version, types of fields. Unknown fields go.
pub(crate) fn decode(resource: &'static resources::Resource, body: Value) -> Result<Value, ApiError> {
    decode_noting(resource, body, Unknown::Ignore).map(|(object, _)| object)
}

/// What becomes of fields no kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    Ignore,
    Warn,
    Refuse,
}

impl Unknown {
    /// What the query asks for; its values are checked before.
    fn of(query: &Query) -> Self {
        match query.get("fieldValidation") {
            "Strict" => Self::Refuse,
            "Ignore" => Self::Ignore,
            _ => Self::Warn,
        }
    }
}

/// As [`decode`], and tells the unknown fields, or refuses them.
fn decode_noting(
    resource: &'static resources::Resource,
    mut body: Value,
    unknown: Unknown,
) -> Result<(Value, Vec<String>), ApiError> {
    check_kind(&body, &resource.api_version(), resource.kind)?;
    body = crate::events::stored(resource, body);
    let stored = crate::events::stored_as(resource);
    body["apiVersion"] = stored.api_version().into();
    body["kind"] = stored.kind.into();
    let sent = (unknown != Unknown::Ignore).then(|| body.clone());
    let cannot = |why: &str| cannot_handle(resource.version, resource.kind, why);
    let object = (stored.normalize)(body).map_err(|e| cannot(&e.to_string()))?;
    let mut dropped = Vec::new();
    if let Some(sent) = sent {
        unknown_fields(&sent, &object, &mut String::new(), &mut dropped);
    }
    if unknown == Unknown::Refuse && !dropped.is_empty() {
        return Err(cannot(&format!("strict decoding error: {}", dropped.join(", "))));
    }
    Ok((object, dropped))
}

/// Checks what a client sent to a subresource, which takes a kind of its own: kind, version, types of fields.
pub(crate) fn decode_as<T>(api_version: &str, kind: &str, mut body: Value) -> Result<Value, ApiError>
where
    T: Serialize + DeserializeOwned,
{
    check_kind(&body, api_version, kind)?;
    body["apiVersion"] = api_version.into();
    body["kind"] = kind.into();
    let version = api_version.rsplit('/').next().unwrap_or(api_version);
    resources::normalize::<T>(body).map_err(|error| cannot_handle(version, kind, &error.to_string()))
}

fn cannot_handle(version: &str, kind: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
}

/// Whether a body is of a kind and version, if it says so.
fn check_kind(body: &Value, api_version: &str, kind: &str) -> Result<(), ApiError> {
    let given = |field: &str, expected: &str| match body[field].as_str() {
        None | Some("") => expected.to_owned(),
        Some(given) => given.to_owned(),
    };
    let (given_version, given_kind) = (given("apiVersion", api_version), given("kind", kind));
    if given_version == api_version && given_kind == kind {
        return Ok(());
    }
    let version = given_version.rsplit('/').next().unwrap_or_default();
    Err(ApiError::bad_request(format!(
        "{given_kind} in version \"{version}\" cannot be handled as a {kind}: expected {kind} of {api_version}"
    )))
}

/// Finds what decoding dropped.
fn unknown_fields(sent: &Value, kept: &Value, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match (sent, kept) {
        (Value::Object(sent), Value::Object(kept)) => {
            for (key, value) in sent.iter().filter(|(_, v)| !v.is_null()) {
                if length > 0 {
                    path.push('.');
                }
                path.push_str(key);
                match kept.get(key) {
                    Some(kept) => unknown_fields(value, kept, path, found),
                    // What is empty is left out, known or not.
                    None if is_empty(value) => {}
                    None => found.push(format!("unknown field \"{path}\"")),
                }
                path.truncate(length);
            }
        }
        (Value::Array(sent), Value::Array(kept)) => {
            for (at, (sent, kept)) in sent.iter().zip(kept).enumerate() {
                path.push_str(&["[", &at.to_string(), "]"].concat());
                unknown_fields(sent, kept, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}
