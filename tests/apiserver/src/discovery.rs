//! What the server has: discovery, version, health, and requests counted for Prometheus.
//!
//! Source: apiserver `pkg/endpoints/discovery`; the aggregated form of KEP-3352.

use std::collections::BTreeMap;

use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::ApiServer;
use crate::error::ApiError;
use crate::handler::text;
use crate::openapi;
use crate::resources::{self, Resource};
use crate::rest::json_response;

/// Answers a path that is about no resource.
pub(crate) fn answer(server: &ApiServer, path: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let path = path.trim_end_matches('/');
    let words: Vec<&str> = path.split('/').skip(1).collect();
    let aggregated = headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|accept| accept.contains("as=APIGroupDiscoveryList"));
    let body = match words.as_slice() {
        ["healthz" | "readyz" | "livez", ..] => return Ok(text("ok")),
        ["metrics"] => return Ok(text(server.requests().metrics())),
        ["version"] => version(&server.config().version),
        ["api" | "apis"] if aggregated => return Ok(aggregated_groups(words[0] == "api")),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ["apis"] => {
            let groups: Vec<Value> =
                groups().iter().map(|(group, version)| group_of(group, version)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", group] => {
            let known = groups();
            let Some(version) = known.get(group) else { return Ok(no_such_page()) };
            let mut body = group_of(group, version);
            body["kind"] = "APIGroup".into();
            body["apiVersion"] = "v1".into();
            body
        }
        ["api", version] => resource_list("", version)?,
        ["apis", group, version] if groups().contains_key(group) => resource_list(group, version)?,
        ["openapi", "v3"] => openapi::index(),
        ["openapi", "v3", rest @ ..] => openapi::document(&rest.join("/"))?,
        [""] => {
            json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v3", "/readyz", "/version"]})
        }
        _ => return Ok(no_such_page()),
    };
    Ok(json_response(StatusCode::OK, body.to_string()))
}

/// What nobody serves, the real server's mux answers in plain text.
fn no_such_page() -> Response {
    let mut response = text("404 page not found\n");
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn version(git: &str) -> Value {
    let mut numbers = git.trim_start_matches('v').split('.');
    json!({
        "major": numbers.next().unwrap_or("1"), "minor": numbers.next().unwrap_or("0"),
        "gitVersion": git, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// Groups besides core, with their version.
fn groups() -> BTreeMap<&'static str, &'static str> {
    resources::all().iter().filter(|r| !r.group.is_empty()).map(|r| (r.group, r.version)).collect()
}

fn group_of(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

fn in_group<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Resource> + 'a {
    resources::all().iter().filter(move |r| r.group == group && r.version == version)
}

fn verbs(resource: &Resource) -> Value {
    if resource.stored {
        json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"])
    } else {
        json!(["create"])
    }
}

/// (kind's group, kind's version, kind, verbs) of a subresource.
fn subresource(resource: &'static Resource, name: &str) -> (&'static str, &'static str, &'static str, Value) {
    let (group, version) = (resource.group, resource.version);
    match name {
        "scale" => ("autoscaling", "v1", "Scale", json!(["get", "patch", "update"])),
        "eviction" => ("policy", "v1", "Eviction", json!(["create"])),
        "token" => ("authentication.k8s.io", "v1", "TokenRequest", json!(["create"])),
        "binding" => (group, version, "Binding", json!(["create"])),
        "log" => (group, version, resource.kind, json!(["get"])),
        "exec" => (group, version, "PodExecOptions", json!(["create", "get"])),
        "attach" => (group, version, "PodAttachOptions", json!(["create", "get"])),
        "portforward" => (group, version, "PodPortForwardOptions", json!(["create", "get"])),
        "proxy" => {
            let kind = if resource.is(resources::nodes()) { "NodeProxyOptions" } else { "PodProxyOptions" };
            (group, version, kind, json!(["create", "delete", "get", "patch", "update"]))
        }
        "finalize" => (group, version, resource.kind, json!(["update"])),
        _ => (group, version, resource.kind, json!(["get", "patch", "update"])),
    }
}

fn resource_list(group: &str, version: &str) -> Result<Value, ApiError> {
    let mut list = Vec::new();
    for resource in in_group(group, version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": verbs(resource),
        });
        if !resource.short.is_empty() {
            entry["shortNames"] = json!(resource.short);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        for name in resource.subresources {
            let (kind_group, kind_version, kind, verbs) = subresource(resource, name);
            let mut entry = json!({
                "name": format!("{}/{name}", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": kind, "verbs": verbs,
            });
            if kind_group != group {
                entry["group"] = kind_group.into();
                entry["version"] = kind_version.into();
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

/// All groups with their resources in one answer, as kubectl asks for them.
fn aggregated_groups(core: bool) -> Response {
    let known: Vec<(&str, &str)> = if core { vec![("", "v1")] } else { groups().into_iter().collect() };
    let items: Vec<Value> = known
        .into_iter()
        .map(|(group, version)| {
            let list: Vec<Value> = in_group(group, version).map(aggregated).collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.is_empty() {
                metadata["name"] = group.into();
            }
            json!({"metadata": metadata,
                   "versions": [{"version": version, "resources": list, "freshness": "Current"}]})
        })
        .collect();
    let body = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
                      "metadata": {}, "items": items});
    let mut response = json_response(StatusCode::OK, body.to_string());
    let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

fn aggregated(resource: &'static Resource) -> Value {
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": resource.plural, "singularResource": resource.singular, "verbs": verbs(resource),
        "responseKind": kind(resource.group, resource.version, resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
    });
    if !resource.short.is_empty() {
        entry["shortNames"] = json!(resource.short);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|name| {
            let (group, version, kind_name, verbs) = subresource(resource, name);
            json!({"subresource": name, "responseKind": kind(group, version, kind_name), "verbs": verbs})
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}
