//! Certificates of a control plane: one authority for everything, as small clusters have.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

use crate::addresses;

/// The group the API server's kubelet client certificate belongs to; bound to `system:kubelet-api-admin`.
pub const KUBELET_CLIENT_GROUP: &str = "vk-test:kubelet-api";

/// As whom the API server asks servers behind it, such as metrics-server, in the name of its own callers.
pub const FRONT_PROXY: &str = "front-proxy-client";

/// A certificate and its key, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PKCS #8 PEM, readable by its owner only.
    pub key: PathBuf,
}

/// Who a certificate is for.
#[derive(Debug, Clone, Copy)]
struct Subject<'a> {
    name: &'a str,
    /// The certificate's organization: the user's group. One only, as rcgen's names hold one of each attribute.
    group: Option<&'a str>,
    addresses: &'a [IpAddr],
    dns: &'a [&'a str],
    usage: ExtendedKeyUsage,
}

#[derive(Debug, Clone, Copy)]
enum ExtendedKeyUsage {
    Client,
    Server,
}

/// The folder of certificates, with the authority's key to make more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pki {
    folder: PathBuf,
}

/// The files of the certificate for any node.
const NODES: &str = "nodes";

impl Pki {
    /// The certificates in a folder that [`Pki::create`] filled.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Makes the authority, the service-account key and every component's certificate.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let pki = Self::at(folder);
        let authority = generate_key()?;
        let certificate =
            authority_params().self_signed(&authority).context("signing the authority's certificate")?;
        write_public(&pki.authority(), &certificate.pem())?;
        write_secret(&pki.authority_key(), &authority.serialize_pem())?;
        let service_accounts = generate_key()?;
        write_secret(&pki.service_account_key(), &service_accounts.serialize_pem())?;
        write_public(&pki.service_account_public_key(), &service_accounts.public_key_pem())?;
        let addresses =
            [addresses::API_SERVER, addresses::SERVICE, std::net::Ipv4Addr::LOCALHOST].map(IpAddr::from);
        let dns = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        pki.issue(
            "apiserver",
            Subject {
                name: "kube-apiserver",
                group: None,
                addresses: &addresses,
                dns: &dns,
                usage: ExtendedKeyUsage::Server,
            },
        )?;
        let nodes: Vec<IpAddr> =
            std::iter::once(addresses::API_SERVER).chain(addresses::nodes()).map(IpAddr::from).collect();
        pki.issue(
            NODES,
            Subject {
                name: "system:node:any",
                group: Some("system:nodes"),
                addresses: &nodes,
                dns: &[],
                usage: ExtendedKeyUsage::Server,
            },
        )?;
        pki.client_cert("admin", "vk-test:admin", Some("system:masters"))?;
        pki.client_cert("kubelet-client", "kube-apiserver-kubelet-client", Some(KUBELET_CLIENT_GROUP))?;
        pki.client_cert("front-proxy-client", FRONT_PROXY, None)?;
        pki.client_cert("controller-manager", "system:kube-controller-manager", None)?;
        pki.client_cert("scheduler", "system:kube-scheduler", None)?;
        Ok(pki)
    }

    /// The certificate that any node of the namespace may serve its kubelet API with: it is valid for every address
    /// there, and for no name.
    #[must_use]
    pub fn nodes_pair(&self) -> Pair {
        self.pair(NODES)
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The authority's certificate: signs servers and clients alike, the kubelet API's included.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// The authority's key, which is also the cluster's CSR signer.
    #[must_use]
    pub fn authority_key(&self) -> PathBuf {
        self.folder.join("ca.key")
    }

    /// The key service-account tokens are signed with.
    #[must_use]
    pub fn service_account_key(&self) -> PathBuf {
        self.folder.join("service-accounts.key")
    }

    /// The key service-account tokens are checked with.
    #[must_use]
    pub fn service_account_public_key(&self) -> PathBuf {
        self.folder.join("service-accounts.pub")
    }

    /// The files a certificate of this file name is kept in.
    #[must_use]
    pub fn pair(&self, file: &str) -> Pair {
        Pair {
            certificate: self.folder.join(format!("{file}.crt")),
            key: self.folder.join(format!("{file}.key")),
        }
    }

    /// Issues a client certificate for a user and its group, kept under a file name (`FILE.crt`, `FILE.key`).
    pub fn client_cert(&self, file: &str, user: &str, group: Option<&str>) -> Result<Pair> {
        let subject =
            Subject { name: user, group, addresses: &[], dns: &[], usage: ExtendedKeyUsage::Client };
        self.issue(file, subject)
    }

    /// Issues the certificate a node serves its kubelet API with, as `kubernetes.io/kubelet-serving` would:
    /// `system:node:NODE` of `system:nodes`, valid for the node's name and address.
    pub fn serving_cert(&self, node: &str, address: IpAddr) -> Result<Pair> {
        let subject = Subject {
            name: &format!("system:node:{node}"),
            group: Some("system:nodes"),
            addresses: &[address],
            dns: &[node],
            usage: ExtendedKeyUsage::Server,
        };
        self.issue(&format!("serving-{node}"), subject)
    }

    fn issue(&self, file: &str, subject: Subject<'_>) -> Result<Pair> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if !file.starts_with(|c: char| c.is_ascii_alphanumeric()) || !file.chars().all(plain) {
            bail!("{file:?} can't name a certificate's files: use letters, digits, - and .");
        }
        let authority = self.authority_key();
        let text =
            fs::read_to_string(&authority).with_context(|| format!("reading {}", authority.display()))?;
        let key = KeyPair::from_pem(&text).with_context(|| format!("reading {}", authority.display()))?;
        let issuer = Issuer::new(authority_params(), key);
        let own = generate_key()?;
        let certificate = leaf_params(subject)?
            .signed_by(&own, &issuer)
            .with_context(|| format!("signing the certificate of {}", subject.name))?;
        let pair = self.pair(file);
        write_public(&pair.certificate, &certificate.pem())?;
        write_secret(&pair.key, &own.serialize_pem())?;
        Ok(pair)
    }
}

fn generate_key() -> Result<KeyPair> {
    KeyPair::generate().context("generating a key")
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "vk-test-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn leaf_params(subject: Subject<'_>) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(group) = subject.group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, subject.name);
    for address in subject.addresses {
        params.subject_alt_names.push(SanType::IpAddress(*address));
    }
    for name in subject.dns {
        let dns = (*name).try_into().with_context(|| format!("{name} is not a DNS name"))?;
        params.subject_alt_names.push(SanType::DnsName(dns));
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match subject.usage {
        ExtendedKeyUsage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsage::Server => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    Ok(params)
}

fn write_public(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    write_public(path, "")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protecting {}", path.display()))?;
    write_public(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_can_not_leave_the_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pki = Pki::create(folder.path()).expect("certificates");
        for bad in ["../x", "a/b", "a b"] {
            assert!(pki.serving_cert(bad, IpAddr::V4(addresses::NODE)).is_err(), "{bad}");
        }
        assert!(pki.client_cert(".", "user", None).is_err());
        let pair = pki.serving_cert("node-1.example", IpAddr::V4(addresses::NODE)).expect("a good name");
        assert_eq!(pair, pki.pair("serving-node-1.example"));
    }
}
