//! Client certificates: whom a certificate authority vouches for.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::User;
use crate::api::reload::Reload;
use crate::api::tls::{self, Error};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Where every cluster publishes the authority of the API server's own client certificates.
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";
const KEY: &str = "client-ca-file";
/// How often the cluster is asked for it.
const ASK: Duration = Duration::from_mins(1);
/// The metrics' name for it.
const CREDENTIAL: &str = "client-ca";

/// The certificate authorities whose client certificates are believed. In a cluster they are the key
/// `client-ca-file` of the ConfigMap `kube-system/extension-apiserver-authentication`.
///
/// Certificates are checked for each request, so that [`replace`](Self::replace) and a certificate's expiry
/// take effect on connections that are already open.
pub struct ClientCa {
    verifier: RwLock<Arc<dyn ClientCertVerifier>>,
    /// What was read last.
    bundle: RwLock<Vec<u8>>,
    source: Source,
    reload: Reload,
    /// Held by the one that keeps it fresh, among nodes that share it.
    keeper: tokio::sync::Mutex<()>,
}

enum Source {
    Fixed,
    File(PathBuf),
    Cluster(kube::Client),
}

impl ClientCa {
    /// Reads a PEM bundle.
    ///
    /// # Errors
    /// When the text has no certificate, or one that cannot be a trust anchor.
    pub fn from_pem(bundle: &[u8]) -> Result<Self, Error> {
        Self::of(bundle, Source::Fixed)
    }

    /// Reads a PEM bundle from a file, and what it holds later: it is read again every ten seconds, and on
    /// [`reload`](Self::reload).
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem), and when the file cannot be read; both name the file.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let bundle = tls::read(path)?;
        Self::of(&bundle, Source::File(path.to_owned())).map_err(|error| error.in_file(path))
    }

    /// The bundle that the cluster publishes, and what it publishes later: it is asked every minute. Needs `get` on
    /// the ConfigMap, which the Role `extension-apiserver-authentication-reader` grants.
    ///
    /// # Errors
    /// When the ConfigMap cannot be read, or has no such bundle.
    pub async fn from_cluster(client: kube::Client) -> Result<Self, Error> {
        let bundle = published(&client).await?;
        Self::of(bundle.as_bytes(), Source::Cluster(client))
    }

    fn of(bundle: &[u8], source: Source) -> Result<Self, Error> {
        Ok(Self {
            verifier: RwLock::new(verifier(bundle)?),
            bundle: RwLock::new(bundle.to_vec()),
            source,
            reload: Reload::default(),
            keeper: tokio::sync::Mutex::default(),
        })
    }

    /// Reads the file now rather than at its next turn.
    pub fn reload(&self) {
        self.reload.now();
    }

    /// Believes another bundle from now on.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem); the present bundle stays.
    pub fn replace(&self, bundle: &[u8]) -> Result<(), Error> {
        let verifier = verifier(bundle)?;
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = verifier;
        bundle.clone_into(&mut self.bundle.write().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// Keeps the bundle fresh. Does not end; of several that share it one works and the others stand by.
    pub(crate) async fn keep(&self, clock: &Clock, metrics: &Metrics) {
        metrics.credentials().in_use(CREDENTIAL, clock.now(), None);
        if matches!(self.source, Source::Fixed) {
            return std::future::pending().await;
        }
        let _keeper = self.keeper.lock().await;
        let mut refused = None;
        loop {
            let read = match &self.source {
                Source::Fixed => return std::future::pending().await,
                Source::File(path) => {
                    self.reload.wait().await;
                    tokio::fs::read(path).await.map_err(|error| error.to_string())
                }
                Source::Cluster(client) => {
                    tokio::time::sleep(ASK).await;
                    published(client).await.map(String::into_bytes).map_err(|error| error.to_string())
                }
            };
            let bundle = match read {
                Ok(bundle) => bundle,
                Err(reason) => {
                    tracing::debug!(reason, "client CA not read");
                    continue;
                }
            };
            let known = *self.bundle.read().unwrap_or_else(PoisonError::into_inner) == bundle;
            if known || refused.as_ref() == Some(&bundle) {
                continue;
            }
            match self.replace(&bundle) {
                Ok(()) => {
                    tracing::info!("client CA replaced");
                    metrics.credentials().in_use(CREDENTIAL, clock.now(), None);
                    metrics.credentials().renewal(CREDENTIAL, "ok");
                }
                Err(error) => {
                    tracing::warn!(%error, "client CA not replaced");
                    metrics.credentials().renewal(CREDENTIAL, "failed");
                    refused = Some(bundle);
                }
            }
        }
    }

    /// The user of a certificate chain, leaf first: its common name, and its organisations as groups.
    ///
    /// # Errors
    /// Why the chain is not believed, for the log.
    pub(crate) fn user(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<User, String> {
        let (leaf, intermediates) = chain.split_first().ok_or("no certificate")?;
        let since_epoch = u64::try_from(now.as_second()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(since_epoch));
        let verifier = Arc::clone(&self.verifier.read().unwrap_or_else(PoisonError::into_inner));
        verifier.verify_client_cert(leaf, intermediates, now).map_err(|error| error.to_string())?;
        subject(leaf)
    }
}

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCa").finish_non_exhaustive()
    }
}

/// What the cluster publishes now.
async fn published(client: &kube::Client) -> Result<String, Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let map = api.get(CONFIG_MAP).await.map_err(|error| Error::Cluster { source: Box::new(error) })?;
    let bundle = map.data.unwrap_or_default().remove(KEY);
    bundle
        .ok_or_else(|| Error::Unusable { reason: format!("ConfigMap {NAMESPACE}/{CONFIG_MAP} has no {KEY}") })
}

fn verifier(bundle: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        roots.add(certificate.map_err(Error::pem)?)?;
    }
    if roots.is_empty() {
        return Err(Error::NoCertificate);
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::crypto())
        .build()
        .map_err(|error| Error::Unusable { reason: error.to_string() })
}

fn subject(leaf: &CertificateDer<'_>) -> Result<User, String> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let subject = certificate.subject();
    let name = subject
        .iter_common_name()
        .last()
        .and_then(|name| name.as_str().ok())
        .filter(|name| !name.is_empty())
        .ok_or("the certificate has no common name")?;
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    Ok(User::new(name, groups))
}
