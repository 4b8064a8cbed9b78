//! Certificates and authorities: how old, how long yet, how often renewed.

use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Labels;

type Time = Gauge<f64, AtomicU64>;

/// Counts about credentials.
#[derive(Clone, Debug)]
pub(crate) struct CredentialMetrics {
    loaded: Family<Labels<1>, Time>,
    expires: Family<Labels<1>, Time>,
    renewals: Family<Labels<2>, Counter>,
}

impl CredentialMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics =
            Self { loaded: Family::default(), expires: Family::default(), renewals: Family::default() };
        registry.register(
            "vk_credential_loaded_timestamp_seconds",
            "When the credential in use (serving-certificate, client-ca) was taken into use, since the epoch",
            metrics.loaded.clone(),
        );
        registry.register(
            "vk_credential_expiry_timestamp_seconds",
            "When the credential in use expires, since the epoch",
            metrics.expires.clone(),
        );
        registry.register(
            "vk_credential_renewals",
            "Attempts to renew or to read anew a credential, by outcome: ok, or failed with the present one kept",
            metrics.renewals.clone(),
        );
        metrics
    }

    /// A credential is in use from now on.
    pub(crate) fn in_use(&self, credential: &'static str, now: Timestamp, expires: Option<Timestamp>) {
        let labels = [("credential", credential.into())];
        self.loaded.get_or_create(&labels).set(seconds(now));
        if let Some(expires) = expires {
            self.expires.get_or_create(&labels).set(seconds(expires));
        }
    }

    /// It was tried to renew one.
    pub(crate) fn renewal(&self, credential: &'static str, outcome: &'static str) {
        self.renewals.get_or_create(&[("credential", credential.into()), ("outcome", outcome.into())]).inc();
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}
