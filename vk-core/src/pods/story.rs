//! The spans of a pod's life: one for each thing that is done about it, each with who the pod is and where it runs.
//!
//! What is logged while one is entered belongs to that pod. Spans are of the level ERROR, so that a quiet log still
//! knows whose its lines are. Names follow OpenTelemetry's semantic conventions for Kubernetes; a collector that makes
//! traces of them takes the pod's UID for the trace's ID, and `vk.root` for the span that all others are below.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Span;
use tracing::field::Empty;

use crate::provider::PodRef;

/// Makes the spans of one node's pods.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    node: Arc<str>,
    provider: &'static str,
}

impl Story {
    pub(crate) fn new(node: &str, provider: &'static str) -> Self {
        Self { node: node.into(), provider }
    }

    /// One thing that is done about a pod, such as `create`.
    pub(crate) fn step(&self, step: &'static str, pod: &PodRef) -> Span {
        tracing::error_span!(
            "pod",
            otel.name = step,
            k8s.pod.uid = %pod.uid,
            k8s.pod.name = &*pod.name,
            k8s.namespace.name = &*pod.namespace,
            k8s.node.name = &*self.node,
            vk.provider = self.provider,
        )
    }

    /// The pod's whole life as far as this process has seen it, told at its end.
    pub(crate) fn end(&self, pod: &PodRef, since: Instant) {
        let span = tracing::error_span!(
            parent: None,
            "pod",
            otel.name = "pod",
            k8s.pod.uid = %pod.uid,
            k8s.pod.name = &*pod.name,
            k8s.namespace.name = &*pod.namespace,
            k8s.node.name = &*self.node,
            vk.provider = self.provider,
            vk.root = true,
            vk.age_ms = Empty,
        );
        // Rounded up, and measured after the span was made, from whose start it is counted back: every step is within
        // the whole.
        span.record("vk.age_ms", u64::try_from(since.elapsed().as_millis() + 1).unwrap_or(u64::MAX));
        span.in_scope(|| tracing::info!("the pod is gone here and at the API server"));
    }
}
