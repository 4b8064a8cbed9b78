//! A port for those who run the daemon: `/metrics`, `/livez`, `/readyz` and `/healthz` of all nodes of a process.
//!
//! It tells nobody about pods, and lets nobody do anything; it asks for no credentials. Bind it to loopback, or to
//! where only the kubelet's probes and Prometheus come.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderMap, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::api::health::{all, one};
use crate::api::metrics::document;
use crate::api::request::pairs;
use crate::health::{Finding, Health, Verdict};
use crate::metrics::{self, Metrics};

/// A node, as the port sees it: its name, what it checks, what it counts.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The node's name.
    pub node: String,
    /// See [`Node::health`](crate::Node::health).
    pub health: Health,
    /// See [`Node::metrics`](crate::Node::metrics).
    pub metrics: Metrics,
}

/// The port as a service.
///
/// - `/metrics`: [`metrics::render`].
/// - `/livez`, `/readyz`: `ok`, or 500 with a line for each check; `?verbose` shows the lines always, `?exclude=<check>`
///   leaves one out. `/healthz` is `/livez`.
/// - `/livez/<check>`, `/readyz/<check>`: that check alone, with its reason. A check holds if it holds on every node.
pub fn router(nodes: Vec<Observed>) -> Router {
    let nodes: Arc<[Observed]> = nodes.into();
    let liveness: fn(&Health) -> Vec<Finding> = Health::liveness;
    let readiness: fn(&Health) -> Vec<Finding> = Health::readiness;
    let mut router = Router::new();
    for (name, checks) in [("livez", liveness), ("readyz", readiness), ("healthz", liveness)] {
        let (whole, part) = (Arc::clone(&nodes), Arc::clone(&nodes));
        router = router
            .route(
                &format!("/{name}"),
                get(move |uri: Uri| async move { all(name, &together(&whole, checks), &pairs(&uri)) }),
            )
            .route(
                &format!("/{name}/{{check}}"),
                get(move |Path(check): Path<String>| async move { alone(&part, checks, &check) }),
            );
    }
    router.route(
        "/metrics",
        get(move |asked: HeaderMap| async move {
            document(metrics::render(nodes.iter().map(|seen| (seen.node.as_str(), &seen.metrics))), &asked)
        }),
    )
}

/// Serves the port over plain HTTP. Does not end.
///
/// At most 64 connections at once, more wait in the kernel's queue; each may take ten seconds for a request, idle time
/// included.
pub async fn serve(listener: TcpListener, nodes: Vec<Observed>) {
    let router = router(nodes);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Those that have ended are forgotten.
        while connections.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "admin port: cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let router = router.clone();
        connections.spawn(async move {
            let _slot = slot;
            let service = service_fn(move |request: http::Request<Incoming>| {
                router.clone().oneshot(request.map(Body::new))
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "admin port: connection ended");
            }
        });
    }
}

const CONNECTIONS: usize = 64;
const REQUEST: Duration = Duration::from_secs(10);

/// The checks of all nodes by name, each with what the first node says for which it does not hold.
fn together(nodes: &[Observed], checks: fn(&Health) -> Vec<Finding>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = vec![Finding { name: "ping", verdict: Ok(()) }];
    for seen in nodes {
        for Finding { name, verdict } in checks(&seen.health) {
            let verdict: Verdict = verdict.map_err(|reason| format!("node {}: {reason}", seen.node));
            match findings.iter_mut().find(|finding| finding.name == name) {
                Some(known) if known.verdict.is_ok() => known.verdict = verdict,
                Some(_) => {}
                None => findings.push(Finding { name, verdict }),
            }
        }
    }
    findings
}

fn alone(nodes: &[Observed], checks: fn(&Health) -> Vec<Finding>, check: &str) -> Response {
    match together(nodes, checks).into_iter().find(|finding| finding.name == check) {
        Some(finding) => one(&finding.verdict),
        None => crate::api::reply::error_line(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::health::Concern;

    fn observed(node: &str) -> Observed {
        Observed { node: node.to_owned(), health: Health::new(), metrics: Metrics::new(node) }
    }

    async fn ask(nodes: &[Observed], path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router(nodes.to_vec()).oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn one_node_that_is_stuck_fails_the_process_and_is_named_with_its_reason() {
        let nodes = [observed("a"), observed("b")];
        for seen in &nodes {
            seen.health.check("lease", Concern::Liveness, || Ok(()));
            seen.health.check("provider", Concern::Readiness, || Ok(()));
        }
        let fine = "[+]ping ok\n[+]lease ok\n[+]provider ok\nreadyz check passed\n";
        assert_eq!(ask(&nodes, "/livez").await, (200, "ok".to_owned()));
        assert_eq!(ask(&nodes, "/readyz?verbose").await, (200, fine.to_owned()));
        nodes[1].health.check("lease", Concern::Liveness, || Err("not renewed for 50 s".to_owned()));
        let failed = "[+]ping ok\n[-]lease failed: reason withheld\nlivez check failed\n";
        assert_eq!(ask(&nodes, "/livez").await, (500, failed.to_owned()));
        let reason = "internal server error: node b: not renewed for 50 s\n";
        assert_eq!(ask(&nodes, "/livez/lease").await, (500, reason.to_owned()));
        assert_eq!(ask(&nodes, "/readyz").await.0, 500, "what does not live is not ready");
        assert_eq!(ask(&nodes, "/livez?exclude=lease").await.0, 200);
        assert_eq!(ask(&nodes, "/livez/provider").await.0, 404, "it is not about life");
        assert_eq!(ask(&nodes, "/readyz/provider").await, (200, "ok".to_owned()));
    }

    #[tokio::test]
    async fn metrics_are_those_of_all_nodes() {
        let (status, text) = ask(&[observed("a"), observed("b")], "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("{node=\"a\"} 1\nkubelet_node_name{node=\"b\"} 1\n"), "{text}");
    }
}
