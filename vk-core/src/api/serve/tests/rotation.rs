//! Credentials that change while requests come one after the other, none of which may notice.

use std::sync::Mutex;

use async_trait::async_trait;
use http::header::AUTHORIZATION;

use super::*;
use crate::api::testing::signer::{Cluster, Deed};
use crate::api::tls::Serving;
use crate::api::{Action, ClientCa, ReviewError, Reviewer, User};
use crate::clock::Clock;

/// Knows the tokens in a list, and lets everybody do everything.
#[derive(Debug, Default)]
struct Tokens(Mutex<Vec<&'static str>>);

#[async_trait]
impl Reviewer for Tokens {
    async fn authenticate(&self, token: &str) -> Result<Option<User>, ReviewError> {
        let known = self.0.lock().unwrap().contains(&token);
        Ok(known.then(|| User::new("scraper", ["monitoring"])))
    }
    async fn authorize(&self, _: &User, _: &Action) -> Result<bool, ReviewError> {
        Ok(true)
    }
}

/// What the client shows at present.
#[derive(Clone, Default)]
struct Shown {
    authority: usize,
    token: Option<&'static str>,
}

/// Requests without a pause, each on a connection of its own and each also on one that stays.
struct Caller {
    shown: Arc<Mutex<Shown>>,
    /// Answers so far, and the last server certificate.
    seen: Arc<Mutex<(u64, Vec<u8>)>>,
    task: JoinHandle<()>,
}

impl Caller {
    fn start(port: &Arc<Port>, clients: Arc<[Ca; 2]>) -> Self {
        let (shown, seen) = (Arc::new(Mutex::new(Shown::default())), Arc::<Mutex<(u64, Vec<u8>)>>::default());
        let (port, now, record) = (Arc::clone(port), Arc::clone(&shown), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            loop {
                let shown = now.lock().unwrap().clone();
                let identity =
                    shown.token.is_none().then(|| clients[shown.authority].sign(Client::default()));
                let stream = port.tls(identity).await.expect("a handshake that succeeds");
                let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
                let (mut http, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                let mut request = request("/pods");
                if let Some(token) = shown.token {
                    request.headers_mut().insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
                }
                let answer = http.send_request(request).await.expect("an answer");
                assert_eq!(answer.status(), 200);
                let mut seen = record.lock().unwrap();
                *seen = (seen.0 + 1, certificate);
            }
        });
        Self { shown, seen, task }
    }

    /// Waits for some more answers, all of them good.
    async fn goes_on(&self) {
        let before = self.seen.lock().unwrap().0;
        self.until(|(count, _)| *count >= before + 5).await;
    }

    async fn until(&self, wanted: impl Fn(&(u64, Vec<u8>)) -> bool) {
        within(async {
            while !wanted(&self.seen.lock().unwrap()) {
                assert!(!self.task.is_finished(), "a request failed");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn certificates_authorities_and_tokens_change_under_requests_and_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let put = |name: &str, text: &str| {
        // As a mounted Secret changes: at once.
        std::fs::write(path("next"), text).unwrap();
        std::fs::rename(path("next"), path(name)).unwrap();
    };
    let server = Ca::new("server");
    let clients = Arc::new([Ca::new("old"), Ca::new("new")]);
    let (first, second) = (server.serving("first"), server.serving("second"));
    put("tls.pem", &format!("{}{}", first.0, first.1));
    put("ca.crt", &clients[0].pem());
    let serving = Serving::files(path("tls.pem"), path("tls.pem")).unwrap();
    let ca = Arc::new(ClientCa::from_file(&path("ca.crt")).unwrap());
    let tokens = Arc::new(Tokens(Mutex::new(vec!["one"])));
    let reviewer: Arc<dyn Reviewer> = Arc::<Tokens>::clone(&tokens);
    let access = Access::none().with_client_ca(Arc::clone(&ca)).with_reviewer(reviewer);
    let router = guarded(Arc::default(), vec![running("web")], access).router();
    let mut roots = RootCertStore::empty();
    roots.add(server.certificate()).unwrap();
    let port = Arc::new(Port::with(router, Limits::default(), serving.config().unwrap(), roots).await);
    let keeper = {
        let (serving, ca, metrics) = (serving.clone(), Arc::clone(&ca), port.metrics.clone());
        tokio::spawn(async move {
            let clock = Clock::system();
            let client = kube::Client::new(Router::new(), "default");
            tokio::join!(serving.keep(&client, &clock, &metrics), ca.keep(&clock, &metrics));
        })
    };
    let caller = Caller::start(&port, Arc::clone(&clients));
    caller.goes_on().await;
    let shown_first = caller.seen.lock().unwrap().1.clone();
    let mut open = port.http(Some(clients[0].sign(Client::default()))).await;
    assert_eq!(again(&mut open, "/pods").await, 200);

    // The serving certificate.
    put("tls.pem", &format!("{}{}", second.0, second.1));
    serving.reload();
    caller.until(|(_, certificate)| *certificate != shown_first).await;
    caller.goes_on().await;
    assert_eq!(again(&mut open, "/pods").await, 200, "on the old connection");

    // The clients' authority: both, then the new one alone.
    let replaced = |outcome: &str| {
        port.count(&format!("vk_credential_renewals_total{{credential=\"client-ca\",outcome=\"{outcome}\"}}"))
    };
    let until_replaced = async |times: u64| {
        within(async {
            while replaced("ok") < times {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    };
    put("ca.crt", &format!("{}{}", clients[0].pem(), clients[1].pem()));
    ca.reload();
    until_replaced(1).await;
    caller.goes_on().await;
    caller.shown.lock().unwrap().authority = 1;
    // The one under way may still be the old one's.
    caller.goes_on().await;
    put("ca.crt", &clients[1].pem());
    ca.reload();
    until_replaced(2).await;
    caller.goes_on().await;
    assert_eq!(
        again(&mut open, "/pods").await,
        401,
        "the old authority counts no more, not even on a connection that was open"
    );

    // The caller's token.
    caller.shown.lock().unwrap().token = Some("one");
    caller.goes_on().await;
    tokens.0.lock().unwrap().push("two");
    caller.shown.lock().unwrap().token = Some("two");
    caller.goes_on().await;
    tokens.0.lock().unwrap().remove(0);
    caller.goes_on().await;

    caller.task.abort();
    assert!(caller.task.await.unwrap_err().is_cancelled(), "a request failed");
    keeper.abort();
    assert_eq!((replaced("ok"), replaced("failed")), (2, 0));
    Arc::into_inner(port).expect("the caller has ended").close().await;
}

#[tokio::test]
async fn the_cluster_signs_certificate_after_certificate_under_requests_and_none_is_refused() {
    let clock = Clock::system();
    // A minute of its life is over when it comes, which is time for the next one.
    let cluster = Cluster::new(&clock, &[Deed::Grant(0, 66); 4]);
    let node = tls::Request::new("node-1", [Ipv4Addr::LOCALHOST.into()]);
    let serving = Serving::requested(node, clock.now()).unwrap();
    let clients = Arc::new([Ca::new("clients"), Ca::new("nobody's")]);
    let access = Access::none().with_client_ca(clients[0].trusted()).with_trusted_name("kube-apiserver");
    let router = guarded(Arc::default(), vec![running("web")], access).router();
    let mut roots = RootCertStore::empty();
    roots.add(cluster.ca.certificate()).unwrap();
    let port = Arc::new(Port::with(router, Limits::default(), serving.config().unwrap(), roots).await);
    let keeper = {
        let (serving, client, metrics) = (serving.clone(), cluster.client(), port.metrics.clone());
        tokio::spawn(async move { serving.keep(&client, &clock, &metrics).await })
    };
    within(async {
        while serving.expires().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let caller = Caller::start(&port, clients);
    caller.goes_on().await;
    for _ in 0..3 {
        let shown = caller.seen.lock().unwrap().1.clone();
        caller.until(|(_, certificate)| *certificate != shown).await;
        caller.goes_on().await;
    }
    let replaced = "vk_credential_renewals_total{credential=\"serving-certificate\",outcome=\"ok\"}";
    assert_eq!(port.count(replaced), 4);
    caller.task.abort();
    assert!(caller.task.await.unwrap_err().is_cancelled(), "a request failed");
    keeper.abort();
    Arc::into_inner(port).expect("the caller has ended").close().await;
}
