//! create, update and patch.
//!
//! Source: apiserver `pkg/endpoints/handlers/{create,update,patch}.go`,
//! `pkg/registry/generic/registry/store.go`, `pkg/registry/rest/{create,update}.go`.

use std::sync::Arc;

use axum::response::Response;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::delete::delete_stored;
use super::{Call, Unknown, decode, json_response, unknown_fields, warn};
use crate::ApiServer;
use crate::error::{ApiError, Cause};
use crate::events;
use crate::identity::Identity;
use crate::kinds::{self, drop_nulls};
use crate::namespaces;
use crate::patch::{Applier, apply, json_patch, merge_patch, strategic_patch};
use crate::pods::{DNS_LABEL, is_dns_label};
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
        create_object(call.server, resource, &call.target.namespace, object, call.caller, call.dry_run()?)?;
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
        check_name(resource, &name)?;
        namespaces::check_open(server.store(), resource, namespace, &name)?;
        kinds::prepare_create(server, resource, &mut object, caller)?;
        drop_nulls(&mut object);
        let key = Key::new(namespace, &name);
        let created = server.store().transact(|t| {
            if t.get(stored, &key).is_some() {
                return Err(ApiError::already_exists(resource, &name));
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
    check_namespace(object, namespace)?;
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

const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn check_name(resource: &Resource, name: &str) -> Result<(), ApiError> {
    let value = Value::from(name);
    let problem = match resource.plural {
        "namespaces" | "services" if !is_dns_label(name) => Some(DNS_LABEL),
        "roles" | "rolebindings" | "clusterroles" | "clusterrolebindings" => {
            (name == "." || name == ".." || name.contains(['/', '%'])).then_some("may not contain '/' or '%'")
        }
        _ if name.len() > 253 || !name.split('.').all(is_dns_word) => Some(DNS_SUBDOMAIN),
        _ => None,
    };
    problem.map_or(Ok(()), |detail| {
        Err(ApiError::invalid(resource, name, &[Cause::invalid("metadata.name", &value, detail)]))
    })
}

/// A part of a subdomain; unlike a label it may be longer than 63 characters.
fn is_dns_word(word: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    word.starts_with(good) && word.ends_with(good) && word.chars().all(|c| good(c) || c == '-')
}

pub(super) fn update(call: &Call<'_>) -> Result<Response, ApiError> {
    let target = call.target;
    let resource = target.resource;
    let (mut new, warnings) = call.decoded_body()?;
    check_namespace(&mut new, &target.namespace)?;
    match new["metadata"]["name"].as_str().unwrap_or("") {
        "" => {
            return Err(ApiError::bad_request(
                "name must be provided in the object's metadata: resource name may not be empty",
            ));
        }
        given if given == target.name => {}
        given => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({})",
                target.name
            )));
        }
    }
    let stored = events::stored_as(resource);
    let exists = call.server.store().get(stored, &call.key()).is_some();
    let upserts = matches!(resource.plural, "leases" | "events" | "endpoints" | "endpointslices");
    if !exists && upserts && target.subresource.is_empty() {
        let wants = new["metadata"]["uid"].as_str().unwrap_or("").to_owned();
        if !wants.is_empty() {
            return Err(uid_conflict(resource, &target.name, &wants, ""));
        }
        new["metadata"]["resourceVersion"] = Value::Null;
        let created =
            create_object(call.server, resource, &target.namespace, new, call.caller, call.dry_run()?)?;
        return Ok(json_response(StatusCode::CREATED, call.one(&created)?));
    }
    let written = change(call, |_| Ok(new.clone()))?;
    Ok(warn(json_response(StatusCode::OK, call.one(&written)?), &warnings))
}

pub(super) fn patch(call: &Call<'_>) -> Result<Response, ApiError> {
    let target = call.target;
    let resource = target.resource;
    let given = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media = given.split(';').next().unwrap_or("").trim();
    let body = call.parsed_body()?;
    let stored = events::stored_as(resource);
    let unknown = Unknown::of(call.query)?;
    if media == "application/apply-patch+yaml" {
        return apply_patch(call, body);
    }
    let written = change(call, |old| {
        let mut new = Value::clone(old);
        match media {
            "application/json-patch+json" => {
                json_patch(&mut new, &body).map_err(|why| unprocessable(&why))?;
            }
            "application/merge-patch+json" => merge_patch(&mut new, &body),
            "application/strategic-merge-patch+json" => {
                strategic_patch(&mut new, &body).map_err(ApiError::bad_request)?;
            }
            _ => {
                return Err(ApiError::unsupported_media_type(
                    given,
                    &[
                        "application/json-patch+json",
                        "application/merge-patch+json",
                        "application/strategic-merge-patch+json",
                        "application/apply-patch+yaml",
                    ],
                ));
            }
        }
        let sent = (unknown == Unknown::Refuse).then(|| new.clone());
        let new = (stored.normalize)(new).map_err(|e| {
            let cause = Cause::invalid("patch", &body, &e.to_string());
            ApiError::invalid(resource, "", &[cause])
        })?;
        if let Some(sent) = sent {
            let mut dropped = Vec::new();
            unknown_fields(&sent, &new, &mut String::new(), &mut dropped);
            if !dropped.is_empty() {
                let text = format!("strict decoding error: {}", dropped.join(", "));
                return Err(ApiError::invalid(resource, "", &[Cause::invalid("patch", &body, &text)]));
            }
        }
        Ok(new)
    })?;
    Ok(json_response(StatusCode::OK, call.one(&written)?))
}

fn apply_patch(call: &Call<'_>, body: Value) -> Result<Response, ApiError> {
    let target = call.target;
    let resource = target.resource;
    let manager = call.query.get("fieldManager");
    if manager.is_empty() {
        return Err(ApiError::new(
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let time = call.server.clock().time();
    let applier =
        Applier { manager, subresource: &target.subresource, force: call.query.flag("force"), time: &time };
    let stored = events::stored_as(resource);
    if call.server.store().get(stored, &call.key()).is_none() && target.subresource.is_empty() {
        let mut config = body;
        config["metadata"]["name"] = target.name.clone().into();
        let object = apply(resource, &Value::Null, config, &applier)?;
        let object = decode(resource, object)?;
        let created =
            create_object(call.server, resource, &target.namespace, object, call.caller, call.dry_run()?)?;
        return Ok(json_response(StatusCode::CREATED, call.one(&created)?));
    }
    let written = change(call, |old| {
        let object = apply(resource, old, body.clone(), &applier)?;
        (stored.normalize)(object).map_err(|e| ApiError::bad_request(e.to_string()))
    })?;
    Ok(json_response(StatusCode::OK, call.one(&written)?))
}

fn unprocessable(why: &str) -> ApiError {
    let text = "the server rejected our request due to an error in our request";
    let mut error = ApiError::new(422, "Invalid", text);
    error
        .details
        .insert("causes".to_owned(), json!([{"reason": "UnexpectedServerResponse", "message": why}]));
    error
}

fn uid_conflict(resource: &Resource, name: &str, wanted: &str, actual: &str) -> ApiError {
    let text = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}");
    ApiError::conflict(resource, name, &text)
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
    let dry_run = call.dry_run()?;
    let mut outcome = None;
    let written = store.update(stored, &key, |old| {
        let mut new = make(old)?;
        settle_metadata(target, old, &mut new)?;
        kinds::prepare_update(resource, &target.subresource, old, &mut new)?;
        drop_nulls(&mut new);
        if new == **old {
            outcome = None;
            return Ok(None);
        }
        outcome = Some(new.clone());
        Ok((!dry_run).then_some(new))
    })?;
    match outcome {
        Some(new) if dry_run => Ok(Arc::new(Object::new(new))),
        Some(_) => Ok(finish_deletion(call.server, stored, &key, &written).unwrap_or(written)),
        None => Ok(written),
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
        return Err(uid_conflict(resource, name, &uid, old.uid()));
    }
    let version = text(&metadata["resourceVersion"]);
    if !matches!(version.as_str(), "" | "0") && version != old.revision() {
        return Err(ApiError::modified(resource, name));
    }
    if version.is_empty() && resource.is(resources::leases()) {
        let cause =
            Cause::invalid("metadata.resourceVersion", &Value::from(0), "must be specified for an update");
        return Err(ApiError::invalid(resource, name, &[cause]));
    }
    let given_name = text(&metadata["name"]);
    if !given_name.is_empty() && given_name != name {
        let detail = "field is immutable";
        let cause = Cause::invalid("metadata.name", &metadata["name"], detail);
        return Err(ApiError::invalid(resource, name, &[cause]));
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
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {}",
                Value::from(added)
            );
            let cause = Cause::forbidden("metadata.finalizers", &detail);
            return Err(ApiError::invalid(resource, name, &[cause]));
        }
    }
    Ok(())
}
