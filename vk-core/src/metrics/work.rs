//! Work on pods.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Labels, seconds};

/// Counts of the passes over pods.
#[derive(Clone, Debug)]
pub(crate) struct WorkMetrics {
    passes: Family<Labels<1>, Counter>,
    pass_durations: Histogram,
    steps: Family<Labels<2>, Counter>,
    starts: Histogram,
    unsupported: Family<Labels<2>, Counter>,
}

impl WorkMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            passes: Family::default(),
            pass_durations: seconds(),
            steps: Family::default(),
            unsupported: Family::default(),
            starts: Histogram::new([
                0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0,
                300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
            ]),
        };
        registry.register(
            "vk_pod_passes",
            "Passes over pods, by outcome: done, or panicked",
            metrics.passes.clone(),
        );
        registry.register(
            "vk_pod_pass_duration_seconds",
            "How long passes over pods took, calls of the provider included",
            metrics.pass_durations.clone(),
        );
        registry.register(
            "vk_pod_steps",
            "Steps that passes took, by step and outcome: done, or failed and repeated later",
            metrics.steps.clone(),
        );
        registry.register(
            "vk_pod_unsupported_fields",
            "Fields of pods that are not honoured, by field and outcome: refused, or ignored as told to",
            metrics.unsupported.clone(),
        );
        // The kubelet's leaves image pulls out, which a node that runs pods elsewhere does not see.
        registry.register(
            "kubelet_pod_start_sli_duration_seconds",
            "Duration in seconds from a pod's creation until its containers were first published as running",
            metrics.starts.clone(),
        );
        metrics
    }

    /// A pass is over.
    pub(crate) fn pass(&self, outcome: &'static str, took: Duration) {
        self.passes.get_or_create(&[("outcome", outcome.into())]).inc();
        self.pass_durations.observe(took.as_secs_f64());
    }

    /// A step of a pass is over.
    pub(crate) fn step(&self, step: &'static str, outcome: &'static str) {
        self.steps.get_or_create(&[("step", step.into()), ("outcome", outcome.into())]).inc();
    }

    /// A pod asked for a field that is not honoured. The field is one of the table's.
    pub(crate) fn unsupported(&self, field: &'static str, outcome: &'static str) {
        self.unsupported.get_or_create(&[("field", field.into()), ("outcome", outcome.into())]).inc();
    }

    /// A pod runs, so long after its creation.
    pub(crate) fn started(&self, after: Duration) {
        self.starts.observe(after.as_secs_f64());
    }
}
