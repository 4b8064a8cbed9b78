//! The kubelet's paths, as data: what is served, to which methods, and what a caller must be allowed.
//!
//! The list is the whole truth. The router, the authorisation and the table test are made from it, so a
//! route that is added here is guarded and tested, and one that is not here does not exist.

use http::Method;

/// A part of the path space, with one rule of authorisation (`pkg/kubelet/server/auth.go`).
#[derive(Debug)]
pub(super) struct Root {
    /// Its first segments, without a slash at the end.
    pub(super) path: &'static str,
    /// What the path itself is, if it is no route.
    pub(super) bare: Bare,
    /// The subresources of `nodes` tried in order; the first that is allowed wins (KEP-2862).
    pub(super) subresources: &'static [&'static str],
    /// The routes below it.
    pub(super) routes: &'static [Route],
}

/// What a root's own path, or one below it that is no route, leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bare {
    /// 404 after authentication: the kubelet's go-restful services.
    Known,
    /// The path without a slash redirects to the one with it; below it as `Known`.
    Redirected,
    /// 404 before authentication: only the exact routes exist.
    Unknown,
}

/// One path.
#[derive(Debug)]
pub(super) struct Route {
    /// The pattern, with `{name}` for a segment. A slash at its end is optional for the caller unless the root
    /// is [`Bare::Redirected`].
    pub(super) path: &'static str,
    /// What it takes; anything else is a 405.
    pub(super) methods: &'static [Method],
    /// What it does.
    pub(super) endpoint: Endpoint,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Health,
    HealthPing,
    HealthLog,
    HealthSyncLoop,
    Pods,
    RunningPods,
    StatsSummary,
    Metrics,
    ResourceMetrics,
    CadvisorMetrics,
    ProbeMetrics,
    SliMetrics,
    Configz,
    Flagz,
    Statusz,
    Checkpoint,
    /// Off, as a kubelet's configuration can have it: 405 with this line, whatever the method.
    Disabled(&'static str),
    ContainerLogs,
    Exec,
    Attach,
    PortForward,
    Run,
}

impl Endpoint {
    /// Whether `--anonymous-metrics` opens it to callers without credentials.
    pub(super) fn is_metrics(self) -> bool {
        matches!(self, Self::StatsSummary | Self::ResourceMetrics)
    }

    /// Whether it lasts as long as its client likes, as the kubelet's metrics tell such requests apart.
    pub(super) fn is_long_running(self) -> bool {
        matches!(self, Self::Exec | Self::Attach | Self::PortForward)
    }
}

impl Route {
    /// What the kubelet's request metrics call the path: its first segment, and for metrics the second too.
    pub(super) fn bucket(&self, root: &Root) -> &'static str {
        let path = if root.path == "/metrics" { self.path } else { root.path };
        match path.trim_matches('/') {
            "debug/pprof" | "debug/flags/v" => "debug",
            path => path,
        }
    }
}

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const GET_POST: &[Method] = &[Method::GET, Method::POST];

/// What the disabled endpoints take: they have the same answer for all.
const ANY: &[Method] =
    &[Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

const fn disabled(path: &'static str, line: &'static str) -> Route {
    Route { path, methods: ANY, endpoint: Endpoint::Disabled(line) }
}

const fn get(path: &'static str, endpoint: Endpoint) -> Route {
    Route { path, methods: GET, endpoint }
}

const fn stream(path: &'static str, endpoint: Endpoint) -> Route {
    Route { path, methods: GET_POST, endpoint }
}

const fn post(path: &'static str, endpoint: Endpoint) -> Route {
    Route { path, methods: POST, endpoint }
}

const LOGS: &str = "logs endpoint is disabled.";
const PROFILING: &str = "profiling endpoint is disabled.";

/// Everything that is served.
pub(super) const ROOTS: &[Root] = &[
    Root {
        path: "/healthz",
        bare: Bare::Unknown,
        subresources: &["healthz", "proxy"],
        routes: &[
            get("/healthz", Endpoint::Health),
            get("/healthz/ping", Endpoint::HealthPing),
            get("/healthz/log", Endpoint::HealthLog),
            get("/healthz/syncloop", Endpoint::HealthSyncLoop),
        ],
    },
    Root {
        path: "/pods",
        bare: Bare::Known,
        subresources: &["pods", "proxy"],
        routes: &[get("/pods", Endpoint::Pods)],
    },
    Root {
        path: "/runningpods",
        bare: Bare::Redirected,
        subresources: &["pods", "proxy"],
        routes: &[get("/runningpods/", Endpoint::RunningPods)],
    },
    Root {
        path: "/stats",
        bare: Bare::Redirected,
        subresources: &["stats"],
        routes: &[get("/stats/summary", Endpoint::StatsSummary)],
    },
    Root {
        path: "/metrics",
        bare: Bare::Unknown,
        subresources: &["metrics"],
        routes: &[
            get("/metrics", Endpoint::Metrics),
            get("/metrics/cadvisor", Endpoint::CadvisorMetrics),
            get("/metrics/probes", Endpoint::ProbeMetrics),
            get("/metrics/slis", Endpoint::SliMetrics),
            get("/metrics/resource", Endpoint::ResourceMetrics),
            // As the Go Virtual Kubelet serves it.
            get("/metrics/resource/", Endpoint::ResourceMetrics),
        ],
    },
    Root {
        path: "/configz",
        bare: Bare::Unknown,
        subresources: &["configz", "proxy"],
        routes: &[get("/configz", Endpoint::Configz)],
    },
    Root {
        path: "/flagz",
        bare: Bare::Unknown,
        subresources: &["proxy"],
        routes: &[get("/flagz", Endpoint::Flagz)],
    },
    Root {
        path: "/statusz",
        bare: Bare::Unknown,
        subresources: &["statusz", "proxy"],
        routes: &[get("/statusz", Endpoint::Statusz)],
    },
    Root {
        path: "/checkpoint",
        bare: Bare::Redirected,
        subresources: &["checkpoint"],
        routes: &[post("/checkpoint/{namespace}/{pod}/{container}", Endpoint::Checkpoint)],
    },
    // A virtual node has no files of its own to show, and nothing of Go to profile or to turn up.
    Root {
        path: "/logs",
        bare: Bare::Redirected,
        subresources: &["log"],
        routes: &[disabled("/logs/", LOGS), disabled("/logs/{*path}", LOGS)],
    },
    Root {
        path: "/debug/pprof",
        bare: Bare::Redirected,
        subresources: &["proxy"],
        routes: &[disabled("/debug/pprof/", PROFILING), disabled("/debug/pprof/{*path}", PROFILING)],
    },
    Root {
        path: "/debug/flags/v",
        bare: Bare::Unknown,
        subresources: &["proxy"],
        routes: &[disabled("/debug/flags/v", "flags endpoint is disabled.")],
    },
    Root {
        path: "/containerLogs",
        bare: Bare::Known,
        subresources: &["proxy"],
        routes: &[get("/containerLogs/{namespace}/{pod}/{container}", Endpoint::ContainerLogs)],
    },
    Root {
        path: "/exec",
        bare: Bare::Known,
        subresources: &["proxy"],
        routes: &[
            stream("/exec/{namespace}/{pod}/{container}", Endpoint::Exec),
            stream("/exec/{namespace}/{pod}/{uid}/{container}", Endpoint::Exec),
        ],
    },
    Root {
        path: "/attach",
        bare: Bare::Known,
        subresources: &["proxy"],
        routes: &[
            stream("/attach/{namespace}/{pod}/{container}", Endpoint::Attach),
            stream("/attach/{namespace}/{pod}/{uid}/{container}", Endpoint::Attach),
        ],
    },
    Root {
        path: "/portForward",
        bare: Bare::Known,
        subresources: &["proxy"],
        routes: &[
            stream("/portForward/{namespace}/{pod}", Endpoint::PortForward),
            stream("/portForward/{namespace}/{pod}/{uid}", Endpoint::PortForward),
        ],
    },
    Root {
        path: "/run",
        bare: Bare::Known,
        subresources: &["proxy"],
        routes: &[
            post("/run/{namespace}/{pod}/{container}", Endpoint::Run),
            post("/run/{namespace}/{pod}/{uid}/{container}", Endpoint::Run),
        ],
    },
];

/// The root a path belongs to: `/pods` and `/pods/x`, but not `/podsx`.
pub(super) fn root_of(path: &str) -> Option<&'static Root> {
    ROOTS.iter().find(|root| {
        path.strip_prefix(root.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_lies_below_its_root_and_takes_a_method() {
        for root in ROOTS {
            assert!(!root.subresources.is_empty(), "{}", root.path);
            for route in root.routes {
                assert_eq!(root_of(route.path).map(|r| r.path), Some(root.path), "{}", route.path);
                assert!(!route.methods.is_empty(), "{}", route.path);
            }
        }
    }

    #[test]
    fn a_root_is_whole_segments() {
        assert!(root_of("/pods").is_some() && root_of("/pods/x").is_some());
        assert!(root_of("/podsx").is_none() && root_of("/").is_none() && root_of("/livez").is_none());
    }
}
