//! A node's own identity, `system:node:NAME`: asked for with a bootstrap kubeconfig, kept in files, renewed before it
//! expires. As the kubelet does it (`--bootstrap-kubeconfig`, `--cert-dir`).

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::{Client, Config};
use serde_json::json;
use vk_core::api::tls::{Request, ServingCertificate};
use vk_core::clock::Clock;

use crate::config::settings::BootstrapSettings;
use crate::fault::{Fault, chain};

/// Pauses between attempts at a renewal.
const RETRY: Duration = Duration::from_mins(1);

/// A node's certificate, and the clients that use it.
#[derive(Clone, Debug)]
pub(crate) struct NodeIdentity {
    request: Request,
    /// Counted up with each new certificate.
    generation: Arc<AtomicU64>,
}

impl NodeIdentity {
    pub(crate) fn new(settings: &BootstrapSettings, node: &str) -> Self {
        Self { request: Request::for_client(node, &settings.cert_dir), generation: Arc::default() }
    }

    /// Whether there is a certificate that can be used.
    pub(crate) fn is_there(&self, kubeconfig: &Path) -> Result<bool, Fault> {
        let kept = self.request.stored(Timestamp::now()).map_err(|error| self.fault(&error))?;
        Ok(kept.is_some() && kubeconfig.exists())
    }

    /// Asks for a certificate as the bootstrap kubeconfig's user, and writes the node's own kubeconfig.
    pub(crate) async fn establish(&self, bootstrap: Config, kubeconfig: &Path) -> Result<(), Fault> {
        let server = bootstrap.cluster_url.clone();
        let authority: Option<String> = bootstrap
            .root_cert
            .as_ref()
            .map(|chain| chain.iter().map(|der| pem("CERTIFICATE", der)).collect());
        let client = Client::try_from(bootstrap)
            .map_err(|error| Fault::new("cannot set up a client", format!("for {server}"), chain(&error)))?;
        self.request.issue(&client, &Clock::system()).await.map_err(|error| {
            Fault::new(
                "no client certificate for the node",
                format!("from {server}"),
                format!(
                    "let the bootstrap user create certificatesigningrequests (ClusterRole system:node-bootstrapper) \
                     and have them approved ({})",
                    chain(&error)
                ),
            )
        })?;
        let mut cluster = json!({ "server": server.to_string() });
        if let Some(authority) = authority {
            cluster["certificate-authority-data"] = base64(authority.as_bytes()).into();
        }
        let file = self.request.file();
        let own = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "node",
            "clusters": [{ "name": "cluster", "cluster": cluster }],
            "users": [{ "name": "node", "user": { "client-certificate": file, "client-key": file } }],
            "contexts": [{ "name": "node", "context": { "cluster": "cluster", "user": "node" } }],
        });
        std::fs::write(kubeconfig, format!("{own:#}\n")).map_err(|error| {
            Fault::new(
                "cannot write the node's kubeconfig",
                format!("to {}", kubeconfig.display()),
                error.to_string(),
            )
        })
    }

    /// What is counted up with each new certificate.
    pub(crate) fn generation(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.generation)
    }

    /// Renews the certificate at 70 to 90 % of its life. Does not end.
    pub(crate) async fn keep(&self, client: &Client) -> Infallible {
        loop {
            let wait = match self.request.stored(Timestamp::now()) {
                Ok(Some(kept)) => due(&kept).unwrap_or_default(),
                Ok(None) | Err(_) => Duration::ZERO,
            };
            tokio::time::sleep(wait).await;
            match self.request.issue(client, &Clock::system()).await {
                Ok(_) => {
                    self.generation.fetch_add(1, Ordering::AcqRel);
                    tracing::info!("the node's client certificate is renewed");
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), retry = ?RETRY, "the node's client certificate is not renewed");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn fault(&self, error: &vk_core::api::tls::Error) -> Fault {
        let place = self.request.file().map_or_else(String::new, |file| format!("in {}", file.display()));
        Fault::new(
            "cannot keep the node's client certificate",
            place,
            format!("check --cert-dir ({})", chain(error)),
        )
    }
}

/// How long until a certificate is to be renewed, with jitter, so that a fleet does not ask at once.
fn due(certificate: &ServingCertificate) -> Option<Duration> {
    let (_, leaf) = x509_parser::parse_x509_certificate(certificate.chain().first()?).ok()?;
    let validity = leaf.validity();
    let life = validity.not_after.timestamp() - validity.not_before.timestamp();
    let share = 0.7 + 0.2 * fastrand::f64();
    let at = validity.not_before.timestamp() + (life as f64 * share) as i64;
    let left = Timestamp::from_second(at).ok()?.duration_since(Timestamp::now());
    Some(Duration::try_from(left.max(SignedDuration::ZERO)).unwrap_or_default())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use kube::config::{KubeConfigOptions, Kubeconfig};
    use tokio::time::Instant;
    use vk_apiserver::{ApiServer, Controller};

    use super::*;
    use crate::credentials::Credentials;

    async fn config_of(file: &Path) -> Config {
        let kubeconfig = Kubeconfig::read_from(file).unwrap();
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_certificate_is_renewed_before_it_expires_and_no_request_is_refused_meanwhile() {
        let server = ApiServer::new().unwrap();
        let serving = server.serve_tls(([127, 0, 0, 1], 0).into()).await.unwrap();
        let _controllers = server.start(Controller::ALL);
        let home = tempfile::tempdir().unwrap();
        let (bootstrap, own) = (home.path().join("bootstrap"), home.path().join("own"));
        serving.write_kubeconfig(&bootstrap).unwrap();
        let request = Request::for_client("a", home.path().join("pki")).with_lifetime(Duration::from_secs(4));
        let identity = NodeIdentity { request, generation: Arc::default() };
        assert!(!identity.is_there(&own).unwrap());
        identity.establish(config_of(&bootstrap).await, &own).await.unwrap();
        assert!(identity.is_there(&own).unwrap());

        let client = Credentials::new(config_of(&own).await, identity.generation()).client().unwrap();
        let keeper = identity.clone();
        let kept_with = client.clone();
        let keeping = tokio::spawn(async move { keeper.keep(&kept_with).await });
        let began = Instant::now();
        while identity.generation.load(Ordering::Acquire) < 2 {
            client.apiserver_version().await.expect("no request is refused");
            assert!(began.elapsed() < Duration::from_mins(1), "it is renewed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.apiserver_version().await.expect("the newest certificate is good");
        keeping.abort();
        serving.stop().await;
    }
}
