//! What is refused before anything is upgraded, in the kubelet's words.

use axum::response::Response;
use http::StatusCode;
use http::header::CONNECTION;
use k8s_openapi::api::core::v1::Pod;

use super::super::request::Call;
use super::super::routes::Endpoint;
use super::super::{KubeletApi, containers, reply};
use super::options::Wanted;
use crate::provider::{ContainerRef, PodRef};

/// The checks of a streaming request, each a refusal if it fails.
pub(super) struct Refusal;

type Refused = Box<Response>;

impl Refusal {
    /// The streams that are asked for: at least one.
    pub(super) fn wanted(call: &Call) -> Result<Wanted, Refused> {
        Wanted::of(call).ok_or_else(|| {
            let body = "you must specify at least 1 of stdin, stdout, stderr";
            Box::new(reply::text(StatusCode::BAD_REQUEST, body))
        })
    }

    /// The pod of the path.
    pub(super) fn pod(api: &KubeletApi, call: &Call) -> Result<PodRef, Refused> {
        find(api, call).map(|(_, reference)| reference)
    }

    /// The container of the path, which runs.
    pub(super) fn container(
        api: &KubeletApi,
        call: &Call,
        endpoint: Endpoint,
    ) -> Result<ContainerRef, Refused> {
        let (pod, reference) = find(api, call)?;
        let name = call.param("container");
        if !runs(&pod, name) {
            let body = match endpoint {
                Endpoint::Attach => {
                    let (pod, namespace) = (call.param("pod"), call.param("namespace"));
                    format!("container {name} not found in pod {pod}_{namespace}")
                }
                _ => format!("container not found ({name:?})"),
            };
            return Err(Box::new(reply::text(StatusCode::INTERNAL_SERVER_ERROR, body)));
        }
        Self::unless_capable(api, endpoint)?;
        Ok(reference.container(name))
    }

    pub(super) fn unless_capable(api: &KubeletApi, endpoint: Endpoint) -> Result<(), Refused> {
        let (capable, what) = match endpoint {
            Endpoint::Attach => (api.provider.attach().is_some(), "attach to containers"),
            Endpoint::PortForward => (api.provider.port_forward().is_some(), "forward ports"),
            _ => (api.provider.exec().is_some(), "run commands in containers"),
        };
        if capable {
            return Ok(());
        }
        let body = format!("provider {:?} cannot {what}", api.provider.name());
        Err(Box::new(reply::not_implemented(body)))
    }

    /// As Go's `httpstream.IsUpgradeRequest`: some `Connection` header has "upgrade" in it.
    pub(super) fn unless_upgrade(call: &Call) -> Result<(), Refused> {
        let mut values =
            call.parts.headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        if values.any(|value| value.to_ascii_lowercase().contains("upgrade")) {
            return Ok(());
        }
        Err(Box::new(reply::error_line(StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required")))
    }
}

/// The pod of the path; its UID must be right if the path has one.
fn find(api: &KubeletApi, call: &Call) -> Result<(Pod, PodRef), Refused> {
    let gone = |body: &'static str| Box::new(reply::text(StatusCode::NOT_FOUND, body));
    let pod = api.pods.find(call.param("namespace"), call.param("pod"));
    let found = pod.and_then(|pod| PodRef::of(&pod).map(|reference| (pod, reference)));
    let (pod, reference) = found.ok_or_else(|| gone("pod does not exist"))?;
    let uid = call.param("uid");
    if uid.is_empty() || reference.uid.as_str() == uid {
        Ok((pod, reference))
    } else {
        Err(gone("pod not found"))
    }
}

/// Whether the pod has a container of that name, of whichever kind, that runs.
fn runs(pod: &Pod, name: &str) -> bool {
    let state = containers::status(pod, name).and_then(|status| status.state.as_ref());
    containers::names(pod).any(|known| known == name) && state.is_some_and(|state| state.running.is_some())
}
