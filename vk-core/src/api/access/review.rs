//! Asking the API server who somebody is and what they may do.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use tokio::sync::Semaphore;

use super::User;
use super::cache::Cache;
use crate::metrics::PortMetrics;

/// How long a token's owner is remembered, as the kubelet's `authentication.webhook.cacheTTL`.
pub(in crate::api) const TOKEN_TTL: Duration = Duration::from_mins(2);
/// How long a token is remembered to be nobody's.
const BAD_TOKEN_TTL: Duration = Duration::from_secs(10);
/// As the kubelet's `authorization.webhook.cacheAuthorizedTTL`.
pub(in crate::api) const ALLOWED_TTL: Duration = Duration::from_mins(5);
/// As the kubelet's `authorization.webhook.cacheUnauthorizedTTL`.
pub(in crate::api) const DENIED_TTL: Duration = Duration::from_secs(30);
/// Entries in each of the two caches.
const CACHED: usize = 4096;
/// Reviews under way at once; more wait.
const CONCURRENT: usize = 16;
/// How long a review may take, waiting included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Knows tokens and permissions. [`KubeReviewer`] asks the API server.
#[async_trait]
pub trait Reviewer: fmt::Debug + Send + Sync {
    /// Whose token this is; `None` if nobody's. The token must not appear in errors or logs.
    async fn authenticate(&self, token: &str) -> Result<Option<User>, ReviewError>;

    /// Whether the user may do this.
    async fn authorize(&self, user: &User, action: &Action) -> Result<bool, ReviewError>;
}

/// Something a caller wants to do with a node: `verb` on `nodes/<subresource>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    /// The node's name.
    pub node: Arc<str>,
    /// `get`, `create`, …: from the request's method.
    pub verb: &'static str,
    /// `proxy`, `metrics`, `pods`, …: from the request's path.
    pub subresource: &'static str,
}

/// A review came to no result.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ReviewError {
    message: String,
}

impl ReviewError {
    /// An error with its reason, without secrets.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// Asks the API server, by TokenReview and SubjectAccessReview. Needs `create` on both.
#[derive(Clone)]
pub struct KubeReviewer {
    client: kube::Client,
}

impl KubeReviewer {
    /// A reviewer that asks through this client.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }
}

impl fmt::Debug for KubeReviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeReviewer").finish_non_exhaustive()
    }
}

#[async_trait]
impl Reviewer for KubeReviewer {
    async fn authenticate(&self, token: &str) -> Result<Option<User>, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..TokenReview::default()
        };
        let api: kube::Api<TokenReview> = kube::Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| failed(&error))?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(None);
        }
        let info = status.user.unwrap_or_default();
        let name = info.username.filter(|name| !name.is_empty());
        Ok(name.map(|name| User {
            name,
            uid: info.uid,
            groups: info.groups.unwrap_or_default(),
            extra: info.extra.unwrap_or_default(),
        }))
    }

    async fn authorize(&self, user: &User, action: &Action) -> Result<bool, ReviewError> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: user.uid.clone(),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(action.verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(action.subresource.to_owned()),
                    name: Some(action.node.to_string()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: kube::Api<SubjectAccessReview> = kube::Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| failed(&error))?;
        let status = answer.status.unwrap_or_default();
        Ok(status.allowed && status.denied != Some(true))
    }
}

fn failed(error: &kube::Error) -> ReviewError {
    ReviewError::new(error.to_string())
}

/// A reviewer with a memory, a limit and a deadline.
pub(super) struct Reviews {
    reviewer: Arc<dyn Reviewer>,
    // Tokens are kept as two keyed hashes, so that none lies about in memory.
    hashers: [RandomState; 2],
    tokens: Mutex<Cache<[u64; 2], Option<User>>>,
    decisions: Mutex<Cache<(User, Action), bool>>,
    slots: Semaphore,
    metrics: OnceLock<PortMetrics>,
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews").field("reviewer", &self.reviewer).finish_non_exhaustive()
    }
}

impl Reviews {
    pub(super) fn new(reviewer: Arc<dyn Reviewer>) -> Self {
        Self {
            reviewer,
            hashers: [RandomState::new(), RandomState::new()],
            tokens: Mutex::new(Cache::new(CACHED)),
            decisions: Mutex::new(Cache::new(CACHED)),
            slots: Semaphore::new(CONCURRENT),
            metrics: OnceLock::new(),
        }
    }

    /// As [`Reviewer::authenticate`].
    pub(super) async fn authenticate(&self, token: &str) -> Result<Option<User>, ReviewError> {
        let key = self.hashers.each_ref().map(|hasher| hasher.hash_one(token));
        if let Some(user) = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(user);
        }
        let user = self.ask("token", self.reviewer.authenticate(token)).await?;
        let ttl = if user.is_some() { TOKEN_TTL } else { BAD_TOKEN_TTL };
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(key, user.clone(), ttl);
        Ok(user)
    }

    /// As [`Reviewer::authorize`].
    pub(super) async fn authorize(&self, user: &User, action: &Action) -> Result<bool, ReviewError> {
        let key = (user.clone(), action.clone());
        if let Some(allowed) = self.decisions.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(allowed);
        }
        let allowed = self.ask("access", self.reviewer.authorize(user, action)).await?;
        let ttl = if allowed { ALLOWED_TTL } else { DENIED_TTL };
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner).insert(key, allowed, ttl);
        Ok(allowed)
    }

    /// Counts in these metrics from now on. The first one that is given stays.
    pub(super) fn count_in(&self, metrics: &PortMetrics) {
        self.metrics.get_or_init(|| metrics.clone());
    }

    async fn ask<T>(
        &self,
        kind: &'static str,
        review: impl Future<Output = Result<T, ReviewError>>,
    ) -> Result<T, ReviewError> {
        let answer = async {
            let _slot = self.slots.acquire().await.map_err(|_| ReviewError::new("shutting down"))?;
            review.await
        };
        let late = |_| ReviewError::new(format!("no answer within {} s", TIMEOUT.as_secs()));
        let answer = tokio::time::timeout(TIMEOUT, answer).await.map_err(late).flatten();
        if let Some(metrics) = self.metrics.get() {
            metrics.review(kind, if answer.is_ok() { "answered" } else { "failed" });
        }
        answer
    }
}

/// The groups and extra fields of a user, for tests and other reviewers.
pub(super) type Extra = BTreeMap<String, Vec<String>>;

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::extract::Request;
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    /// Paths and specs of the reviews that were asked for.
    type Seen = Arc<Mutex<Vec<(String, Value)>>>;

    /// A reviewer whose API server gives these statuses, and the specs it was sent.
    fn reviewer(status: Value) -> (KubeReviewer, Seen) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let server = axum::Router::new().fallback(move |request: Request| async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut object: Value = serde_json::from_slice(&body).unwrap();
            record.lock().unwrap().push((path, object["spec"].clone()));
            object["status"] = status;
            Json(object)
        });
        (KubeReviewer::new(kube::Client::new(server, "default")), seen)
    }

    #[tokio::test]
    async fn a_token_is_sent_for_review_and_its_owner_comes_back() {
        let user = json!({ "username": "u", "uid": "1", "groups": ["g"], "extra": { "k": ["v"] } });
        let (api, seen) = reviewer(json!({ "authenticated": true, "user": user }));
        let extra = Extra::from([("k".to_owned(), vec!["v".to_owned()])]);
        let expected =
            User { name: "u".to_owned(), uid: Some("1".to_owned()), groups: vec!["g".to_owned()], extra };
        assert_eq!(api.authenticate("secret").await.unwrap(), Some(expected));
        let (path, spec) = seen.lock().unwrap().remove(0);
        assert_eq!(path, "/apis/authentication.k8s.io/v1/tokenreviews");
        assert_eq!(spec, json!({ "token": "secret" }));
    }

    #[tokio::test]
    async fn a_token_is_nobodys_unless_the_answer_is_a_clear_yes_with_a_name() {
        for status in [
            json!({}),
            json!({ "authenticated": false, "user": { "username": "u" } }),
            json!({ "authenticated": true }),
            json!({ "authenticated": true, "user": { "username": "" } }),
            json!({ "error": "expired" }),
        ] {
            assert_eq!(reviewer(status.clone()).0.authenticate("t").await.unwrap(), None, "{status}");
        }
    }

    #[tokio::test]
    async fn an_action_is_sent_for_review_whole() {
        let mut user = User::new("u", ["g"]);
        user.extra = Extra::from([("k".to_owned(), vec!["v".to_owned()])]);
        let action = Action { node: "node-1".into(), verb: "create", subresource: "proxy" };
        for (status, allowed) in [
            (json!({ "allowed": true }), true),
            (json!({ "allowed": false }), false),
            (json!({ "allowed": true, "denied": true }), false),
        ] {
            let (api, seen) = reviewer(status);
            assert_eq!(api.authorize(&user, &action).await.unwrap(), allowed);
            let (path, spec) = seen.lock().unwrap().remove(0);
            assert_eq!(path, "/apis/authorization.k8s.io/v1/subjectaccessreviews");
            let attributes = json!({
                "verb": "create", "version": "v1", "resource": "nodes", "subresource": "proxy", "name": "node-1",
            });
            let groups = ["g", "system:authenticated"];
            let expected = json!({ "user": "u", "groups": groups, "extra": { "k": ["v"] }, "resourceAttributes": attributes });
            assert_eq!(spec, expected);
        }
    }

    #[tokio::test]
    async fn an_api_server_that_fails_is_an_error_without_the_token() {
        let server = axum::Router::new().fallback(|| async { http::StatusCode::INTERNAL_SERVER_ERROR });
        let api = KubeReviewer::new(kube::Client::new(server, "default"));
        let error = api.authenticate("secret").await.unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    /// A reviewer that never answers.
    #[derive(Debug)]
    struct Stuck;

    #[async_trait]
    impl Reviewer for Stuck {
        async fn authenticate(&self, _: &str) -> Result<Option<User>, ReviewError> {
            std::future::pending().await
        }
        async fn authorize(&self, _: &User, _: &Action) -> Result<bool, ReviewError> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_review_that_hangs_is_given_up_and_so_are_those_that_wait_behind_it() {
        let reviews = Arc::new(Reviews::new(Arc::new(Stuck)));
        let began = tokio::time::Instant::now();
        let asked = (0..CONCURRENT * 3).map(|n| {
            let reviews = Arc::clone(&reviews);
            async move { reviews.authenticate(&n.to_string()).await }
        });
        assert!(futures::future::join_all(asked).await.iter().all(Result::is_err));
        assert_eq!(began.elapsed(), TIMEOUT);
    }
}
