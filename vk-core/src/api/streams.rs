//! `exec`, `attach`, `portForward` and `run`: refused as the kubelet refuses them, as far as that goes without
//! a stream.

use axum::response::Response;
use http::StatusCode;
use http::header::CONNECTION;
use k8s_openapi::api::core::v1::Pod;

use super::request::Call;
use super::routes::Endpoint;
use super::{KubeletApi, containers, reply};

/// Answers a streaming endpoint.
pub(super) fn stream(api: &KubeletApi, call: &Call, endpoint: Endpoint) -> Response {
    let wants_io = matches!(endpoint, Endpoint::Exec | Endpoint::Attach);
    if wants_io && !["input", "output", "error"].iter().any(|name| call.first(name) == Some("1")) {
        let body = "you must specify at least 1 of stdin, stdout, stderr";
        return reply::text(StatusCode::BAD_REQUEST, body);
    }
    let pod = match target(api, call) {
        Ok(pod) => pod,
        Err(refusal) => return *refusal,
    };
    let container = call.param("container");
    if wants_io && !containers::names(&pod).any(|known| known == container) {
        let body = match endpoint {
            Endpoint::Attach => format!(
                "container {container} not found in pod {}_{}",
                call.param("pod"),
                call.param("namespace")
            ),
            _ => format!("container not found ({container:?})"),
        };
        return reply::text(StatusCode::INTERNAL_SERVER_ERROR, body);
    }
    let (capability, what) = match endpoint {
        Endpoint::Attach => (api.provider.attach().is_some(), "attach to containers"),
        Endpoint::PortForward => (api.provider.port_forward().is_some(), "forward ports"),
        _ => (api.provider.exec().is_some(), "run commands in containers"),
    };
    if !capability {
        return reply::not_implemented(format!("provider {:?} cannot {what}", api.provider.name()));
    }
    if endpoint != Endpoint::Run && !is_upgrade(call) {
        return reply::error_line(StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required");
    }
    reply::not_implemented(format!("this node cannot {what} yet"))
}

/// The pod of the path; its UID must be right if the path has one.
fn target(api: &KubeletApi, call: &Call) -> Result<Pod, Box<Response>> {
    let gone = |body: &'static str| Box::new(reply::text(StatusCode::NOT_FOUND, body));
    let pod = api.pods.find(call.param("namespace"), call.param("pod"));
    let pod = pod.ok_or_else(|| gone("pod does not exist"))?;
    let uid = call.param("uid");
    if uid.is_empty() || pod.metadata.uid.as_deref() == Some(uid) {
        Ok(pod)
    } else {
        Err(gone("pod not found"))
    }
}

/// As Go's `httpstream.IsUpgradeRequest`: some `Connection` header has "upgrade" in it.
fn is_upgrade(call: &Call) -> bool {
    let mut values = call.parts.headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.to_ascii_lowercase().contains("upgrade"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Method, Request};

    use super::super::testing::{self, Backend, running, send};

    /// What is asked, whether the provider has the capability, and what a kubelet answers (or, for the 501s,
    /// what it cannot).
    #[tokio::test(start_paused = true)]
    async fn streams_are_refused_as_the_kubelet_refuses_them_and_otherwise_with_501() {
        let cannot = |what: &str| format!("provider \"fake\" cannot {what}");
        let commands = cannot("run commands in containers");
        let yet = "this node cannot run commands in containers yet".to_owned();
        let required = "Upgrade request required\n".to_owned();
        let text = str::to_owned;
        for (path, upgrade, capable, code, body) in [
            (
                "/exec/default/web/a?command=ls",
                true,
                true,
                400,
                text("you must specify at least 1 of stdin, stdout, stderr"),
            ),
            (
                "/exec/default/web/zzz?command=ls&output=1",
                true,
                true,
                500,
                text("container not found (\"zzz\")"),
            ),
            ("/exec/default/nopod/a?command=ls&output=1", true, true, 404, text("pod does not exist")),
            ("/exec/default/web/wrong-uid/a?command=ls&output=1", true, true, 404, text("pod not found")),
            ("/exec/default/web/a?command=ls&output=1", false, true, 500, required.clone()),
            ("/exec/default/web/a?command=ls&output=1", true, true, 501, yet.clone()),
            ("/exec/default/web/uid-web/init?command=ls&output=1", true, true, 501, yet.clone()),
            ("/exec/default/web/a?command=ls&output=1", true, false, 501, commands.clone()),
            ("/exec/default/web/a?command=ls&output=1", false, false, 501, commands.clone()),
            (
                "/attach/default/web/zzz?output=1",
                true,
                true,
                500,
                text("container zzz not found in pod web_default"),
            ),
            ("/attach/default/web/a?output=1", false, true, 500, required.clone()),
            ("/attach/default/web/a?output=1", true, false, 501, cannot("attach to containers")),
            ("/portForward/default/nopod", true, false, 404, text("pod does not exist")),
            ("/portForward/default/web", true, false, 501, cannot("forward ports")),
            ("/run/default/nopod/a?cmd=ls", false, true, 404, text("pod does not exist")),
            ("/run/default/web/a?cmd=ls", false, true, 501, yet.clone()),
            ("/run/default/web/a?cmd=ls", false, false, 501, commands.clone()),
        ] {
            let backend = Backend { streams: capable, ..Backend::default() };
            let api = testing::api(backend, vec![running("web")]);
            let request = Request::builder().method(Method::POST).uri(path);
            let request = if upgrade { request.header("connection", "keep-alive, Upgrade") } else { request };
            let answer = send(&api, request.body(Body::empty()).unwrap()).await;
            assert_eq!((answer.status.as_u16(), &answer.body), (code, &body), "{path}");
            assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"), "{path}");
            let nosniff = (body == required).then_some("nosniff");
            assert_eq!(answer.header("x-content-type-options"), nosniff, "{path}");
        }
    }
}
