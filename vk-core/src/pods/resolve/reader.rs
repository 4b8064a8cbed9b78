//! How the objects that pods refer to are read and watched: one at a time, by name, so that the Node
//! authorizer lets a real node identity do it.

use std::fmt::Debug;

use futures::future::Either;
use futures::stream::BoxStream;
use futures::{Future, StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, GetParams, ListParams, WatchEvent, WatchParams};
use kube::core::{Request, Resource};
use serde::de::{DeserializeOwned, Error as _};

use super::object::{Object, ObjectKind, ObjectRef};

/// How new an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Freshness {
    /// Whatever the API server has in its cache: cheap for it, and a moment behind at times.
    Cached,
    /// The state at the time of the call, or later.
    Current,
}

/// What is known of an object without its content: its `resourceVersion`, or that there is none.
pub type Sighting = Option<String>;

/// Reads and watches single objects. Errors must not show what is in them.
pub trait ObjectReader: Debug + Send + Sync + 'static {
    /// The object; `None` if there is none.
    fn read(
        &self,
        object: &ObjectRef,
        freshness: Freshness,
    ) -> impl Future<Output = Result<Option<Object>, kube::Error>> + Send;

    /// Whether the object exists now, and the version from which to [`watch`](Self::watch) on.
    fn look(
        &self,
        object: &ObjectRef,
    ) -> impl Future<Output = Result<(Sighting, String), kube::Error>> + Send;

    /// Every change of the object after a version. Ends after a few minutes at the latest.
    fn watch(
        &self,
        object: &ObjectRef,
        after: &str,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Sighting, kube::Error>>, kube::Error>> + Send;
}

/// Reads from the API server.
#[derive(Clone)]
pub struct KubeReader {
    client: kube::Client,
}

impl Debug for KubeReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeReader").finish_non_exhaustive()
    }
}

impl KubeReader {
    /// Reads with the client's identity.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    async fn get<K>(&self, object: &ObjectRef, freshness: Freshness) -> Result<Option<Object>, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Into<Object>,
    {
        let params = match freshness {
            Freshness::Cached => GetParams::any(),
            Freshness::Current => GetParams::default(),
        };
        let request = Request::new(K::url_path(&(), Some(&object.namespace)));
        let request = request.get(&object.name, &params).map_err(kube::Error::BuildRequest)?;
        // Not `Api::get`: it logs an answer that it cannot read, with everything in it.
        let text = match self.client.request_text(request).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            // The error would hold the answer.
            Err(kube::Error::FromUtf8(_)) => return Err(unreadable(object, "not UTF-8")),
            answer => answer?,
        };
        let parsed: Result<K, _> = serde_json::from_str(&text);
        let parsed = parsed.map_err(|error| {
            let at = format!("line {} column {}", error.line(), error.column());
            unreadable(object, &at)
        })?;
        Ok(Some(parsed.into()))
    }

    async fn list<K>(&self, object: &ObjectRef) -> Result<(Sighting, String), kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        let params = ListParams::default().fields(&selector(object));
        let list = self.api::<K>(object).list_metadata(&params).await?;
        let found = list.items.into_iter().find(|item| item.metadata.name.as_deref() == Some(&object.name));
        let sighting = found.map(|item| item.metadata.resource_version.unwrap_or_default());
        Ok((sighting, list.metadata.resource_version.unwrap_or_default()))
    }

    async fn changes<K>(
        &self,
        object: &ObjectRef,
        after: &str,
    ) -> Result<BoxStream<'static, Result<Sighting, kube::Error>>, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
        K: Send + 'static,
    {
        let params = WatchParams::default().fields(&selector(object));
        let events = self.api::<K>(object).watch_metadata(&params, after).await?;
        let name = object.name.clone();
        let sightings = events.try_filter_map(move |event| {
            let here = |found: &Option<String>| found.as_deref() == Some(&*name);
            let answer = match event {
                WatchEvent::Added(item) | WatchEvent::Modified(item) if here(&item.metadata.name) => {
                    Ok(Some(Some(item.metadata.resource_version.unwrap_or_default())))
                }
                WatchEvent::Deleted(item) if here(&item.metadata.name) => Ok(Some(None)),
                WatchEvent::Error(status) => Err(kube::Error::Api(status)),
                _ => Ok(None),
            };
            futures::future::ready(answer)
        });
        Ok(sightings.boxed())
    }

    fn api<K>(&self, object: &ObjectRef) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &object.namespace)
    }
}

fn selector(object: &ObjectRef) -> String {
    format!("metadata.name={}", object.name)
}

/// An answer that is not the object: says where it goes wrong, not what stands there.
fn unreadable(object: &ObjectRef, at: &str) -> kube::Error {
    let text = format!("the API server's answer is not a {} ({at})", object.kind.name());
    kube::Error::SerdeError(serde_json::Error::custom(text))
}

impl ObjectReader for KubeReader {
    fn read(
        &self,
        object: &ObjectRef,
        freshness: Freshness,
    ) -> impl Future<Output = Result<Option<Object>, kube::Error>> + Send {
        match object.kind {
            ObjectKind::ConfigMap => Either::Left(self.get::<ConfigMap>(object, freshness)),
            ObjectKind::Secret => Either::Right(self.get::<Secret>(object, freshness)),
        }
    }

    fn look(
        &self,
        object: &ObjectRef,
    ) -> impl Future<Output = Result<(Sighting, String), kube::Error>> + Send {
        match object.kind {
            ObjectKind::ConfigMap => Either::Left(self.list::<ConfigMap>(object)),
            ObjectKind::Secret => Either::Right(self.list::<Secret>(object)),
        }
    }

    fn watch(
        &self,
        object: &ObjectRef,
        after: &str,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Sighting, kube::Error>>, kube::Error>> + Send
    {
        match object.kind {
            ObjectKind::ConfigMap => Either::Left(self.changes::<ConfigMap>(object, after)),
            ObjectKind::Secret => Either::Right(self.changes::<Secret>(object, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http::{Response, StatusCode};
    use kube::client::Body;
    use serde_json::{Value as Json, json};

    use super::*;

    /// A client whose every call is written down and answered with this.
    fn answering(code: u16, body: &str) -> (KubeReader, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, body) = (Arc::clone(&asked), body.to_owned());
        let service = tower::service_fn(move |request: http::Request<Body>| {
            log.lock().unwrap().push(request.uri().to_string());
            let body = Body::from(body.clone().into_bytes());
            let status = StatusCode::from_u16(code).unwrap();
            let answer = Response::builder().status(status).body(body).unwrap();
            futures::future::ready(Ok::<_, Infallible>(answer))
        });
        (KubeReader::new(kube::Client::new(service, "default")), asked)
    }

    fn object(kind: ObjectKind) -> ObjectRef {
        ObjectRef { kind, namespace: "ns".into(), name: "it".into() }
    }

    fn not_found() -> String {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "configmaps \"it\" not found", "reason": "NotFound", "code": 404});
        status.to_string()
    }

    #[tokio::test]
    async fn config_maps_and_secrets_are_read_by_name_from_the_cache_or_the_present() {
        let map = json!({"metadata": {"name": "it", "resourceVersion": "7"}, "data": {"k": "v"}, "binaryData": {"b": "AAE="}});
        let (reader, asked) = answering(200, &map.to_string());
        let read = reader.read(&object(ObjectKind::ConfigMap), Freshness::Cached).await.unwrap().unwrap();
        assert_eq!(read.version.as_deref(), Some("7"));
        assert_eq!(&read.data["k"][..], b"v");
        assert_eq!(&read.binary["b"][..], [0, 1]);
        let secret = json!({"metadata": {"name": "it"}, "data": {"k": "aHVudGVyMg=="}});
        let (reader, also_asked) = answering(200, &secret.to_string());
        let read = reader.read(&object(ObjectKind::Secret), Freshness::Current).await.unwrap().unwrap();
        assert_eq!(&read.data["k"][..], b"hunter2");
        let uris = [asked.lock().unwrap().clone(), also_asked.lock().unwrap().clone()].concat();
        assert_eq!(
            uris,
            ["/api/v1/namespaces/ns/configmaps/it?&resourceVersion=0", "/api/v1/namespaces/ns/secrets/it"]
        );
    }

    #[tokio::test]
    async fn not_found_is_absence_and_any_other_answer_is_an_error() {
        let (reader, _) = answering(404, &not_found());
        assert_eq!(reader.read(&object(ObjectKind::ConfigMap), Freshness::Cached).await.unwrap(), None);
        for code in [401, 403, 429, 500, 503] {
            let (reader, _) = answering(code, "no");
            assert!(reader.read(&object(ObjectKind::ConfigMap), Freshness::Cached).await.is_err(), "{code}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_makes_no_sense_is_an_error_without_its_content() {
        for body in [
            r#"{"metadata": {"name": "it"}, "data": {"k": "hunter2"}}"#,
            r#"{"metadata": {"name": "it"}, "data": "hunter2"}"#,
            r#"{"metadata": {"name": "it"}, "data": {"k": "hunter2"#,
        ] {
            let (reader, _) = answering(200, body);
            let error = reader.read(&object(ObjectKind::Secret), Freshness::Cached).await.unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains("not a Secret (line 1"), "{shown}");
        }
    }

    fn metadata(name: &str, version: &str) -> Json {
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"name": name, "resourceVersion": version}})
    }

    #[tokio::test]
    async fn a_look_tells_the_objects_version_and_the_lists() {
        for (items, expected) in [(vec![], None), (vec![metadata("it", "5")], Some("5".to_owned()))] {
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": "9"}, "items": items});
            let (reader, asked) = answering(200, &list.to_string());
            let seen = reader.look(&object(ObjectKind::Secret)).await.unwrap();
            assert_eq!(seen, (expected, "9".to_owned()));
            let uris = asked.lock().unwrap().clone();
            assert_eq!(uris, ["/api/v1/namespaces/ns/secrets?&fieldSelector=metadata.name%3Dit"]);
        }
    }

    #[tokio::test]
    async fn a_watch_tells_of_that_object_only_and_passes_errors_on() {
        let events = [
            json!({"type": "ADDED", "object": metadata("other", "6")}),
            json!({"type": "ADDED", "object": metadata("it", "7")}),
            json!({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": "8"}}}),
            json!({"type": "MODIFIED", "object": metadata("it", "9")}),
            json!({"type": "DELETED", "object": metadata("it", "10")}),
            json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410}}),
        ];
        let body = events.map(|event| event.to_string()).join("\n");
        let (reader, asked) = answering(200, &body);
        let mut watch = reader.watch(&object(ObjectKind::ConfigMap), "5").await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().as_deref(), Some("7"));
        assert_eq!(watch.next().await.unwrap().unwrap().as_deref(), Some("9"));
        assert_eq!(watch.next().await.unwrap().unwrap(), None);
        assert!(matches!(watch.next().await, Some(Err(kube::Error::Api(status))) if status.code == 410));
        assert!(watch.next().await.is_none());
        let uris = asked.lock().unwrap().concat();
        for part in
            ["/api/v1/namespaces/ns/configmaps?", "watch=true", "metadata.name%3Dit", "resourceVersion=5"]
        {
            assert!(uris.contains(part), "{uris}");
        }
    }
}
