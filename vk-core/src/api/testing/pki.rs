//! Certificate authorities and client certificates for tests.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::api::ClientCa;

/// A certificate authority.
pub(in crate::api) struct Ca(CertifiedIssuer<'static, KeyPair>);

/// What a client certificate says; the default is a good one of `kube-apiserver`.
pub(in crate::api) struct Client {
    pub(in crate::api) name: &'static str,
    pub(in crate::api) organisation: &'static str,
    pub(in crate::api) years: (i32, i32),
    pub(in crate::api) usage: ExtendedKeyUsagePurpose,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            name: "kube-apiserver",
            organisation: "apiservers",
            years: (2020, 2096),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
        }
    }
}

/// A certificate with its key.
pub(in crate::api) struct Identity {
    pub(in crate::api) chain: Vec<CertificateDer<'static>>,
    pub(in crate::api) key: PrivateKeyDer<'static>,
}

impl Ca {
    pub(in crate::api) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(in crate::api) fn pem(&self) -> String {
        self.0.pem()
    }

    /// As the kubelet API is given it.
    pub(in crate::api) fn trusted(&self) -> Arc<ClientCa> {
        Arc::new(ClientCa::from_pem(self.pem().as_bytes()).unwrap())
    }

    /// Signs a certificate request as it is, for a life from one moment to another; returns PEM.
    pub(in crate::api) fn grant(
        &self,
        request: &str,
        from: jiff::Timestamp,
        until: jiff::Timestamp,
    ) -> String {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(request).unwrap();
        let date = |time: jiff::Timestamp| {
            rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(time.as_second() as u64)
        };
        (request.params.not_before, request.params.not_after) = (date(from), date(until));
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        request.signed_by(&self.0).unwrap().pem()
    }

    /// A serving certificate of `node-1` at loopback, and its key, as PEM.
    pub(in crate::api) fn serving(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec!["node-1".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    pub(in crate::api) fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(in crate::api) fn sign(&self, client: Client) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, client.organisation);
        params.distinguished_name.push(DnType::CommonName, client.name);
        params.not_before = rcgen::date_time_ymd(client.years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(client.years.1, 1, 1);
        params.extended_key_usages = vec![client.usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}
