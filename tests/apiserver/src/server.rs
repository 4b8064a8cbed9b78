//! The server as a value.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::config::Config;
use crate::counters::{Counters, RequestKind, Requests};
use crate::error::ApiError;
use crate::faults::Faults;
use crate::handler;
use crate::identity::Identity;
use crate::namespaces;
use crate::proxy::Kubelets;
use crate::resources::{self, Resource};
use crate::rest;
use crate::store::{Key, Scope, Store};
use crate::tls::{Credentials, Pki, TlsError};

/// The API server. Clones share one store.
#[derive(Clone, Debug)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    store: Store,
    clock: Clock,
    random: Mutex<fastrand::Rng>,
    faults: Faults,
    counters: Counters,
    pki: Pki,
    kubelet_client: Credentials,
    kubelets: Kubelets,
    service_addresses: AtomicU32,
    static_tokens: Mutex<HashMap<String, Identity>>,
}

impl ApiServer {
    /// A server with the default settings, and the namespaces every cluster has.
    pub fn new() -> Result<Self, TlsError> {
        Self::with(Config::default())
    }

    /// A server with settings of its own. Call it inside a runtime whose time is paused if timestamps are
    /// to follow that time.
    pub fn with(config: Config) -> Result<Self, TlsError> {
        let now = config.now.unwrap_or_else(Timestamp::now);
        let seed = config.seed.unwrap_or_else(|| fastrand::u64(..));
        // Certificates are checked against the real clock, whatever the server's says.
        let pki = Pki::generate(Timestamp::now())?;
        let kubelet_client =
            pki.client("kube-apiserver-kubelet-client", &["system:masters"], Timestamp::now())?;
        let kubelets = Kubelets::new(
            pki.kubelet_config(&kubelet_client, config.verify_kubelets)?,
            pki.kubelet_config(&kubelet_client, false)?,
        );
        let inner = Inner {
            store: Store::new(config.log_limit),
            clock: Clock::starting_at(now),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            faults: Faults::new(seed),
            counters: Counters::default(),
            pki,
            kubelet_client,
            kubelets,
            service_addresses: AtomicU32::new(1),
            static_tokens: Mutex::default(),
            config,
        };
        let server = Self { inner: Arc::new(inner) };
        server.furnish();
        Ok(server)
    }

    /// The service: give it to `kube::Client::new`, or serve it. Callers are the administrator unless they
    /// say otherwise with `Authorization: Bearer`, or `Impersonate-User` and `Impersonate-Group`.
    pub fn service(&self) -> Router {
        handler::router(self.clone())
    }

    /// A client on the service, as the administrator, in namespace `default`.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.service(), "default")
    }

    /// A client whose requests come from this user.
    #[must_use]
    pub fn client_as(&self, identity: Identity) -> kube::Client {
        kube::Client::new(handler::router_for(self.clone(), identity), "default")
    }

    /// Fault rules.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    /// What was asked so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.inner.counters.snapshot()
    }

    /// The server's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Moves the clock, as when a system clock is stepped.
    pub fn jump_clock(&self, by: SignedDuration) {
        self.inner.clock.jump(by);
    }

    /// The certificate of the server's authority, PEM: what kubelets check the server's client certificate
    /// against, and what clients check the server against.
    #[must_use]
    pub fn ca_certificate(&self) -> &str {
        self.inner.pki.ca()
    }

    /// A client certificate of this server's authority.
    pub fn issue_client_cert(&self, user: &str, group: &str) -> Result<Credentials, TlsError> {
        self.inner.pki.client(user, &[group], Timestamp::now())
    }

    /// A serving certificate of this server's authority, such as a kubelet's, for names and addresses.
    pub fn issue_serving_cert(&self, common_name: &str, sans: &[String]) -> Result<Credentials, TlsError> {
        self.inner.pki.serving(common_name, &["system:nodes"], sans, Timestamp::now())
    }

    /// The certificate this server shows to kubelets: user `kube-apiserver-kubelet-client`.
    #[must_use]
    pub fn kubelet_client_cert(&self) -> &Credentials {
        &self.inner.kubelet_client
    }

    /// Makes a service in this process the kubelet of a node: logs, streams and proxied requests go there,
    /// over HTTP/1.1 through a pipe, without TLS. Other nodes' kubelets are dialled.
    pub fn add_kubelet(&self, node: impl Into<String>, service: Router) {
        self.inner.kubelets.add(node.into(), service);
    }

    /// Takes such a kubelet away.
    pub fn remove_kubelet(&self, node: &str) {
        self.inner.kubelets.remove(node);
    }

    /// Makes a bearer token stand for a user.
    pub fn add_token(&self, token: impl Into<String>, identity: Identity) {
        self.inner
            .static_tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token.into(), identity);
    }

    /// Makes it stand for nobody.
    pub fn remove_token(&self, token: &str) {
        self.inner.static_tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
    }

    /// Forgets the history of a resource (`pods`, `deployments.apps`): every watch from before now, and
    /// every continued list, is answered 410. Live watches go on.
    pub fn compact(&self, resource: &str) {
        for resource in named(resource) {
            self.store().compact(resource);
        }
    }

    /// Ends the live watches of a resource; returns how many.
    #[allow(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn drop_watches(&self, resource: &str) -> usize {
        named(resource).map(|r| self.store().cut_watches(r)).sum()
    }

    /// Holds back (`true`) what live watches of a resource would send, or lets it go; returns how many.
    #[allow(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn stall_watches(&self, resource: &str, stalled: bool) -> usize {
        named(resource).map(|r| self.store().stall_watches(r, stalled)).sum()
    }

    /// How many watches of a resource are open.
    #[must_use]
    pub fn open_watches(&self, resource: &str) -> usize {
        named(resource).map(|r| self.store().watch_count(r)).sum()
    }

    /// How many objects of a resource there are.
    #[must_use]
    pub fn count(&self, resource: &str) -> usize {
        named(resource).map(|r| self.store().len(r)).sum()
    }

    /// An object as it is stored; `namespace` is empty for cluster-wide ones.
    #[must_use]
    pub fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = Key::new(namespace, name);
        named(resource).find_map(|r| self.store().get(r, &key)).map(|o| Value::clone(&o))
    }

    /// All objects of a resource, in order of namespace and name.
    #[must_use]
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let all = named(resource).flat_map(|r| self.store().all(r, &Scope::all()));
        all.map(|o| Value::clone(&o)).collect()
    }

    /// Creates an object by its `kind` and `apiVersion`, past authentication, faults and counters.
    pub fn create(&self, object: Value) -> Result<Value, ApiError> {
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let resource = resources::of_kind(&version, &kind)
            .ok_or_else(|| ApiError::bad_request(format!("no resource for {version} {kind}")))?;
        let namespace = match text(&object["metadata"]["namespace"]) {
            _ if !resource.namespaced => String::new(),
            namespace if namespace.is_empty() => "default".to_owned(),
            namespace => namespace,
        };
        let object = rest::decode(resource, object)?;
        let created = rest::create_object(self, resource, &namespace, object, &Identity::admin(), false)?;
        Ok(Value::clone(&created))
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn kubelets(&self) -> &Kubelets {
        &self.inner.kubelets
    }

    pub(crate) fn pki(&self) -> &Pki {
        &self.inner.pki
    }

    pub(crate) fn count_request(&self, kind: RequestKind) {
        self.inner.counters.add(kind);
    }

    pub(crate) fn static_token(&self, token: &str) -> Option<Identity> {
        self.inner.static_tokens.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    fn rng(&self) -> std::sync::MutexGuard<'_, fastrand::Rng> {
        self.inner.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number in [0, 1).
    pub(crate) fn random(&self) -> f64 {
        self.rng().f64()
    }

    /// Five characters that spell no words, as generated names end in.
    pub(crate) fn random_suffix(&self) -> String {
        const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut random = self.rng();
        (0..5).map(|_| char::from(ALPHABET[random.usize(..ALPHABET.len())])).collect()
    }

    /// A random (version 4) UUID.
    pub(crate) fn new_uid(&self) -> String {
        let bits = self.rng().u128(..);
        let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// The host part of the next service address.
    pub(crate) fn next_service_address(&self) -> u32 {
        self.inner.service_addresses.fetch_add(1, Ordering::Relaxed)
    }

    /// What a fresh cluster has.
    fn furnish(&self) {
        let mut objects = Vec::new();
        for name in namespaces::INITIAL {
            objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
        objects.push(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": 6443}]},
        }));
        objects.push(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": "kube-system", "name": "extension-apiserver-authentication"},
            "data": {"client-ca-file": self.ca_certificate()},
        }));
        for object in objects {
            if let Err(error) = self.create(object) {
                tracing::error!(%error, "an initial object was refused");
            }
        }
    }
}

/// The resources of a name such as `pods` or `deployments.apps`.
fn named(name: &str) -> impl Iterator<Item = &'static Resource> {
    let (plural, group) = name.split_once('.').map_or((name, None), |(p, g)| (p, Some(g)));
    let (plural, group) = (plural.to_owned(), group.map(str::to_owned));
    resources::all().iter().filter(move |r| {
        r.plural == plural && group.as_deref().is_none_or(|g| r.group == g) && !r.is(resources::events_v1())
    })
}
