//! Asking the cluster for a certificate: a CertificateSigningRequest, its approval by somebody else, the result.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use tokio::time::{Instant, sleep};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Error, ServingCertificate};
use crate::clock::Clock;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Serving,
    Client,
}

impl Purpose {
    /// Who signs: the controller manager, for requests that somebody has approved.
    fn signer(self) -> &'static str {
        match self {
            Self::Serving => "kubernetes.io/kubelet-serving",
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
        }
    }

    /// The file in the folder: certificate, then key, as the kubelet names it.
    fn file(self) -> &'static str {
        match self {
            Self::Serving => "kubelet-server-current.pem",
            Self::Client => "kubelet-client-current.pem",
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Serving => "server auth",
            Self::Client => "client auth",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving certificate",
            Self::Client => "client certificate",
        }
    }
}
/// How long a request may stay unanswered before another one, with another key, is made.
const PATIENCE: Duration = Duration::from_mins(15);
/// Pauses between looks at a request: from this, doubled, to that.
const LOOKS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(15)];

/// A node's wish for a serving certificate, or for the client certificate that makes it `system:node:<node>`.
///
/// The subject is `system:node:<node>` in `system:nodes`; the names are the node's and its addresses. Needs `create`
/// and `get` on `certificatesigningrequests.certificates.k8s.io`. The controller manager signs what is approved, but
/// approves no such request itself: a person or an approver does.
#[derive(Clone, Debug)]
pub struct Request {
    purpose: Purpose,
    node: String,
    addresses: Vec<IpAddr>,
    folder: Option<PathBuf>,
    lifetime: Option<Duration>,
}

impl Request {
    /// A certificate for that node at those addresses. Its key is kept in memory only: each start asks anew.
    #[must_use]
    pub fn new(node: impl Into<String>, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            purpose: Purpose::Serving,
            node: node.into(),
            addresses: addresses.into_iter().collect(),
            folder: None,
            lifetime: None,
        }
    }

    /// A client certificate for that node, kept in a file of this folder. The controller manager approves such a
    /// request by itself where the asker may create `certificatesigningrequests/nodeclient` (bootstrap), or
    /// `…/selfnodeclient` (renewal).
    #[must_use]
    pub fn for_client(node: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        Self { purpose: Purpose::Client, ..Self::new(node, []) }.stored_in(folder)
    }

    /// The file with certificate and key, if they are kept.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(self.purpose.file()))
    }

    /// Keeps certificate and key in a file of this folder, readable by this user only, and uses what is there.
    #[must_use]
    pub fn stored_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Asks for a life of this length. The signer may grant less; without it, its own default.
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// The certificate kept from an earlier start, if it is still good, and of this node and its addresses.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn stored(&self, now: Timestamp) -> Result<Option<ServingCertificate>, Error> {
        let Some(folder) = &self.folder else { return Ok(None) };
        fs::create_dir_all(folder).map_err(|error| Error::from(error).in_file(folder))?;
        let path = folder.join(self.purpose.file());
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::from(error).in_file(&path)),
        };
        let kept = ServingCertificate::from_pem(&text, &text);
        let good = kept.and_then(|kept| self.check(&kept, now).map(|()| kept));
        Ok(match good {
            Ok(kept) => Some(kept),
            Err(error) => {
                tracing::info!(path = %path.display(), %error, "the kept {} is of no use; a new one is asked for", self.purpose.name());
                None
            }
        })
    }

    /// Asks, waits up to 15 minutes, and keeps what comes.
    ///
    /// # Errors
    /// When the cluster refuses, nobody approves, or the certificate cannot be kept.
    ///
    /// # Cancellation
    /// May be dropped anywhere; a request that is left behind is cleaned up by the controller manager.
    pub async fn issue(&self, client: &kube::Client, clock: &Clock) -> Result<ServingCertificate, Error> {
        let key = KeyPair::generate()?;
        let api: Api<CertificateSigningRequest> = Api::all(client.clone());
        let created = api.create(&PostParams::default(), &self.object(&key)?).await.map_err(refused)?;
        let name = created.metadata.name.unwrap_or_default();
        tracing::info!(
            name,
            signer = self.purpose.signer(),
            "asked for a {}; `kubectl certificate approve` grants it",
            self.purpose.name()
        );
        let chain = wait(&api, &name).await?;
        let certificate = ServingCertificate::from_pem(&chain, key.serialize_pem().as_bytes())?;
        self.check(&certificate, clock.now())?;
        if let Some(folder) = &self.folder {
            let text = [chain.as_slice(), b"\n", key.serialize_pem().as_bytes()].concat();
            keep(&folder.join(self.purpose.file()), &text)?;
        }
        Ok(certificate)
    }

    fn object(&self, key: &KeyPair) -> Result<CertificateSigningRequest, Error> {
        let names = if self.purpose == Purpose::Serving { vec![self.node.clone()] } else { Vec::new() };
        let mut params = CertificateParams::new(names)?;
        params.subject_alt_names.extend(self.addresses.iter().copied().map(SanType::IpAddress));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node));
        let request = params.serialize_request(key)?.pem()?;
        Ok(CertificateSigningRequest {
            metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(request.into_bytes()),
                signer_name: self.purpose.signer().to_owned(),
                // An elliptic key enciphers nothing.
                usages: Some(vec!["digital signature".to_owned(), self.purpose.usage().to_owned()]),
                expiration_seconds: self.lifetime.and_then(|lifetime| i32::try_from(lifetime.as_secs()).ok()),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        })
    }

    /// Whether a certificate is valid now and names this node and each of its addresses.
    fn check(&self, certificate: &ServingCertificate, now: Timestamp) -> Result<(), Error> {
        let unusable = |reason: String| Error::Unusable { reason };
        let leaf = certificate.chain().first().ok_or(Error::NoCertificate)?;
        let (from, until) = super::validity(leaf)?;
        if now < from || until <= now {
            return Err(unusable(format!("it is valid from {from} to {until}, not now ({now})")));
        }
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| unusable(error.to_string()))?;
        let user = format!("system:node:{}", self.node);
        let is_ours = parsed.subject().iter_common_name().any(|name| name.as_str() == Ok(&user));
        if self.purpose == Purpose::Client && !is_ours {
            return Err(unusable(format!("it is not {user}'s")));
        }
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        for address in &self.addresses {
            let octets = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            if !names.iter().any(|name| matches!(name, GeneralName::IPAddress(known) if *known == octets)) {
                return Err(unusable(format!("it does not name {address}")));
            }
        }
        Ok(())
    }
}

/// Waits for the end of a request: a certificate, or a refusal.
async fn wait(api: &Api<CertificateSigningRequest>, name: &str) -> Result<Vec<u8>, Error> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = LOOKS[0];
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LOOKS[1]);
        let request = match api.get(name).await {
            Ok(request) => request,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(Error::Refused { reason: format!("request {name} was deleted") });
            }
            // An API server that is away for a moment has not forgotten.
            Err(error) if Instant::now() < deadline => {
                tracing::debug!(name, %error, "looking at the certificate request");
                continue;
            }
            Err(error) => return Err(refused(error)),
        };
        let status = request.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let refusal = |condition: &&CertificateSigningRequestCondition| {
            matches!(condition.type_.as_str(), "Denied" | "Failed") && condition.status == "True"
        };
        if let Some(condition) = conditions.iter().find(refusal) {
            let why = [condition.reason.as_deref(), condition.message.as_deref()];
            let why = why.into_iter().flatten().collect::<Vec<_>>().join(": ");
            return Err(Error::Refused { reason: format!("request {name} is {}: {why}", condition.type_) });
        }
        if let Some(chain) = status.certificate.filter(|chain| !chain.0.is_empty()) {
            return Ok(chain.0);
        }
        if Instant::now() >= deadline {
            let approved = conditions.iter().any(|condition| condition.type_ == "Approved");
            let missing = if approved { "approved, but nobody signed it" } else { "nobody approved it" };
            let reason = format!("request {name}: {missing} within {} min", PATIENCE.as_secs() / 60);
            return Err(Error::Refused { reason });
        }
    }
}

fn refused(error: kube::Error) -> Error {
    Error::Cluster { source: Box::new(error) }
}

/// Writes a file as a whole or not at all, for this user's eyes only.
fn keep(path: &Path, text: &[u8]) -> Result<(), Error> {
    let next = path.with_extension("pem.next");
    let write = || -> std::io::Result<()> {
        // One that was left behind may be readable by others.
        if let Err(error) = fs::remove_file(&next)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&next)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&next, path)
    };
    write().map_err(|error| Error::from(error).in_file(path))
}
