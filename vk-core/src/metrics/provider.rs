//! Calls of the provider.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Labels, Timings, seconds};

/// Counts of calls to the provider.
#[derive(Clone, Debug)]
pub(crate) struct ProviderMetrics {
    calls: Family<Labels<2>, Counter>,
    durations: Timings<1>,
    open: Family<Labels<1>, Gauge>,
}

impl ProviderMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            calls: Family::default(),
            durations: Family::new_with_constructor(seconds),
            open: Family::default(),
        };
        registry.register(
            "vk_provider_calls",
            "Calls of the provider that ended, by operation and outcome: ok, the error's reason, or dropped",
            metrics.calls.clone(),
        );
        registry.register(
            "vk_provider_call_duration_seconds",
            "How long calls of the provider took, by operation",
            metrics.durations.clone(),
        );
        registry.register(
            "vk_provider_calls_open",
            "Calls of the provider under way, by operation",
            metrics.open.clone(),
        );
        metrics
    }

    /// A call begins.
    pub(crate) fn begin(&self, operation: &'static str) {
        self.open.get_or_create(&[("operation", operation.into())]).inc();
    }

    /// A call has ended.
    pub(crate) fn end(&self, operation: &'static str, outcome: &'static str, took: Duration) {
        let labels = [("operation", operation.into())];
        self.open.get_or_create(&labels).dec();
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        let [operation] = labels;
        self.calls.get_or_create(&[operation, ("outcome", outcome.into())]).inc();
    }
}
