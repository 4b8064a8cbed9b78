//! A request that may be answered: authenticated, authorised, and taken apart.

use axum::extract::{Query, RawPathParams};
use http::Uri;
use http::request::Parts;

use super::serve::Connection;

/// A call of an endpoint.
#[derive(Debug)]
pub(super) struct Call {
    /// Method, headers and extensions, the connection's upgrade among them.
    pub(super) parts: Parts,
    /// What it came in on; `None` for a caller in the same process that named none.
    pub(super) connection: Option<Connection>,
    /// The query's pairs, in order.
    pub(super) query: Vec<(String, String)>,
    params: Vec<(String, String)>,
}

impl Call {
    pub(super) fn new(parts: Parts, params: &RawPathParams) -> Self {
        let params = params.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let query = pairs(&parts.uri);
        let connection = parts.extensions.get().cloned();
        Self { parts, connection, query, params }
    }

    /// A request as it is, of no route.
    #[cfg(any(test, fuzzing))]
    pub(super) fn of(parts: Parts) -> Self {
        let query = pairs(&parts.uri);
        Self { parts, connection: None, query, params: Vec::new() }
    }

    /// A segment of the path; empty if the route has none of that name.
    pub(super) fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Every value of a query parameter, in order.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a query parameter.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        first(&self.query, name)
    }
}

/// The first value of a name among a query's pairs.
pub(super) fn first<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// A query's pairs, in order. Any text is a list of pairs; there is nothing to fail on.
pub(crate) fn pairs(uri: &Uri) -> Vec<(String, String)> {
    let query = Query::<Vec<(String, String)>>::try_from_uri(uri);
    query.map(|Query(pairs)| pairs).unwrap_or_default()
}
