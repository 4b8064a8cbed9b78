//! The cluster: a client for it, and whether it answers.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::time::Instant;

use crate::config::load;
use crate::config::settings::{BootstrapSettings, ClusterSettings};
use crate::credentials::{Credentials, Follower};
use crate::fault::{Fault, chain};
use crate::identity::NodeIdentity;

/// A cluster that answered.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// For everything but leases.
    pub(crate) client: Client,
    /// Makes further clients, with connections of their own.
    pub(crate) credentials: Credentials,
    /// Where they come from.
    settings: ClusterSettings,
    /// The API server's URL.
    pub(crate) server: http::Uri,
    /// Its version, such as `v1.37.0`.
    pub(crate) version: String,
    /// The node's own identity, if it has one.
    pub(crate) identity: Option<NodeIdentity>,
}

impl Cluster {
    /// Another client, with connections of its own.
    pub(crate) fn connector(&self) -> impl FnOnce() -> kube::Result<Client> + Send + 'static {
        let credentials = self.credentials.clone();
        move || credentials.client()
    }

    /// Takes new credentials over for as long as it is polled.
    pub(crate) async fn follow(&self) -> Infallible {
        Follower::new(self.settings.clone(), self.credentials.clone()).await.follow().await
    }
}

/// Pause between attempts to reach the API server at start.
const RETRY: Duration = Duration::from_millis(250);

/// Finds the cluster and waits, within the settings' time, until it answers.
pub(crate) async fn connect(settings: &ClusterSettings, node: &str) -> Result<Cluster, Fault> {
    let identity = match &settings.bootstrap {
        Some(bootstrap) => Some(identify(settings, bootstrap, node).await?),
        None => None,
    };
    let config = config(settings).await?;
    let server = config.cluster_url.clone();
    let generation = identity.as_ref().map(NodeIdentity::generation).unwrap_or_default();
    let credentials = Credentials::new(config, generation);
    let client = credentials
        .client()
        .map_err(|error| Fault::new("cannot set up a client", format!("for {server}"), chain(&error)))?;
    let version = wait_until_it_answers(&client, &server, settings.connect_timeout).await?;
    Ok(Cluster { client, credentials, settings: settings.clone(), server, version, identity })
}

/// What a client is made of, as the files are now.
pub(crate) async fn config(settings: &ClusterSettings) -> Result<Config, Fault> {
    let mut config = find(settings).await?;
    if let Some(server) = &settings.server {
        config.cluster_url = server.clone();
    }
    // A dead address must not eat the whole start.
    config.connect_timeout = Some(settings.connect_timeout.min(Duration::from_secs(10)));
    whole(&config)?;
    Ok(config)
}

/// Whether the files that it was made of hold something: one that is being written may not, yet.
fn whole(config: &Config) -> Result<(), Fault> {
    if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
        return Err(Fault::new(
            "no certificate of an authority",
            "in certificate-authority of the kubeconfig",
            "a PEM block BEGIN CERTIFICATE is expected",
        ));
    }
    if let Some(file) = &config.auth_info.token_file
        && std::fs::read_to_string(file).is_ok_and(|token| token.trim().is_empty())
    {
        return Err(Fault::new("no token", format!("in {file}, the kubeconfig's tokenFile"), "write one"));
    }
    Ok(())
}

/// As [`connect`], but asks for no identity: a node that has none yet is looked at with its bootstrap kubeconfig.
pub(crate) async fn look(settings: &ClusterSettings, node: &str) -> Result<Cluster, Fault> {
    let mut settings = settings.clone();
    if let (Some(bootstrap), Some(kubeconfig)) = (settings.bootstrap.clone(), &settings.kubeconfig)
        && !NodeIdentity::new(&bootstrap, node).is_there(kubeconfig)?
    {
        settings.kubeconfig = Some(bootstrap.kubeconfig);
        settings.bootstrap = None;
    }
    connect(&settings, node).await
}

/// The node's own identity, asked for if need be.
async fn identify(
    settings: &ClusterSettings,
    bootstrap: &BootstrapSettings,
    node: &str,
) -> Result<NodeIdentity, Fault> {
    let identity = NodeIdentity::new(bootstrap, node);
    let Some(kubeconfig) = &settings.kubeconfig else { return Ok(identity) };
    if !identity.is_there(kubeconfig)? {
        let context = KubeConfigOptions::default();
        let mut config = from_files(&split(&bootstrap.kubeconfig), &context).await?;
        if let Some(server) = &settings.server {
            config.cluster_url = server.clone();
        }
        config.connect_timeout = Some(settings.connect_timeout.min(Duration::from_secs(10)));
        identity.establish(config, kubeconfig).await?;
        tracing::info!(node, kubeconfig = %kubeconfig.display(), "the node has an identity of its own");
    }
    Ok(identity)
}

async fn find(settings: &ClusterSettings) -> Result<Config, Fault> {
    let context = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    let files = kubeconfigs(settings);
    if !files.is_empty() {
        return from_files(&files, &context).await;
    }
    Config::incluster().map_err(|error| {
        Fault::new(
            "no cluster",
            "in the settings (cluster.kubeconfig), in $KUBECONFIG, in ~/.kube/config or in this pod",
            format!("name a kubeconfig with --kubeconfig ({})", chain(&error)),
        )
    })
}

/// The kubeconfig's files; none in a pod.
pub(crate) fn kubeconfigs(settings: &ClusterSettings) -> Vec<PathBuf> {
    if let Some(path) = &settings.kubeconfig {
        return split(path);
    }
    let usual = std::env::home_dir().map(|home| home.join(".kube/config"));
    usual.filter(|path| path.exists()).into_iter().collect()
}

/// `$KUBECONFIG` may list several files.
fn split(path: &Path) -> Vec<PathBuf> {
    if path.exists() { vec![path.to_owned()] } else { std::env::split_paths(path).collect() }
}

async fn from_files(paths: &[PathBuf], context: &KubeConfigOptions) -> Result<Config, Fault> {
    let mut merged = Kubeconfig::default();
    for path in paths {
        // Read for the fault's sake: the file's absence has its own line.
        load::read(path, "the kubeconfig")?;
        merged = Kubeconfig::read_from(path)
            .and_then(|next| merged.merge(next))
            .map_err(|error| in_kubeconfig(&error, paths))?;
    }
    Config::from_custom_kubeconfig(merged, context).await.map_err(|error| in_kubeconfig(&error, paths))
}

fn in_kubeconfig(error: &KubeconfigError, paths: &[PathBuf]) -> Fault {
    let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let place = format!("in the kubeconfig {}", names.join(", "));
    match error {
        KubeconfigError::CurrentContextNotSet => {
            Fault::new("no current context", place, "set one with kubectl config use-context, or --context")
        }
        KubeconfigError::LoadContext(name) => {
            Fault::new(format!("no context {name:?}"), place, "see kubectl config get-contexts")
        }
        KubeconfigError::LoadClusterOfContext(name) => {
            Fault::new(format!("no cluster {name:?}"), place, "see kubectl config get-clusters")
        }
        other => Fault::new("unusable kubeconfig", place, chain(other)),
    }
}

async fn wait_until_it_answers(
    client: &Client,
    server: &http::Uri,
    patience: Duration,
) -> Result<String, Fault> {
    let deadline = Instant::now() + patience;
    let place = format!("at {server}");
    let mut last = format!("no answer within {patience:?}");
    let mut said = String::new();
    loop {
        match tokio::time::timeout_at(deadline, client.apiserver_version()).await {
            Ok(Ok(info)) => return Ok(info.git_version),
            Ok(Err(kube::Error::Api(status))) => match status.code {
                401 => {
                    return Err(Fault::new(
                        "the API server does not know our credentials",
                        place,
                        "renew the token or the client certificate in the kubeconfig",
                    ));
                }
                // It answers; it does not tell strangers its version.
                403 => return Ok(String::new()),
                code => last = format!("HTTP {code}: {}", status.message),
            },
            Ok(Err(error)) => {
                let text = chain(&error);
                if is_trust(&text) {
                    return Err(Fault::new(
                        "cannot trust the API server",
                        place,
                        format!("check certificate-authority in the kubeconfig ({text})"),
                    ));
                }
                last = text;
            }
            Err(_) => {}
        }
        if Instant::now() + RETRY >= deadline {
            return Err(Fault::new(
                "cannot reach the API server",
                place,
                format!("check that it runs and that this address is right ({last})"),
            ));
        }
        if said != last {
            tracing::info!(%server, "waiting for the API server: {last}");
            said.clone_from(&last);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether a connection failed because of certificates: waiting does not help then.
fn is_trust(text: &str) -> bool {
    text.contains("certificate") || text.contains("UnknownIssuer")
}
