//! `pods/NAME/log`.
//!
//! Source: pkg/registry/core/pod/rest/log.go, pkg/apis/core/validation `ValidatePodLogOptions`, apiserver
//! `pkg/registry/generic/rest/{streamer,response_checker}.go`; answers recorded from 1.37.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};

use super::dial::Endpoint;
use super::forward::forward;
use super::{Params, container, node_of, pod_of, uri};
use crate::ApiServer;
use crate::clock::format_time;
use crate::error::{ApiError, Cause};
use crate::request::{Query, Target};

pub(super) async fn answer(
    server: &ApiServer,
    parts: &Parts,
    target: &Target,
    query: &Query,
) -> Result<Response, ApiError> {
    let params = options(&target.name, query)?;
    let pod = pod_of(server, target, &target.name)?;
    let container = container(&pod, query.get("container"))?;
    let Some(node) = node_of(&pod) else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let mut endpoint = Endpoint::kubelet(server, node)?;
    if query.flag("insecureSkipTLSVerifyBackend") {
        endpoint = endpoint.unverified();
    }
    let mut path = format!("/containerLogs/{}/{}/{container}", target.namespace, target.name);
    if !params.is_empty() {
        path = format!("{path}?{params}");
    }
    let mut request = http::Request::new(()).into_parts().0;
    request.method = http::Method::GET;
    request.uri = uri(&path)?;
    if let Some(agent) = parts.headers.get(header::USER_AGENT) {
        request.headers.insert(header::USER_AGENT, agent.clone());
    }
    let response = forward(server, &endpoint, request, Body::empty()).await.map_err(|error| {
        let text = format!("Get \"https://{}{path}\": {error}", endpoint.authority());
        ApiError::new(500, "", text)
    })?;
    if !matches!(response.status().as_u16(), 200..=206) {
        return Err(refusal(target, response).await);
    }
    // The body goes on chunk by chunk, as the kubelet flushes it.
    let mut answer = response.into_body().into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(answer)
}

/// Largest error text taken from a kubelet, in bytes.
const ERROR_LIMIT: usize = 50_000;

/// What the client is told of a kubelet's refusal.
async fn refusal(target: &Target, response: Response) -> ApiError {
    let code = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), ERROR_LIMIT).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body).into_owned();
    match code {
        500 => ApiError::internal(&text),
        400 => ApiError::bad_request(text),
        404 => {
            let mut error = ApiError::not_found(target.resource, &target.name);
            error.message =
                format!("the server could not find the requested resource ( pods/log {})", target.name);
            error.details.insert(
                "causes".to_owned(),
                serde_json::json!([{"reason": "UnexpectedServerResponse", "message": text}]),
            );
            error
        }
        _ => ApiError::new(code, "", text),
    }
}

/// Checks the client's options and writes them as the kubelet's.
fn options(pod: &str, query: &Query) -> Result<String, ApiError> {
    let number = |key: &str| match query.get(key) {
        "" => Ok(None),
        text => text.parse::<i64>().map(Some).map_err(|_| {
            ApiError::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))
        }),
    };
    let (tail, limit, seconds) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let time = match query.get("sinceTime") {
        "" => None,
        text => Some(text.parse::<jiff::Timestamp>().map_err(|_| {
            ApiError::bad_request(format!(
                "parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse"
            ))
        })?),
    };
    let mut causes = Vec::new();
    if let Some(tail) = tail.filter(|t| *t < 0) {
        causes.push(Cause::invalid("tailLines", &tail.into(), "must be greater than or equal to 0"));
    }
    if let Some(limit) = limit.filter(|l| *l < 1) {
        causes.push(Cause::invalid("limitBytes", &limit.into(), "must be greater than 0"));
    }
    match seconds {
        Some(_) if time.is_some() => causes
            .push(Cause::forbidden("[]", "at most one of `sinceTime` or `sinceSeconds` may be specified")),
        Some(seconds) if seconds < 1 => {
            causes.push(Cause::invalid("sinceSeconds", &seconds.into(), "must be greater than 0"));
        }
        _ => {}
    }
    // Gate PodLogsQuerySplitStreams is off by default.
    if query.has("stream") {
        causes.push(Cause::forbidden("stream", "may not be specified"));
    }
    if !causes.is_empty() {
        return Err(ApiError::invalid_options("PodLogOptions", pod, &causes));
    }
    let mut params = Params::default();
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag) {
            params.add(flag, "true");
        }
    }
    for (key, value) in [("sinceSeconds", seconds), ("tailLines", tail), ("limitBytes", limit)] {
        if let Some(value) = value {
            params.add(key, &value.to_string());
        }
    }
    if let Some(time) = time {
        params.add("sinceTime", &format_time(time));
    }
    Ok(params.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_and_passed_on() {
        let pass = |text: &str| options("p", &Query::parse(text));
        assert_eq!(pass("follow=true&previous=false&container=a").unwrap(), "follow=true");
        assert_eq!(pass("tailLines=0&limitBytes=7").unwrap(), "tailLines=0&limitBytes=7");
        let time = pass("sinceTime=2026-01-02T03:04:05.678Z").unwrap();
        assert_eq!(time, "sinceTime=2026-01-02T03%3A04%3A05Z");
        for (bad, code) in [
            ("tailLines=x", 400),
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=0", 422),
            ("sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z", 422),
            ("sinceTime=yesterday", 400),
            ("stream=All", 422),
        ] {
            assert_eq!(pass(bad).unwrap_err().code, code, "{bad}");
        }
        assert_eq!(
            pass("limitBytes=-1").unwrap_err().message,
            "PodLogOptions \"p\" is invalid: limitBytes: Invalid value: -1: must be greater than 0"
        );
    }
}
