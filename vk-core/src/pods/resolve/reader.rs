//! How the objects that pods refer to are read and watched: one at a time, by name, so that the Node
//! authorizer lets a real node identity do it.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Future, StreamExt, TryStreamExt};
use k8s_openapi::List;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret, Service, ServiceAccount,
};
use kube::api::{
    Api, ApiResource, DynamicObject, GetParams, ListParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::{Request, Resource};
use serde::de::{DeserializeOwned, Error as _};
use tokio::time::{Instant, sleep};

use super::object::{BUNDLE, Detail, Object, ObjectKind, ObjectRef};
use super::services::ServiceFacts;
use super::tokens::{Token, TokenAsk};
use crate::provider::PodRef;

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

    /// A token of a ServiceAccount in the pod's namespace, bound to the pod.
    fn token(&self, pod: &PodRef, ask: &TokenAsk) -> impl Future<Output = Result<Token, kube::Error>> + Send;

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
    is_node: bool,
}

/// How long the Node authorizer may take to hear of a pod. Its own watch is a moment behind ours at most times.
const HEARSAY: Duration = Duration::from_secs(5);
/// Pauses between questions about it: from this, doubled.
const ASK_AGAIN: Duration = Duration::from_millis(20);

impl Debug for KubeReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeReader").finish_non_exhaustive()
    }
}

impl KubeReader {
    /// Reads with the client's identity.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        Self { client, is_node: false }
    }

    /// Whether the identity is a node's own, `system:node:<name>`. The Node authorizer lets it read what pods of the
    /// node refer to, as soon as it has heard of such a pod; before that it refuses. So it is asked first. Default no.
    #[must_use]
    pub fn as_node(mut self, is_node: bool) -> Self {
        self.is_node = is_node;
        self
    }

    /// Waits until the Node authorizer knows of a pod that makes the object this node's business. If it does not get
    /// to know in time, or cannot be asked, the call itself will tell.
    async fn until_related(&self, asked: ResourceAttributes) {
        if !self.is_node {
            return;
        }
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(asked),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let deadline = Instant::now() + HEARSAY;
        let mut pause = ASK_AGAIN;
        while let Ok(answer) = api.create(&PostParams::default(), &review).await {
            if answer.status.is_some_and(|status| status.allowed) || Instant::now() >= deadline {
                return;
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn get<K>(&self, object: &ObjectRef, freshness: Freshness) -> Result<Option<Object>, kube::Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Into<Object>,
    {
        let params = match freshness {
            Freshness::Cached => GetParams::any(),
            Freshness::Current => GetParams::default(),
        };
        let namespace = Some(&*object.namespace).filter(|namespace| !namespace.is_empty());
        let request = Request::new(K::url_path(&(), namespace));
        let request = request.get(&object.name, &params).map_err(kube::Error::BuildRequest)?;
        let found: Result<K, _> = self.ask(request, object.kind.name()).await;
        match found {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            found => Ok(Some(found?.into())),
        }
    }

    /// Not [`Api`]'s calls: they log an answer that they cannot read, with everything in it.
    async fn ask<K: DeserializeOwned>(
        &self,
        request: http::Request<Vec<u8>>,
        what: &str,
    ) -> Result<K, kube::Error> {
        let text = match self.client.request_text(request).await {
            // The error would hold the answer.
            Err(kube::Error::FromUtf8(_)) => return Err(unreadable(what, "not UTF-8")),
            answer => answer?,
        };
        serde_json::from_str(&text).map_err(|error| {
            let at = format!("line {} column {}", error.line(), error.column());
            unreadable(what, &at)
        })
    }

    async fn services(&self, object: &ObjectRef, freshness: Freshness) -> Result<Object, kube::Error> {
        let params = match freshness {
            Freshness::Cached => ListParams::default().match_any(),
            Freshness::Current => ListParams::default(),
        };
        let request = Request::new(Service::url_path(&(), Some(&object.namespace)));
        let request = request.list(&params).map_err(kube::Error::BuildRequest)?;
        let list: List<Service> = self.ask(request, "list of Services").await?;
        let facts = list.items.iter().filter_map(ServiceFacts::of).collect();
        let version = list.metadata.resource_version;
        Ok(Object { version, detail: Detail::Services(facts), ..Object::default() })
    }

    /// All bundles of a signer as one, each certificate once, in the order of their text, which is as good as
    /// any: a kubelet's is random on purpose.
    async fn bundles(&self, object: &ObjectRef) -> Result<Option<Object>, kube::Error> {
        let (signer, labels) = object.name.split_once(' ').unwrap_or((&object.name, ""));
        let params = ListParams::default().fields(&format!("spec.signerName={signer}")).labels(labels);
        let request = Request::new(ClusterTrustBundle::url_path(&(), None));
        let request = request.list(&params).map_err(kube::Error::BuildRequest)?;
        let list: List<ClusterTrustBundle> = self.ask(request, "list of ClusterTrustBundles").await?;
        let found = list.items.iter().filter(|bundle| bundle.spec.signer_name.as_deref() == Some(signer));
        let texts = found.flat_map(|bundle| bundle.spec.trust_bundle.split_inclusive(END_OF_CERTIFICATE));
        let mut certificates: Vec<_> = texts.map(str::trim).collect();
        certificates.sort_unstable();
        certificates.dedup();
        certificates.retain(|text| !text.is_empty());
        if certificates.is_empty() {
            return Ok(None);
        }
        let pem = Bytes::from(certificates.join("\n") + "\n");
        let version = list.metadata.resource_version;
        Ok(Some(Object { version, binary: [(BUNDLE.to_owned(), pem)].into(), ..Object::default() }))
    }

    fn api(&self, object: &ObjectRef) -> Api<DynamicObject> {
        let resource = match object.kind {
            ObjectKind::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            ObjectKind::Secret => ApiResource::erase::<Secret>(&()),
            ObjectKind::Service | ObjectKind::Services => ApiResource::erase::<Service>(&()),
            ObjectKind::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            ObjectKind::Claim => ApiResource::erase::<PersistentVolumeClaim>(&()),
            ObjectKind::Volume => ApiResource::erase::<PersistentVolume>(&()),
            ObjectKind::TrustBundle | ObjectKind::TrustBundles => {
                ApiResource::erase::<ClusterTrustBundle>(&())
            }
        };
        match &*object.namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }
}

/// The resource, if the Node authorizer allows it by way of pods alone.
fn related(kind: ObjectKind) -> Option<&'static str> {
    match kind {
        ObjectKind::ConfigMap => Some("configmaps"),
        ObjectKind::Secret => Some("secrets"),
        ObjectKind::Claim => Some("persistentvolumeclaims"),
        ObjectKind::Volume => Some("persistentvolumes"),
        ObjectKind::Service
        | ObjectKind::Services
        | ObjectKind::ServiceAccount
        | ObjectKind::TrustBundle
        | ObjectKind::TrustBundles => None,
    }
}

const END_OF_CERTIFICATE: &str = "-----END CERTIFICATE-----";

fn selector(object: &ObjectRef) -> String {
    format!("metadata.name={}", object.name)
}

/// An answer that is not what was asked for: says where it goes wrong, not what stands there.
fn unreadable(what: &str, at: &str) -> kube::Error {
    let text = format!("the API server's answer is not a {what} ({at})");
    kube::Error::SerdeError(serde_json::Error::custom(text))
}

impl ObjectReader for KubeReader {
    async fn read(&self, object: &ObjectRef, freshness: Freshness) -> Result<Option<Object>, kube::Error> {
        // What is read once more is known to be ours.
        if let (Freshness::Cached, Some(resource)) = (freshness, related(object.kind)) {
            self.until_related(ResourceAttributes {
                verb: Some("get".to_owned()),
                resource: Some(resource.to_owned()),
                namespace: Some(object.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
                name: Some(object.name.to_string()),
                ..ResourceAttributes::default()
            })
            .await;
        }
        match object.kind {
            ObjectKind::ConfigMap => self.get::<ConfigMap>(object, freshness).await,
            ObjectKind::Secret => self.get::<Secret>(object, freshness).await,
            ObjectKind::Service => self.get::<Service>(object, freshness).await,
            ObjectKind::Services => self.services(object, freshness).await.map(Some),
            ObjectKind::Claim => self.get::<PersistentVolumeClaim>(object, freshness).await,
            ObjectKind::Volume => self.get::<PersistentVolume>(object, freshness).await,
            ObjectKind::TrustBundle => self.get::<ClusterTrustBundle>(object, freshness).await,
            ObjectKind::TrustBundles => self.bundles(object).await,
            // Only asked for tokens.
            ObjectKind::ServiceAccount => Ok(None),
        }
    }

    async fn look(&self, object: &ObjectRef) -> Result<(Sighting, String), kube::Error> {
        let params = ListParams::default().fields(&selector(object));
        let list = self.api(object).list_metadata(&params).await?;
        let found = list.items.into_iter().find(|item| item.metadata.name.as_deref() == Some(&object.name));
        let sighting = found.map(|item| item.metadata.resource_version.unwrap_or_default());
        Ok((sighting, list.metadata.resource_version.unwrap_or_default()))
    }

    async fn token(&self, pod: &PodRef, ask: &TokenAsk) -> Result<Token, kube::Error> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(Some(ask.audience.clone()).filter(|a| !a.is_empty()).into_iter().collect()),
                expiration_seconds: Some(ask.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.name.to_string()),
                    uid: Some(pod.uid.to_string()),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let body = serde_json::to_vec(&request).map_err(kube::Error::SerdeError)?;
        self.until_related(ResourceAttributes {
            verb: Some("create".to_owned()),
            resource: Some("serviceaccounts".to_owned()),
            subresource: Some("token".to_owned()),
            namespace: Some(pod.namespace.to_string()),
            name: Some(ask.account.clone()),
            ..ResourceAttributes::default()
        })
        .await;
        let path = ServiceAccount::url_path(&(), Some(&pod.namespace));
        let call = Request::new(path)
            .create_subresource("token", &ask.account, &PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        let answer: TokenRequest = self.ask(call, "TokenRequest").await?;
        let text = answer.status.and_then(|status| status.token).filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| unreadable("TokenRequest", "it has no token"))?;
        let given = answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(ask.seconds);
        Ok(Token { text: text.into(), life: Duration::from_secs(given.max(1).unsigned_abs()) })
    }

    async fn watch(
        &self,
        object: &ObjectRef,
        after: &str,
    ) -> Result<BoxStream<'static, Result<Sighting, kube::Error>>, kube::Error> {
        let params = WatchParams::default().fields(&selector(object));
        let events = self.api(object).watch_metadata(&params, after).await?;
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

    #[tokio::test(start_paused = true)]
    async fn a_node_reads_an_object_only_once_it_is_known_to_be_its_business() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let mut log = log.lock().unwrap();
            log.push(request.uri().path().to_owned());
            let answer = if request.method() == http::Method::POST {
                json!({"spec": {}, "status": {"allowed": log.len() > 3}})
            } else {
                json!({"metadata": {"name": "it", "resourceVersion": "7"}})
            };
            let answer = Response::new(Body::from(answer.to_string().into_bytes()));
            futures::future::ready(Ok::<_, Infallible>(answer))
        });
        let reader = KubeReader::new(kube::Client::new(service, "default")).as_node(true);
        let secret = object(ObjectKind::Secret);
        assert!(reader.read(&secret, Freshness::Cached).await.unwrap().is_some());
        assert!(reader.read(&secret, Freshness::Current).await.unwrap().is_some());
        let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let read = "/api/v1/namespaces/ns/secrets/it";
        assert_eq!(*asked.lock().unwrap(), [review, review, review, review, read, read]);
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
