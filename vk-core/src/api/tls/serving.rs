//! The certificate that a server shows: fixed, followed in files, or asked of the cluster; replaced while it serves.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;

use super::request::Request;
use super::{Error, ServingCertificate, config_with, crypto};
use crate::api::reload::Reload;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// The metrics' name for it.
const CREDENTIAL: &str = "serving-certificate";

/// A server's certificate, and where the next one comes from. Clones are the same certificate.
///
/// New connections are shown the newest one; those that are open go on. What is no use (a key that is not the
/// certificate's, half a file) is told in the log and in `vk_credential_renewals_total`, and the present one stays.
#[derive(Clone)]
pub struct Serving {
    shown: Arc<Shown>,
    source: Arc<Source>,
    reload: Reload,
}

enum Source {
    Fixed,
    /// With what was read last, which is secret.
    Files {
        chain: PathBuf,
        key: PathBuf,
        seen: [Vec<u8>; 2],
    },
    Requested(Request),
}

/// What handshakes get.
#[derive(Debug, Default)]
struct Shown(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Serving {
    /// Always this one.
    ///
    /// # Errors
    /// When the key is not the certificate's, or of a kind that TLS does not know.
    pub fn fixed(certificate: ServingCertificate) -> Result<Self, Error> {
        let serving = Self::of(Source::Fixed);
        serving.show(certificate)?;
        Ok(serving)
    }

    /// The one in two PEM files, which may be the same, and what they hold later: they are read again every ten
    /// seconds, and on [`reload`](Self::reload).
    ///
    /// # Errors
    /// As [`ServingCertificate::from_files`] and [`fixed`](Self::fixed), about the present files.
    pub fn files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, Error> {
        let (chain, key) = (chain.into(), key.into());
        let seen = [super::read(&chain)?, super::read(&key)?];
        let certificate = ServingCertificate::from_files(&chain, &key)?;
        let serving = Self::of(Source::Files { chain, key, seen });
        serving.show(certificate)?;
        Ok(serving)
    }

    /// One that the cluster signs (signer `kubernetes.io/kubelet-serving`), renewed at 70 to 90 % of its life. Until
    /// the first one is there, which takes somebody's approval, handshakes fail; a stored one is used at once.
    ///
    /// # Errors
    /// When the request cannot be made up, or its folder cannot be used.
    pub fn requested(request: Request, now: Timestamp) -> Result<Self, Error> {
        let stored = request.stored(now)?;
        let serving = Self::of(Source::Requested(request));
        if let Some(certificate) = stored {
            serving.show(certificate)?;
        }
        Ok(serving)
    }

    fn of(source: Source) -> Self {
        Self { shown: Arc::default(), source: Arc::new(source), reload: Reload::default() }
    }

    /// TLS with this certificate: see [`server_config`](super::server_config).
    ///
    /// # Errors
    /// None that a certificate could cause.
    pub fn config(&self) -> Result<Arc<ServerConfig>, Error> {
        config_with(Arc::clone(&self.shown) as Arc<dyn ResolvesServerCert>)
    }

    /// Looks at the files now rather than at their next turn.
    pub fn reload(&self) {
        self.reload.now();
    }

    /// When the certificate in use expires; `None` without one.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        super::validity(self.chain()?.first()?).ok().map(|(_, until)| until)
    }

    /// The certificate in use and those above it, leaf first; `None` without one.
    #[must_use]
    pub fn chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        let shown = self.shown.0.read().unwrap_or_else(PoisonError::into_inner);
        shown.as_ref().map(|shown| shown.cert.clone())
    }

    fn show(&self, certificate: ServingCertificate) -> Result<(), Error> {
        let key = CertifiedKey::from_der(certificate.chain, certificate.key, &crypto())?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        Ok(())
    }

    /// Keeps the certificate fresh. Does not end.
    ///
    /// # Cancellation
    /// May be dropped anywhere; the certificate in use stays.
    pub(crate) async fn keep(&self, client: &kube::Client, clock: &Clock, metrics: &Metrics) {
        if let Some(expires) = self.expires() {
            metrics.credentials().in_use(CREDENTIAL, clock.now(), Some(expires));
        }
        match &*self.source {
            Source::Fixed => std::future::pending().await,
            Source::Files { chain, key, seen } => {
                let mut seen = seen.clone();
                loop {
                    self.reload.wait().await;
                    let read = (tokio::fs::read(chain).await, tokio::fs::read(key).await);
                    let (Ok(chain), Ok(key)) = read else {
                        // In the middle of a replacement, or for good: then the expiry tells.
                        tracing::debug!(?chain, ?key, "serving certificate: cannot read the files");
                        continue;
                    };
                    let read = [chain, key];
                    if read == seen {
                        continue;
                    }
                    self.take(ServingCertificate::from_pem(&read[0], &read[1]), clock, metrics);
                    seen = read;
                }
            }
            Source::Requested(request) => {
                let mut failures = 0_u32;
                loop {
                    let held = self.shown.0.read().unwrap_or_else(PoisonError::into_inner).clone();
                    if let Some((from, until)) =
                        held.and_then(|held| super::validity(held.cert.first()?).ok())
                    {
                        sleep_until(clock, renewal(from, until, 0.7 + 0.2 * fastrand::f64())).await;
                    }
                    match request.issue(client, clock).await {
                        Ok(certificate) => {
                            failures = 0;
                            self.take(Ok(certificate), clock, metrics);
                        }
                        Err(error) => {
                            metrics.credentials().renewal(CREDENTIAL, "failed");
                            failures = failures.saturating_add(1);
                            let pause =
                                Duration::from_secs(15).saturating_mul(1 << failures.min(6)).min(LONGEST);
                            tracing::warn!(
                                error = chain_of(&error),
                                ?pause,
                                "no serving certificate from the cluster"
                            );
                            tokio::time::sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
                        }
                    }
                }
            }
        }
    }

    fn take(&self, certificate: Result<ServingCertificate, Error>, clock: &Clock, metrics: &Metrics) {
        let outcome = match certificate.and_then(|certificate| self.show(certificate)) {
            Ok(()) => {
                let expires = self.expires();
                metrics.credentials().in_use(CREDENTIAL, clock.now(), expires);
                tracing::info!(
                    expires = expires.map(tracing::field::display),
                    "serving certificate replaced"
                );
                "ok"
            }
            Err(error) => {
                tracing::warn!(error = chain_of(&error), "serving certificate not replaced");
                "failed"
            }
        };
        metrics.credentials().renewal(CREDENTIAL, outcome);
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &*self.source {
            Source::Fixed => "fixed",
            Source::Files { .. } => "files",
            Source::Requested(_) => "requested",
        };
        f.debug_struct("Serving")
            .field("source", &source)
            .field("expires", &self.expires())
            .finish_non_exhaustive()
    }
}

/// Longest pause between requests.
const LONGEST: Duration = Duration::from_mins(15);

/// The moment at which so much of a certificate's life is over.
fn renewal(from: Timestamp, until: Timestamp, share: f64) -> Timestamp {
    let life = until.duration_since(from).unsigned_abs();
    jiff::SignedDuration::try_from(life.mul_f64(share))
        .ok()
        .and_then(|age| from.checked_add(age).ok())
        .unwrap_or(until)
}

/// Waits for a moment of the wall clock, which may be put forward or have slept.
async fn sleep_until(clock: &Clock, moment: Timestamp) {
    const LOOK: Duration = Duration::from_mins(10);
    loop {
        let left = moment.duration_since(clock.now());
        let Ok(left) = Duration::try_from(left) else { return };
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

fn chain_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
