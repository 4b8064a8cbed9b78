//! Requests that a kubelet or a pod answers: logs, streams, and the proxies of nodes and pods.
//!
//! Streams are passed through as they come, SPDY and WebSocket alike; the real server translates WebSocket
//! to SPDY for nodes that don't declare `ExtendWebSocketsToKubelet`, which is not played here.
//!
//! Source: pkg/registry/core/pod/strategy.go and rest/subresources.go; pkg/registry/core/node/strategy.go;
//! apiserver `pkg/registry/generic/rest`.

mod dial;
mod forward;
mod logs;

use std::fmt::Write as _;

use axum::body::Body;
use axum::response::Response;
use http::Uri;
use http::request::Parts;
use serde_json::Value;

use self::dial::Endpoint;
pub(crate) use self::dial::Kubelets;
use self::forward::forward;
pub(crate) use self::forward::{is_upgrade, loop_back};
use crate::ApiServer;
use crate::error::ApiError;
use crate::pods::containers;
use crate::request::{Query, Target};
use crate::resources;
use crate::store::{Key, Object};

/// Whether a request is answered by a kubelet or a pod.
pub(crate) fn is_proxied(target: &Target) -> bool {
    matches!(target.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Answers such a request.
pub(crate) async fn answer(
    server: &ApiServer,
    mut parts: Parts,
    body: Body,
    target: &Target,
    query: &Query,
) -> Result<Response, ApiError> {
    let (endpoint, path) = match (target.resource.plural, target.subresource.as_str()) {
        ("pods", "log") => return logs::answer(server, &parts, target, query).await,
        ("pods", "exec" | "attach" | "portforward") => stream_location(server, target, query)?,
        ("pods", "proxy") => pod_location(server, target)?,
        ("nodes", "proxy") => node_location(server, target)?,
        _ => return Err(ApiError::no_such_path()),
    };
    let proxied = target.subresource == "proxy";
    let path = match parts.uri.query().filter(|_| proxied) {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    parts.uri = uri(&path)?;
    forward(server, &endpoint, parts, body).await.map_err(|error| {
        let text = format!("error trying to reach service: {error}");
        if proxied { ApiError::unavailable(text) } else { ApiError::internal(&text) }
    })
}

fn uri(path: &str) -> Result<Uri, ApiError> {
    path.parse().map_err(|_| ApiError::bad_request(format!("invalid path {path:?}")))
}

fn pod_of(server: &ApiServer, target: &Target, name: &str) -> Result<std::sync::Arc<Object>, ApiError> {
    let pods = resources::pods();
    let pod = server.store().get(pods, &Key::new(&target.namespace, name));
    pod.ok_or_else(|| ApiError::not_found(pods, name))
}

/// Where exec, attach and port-forward go, with the query rewritten to the kubelet's words.
fn stream_location(
    server: &ApiServer,
    target: &Target,
    query: &Query,
) -> Result<(Endpoint, String), ApiError> {
    let pod = pod_of(server, target, &target.name)?;
    let mut params = Params::default();
    let mut path = match target.subresource.as_str() {
        "portforward" => {
            let ports: Vec<&str> = query.all("ports").flat_map(|p| p.split(',')).collect();
            if !ports.is_empty() {
                params.add("port", &ports.join(","));
            }
            format!("/portForward/{}/{}", target.namespace, target.name)
        }
        verb => {
            for (ours, theirs) in
                [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
            {
                if query.flag(ours) {
                    params.add(theirs, "1");
                }
            }
            query.all("command").for_each(|word| params.add("command", word));
            let container = container(&pod, query.get("container"))?;
            format!("/{verb}/{}/{}/{container}", target.namespace, target.name)
        }
    };
    let node = node_of(&pod)
        .ok_or_else(|| ApiError::bad_request(format!("pod {} does not have a host assigned", target.name)))?;
    if !params.0.is_empty() {
        path = format!("{path}?{}", params.0);
    }
    Ok((Endpoint::kubelet(server, node)?, path))
}

fn node_of(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty())
}

/// The container that was asked for, or the only one.
fn container<'a>(pod: &'a Value, asked: &'a str) -> Result<&'a str, ApiError> {
    let name = pod["metadata"]["name"].as_str().unwrap_or("");
    let names: Vec<&str> = containers(pod).filter_map(|(_, c)| c["name"].as_str()).collect();
    if !asked.is_empty() {
        return if names.contains(&asked) {
            Ok(asked)
        } else {
            Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")))
        };
    }
    match pod["spec"]["containers"].as_array().map(Vec::as_slice) {
        Some([only]) => Ok(only["name"].as_str().unwrap_or("")),
        _ => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            names.join(" ")
        ))),
    }
}

/// `[scheme:]name[:port]`.
fn split_name(id: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (matches!(scheme, "" | "http" | "https") && !name.is_empty()).then_some((scheme, name, port))
}

fn node_location(server: &ApiServer, target: &Target) -> Result<(Endpoint, String), ApiError> {
    let invalid = || ApiError::bad_request(format!("invalid node request \"{}\"", target.name));
    let (scheme, name, port) = split_name(&target.name).ok_or_else(invalid)?;
    let kubelet = Endpoint::kubelet(server, name)?;
    let path = format!("/{}", target.rest);
    if port.is_empty() || port.parse() == Ok(kubelet.port()) {
        return Ok((kubelet, path));
    }
    let port = port.parse().map_err(|_| invalid())?;
    Ok((kubelet.other_port(port, scheme == "https"), path))
}

fn pod_location(server: &ApiServer, target: &Target) -> Result<(Endpoint, String), ApiError> {
    let invalid = || ApiError::bad_request(format!("invalid pod request \"{}\"", target.name));
    let (scheme, name, port) = split_name(&target.name).ok_or_else(invalid)?;
    let pod = pod_of(server, target, name)?;
    let default_port = if scheme == "https" { 443 } else { 80 };
    let port = if port.is_empty() {
        let mut declared = containers(&pod).filter_map(|(_, c)| c["ports"][0]["containerPort"].as_u64());
        declared.next().and_then(|p| u16::try_from(p).ok()).unwrap_or(default_port)
    } else {
        port.parse().map_err(|_| invalid())?
    };
    let ip: std::net::IpAddr = pod["status"]["podIP"]
        .as_str()
        .and_then(|ip| ip.parse().ok())
        .ok_or_else(|| ApiError::bad_request("address not allowed"))?;
    Ok((Endpoint::address(ip.to_string(), port, scheme == "https"), format!("/{}", target.rest)))
}

/// A query string under construction.
#[derive(Default)]
struct Params(String);

impl Params {
    fn add(&mut self, key: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(key);
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b',' => {
                    self.0.push(char::from(byte));
                }
                other => {
                    // Writing to a string can't fail.
                    let _ = write!(self.0, "%{other:02X}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_chosen_as_the_real_server_chooses() {
        let one = json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}});
        assert_eq!(container(&one, "").unwrap(), "a");
        assert_eq!(container(&one, "i").unwrap(), "i");
        assert_eq!(container(&one, "x").unwrap_err().message, "container x is not valid for pod p");
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            container(&two, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
    }

    #[test]
    fn names_carry_scheme_and_port() {
        assert_eq!(split_name("n"), Some(("", "n", "")));
        assert_eq!(split_name("n:10250"), Some(("", "n", "10250")));
        assert_eq!(split_name("https:n:1"), Some(("https", "n", "1")));
        assert_eq!(split_name("ftp:n:1"), None);
        assert_eq!(split_name("a:b:c:d"), None);
    }

    #[test]
    fn commands_survive_the_query() {
        let mut params = Params::default();
        params.add("command", "sh -c 'a&b'");
        params.add("tty", "1");
        let query = Query::parse(&params.0);
        assert_eq!((query.get("command"), query.get("tty")), ("sh -c 'a&b'", "1"));
    }
}
