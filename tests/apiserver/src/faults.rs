//! Faults by rule: which requests they hit, and what happens to those.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::ApiError;
use crate::request::{Target, Verb};

/// A rule: requests it hits, how often, and what they suffer. Without further words it hits every request
/// that matches, for as long as it stands.
///
/// ```
/// use std::time::Duration;
/// use vk_apiserver::{Fault, Rule, Verb};
///
/// // The second and third status write of any pod get 409; the rest go through.
/// let rule = Rule::new(Fault::Conflict).verb(Verb::Patch).resource("pods").subresource("status").skip(1).times(2);
/// // Every tenth request, or so, is throttled.
/// let storm = Rule::new(Fault::TooManyRequests { retry_after: Duration::from_secs(1) }).probability(0.1);
/// ```
#[derive(Clone, Debug)]
pub struct Rule {
    verbs: Vec<Verb>,
    resource: Option<String>,
    subresource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    user: Option<String>,
    skip: u64,
    times: Option<u64>,
    probability: Option<f64>,
    after: Duration,
    until: Option<Duration>,
    fault: Fault,
}

/// What happens to a request that a rule hits.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// 409, the object has been modified.
    Conflict,
    /// 410, reason `Expired`.
    Expired,
    /// 403.
    Forbidden,
    /// 404 for the object.
    NotFound,
    /// 429 with `Retry-After` (whole seconds).
    TooManyRequests {
        /// How long the client is told to wait.
        retry_after: Duration,
    },
    /// 500.
    InternalError,
    /// 503.
    Unavailable,
    /// 504.
    Timeout,
    /// Answers only after this long; nothing else changes.
    Delay(Duration),
    /// The request takes effect, but the connection breaks before the answer.
    LoseResponse,
    /// The request never gets an answer, and has no effect.
    Hang,
    /// A list is answered with no items, as by a server that has not read its store yet.
    EmptyList,
    /// A watch ends after this long, as if the connection was closed in good order.
    DropWatch(Duration),
    /// A watch falls silent after this long: no events, no bookmarks, no end.
    StallWatch(Duration),
    /// A watch ends after this long and what happened before can't be resumed: the next one gets 410.
    ExpireWatch(Duration),
}

impl Rule {
    /// A rule that hits every request.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self {
            verbs: Vec::new(),
            resource: None,
            subresource: None,
            namespace: None,
            name: None,
            user: None,
            skip: 0,
            times: None,
            probability: None,
            after: Duration::ZERO,
            until: None,
            fault,
        }
    }

    /// Only this verb; called again, also that one.
    #[must_use]
    pub fn verb(mut self, verb: Verb) -> Self {
        self.verbs.push(verb);
        self
    }

    /// Only verbs that write.
    #[must_use]
    pub fn writes(self) -> Self {
        [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete, Verb::DeleteCollection]
            .into_iter()
            .fold(self, Self::verb)
    }

    /// Only this resource, by its plural name.
    #[must_use]
    pub fn resource(mut self, plural: impl Into<String>) -> Self {
        self.resource = Some(plural.into());
        self
    }

    /// Only this subresource; the empty one is the object itself.
    #[must_use]
    pub fn subresource(mut self, name: impl Into<String>) -> Self {
        self.subresource = Some(name.into());
        self
    }

    /// Only this namespace.
    #[must_use]
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
        self
    }

    /// Only the object of this name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Only requests of this user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Lets the first `count` matching requests through.
    #[must_use]
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Hits at most `count` requests.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = Some(count);
        self
    }

    /// Hits only the `n`th matching request, counted from 1.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        self.skip(n.saturating_sub(1)).times(1)
    }

    /// Hits a matching request with this probability, between 0 and 1.
    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = Some(probability);
        self
    }

    /// Hits only within this window, counted from when the rule was added.
    #[must_use]
    pub fn between(mut self, after: Duration, until: Duration) -> Self {
        self.after = after;
        self.until = Some(until);
        self
    }

    fn matches(&self, target: &Target, user: &str) -> bool {
        let fits = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|w| w == actual);
        (self.verbs.is_empty() || self.verbs.contains(&target.verb))
            && fits(&self.resource, target.resource.plural)
            && fits(&self.subresource, &target.subresource)
            && fits(&self.namespace, &target.namespace)
            && fits(&self.name, &target.name)
            && fits(&self.user, user)
            && (target.verb == Verb::Watch || !self.fault.is_for_watches())
    }
}

impl Fault {
    fn is_for_watches(&self) -> bool {
        matches!(self, Self::DropWatch(_) | Self::StallWatch(_) | Self::ExpireWatch(_))
    }

    /// The answer that stands in for the real one, if this fault is an answer.
    pub(crate) fn reply(&self, target: &Target) -> Option<ApiError> {
        let (resource, name) = (target.resource, target.name.as_str());
        Some(match self {
            Self::Conflict => ApiError::modified(resource, name),
            Self::Expired => ApiError::expired("too old resource version: injected fault"),
            Self::Forbidden => ApiError::forbidden(resource, name, "injected fault"),
            Self::NotFound => ApiError::not_found(resource, name),
            Self::TooManyRequests { retry_after } => ApiError::too_many(
                "Too many requests, please try again later.",
                u32::try_from(retry_after.as_secs()).unwrap_or(u32::MAX),
            ),
            Self::InternalError => ApiError::internal("injected fault"),
            Self::Unavailable => {
                ApiError::unavailable("the server is currently unable to handle the request")
            }
            Self::Timeout => {
                ApiError::new(504, "Timeout", "Timeout: request did not complete within the allotted timeout")
            }
            _ => return None,
        })
    }
}

#[derive(Debug)]
struct Active {
    id: u64,
    rule: Rule,
    since: Instant,
    seen: u64,
    hits: Arc<AtomicU64>,
}

/// The rules in force; clones share them.
#[derive(Clone, Debug)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rules: Vec<Active>,
    next: u64,
    random: fastrand::Rng,
}

/// A rule in force. Dropping the handle leaves the rule standing.
#[derive(Clone, Debug)]
pub struct FaultHandle {
    id: u64,
    hits: Arc<AtomicU64>,
    faults: Faults,
}

impl FaultHandle {
    /// How many requests the rule has hit.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Takes the rule away.
    pub fn remove(&self) {
        self.faults.lock().rules.retain(|r| r.id != self.id);
    }
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        let state = State { rules: Vec::new(), next: 0, random: fastrand::Rng::with_seed(seed) };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule. Of several that match a request, each counts it, and all take part: delays add up,
    /// the first answer wins.
    #[allow(clippy::must_use_candidate, reason = "a rule may stand for good")]
    pub fn add(&self, rule: Rule) -> FaultHandle {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let hits = Arc::new(AtomicU64::new(0));
        state.rules.push(Active { id, rule, since: Instant::now(), seen: 0, hits: hits.clone() });
        FaultHandle { id, hits, faults: self.clone() }
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// The faults that hit a request; counts it.
    pub(crate) fn hit(&self, target: &Target, user: &str) -> Vec<Fault> {
        let mut state = self.lock();
        let State { rules, random, .. } = &mut *state;
        let now = Instant::now();
        let mut faults = Vec::new();
        for active in rules.iter_mut().filter(|a| a.rule.matches(target, user)) {
            let age = now - active.since;
            let rule = &active.rule;
            if age < rule.after || rule.until.is_some_and(|until| age >= until) {
                continue;
            }
            active.seen += 1;
            let hits = active.hits.load(Ordering::Relaxed);
            if active.seen <= rule.skip
                || rule.times.is_some_and(|times| hits >= times)
                || rule.probability.is_some_and(|p| random.f64() >= p)
            {
                continue;
            }
            active.hits.store(hits + 1, Ordering::Relaxed);
            faults.push(rule.fault.clone());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Query;

    fn patch(name: &str) -> Target {
        let path = format!("/api/v1/namespaces/ns/pods/{name}/status");
        Target::parse(&http::Method::PATCH, &path, &Query::default()).unwrap().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_rule_hits_the_requests_it_counts_to() {
        let faults = Faults::new(1);
        let rule = Rule::new(Fault::Conflict).verb(Verb::Patch).resource("pods").name("a").skip(1).times(2);
        let handle = faults.add(rule);
        let hits: Vec<bool> = (0..5).map(|_| !faults.hit(&patch("a"), "u").is_empty()).collect();
        assert_eq!(hits, [false, true, true, false, false]);
        assert!(faults.hit(&patch("b"), "u").is_empty());
        assert_eq!(handle.hits(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rule_stands_for_its_window_and_until_removed() {
        let faults = Faults::new(1);
        let window = Rule::new(Fault::Unavailable).between(Duration::from_secs(1), Duration::from_secs(2));
        let handle = faults.add(window);
        assert!(faults.hit(&patch("a"), "u").is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(faults.hit(&patch("a"), "u"), [Fault::Unavailable]);
        handle.remove();
        assert!(faults.hit(&patch("a"), "u").is_empty());
    }

    #[test]
    fn probabilities_come_near() {
        let faults = Faults::new(7);
        let handle = faults.add(Rule::new(Fault::InternalError).probability(0.25));
        (0..1000).for_each(|_| drop(faults.hit(&patch("a"), "u")));
        assert!((200..300).contains(&handle.hits()), "{}", handle.hits());
    }
}
