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
