//! Resource usage: `GET /stats/summary`, `GET /metrics/resource` and `GET /metrics/cadvisor`, from one measurement.

mod cadvisor;
mod counters;
mod exposition;
mod resource;
mod summary;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::counters::Counters;
pub(super) use self::exposition::Text;
use self::summary::Summary;
use super::request::{Call, is_wholly_readable};
use super::{KubeletApi, containers, metrics, reply};
use crate::provider::{Error, PodStats, PodUsage, Usage};

/// How long a provider may take to measure.
const MEASURE: Duration = Duration::from_secs(10);

/// What was measured, and what is remembered so that counters don't go back.
#[derive(Debug, Default)]
pub(super) struct Stats {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counters: Counters,
    latest: Option<(Instant, Measured)>,
}

type Measured = Result<Arc<Usage>, Arc<Error>>;

impl Stats {
    /// Measures, one call of the provider at a time: whoever came before the present call began gets its result.
    async fn measure(&self, api: &KubeletApi, source: &dyn PodStats) -> Measured {
        let arrived = Instant::now();
        let mut state = self.state.lock().await;
        if let Some((began, measured)) = &state.latest
            && *began > arrived
        {
            return measured.clone();
        }
        let began = Instant::now();
        let usage = tokio::time::timeout(MEASURE, source.usage()).await.unwrap_or_else(|_| {
            Err(Error::unavailable(format!("the backend sent no figures within {} s", MEASURE.as_secs())))
        });
        let measured = match usage {
            Ok(usage) => {
                let lives = |uid: &crate::provider::PodUid| api.pods.find_by_uid(uid.as_str()).is_some();
                let mut usage = state.counters.publish(usage, api.clock.now(), lives);
                for pod in &mut usage.pods {
                    add_start_times(api, pod);
                }
                usage.pods.sort_by(|a, b| {
                    (&a.pod.namespace, &a.pod.name, &a.pod.uid).cmp(&(
                        &b.pod.namespace,
                        &b.pod.name,
                        &b.pod.uid,
                    ))
                });
                Ok(Arc::new(usage))
            }
            Err(error) => {
                tracing::warn!(error = error.chain(), "kubelet API: no resource usage");
                Err(Arc::new(error))
            }
        };
        state.latest = Some((began, measured.clone()));
        measured
    }
}

/// Fills in from the pod's status when it and its containers started, where the provider doesn't say:
/// metrics-server needs it for the first rate.
fn add_start_times(api: &KubeletApi, usage: &mut PodUsage) {
    if usage.started_at.is_some() && usage.containers.iter().all(|container| container.started_at.is_some()) {
        return;
    }
    let Some(pod) = api.pods.find_by_uid(usage.pod.uid.as_str()) else { return };
    let start = |pod: &Pod| pod.status.as_ref()?.start_time.as_ref().map(|time| time.0);
    usage.started_at = usage.started_at.or_else(|| start(&pod));
    for container in &mut usage.containers {
        let running = || containers::status(&pod, &container.name)?.state.as_ref()?.running.as_ref();
        let start = || running()?.started_at.as_ref().map(|time| time.0);
        container.started_at = container.started_at.or_else(start);
    }
}

/// `GET /stats/summary`.
pub(super) async fn summary(api: &KubeletApi, call: &Call) -> Response {
    let Some(source) = api.provider.stats() else { return unmeasured(api) };
    if !is_wholly_readable(&call.parts.uri) {
        let body = "Internal Error: parse form failed: the query is not well formed";
        return reply::text(StatusCode::INTERNAL_SERVER_ERROR, body);
    }
    // Once, and in this word: the kubelet knows no other.
    let everything = !call.all("only_cpu_and_memory").eq(["true"]);
    match api.stats.measure(api, source).await {
        Ok(usage) => match serde_json::to_vec(&Summary::new(&api.node, api.started, &usage, everything)) {
            Ok(document) => reply::json(Body::from(document)),
            Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        Err(error) => reply::provider_error(&error),
    }
}

/// `GET /metrics/resource`. A provider that fails is `resource_scrape_error 1`, not a failed scrape.
pub(super) async fn resource(api: &KubeletApi, call: &Call) -> Response {
    let Some(source) = api.provider.stats() else { return unmeasured(api) };
    let usage = api.stats.measure(api, source).await.ok().map(|usage| one_incarnation_each(api, &usage));
    metrics::document(resource::render(usage.as_ref()), &call.parts.headers)
}

/// `GET /metrics/cadvisor`.
pub(super) async fn cadvisor(api: &KubeletApi, call: &Call) -> Response {
    let Some(source) = api.provider.stats() else { return unmeasured(api) };
    let usage = api.stats.measure(api, source).await.ok().map(|usage| one_incarnation_each(api, &usage));
    metrics::document(cadvisor::render(api, usage.as_ref()), &call.parts.headers)
}

fn unmeasured(api: &KubeletApi) -> Response {
    reply::not_implemented(format!("provider {:?} does not measure resource usage", api.provider.name()))
}

/// Series have no UID: of two incarnations of a name the present one is shown, or else the younger one.
fn one_incarnation_each(api: &KubeletApi, usage: &Usage) -> Usage {
    let mut pods: Vec<PodUsage> = Vec::with_capacity(usage.pods.len());
    // Sorted by name, so that incarnations are neighbours.
    for pod in &usage.pods {
        match pods.last_mut() {
            Some(last) if last.pod.namespace == pod.pod.namespace && last.pod.name == pod.pod.name => {
                let present = api.pods.find(&pod.pod.namespace, &pod.pod.name);
                let present = present.and_then(|pod| pod.metadata.uid);
                let is_present = |pod: &PodUsage| Some(pod.pod.uid.as_str()) == present.as_deref();
                if is_present(pod) || (!is_present(last) && pod.started_at > last.started_at) {
                    *last = pod.clone();
                }
            }
            _ => pods.push(pod.clone()),
        }
    }
    let mut shown = Usage::of_pods(pods);
    shown.node.clone_from(&usage.node);
    shown
}
