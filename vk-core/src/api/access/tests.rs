//! The rules, tried on every route there is.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION};
use rcgen::ExtendedKeyUsagePurpose;

use super::super::routes::{Bare, Endpoint, ROOTS, Root, Route};
use super::super::testing::pki::{Ca, Client};
use super::super::testing::{Answer, Backend, guarded, running, send};
use super::super::{Connection, KubeletApi};
use super::*;

mod table;

/// An API server's authentication and authorisation, as a list.
#[derive(Debug, Default)]
struct Rules {
    tokens: Vec<(&'static str, User)>,
    allowed: Mutex<BTreeSet<(&'static str, &'static str, &'static str)>>,
    broken: bool,
    asked: AtomicUsize,
}

#[async_trait]
impl Reviewer for Rules {
    async fn authenticate(&self, token: &str) -> Result<Option<User>, ReviewError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.broken {
            return Err(ReviewError::new("the API server is away"));
        }
        Ok(self.tokens.iter().find(|(known, _)| *known == token).map(|(_, user)| user.clone()))
    }

    async fn authorize(&self, user: &User, action: &Action) -> Result<bool, ReviewError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.broken {
            return Err(ReviewError::new("the API server is away"));
        }
        assert_eq!(&*action.node, "node-1");
        let allowed = self.allowed.lock().unwrap();
        Ok(allowed.iter().any(|rule| *rule == (&*user.name, action.verb, action.subresource)))
    }
}

fn rules() -> Rules {
    let scraper = User::new("scraper", ["monitoring"]);
    Rules { tokens: vec![("good", scraper)], ..Rules::default() }
}

/// An API that believes `ca` and asks `rules`.
fn api(ca: &Ca, rules: &Arc<Rules>) -> KubeletApi {
    let reviewer: Arc<dyn Reviewer> = Arc::<Rules>::clone(rules);
    open(Access::none().with_client_ca(ca.trusted()).with_reviewer(reviewer))
}

fn open(access: Access) -> KubeletApi {
    guarded(Arc::new(Backend::default()), vec![running("web")], access)
}

/// Who sends a request.
enum Caller {
    Nobody,
    Certificate(Connection),
    Token(&'static str),
}

impl Caller {
    fn of(ca: &Ca, client: Client) -> Self {
        Self::Certificate(Connection::in_process(ca.sign(client).chain))
    }

    async fn ask(&self, api: &KubeletApi, method: &Method, path: &str) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = match self {
            Self::Nobody => request,
            Self::Certificate(connection) => request.extension(connection.clone()),
            Self::Token(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
        };
        send(api, request.body(Body::empty()).unwrap()).await
    }
}

/// Every route, with a path that leads to it and every method worth trying.
fn everything() -> impl Iterator<Item = (&'static Root, &'static Route, String, Method)> {
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];
    let routes = ROOTS.iter().flat_map(|root| root.routes.iter().map(move |route| (root, route)));
    routes.flat_map(move |(root, route)| {
        let path = ["namespace", "pod", "uid", "container", "*path"]
            .into_iter()
            .zip(["default", "web", "uid-web", "a", "x/y"])
            .fold(route.path.to_owned(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value));
        assert!(!path.contains('{'), "{path}: a segment this test has no value for");
        methods.clone().map(move |method| (root, route, path.clone(), method))
    })
}

/// What a client gets of a body.
fn seen<'a>(method: &Method, body: &'a str) -> &'a str {
    if method == Method::HEAD { "" } else { body }
}

#[tokio::test(start_paused = true)]
async fn on_every_route_a_caller_who_is_not_known_gets_401() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let api = api(&ca, &Arc::new(rules()));
    let callers = [
        ("nobody", Caller::Nobody),
        ("another authority", Caller::of(&other, Client::default())),
        ("expired", Caller::of(&ca, Client { years: (2020, 2021), ..Client::default() })),
        ("not yet valid", Caller::of(&ca, Client { years: (2090, 2096), ..Client::default() })),
        (
            "a server's certificate",
            Caller::of(&ca, Client { usage: ExtendedKeyUsagePurpose::ServerAuth, ..Client::default() }),
        ),
        ("without a name", Caller::of(&ca, Client { name: "", ..Client::default() })),
        ("a bad token", Caller::Token("bad")),
        ("an empty token", Caller::Token("")),
    ];
    for (_, _, path, method) in everything() {
        for (what, caller) in &callers {
            let answer = caller.ask(&api, &method, &path).await;
            assert_eq!(answer.status.as_u16(), 401, "{what}: {method} {path}");
            assert_eq!(answer.body, seen(&method, "Unauthorized"), "{what}: {method} {path}");
            assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn on_every_route_a_known_caller_without_rights_gets_403_with_what_was_tried() {
    let ca = Ca::new("ca");
    let api = api(&ca, &Arc::new(rules()));
    let callers = [
        ("nobody", Caller::of(&ca, Client { name: "nobody", ..Client::default() })),
        ("scraper", Caller::Token("good")),
    ];
    for (root, _, path, method) in everything() {
        let (verb, tried) = (verb(&method), root.subresources.join(" "));
        for (name, caller) in &callers {
            let answer = caller.ask(&api, &method, &path).await;
            let body =
                format!("Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{tried}])\n");
            answer.is(403, seen(&method, &body));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn on_every_route_each_of_its_subresources_is_enough_and_no_other() {
    let ca = Ca::new("ca");
    let subresources: BTreeSet<_> = ROOTS.iter().flat_map(|root| root.subresources).copied().collect();
    let caller = Caller::of(&ca, Client { name: "some", ..Client::default() });
    for (root, route, path, method) in everything() {
        for &subresource in &subresources {
            let rules = Arc::new(rules());
            rules.allowed.lock().unwrap().insert(("some", verb(&method), subresource));
            let status = caller.ask(&api(&ca, &rules), &method, &path).await.status.as_u16();
            let what = format!("{subresource}: {method} {path}: {status}");
            if !root.subresources.contains(&subresource) {
                assert_eq!(status, 403, "{what}");
            } else if let Endpoint::Disabled(_) = route.endpoint {
                assert_eq!(status, 405, "{what}");
            } else if !route.takes(&method) {
                assert_eq!(status, 405, "{what}");
            } else {
                assert!(![401, 403, 404, 405].contains(&status), "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn on_every_route_a_wrong_method_is_405_with_the_right_ones() {
    let api = open(Access::insecure_allow_all());
    for (_, route, path, method) in everything().filter(|(_, route, _, m)| !route.takes(m)) {
        let answer = Caller::Nobody.ask(&api, &method, &path).await;
        assert_eq!(answer.status.as_u16(), 405, "{method} {path}");
        let allowed = route.methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        assert_eq!(answer.header("allow"), Some(&*allowed), "{method} {path}");
        assert_eq!(answer.body, seen(&method, "405: Method Not Allowed"));
    }
}

#[tokio::test(start_paused = true)]
async fn disabled_endpoints_are_405_with_their_line_whatever_the_method() {
    let api = open(Access::insecure_allow_all());
    for (path, line) in [
        ("/logs/", "logs endpoint is disabled.\n"),
        ("/logs/syslog", "logs endpoint is disabled.\n"),
        ("/logs/pods/a/0.log?query=x", "logs endpoint is disabled.\n"),
        ("/debug/pprof/", "profiling endpoint is disabled.\n"),
        ("/debug/pprof/heap", "profiling endpoint is disabled.\n"),
        ("/debug/flags/v", "flags endpoint is disabled.\n"),
    ] {
        for method in [Method::GET, Method::PUT] {
            let answer = Caller::Nobody.ask(&api, &method, path).await;
            answer.is(405, line);
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.header("allow"), None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn anonymous_metrics_open_two_routes_to_get_and_to_callers_without_credentials_only() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let closed = Access::none().with_client_ca(ca.trusted()).with_trusted_name("kube-apiserver");
    let opened = open(closed.clone().with_anonymous_metrics(true));
    let closed = open(closed);
    let mut let_in = BTreeSet::new();
    for (_, _, path, method) in everything() {
        assert_eq!(Caller::Nobody.ask(&closed, &method, &path).await.status, 401, "{method} {path}");
        if Caller::Nobody.ask(&opened, &method, &path).await.status != 401 {
            let_in.insert(format!("{method} {}", path.trim_end_matches('/')));
        }
        let stranger = Caller::of(&other, Client::default());
        assert_eq!(stranger.ask(&opened, &method, &path).await.status, 401, "{method} {path}");
        assert_eq!(Caller::Token("any").ask(&opened, &method, &path).await.status, 401, "{method} {path}");
    }
    assert_eq!(let_in.iter().collect::<Vec<_>>(), ["GET /metrics/resource", "GET /stats/summary"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_trusted_needs_no_review_and_no_other_name_is() {
    let ca = Ca::new("ca");
    let api = open(Access::none().with_client_ca(ca.trusted()).with_trusted_name("kube-apiserver"));
    let get = Method::GET;
    let trusted = Caller::of(&ca, Client::default());
    assert_eq!(trusted.ask(&api, &get, "/pods").await.status, 200);
    let other = Caller::of(&ca, Client { name: "kube-apiserver2", ..Client::default() });
    assert_eq!(other.ask(&api, &get, "/pods").await.status, 403);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_let_in_unless_told() {
    assert!(!Access::none().admits_anyone());
    assert!(!Access::none().with_trusted_name("x").admits_anyone());
    assert!(Access::none().with_reviewer(Arc::new(rules())).admits_anyone());
    let api = open(Access::none());
    for (_, _, path, method) in everything() {
        assert_eq!(Caller::Token("good").ask(&api, &method, &path).await.status, 401, "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_counts_where_the_certificate_does_not() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let rules = Arc::new(rules());
    rules.allowed.lock().unwrap().insert(("scraper", "get", "pods"));
    let request = Request::get("/pods")
        .extension(Connection::in_process(other.sign(Client::default()).chain))
        .header(AUTHORIZATION, "bearer good");
    assert_eq!(send(&api(&ca, &rules), request.body(Body::empty()).unwrap()).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_review_that_fails_lets_nobody_in() {
    let ca = Ca::new("ca");
    let api = api(&ca, &Arc::new(Rules { broken: true, ..rules() }));
    assert_eq!(Caller::Token("good").ask(&api, &Method::GET, "/pods").await.status, 401);
    let known = Caller::of(&ca, Client::default());
    known
        .ask(&api, &Method::GET, "/pods")
        .await
        .is(500, "Authorization error (user=kube-apiserver, verb=get, resource=nodes, subresource=pods)");
}

#[tokio::test(start_paused = true)]
async fn reviews_are_remembered_and_forgotten_again() {
    let rules = Arc::new(rules());
    let api = api(&Ca::new("ca"), &rules);
    let asked = async |expected: usize| {
        let answer = Caller::Token("good").ask(&api, &Method::GET, "/stats/summary").await;
        assert_eq!(rules.asked.swap(0, Ordering::Relaxed), expected, "{answer:?}");
        answer.status.as_u16()
    };
    assert_eq!(asked(2).await, 403);
    assert_eq!(asked(0).await, 403);
    rules.allowed.lock().unwrap().insert(("scraper", "get", "stats"));
    // The refusal is forgotten after 30 s, the token after 2 min, the permission after 5 min.
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(asked(1).await, 501);
    assert_eq!(asked(0).await, 501);
    tokio::time::advance(Duration::from_mins(2)).await;
    assert_eq!(asked(1).await, 501);
    rules.allowed.lock().unwrap().clear();
    tokio::time::advance(Duration::from_mins(4)).await;
    assert_eq!(asked(2).await, 403);
}

#[tokio::test(start_paused = true)]
async fn unknown_paths_are_404_before_authentication_and_known_roots_after() {
    let ca = Ca::new("ca");
    let api = api(&ca, &Arc::new(rules()));
    let get = Method::GET;
    for path in [
        "/",
        "/livez",
        "/readyz",
        "/spec",
        "/podsx",
        "/metrics/x",
        "/metrics/cadvisor/",
        "/healthz/x",
        "/Pods",
        "/configz/",
        "/flagz/",
        "/debug",
        "/debug/flags",
    ] {
        Caller::Nobody.ask(&api, &get, path).await.is(404, "404 page not found\n");
    }
    let admin = open(Access::insecure_allow_all());
    for path in ["/containerLogs/default", "/containerLogs", "/stats/", "/stats/x", "/exec/a/b", "/pods/x"] {
        Caller::Nobody.ask(&api, &get, path).await.is(401, "Unauthorized");
        Caller::Nobody.ask(&admin, &get, path).await.is(404, "404: Page Not Found");
    }
    for root in ROOTS.iter().filter(|root| root.bare == Bare::Redirected) {
        let answer = Caller::Nobody.ask(&api, &get, &format!("{}?x=1", root.path)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("location")),
            (307, Some(&*format!("{}/?x=1", root.path)))
        );
    }
    let answer = Caller::Nobody.ask(&api, &get, "/runningpods").await;
    answer.is(307, "<a href=\"/runningpods/\">Temporary Redirect</a>.\n\n");
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
}

/// Answers of a go-restful container with the kubelet's services on it.
#[tokio::test(start_paused = true)]
async fn odd_spellings_of_paths_and_odd_methods_are_answered_as_go_restful_does() {
    let api = open(Access::insecure_allow_all());
    let ask = async |method: &str, path: &str| Caller::Nobody.ask(&api, &method.parse().unwrap(), path).await;
    for (method, path, location) in [
        ("GET", "//pods", "/pods"),
        ("GET", "/pods//", "/pods/"),
        ("GET", "/pods/./", "/pods/"),
        ("GET", "/pods/../healthz", "/healthz"),
        ("GET", "/containerLogs/default//a", "/containerLogs/default/a"),
        ("GET", "/containerLogs/default/web/../a", "/containerLogs/default/a"),
        ("GET", "//nowhere?x=1", "/nowhere?x=1"),
        ("HEAD", "/stats", "/stats/"),
        ("POST", "/runningpods", "/runningpods/"),
    ] {
        let answer = ask(method, path).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (307, Some(location)), "{path}");
        assert_eq!(answer.body.is_empty(), method != "GET", "{path}");
        assert_eq!(answer.header("content-type").is_none(), method == "POST", "{path}");
    }
    let answer = ask("GET", "/stats?a=1&b=2").await;
    answer.is(307, "<a href=\"/stats/?a=1&amp;b=2\">Temporary Redirect</a>.\n\n");
    for (method, path, allow) in [
        ("OPTIONS", "/pods", "GET"),
        ("TRACE", "/pods", "GET"),
        ("FOO", "/pods", "GET"),
        ("PUT", "/stats/summary", "GET, POST"),
        ("PUT", "/exec/default/web/a", "GET, POST"),
        ("DELETE", "/portForward/default/web", "GET, POST"),
        ("GET", "/run/default/web/a", "POST"),
        ("GET", "/checkpoint/default/web/a", "POST"),
    ] {
        let answer = ask(method, path).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, Some(allow)), "{method} {path}");
    }
    for (method, path) in [("POST", "/healthz"), ("DELETE", "/metrics"), ("FOO", "/metrics/slis")] {
        assert_eq!(ask(method, path).await.status.as_u16(), 200, "{method} {path}");
    }
    let slash_inside = ask("GET", "/containerLogs/default/we%2Fb/a").await;
    slash_inside.is(404, "404: Page Not Found");
}

#[tokio::test(start_paused = true)]
async fn what_a_route_cannot_give_is_406_with_what_it_can() {
    let api = open(Access::insecure_allow_all());
    let everywhere = ROOTS.iter().flat_map(|root| root.routes).filter(|route| route.produces.is_some());
    for route in everywhere {
        let path = route.path.replace(['{', '}'], "");
        let request = Request::builder().method(&route.methods[0]).uri(&path).header(ACCEPT, "text/html");
        let answer = send(&api, request.body(Body::empty()).unwrap()).await;
        let produced = route.produces.unwrap();
        answer.is(406, &format!("406: Not Acceptable\n\nAvailable representations: {produced}"));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"), "{path}");
    }
}

#[test]
fn another_bundle_counts_from_the_next_request_on_and_a_bad_one_changes_nothing() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let now = super::super::testing::start();
    let ca = old.trusted();
    let (before, after) = (old.sign(Client::default()), new.sign(Client::default()));
    let user = ca.user(&before.chain, now).unwrap();
    assert_eq!(
        (&*user.name, &*user.groups),
        ("kube-apiserver", &["apiservers".into(), AUTHENTICATED.into()][..])
    );
    assert!(ca.user(&after.chain, now).is_err());
    assert!(ca.replace(b"rubbish").is_err() && ca.user(&before.chain, now).is_ok());
    ca.replace(new.pem().as_bytes()).unwrap();
    assert!(ca.user(&before.chain, now).is_err() && ca.user(&after.chain, now).is_ok());
    // Both, as during a rotation.
    ca.replace(format!("{}{}", old.pem(), new.pem()).as_bytes()).unwrap();
    assert!(ca.user(&before.chain, now).is_ok() && ca.user(&after.chain, now).is_ok());
}
