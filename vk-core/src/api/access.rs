//! Who may call the kubelet API, and for what.
//!
//! Nobody, unless told: [`Access::none`] turns every caller away. Callers are known by a client certificate
//! ([`ClientCa`]) or a bearer token (TokenReview), and allowed by name or by SubjectAccessReview on the
//! subresources of `nodes`, as the kubelet does it (`pkg/kubelet/server/auth.go`, KEP-2862).

mod cache;
mod client_ca;
mod review;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::response::Response;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;

pub use self::client_ca::ClientCa;
pub(super) use self::review::{ALLOWED_TTL, DENIED_TTL, TOKEN_TTL};
pub use self::review::{Action, KubeReviewer, ReviewError, Reviewer};
use self::review::{Extra, Reviews};
use super::reply;
use super::serve::Connection;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// A caller, as authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// The name: a certificate's common name, or a token's `username`.
    pub name: String,
    /// The API server's UID for it, if it has one.
    pub uid: Option<String>,
    /// The groups: a certificate's organisations, or a token's `groups`; `system:authenticated` among them.
    pub groups: Vec<String>,
    /// What else an authenticator said.
    pub extra: Extra,
}

impl User {
    /// An authenticated user of that name and these groups.
    pub fn new<G: Into<String>>(name: impl Into<String>, groups: impl IntoIterator<Item = G>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), uid: None, groups, extra: Extra::new() }
    }

    fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            uid: None,
            groups: vec!["system:unauthenticated".to_owned()],
            extra: Extra::new(),
        }
    }
}

const AUTHENTICATED: &str = "system:authenticated";

/// The rules for callers.
///
/// ```no_run
/// # use std::sync::Arc;
/// # fn f(client: kube::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use vk_core::api::{Access, ClientCa, KubeReviewer};
///
/// let ca = ClientCa::from_file("/etc/kubernetes/pki/ca.crt".as_ref())?;
/// let reviewer = Arc::new(KubeReviewer::new(client));
/// let access = Access::none().with_client_ca(Arc::new(ca)).with_reviewer(reviewer);
/// # drop(access); Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Access {
    client_ca: Option<Arc<ClientCa>>,
    reviews: Option<Arc<Reviews>>,
    names: BTreeSet<String>,
    anonymous_metrics: bool,
    everyone: bool,
}

impl Access {
    /// Nobody may do anything.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Everybody may do everything, `exec` in every container of the node included: for tests, and for
    /// servers that nobody else can reach.
    #[must_use]
    pub fn insecure_allow_all() -> Self {
        Self { everyone: true, ..Self::default() }
    }

    /// Believes client certificates of these authorities.
    #[must_use]
    pub fn with_client_ca(mut self, ca: Arc<ClientCa>) -> Self {
        self.client_ca = Some(ca);
        self
    }

    /// Whose client certificates are believed, for those who reload them.
    #[must_use]
    pub fn client_ca(&self) -> Option<Arc<ClientCa>> {
        self.client_ca.clone()
    }

    /// Asks about bearer tokens, and about the permissions of everyone not
    /// [trusted by name](Self::with_trusted_name).
    #[must_use]
    pub fn with_reviewer(mut self, reviewer: Arc<dyn Reviewer>) -> Self {
        self.reviews = Some(Arc::new(Reviews::new(reviewer)));
        self
    }

    /// Allows this user everything, such as the API server by its certificate's common name.
    #[must_use]
    pub fn with_trusted_name(mut self, name: impl Into<String>) -> Self {
        self.names.insert(name.into());
        self
    }

    /// Opens `/stats/summary` and `/metrics/resource`, and nothing else, to callers without credentials.
    /// Default no.
    #[must_use]
    pub fn with_anonymous_metrics(mut self, open: bool) -> Self {
        self.anonymous_metrics = open;
        self
    }

    /// Whether anybody at all could be let in: with neither a way to know callers nor an opening, a server
    /// only answers 401.
    #[must_use]
    pub fn admits_anyone(&self) -> bool {
        let known = self.client_ca.is_some() || self.reviews.is_some();
        let allowed = !self.names.is_empty() || self.reviews.is_some();
        self.everyone || self.anonymous_metrics || (known && allowed)
    }

    /// Counts reviews in these metrics. Of nodes that share the rules the first one counts them.
    pub(super) fn count_in(&self, metrics: &Metrics) {
        if let Some(reviews) = &self.reviews {
            reviews.count_in(metrics.port());
        }
    }

    /// Keeps what it believes in fresh. Does not end.
    pub(crate) async fn keep(&self, clock: &Clock, metrics: &Metrics) {
        match &self.client_ca {
            Some(ca) => ca.keep(clock, metrics).await,
            None => std::future::pending().await,
        }
    }

    /// The rules in short, for `/configz`.
    pub(super) fn summary(&self) -> Summary {
        Summary {
            webhook: self.reviews.is_some(),
            anonymous: self.everyone || self.anonymous_metrics,
            everyone: self.everyone,
        }
    }

    /// Lets a request pass, or says why not.
    pub(super) async fn check(&self, request: &Asked<'_>) -> Result<User, Box<Response>> {
        let user = match self.authenticate(request).await {
            Some(user) => user,
            None if self.everyone => return Ok(User::anonymous()),
            None if self.anonymous_metrics && request.metrics && request.has_no_credentials() => {
                return Ok(User::anonymous());
            }
            None => return Err(Box::new(reply::text(StatusCode::UNAUTHORIZED, "Unauthorized"))),
        };
        self.authorize(&user, request).await.map(|()| user)
    }

    async fn authenticate(&self, request: &Asked<'_>) -> Option<User> {
        let chain = request.connection.map_or(&[][..], Connection::certificates);
        if let (Some(ca), false) = (&self.client_ca, chain.is_empty()) {
            match ca.user(chain, request.now) {
                Ok(user) => return Some(user),
                Err(reason) => tracing::debug!(reason, "client certificate not believed"),
            }
        }
        let (Some(reviews), Some(token)) = (&self.reviews, bearer(request.headers)) else { return None };
        match reviews.authenticate(token).await {
            Ok(user) => user,
            Err(error) => {
                tracing::warn!(%error, "token review failed");
                None
            }
        }
    }

    async fn authorize(&self, user: &User, request: &Asked<'_>) -> Result<(), Box<Response>> {
        if self.everyone || self.names.contains(&user.name) {
            return Ok(());
        }
        let verb = verb(request.method);
        if let Some(reviews) = &self.reviews {
            for &subresource in request.subresources {
                let action = Action { node: Arc::clone(request.node), verb, subresource };
                match reviews.authorize(user, &action).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(%error, user = user.name, verb, subresource, "access review failed");
                        let what = describe(user, verb, &format!("subresource={subresource}"));
                        let body = format!("Authorization error ({what})");
                        return Err(Box::new(reply::text(StatusCode::INTERNAL_SERVER_ERROR, body)));
                    }
                }
            }
        }
        let tried = format!("subresource(s)=[{}]", request.subresources.join(" "));
        let body = format!("Forbidden ({})\n", describe(user, verb, &tried));
        Err(Box::new(reply::text(StatusCode::FORBIDDEN, body)))
    }
}

/// What [`Access`] comes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Summary {
    /// The API server is asked.
    pub(super) webhook: bool,
    /// Some route is open to callers without credentials.
    pub(super) anonymous: bool,
    /// Every route is open to everybody.
    pub(super) everyone: bool,
}

/// A request, as far as the rules look at it.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) node: &'a Arc<str>,
    pub(super) connection: Option<&'a Connection>,
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) subresources: &'static [&'static str],
    /// Whether [`Access::with_anonymous_metrics`] is about this route.
    pub(super) metrics: bool,
    pub(super) now: Timestamp,
}

impl Asked<'_> {
    fn has_no_credentials(&self) -> bool {
        self.connection.is_none_or(|connection| connection.certificates().is_empty())
            && !self.headers.contains_key(AUTHORIZATION)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        // The kubelet leaves it empty as well; no rule but `*` matches.
        _ => "",
    }
}

fn describe(user: &User, verb: &str, subresources: &str) -> String {
    let mut line = format!("user={}", user.name);
    // Writing to a string cannot fail.
    let _ = write!(line, ", verb={verb}, resource=nodes, {subresources}");
    line
}
