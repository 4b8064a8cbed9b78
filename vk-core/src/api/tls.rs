//! TLS for the kubelet API: the serving certificate, and client certificates that are asked for but not
//! demanded.
//!
//! Callers without a certificate may still have a token, so the handshake takes any well-formed client
//! certificate whose key the client holds, and none. Whether it is believed is decided per request, by
//! [`ClientCa`](super::ClientCa): an unknown one is a 401 instead of a broken connection.

mod request;
mod serving;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Timestamp, ToSpan as _};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, ResolvesServerCert, ServerConfig};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use self::request::Request;
pub use self::serving::Serving;

/// Why TLS material is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read it: {source}")]
    Read {
        /// The operating system's answer.
        #[from]
        source: std::io::Error,
    },
    /// The text is not PEM.
    #[error("it is not PEM: {reason}")]
    Pem {
        /// What was found.
        reason: String,
    },
    /// The text has no certificate.
    #[error("it has no certificate; a PEM block `BEGIN CERTIFICATE` is expected")]
    NoCertificate,
    /// The text has no private key.
    #[error("it has no private key; a PEM block `BEGIN PRIVATE KEY` is expected")]
    NoKey,
    /// TLS cannot work with it, such as a key that is not the certificate's.
    #[error("it cannot be used: {reason}")]
    Unusable {
        /// Why.
        reason: String,
    },
    /// The cluster did not sign it.
    #[error("{reason}")]
    Refused {
        /// What became of the request.
        reason: String,
    },
    /// The API server could not be asked.
    #[error("cannot ask the API server for it: {source}")]
    Cluster {
        /// Its answer, or why there is none.
        source: Box<kube::Error>,
    },
    /// A problem with a certain file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The problem.
        source: Box<Self>,
    },
}

impl Error {
    pub(super) fn pem(error: rustls::pki_types::pem::Error) -> Self {
        match error {
            rustls::pki_types::pem::Error::NoItemsFound => Self::NoKey,
            error => Self::Pem { reason: error.to_string() },
        }
    }

    pub(super) fn in_file(self, path: &Path) -> Self {
        Self::File { path: path.to_owned(), source: Box::new(self) }
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Self::Unusable { reason: error.to_string() }
    }
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Unusable { reason: error.to_string() }
    }
}

/// A certificate chain, leaf first, and the leaf's key.
pub struct ServingCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ServingCertificate {
    /// Reads PEM text: the chain, leaf first, and a PKCS#8, PKCS#1 or SEC1 key.
    ///
    /// # Errors
    /// When one of them is missing or is not PEM.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        Ok(Self { chain: read_chain(chain)?, key: read_key(key)? })
    }

    /// Reads two PEM files, which may be the same one.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem), naming the file.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, Error> {
        Ok(Self {
            chain: read_chain(&read(chain)?).map_err(|error| error.in_file(chain))?,
            key: read_key(&read(key)?).map_err(|error| error.in_file(key))?,
        })
    }

    /// Makes a certificate of a node that signs itself: the fallback for clusters whose API server does not
    /// check serving certificates.
    ///
    /// Its subject is what `--enable-kubelet-cert-cn-validation` wants (KEP-4872): common name
    /// `system:node:<node>`, organisation `system:nodes`. Valid for ten years from yesterday, as nothing renews
    /// it; each start makes a new one.
    ///
    /// # Errors
    /// When the node's name cannot be put into a certificate.
    pub fn self_signed(node: &str, addresses: &[IpAddr], now: Timestamp) -> Result<Self, Error> {
        let mut params = CertificateParams::new(vec![node.to_owned()])?;
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (year, month, day) = ymd(now, -1);
        params.not_before = rcgen::date_time_ymd(year, month, day);
        let (year, month, day) = ymd(now, 3652);
        params.not_after = rcgen::date_time_ymd(year, month, day);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|reason| Error::Unusable { reason: reason.to_owned() })?;
        Ok(Self { chain: vec![certificate.der().clone()], key })
    }

    /// The chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingCertificate").field("chain_length", &self.chain.len()).finish_non_exhaustive()
    }
}

/// TLS 1.2 and 1.3 with this certificate; client certificates are asked for, not demanded. HTTP/1.1 only:
/// HTTP/2 cannot carry the upgrades of exec, attach and port-forward.
///
/// # Errors
/// When the key is not the certificate's, or of a kind that TLS does not know.
pub fn server_config(certificate: ServingCertificate) -> Result<Arc<ServerConfig>, Error> {
    Serving::fixed(certificate)?.config()
}

fn config_with(certificate: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, Error> {
    let crypto = crypto();
    let verifier = AnyClientCertificate { crypto: Arc::clone(&crypto) };
    let mut config = ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The one crypto provider; taken here explicitly, so that no process-wide default is needed.
pub(super) fn crypto() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::from(error).in_file(path))
}

fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(Error::pem)?;
    if chain.is_empty() { Err(Error::NoCertificate) } else { Ok(chain) }
}

fn read_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem).map_err(Error::pem)
}

/// From when until when a certificate is valid.
fn validity(certificate: &CertificateDer<'_>) -> Result<(Timestamp, Timestamp), Error> {
    let unusable = |reason: String| Error::Unusable { reason };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| unusable(error.to_string()))?;
    let time = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).map_err(|error| unusable(error.to_string()))
    };
    let validity = parsed.validity();
    Ok((time(validity.not_before)?, time(validity.not_after)?))
}

/// The UTC day so many days from `now`.
fn ymd(now: Timestamp, days: i32) -> (i32, u8, u8) {
    let date = now.to_zoned(jiff::tz::TimeZone::UTC).date().saturating_add(days.days());
    // Months and days are 1 to 31.
    (i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
}

/// Takes every well-formed client certificate whose key the client has.
#[derive(Debug)]
struct AnyClientCertificate {
    crypto: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClientCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: a client with any certificate sends it.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        ParsedCertificate::try_from(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.crypto.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.crypto.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.crypto.signature_verification_algorithms.supported_schemes()
    }
}
