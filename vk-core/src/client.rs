//! A client whose questions do not stay open for ever, and are counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request, Uri};
use kube::Client;
use kube::client::Body;
use tokio::time::Instant;
use tower::BoxError;

use crate::health::Verdict;
use crate::metrics::ClusterMetrics;

/// How long the API server may take to begin its answer: a little longer than it gives itself
/// (`--request-timeout`, one minute by default), so that its own answer comes first.
const PATIENCE: Duration = Duration::from_secs(65);

/// The same client, whose requests are counted, and fail when no answer begins in time. A connection that has gone
/// silent would otherwise keep whoever asked waiting for ever. Watches are not cut short: their answer begins at once.
pub(crate) fn impatient(client: Client, metrics: &ClusterMetrics, watch: &PodWatch) -> Client {
    layered(client, Some(PATIENCE), metrics, Some(watch.clone()))
}

/// The same client, whose requests are counted. Whoever asks has a patience of their own.
pub(crate) fn counted(client: Client, metrics: &ClusterMetrics) -> Client {
    layered(client, None, metrics, None)
}

fn layered(
    client: Client,
    patience: Option<Duration>,
    metrics: &ClusterMetrics,
    watch: Option<PodWatch>,
) -> Client {
    let namespace = client.default_namespace().to_owned();
    let metrics = metrics.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (verb, resource) = (verb(request.method(), request.uri()), resource(request.uri()));
        let (client, metrics, watch) = (client.clone(), metrics.clone(), watch.clone());
        async move {
            let began = Instant::now();
            let answer = async { client.send(request).await.map_err(BoxError::from) };
            let answer = match patience {
                Some(patience) => match tokio::time::timeout(patience, answer).await {
                    Ok(answer) => answer,
                    Err(late) => Err(late.into()),
                },
                None => answer.await,
            };
            let code = answer.as_ref().ok().map(http::Response::status);
            metrics.answered(verb, resource, code.map(|code| code.as_u16()), began.elapsed());
            if let (Some(watch), "watch", "pods") = (watch, verb, resource) {
                watch.tried(code.is_some_and(|code| code.is_success()));
            }
            answer
        }
    });
    Client::new(service, namespace)
}

/// Whether the watch of this node's pods lives, judged by how its requests fare: the API server ends each within
/// five minutes, and another follows.
#[derive(Clone, Debug)]
pub(crate) struct PodWatch(Arc<Mutex<Attempts>>);

#[derive(Debug)]
struct Attempts {
    /// When one was last opened, or when the first was to be.
    opened: Instant,
    /// Since when every one has failed.
    failing: Option<Instant>,
}

/// A watch that is not opened anew for so long is dead, whatever it says.
const OLDEST: Duration = Duration::from_mins(11);
/// How long an API server may be away before the watch counts as dead.
const FAILING: Duration = Duration::from_mins(5);

impl PodWatch {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Attempts { opened: Instant::now(), failing: None })))
    }

    fn tried(&self, opened: bool) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if opened {
            *attempts = Attempts { opened: Instant::now(), failing: None };
        } else {
            attempts.failing.get_or_insert_with(Instant::now);
        }
    }

    /// Whether it lives.
    pub(crate) fn verdict(&self) -> Verdict {
        let attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = attempts.failing.map(|since| since.elapsed()).filter(|age| *age > FAILING);
        if let Some(age) = failing {
            return Err(format!("the watch of this node's pods has failed for {} s", age.as_secs()));
        }
        let age = attempts.opened.elapsed();
        if age > OLDEST {
            return Err(format!("the watch of this node's pods was last opened {} s ago", age.as_secs()));
        }
        Ok(())
    }
}

/// What a request is, in the API's terms.
fn verb(method: &Method, uri: &Uri) -> &'static str {
    let watches = || {
        uri.query().is_some_and(|query| query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1")))
    };
    match *method {
        Method::GET if watches() => "watch",
        Method::GET if is_named(uri.path()) => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

/// The segments from the resource's on.
fn from_resource(path: &str) -> impl Iterator<Item = &str> + Clone {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    // api/v1, or apis/<group>/<version>.
    let group = if segments.next() == Some("apis") { 2 } else { 1 };
    let segments = segments.skip(group);
    let namespaced = segments.clone().next() == Some("namespaces") && segments.clone().count() > 2;
    segments.skip(if namespaced { 2 } else { 0 })
}

fn is_named(path: &str) -> bool {
    from_resource(path).nth(1).is_some()
}

/// Resource and subresource. Those that a node has no business with are one.
fn resource(uri: &Uri) -> &'static str {
    let mut segments = from_resource(uri.path());
    let (resource, subresource) = (segments.next().unwrap_or(""), segments.nth(1));
    match (resource, subresource) {
        ("pods", None) => "pods",
        ("pods", Some("status")) => "pods/status",
        ("nodes", None) => "nodes",
        ("nodes", Some("status")) => "nodes/status",
        ("leases", None) => "leases",
        ("events", None) => "events",
        ("configmaps", None) => "configmaps",
        ("secrets", None) => "secrets",
        ("services", None) => "services",
        ("serviceaccounts", Some("token")) => "serviceaccounts/token",
        ("certificatesigningrequests", None) => "certificatesigningrequests",
        ("tokenreviews", None) => "tokenreviews",
        ("subjectaccessreviews", None) => "subjectaccessreviews",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use http::Response;
    use tokio::time::sleep;

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn a_question_that_stays_open_fails_after_its_time_and_is_counted() {
        let silent = tower::service_fn(|_: Request<Body>| async {
            sleep(Duration::from_hours(1)).await;
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let (metrics, watch) = (Metrics::new("node-1"), PodWatch::new());
        let client = impatient(Client::new(silent, "default"), metrics.cluster(), &watch);
        let began = Instant::now();
        let request = || Request::get("/api/v1/pods?watch=true").body(Body::empty()).unwrap();
        let error = client.send(request()).await.expect_err("nobody answers");
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(matches!(error, kube::Error::Service(_)), "{error:?}");
        assert_eq!(client.default_namespace(), "default");
        let line = "vk_api_requests_total{verb=\"watch\",resource=\"pods\",code=\"error\"} 1";
        assert!(metrics.text().contains(line), "{}", metrics.text());
        assert_eq!(watch.verdict(), Ok(()), "it may still come back");
        sleep(FAILING).await;
        assert!(client.send(request()).await.is_err());
        let dead = watch.verdict().unwrap_err();
        assert!(dead.contains("has failed for 365 s"), "{dead}");
        watch.tried(true);
        assert_eq!(watch.verdict(), Ok(()));
        sleep(OLDEST + Duration::from_secs(1)).await;
        let dead = watch.verdict().unwrap_err();
        assert!(dead.contains("last opened 661 s ago"), "{dead}");
    }

    #[test]
    fn requests_are_named_as_the_api_names_them() {
        for (method, uri, expected) in [
            ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dx&watch=true", ("watch", "pods")),
            ("GET", "/api/v1/pods?limit=500", ("list", "pods")),
            ("GET", "/api/v1/namespaces/default/pods/web", ("get", "pods")),
            ("PATCH", "/api/v1/namespaces/default/pods/web/status?", ("patch", "pods/status")),
            ("DELETE", "/api/v1/namespaces/default/pods/web", ("delete", "pods")),
            (
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/x?",
                ("update", "leases"),
            ),
            (
                "POST",
                "/apis/authorization.k8s.io/v1/subjectaccessreviews?",
                ("create", "subjectaccessreviews"),
            ),
            ("PATCH", "/api/v1/nodes/x/status", ("patch", "nodes/status")),
            ("GET", "/api/v1/namespaces/x", ("get", "other")),
            ("GET", "/version", ("list", "other")),
        ] {
            let (method, uri) = (method.parse().unwrap(), uri.parse().unwrap());
            assert_eq!((verb(&method, &uri), resource(&uri)), expected, "{method} {uri}");
        }
    }
}
