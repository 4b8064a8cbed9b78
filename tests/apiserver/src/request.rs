//! What a request asks for: verb, resource, namespace, name, subresource.
//!
//! Source: apiserver `pkg/endpoints/request/requestinfo.go`.

use http::Method;

use crate::error::ApiError;
use crate::resources::{self, Resource};

/// What a client wants done, in the words rules and counters use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Reads one object.
    Get,
    /// Reads many.
    List,
    /// Follows changes.
    Watch,
    /// Makes one.
    Create,
    /// Replaces one.
    Update,
    /// Changes parts of one.
    Patch,
    /// Deletes one.
    Delete,
    /// Deletes many.
    DeleteCollection,
    /// A stream: exec, attach, port-forward, proxy.
    Connect,
}

impl Verb {
    /// The verb in lower case, as RBAC and metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Connect => "connect",
        }
    }
}

/// A request about a resource.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) verb: Verb,
    pub(crate) resource: &'static Resource,
    /// Empty for cluster-wide requests.
    pub(crate) namespace: String,
    /// Empty for collections.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
    /// What follows the subresource: a proxied path, percent-encoding kept.
    pub(crate) rest: String,
}

impl Target {
    /// Reads method, path and query; `Ok(None)` when the path is not about a resource.
    pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Result<Option<Self>, ApiError> {
        let mut parts = path.strip_prefix('/').unwrap_or(path).splitn(2, '/');
        let (group, version, rest) = match (parts.next(), parts.next()) {
            (Some("api"), Some(rest)) => {
                let (version, rest) = rest.split_once('/').unwrap_or((rest, ""));
                ("", version, rest)
            }
            (Some("apis"), Some(rest)) => {
                let mut words = rest.splitn(3, '/');
                (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""))
            }
            _ => return Ok(None),
        };
        if rest.is_empty() {
            return Ok(None);
        }
        let mut words: Vec<&str> = rest.splitn(6, '/').collect();
        // A proxied path keeps its last slash; elsewhere it says nothing.
        if words.last() == Some(&"") && !words.contains(&"proxy") {
            words.pop();
        }
        let (namespace, words) = match words.as_slice() {
            // `namespaces/x/status` and `finalize` are about the namespace itself.
            ["namespaces", namespace, resource, tail @ ..] if !matches!(*resource, "status" | "finalize") => {
                (*namespace, [&[*resource], tail].concat())
            }
            ["watch", ..] => return Err(ApiError::no_such_path()),
            all => ("", all.to_vec()),
        };
        let resource = resources::find(group, version, words[0]).ok_or_else(ApiError::no_such_path)?;
        let name = decode(words.get(1).copied().unwrap_or(""));
        let subresource = words.get(2).copied().unwrap_or("").to_owned();
        let rest = words.get(3..).map(|tail| tail.join("/")).unwrap_or_default();
        if !resource.namespaced && !namespace.is_empty() {
            return Err(ApiError::no_such_path());
        }
        // A name with a slash in it is no part of any path.
        if name.contains('/') {
            return Err(ApiError::no_such_path());
        }
        let namespace = decode(namespace);
        let verb = verb_of(method, &name, &subresource, query)?;
        if resource.namespaced && namespace.is_empty() && resource.stored {
            match verb {
                Verb::List | Verb::Watch => {}
                Verb::Create | Verb::DeleteCollection if name.is_empty() => {
                    return Err(ApiError::method_not_allowed());
                }
                _ => return Err(ApiError::no_such_path()),
            }
        }
        if name.is_empty() && matches!(verb, Verb::Update | Verb::Patch) {
            return Err(ApiError::method_not_allowed());
        }
        Ok(Some(Self { verb, resource, namespace, name, subresource, rest }))
    }
}

fn verb_of(method: &Method, name: &str, subresource: &str, query: &Query) -> Result<Verb, ApiError> {
    if matches!(subresource, "exec" | "attach" | "portforward" | "proxy") {
        return Ok(Verb::Connect);
    }
    Ok(match *method {
        // One object is read whatever the query says: it is watched by a field selector.
        Method::GET | Method::HEAD if name.is_empty() && query.flag("watch") => Verb::Watch,
        Method::GET | Method::HEAD if name.is_empty() => Verb::List,
        Method::GET | Method::HEAD => Verb::Get,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if name.is_empty() => Verb::DeleteCollection,
        Method::DELETE => Verb::Delete,
        _ => return Err(ApiError::method_not_allowed()),
    })
}

/// Undoes percent-encoding; what is no such code stays.
pub(crate) fn decode(word: &str) -> String {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'%').then(|| tail.get(..2)).flatten();
        let code = code.and_then(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A query string, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |part: &str| decode(&part.replace('+', " "));
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter; empty when absent.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v)
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// A boolean: present and not `false` or `0`, as Go's decoding has it.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.has(key) && !matches!(self.get(key), "false" | "0" | "F" | "False" | "FALSE" | "f")
    }

    /// An integer; absent or empty is `None`.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, ApiError> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &Method, path: &str) -> Target {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        Target::parse(method, path, &Query::parse(query)).unwrap().unwrap()
    }

    #[test]
    fn paths_are_read_as_the_real_server_reads_them() {
        let t = parse(&Method::GET, "/api/v1/namespaces/a/pods/p/log?follow=true");
        assert_eq!((t.verb, t.resource.plural, &*t.namespace, &*t.name), (Verb::Get, "pods", "a", "p"));
        assert_eq!(t.subresource, "log");
        let t = parse(&Method::GET, "/apis/apps/v1/deployments?watch=1");
        assert_eq!((t.verb, t.resource.plural, &*t.namespace), (Verb::Watch, "deployments", ""));
        let t = parse(&Method::PUT, "/api/v1/namespaces/a/finalize");
        assert_eq!((t.resource.plural, &*t.name, &*t.subresource), ("namespaces", "a", "finalize"));
        let t = parse(&Method::GET, "/api/v1/namespaces/a");
        assert_eq!((t.verb, t.resource.plural, &*t.name), (Verb::Get, "namespaces", "a"));
        let t = parse(&Method::POST, "/api/v1/nodes/n:10250/proxy/stats/summary");
        assert_eq!((t.verb, &*t.name, &*t.rest), (Verb::Connect, "n:10250", "stats/summary"));
        let t = parse(&Method::GET, "/api/v1/namespaces/a/pods/https:p:80/proxy/x/y%20z/");
        assert_eq!((&*t.name, &*t.rest), ("https:p:80", "x/y%20z/"));
        let t = parse(&Method::DELETE, "/api/v1/namespaces/a/pods");
        assert_eq!(t.verb, Verb::DeleteCollection);
        assert!(Target::parse(&Method::GET, "/api/v1/gadgets", &Query::default()).is_err());
        assert!(Target::parse(&Method::GET, "/version", &Query::default()).unwrap().is_none());
        assert!(Target::parse(&Method::GET, "/apis/apps/v1", &Query::default()).unwrap().is_none());
    }
}
