//! The verbs, over any resource.

mod delete;
mod read;
mod reviews;
mod scale;
mod write;

pub(crate) use self::delete::{DeleteOptions, delete_object};
pub(crate) use self::write::{create_object, finish_deletion};

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
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

    fn dry_run(&self) -> Result<bool, ApiError> {
        let mut dry = false;
        for value in self.query.all("dryRun") {
            if value != "All" {
                return Err(ApiError::bad_request(format!(
                    "Invalid value: {value:?}: must be one of [All] (dryRun)"
                )));
            }
            dry = true;
        }
        Ok(dry)
    }

    /// The body as an object of the resource, and what to warn of.
    fn decoded_body(&self) -> Result<(Value, Vec<String>), ApiError> {
        decode_noting(self.target.resource, self.parsed_body()?, Unknown::of(self.query)?)
    }

    /// The body as JSON (or YAML, which clients may apply).
    fn parsed_body(&self) -> Result<Value, ApiError> {
        parse_body(self.headers, &self.body)
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
            Verb::Create => reviews::review(call),
            _ => Err(ApiError::method_not_allowed()),
        };
    }
    match (resource.plural, target.subresource.as_str(), target.verb) {
        ("pods", "binding", Verb::Create) => {
            let body = call.parsed_body()?;
            let status = pods::bind(call.server.store(), call.server.clock(), &call.key(), &body)?;
            Ok(json_response(StatusCode::CREATED, status.to_string()))
        }
        ("pods", "eviction", Verb::Create) => {
            let status = pods::evict(call.server, &call.key(), &call.parsed_body()?)?;
            Ok(json_response(StatusCode::CREATED, status.to_string()))
        }
        ("serviceaccounts", "token", Verb::Create) => {
            let token = tokens::request(call.server, &call.key(), call.parsed_body()?)?;
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

fn parse_body(headers: &HeaderMap, body: &Bytes) -> Result<Value, ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media = given.split(';').next().unwrap_or("").trim();
    if media.contains("protobuf") || media.contains("cbor") {
        return Err(ApiError::unsupported_media_type(given, &["application/json", "application/yaml"]));
    }
    if body.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    if media.contains("yaml")
        && let Some(value) = std::str::from_utf8(body).ok().and_then(|t| serde_saphyr::from_str(t).ok())
    {
        return Ok(value);
    }
    Err(ApiError::bad_request("the object provided is unrecognized (must be of type JSON)"))
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
    fn of(query: &Query) -> Result<Self, ApiError> {
        match query.get("fieldValidation") {
            "Strict" => Ok(Self::Refuse),
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            other => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: \"{other}\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// As [`decode`], and tells the unknown fields, or refuses them.
fn decode_noting(
    resource: &'static resources::Resource,
    mut body: Value,
    unknown: Unknown,
) -> Result<(Value, Vec<String>), ApiError> {
    let cannot = |why: &str| {
        ApiError::bad_request(format!(
            "{kind} in version \"{}\" cannot be handled as a {kind}: {why}",
            resource.version,
            kind = resource.kind
        ))
    };
    if !body.is_object() {
        return Err(cannot("not an object"));
    }
    let expected = resource.api_version();
    match body["apiVersion"].as_str().unwrap_or("") {
        "" => {}
        given if given == expected => {}
        given => {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({given}) does not match the expected API version ({expected})"
            )));
        }
    }
    match body["kind"].as_str().unwrap_or("") {
        "" => {}
        given if given == resource.kind => {}
        given => {
            return Err(ApiError::bad_request(format!(
                "{given} in version \"{}\" cannot be handled as a {}: converting ({given}) to ({}): unknown conversion",
                resource.version, resource.kind, resource.kind
            )));
        }
    }
    body = crate::events::stored(resource, body);
    let stored = crate::events::stored_as(resource);
    body["apiVersion"] = stored.api_version().into();
    body["kind"] = stored.kind.into();
    let sent = (unknown != Unknown::Ignore).then(|| body.clone());
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
