//! Answers in the kubelet's own words: plain text, with its status codes.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use crate::provider;

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NOSNIFF: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));

/// A text, as the kubelet's handlers write it.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PLAIN);
    response
}

/// A text as Go's `http.Error` writes it, which some of the kubelet's answers go through: with a line's end
/// and `X-Content-Type-Options`.
pub(crate) fn error_line(status: StatusCode, line: &str) -> Response {
    nosniff(text(status, format!("{line}\n")))
}

/// `ok` and its like, which carry `X-Content-Type-Options` but no line's end.
pub(super) fn health(body: impl Into<Bytes>) -> Response {
    nosniff(text(StatusCode::OK, body))
}

/// The same with `X-Content-Type-Options`.
pub(super) fn nosniff(mut response: Response) -> Response {
    response.headers_mut().insert(NOSNIFF.0, NOSNIFF.1);
    response
}

/// A JSON document.
pub(super) fn json(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A path that the kubelet's outer multiplexer does not know; given before authentication.
pub(super) fn unknown_path() -> Response {
    error_line(StatusCode::NOT_FOUND, "404 page not found")
}

/// A path below a known root that leads nowhere; given after authentication.
pub(super) fn unknown_route() -> Response {
    text(StatusCode::NOT_FOUND, "404: Page Not Found")
}

/// A known path with a method it does not take.
pub(super) fn wrong_method(allowed: &[Method]) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    let list = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&list) {
        response.headers_mut().insert(http::header::ALLOW, value);
    }
    response
}

/// The other spelling of a path, as Go's multiplexer sends it. Only to a GET it says so in words.
pub(super) fn redirect(method: &Method, path: &str, query: Option<&str>) -> Response {
    let location = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let body = if method == Method::GET {
        format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", escaped(&location))
    } else {
        String::new()
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = response.headers_mut();
    if matches!(*method, Method::GET | Method::HEAD) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    if let Ok(value) = HeaderValue::from_str(&location) {
        headers.insert(http::header::LOCATION, value);
    }
    response
}

/// A text inside HTML, as Go escapes it.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&#34;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

/// A representation that the route does not have.
pub(super) fn not_acceptable(produced: &str) -> Response {
    let body = format!("406: Not Acceptable\n\nAvailable representations: {produced}");
    text(StatusCode::NOT_ACCEPTABLE, body)
}

/// A capability that the backend, or as yet the node, does not have.
pub(super) fn not_implemented(reason: impl Into<Bytes>) -> Response {
    text(StatusCode::NOT_IMPLEMENTED, reason)
}

/// A provider's error, short: the API server hands the body on to the user as its message.
pub(super) fn provider_error(error: &provider::Error) -> Response {
    let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = text(status, error.to_string());
    if let provider::Error::Throttled { retry_after: Some(after), .. } = error {
        // Whole seconds, rounded up: zero would invite the client back at once.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
