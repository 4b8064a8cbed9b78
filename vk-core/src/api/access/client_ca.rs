//! Client certificates: whom a certificate authority vouches for.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::User;
use crate::api::tls::{self, Error};

/// The certificate authorities whose client certificates are believed. In a cluster they are the key
/// `client-ca-file` of the ConfigMap `kube-system/extension-apiserver-authentication`.
///
/// Certificates are checked for each request, so that [`replace`](Self::replace) and a certificate's expiry
/// take effect on connections that are already open.
pub struct ClientCa {
    verifier: RwLock<Arc<dyn ClientCertVerifier>>,
}

impl ClientCa {
    /// Reads a PEM bundle.
    ///
    /// # Errors
    /// When the text has no certificate, or one that cannot be a trust anchor.
    pub fn from_pem(bundle: &[u8]) -> Result<Self, Error> {
        Ok(Self { verifier: RwLock::new(verifier(bundle)?) })
    }

    /// Reads a PEM bundle from a file.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem), and when the file cannot be read; both name the file.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let bundle = tls::read(path)?;
        Self::from_pem(&bundle).map_err(|error| error.in_file(path))
    }

    /// Believes another bundle from now on.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem); the present bundle stays.
    pub fn replace(&self, bundle: &[u8]) -> Result<(), Error> {
        let verifier = verifier(bundle)?;
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = verifier;
        Ok(())
    }

    /// The user of a certificate chain, leaf first: its common name, and its organisations as groups.
    ///
    /// # Errors
    /// Why the chain is not believed, for the log.
    pub(crate) fn user(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<User, String> {
        let (leaf, intermediates) = chain.split_first().ok_or("no certificate")?;
        let since_epoch = u64::try_from(now.as_second()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(since_epoch));
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
