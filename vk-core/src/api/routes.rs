//! The kubelet's paths, as data: what is served, to which methods, and what a caller must be allowed.
//!
//! The list is the whole truth. The router, the authorisation and the table test are made from it, so a
//! route that is added here is guarded and tested, and one that is not here does not exist.

use http::header::ACCEPT;
use http::{HeaderMap, Method};

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
    /// What it takes; anything else is a 405. Empty: every method there is, as the kubelet's plain handlers take it.
    pub(super) methods: &'static [Method],
    /// What it is asked for, if that matters: a caller whose `Accept` has neither this nor `*/*` is answered 406. Of
    /// routes that declare nothing go-restful thinks that they can give nothing else than `*/*`.
    pub(super) produces: Option<&'static str>,
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
    /// Whether it takes a method.
    pub(super) fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    /// Whether it can give what a caller accepts, judged as go-restful does: without ranges of types.
    pub(super) fn pleases(&self, headers: &HeaderMap) -> bool {
        let (Some(produced), Some(accepted)) = (self.produces, headers.get(ACCEPT)) else { return true };
        let Ok(accepted) = accepted.to_str() else { return false };
        if accepted.is_empty() {
            return true;
        }
        let mut types =
            accepted.split(',').map(|part| part.split(';').next().unwrap_or(part).trim_matches(' '));
        types.any(|media| media == "*/*" || (!produced.is_empty() && media == produced))
    }

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
const ANY: &[Method] = &[];

const JSON: Option<&str> = Some("application/json");
const UNDECLARED: Option<&str> = Some("");

/// One of the kubelet's handlers that are on its multiplexer themselves.
const fn plain(path: &'static str, endpoint: Endpoint) -> Route {
    Route { path, methods: ANY, produces: None, endpoint }
}

const fn disabled(path: &'static str, line: &'static str) -> Route {
    plain(path, Endpoint::Disabled(line))
}

const fn get(path: &'static str, endpoint: Endpoint) -> Route {
    Route { path, methods: GET, produces: JSON, endpoint }
}

const fn stream(path: &'static str, endpoint: Endpoint) -> Route {
    Route { path, methods: GET_POST, produces: UNDECLARED, endpoint }
}

const fn run(path: &'static str) -> Route {
    Route { path, methods: POST, produces: UNDECLARED, endpoint: Endpoint::Run }
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
            plain("/healthz", Endpoint::Health),
            plain("/healthz/ping", Endpoint::HealthPing),
            plain("/healthz/log", Endpoint::HealthLog),
            plain("/healthz/syncloop", Endpoint::HealthSyncLoop),
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
        routes: &[Route {
            path: "/stats/summary",
            methods: GET_POST,
            produces: JSON,
            endpoint: Endpoint::StatsSummary,
        }],
    },
    Root {
        path: "/metrics",
        bare: Bare::Unknown,
        subresources: &["metrics"],
        routes: &[
            plain("/metrics", Endpoint::Metrics),
            plain("/metrics/cadvisor", Endpoint::CadvisorMetrics),
            plain("/metrics/probes", Endpoint::ProbeMetrics),
            plain("/metrics/slis", Endpoint::SliMetrics),
            plain("/metrics/resource", Endpoint::ResourceMetrics),
            // As the Go Virtual Kubelet serves it.
            plain("/metrics/resource/", Endpoint::ResourceMetrics),
        ],
    },
    Root {
        path: "/configz",
        bare: Bare::Unknown,
        subresources: &["configz", "proxy"],
        routes: &[plain("/configz", Endpoint::Configz)],
    },
    Root {
        path: "/flagz",
        bare: Bare::Unknown,
        subresources: &["configz"],
        routes: &[plain("/flagz", Endpoint::Flagz)],
    },
    Root {
        path: "/statusz",
        bare: Bare::Unknown,
        subresources: &["statusz"],
        routes: &[plain("/statusz", Endpoint::Statusz)],
    },
    Root {
        path: "/checkpoint",
        bare: Bare::Redirected,
        subresources: &["checkpoint"],
        routes: &[Route {
            path: "/checkpoint/{namespace}/{pod}/{container}",
            methods: POST,
            produces: JSON,
            endpoint: Endpoint::Checkpoint,
        }],
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
        routes: &[Route {
            path: "/containerLogs/{namespace}/{pod}/{container}",
            methods: GET,
            produces: UNDECLARED,
            endpoint: Endpoint::ContainerLogs,
        }],
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
        routes: &[run("/run/{namespace}/{pod}/{container}"), run("/run/{namespace}/{pod}/{uid}/{container}")],
    },
];

/// The root a path belongs to: `/pods` and `/pods/x`, but not `/podsx`.
pub(super) fn root_of(path: &str) -> Option<&'static Root> {
    ROOTS.iter().find(|root| {
        path.strip_prefix(root.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// A path without empty segments, `.` and `..`, as Go's multiplexer wants it. A slash at the end stays.
pub(super) fn clean(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let mut clean = format!("/{}", segments.join("/"));
    if clean.len() > 1 && path.ends_with('/') {
        clean.push('/');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_lies_below_its_root() {
        for root in ROOTS {
            assert!(!root.subresources.is_empty(), "{}", root.path);
            for route in root.routes {
                assert_eq!(root_of(route.path).map(|r| r.path), Some(root.path), "{}", route.path);
            }
        }
    }

    #[test]
    fn a_caller_is_pleased_by_exactly_what_a_route_gives_or_by_anything() {
        let pleased = |path: &str, accept: &str| {
            let routes = root_of(path).unwrap().routes;
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            routes[0].pleases(&headers)
        };
        for (path, accept, pleases) in [
            ("/pods", "", true),
            ("/pods", "application/json", true),
            ("/pods", "text/html, application/json;q=0.1", true),
            ("/pods", "text/html,*/*;q=0.1", true),
            ("/pods", "application/*", false),
            ("/pods", "text/plain", false),
            ("/stats", "text/plain", false),
            ("/containerLogs", "*/*", true),
            ("/containerLogs", "text/plain", false),
            ("/metrics", "application/json", true),
        ] {
            assert_eq!(pleased(path, accept), pleases, "{path} {accept:?}");
        }
        assert!(root_of("/pods").unwrap().routes[0].pleases(&HeaderMap::new()));
    }

    #[test]
    fn a_clean_path_has_no_detours() {
        for (path, expected) in [
            ("/pods", "/pods"),
            ("/pods/", "/pods/"),
            ("//pods", "/pods"),
            ("/pods//", "/pods/"),
            ("/pods/./", "/pods/"),
            ("/pods/../healthz", "/healthz"),
            ("/containerLogs/d//c", "/containerLogs/d/c"),
            ("/../..", "/"),
            ("/", "/"),
            ("", "/"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn a_root_is_whole_segments() {
        assert!(root_of("/pods").is_some() && root_of("/pods/x").is_some());
        assert!(root_of("/podsx").is_none() && root_of("/").is_none() && root_of("/livez").is_none());
    }
}
