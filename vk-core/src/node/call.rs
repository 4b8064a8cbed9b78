//! A call to the API server, bounded in time and sorted by what to do next.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use crate::incarnation;

/// Longest wait for one answer. The kubelet gives its status updates 10 s as well.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The API server refused or failed, or could not be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

/// Waits for a call's answer, [`CALL_TIMEOUT`] at most.
pub(crate) async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    call_within(CALL_TIMEOUT, request).await
}

/// Waits for a call's answer.
pub(crate) async fn call_within<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, CallError> {
    match timeout(limit, request).await {
        Ok(answer) => answer.map_err(CallError::Api),
        Err(_) => Err(CallError::Timeout(limit)),
    }
}

impl CallError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            Self::Api(_) | Self::Timeout(_) => None,
        }
    }

    /// What the API server wrote about it; empty if it did not answer.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Api(kube::Error::Api(status)) => &status.message,
            Self::Api(_) | Self::Timeout(_) => "",
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether the object has changed since it was read, or exists already.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Whether the object that the write was meant for is gone, another one of its name or not.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Api(kube::Error::Api(status)) => status.code == 404 || incarnation::is_another(status),
            Self::Api(_) | Self::Timeout(_) => false,
        }
    }

    /// Whether our permissions do not suffice.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Api(kube::Error::Api(status)) => status.code == 429 || status.code >= 500,
            // A cut body shows as broken JSON.
            Self::Timeout(_)
            | Self::Api(
                kube::Error::HyperError(_)
                | kube::Error::Service(_)
                | kube::Error::ReadEvents(_)
                | kube::Error::SerdeError(_),
            ) => true,
            Self::Api(_) => false,
        }
    }

    /// How long the API server asks us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Api(kube::Error::Api(status)) => {
                let seconds = status.details.as_ref()?.retry_after_seconds;
                (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
            }
            Self::Api(_) | Self::Timeout(_) => None,
        }
    }
}

/// Pauses between attempts: doubled each time up to a limit, spread by a quarter both ways, and never
/// shorter than the API server asks for.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    pub(crate) fn pause(&mut self, error: &CallError) -> Duration {
        let pause = self.next.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(self.longest);
        pause.max(error.retry_after().unwrap_or_default().min(self.longest))
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn api(code: u16) -> CallError {
        CallError::Api(kube::Error::Api(Status::failure("no", "").with_code(code).boxed()))
    }

    #[test]
    fn answers_are_sorted_by_what_to_do_next() {
        assert!(api(404).is_not_found());
        assert!(api(409).is_conflict());
        assert!(api(403).is_forbidden());
        for code in [429, 500, 503, 504] {
            assert!(api(code).is_transient(), "{code}");
        }
        for code in [400, 401, 403, 404, 409, 422] {
            assert!(!api(code).is_transient(), "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_answer_ends() {
        let error = call::<()>(std::future::pending()).await.unwrap_err();
        assert!(error.is_transient());
        assert_eq!(error.to_string(), "no answer within 10 s");
    }

    #[test]
    fn pauses_grow_to_their_limit_and_heed_the_api_server() {
        let secs = Duration::from_secs;
        let mut backoff = Backoff::new(secs(1), secs(7));
        for expected in [1, 2, 4, 7, 7] {
            let pause = backoff.pause(&api(500));
            assert!(pause >= secs(expected) * 3 / 4 && pause <= secs(expected) * 5 / 4, "{pause:?}");
        }
        backoff.reset();
        let error = CallError::Api(kube::Error::Api(
            serde_json::from_value::<Status>(serde_json::json!({
                "code": 429, "reason": "TooManyRequests", "details": { "retryAfterSeconds": 3 },
            }))
            .unwrap()
            .boxed(),
        ));
        assert_eq!(backoff.pause(&error), secs(3));
    }
}
