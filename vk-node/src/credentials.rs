//! What the daemon shows the API server, and what it believes the API server by: kept as fresh as the files.
//!
//! A token, a client certificate, the cluster's authority, or the kubeconfig that names them may be replaced while the
//! daemon runs: by the kubelet in a pod, by whoever rotates certificates elsewhere. Every request takes what is newest;
//! those under way end with what they began with. A file that is of no use, such as one that is half written, changes
//! nothing.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::client::Body;
use kube::config::Kubeconfig;
use kube::{Client, Config};

use crate::cluster;
use crate::config::settings::ClusterSettings;
use crate::fault::{Fault, chain};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What a pod is given.
const IN_POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The newest way to the API server. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    config: Arc<Mutex<Config>>,
    generation: Arc<AtomicU64>,
}

impl Credentials {
    /// Counted up by whoever has news, here or elsewhere.
    pub(crate) fn new(config: Config, generation: Arc<AtomicU64>) -> Self {
        Self { config: Arc::new(Mutex::new(config)), generation }
    }

    fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From the next request on.
    fn renew(&self, config: Config) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// A client with connections of its own, which takes what is newest from its next request on.
    pub(crate) fn client(&self) -> kube::Result<Client> {
        let generation = self.generation.load(Ordering::Acquire);
        let first = Client::try_from(self.config())?;
        let namespace = first.default_namespace().to_owned();
        let present = Arc::new(Mutex::new((generation, first)));
        let newest = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let wanted = newest.generation.load(Ordering::Acquire);
            let client = {
                let mut present = present.lock().unwrap_or_else(PoisonError::into_inner);
                if present.0 != wanted {
                    match Client::try_from(newest.config()) {
                        Ok(fresh) => *present = (wanted, fresh),
                        Err(error) => {
                            tracing::error!(error = chain(&error), "the new credentials are of no use");
                        }
                    }
                }
                present.1.clone()
            };
            async move { client.send(request).await }
        });
        Ok(Client::new(service, namespace))
    }
}

/// Takes over what changes in the files that a cluster's settings lead to.
#[derive(Debug)]
pub(crate) struct Follower {
    settings: ClusterSettings,
    credentials: Credentials,
    /// What the files were when they were taken over last.
    taken: u64,
    /// What they were when they were of no use.
    refused: Option<u64>,
}

/// What came of a look.
#[derive(Debug)]
enum Look {
    Same,
    Renewed,
    /// Said once for each content.
    Refused(Option<Fault>),
}

impl Follower {
    pub(crate) async fn new(settings: ClusterSettings, credentials: Credentials) -> Self {
        let taken = digest(&settings).await;
        Self { settings, credentials, taken, refused: None }
    }

    /// Does not end.
    pub(crate) async fn follow(mut self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.look().await {
                Look::Same | Look::Refused(None) => {}
                Look::Renewed => {
                    tracing::info!("the credentials for the API server have changed, and are in use");
                }
                Look::Refused(Some(fault)) => {
                    tracing::error!(
                        "the credentials for the API server have changed, and are not taken over: {fault}"
                    );
                }
            }
        }
    }

    async fn look(&mut self) -> Look {
        let now = digest(&self.settings).await;
        if now == self.taken {
            return Look::Same;
        }
        match self.usable().await {
            Ok(config) => {
                self.credentials.renew(config);
                (self.taken, self.refused) = (now, None);
                Look::Renewed
            }
            // Looked at again, for it may be what else they lead to that is missing.
            Err(fault) => Look::Refused((self.refused.replace(now) != Some(now)).then_some(fault)),
        }
    }

    async fn usable(&self) -> Result<Config, Fault> {
        let config = cluster::config(&self.settings).await?;
        let place = format!("for {}", config.cluster_url);
        Client::try_from(config.clone())
            .map(|_| config)
            .map_err(|error| Fault::new("cannot set up a client", place, chain(&error)))
    }
}

/// What all the files hold, or that they are not there.
async fn digest(settings: &ClusterSettings) -> u64 {
    let kubeconfigs = cluster::kubeconfigs(settings);
    let read = move || {
        let mut hasher = DefaultHasher::new();
        for path in files(&kubeconfigs) {
            (&path, std::fs::read(&path).ok()).hash(&mut hasher);
        }
        hasher.finish()
    };
    // A disk may be slow. The closure does not panic; a runtime that ends needs no answer.
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// The kubeconfigs with what they name; without any, what a pod is given.
fn files(kubeconfigs: &[PathBuf]) -> Vec<PathBuf> {
    if kubeconfigs.is_empty() {
        return ["token", "ca.crt"].map(|name| Path::new(IN_POD).join(name)).to_vec();
    }
    let mut files = kubeconfigs.to_vec();
    for kubeconfig in kubeconfigs.iter().filter_map(|path| Kubeconfig::read_from(path).ok()) {
        let clusters = kubeconfig.clusters.into_iter().filter_map(|named| named.cluster);
        files.extend(clusters.filter_map(|cluster| cluster.certificate_authority).map(PathBuf::from));
        for user in kubeconfig.auth_infos.into_iter().filter_map(|named| named.auth_info) {
            let named = [user.token_file, user.client_certificate, user.client_key];
            files.extend(named.into_iter().flatten().map(PathBuf::from));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use k8s_openapi::api::core::v1::Namespace;
    use kube::Api;
    use kube::api::ListParams;
    use serde_json::{Value, json};
    use tempfile::TempDir;
    use tokio::task::JoinSet;
    use vk_apiserver::{ApiServer, Identity, Serving};

    use super::*;
    use crate::cluster::Cluster;

    /// An API server, the files that lead to it, and a daemon's way there.
    struct Way {
        server: ApiServer,
        serving: Serving,
        home: TempDir,
        cluster: Cluster,
        settings: ClusterSettings,
    }

    impl Way {
        async fn new() -> Self {
            let server = ApiServer::new().unwrap();
            let serving = server.serve_tls(([127, 0, 0, 1], 0).into()).await.unwrap();
            let home = tempfile::tempdir().unwrap();
            let settings = ClusterSettings {
                kubeconfig: Some(home.path().join("kubeconfig")),
                context: None,
                bootstrap: None,
                server: None,
                connect_timeout: Duration::from_secs(10),
                startup_timeout: None,
            };
            server.add_token("first", Identity::admin());
            write(&home, "token", "first");
            write(&home, "ca.crt", server.ca_certificate());
            write(&home, "kubeconfig", &kubeconfig(&serving, &json!({ "tokenFile": "token" })));
            let cluster = cluster::connect(&settings, "a").await.unwrap();
            Self { server, serving, home, cluster, settings }
        }

        fn generation(&self) -> u64 {
            self.cluster.credentials.generation.load(Ordering::Acquire)
        }

        /// Writes a file, and waits until the daemon has seen it.
        async fn replace(&self, name: &str, text: &str) {
            let before = self.generation();
            write(&self.home, name, text);
            let seen = async {
                while self.generation() == before {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_mins(1), seen).await.expect("it is taken over");
        }

        async fn follower(&self) -> Follower {
            Follower::new(self.settings.clone(), self.cluster.credentials.clone()).await
        }
    }

    /// As a volume's files are replaced: at once.
    fn write(home: &TempDir, name: &str, text: &str) {
        let new = home.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, home.path().join(name)).unwrap();
    }

    fn kubeconfig(serving: &Serving, user: &Value) -> String {
        let server = format!("https://{}", serving.address());
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "vk",
            "clusters": [{ "name": "vk", "cluster": { "server": server, "certificate-authority": "ca.crt" } }],
            "users": [{ "name": "node", "user": user }],
            "contexts": [{ "name": "vk", "context": { "cluster": "vk", "user": "node" } }],
        });
        config.to_string()
    }

    async fn ask(client: &Client) -> kube::Result<()> {
        Api::<Namespace>::all(client.clone()).list(&ListParams::default().limit(1)).await.map(drop)
    }

    /// Asks and asks, with a client of the nodes and one like that of the leases.
    struct Loop {
        asked: Arc<AtomicUsize>,
        failed: Arc<Mutex<Vec<String>>>,
        _tasks: JoinSet<()>,
    }

    impl Loop {
        fn over(cluster: &Cluster) -> Self {
            let (asked, failed): (Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) = Default::default();
            let mut tasks = JoinSet::new();
            for client in [cluster.client.clone(), cluster.connector()().unwrap()] {
                let (asked, failed) = (Arc::clone(&asked), Arc::clone(&failed));
                tasks.spawn(async move {
                    loop {
                        if let Err(error) = ask(&client).await {
                            failed.lock().unwrap().push(chain(&error));
                        }
                        asked.fetch_add(1, Ordering::AcqRel);
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                });
            }
            Self { asked, failed, _tasks: tasks }
        }

        /// Waits for so many more requests, none of which may have failed.
        async fn goes_on(&self, what: &str) {
            let until = self.asked.load(Ordering::Acquire) + 40;
            let reached = async {
                while self.asked.load(Ordering::Acquire) < until {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_mins(1), reached).await.expect(what);
            assert_eq!(*self.failed.lock().unwrap(), Vec::<String>::new(), "{what}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn token_authority_and_client_certificate_are_replaced_and_no_request_is_refused_meanwhile() {
        let way = Way::new().await;
        let following = tokio::spawn(way.follower().await.follow());
        let asking = Loop::over(&way.cluster);
        asking.goes_on("at first").await;

        way.server.add_token("second", Identity::admin());
        way.replace("token", "second").await;
        // Those under way with the old one end.
        asking.goes_on("with both tokens").await;
        way.server.remove_token("first");
        asking.goes_on("with the new token alone").await;

        let other = ApiServer::new().unwrap();
        let [old, new] = [&way.server, &other].map(|server| server.ca_certificate().to_owned());
        way.replace("ca.crt", &format!("{old}{new}")).await;
        asking.goes_on("with both authorities").await;
        let sans = [way.serving.address().ip().to_string()];
        way.serving.present(&other.issue_serving_cert("kube-apiserver", &sans).unwrap()).unwrap();
        asking.goes_on("with the server's new certificate").await;
        way.replace("ca.crt", &new).await;
        asking.goes_on("with the new authority alone").await;

        for user in ["one", "two"] {
            let issued = way.server.issue_client_cert(user, "system:masters").unwrap();
            let file = format!("{user}.pem");
            write(&way.home, &file, &format!("{}{}", issued.certificate, issued.key));
            let user = json!({ "client-certificate": file, "client-key": file });
            way.replace("kubeconfig", &kubeconfig(&way.serving, &user)).await;
            asking.goes_on("with a client certificate").await;
        }
        let issued = way.server.issue_client_cert("three", "system:masters").unwrap();
        way.replace("two.pem", &format!("{}{}", issued.certificate, issued.key)).await;
        asking.goes_on("with a renewed client certificate").await;
        following.abort();
        way.serving.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_is_of_no_use_changes_nothing_and_is_said_once() {
        let way = Way::new().await;
        let mut follower = way.follower().await;
        assert!(matches!(follower.look().await, Look::Same));
        let good = std::fs::read_to_string(way.home.path().join("ca.crt")).unwrap();
        let half = &good[..good.len() / 2];
        for (name, bad) in [("ca.crt", half), ("ca.crt", ""), ("token", "\n"), ("kubeconfig", "clusters: [")]
        {
            let before = std::fs::read_to_string(way.home.path().join(name)).unwrap();
            write(&way.home, name, bad);
            let Look::Refused(Some(fault)) = follower.look().await else { panic!("{name} is taken over") };
            assert!(fault.to_string().contains("kubeconfig"), "{fault}");
            assert!(matches!(follower.look().await, Look::Refused(None)), "said once");
            ask(&way.cluster.client).await.expect("the old ones are good");
            write(&way.home, name, &before);
            assert!(matches!(follower.look().await, Look::Same), "as it was");
        }
        write(&way.home, "ca.crt", &format!("{good}\n"));
        assert!(matches!(follower.look().await, Look::Renewed));
        way.serving.stop().await;
    }

    #[test]
    fn a_pods_own_files_are_followed_where_no_kubeconfig_is() {
        let names: Vec<_> = files(&[]).iter().map(|path| path.display().to_string()).collect();
        let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
        assert_eq!(names, [format!("{folder}/token"), format!("{folder}/ca.crt")]);
    }
}
