//! Serving certificates: made, read, followed, asked for.

use std::time::Duration;

use rcgen::PublicKeyData as _;
use serde_json::json;
use tokio::time::sleep;
use x509_parser::extensions::GeneralName;

use super::super::testing::pki::Ca;
use super::super::testing::signer::{Cluster, Deed};
use super::*;
use crate::clock::Clock;
use crate::metrics::Metrics;

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

/// The common name of the certificate that a handshake would get.
fn shown(serving: &Serving) -> Option<String> {
    let chain = serving.chain()?;
    let (_, certificate) = X509Certificate::from_der(&chain[0]).unwrap();
    let name = certificate.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned();
    Some(name)
}

/// A client for calls that no test makes.
fn nobody() -> kube::Client {
    let service = axum::Router::new().fallback(|| async { http::StatusCode::NOT_FOUND });
    kube::Client::new(service, "default")
}

/// The counter of renewals by outcome.
fn renewals(metrics: &Metrics, outcome: &str) -> u32 {
    let name =
        format!("vk_credential_renewals_total{{credential=\"serving-certificate\",outcome=\"{outcome}\"}} ");
    metrics.text().lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn files_are_followed_and_what_is_of_no_use_changes_nothing() {
    let ca = Ca::new("ca");
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
    let put = |(certificate, secret): &(String, String)| {
        std::fs::write(&chain, certificate).unwrap();
        std::fs::write(&key, secret).unwrap();
    };
    let (first, second, third) = (ca.serving("first"), ca.serving("second"), ca.serving("third"));
    put(&first);
    let serving = Serving::files(&chain, &key).unwrap();
    let (metrics, clock) = (Metrics::new("node-1"), Clock::virtual_from(now()));
    let keeper = {
        let (serving, metrics, clock) = (serving.clone(), metrics.clone(), clock.clone());
        tokio::spawn(async move { serving.keep(&nobody(), &clock, &metrics).await })
    };
    assert_eq!(shown(&serving).as_deref(), Some("first"));
    put(&second);
    sleep(Duration::from_secs(11)).await;
    assert_eq!(shown(&serving).as_deref(), Some("second"));
    // Half of a replacement: a certificate with another one's key. Then nothing, then rubbish.
    put(&(third.0.clone(), second.1.clone()));
    sleep(Duration::from_secs(11)).await;
    std::fs::remove_file(&key).unwrap();
    sleep(Duration::from_secs(11)).await;
    put(&("rubbish".to_owned(), third.1.clone()));
    sleep(Duration::from_secs(11)).await;
    assert_eq!(shown(&serving).as_deref(), Some("second"));
    assert_eq!((renewals(&metrics, "ok"), renewals(&metrics, "failed")), (1, 2));
    put(&third);
    serving.reload();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(shown(&serving).as_deref(), Some("third"), "told to look, it does not wait for its turn");
    let loaded = format!(
        "vk_credential_loaded_timestamp_seconds{{credential=\"serving-certificate\"}} {}",
        clock.now().as_second()
    );
    assert!(metrics.text().contains(&loaded[..loaded.len() - 2]), "{}", metrics.text());
    keeper.abort();
    let debug = format!("{serving:?}");
    assert!(debug.starts_with("Serving { source: \"files\", expires: ") && debug.len() < 110, "{debug}");
}

fn request() -> Request {
    Request::new("node-1", ["192.0.2.10".parse().unwrap()])
}

/// Keeps a requested certificate fresh in the background.
fn keep(serving: &Serving, cluster: &Arc<Cluster>, metrics: &Metrics) -> tokio::task::JoinHandle<()> {
    let (serving, client, clock) = (serving.clone(), cluster.client(), cluster.clock.clone());
    let metrics = metrics.clone();
    tokio::spawn(async move { serving.keep(&client, &clock, &metrics).await })
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_asked_for_shown_once_granted_and_renewed_before_its_life_is_over() {
    let clock = Clock::virtual_from(now());
    let hour = 3600;
    let cluster = Cluster::new(&clock, &[Deed::Grant(3, hour), Deed::Grant(0, hour)]);
    let serving = Serving::requested(request().with_lifetime(Duration::from_hours(1)), now()).unwrap();
    let metrics = Metrics::new("node-1");
    let keeper = keep(&serving, &cluster, &metrics);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((shown(&serving), cluster.asked()), (None, 1), "nobody has granted it yet");
    sleep(Duration::from_secs(30)).await;
    assert_eq!(shown(&serving).as_deref(), Some("system:node:node-1"));
    {
        let requests = cluster.requests.lock().unwrap();
        let spec = &requests[0].1["spec"];
        assert_eq!(spec["signerName"], "kubernetes.io/kubelet-serving");
        assert_eq!(spec["usages"], json!(["digital signature", "server auth"]));
        assert_eq!(spec["expirationSeconds"], hour);
    }
    let chain = serving.chain().unwrap();
    let (_, certificate) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:node-1");
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let wanted = [GeneralName::DNSName("node-1"), GeneralName::IPAddress(&[192, 0, 2, 10])];
    assert_eq!(names.value.general_names, wanted);
    let first = serving.expires().unwrap();
    let share = |clock: &Clock| {
        let left = first.duration_since(clock.now()).as_secs_f64();
        1.0 - left / hour as f64
    };
    while cluster.asked() == 1 {
        assert!(share(&clock) < 0.91, "not renewed in time");
        sleep(Duration::from_secs(5)).await;
    }
    assert!((0.69..0.91).contains(&share(&clock)), "{}", share(&clock));
    sleep(Duration::from_secs(5)).await;
    assert!(serving.expires().unwrap() > first);
    assert_eq!((renewals(&metrics, "ok"), renewals(&metrics, "failed")), (2, 0));
    keeper.abort();
}

#[tokio::test(start_paused = true)]
async fn what_is_not_granted_is_asked_for_again_after_a_pause() {
    let clock = Clock::virtual_from(now());
    let deeds =
        [Deed::Refuse, Deed::Deny, Deed::Delete, Deed::Ignore, Deed::Grant(0, 60), Deed::Grant(0, 3600)];
    let cluster = Cluster::new(&clock, &deeds);
    let serving = Serving::requested(request(), now()).unwrap();
    let metrics = Metrics::new("node-1");
    let keeper = keep(&serving, &cluster, &metrics);
    let began = clock.now();
    while serving.expires().is_none() {
        assert!(cluster.asked() <= deeds.len(), "asked too often");
        assert!(clock.now().duration_since(began).as_hours() < 2, "gave up");
        sleep(Duration::from_secs(10)).await;
    }
    // The last but one is over before it is there.
    assert_eq!((cluster.asked(), renewals(&metrics, "failed"), renewals(&metrics, "ok")), (6, 5, 1));
    keeper.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stored_certificate_is_used_by_the_next_start_for_as_long_as_it_fits() {
    let clock = Clock::virtual_from(now());
    let cluster = Cluster::new(&clock, &[Deed::Grant(0, 3600)]);
    let folder = tempfile::tempdir().unwrap();
    let request = request().stored_in(folder.path().join("pki"));
    let serving = Serving::requested(request.clone(), now()).unwrap();
    assert_eq!(shown(&serving), None);
    let keeper = keep(&serving, &cluster, &Metrics::new("node-1"));
    while serving.expires().is_none() {
        sleep(Duration::from_secs(1)).await;
    }
    keeper.abort();
    let path = folder.path().join("pki/kubelet-server-current.pem");
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    let again = Serving::requested(request.clone(), clock.now()).unwrap();
    assert_eq!(again.expires(), serving.expires());
    // It is over, or names another address, or cannot be read.
    let later = clock.now().checked_add(jiff::SignedDuration::from_hours(2)).unwrap();
    assert_eq!(Serving::requested(request.clone(), later).unwrap().expires(), None);
    let elsewhere =
        Request::new("node-1", ["192.0.2.11".parse().unwrap()]).stored_in(folder.path().join("pki"));
    assert_eq!(Serving::requested(elsewhere, clock.now()).unwrap().expires(), None);
    std::fs::write(&path, "rubbish").unwrap();
    assert_eq!(Serving::requested(request, clock.now()).unwrap().expires(), None);
}
