//! How many requests came, by what they asked and how they were answered.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use crate::request::Verb;

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKind {
    /// What was asked.
    pub verb: Verb,
    /// Plural name of the resource.
    pub resource: &'static str,
    /// Subresource, or empty.
    pub subresource: String,
    /// HTTP status code of the answer; of a watch or stream, the one it began with.
    pub code: u16,
    /// User who asked.
    pub user: String,
}

/// Counts of requests; a snapshot can be taken and subtracted from a later one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests(BTreeMap<RequestKind, u64>);

impl Requests {
    /// How many requests a predicate holds for.
    pub fn count(&self, mut which: impl FnMut(&RequestKind) -> bool) -> u64 {
        self.0.iter().filter(|(kind, _)| which(kind)).map(|(_, count)| count).sum()
    }

    /// How many requests had this verb on this resource and subresource, whatever the answer.
    #[must_use]
    pub fn of(&self, verb: Verb, resource: &str, subresource: &str) -> u64 {
        self.count(|k| k.verb == verb && k.resource == resource && k.subresource == subresource)
    }

    /// All requests.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The requests that came after `earlier` was taken.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let rest = self.0.iter().map(|(kind, count)| {
            (kind.clone(), count - earlier.0.get(kind).copied().unwrap_or_default().min(*count))
        });
        Self(rest.filter(|(_, count)| *count > 0).collect())
    }

    /// The requests of one user.
    #[must_use]
    pub fn of_user(&self, user: &str) -> Self {
        let theirs = self.0.iter().filter(|(kind, _)| kind.user == user);
        Self(theirs.map(|(kind, count)| (kind.clone(), *count)).collect())
    }

    /// Kinds with their counts, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&RequestKind, u64)> {
        self.0.iter().map(|(kind, count)| (kind, *count))
    }

    /// `apiserver_request_total` in Prometheus' text format.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::from("# TYPE apiserver_request_total counter\n");
        for (kind, count) in self.iter() {
            let verb = match kind.verb {
                Verb::Create => "POST".to_owned(),
                Verb::Update => "PUT".to_owned(),
                other => other.as_str().to_uppercase(),
            };
            // Writing to a string can't fail.
            let _ = writeln!(
                text,
                "apiserver_request_total{{code=\"{}\",resource=\"{}\",subresource=\"{}\",verb=\"{verb}\"}} {count}",
                kind.code, kind.resource, kind.subresource
            );
        }
        text
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Requests>);

impl Counters {
    pub(crate) fn add(&self, kind: RequestKind) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).0.entry(kind).or_default() += 1;
    }

    pub(crate) fn snapshot(&self) -> Requests {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
