//! `GET /flagz` and `GET /statusz`: what people look at first (KEP-4828, KEP-4827), as text.
//!
//! Callers that ask for `application/json;v=v1beta1;g=config.k8s.io;as=Statusz` get the object of that version.

use std::fmt::Write as _;

use axum::body::Body;
use axum::response::Response;
use http::header::{ACCEPT, HeaderValue, WARNING};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::routes::{Endpoint, ROOTS};
use super::{KubeletApi, reply};

const NOTICE: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting \
                       compatibility guarantees and is for debugging purposes only.\n";

/// The settings the daemon was started with, one in a line.
pub(super) fn flagz(api: &KubeletApi, headers: &HeaderMap) -> Response {
    let form = match Form::wanted(headers, "Flagz") {
        Ok(form) => form,
        Err(refusal) => return *refusal,
    };
    if let Form::Object(version) = form {
        let flags: serde_json::Map<String, Value> =
            api.flags.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        return object("Flagz", version, &json!({ "flags": flags }));
    }
    let mut text = format!("\nkubelet flagz\n{NOTICE}\n");
    for (name, value) in api.flags.iter() {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "{name}={value}");
    }
    reply::text(StatusCode::OK, text)
}

/// How long it has been up, as what, and where to look further.
pub(super) fn statusz(api: &KubeletApi, headers: &HeaderMap) -> Response {
    let started = *crate::metrics::PROCESS_START;
    let up = api.clock.now().duration_since(started).unsigned_abs().as_secs();
    let mut paths: Vec<&str> = ROOTS.iter().flat_map(|root| root.routes).filter_map(shown).collect();
    paths.sort_unstable();
    let form = match Form::wanted(headers, "Statusz") {
        Ok(form) => form,
        Err(refusal) => return *refusal,
    };
    if let Form::Object(version) = form {
        let seconds = Timestamp::from_second(started.as_second()).unwrap_or(started);
        let status = json!({
            "startTime": seconds.to_string(),
            "uptimeSeconds": up,
            // Nothing here is Go's; the field is always there.
            "goVersion": "",
            "binaryVersion": env!("CARGO_PKG_VERSION"),
            "paths": paths,
        });
        return object("Statusz", version, &status);
    }
    let mut text = format!("\nkubelet statusz\n{NOTICE}\n");
    let _ = writeln!(text, "Started: {}", go_date(started));
    let _ = writeln!(text, "Up: {} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
    let _ = writeln!(text, "Binary version: v{}", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "Paths: {}", paths.join(" "));
    reply::text(StatusCode::OK, text)
}

/// Fixed paths that a person could open.
fn shown(route: &super::routes::Route) -> Option<&'static str> {
    let off = matches!(route.endpoint, Endpoint::Disabled(_)) || route.path.contains('{');
    (!off).then_some(route.path)
}

fn go_date(time: Timestamp) -> String {
    time.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()
}

/// What a caller wants to have it as.
enum Form {
    Text,
    /// The object of that version of `config.k8s.io`.
    Object(&'static str),
}

impl Form {
    /// The first of the accepted forms that there is.
    fn wanted(headers: &HeaderMap, kind: &str) -> Result<Self, Box<Response>> {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let accepted: Vec<&str> = accepted.flat_map(|value| value.split(',')).map(str::trim).collect();
        if accepted.iter().all(|clause| clause.is_empty()) {
            return Ok(Self::Text);
        }
        let form = |clause: &&str| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next()?;
            let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
            let value =
                |name: &str| parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            let (version, group, of) = (value("v"), value("g"), value("as"));
            match media {
                "*/*" | "text/*" | "text/plain" if (version, group, of) == (None, None, None) => {
                    Some(Self::Text)
                }
                "application/json" if group == Some("config.k8s.io") && of == Some(kind) => {
                    VERSIONS.into_iter().find(|known| version == Some(known)).map(Self::Object)
                }
                _ => None,
            }
        };
        accepted.iter().find_map(form).ok_or_else(|| Box::new(not_acceptable()))
    }
}

/// The deprecated one first.
const VERSIONS: [&str; 2] = ["v1alpha1", "v1beta1"];

fn object(kind: &str, version: &str, content: &Value) -> Response {
    let mut object = json!({
        "kind": kind,
        "apiVersion": format!("config.k8s.io/{version}"),
        "metadata": { "name": "kubelet" },
    });
    if let (Some(object), Some(content)) = (object.as_object_mut(), content.as_object()) {
        object.extend(content.clone());
    }
    let mut response = reply::json(Body::from(format!("{object}\n")));
    if version == VERSIONS[0] {
        let line = format!(
            "299 - \"This version of the {} endpoint is deprecated. Please use a newer version.\"",
            kind.to_lowercase()
        );
        if let Ok(value) = HeaderValue::from_str(&line) {
            response.headers_mut().insert(WARNING, value);
        }
    }
    response
}

/// As the machinery of Kubernetes says it, in JSON.
fn not_acceptable() -> Response {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "only the following media types are accepted: application/json, text/plain",
        "reason": "NotAcceptable",
        "code": 406,
    });
    let mut response = reply::json(Body::from(format!("{status:#}")));
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use serde_json::{Value, json};

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
    async fn who_asks_for_an_object_gets_one_of_a_version_there_is() {
        let flags = vec![("nodename".to_owned(), "node-1".to_owned())];
        let api = api(Backend::default(), Vec::new()).with_flags(flags);
        let ask = async |path: &str, accept: &str| {
            let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
            let answer = send(&api, request).await;
            let json = serde_json::from_str::<Value>(&answer.body).unwrap_or_default();
            (answer.status.as_u16(), json, answer)
        };
        let of =
            |version: &str, kind: &str| format!("application/json;v={version};g=config.k8s.io;as={kind}");
        let (code, flagz, answer) = ask("/flagz", &of("v1beta1", "Flagz")).await;
        assert_eq!((code, &flagz["flags"]["nodename"]), (200, &json!("node-1")));
        assert_eq!((&flagz["kind"], &flagz["metadata"]["name"]), (&json!("Flagz"), &json!("kubelet")));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("warning"), None);
        let (code, statusz, answer) = ask("/statusz", &of("v1alpha1", "Statusz")).await;
        assert_eq!((code, &statusz["apiVersion"]), (200, &json!("config.k8s.io/v1alpha1")));
        assert!(statusz["uptimeSeconds"].is_number() && statusz["paths"].is_array(), "{statusz}");
        assert!(answer.header("warning").unwrap().contains("the statusz endpoint is deprecated"));
        for accept in [
            "application/json",
            &of("v1", "Statusz"),
            &of("v1beta1", "Flagz"),
            "application/yaml;v=v1beta1;g=config.k8s.io;as=Statusz",
            "text/plain;v=v1beta1",
        ] {
            let (code, status, answer) = ask("/statusz", accept).await;
            assert_eq!((code, &status["reason"]), (406, &json!("NotAcceptable")), "{accept}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
        }
        for accept in ["", "*/*", "text/*", "application/json, text/plain;q=0.5"] {
            let (code, _, answer) = ask("/statusz", accept).await;
            assert_eq!(code, 200, "{accept}");
            assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        }
    }
}
