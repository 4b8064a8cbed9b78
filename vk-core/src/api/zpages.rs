//! `GET /flagz` and `GET /statusz`: what people look at first (KEP-4828, KEP-4827), as text.
//!
//! The kubelet also gives them as versioned objects to callers that ask for these; here such callers get 406, as from
//! a kubelet that does not know the version.

use std::fmt::Write as _;

use axum::response::Response;
use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;

use super::routes::{Endpoint, ROOTS};
use super::{KubeletApi, reply};

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting \
                       compatibility guarantees and is for debugging purposes only.\n";

/// The settings the daemon was started with, one in a line.
pub(super) fn flagz(api: &KubeletApi, headers: &HeaderMap) -> Response {
    let mut text = format!("\nkubelet flagz\n{WARNING}\n");
    for (name, value) in api.flags.iter() {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "{name}={value}");
    }
    answer(headers, text)
}

/// How long it has been up, as what, and where to look further.
pub(super) fn statusz(api: &KubeletApi, headers: &HeaderMap) -> Response {
    let started = *crate::metrics::PROCESS_START;
    let up = api.clock.now().duration_since(started).unsigned_abs().as_secs();
    let mut text = format!("\nkubelet statusz\n{WARNING}\n");
    let _ = writeln!(text, "Started: {}", go_date(started));
    let _ = writeln!(text, "Up: {} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
    let _ = writeln!(text, "Binary version: v{}", env!("CARGO_PKG_VERSION"));
    let mut paths: Vec<&str> = ROOTS.iter().flat_map(|root| root.routes).filter_map(shown).collect();
    paths.sort_unstable();
    let _ = writeln!(text, "Paths: {}", paths.join(" "));
    answer(headers, text)
}

/// Fixed paths that a person could open.
fn shown(route: &super::routes::Route) -> Option<&'static str> {
    let off = matches!(route.endpoint, Endpoint::Disabled(_)) || route.path.contains('{');
    (!off).then_some(route.path)
}

fn go_date(time: Timestamp) -> String {
    time.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()
}

fn answer(headers: &HeaderMap, text: String) -> Response {
    let acceptable = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut media = acceptable
        .flat_map(|value| value.split(','))
        .map(|part| part.split(';').next().unwrap_or(part).trim());
    let any = headers.get(ACCEPT).is_none()
        || media.any(|media| matches!(media, "" | "*/*" | "text/*" | "text/plain"));
    if any {
        return reply::text(StatusCode::OK, text);
    }
    reply::error_line(StatusCode::NOT_ACCEPTABLE, "not acceptable")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;

    use super::super::testing::{Backend, api, get, send};

    #[tokio::test(start_paused = true)]
    async fn flags_are_listed_and_status_names_the_paths() {
        let flags = vec![("nodename".to_owned(), "node-1".to_owned())];
        let api = api(Backend::default(), Vec::new()).with_flags(flags);
        let answer = get(&api, "/flagz").await;
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert!(answer.body.starts_with(
            "\nkubelet flagz\nWarning: This endpoint is not meant to be machine parseable, has "
        ));
        assert!(answer.body.ends_with("\n\nnodename=node-1\n"), "{}", answer.body);
        let answer = get(&api, "/statusz").await;
        assert!(
            answer.body.contains("\nUp: ") && answer.body.contains("Paths: /configz /flagz /healthz"),
            "{}",
            answer.body
        );
        assert!(!answer.body.contains("/logs"), "{}", answer.body);
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_not_acceptable() {
        let api = api(Backend::default(), Vec::new());
        let accept = "application/json;v=v1alpha1;g=config.k8s.io;as=Statusz";
        let request = Request::get("/statusz").header("accept", accept).body(Body::empty()).unwrap();
        assert_eq!(send(&api, request).await.status, 406);
    }
}
