//! The kubelet's HTTP API.
//!
//! [`KubeletApi::router`] is the API as a service without sockets; [`serve`] puts it on a port. Paths, methods,
//! status codes and bodies are the kubelet's (`pkg/kubelet/server/server.go`, and answers recorded from
//! Kubernetes 1.37). What a backend lacks is a 501 that says so.
//!
//! Where its answers are other than the kubelet's, and why, is in `docs/kubelet-api.md`, which is made from the
//! table that the recorded answers are compared with.

mod access;
mod checkpoint;
mod configz;
mod containers;
pub(crate) mod health;
mod logs;
pub(crate) mod metrics;
#[cfg(test)]
mod oracle;
mod pods;
mod reload;
pub(crate) mod reply;
pub(crate) mod request;
mod routes;
mod serve;
mod stats;
pub mod stream;
#[cfg(test)]
mod testing;
pub mod tls;
mod zpages;

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawPathParams, Request};
use axum::response::Response;
use axum::routing::any;
use http::Method;
use http::request::Parts;
use jiff::Timestamp;

use self::access::Asked;
pub use self::access::{Access, Action, ClientCa, KubeReviewer, ReviewError, Reviewer, User};
use self::request::Call;
use self::routes::{Bare, Endpoint, Root, Route};
pub use self::serve::{Connection, Limits, serve};
use self::stats::Stats;
use self::stream::{StreamCounts, StreamLimits, Streams};
use crate::clock::Clock;
use crate::config::NodeConfig;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::pods::PodLookup;
use crate::provider::Provider;

/// The kubelet API of one node.
#[derive(Clone, Debug)]
pub struct KubeletApi {
    node: Arc<str>,
    provider: Arc<dyn Provider>,
    pods: Arc<dyn PodLookup>,
    access: Arc<Access>,
    clock: Clock,
    started: Timestamp,
    stats: Arc<Stats>,
    health: Health,
    metrics: Metrics,
    config: Option<Arc<NodeConfig>>,
    flags: Arc<Vec<(String, String)>>,
    streams: Arc<Streams>,
}

impl KubeletApi {
    /// The API of the node of that name, for those whom `access` lets in.
    pub fn new(
        node: impl Into<Arc<str>>,
        provider: Arc<dyn Provider>,
        pods: Arc<dyn PodLookup>,
        access: Access,
        clock: Clock,
    ) -> Self {
        let node = node.into();
        Self {
            metrics: Metrics::new(&node),
            health: Health::new(),
            config: None,
            flags: Arc::default(),
            node,
            provider,
            pods,
            access: Arc::new(access),
            started: clock.now(),
            clock,
            stats: Arc::default(),
            streams: Arc::new(Streams::new(StreamLimits::default())),
        }
    }

    /// Answers `/healthz` by these checks. Default none: whoever answers is well.
    #[must_use]
    pub fn with_health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Counts in these metrics, and shows them on `/metrics`. Default metrics of its own.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.access.count_in(&metrics);
        self.metrics = metrics;
        self
    }

    /// What it counts in.
    pub(crate) fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Shows these settings on `/configz`. Default none.
    #[must_use]
    pub fn with_config(mut self, config: Arc<NodeConfig>) -> Self {
        self.config = Some(config);
        self
    }

    /// Shows these names and values on `/flagz`. They must hold no secrets. Default none.
    #[must_use]
    pub fn with_flags(mut self, flags: Vec<(String, String)>) -> Self {
        self.flags = Arc::new(flags);
        self
    }

    /// Sets the bounds on exec, attach and port-forward.
    #[must_use]
    pub fn with_stream_limits(mut self, limits: StreamLimits) -> Self {
        self.streams = Arc::new(Streams::new(limits));
        self
    }

    /// How many sessions of exec, attach and port-forward are under way.
    #[must_use]
    pub fn stream_counts(&self) -> StreamCounts {
        self.streams.counts()
    }

    /// The API as a service. A request's [`Connection`] extension, if there is one, is where its client
    /// certificate is found and what ends its followed logs; [`serve`] sets it.
    pub fn router(&self) -> Router {
        let mut router = Router::new();
        for root in routes::ROOTS {
            for route in root.routes {
                let api = self.clone();
                let handler = any(move |params: RawPathParams, request: Request| async move {
                    api.answer(root, route, &params, request).await
                });
                let whole = route.path.ends_with('/') || route.path.contains("{*");
                if root.bare != Bare::Unknown && !whole {
                    router = router.route(&format!("{}/", route.path), handler.clone());
                }
                router = router.route(route.path, handler);
            }
        }
        let api = self.clone();
        router.fallback(move |request: Request| async move { api.nowhere(request).await })
    }

    async fn answer(
        &self,
        root: &'static Root,
        route: &'static Route,
        params: &RawPathParams,
        request: Request,
    ) -> Response {
        if let Some(elsewhere) = detour(request.method(), request.uri()) {
            return elsewhere;
        }
        let path = route.bucket(root);
        let began = tokio::time::Instant::now();
        let port = self.metrics.port();
        let counted = port.request(request.method().as_str(), path, route.endpoint.is_long_running());
        let response = self.answer_uncounted(root, route, params, request).await;
        port.answered(&counted, began.elapsed());
        response
    }

    async fn answer_uncounted(
        &self,
        root: &'static Root,
        route: &'static Route,
        params: &RawPathParams,
        request: Request,
    ) -> Response {
        let (parts, _body) = request.into_parts();
        if let Err(refusal) = self.admit(root, &parts, route.endpoint.is_metrics()).await {
            return *refusal;
        }
        let call = Call::new(parts, params);
        if call.has_split_segment() && !route.path.contains("{*") {
            return reply::unknown_route();
        }
        if !route.takes(&call.parts.method) {
            return reply::wrong_method(route.methods);
        }
        if !route.pleases(&call.parts.headers) {
            return reply::not_acceptable(route.produces.unwrap_or_default());
        }
        match route.endpoint {
            Endpoint::Health => health::healthz(&self.health.liveness(), &call.query),
            Endpoint::HealthPing | Endpoint::HealthLog => health::one(&Ok(())),
            Endpoint::HealthSyncLoop => health::one(&health::syncloop(&self.health.liveness())),
            Endpoint::Metrics => metrics::node(self, &call.parts.headers),
            Endpoint::ProbeMetrics => metrics::probes(self.metrics.probes(), &call.parts.headers),
            Endpoint::SliMetrics => metrics::slis(&self.health.liveness(), &call.parts.headers),
            Endpoint::CadvisorMetrics => stats::cadvisor(self, &call).await,
            Endpoint::Configz => configz::configz(self),
            Endpoint::Flagz => zpages::flagz(self, &call.parts.headers),
            Endpoint::Statusz => zpages::statusz(self, &call.parts.headers),
            Endpoint::Checkpoint => checkpoint::checkpoint(self, &call),
            Endpoint::Disabled(line) => reply::error_line(http::StatusCode::METHOD_NOT_ALLOWED, line),
            Endpoint::Pods => pods::bound(self),
            Endpoint::RunningPods => pods::running(self).await,
            Endpoint::ContainerLogs => logs::container_logs(self, &call).await,
            Endpoint::StatsSummary => stats::summary(self, &call).await,
            Endpoint::ResourceMetrics => stats::resource(self, &call).await,
            Endpoint::Exec | Endpoint::Attach | Endpoint::PortForward | Endpoint::Run => {
                stream::answer(self, call, route.endpoint).await
            }
        }
    }

    /// Answers what no route matched.
    async fn nowhere(&self, request: Request) -> Response {
        let (parts, _body) = request.into_parts();
        let path = parts.uri.path();
        if let Some(elsewhere) = detour(&parts.method, &parts.uri) {
            return elsewhere;
        }
        let Some(root) = routes::root_of(path).filter(|root| root.bare != Bare::Unknown) else {
            return reply::unknown_path();
        };
        if root.bare == Bare::Redirected && path == root.path {
            return reply::redirect(&parts.method, &format!("{path}/"), parts.uri.query());
        }
        match self.admit(root, &parts, false).await {
            Ok(_) => reply::unknown_route(),
            Err(refusal) => *refusal,
        }
    }

    async fn admit(&self, root: &'static Root, parts: &Parts, metrics: bool) -> Result<User, Box<Response>> {
        let asked = Asked {
            node: &self.node,
            connection: parts.extensions.get(),
            method: &parts.method,
            headers: &parts.headers,
            subresources: root.subresources,
            metrics: metrics && parts.method == Method::GET,
            now: self.clock.now(),
        };
        let admitted = self.access.check(&asked).await;
        match &admitted {
            Ok(_) => parts.extensions.get::<Connection>().into_iter().for_each(Connection::admit),
            Err(refusal) => self.metrics.port().denied(refusal.status().as_u16()),
        }
        admitted
    }
}

/// Where a path with empty segments, `.` or `..` is sent on to, before anybody asks who the caller is.
fn detour(method: &Method, uri: &http::Uri) -> Option<Response> {
    let clean = routes::clean(uri.path());
    (clean != uri.path() && *method != Method::CONNECT).then(|| reply::redirect(method, &clean, uri.query()))
}
