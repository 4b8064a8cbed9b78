//! A node's section, turned into the library's settings.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use vk_core::config::{IgnoredFields, NodeConfig};

use crate::config::Shared;
use crate::config::scalar::{Address, Amount, FieldPath, LabelKey, LabelValue, Period, TaintSpec, Text};
use crate::env::TaintParts;

/// What is done more often than this is done without a pause.
const SHORTEST: Duration = Duration::from_millis(10);
/// Of workers and calls.
const MOST: usize = 100_000;

/// The taint of a node that was told none.
pub(super) struct DefaultTaint<'a> {
    /// What was said about it.
    pub(super) parts: &'a TaintParts,
    /// The provider's name, its value where nothing else was said.
    pub(super) provider: &'a str,
}

impl Shared {
    /// The library's settings. A fault is its key, what is wrong, and what to do; what is wrong keeps its default.
    pub(super) fn into_config(
        self,
        name: String,
        port: u16,
        default_taint: &DefaultTaint<'_>,
    ) -> (NodeConfig, Vec<(&'static str, String, &'static str)>) {
        let mut faults = Vec::new();
        let mut config = NodeConfig::new(name).with_port(port);
        config.addresses = self.addresses.into_iter().map(|Address(address)| address).collect();
        config.labels = self.labels.into_iter().map(|(LabelKey(k), LabelValue(v))| (k, v)).collect();
        config.annotations = self.annotations.into_iter().map(|(LabelKey(k), Text(v))| (k, v)).collect();
        config.capacity = self.capacity.into_iter().map(|(LabelKey(k), Amount(v))| (k, v)).collect();
        config.taints = match self.taints {
            Some(taints) => Some(taints.into_iter().map(|TaintSpec(taint)| taint).collect()),
            None if *default_taint.parts == TaintParts::default() => None,
            None => {
                let parts = default_taint.parts;
                let taint = TaintSpec::new(
                    parts.key.as_deref().unwrap_or("virtual-kubelet.io/provider"),
                    Some(parts.value.as_deref().unwrap_or(default_taint.provider)),
                    parts.effect.as_deref().unwrap_or("NoSchedule"),
                );
                match taint {
                    Ok(TaintSpec(taint)) => Some(vec![taint]),
                    Err(what) => {
                        faults.push(("taints", what, "correct it"));
                        None
                    }
                }
            }
        };
        config.kubelet_version = self.kubelet_version;
        match IgnoredFields::at(self.ignored_fields.into_iter().map(|FieldPath(path)| path)) {
            Ok(ignored) => config.ignored_fields = ignored,
            Err(error) => faults.push(("ignoredFields", error.to_string(), "correct it")),
        }

        macro_rules! take {
            ($($field:ident),*) => {$(
                if let Some(value) = self.$field { config.$field = value; }
            )*};
        }
        macro_rules! take_period {
            ($($field:ident = $key:literal),*) => {$(
                if let Some(Period(value)) = self.$field {
                    if value.is_zero() {
                        faults.push(($key, format!("{} of 0", $key), "give it a length, such as 10s"));
                    } else if value < SHORTEST {
                        faults.push(($key, format!("{} of {value:?}", $key), "give it at least 10ms"));
                    } else {
                        config.$field = value;
                    }
                }
            )*};
        }
        take!(
            pod_workers,
            provider_calls,
            mass_absence_percent,
            mass_absence_floor,
            normal_events_per_second,
            late_bound_fields
        );
        take_period!(
            provider_timeout = "providerTimeout",
            drift_check_interval = "driftCheckInterval",
            ping_interval = "pingInterval",
            ping_timeout = "pingTimeout",
            status_report_interval = "statusReportInterval",
            lease_duration = "leaseDuration",
            min_backoff = "minBackoff",
            max_backoff = "maxBackoff",
            drain_timeout = "drainTimeout"
        );
        // Zero is a meaning of its own for these.
        if let Some(Period(value)) = self.deletion_slack {
            config.deletion_slack = value;
        }
        if let Some(Period(value)) = self.creation_grace {
            config.creation_grace = value;
        }
        if let Some(Period(value)) = self.pending_status_delay {
            config.pending_status_delay = value;
        }
        config.websocket_streams = self.websocket_streams.unwrap_or(config.websocket_streams);
        config.deregister_on_shutdown = self.deregister.unwrap_or(config.deregister_on_shutdown);
        config.drain_pods_on_shutdown = self.drain.unwrap_or(config.drain_pods_on_shutdown);

        for (key, value) in [("podWorkers", config.pod_workers), ("providerCalls", config.provider_calls)] {
            if value == 0 {
                faults.push((key, format!("{key} of 0"), "allow at least 1"));
            }
            if value > MOST {
                faults.push((
                    key,
                    format!("{key} of {value}"),
                    "allow at most 100000: each one costs memory",
                ));
            }
        }
        if config.kubelet_version.as_deref().is_some_and(|version| version.trim().is_empty()) {
            faults.push((
                "kubeletVersion",
                "an empty kubeletVersion".to_owned(),
                "write one, or leave it out",
            ));
        }
        let addresses = &config.addresses;
        for (index, address) in addresses.iter().enumerate() {
            if address.is_unspecified() || address.is_multicast() {
                let what = format!("{address} for a node's address");
                faults.push(("addresses", what, "name one that the API server reaches this machine at"));
            }
            if addresses[..index].contains(address) {
                faults.push(("addresses", format!("{address} twice"), "keep one"));
            }
        }
        for (resource, Quantity(amount)) in &config.capacity {
            if counts_whole_things(resource) && amount.contains(['.', 'm', 'u', 'n']) {
                let what = format!("{resource} of {amount}");
                faults.push(("capacity", what, "it is counted in whole things: write a whole number"));
            }
        }
        if config.mass_absence_percent > 100 {
            let what = format!("massAbsencePercent of {}", config.mass_absence_percent);
            faults.push(("massAbsencePercent", what, "it is a share, 0 to 100"));
        }
        if config.lease_duration.as_secs() == 0 || config.lease_duration.subsec_nanos() != 0 {
            let what = format!("leaseDuration of {:?}", config.lease_duration);
            faults.push(("leaseDuration", what, "a lease has whole seconds, at least 1"));
        }
        if config.min_backoff > config.max_backoff {
            let what = format!(
                "minBackoff of {:?} beside a maxBackoff of {:?}",
                config.min_backoff, config.max_backoff
            );
            faults.push(("minBackoff", what, "make it the smaller one"));
        }
        (config, faults)
    }
}

/// Pods, and what somebody else's name stands for: the API server takes no parts of them.
fn counts_whole_things(resource: &str) -> bool {
    match resource.split_once('/') {
        Some((prefix, _)) => prefix != "kubernetes.io" && !prefix.ends_with(".kubernetes.io"),
        None => resource == "pods",
    }
}

/// Takes a value of a later layer, if it has one.
pub(super) fn set<T>(place: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *place = value;
    }
}
