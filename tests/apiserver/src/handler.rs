//! The way of a request: who asks, what for, which faults it meets, and how it is counted.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use crate::ApiServer;
use crate::authorize::{self, Attributes};
use crate::counters::RequestKind;
use crate::discovery;
use crate::error::ApiError;
use crate::faults::Fault;
use crate::identity::Identity;
use crate::proxy;
use crate::request::{Query, Target, Verb};
use crate::rest::{self, Call};
use crate::tokens;

/// Largest body, as the real server's.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

pub(crate) fn router(server: ApiServer) -> Router {
    Router::new().fallback(handle).with_state(server)
}

/// A service whose callers are one user.
pub(crate) fn router_for(server: ApiServer, identity: Identity) -> Router {
    router(server).layer(axum::middleware::map_request(move |mut request: Request| {
        let identity = identity.clone();
        async move {
            request.extensions_mut().insert(identity);
            request
        }
    }))
}

async fn handle(State(server): State<ApiServer>, request: Request) -> Response {
    let in_process = request.extensions().get::<OnUpgrade>().is_none();
    if in_process && proxy::is_upgrade(request.headers()) {
        let router = match request.extensions().get::<Identity>() {
            Some(identity) => router_for(server, identity.clone()),
            None => router(server),
        };
        return proxy::loop_back(router, request)
            .await
            .unwrap_or_else(|e| ApiError::internal(&e.to_string()).into_response());
    }
    let (parts, body) = request.into_parts();
    let mut response = match answer(&server, parts, body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    // The server's own clock, which may be far from the machine's.
    if let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&server.clock().now())
        && let Ok(date) = http::HeaderValue::try_from(date)
    {
        response.headers_mut().entry(header::DATE).or_insert(date);
    }
    response
}

async fn answer(server: &ApiServer, parts: Parts, body: Body) -> Result<Response, ApiError> {
    let caller = authenticate(server, &parts)?;
    let path = parts.uri.path().to_owned();
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    let Some(target) = Target::parse(&parts.method, &path, &query)? else {
        let attributes = Attributes {
            verb: parts.method.as_str().to_lowercase(),
            path: path.clone(),
            ..Attributes::default()
        };
        allow(server, &caller, &attributes, None)?;
        return discovery::answer(server, &path, &parts.headers);
    };
    let response = about_resource(server, parts, body, &target, &query, &caller).await;
    let response = response.unwrap_or_else(IntoResponse::into_response);
    server.count_request(RequestKind {
        verb: target.verb,
        resource: target.resource.plural,
        subresource: target.subresource.clone(),
        code: response.status().as_u16(),
        user: caller.user,
    });
    Ok(response)
}

async fn about_resource(
    server: &ApiServer,
    parts: Parts,
    body: Body,
    target: &Target,
    query: &Query,
    caller: &Identity,
) -> Result<Response, ApiError> {
    allow(server, caller, &Attributes::of_target(target, &parts.method), Some(target))?;
    let faults = server.faults().hit(target, &caller.user);
    for fault in &faults {
        match fault {
            Fault::Delay(time) => sleep(*time).await,
            Fault::Hang => futures::future::pending().await,
            _ => {}
        }
    }
    if let Some(error) = faults.iter().find_map(|f| f.reply(target)) {
        return Err(error);
    }
    if proxy::is_proxied(target) {
        return proxy::answer(server, parts, body, target, query).await;
    }
    let body = read(body).await?;
    let call = Call { server, target, query, headers: &parts.headers, body, caller };
    let response = rest::answer(&call)?;
    if faults.contains(&Fault::LoseResponse) {
        return Ok(lost());
    }
    if target.verb == Verb::List && faults.contains(&Fault::EmptyList) {
        return without_items(response).await;
    }
    if target.verb == Verb::Watch {
        return Ok(faults.iter().fold(response, |r, fault| spoil_watch(server, target, r, fault)));
    }
    Ok(response)
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    axum::body::to_bytes(body, BODY_LIMIT).await.map_err(|_| {
        let text = format!("Request entity too large: limit is {BODY_LIMIT}");
        ApiError::new(413, "RequestEntityTooLarge", text)
    })
}

/// An answer that breaks off before its first byte.
fn lost() -> Response {
    let broken = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the response was lost");
    Body::from_stream(futures::stream::once(async { Err::<Bytes, _>(broken) })).into_response()
}

/// A list as if there was nothing.
async fn without_items(response: Response) -> Result<Response, ApiError> {
    let (mut parts, body) = response.into_parts();
    let mut list: Value = serde_json::from_slice(&read(body).await?)
        .map_err(|error| ApiError::internal(&format!("emptying a list: {error}")))?;
    list["items"] = Value::Array(Vec::new());
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from(list.to_string())))
}

fn spoil_watch(server: &ApiServer, target: &Target, response: Response, fault: &Fault) -> Response {
    let now = Instant::now();
    let (parts, body) = response.into_parts();
    let stream = body.into_data_stream();
    let body = match fault {
        Fault::DropWatch(after) => Body::from_stream(stream.take_until(sleep_until(now + *after))),
        Fault::ExpireWatch(after) => {
            let (server, resource, end) = (server.clone(), target.resource, now + *after);
            Body::from_stream(stream.take_until(async move {
                sleep_until(end).await;
                server.store().compact(resource);
            }))
        }
        Fault::StallWatch(after) => {
            let silence = futures::stream::pending();
            Body::from_stream(stream.take_until(sleep_until(now + *after)).chain(silence))
        }
        _ => Body::from_stream(stream),
    };
    Response::from_parts(parts, body)
}

/// The caller: what the TLS layer found, a bearer token, or (in-process) the administrator.
fn authenticate(server: &ApiServer, parts: &Parts) -> Result<Identity, ApiError> {
    let known = parts.extensions.get::<Identity>().cloned();
    let caller = match (bearer(&parts.headers), known) {
        (_, Some(identity)) if identity != Identity::anonymous() => identity,
        (Some(token), _) => tokens::identify(server, token, &[]).ok_or_else(ApiError::unauthorized)?.0,
        (None, Some(anonymous)) => anonymous,
        (None, None) => Identity::admin(),
    };
    impersonated(caller, &parts.headers)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

fn impersonated(caller: Identity, headers: &HeaderMap) -> Result<Identity, ApiError> {
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or("").to_owned();
    let Some(user) = headers.get("impersonate-user").map(text) else { return Ok(caller) };
    if !caller.groups.iter().any(|g| g == "system:masters") {
        let message = format!("users \"{user}\" is forbidden: User \"{}\" cannot impersonate", caller.user);
        return Err(ApiError::new(403, "Forbidden", message));
    }
    let groups: Vec<String> = headers.get_all("impersonate-group").iter().map(text).collect();
    Ok(Identity::new(user, groups))
}

fn allow(
    server: &ApiServer,
    caller: &Identity,
    attributes: &Attributes,
    target: Option<&Target>,
) -> Result<(), ApiError> {
    if authorize::decide(server, caller, attributes).is_ok() {
        return Ok(());
    }
    let text = attributes.refusal(&caller.user);
    Err(match target {
        Some(target) => ApiError::forbidden(target.resource, &target.name, &text),
        None => ApiError::new(403, "Forbidden", format!("forbidden: {text}")),
    })
}

/// Plain text, as health checks answer.
pub(crate) fn text(body: impl Into<Body>) -> Response {
    let mut response = (StatusCode::OK, body.into()).into_response();
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
