//! What a pod asks for that is not honoured here: the pod is refused for it, before anything of it is made, or it is
//! passed over, where a policy says so.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Worker;
use crate::events::Reason;
use crate::pods::record::CreateCall;
use crate::provider::fields::{Finding, IgnoredFields, without};
use crate::provider::{FieldSupport, PodRef, unsupported};

/// Where ephemeral containers stand. They are added to pods that run: one that cannot be honoured is left out alone.
const EPHEMERAL: &str = "spec.ephemeralContainers";

/// A pod as the provider is given it.
pub(super) struct Honoured {
    pub(super) object: Arc<Pod>,
    /// What was left out of it.
    left_out: Vec<Finding>,
}

impl Worker {
    /// A pod that is to be created, with what the provider honours. `None` if it is refused; a pod whose creation was
    /// sent before is not, as it may be there.
    pub(super) fn honoured(&self, pod: &PodRef, object: Arc<Pod>) -> Option<Honoured> {
        let (refused, left_out) = judge(&object, self.provider.fields(), &self.config.ignored_fields);
        let sent = self.table.with(&pod.uid, |record| !matches!(record.create, CreateCall::NotSent));
        if refused.is_empty() || sent == Some(true) {
            return self.without(pod, object, left_out);
        }
        for finding in &refused {
            self.metrics.unsupported(finding.field, "refused");
        }
        self.refuse(pod, "ProviderRejected", &sentence(&refused));
        None
    }

    /// A pod that is there already, with what the provider honours of what may be left out.
    pub(super) fn honoured_again(&self, pod: &PodRef, object: Arc<Pod>) -> Option<Honoured> {
        let (_, left_out) = judge(&object, self.provider.fields(), &self.config.ignored_fields);
        self.without(pod, object, left_out)
    }

    fn without(&self, pod: &PodRef, object: Arc<Pod>, left_out: Vec<Finding>) -> Option<Honoured> {
        if left_out.is_empty() {
            return Some(Honoured { object, left_out });
        }
        let (whole, parts): (Vec<_>, Vec<_>) =
            left_out.iter().cloned().partition(|finding| is_refused(finding, &self.config.ignored_fields));
        match without(&object, &parts) {
            Ok(mut stripped) => {
                let lost: Vec<usize> = whole.iter().filter_map(Finding::element).collect();
                let spec = stripped.spec.as_mut();
                if let Some(containers) = spec.and_then(|spec| spec.ephemeral_containers.as_mut()) {
                    let mut index = 0..;
                    containers.retain(|_| index.next().is_some_and(|index| !lost.contains(&index)));
                }
                Some(Honoured { object: Arc::new(stripped), left_out })
            }
            Err(error) => {
                tracing::error!(%pod, %error, "leaving fields out of a pod");
                None
            }
        }
    }

    /// Tells the pod's owner what was left out.
    pub(super) fn tell_left_out(&self, pod: &PodRef, honoured: &Honoured) {
        let (lost, ignored): (Vec<_>, Vec<_>) = honoured
            .left_out
            .iter()
            .cloned()
            .partition(|finding| is_refused(finding, &self.config.ignored_fields));
        for (findings, outcome, how) in [
            (&ignored, "ignored", "passed over, as this node is told to"),
            (&lost, "refused", "the ephemeral container is not started"),
        ] {
            if findings.is_empty() {
                continue;
            }
            for finding in findings {
                self.metrics.unsupported(finding.field, outcome);
            }
            self.record(pod, Reason::UnsupportedField, &format!("{how}: {}", sentence(findings)));
        }
    }

    /// Whether the provider was not asked yet to create the pod: what was left out has not been told then.
    pub(super) fn is_unsent(&self, pod: &PodRef) -> bool {
        self.table.with(&pod.uid, |record| matches!(record.create, CreateCall::NotSent)).unwrap_or(false)
    }
}

/// What a pod is refused for, and what may be left out of it.
fn judge(object: &Pod, fields: &FieldSupport, ignored: &IgnoredFields) -> (Vec<Finding>, Vec<Finding>) {
    let found = unsupported(object, fields);
    found
        .into_iter()
        .partition(|finding| !finding.field.starts_with(EPHEMERAL) && is_refused(finding, ignored))
}

fn is_refused(finding: &Finding, ignored: &IgnoredFields) -> bool {
    !ignored.contains(finding)
}

/// Every field and what to do about it, in one line.
fn sentence(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{}: {}", finding.path, finding.why)).collect::<Vec<_>>().join("; ")
}
