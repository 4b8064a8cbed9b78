//! TLS for the kubelet API: the serving certificate, and client certificates that are asked for but not
//! demanded.
//!
//! Callers without a certificate may still have a token, so the handshake takes any well-formed client
//! certificate whose key the client holds, and none. Whether it is believed is decided per request, by
//! [`ClientCa`](super::ClientCa): an unknown one is a 401 instead of a broken connection.

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
use rustls::server::{ParsedCertificate, ServerConfig};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

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
    let crypto = crypto();
    let verifier = AnyClientCertificate { crypto: Arc::clone(&crypto) };
    let mut config = ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(certificate.chain, certificate.key)?;
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

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData as _;
    use x509_parser::extensions::GeneralName;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T10:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_self_signed_certificate_says_which_node_it_is_of_and_where_that_is() {
        let addresses = ["192.0.2.10".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let own = ServingCertificate::self_signed("node-1", &addresses, now()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&own.chain()[0]).unwrap();
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:node-1");
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(
            names.value.general_names,
            [
                GeneralName::DNSName("node-1"),
                GeneralName::IPAddress(&[192, 0, 2, 10]),
                GeneralName::IPAddress(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            ]
        );
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth);
        let validity = certificate.validity();
        assert!(validity.not_before.timestamp() <= now().as_second());
        assert!(validity.not_after.timestamp() > now().as_second() + 9 * 365 * 86_400);
        server_config(own).unwrap();
    }

    #[test]
    fn bad_files_are_named_with_what_is_wrong_with_them() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        let good = file("good.crt", &certificate);
        let good_key = file("good.key", &key.serialize_pem());
        let empty = file("empty", "");
        let rubbish = file("rubbish", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
        let missing = directory.path().join("missing");
        assert!(ServingCertificate::from_files(&good, &good_key).is_ok());
        for (chain, key, name, what) in [
            (&missing, &good_key, "missing", "cannot read it"),
            (&empty, &good_key, "empty", "no certificate"),
            (&rubbish, &good_key, "rubbish", "not PEM"),
            (&good, &missing, "missing", "cannot read it"),
            (&good, &good, "good.crt", "no private key"),
        ] {
            let error = ServingCertificate::from_files(chain, key).unwrap_err().to_string();
            assert!(error.contains(&format!("/{name}: ")) && error.contains(what), "{error}");
        }
        let error = super::super::ClientCa::from_file(&empty).unwrap_err().to_string();
        assert!(error.contains("/empty: ") && error.contains("no certificate"), "{error}");
    }

    #[test]
    fn a_key_that_is_not_the_certificates_is_refused_at_start() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        assert_ne!(key.der_bytes(), other.der_bytes());
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        let pair = |key: &KeyPair| {
            ServingCertificate::from_pem(certificate.as_bytes(), key.serialize_pem().as_bytes()).unwrap()
        };
        assert!(server_config(pair(&key)).is_ok());
        assert!(matches!(server_config(pair(&other)), Err(Error::Unusable { .. })));
    }

    #[test]
    fn a_serving_certificate_does_not_show_its_key() {
        let own = ServingCertificate::self_signed("node-1", &[], now()).unwrap();
        assert_eq!(format!("{own:?}"), "ServingCertificate { chain_length: 1, .. }");
    }
}
