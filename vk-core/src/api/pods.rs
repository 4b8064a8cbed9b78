//! `GET /pods` and `GET /runningpods/`: what the node should run, and what its backend runs.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::{KubeletApi, containers, reply};
use crate::provider::{ContainerState, Error, ObservedPod, PodRuntime};

/// How long a provider may take to list its pods.
const LIST: Duration = Duration::from_secs(30);

/// The pods bound to this node, with the latest status known here, written or not.
pub(super) fn bound(api: &KubeletApi) -> Response {
    let mut pods = api.pods.all();
    sort(&mut pods);
    list(pods)
}

/// The pods that the backend runs, or may still run.
pub(super) async fn running(api: &KubeletApi) -> Response {
    let listing = tokio::time::timeout(LIST, api.provider.list_pods()).await;
    let listing = listing.unwrap_or_else(|_| {
        Err(Error::unavailable(format!("the backend did not list its pods within {} s", LIST.as_secs())))
    });
    match listing {
        Ok(observed) => {
            let alive = |pod: &ObservedPod| pod.runtime.as_ref().is_none_or(PodRuntime::may_run);
            let mut pods: Vec<Pod> =
                observed.iter().filter(|pod| alive(pod)).map(|pod| minimal(api, pod)).collect();
            sort(&mut pods);
            list(pods)
        }
        Err(error) => {
            tracing::warn!(error = error.chain(), "kubelet API: cannot list the backend's pods");
            reply::provider_error(&error)
        }
    }
}

/// Name, UID and running containers: all that a runtime's own view has.
fn minimal(api: &KubeletApi, observed: &ObservedPod) -> Pod {
    let reference = &observed.pod;
    let wanted = api.pods.find_by_uid(reference.uid.as_str());
    let images: HashMap<&str, Option<&str>> = wanted.iter().flat_map(containers::images).collect();
    let running = observed.runtime.iter().flat_map(|runtime| &runtime.containers);
    let running = running.filter(|container| matches!(container.state, ContainerState::Running { .. }));
    let containers = running.map(|container| {
        let asked_for = || images.get(container.name.as_str()).copied().flatten().map(str::to_owned);
        Container {
            name: container.name.clone(),
            image: container.image.clone().or_else(asked_for),
            resources: Some(ResourceRequirements::default()),
            ..Container::default()
        }
    });
    Pod {
        metadata: ObjectMeta {
            name: Some(reference.name.to_string()),
            namespace: Some(reference.namespace.to_string()),
            uid: Some(reference.uid.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { containers: containers.collect(), ..PodSpec::default() }),
        status: Some(PodStatus::default()),
    }
}

fn sort(pods: &mut [Pod]) {
    let key = |pod: &Pod| {
        let meta = &pod.metadata;
        (meta.namespace.clone(), meta.name.clone(), meta.uid.clone())
    };
    pods.sort_by_cached_key(key);
}

/// A pod inside a list, which has no kind of its own.
#[derive(Serialize)]
struct Item<'a> {
    metadata: &'a ObjectMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<&'a PodSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a PodStatus>,
}

/// A `v1.PodList`, written pod by pod as the client reads it.
fn list(pods: Vec<Pod>) -> Response {
    let head = r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#;
    let items = pods.into_iter().enumerate().map(|(index, pod)| {
        let item = Item { metadata: &pod.metadata, spec: pod.spec.as_ref(), status: pod.status.as_ref() };
        let mut text = if index == 0 { Vec::new() } else { vec![b','] };
        serde_json::to_writer(&mut text, &item)?;
        Ok::<_, serde_json::Error>(Bytes::from(text))
    });
    let chunk = |text: &'static str| std::iter::once(Ok(Bytes::from_static(text.as_bytes())));
    reply::json(Body::from_stream(stream::iter(chunk(head).chain(items).chain(chunk("]}\n")))))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{self, Backend, get, running, start};
    use super::*;
    use crate::provider::{ExitStatus, ObservedContainer, PodRef, Sandbox, Termination};

    fn observed(name: &str, sandbox: Sandbox, containers: Vec<ObservedContainer>) -> ObservedPod {
        let mut runtime = PodRuntime::default();
        (runtime.sandbox, runtime.containers) = (sandbox, containers);
        ObservedPod::new(PodRef::new("default", name, format!("uid-{name}")), runtime)
    }

    fn up(name: &str) -> ObservedContainer {
        ObservedContainer::new(name, ContainerState::Running { started_at: start() })
    }

    #[tokio::test(start_paused = true)]
    async fn bound_pods_are_a_list_of_whole_pods_without_a_kind_of_their_own() {
        let api = testing::api(Backend::default(), vec![running("web"), running("db")]);
        for path in ["/pods", "/pods/"] {
            let answer = get(&api, path).await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("content-type")),
                (200, Some("application/json"))
            );
            assert!(
                answer.body.starts_with(
                    r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[{"metadata":"#
                )
            );
            let list: Value = serde_json::from_str(&answer.body).unwrap();
            let names: Vec<_> =
                list["items"].as_array().unwrap().iter().map(|pod| &pod["metadata"]["name"]).collect();
            assert_eq!(names, ["db", "web"]);
            let web = &list["items"][1];
            assert_eq!(web.as_object().unwrap().keys().collect::<Vec<_>>(), ["metadata", "spec", "status"]);
            assert_eq!(web["metadata"]["uid"], "uid-web");
            assert_eq!(web["spec"]["containers"][0]["image"], "a:1");
            assert_eq!(web["status"]["containerStatuses"][0]["name"], "a");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_of_no_pods_is_a_list() {
        let api = testing::api(Backend::default(), Vec::new());
        for path in ["/pods", "/runningpods/"] {
            get(&api, path)
                .await
                .is(200, "{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{},\"items\":[]}\n");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn running_pods_are_what_the_backend_may_still_run() {
        let listing = || {
            let ended = ContainerState::Terminated(Termination::new(ExitStatus::Code(0)));
            let mut other_image = up("debug");
            other_image.image = Some("debug:2".to_owned());
            Ok(vec![
                observed(
                    "web",
                    Sandbox::Ready,
                    vec![up("a"), other_image, ObservedContainer::new("init", ended)],
                ),
                observed("over", Sandbox::Gone, vec![up("a")]),
                // Unknown to the API server: nobody knows its images.
                observed("orphan", Sandbox::Pending, vec![up("a")]),
                ObservedPod::existing(PodRef::new("default", "listed", "uid-listed")),
            ])
        };
        let backend = Backend { listing: Some(Box::new(listing)), ..Backend::default() };
        let answer =
            get(&testing::api(backend, vec![running("web"), running("over")]), "/runningpods/").await;
        let item = |name: &str, containers: Value| {
            json!({
                "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}") },
                "spec": { "containers": containers },
                "status": {},
            })
        };
        let expected = json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": {},
            "items": [
                item("listed", json!([])),
                item("orphan", json!([{ "name": "a", "resources": {} }])),
                item("web", json!([
                    { "name": "a", "image": "a:1", "resources": {} },
                    { "name": "debug", "image": "debug:2", "resources": {} },
                ])),
            ],
        });
        assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_cannot_list_is_an_error_and_not_an_empty_list() {
        let listing = || Err(Error::unavailable("the backend is down"));
        let backend = Backend { listing: Some(Box::new(listing)), ..Backend::default() };
        get(&testing::api(backend, Vec::new()), "/runningpods/").await.is(503, "the backend is down");
    }
}
