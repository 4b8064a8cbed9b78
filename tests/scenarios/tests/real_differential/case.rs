//! Requests as data.
//!
//! Texts hold placeholders: `{ns}` is the case's namespace, and `{2:/metadata/uid}` what the second answer (they are
//! counted from 1) had at that JSON pointer.

use http::Method;
use serde_json::Value;

/// A conversation.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// What it is about; unique within its subject.
    pub(crate) name: &'static str,
    /// What is asked, in order.
    pub(crate) steps: Vec<Step>,
}

/// A conversation under a name.
pub(crate) fn case(name: &'static str, steps: impl Into<Vec<Step>>) -> Case {
    Case { name, steps: steps.into() }
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
    /// A watch: how many events are read before it is given up.
    pub(crate) events: Option<usize>,
    /// Asked again until the answer has this value at this pointer: what controllers do, they do in their own time.
    pub(crate) until: Option<(&'static str, Value)>,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// Nothing.
    Empty,
    /// Text as it stands, which need not be JSON.
    Text(String),
    /// JSON.
    Json(Value),
    /// An earlier answer's body with values set at pointers; null removes.
    Edited(usize, Vec<(&'static str, Value)>),
}

/// The pods of the case's namespace.
pub(crate) const PODS: &str = "/api/v1/namespaces/{ns}/pods";
/// Its config maps.
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";
/// Its secrets.
pub(crate) const SECRETS: &str = "/api/v1/namespaces/{ns}/secrets";
/// Its service accounts.
pub(crate) const ACCOUNTS: &str = "/api/v1/namespaces/{ns}/serviceaccounts";
/// Its events.
pub(crate) const EVENTS: &str = "/api/v1/namespaces/{ns}/events";
/// Its leases.
pub(crate) const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases";
/// Its services.
pub(crate) const SERVICES: &str = "/api/v1/namespaces/{ns}/services";
/// All nodes.
pub(crate) const NODES: &str = "/api/v1/nodes";
/// All namespaces.
pub(crate) const NAMESPACES: &str = "/api/v1/namespaces";

fn step(method: Method, path: impl Into<String>, body: Body) -> Step {
    Step { method, path: path.into(), headers: Vec::new(), body, events: None, until: None }
}

/// Reads.
pub(crate) fn get(path: impl Into<String>) -> Step {
    step(Method::GET, path, Body::Empty)
}

/// Creates.
pub(crate) fn post(path: impl Into<String>, body: Value) -> Step {
    step(Method::POST, path, Body::Json(body)).content("application/json")
}

/// Replaces.
pub(crate) fn put(path: impl Into<String>, body: Value) -> Step {
    step(Method::PUT, path, Body::Json(body)).content("application/json")
}

/// Replaces by an earlier answer with values set at pointers.
pub(crate) fn put_back(
    path: impl Into<String>,
    answer: usize,
    edits: impl Into<Vec<(&'static str, Value)>>,
) -> Step {
    step(Method::PUT, path, Body::Edited(answer, edits.into())).content("application/json")
}

/// Deletes, with options in the body unless they are null.
pub(crate) fn delete(path: impl Into<String>, options: Value) -> Step {
    let body = if options.is_null() { Body::Empty } else { Body::Json(options) };
    step(Method::DELETE, path, body).content("application/json")
}

/// RFC 6902.
pub(crate) fn json_patch(path: impl Into<String>, operations: Value) -> Step {
    patch(path, "application/json-patch+json", operations)
}

/// RFC 7396.
pub(crate) fn merge(path: impl Into<String>, changes: Value) -> Step {
    patch(path, "application/merge-patch+json", changes)
}

/// Kubernetes' own merge.
pub(crate) fn strategic(path: impl Into<String>, changes: Value) -> Step {
    patch(path, "application/strategic-merge-patch+json", changes)
}

/// Server-side apply; the path's query names the manager.
pub(crate) fn apply(path: impl Into<String>, configuration: Value) -> Step {
    patch(path, "application/apply-patch+yaml", configuration)
}

/// A patch of some type.
pub(crate) fn patch(path: impl Into<String>, content: &str, body: Value) -> Step {
    step(Method::PATCH, path, Body::Json(body)).content(content)
}

/// A request of another method, whose body is text.
pub(crate) fn raw(method: Method, path: impl Into<String>, body: &str) -> Step {
    step(method, path, Body::Text(body.to_owned())).content("application/json")
}

/// Follows changes; reads so many events.
pub(crate) fn watch(path: impl Into<String>, events: usize) -> Step {
    Step { events: Some(events), ..get(path) }
}

impl Step {
    /// Sets the content type.
    pub(crate) fn content(self, content: &str) -> Self {
        self.header("content-type", content)
    }

    /// Sets a header.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Asks until the answer has this value at this pointer.
    pub(crate) fn until(mut self, pointer: &'static str, value: impl Into<Value>) -> Self {
        self.until = Some((pointer, value.into()));
        self
    }
}

/// The metadata of an object with a name.
pub(crate) fn named(name: &str) -> Value {
    serde_json::json!({"name": name})
}

/// A pod that no scheduler takes, without a token.
pub(crate) fn pod(name: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "schedulerName": "nobody", "automountServiceAccountToken": false,
            "containers": [{"name": "a", "image": "registry.example/app:1"}],
        },
    })
}

/// The node of bound pods. It is there, or a controller would delete them, but nobody is at home.
pub(crate) const PARKED: &str = "parked";

/// Such a pod bound to a node.
pub(crate) fn bound(name: &str) -> Value {
    with(pod(name), "/spec/nodeName", PARKED)
}

/// A config map with one value.
pub(crate) fn config_map(name: &str, value: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "x"}},
        "data": {"a": value},
    })
}

/// An object with one value set.
pub(crate) fn with(mut object: Value, pointer: &str, value: impl Into<Value>) -> Value {
    set(&mut object, pointer, value.into());
    object
}

/// Sets a value at a pointer, making the objects on the way; null removes.
pub(crate) fn set(object: &mut Value, pointer: &str, value: Value) {
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        *object = value;
        return;
    };
    let last = last.replace("~1", "/").replace("~0", "~");
    let mut place = object;
    for name in parent.split('/').skip(1) {
        let name = name.replace("~1", "/").replace("~0", "~");
        place = match place {
            Value::Array(items) => {
                let at: usize = name.parse().expect("a position in a list");
                &mut items[at]
            }
            place => &mut place[name],
        };
    }
    match (place, value) {
        (Value::Object(fields), Value::Null) => drop(fields.remove(&last)),
        (Value::Array(items), value) => {
            let at: usize = last.parse().expect("a position in a list");
            items[at] = value;
        }
        (place, value) => place[last] = value,
    }
}
