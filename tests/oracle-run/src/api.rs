//! Plain calls of the API server: what it answers is what is seen, refusals too.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// A strategic merge patch.
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// A merge patch.
pub(crate) const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// The kinds that cases use: version, plural, whether they live in namespaces.
const KINDS: [(&str, &str, &str, bool); 12] = [
    ("ConfigMap", "v1", "configmaps", true),
    ("Secret", "v1", "secrets", true),
    ("Service", "v1", "services", true),
    ("PersistentVolumeClaim", "v1", "persistentvolumeclaims", true),
    ("PersistentVolume", "v1", "persistentvolumes", false),
    ("ServiceAccount", "v1", "serviceaccounts", true),
    ("Pod", "v1", "pods", true),
    ("Node", "v1", "nodes", false),
    ("Job", "batch/v1", "jobs", true),
    ("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets", true),
    ("PriorityClass", "scheduling.k8s.io/v1", "priorityclasses", false),
    ("RuntimeClass", "node.k8s.io/v1", "runtimeclasses", false),
];

/// The API server, for one namespace.
#[derive(Clone)]
pub(crate) struct Api {
    pub client: Client,
    pub namespace: String,
}

impl Api {
    /// The path of a kind, or of one object of it.
    pub(crate) fn path(&self, kind: &str, name: Option<&str>) -> Result<String> {
        let Some((_, version, plural, namespaced)) = KINDS.iter().find(|known| known.0 == kind) else {
            bail!("objects of kind {kind} are not known here");
        };
        let group = if version.contains('/') { "apis" } else { "api" };
        let mut path = format!("/{group}/{version}");
        if *namespaced {
            path.push_str("/namespaces/");
            path.push_str(&self.namespace);
        }
        path.push('/');
        path.push_str(plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        Ok(path)
    }

    /// A call; the code and the body.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Bytes)> {
        let what = format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", content)
            .body(Body::from(body))
            .with_context(|| what.clone())?;
        let answer = self.client.send(request).await.with_context(|| what.clone())?;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.with_context(|| what)?.to_bytes();
        Ok((code, body))
    }

    async fn json(&self, method: Method, path: &str, content: &str, body: &Value) -> Result<(u16, Value)> {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let (code, answer) = self.call(method, path, content, bytes).await?;
        Ok((code, serde_json::from_slice(&answer).unwrap_or(Value::Null)))
    }

    /// Reads an object; `None` if there is none.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Value>> {
        let (code, body) = self.json(Method::GET, path, JSON, &Value::Null).await?;
        Ok((code == 200).then_some(body))
    }

    /// Creates an object of a case, whose kind is a ConfigMap if it does not say.
    pub(crate) async fn create(&self, object: &Value) -> Result<(u16, Value)> {
        let kind = object["kind"].as_str().unwrap_or("ConfigMap").to_owned();
        let version = KINDS.iter().find(|known| known.0 == kind).map_or("v1", |known| known.1);
        let mut object = object.clone();
        object["kind"] = json!(kind);
        object["apiVersion"] = json!(version);
        self.json(Method::POST, &self.path(&kind, None)?, JSON, &object).await
    }

    /// Creates an object that has to be.
    pub(crate) async fn must_create(&self, object: &Value) -> Result<Value> {
        let (code, answer) = self.create(object).await?;
        if code >= 300 && code != 409 {
            bail!("creating {}: {code} {}", object["kind"], answer["message"]);
        }
        Ok(answer)
    }

    /// Posts to a subresource.
    pub(crate) async fn post(&self, path: &str, object: &Value) -> Result<u16> {
        Ok(self.json(Method::POST, path, JSON, object).await?.0)
    }

    /// Patches an object.
    pub(crate) async fn patch(&self, path: &str, kind: &str, patch: &Value) -> Result<u16> {
        Ok(self.json(Method::PATCH, path, kind, patch).await?.0)
    }

    /// Deletes an object.
    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Result<u16> {
        let mut options = options.clone();
        options["kind"] = json!("DeleteOptions");
        options["apiVersion"] = json!("v1");
        Ok(self.json(Method::DELETE, path, JSON, &options).await?.0)
    }

    /// A container's log, or that of its run before, as far as it can be read.
    pub(crate) async fn log(&self, pod: &str, container: &str, previous: bool) -> Result<Option<String>> {
        let path = self.path("Pod", Some(pod))?;
        let path = format!("{path}/log?container={container}&previous={previous}");
        let (code, body) = self.call(Method::GET, &path, JSON, Vec::new()).await?;
        Ok((code == 200).then(|| String::from_utf8_lossy(&body).into_owned()))
    }

    /// The namespace's events, oldest first.
    pub(crate) async fn events(&self) -> Result<Vec<Value>> {
        let path = format!("/api/v1/namespaces/{}/events", self.namespace);
        let list = self.get(&path).await?.context("the namespace has no events")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}
