//! The server's own certificate authority and what it issues.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SigningKey,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::identity::Identity;

/// What went wrong with certificates or keys.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate could not be made or read.
    #[error("certificate")]
    Certificate(#[from] rcgen::Error),
    /// A TLS configuration was refused.
    #[error("TLS configuration")]
    Config(#[from] rustls::Error),
    /// A PEM file does not hold what it should.
    #[error("PEM: {0}")]
    Pem(String),
}

/// A certificate with its key, both PEM. Debug output leaves the key out.
#[derive(Clone)]
pub struct Credentials {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The cluster's certificate authority: it signs the server, its clients and the kubelets, and its second
/// key signs service-account tokens.
pub(crate) struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca: String,
    tokens: KeyPair,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").finish_non_exhaustive()
    }
}

/// Validity of what is issued without a wish of its own.
const YEAR: Duration = Duration::from_hours(365 * 24);

impl Pki {
    pub(crate) fn generate(now: Timestamp) -> Result<Self, TlsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("kubernetes", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, now, YEAR * 10);
        let ca = params.self_signed(&key)?.pem();
        let tokens = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        Ok(Self { issuer: Issuer::new(params, key), ca, tokens })
    }

    /// The authority's certificate, PEM.
    pub(crate) fn ca(&self) -> &str {
        &self.ca
    }

    /// A client certificate for a user in groups.
    pub(crate) fn client(
        &self,
        user: &str,
        groups: &[&str],
        now: Timestamp,
    ) -> Result<Credentials, TlsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(user, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, now)
    }

    /// A serving certificate for names and addresses.
    pub(crate) fn serving(
        &self,
        common_name: &str,
        groups: &[&str],
        sans: &[String],
        now: Timestamp,
    ) -> Result<Credentials, TlsError> {
        let mut params = CertificateParams::new(sans.to_vec())?;
        params.distinguished_name = name(common_name, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, now)
    }

    fn issue(&self, mut params: CertificateParams, now: Timestamp) -> Result<Credentials, TlsError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, now, YEAR);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Credentials { certificate, key: key.serialize_pem() })
    }

    /// Signs a certificate request with the usages asked for; returns PEM.
    pub(crate) fn sign_request(
        &self,
        request: &str,
        usages: &[&str],
        lifetime: Option<Duration>,
        now: Timestamp,
    ) -> Result<String, TlsError> {
        let mut request = CertificateSigningRequestParams::from_pem(request)?;
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.is_ca = IsCa::ExplicitNoCa;
        request.params.extended_key_usages = usages
            .iter()
            .filter_map(|usage| match *usage {
                "client auth" => Some(ExtendedKeyUsagePurpose::ClientAuth),
                "server auth" => Some(ExtendedKeyUsagePurpose::ServerAuth),
                _ => None,
            })
            .collect();
        set_validity(&mut request.params, now, lifetime.unwrap_or(YEAR));
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// Signs the head and claims of a token. The same input always gives the same signature.
    pub(crate) fn sign_token(&self, text: &str) -> Result<Vec<u8>, TlsError> {
        Ok(self.tokens.sign(text.as_bytes())?)
    }

    /// TLS for the server itself: clients may show a certificate of this authority.
    pub(crate) fn server_config(&self, credentials: &Credentials) -> Result<ServerConfig, TlsError> {
        let (chain, key) = parse(credentials)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|e| TlsError::Pem(e.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// TLS towards kubelets: with the kubelet-client certificate, and their certificates verified or not.
    pub(crate) fn kubelet_config(
        &self,
        client: &Credentials,
        verify: bool,
    ) -> Result<ClientConfig, TlsError> {
        let (chain, key) = parse(client)?;
        let builder =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = if verify {
            builder.with_root_certificates(self.roots()?)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
        };
        let mut config = builder.with_client_auth_cert(chain, key)?;
        // Upgrades exist on HTTP/1.1 only.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(self.ca.as_bytes()).map_err(pem_error)?;
        roots.add(der)?;
        Ok(roots)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn name(common_name: &str, groups: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // rcgen keeps one value per type; further groups are told apart as custom types would break readers,
    // so only the first is carried.
    if let Some(group) = groups.first() {
        name.push(DnType::OrganizationName, *group);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    params.not_before = epoch + now.saturating_sub(Duration::from_mins(5));
    params.not_after = epoch + now + lifetime;
}

fn parse(
    credentials: &Credentials,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = CertificateDer::pem_slice_iter(credentials.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem_error)?;
    let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).map_err(pem_error)?;
    Ok((chain, key))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err asks for")]
fn pem_error(error: rustls_pki_types::pem::Error) -> TlsError {
    TlsError::Pem(error.to_string())
}

/// The user a verified client certificate stands for: its CN, in the groups of its O.
pub(crate) fn identity_of(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned);
    Some(Identity::new(user, groups.collect::<Vec<_>>()))
}

/// What a certificate request asks to be called: common name, organizations, and alternative names.
pub(crate) fn requested_names(request: &str) -> Option<(String, Vec<String>, Vec<String>)> {
    let request = CertificateSigningRequestParams::from_pem(request).ok()?;
    let text = |kind: &DnType| match request.params.distinguished_name.get(kind)? {
        rcgen::DnValue::Utf8String(text) => Some(text.clone()),
        rcgen::DnValue::PrintableString(text) => Some(text.as_str().to_owned()),
        _ => None,
    };
    let sans = request.params.subject_alt_names.iter().filter_map(|san| match san {
        SanType::DnsName(name) => Some(name.as_str().to_owned()),
        SanType::IpAddress(ip) => Some(ip.to_string()),
        _ => None,
    });
    let organizations = text(&DnType::OrganizationName).into_iter().collect();
    Some((text(&DnType::CommonName)?, organizations, sans.collect()))
}

/// Accepts any server certificate, as the real server does without a kubelet CA; signatures still count.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_certificate_tells_user_and_group() {
        let pki = Pki::generate(Timestamp::now()).unwrap();
        let client = pki.client("system:node:n1", &["system:nodes"], Timestamp::now()).unwrap();
        let der = CertificateDer::from_pem_slice(client.certificate.as_bytes()).unwrap();
        let identity = identity_of(&der).unwrap();
        assert_eq!(identity.user, "system:node:n1");
        assert!(identity.groups.contains(&"system:nodes".to_owned()));
        assert!(!format!("{client:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_request_is_signed_with_its_names() {
        let pki = Pki::generate(Timestamp::now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["10.0.0.1".to_owned(), "n1".to_owned()]).unwrap();
        params.distinguished_name = name("system:node:n1", &["system:nodes"]);
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let (cn, groups, sans) = requested_names(&request).unwrap();
        assert_eq!((cn.as_str(), groups.as_slice()), ("system:node:n1", &["system:nodes".to_owned()][..]));
        assert_eq!(sans, ["10.0.0.1", "n1"]);
        let signed = pki.sign_request(&request, &["server auth"], None, Timestamp::now()).unwrap();
        let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
        assert_eq!(identity_of(&der).unwrap().user, "system:node:n1");
    }
}
