//! get, list and watch.
//!
//! Source: apiserver `pkg/endpoints/handlers/get.go`, `pkg/storage/cacher`; the resourceVersion semantics
//! of the API concepts page.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Call, json_response};
use crate::error::ApiError;
use crate::events;
use crate::selector::Selector;
use crate::store::{Key, Scope};
use crate::watch::{self, WatchOptions};

pub(super) fn get(call: &Call<'_>) -> Result<Response, ApiError> {
    let resource = call.target.resource;
    // Any version is the present one, if it is a version at all.
    revision(call).map_err(|error| unexpected(&error))?;
    let object = call
        .server
        .store()
        .get(events::stored_as(resource), &call.key())
        .ok_or_else(|| ApiError::not_found(resource, &call.target.name))?;
    Ok(json_response(StatusCode::OK, call.one(&object)?))
}

pub(super) fn list(call: &Call<'_>) -> Result<Response, ApiError> {
    let resource = call.target.resource;
    let scope = scope(call)?;
    let limit = call.query.integer("limit")?.unwrap_or(0).max(0);
    let token = call.query.get("continue");
    let revision = revision(call)?;
    let matching = call.query.get("resourceVersionMatch");
    let (at, after) = if token.is_empty() {
        let exact = matching == "Exact" || (matching.is_empty() && limit > 0);
        (revision.filter(|r| *r > 0 && exact), None)
    } else {
        if !resource_version_text(call).is_empty() && revision != Some(0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let (at, key) = read_token(token)?;
        (Some(at), Some(key))
    };
    wait_for_revision(call, revision)?;
    let stored = events::stored_as(resource);
    let page = call.server.store().page(stored, &scope, at, after.as_ref(), limit as usize)?;
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some((last, remaining)) = &page.more {
        metadata["continue"] = write_token(page.revision, last).into();
        if let Some(remaining) = remaining {
            metadata["remainingItemCount"] = (*remaining).into();
        }
    }
    Ok(json_response(StatusCode::OK, call.list(&page.items, &metadata)?))
}

pub(super) fn watch(call: &Call<'_>) -> Result<Response, ApiError> {
    let resource = call.target.resource;
    let scope = scope(call)?;
    let revision = revision(call).map_err(|error| unexpected(&error))?;
    let initial = call.query.has("sendInitialEvents").then(|| call.query.flag("sendInitialEvents"));
    wait_for_revision(call, revision)?;
    let from = match revision {
        None | Some(0) if initial != Some(false) => None,
        None => Some(call.server.store().revision()),
        Some(_) if initial == Some(true) => None,
        Some(revision) => Some(revision),
    };
    let timeout = match call.query.integer("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => DEFAULT_TIMEOUT.mul_f64(1.0 + call.server.random()),
    };
    let stored = events::stored_as(resource);
    let body = match call.server.store().subscribe(stored, &scope, from) {
        Err(error) if error.code == 410 => Body::from(watch::error_line(&error)),
        Err(error) => return Err(error),
        Ok(subscription) => {
            let options = WatchOptions {
                server: call.server.clone(),
                resource,
                scope,
                bookmarks: call.query.flag("allowWatchBookmarks"),
                // Without bookmarks there is nothing that could carry the mark.
                mark_initial: initial == Some(true) && call.query.flag("allowWatchBookmarks"),
                timeout,
                form: call.form()?,
            };
            Body::from_stream(watch::stream(subscription, options))
        }
    };
    Ok(json_response(StatusCode::OK, body))
}

/// A version that is none: outside of lists the real server does not expect that mistake.
fn unexpected(error: &ApiError) -> ApiError {
    ApiError::new(500, "", error.message.trim_start_matches("invalid resource version: "))
}

/// `--min-request-timeout`: a watch without a timeout of its own gets this to twice this.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(30);

pub(super) fn scope(call: &Call<'_>) -> Result<Scope, ApiError> {
    let target = call.target;
    let (labels, fields) = (call.query.get("labelSelector"), call.query.get("fieldSelector"));
    let selector = Selector::parse(target.resource, labels, fields)?;
    let namespace = (!target.namespace.is_empty()).then(|| target.namespace.clone());
    Ok(Scope { namespace, selector })
}

fn resource_version_text<'a>(call: &'a Call<'_>) -> &'a str {
    call.query.get("resourceVersion")
}

fn revision(call: &Call<'_>) -> Result<Option<u64>, ApiError> {
    match resource_version_text(call) {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
            ))
        }),
    }
}

/// A revision from the future: the real server waits three seconds for it and gives up.
fn wait_for_revision(call: &Call<'_>, revision: Option<u64>) -> Result<(), ApiError> {
    let current = call.server.store().revision();
    match revision {
        Some(asked) if asked > current => {
            let text = format!("Timeout: Too large resource version: {asked}, current: {current}");
            let mut error = ApiError::new(504, "Timeout", text.clone());
            let causes =
                json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
            error.details.insert("causes".to_owned(), causes);
            error.details.insert("retryAfterSeconds".to_owned(), 1.into());
            Err(error)
        }
        _ => Ok(()),
    }
}

fn write_token(revision: u64, last: &Key) -> String {
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "ns": last.namespace, "start": last.name});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn read_token(token: &str) -> Result<(u64, Key), ApiError> {
    let invalid = || ApiError::bad_request("invalid continue token: continue key is not valid");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    let token: Value = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
    let revision = token["rv"].as_u64().ok_or_else(invalid)?;
    let text = |field: &str| token[field].as_str().ok_or_else(invalid);
    Ok((revision, Key::new(text("ns")?, text("start")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_survives_the_round_trip_and_nonsense_is_refused() {
        let key = Key::new("ns", "a.b");
        assert_eq!(read_token(&write_token(7, &key)).unwrap(), (7, key));
        assert_eq!(read_token("nonsense").unwrap_err().code, 400);
    }
}
