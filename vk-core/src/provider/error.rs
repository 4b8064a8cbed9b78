//! Provider errors, sorted by what the node does next.

use std::time::Duration;

/// A provider call's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a provider call failed, by consequence.
///
/// | variant | `create_pod` | `update_pod` | `delete_pod` | kubelet API |
/// |---|---|---|---|---|
/// | [`Rejected`](Self::Rejected) | the pod is `Failed` for good | not repeated | repeated | 400 |
/// | [`NotFound`](Self::NotFound) | repeated | not repeated | counts as `Ok` | 404 |
/// | [`Throttled`](Self::Throttled) | repeated when it says | the same | the same | 429 |
/// | [`Exhausted`](Self::Exhausted) | repeated | repeated | repeated | 503 |
/// | [`Denied`](Self::Denied) | repeated | repeated | repeated | 502 |
/// | [`Unavailable`](Self::Unavailable) | repeated | repeated | repeated | 503 |
/// | [`Unexpected`](Self::Unexpected) | repeated | repeated | repeated | 500 |
///
/// Repeated is with back-off, for as long as the pod lives. Meanwhile a pod that is to be created is `Pending` with
/// the reason `ProviderFailed`; one that runs stays as it was. Each failure is told by an event. What follows in the
/// other calls is in `docs/contract.md`.
///
/// "Unsupported" is not here: a capability that a backend lacks is a `None` on
/// [`Provider`](super::Provider).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This pod can never run here as it is written.
    #[error("{field}: {reason}")]
    Rejected {
        /// The JSON path of the offending field, such as `spec.volumes[1].hostPath`.
        field: String,
        /// What is wrong with it, and what to do instead.
        reason: String,
    },
    /// The backend has no such pod or container.
    #[error("{what} not found")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// A quota or capacity limit was met.
    #[error("{resource} exhausted")]
    Exhausted {
        /// The resource that ran out, in the backend's words.
        resource: String,
        /// The backend's answer.
        #[source]
        source: Option<Source>,
    },
    /// The backend asks to be called less often.
    #[error("throttled by the backend")]
    Throttled {
        /// When to call again, if the backend said so; otherwise it is repeated with back-off. It holds for this call
        /// about this pod.
        retry_after: Option<Duration>,
        /// The backend's answer.
        #[source]
        source: Option<Source>,
    },
    /// The backend does not accept our credentials.
    #[error("{message}")]
    Denied {
        /// What was refused to whom, without secrets.
        message: String,
        /// The backend's answer.
        #[source]
        source: Option<Source>,
    },
    /// The backend could not be reached, failed inside, or did not answer in time.
    #[error("{message}")]
    Unavailable {
        /// What failed.
        message: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
    /// The backend answered something we cannot read.
    #[error("{message}")]
    Unexpected {
        /// What was expected and what came.
        message: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
}

/// Whether and when to repeat a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Repeating cannot help. A creation that answers [`NotFound`](Error::NotFound), and a deletion that answers
    /// [`Rejected`](Error::Rejected), are repeated with back-off all the same.
    Never,
    /// Repeat with exponential back-off.
    Backoff,
    /// Repeat after this long.
    After(Duration),
}

impl Error {
    /// The field that makes the pod impossible, and why.
    #[must_use]
    pub fn rejected(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Rejected { field: field.into(), reason: reason.into() }
    }

    /// Nothing of that name at the backend.
    #[must_use]
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    /// A quota or capacity limit was met: the resource that ran out, in the backend's words.
    #[must_use]
    pub fn exhausted(resource: impl Into<String>) -> Self {
        Self::Exhausted { resource: resource.into(), source: None }
    }

    /// The backend asks to be called less often, and says when it may be called again, if it does.
    #[must_use]
    pub fn throttled(retry_after: Option<Duration>) -> Self {
        Self::Throttled { retry_after, source: None }
    }

    /// Our credentials are not accepted: what was refused to whom, without secrets.
    #[must_use]
    pub fn denied(message: impl Into<String>) -> Self {
        Self::Denied { message: message.into(), source: None }
    }

    /// The backend is out of reach.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable { message: message.into(), source: None }
    }

    /// The backend's answer makes no sense.
    #[must_use]
    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::Unexpected { message: message.into(), source: None }
    }

    /// The same error with its cause, whose text follows in [`chain`](Self::chain). It must hold no secrets.
    /// [`Rejected`](Self::Rejected) and [`NotFound`](Self::NotFound) are answers, not failures: they have no cause
    /// and stay as they are.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Source>) -> Self {
        match &mut self {
            Self::Rejected { .. } | Self::NotFound { .. } => {}
            Self::Exhausted { source, .. }
            | Self::Throttled { source, .. }
            | Self::Denied { source, .. }
            | Self::Unavailable { source, .. }
            | Self::Unexpected { source, .. } => *source = Some(cause.into()),
        }
        self
    }

    /// When to call again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Rejected { .. } | Self::NotFound { .. } => Retry::Never,
            Self::Throttled { retry_after: Some(after), .. } => Retry::After(*after),
            Self::Throttled { retry_after: None, .. }
            | Self::Exhausted { .. }
            | Self::Denied { .. }
            | Self::Unavailable { .. }
            | Self::Unexpected { .. } => Retry::Backoff,
        }
    }

    /// The CamelCase reason for the node's `Ready` condition and for the outcome in `vk_provider_calls_total`. A
    /// pod's status has `ProviderRejected` or `ProviderFailed`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Rejected { .. } => "ProviderRejected",
            Self::NotFound { .. } => "NotFound",
            Self::Exhausted { .. } => "ProviderExhausted",
            Self::Throttled { .. } => "ProviderThrottled",
            Self::Denied { .. } => "ProviderDenied",
            Self::Unavailable { .. } => "ProviderUnavailable",
            Self::Unexpected { .. } => "ProviderUnexpected",
        }
    }

    /// The status with which the kubelet API reports it.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Rejected { .. } => 400,
            Self::NotFound { .. } => 404,
            Self::Throttled { .. } => 429,
            Self::Unexpected { .. } => 500,
            Self::Denied { .. } => 502,
            Self::Exhausted { .. } | Self::Unavailable { .. } => 503,
        }
    }

    /// The error and its causes in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_one_retry_rule_one_reason_and_one_http_status() {
        let secs = Duration::from_secs;
        let table = [
            (Error::rejected("spec.hostPID", "no"), Retry::Never, "ProviderRejected", 400),
            (Error::not_found("pod"), Retry::Never, "NotFound", 404),
            (Error::exhausted("cpu"), Retry::Backoff, "ProviderExhausted", 503),
            (Error::throttled(Some(secs(7))), Retry::After(secs(7)), "ProviderThrottled", 429),
            (Error::throttled(None), Retry::Backoff, "ProviderThrottled", 429),
            (Error::denied("no"), Retry::Backoff, "ProviderDenied", 502),
            (Error::unavailable("down"), Retry::Backoff, "ProviderUnavailable", 503),
            (Error::unexpected("what"), Retry::Backoff, "ProviderUnexpected", 500),
        ];
        for (error, retry, reason, status) in table {
            assert_eq!((error.retry(), error.reason(), error.http_status()), (retry, reason, status));
        }
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        let cause = || std::io::Error::other("connection refused");
        assert_eq!(Error::unavailable("list pods").because(cause()).chain(), "list pods: connection refused");
        assert_eq!(Error::exhausted("cpu").because("quota of 4").chain(), "cpu exhausted: quota of 4");
        assert_eq!(Error::denied("may not create").because(cause()).retry(), Retry::Backoff);
        assert_eq!(Error::not_found("pod").because(cause()).chain(), "pod not found");
    }
}
