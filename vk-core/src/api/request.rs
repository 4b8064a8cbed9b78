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

    /// Whether a segment of the path has a slash in it, written `%2F`: for the kubelet these are two.
    pub(super) fn has_split_segment(&self) -> bool {
        self.params.iter().any(|(_, value)| value.contains('/'))
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

/// A query's pairs, in order. Any text is a list of pairs; one that Go cannot read is left out, as Go does it.
pub(crate) fn pairs(uri: &Uri) -> Vec<(String, String)> {
    let Some(query) = uri.query() else { return Vec::new() };
    let readable: Vec<&str> = query.split('&').filter(|pair| is_readable(pair)).collect();
    decoded(&readable.join("&"))
}

/// Whether Go reads the whole of a query without an error.
pub(super) fn is_wholly_readable(uri: &Uri) -> bool {
    uri.query().is_none_or(|query| query.split('&').all(is_readable))
}

fn decoded(query: &str) -> Vec<(String, String)> {
    let uri = Uri::builder().path_and_query(format!("/?{query}")).build();
    let pairs = uri.ok().and_then(|uri| Query::<Vec<(String, String)>>::try_from_uri(&uri).ok());
    pairs.map(|Query(pairs)| pairs).unwrap_or_default()
}

/// Go takes no semicolons, and no percent signs without two digits.
fn is_readable(pair: &str) -> bool {
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = pair.as_bytes();
    let mut escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').map(|(index, _)| index);
    !pair.contains(';') && escapes.all(|at| digit(bytes.get(at + 1)) && digit(bytes.get(at + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_go_reads_it() {
        let read = |query: &str| {
            let uri: Uri = format!("/pods?{query}").parse().unwrap();
            let pairs = pairs(&uri).into_iter().map(|(key, value)| format!("{key}={value}"));
            (pairs.collect::<Vec<_>>().join(" "), is_wholly_readable(&uri))
        };
        for (query, expected, whole) in [
            ("", "", true),
            ("a=1&a=2&b", "a=1 a=2 b=", true),
            ("a=%41+b%2b", "a=A b+", true),
            ("a=%zz&b=1", "b=1", false),
            ("a=%4&b=1", "b=1", false),
            ("a=1;b=2&c=3", "c=3", false),
        ] {
            assert_eq!(read(query), (expected.to_owned(), whole), "{query}");
        }
    }
}
