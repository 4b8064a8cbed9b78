//! create, update and patch.
//!
//! Source: apiserver `pkg/endpoints/handlers/{create,update,patch}.go`,
//! `pkg/registry/generic/registry/store.go`, `pkg/registry/rest/{create,update}.go`.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::delete::delete_stored;
use super::metadata::{self, check_name};
use super::options;
use super::{Call, Unknown, decode, json_response, media_type, parse, unknown_fields, warn};
use crate::ApiServer;
use crate::error::{ApiError, Cause};
use crate::events;
use crate::identity::Identity;
use crate::kinds::{self, drop_nulls};
use crate::namespaces;
use crate::patch::{Applier, apply, json_patch, merge_patch, strategic_patch};
use crate::request::{Target, Verb};
use crate::resources::{self, Resource};
use crate::store::{Key, Object};

pub(super) fn create(call: &Call<'_>) -> Result<Response, ApiError> {
    if !call.target.name.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    let resource = call.target.resource;
    let (object, warnings) = call.decoded_body()?;
    let created =
        create_object(call.server, resource, &call.target.namespace, object, call.caller, call.dry_run())?;
    Ok(warn(json_response(StatusCode::CREATED, call.one(&created)?), &warnings))
}

/// Creates an object that was decoded before.
pub(crate) fn create_object(
    server: &ApiServer,
    resource: &'static Resource,
    namespace: &str,
    mut object: Value,
    caller: &Identity,
    dry_run: bool,
) -> Result<Arc<Object>, ApiError> {
    let stored = events::stored_as(resource);
    prepare_metadata(server, resource, namespace, &mut object)?;
    let generated = object["metadata"]["name"].is_null();
    // A generated name that is taken is drawn again, as often as the real server does.
    for attempt in 0.. {
        let mut object = object.clone();
        if generated {
            let base = object["metadata"]["generateName"].as_str().unwrap_or("");
            let base: String = base.chars().take(58).collect();
            object["metadata"]["name"] = format!("{base}{}", server.random_suffix()).into();
        }
        let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
        namespaces::check_open(server.store(), resource, namespace, &name)?;
        check_name(resource, &name)?;
        metadata::check(resource, &name, &object["metadata"])?;
        kinds::prepare_create(server, resource, &mut object, caller)?;
        drop_nulls(&mut object);
        let key = Key::new(namespace, &name);
        let created = server.store().transact(|t| {
            if let Some(present) = t.get(stored, &key) {
                let mut error = ApiError::already_exists(resource, &name);
                if !present["metadata"]["deletionTimestamp"].is_null() {
                    error.message = format!("object is being deleted: {}", error.message);
                }
                return Err(error);
            }
            if dry_run {
                return Ok(Arc::new(Object::new(object)));
            }
            let created = t.put(stored, &key, object);
            if stored.is(resources::namespaces()) {
                namespaces::furnish(t, server, &name);
            }
            Ok(created)
        });
        match created {
            Err(error) if generated && error.reason == "AlreadyExists" && attempt < 7 => {}
            other => return other,
        }
    }
    unreachable!("the loop ends by returning")
}

fn prepare_metadata(
    server: &ApiServer,
    resource: &Resource,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if resource.namespaced {
        check_namespace(object, namespace)?;
    } else {
        object["metadata"]["namespace"] = Value::Null;
    }
    let metadata = &mut object["metadata"];
    let text = |field: &Value| field.as_str().unwrap_or("").to_owned();
    if text(&metadata["name"]).is_empty() {
        if text(&metadata["generateName"]).is_empty() {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(ApiError::invalid(resource, "", &[cause]));
        }
        metadata["name"] = Value::Null;
    }
    if !matches!(text(&metadata["resourceVersion"]).as_str(), "" | "0") {
        return Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    for field in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "selfLink", "generation"]
    {
        metadata[field] = Value::Null;
    }
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata["uid"] = server.new_uid().into();
    metadata["creationTimestamp"] = server.clock().time().into();
    Ok(())
}

fn check_namespace(object: &mut Value, namespace: &str) -> Result<(), ApiError> {
    match object["metadata"]["namespace"].as_str().unwrap_or("") {
        "" => Ok(()),
        given if given == namespace => Ok(()),
        _ => Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

pub(super) fn update(call: &Call<'_>) -> Result<Response, ApiError> {
    let target = call.target;
    let resource = target.resource;
    let (mut new, warnings) = call.decoded_body()?;
    if resource.namespaced {
        check_namespace(&mut new, &target.namespace)?;
    }
    match new["metadata"]["name"].as_str().unwrap_or("") {
        "" => {
            return Err(undeterminable(&target.name));
        }
        given if given == target.name => {}
        given => {
            return Err(another_name(given, &target.name));
        }
    }
    let stored = events::stored_as(resource);
    let exists = call.server.store().get(stored, &call.key()).is_some();
    let upserts = matches!(resource.plural, "leases" | "events" | "endpoints" | "endpointslices");
    if !exists && upserts && target.subresource.is_empty() {
        let wants = new["metadata"]["uid"].as_str().unwrap_or("").to_owned();
        if !wants.is_empty() {
            return Err(uid_conflict(resource, &call.key(), &wants, ""));
        }
        new["metadata"]["resourceVersion"] = Value::Null;
        let created =
            create_object(call.server, resource, &target.namespace, new, call.caller, call.dry_run())?;
        return Ok(json_response(StatusCode::CREATED, call.one(&created)?));
    }
    let written = change(call, |_| Ok(new.clone()))?;
    Ok(warn(json_response(StatusCode::OK, call.one(&written)?), &warnings))
}

fn undeterminable(name: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({name} based on URL) was undeterminable: name must be provided"
    ))
}

fn another_name(given: &str, name: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({given}) does not match the name on the URL ({name})"
    ))
}

pub(super) fn patch(call: &Call<'_>) -> Result<Response, ApiError> {
    let target = call.target;
    let resource = target.resource;
    let media = media_type(call.headers);
    let kind = match media {
        "application/apply-patch+yaml" => return apply_patch(call),
        "application/json-patch+json" => PatchKind::Json,
        "application/merge-patch+json" => PatchKind::Merge,
        "application/strategic-merge-patch+json" => PatchKind::Strategic,
        _ => return Err(ApiError::new(415, "UnsupportedMediaType", "415: Unsupported Media Type")),
    };
    let body = kind.read(&call.body)?;
    let stored = events::stored_as(resource);
    let unknown = Unknown::of(call.query);
    let mut warnings = Vec::new();
    let written = change(call, |old| {
        let mut new = Value::clone(old);
        match kind {
            PatchKind::Json => json_patch(&mut new, &body).map_err(|why| unprocessable(&why))?,
            PatchKind::Merge => merge_patch(&mut new, &body),
            PatchKind::Strategic => {
                // What is no such patch is the real server's own fault, if one asks it.
                strategic_patch(&mut new, &body).map_err(|why| ApiError::new(500, "", why))?;
            }
        }
        let sent = (unknown != Unknown::Ignore).then(|| new.clone());
        let new = (stored.normalize)(new).map_err(|error| unpatchable(&body, &error.to_string()))?;
        let mut dropped = Vec::new();
        if let Some(sent) = sent {
            unknown_fields(&sent, &new, &mut String::new(), &mut dropped);
        }
        if unknown == Unknown::Refuse && !dropped.is_empty() {
            return Err(unpatchable(&body, &format!("strict decoding error: {}", dropped.join(", "))));
        }
        warnings = dropped;
        Ok(new)
    })?;
    Ok(warn(json_response(StatusCode::OK, call.one(&written)?), &warnings))
}

/// How a patch is to be read and applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PatchKind {
    Json,
    Merge,
    Strategic,
}

impl PatchKind {
    fn read(self, body: &[u8]) -> Result<Value, ApiError> {
        let refuse = |why: &str| {
            ApiError::bad_request(match self {
                Self::Strategic => format!("json: cannot unmarshal {why}"),
                _ => format!("error decoding patch: {why}"),
            })
        };
        let value: Value = serde_json::from_slice(body).map_err(|error| refuse(&error.to_string()))?;
        let fits = if self == Self::Json {
            value.as_array().is_some_and(|operations| operations.iter().all(Value::is_object))
        } else {
            value.is_object()
        };
        if fits { Ok(value) } else { Err(refuse("a value of another type")) }
    }
}

/// 422 for a patch whose result is no object of the kind.
fn unpatchable(patch: &Value, why: &str) -> ApiError {
    let cause = Cause::invalid("patch", &patch.to_string().into(), why);
    let mut error = ApiError::invalid_options("", "", &[cause]);
    error.message = error.message.trim_start_matches(' ').to_owned();
    error.message.insert(0, ' ');
    error
}

fn apply_patch(call: &Call<'_>) -> Result<Response, ApiError> {
    let target = call.target;
    let resource = target.resource;
    let manager = call.query.get("fieldManager");
    if manager.is_empty() {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        options::refuse("PatchOptions", &[cause])?;
    }
    let body = applied(call)?;
    let time = call.server.clock().time();
    let applier =
        Applier { manager, subresource: &target.subresource, force: call.query.flag("force"), time: &time };
    let stored = events::stored_as(resource);
    if call.server.store().get(stored, &call.key()).is_none() && target.subresource.is_empty() {
        let wants = body["metadata"]["uid"].as_str().unwrap_or("");
        if !wants.is_empty() {
            let text = format!(
                "uid mismatch: the provided object specified uid {wants}, and no existing object was found"
            );
            return Err(ApiError::conflict(resource, &target.name, &text));
        }
        let object = apply(resource, &Value::Null, body, &applier)?;
        let object = decode(resource, object)?;
        let created =
            create_object(call.server, resource, &target.namespace, object, call.caller, call.dry_run())?;
        return Ok(json_response(StatusCode::CREATED, call.one(&created)?));
    }
    let version = body["metadata"]["resourceVersion"].clone();
    let written = change(call, |old| {
        if version.as_str().is_some_and(|version| !version.is_empty() && version != old.revision()) {
            return Err(ApiError::modified(resource, &target.name));
        }
        let object = apply(resource, old, body.clone(), &applier)?;
        (stored.normalize)(object).map_err(|e| ApiError::bad_request(e.to_string()))
    })?;
    Ok(json_response(StatusCode::OK, call.one(&written)?))
}

/// The configuration of an apply: an object of the resource's kind, for the name in the path.
fn applied(call: &Call<'_>) -> Result<Value, ApiError> {
    let target = call.target;
    let resource = target.resource;
    let body = parse(&call.body, true).map_err(|why| {
        ApiError::bad_request(format!("error encoding patch: {}", why.trim_start_matches("yaml: ")))
    })?;
    let text = |field: &Value| field.as_str().unwrap_or("").to_owned();
    if !body.is_object() && !body.is_null() {
        return Err(ApiError::bad_request("error decoding patch: not an object"));
    }
    let (version, kind) = (text(&body["apiVersion"]), text(&body["kind"]));
    if version != resource.api_version() || kind != resource.kind {
        let group_version = if version.is_empty() {
            "/".to_owned()
        } else if version.contains('/') {
            version
        } else {
            format!("/{version}")
        };
        return Err(ApiError::bad_request(format!("invalid object type: {group_version}, Kind={kind}")));
    }
    match text(&body["metadata"]["name"]).as_str() {
        "" => return Err(undeterminable(&target.name)),
        given if given != target.name => return Err(another_name(given, &target.name)),
        _ => {}
    }
    if !body["metadata"]["managedFields"].is_null() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let schema = |why: &str| {
        let group_version = format!("{}/{}", resource.group, resource.version);
        let subject = format!("/{}; {group_version}, Kind={}", target.name, resource.kind);
        ApiError::new(500, "", format!("failed to create typed patch object ({subject}): {why}"))
    };
    let kept = (resource.normalize)(body.clone()).map_err(|error| schema(&error.to_string()))?;
    let mut dropped = Vec::new();
    unknown_fields(&body, &kept, &mut String::new(), &mut dropped);
    match dropped.first() {
        Some(unknown) => {
            let field = unknown.trim_start_matches("unknown field ").trim_matches('"');
            Err(schema(&format!(".{field}: field not declared in schema")))
        }
        None => Ok(body),
    }
}

fn unprocessable(why: &str) -> ApiError {
    // The real server keeps the reason to itself; so does its double, but for the log.
    tracing::debug!(why, "a JSON patch that cannot be applied");
    ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request")
}

pub(crate) fn uid_conflict(resource: &Resource, key: &Key, wanted: &str, actual: &str) -> ApiError {
    let namespace = if key.namespace.is_empty() { String::new() } else { format!("{}/", key.namespace) };
    let text = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}/{namespace}{}, ResourceVersion: 0, \
         AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}",
        resource.plural, key.name
    );
    ApiError::conflict(resource, &key.name, &text)
}

/// Reads, changes and writes the target object under the rules of its endpoint.
fn change(
    call: &Call<'_>,
    mut make: impl FnMut(&Object) -> Result<Value, ApiError>,
) -> Result<Arc<Object>, ApiError> {
    let target = call.target;
    let (resource, key) = (target.resource, call.key());
    let stored = events::stored_as(resource);
    let store = call.server.store();
    let dry_run = call.dry_run();
    let mut outcome = None;
    let written = store.update(stored, &key, |old| {
        let mut new = make(old)?;
        settle_metadata(target, old, &mut new)?;
        kinds::prepare_update(resource, &target.subresource, old, &mut new)?;
        drop_nulls(&mut new);
        metadata::check(resource, &key.name, &new["metadata"])?;
        if new == **old {
            outcome = None;
            return Ok(None);
        }
        // Without its last finalizer an object that is being deleted goes, and is not written before.
        let goes = goes_with_last_finalizer(&new);
        outcome = Some((new.clone(), goes));
        Ok((!dry_run && !goes).then_some(new))
    })?;
    match outcome {
        Some((new, goes)) if dry_run || goes => {
            if goes && !dry_run {
                delete_stored(call.server, stored, &key, written.uid());
            }
            Ok(Arc::new(Object::new(new)))
        }
        _ => Ok(written),
    }
}

/// Removes an object whose last finalizer went, if it waited for nothing else.
pub(crate) fn finish_deletion(
    server: &ApiServer,
    resource: &'static Resource,
    key: &Key,
    written: &Object,
) -> Option<Arc<Object>> {
    goes_with_last_finalizer(written).then(|| delete_stored(server, resource, key, written.uid())).flatten()
}

/// Whether an object marked for deletion has nothing left to wait for.
fn goes_with_last_finalizer(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let finalizers = metadata["finalizers"].as_array().is_some_and(|f| !f.is_empty())
        || object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    !metadata["deletionTimestamp"].is_null()
        && !finalizers
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// Checks the client's idea of identity and version, and restores what no client may change.
fn settle_metadata(target: &Target, old: &Object, new: &mut Value) -> Result<(), ApiError> {
    let resource = target.resource;
    let name = old["metadata"]["name"].as_str().unwrap_or("");
    if !new["metadata"].is_object() {
        new["metadata"] = json!({});
    }
    let metadata = &mut new["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let uid = text(&metadata["uid"]);
    if !uid.is_empty() && uid != old.uid() {
        // The UID of a whole object is a precondition; that in a patch is a change, which is not allowed.
        if target.verb == Verb::Patch {
            let cause = Cause::invalid("metadata.uid", &json!(uid), "field is immutable");
            return Err(ApiError::invalid(resource, name, &[cause]));
        }
        return Err(uid_conflict(resource, &Key::of(old), &uid, old.uid()));
    }
    let version = text(&metadata["resourceVersion"]);
    if !version.is_empty() && version.parse::<u64>().is_err() {
        return Err(ApiError::new(
            500,
            "",
            format!("strconv.ParseUint: parsing {version:?}: invalid syntax"),
        ));
    }
    if !matches!(version.as_str(), "" | "0") && version != old.revision() {
        return Err(ApiError::modified(resource, name));
    }
    if version.is_empty() && resource.is(resources::leases()) {
        let cause =
            Cause::invalid("metadata.resourceVersion", &Value::from(0), "must be specified for an update");
        let mut error = ApiError::invalid(resource, name, &[cause]);
        // Here the real server names the resource, not the kind.
        error.message = error.message.replacen(resource.kind, resource.plural, 1);
        error.details.insert("kind".to_owned(), resource.plural.into());
        return Err(error);
    }
    let given_name = text(&metadata["name"]);
    if !given_name.is_empty() && given_name != name {
        return Err(another_name(&given_name, name));
    }
    let given_namespace = text(&metadata["namespace"]);
    if resource.namespaced && !given_namespace.is_empty() && old["metadata"]["namespace"] != given_namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "generateName",
    ] {
        metadata[field] = old["metadata"][field].clone();
    }
    if !old["metadata"]["deletionTimestamp"].is_null() {
        let had = old["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let added: Vec<Value> = metadata["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|f| !had.contains(f))
            .cloned()
            .collect();
        if !added.is_empty() {
            let added: Vec<String> = added.iter().map(ToString::to_string).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            let cause = Cause::forbidden("metadata.finalizers", &detail);
            return Err(ApiError::invalid(resource, name, &[cause]));
        }
    }
    Ok(())
}
