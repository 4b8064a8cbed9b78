//! Whose certificates are believed.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::error::{Error, Result};

/// Whose certificates a backend's servers may show. Cheap to clone: make one and keep it.
///
/// It stands for a TLS library's configuration, which is no part of this crate's interface.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

impl Trust {
    /// The authorities that this machine trusts: its certificate store, or the file and folder that `SSL_CERT_FILE`
    /// and `SSL_CERT_DIR` name. Reads files: not for every session anew.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is not one authority that can be used.
    pub fn system() -> Result<Self> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            let why: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            let why = if why.is_empty() { "its store is empty".to_owned() } else { why.join("; ") };
            return Err(Error::unavailable(format!("this machine trusts no certificate authority: {why}")));
        }
        Ok(Self::of(roots))
    }

    /// The authorities in a PEM bundle, and no others.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when a certificate in it cannot be read, or there is none.
    pub fn authorities(pem: &[u8]) -> Result<Self> {
        let unusable = |why: String| Error::unexpected(format!("unusable certificate authorities: {why}"));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unusable("no certificate in the PEM text".to_owned()));
        }
        Ok(Self::of(roots))
    }

    pub(super) fn of(roots: RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            // Invariant: it fails only for a crypto provider that lacks suites for these versions.
            .expect("aws-lc-rs has suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        Self(Arc::new(config.with_no_client_auth()))
    }

    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_come_from_pem_and_from_nothing_else() {
        let key = rcgen::KeyPair::generate().unwrap();
        let own =
            rcgen::CertificateParams::new(vec!["backend".to_owned()]).unwrap().self_signed(&key).unwrap();
        assert!(Trust::authorities(own.pem().as_bytes()).is_ok());
        let none = Trust::authorities(b"hello").unwrap_err();
        assert_eq!(none.to_string(), "unusable certificate authorities: no certificate in the PEM text");
        let broken = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        assert!(Trust::authorities(broken.as_bytes()).is_err());
    }
}
