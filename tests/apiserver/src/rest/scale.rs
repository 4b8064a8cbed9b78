//! The `scale` subresource of workloads.

use axum::response::Response;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::{Call, json_response};
use crate::error::ApiError;
use crate::kinds;
use crate::patch::{json_patch, merge_patch};
use crate::request::Verb;
use crate::store::Object;

pub(super) fn answer(call: &Call<'_>) -> Result<Response, ApiError> {
    let resource = call.target.resource;
    let key = call.key();
    let store = call.server.store();
    let not_found = || ApiError::not_found(resource, &key.name);
    let object = match call.target.verb {
        Verb::Get => store.get(resource, &key).ok_or_else(not_found)?,
        Verb::Update | Verb::Patch => {
            let body = match call.target.verb {
                Verb::Update => call.parsed_body("Scale")?,
                _ => serde_json::from_slice(&call.body)
                    .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?,
            };
            store.update(resource, &key, |old| {
                let scale = wanted(call, old, &body)?;
                let version = scale["metadata"]["resourceVersion"].as_str().unwrap_or("");
                if !version.is_empty() && version != old.revision() {
                    return Err(ApiError::modified(resource, &key.name));
                }
                let mut new = Value::clone(old);
                new["spec"]["replicas"] = scale["spec"]["replicas"].as_i64().unwrap_or(0).into();
                kinds::prepare_update(resource, "scale", old, &mut new)?;
                kinds::drop_nulls(&mut new);
                Ok((new != **old).then_some(new))
            })?
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(json_response(StatusCode::OK, view(&object).to_string()))
}

fn wanted(call: &Call<'_>, old: &Object, body: &Value) -> Result<Value, ApiError> {
    if call.target.verb == Verb::Update {
        return Ok(body.clone());
    }
    let mut scale = view(old);
    let media = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if media.starts_with("application/json-patch+json") {
        json_patch(&mut scale, body).map_err(ApiError::bad_request)?;
    } else {
        merge_patch(&mut scale, body);
    }
    Ok(scale)
}

fn view(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let labels = object["spec"]["selector"]["matchLabels"].as_object();
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    // Go leaves a zero out here.
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(0);
    let spec = if replicas == 0 { json!({}) } else { json!({"replicas": replicas}) };
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": spec,
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.join(","),
        },
    })
}
