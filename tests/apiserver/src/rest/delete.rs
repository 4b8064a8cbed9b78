//! delete and deletecollection.
//!
//! Source: apiserver `pkg/endpoints/handlers/delete.go`, `pkg/registry/generic/registry/store.go`
//! (`Delete`, `deletionFinalizersForGarbageCollection`).

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as metav1;
use serde_json::{Value, json};

use super::{Call, json_response, options, read};
use crate::ApiServer;
use crate::error::{ApiError, Cause};
use crate::events;
use crate::pods::{self, Deletion};
use crate::request::Query;
use crate::resources::{self, Resource};
use crate::store::{Key, Object};

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) dry_run: bool,
    /// Whether the older `orphanDependents: false` asked for the dependents' deletion.
    pub(crate) cascades: bool,
}

/// What becomes of the objects this one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl DeleteOptions {
    pub(crate) fn grace(seconds: i64) -> Self {
        Self { grace: Some(seconds), ..Self::default() }
    }

    pub(crate) fn background() -> Self {
        Self { propagation: Some(Propagation::Background), ..Self::default() }
    }

    pub(crate) fn foreground() -> Self {
        Self { propagation: Some(Propagation::Foreground), ..Self::default() }
    }

    /// Reads the object form; null is no options.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let policy = body["propagationPolicy"].as_str().unwrap_or("");
        let mut causes: Vec<Cause> = body["dryRun"]
            .as_array()
            .and_then(|values| options::dry_run(values.iter().filter_map(Value::as_str)))
            .into_iter()
            .collect();
        if !policy.is_empty() && body["orphanDependents"].is_boolean() {
            let text = "orphanDependents and deletionPropagation cannot be both set";
            causes.push(Cause::invalid("propagationPolicy", &policy.into(), text));
        }
        options::refuse("DeleteOptions", &causes)?;
        let text = |value: &Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        let mut options = Self {
            grace: body["gracePeriodSeconds"].as_i64(),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            propagation: propagation(policy)?,
            dry_run: body["dryRun"].as_array().is_some_and(|d| !d.is_empty()),
            cascades: body["orphanDependents"] == false,
        };
        if let Some(orphan) = body["orphanDependents"].as_bool() {
            options.propagation = Some(if orphan { Propagation::Orphan } else { Propagation::Background });
        }
        Ok(options)
    }

    fn of(call: &Call<'_>) -> Result<Self, ApiError> {
        let body = call.delete_options()?;
        if body.as_object().is_some_and(|b| !b.is_empty()) {
            let kind = body["kind"].as_str().filter(|kind| !matches!(*kind, "" | "DeleteOptions"));
            if let Some(kind) = kind {
                let version = body["apiVersion"].as_str().unwrap_or("");
                return Err(ApiError::bad_request(format!(
                    "no kind {kind:?} is registered for version {version:?} in scheme \"vk-apiserver\""
                )));
            }
            let body = serde_json::from_value::<metav1::DeleteOptions>(body)
                .and_then(serde_json::to_value)
                .map_err(|error| ApiError::bad_request(format!("json: cannot unmarshal {error}")))?;
            return Self::parse(&body);
        }
        Self::of_query(call.query)
    }

    fn of_query(query: &Query) -> Result<Self, ApiError> {
        Ok(Self {
            grace: query.integer("gracePeriodSeconds")?,
            propagation: propagation(query.get("propagationPolicy"))?,
            dry_run: query.has("dryRun"),
            ..Self::default()
        })
        .and_then(|parsed| {
            let bad = options::dry_run(query.all("dryRun"));
            options::refuse("DeleteOptions", &bad.into_iter().collect::<Vec<_>>())?;
            Ok(parsed)
        })
    }

    pub(crate) fn check(&self, resource: &Resource, object: &Object) -> Result<(), ApiError> {
        let name = object["metadata"]["name"].as_str().unwrap_or("");
        let conflict = |what: &str, wanted: &str, actual: &str, hint: &str| {
            let text = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({actual}). \
                 The object might have been {hint}"
            );
            let mut error = ApiError::conflict(resource, name, &text);
            // The real server names the kind here, not the resource.
            error.message = error.message.replacen(&resource.qualified(), &kind_of(resource), 1);
            error.details.insert("kind".to_owned(), resource.kind.into());
            error
        };
        if let Some(uid) = self.uid.as_deref().filter(|uid| *uid != object.uid()) {
            return Err(conflict("UID", uid, object.uid(), "deleted and then recreated"));
        }
        if let Some(version) = self.resource_version.as_deref().filter(|v| *v != object.revision()) {
            return Err(conflict("ResourceVersion", version, object.revision(), "modified"));
        }
        Ok(())
    }
}

fn kind_of(resource: &Resource) -> String {
    if resource.group.is_empty() {
        resource.kind.to_owned()
    } else {
        format!("{}.{}", resource.kind, resource.group)
    }
}

fn propagation(text: &str) -> Result<Option<Propagation>, ApiError> {
    Ok(Some(match text {
        "" => return Ok(None),
        "Background" => Propagation::Background,
        "Foreground" => Propagation::Foreground,
        "Orphan" => Propagation::Orphan,
        other => {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            let cause = Cause::not_supported("propagationPolicy", &other.into(), &supported);
            options::refuse("DeleteOptions", &[cause])?;
            return Ok(None);
        }
    }))
}

/// Namespaces that stay.
const PROTECTED: [&str; 3] = ["default", "kube-public", "kube-system"];

pub(super) fn delete(call: &Call<'_>) -> Result<Response, ApiError> {
    let resource = call.target.resource;
    let options = DeleteOptions::of(call)?;
    if resource.is(resources::namespaces()) && PROTECTED.contains(&call.target.name.as_str()) {
        return Err(ApiError::forbidden(resource, &call.target.name, "this namespace may not be deleted"));
    }
    let (object, gone) = delete_object(call.server, resource, &call.key(), &options)?;
    let code = if options.cascades && !gone { StatusCode::ACCEPTED } else { StatusCode::OK };
    if gone && !resource.returns_deleted {
        let mut details = json!({"name": call.target.name, "kind": resource.plural, "uid": object.uid()});
        if !resource.group.is_empty() {
            details["group"] = resource.group.into();
        }
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                            "details": details});
        return Ok(json_response(code, status.to_string()));
    }
    Ok(json_response(code, call.one(&object)?))
}

pub(super) fn delete_collection(call: &Call<'_>) -> Result<Response, ApiError> {
    let resource = call.target.resource;
    let options = DeleteOptions::of(call)?;
    let stored = events::stored_as(resource);
    let scope = read::scope(call)?;
    let page = call.server.store().page(stored, &scope, None, None, 0)?;
    let mut deleted = Vec::with_capacity(page.items.len());
    for object in &page.items {
        match delete_object(call.server, resource, &Key::of(object), &options) {
            // As it was: the list is of what there was to delete.
            Ok(_) => deleted.push(Arc::clone(object)),
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let metadata = json!({"resourceVersion": call.server.store().revision().to_string()});
    Ok(json_response(StatusCode::OK, call.list(&deleted, &metadata)?))
}

/// Deletes an object as a client asked; tells its state and whether it is gone.
pub(crate) fn delete_object(
    server: &ApiServer,
    resource: &'static Resource,
    key: &Key,
    options: &DeleteOptions,
) -> Result<(Arc<Object>, bool), ApiError> {
    let stored = events::stored_as(resource);
    let now = server.clock().now();
    server.store().transact(|t| {
        let object = t.get(stored, key).ok_or_else(|| ApiError::not_found(resource, &key.name))?;
        options.check(resource, &object)?;
        let (mut marked, graceful, remove) = if resource.is(resources::pods()) {
            match pods::begin(&object, options.grace, now) {
                Deletion::Pending => return Ok((object, false)),
                Deletion::Marked(pod) => (pod, true, false),
                Deletion::Immediate(pod) => (pod, true, true),
                Deletion::Finish => (Value::clone(&object), false, true),
            }
        } else {
            (Value::clone(&object), false, true)
        };
        set_gc_finalizers(resource, options, &mut marked);
        let waits = marked["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
            || (resource.is(resources::namespaces())
                && marked["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()));
        if waits && !graceful {
            mark(resource, &mut marked, &server.clock().time());
        }
        if options.dry_run {
            return Ok((Arc::new(Object::new(marked)), remove && !waits));
        }
        let mut last = object.clone();
        if marked != **object {
            last = t.put(stored, key, marked);
        }
        if waits || !remove {
            return Ok((last, false));
        }
        Ok((t.remove(stored, key).unwrap_or(last), true))
    })
}

/// Removes an object whose last finalizer went; `None` if another took its place.
pub(super) fn delete_stored(
    server: &ApiServer,
    resource: &'static Resource,
    key: &Key,
    uid: &str,
) -> Option<Arc<Object>> {
    server.store().transact(|t| {
        let same = t.get(resource, key).is_some_and(|o| o.uid() == uid);
        same.then(|| t.remove(resource, key)).flatten()
    })
}

/// Marks an object that finalizers hold.
fn mark(resource: &Resource, object: &mut Value, now: &str) {
    let metadata = &mut object["metadata"];
    if metadata["deletionTimestamp"].is_null() {
        if let Some(generation) = metadata["generation"].as_i64() {
            metadata["generation"] = (generation + 1).into();
        }
        metadata["deletionTimestamp"] = now.into();
        if resource.is(resources::namespaces()) {
            object["status"]["phase"] = "Terminating".into();
            return;
        }
    }
    if !resource.is(resources::namespaces()) {
        metadata["deletionGracePeriodSeconds"] = 0.into();
    }
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

fn set_gc_finalizers(resource: &Resource, options: &DeleteOptions, object: &mut Value) {
    let held = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let wanted = options.propagation.or_else(|| {
        if held.iter().any(|f| f == ORPHAN) {
            Some(Propagation::Orphan)
        } else if held.iter().any(|f| f == FOREGROUND) {
            Some(Propagation::Foreground)
        } else if matches!(resource.plural, "jobs" | "replicationcontrollers") {
            Some(Propagation::Orphan)
        } else {
            None
        }
    });
    let mut finalizers: Vec<Value> =
        held.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    match wanted {
        Some(Propagation::Orphan) => finalizers.push(ORPHAN.into()),
        Some(Propagation::Foreground) => finalizers.push(FOREGROUND.into()),
        _ => {}
    }
    if finalizers == held {
        return;
    }
    if finalizers.is_empty() {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("finalizers");
        }
    } else {
        object["metadata"]["finalizers"] = finalizers.into();
    }
}
