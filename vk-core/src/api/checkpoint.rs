//! `POST /checkpoint/{namespace}/{pod}/{container}`: no provider can freeze a container (KEP-2008), so this is
//! as far as a kubelet gets whose runtime cannot.

use axum::response::Response;
use http::StatusCode;

use super::request::Call;
use super::{KubeletApi, containers, reply};

/// Says which of pod, container and ability is missing.
pub(super) fn checkpoint(api: &KubeletApi, call: &Call) -> Response {
    let (namespace, name, container) = (call.param("namespace"), call.param("pod"), call.param("container"));
    let Some(pod) = api.pods.find(namespace, name) else {
        return reply::text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    if !containers::names(&pod).any(|known| known == container) {
        return reply::text(StatusCode::NOT_FOUND, format!("container {container} does not exist"));
    }
    let timeout = call.query.iter().rev().find(|(key, _)| key == "timeout");
    if timeout.is_some_and(|(_, value)| value.parse::<i64>().is_err()) {
        return reply::text(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter");
    }
    reply::not_implemented(format!(
        "checkpointing of {namespace}/{name}/{container} failed (provider {:?} cannot checkpoint containers)",
        api.provider.name()
    ))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;

    use super::super::testing::{Backend, api, running, send};

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_is_refused_for_the_first_reason_a_kubelet_would_find() {
        let api = api(Backend::default(), vec![running("web")]);
        let cannot = "checkpointing of default/web/a failed (provider \"fake\" cannot checkpoint containers)";
        for (path, code, body) in [
            ("/checkpoint/default/nopod/a", 404, "pod does not exist"),
            ("/checkpoint/default/web/zzz", 404, "container zzz does not exist"),
            ("/checkpoint/default/web/a?timeout=x", 404, "cannot parse value of timeout parameter"),
            ("/checkpoint/default/web/a?timeout=x&timeout=1", 501, cannot),
            ("/checkpoint/default/web/init", 501, &cannot.replace("/a ", "/init ")),
        ] {
            send(&api, Request::post(path).body(Body::empty()).unwrap()).await.is(code, body);
        }
    }
}
