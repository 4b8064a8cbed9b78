//! HTTP probes and HTTP hooks (`pkg/probe/http`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Finding;
use crate::containers::backend::ContainerBackend;
use crate::containers::dial::{Dial, Target};
use crate::provider::Duplex;

/// What is read of an answer (`maxRespBodyLength`).
const MOST: usize = 10 << 10;
/// How often a redirect is followed.
const REDIRECTS: usize = 10;

/// A GET request.
#[derive(Clone, Debug)]
pub(in crate::containers) struct Request {
    tls: bool,
    /// Path and query, as written in the pod.
    path: String,
    headers: HeaderMap,
    host: Option<HeaderValue>,
}

impl Request {
    /// The request that the pod asks for, from that user agent unless the pod names another.
    pub(in crate::containers) fn of(get: &HTTPGetAction, agent: &'static str) -> Self {
        let mut headers = HeaderMap::new();
        let mut host = None;
        for header in get.http_headers.iter().flatten() {
            let name = HeaderName::try_from(header.name.as_str());
            let value = HeaderValue::try_from(header.value.as_str());
            // The API server has checked the names; a value that is none cannot be sent.
            let (Ok(name), Ok(value)) = (name, value) else { continue };
            if name == HOST {
                host = Some(value);
            } else {
                headers.append(name, value);
            }
        }
        // An empty value is how a pod asks for none.
        for (name, default) in
            [(USER_AGENT, HeaderValue::from_static(agent)), (ACCEPT, HeaderValue::from_static("*/*"))]
        {
            match headers.get(&name).map(HeaderValue::is_empty) {
                None => drop(headers.insert(name, default)),
                Some(true) => drop(headers.remove(name)),
                Some(false) => {}
            }
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let path = get.path.as_deref().unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let tls = get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        Self { tls, path, headers, host }
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// What was answered.
struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Bytes,
}

/// Runs an HTTP probe once.
pub(super) async fn probe(
    backend: &Arc<dyn ContainerBackend>,
    dial: Dial,
    target: &Target,
    request: &Request,
    within: Duration,
) -> Finding {
    let url = format!("{}://{target}{}", request.scheme(), request.path);
    match tokio::time::timeout(within, follow(backend, dial, target, request)).await {
        Ok(Ok((answer, stopped))) if stopped => Finding {
            result: super::ProbeResult::Success,
            output: format!(
                "Probe terminated redirects, Response body: {}",
                String::from_utf8_lossy(&answer.body)
            ),
            warning: true,
        },
        Ok(Ok((answer, _))) if (200..400).contains(&answer.status.as_u16()) => Finding::success(),
        Ok(Ok((answer, _))) => {
            Finding::failure(format!("HTTP probe failed with statuscode: {}", answer.status.as_u16()))
        }
        Ok(Err(why)) => Finding::failure(format!("Get \"{url}\": {why}")),
        Err(_) => Finding::failure(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

/// Sends the request of a hook. Whatever is answered is success.
///
/// # Errors
/// Why there was no answer.
pub(in crate::containers) async fn call(
    backend: &Arc<dyn ContainerBackend>,
    dial: Dial,
    target: &Target,
    request: &Request,
) -> Result<(), String> {
    let url = format!("{}://{target}{}", request.scheme(), request.path);
    let answer = follow(backend, dial, target, request).await;
    answer.map(drop).map_err(|why| format!("Get \"{url}\": {why}"))
}

/// The answer, after redirects within the same host. The flag says that a redirect led elsewhere and was not followed.
async fn follow(
    backend: &Arc<dyn ContainerBackend>,
    dial: Dial,
    target: &Target,
    request: &Request,
) -> Result<(Answer, bool), String> {
    let mut target = target.clone();
    let mut request = request.clone();
    for _ in 0..REDIRECTS {
        let answer = send(backend, dial, &target, &request).await?;
        let redirect = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let Some(location) = answer.location.as_deref().filter(|_| redirect) else {
            return Ok((answer, false));
        };
        let Ok(uri) = location.parse::<Uri>() else { return Ok((answer, false)) };
        if let Some(host) = uri.host() {
            let own = request.host.as_ref().and_then(|host| host.to_str().ok());
            if host != target.host && own.is_none_or(|own| own.split(':').next() != Some(host)) {
                return Ok((answer, true));
            }
            request.tls = uri.scheme_str() == Some("https");
            target.port = uri.port_u16().unwrap_or(if request.tls { 443 } else { 80 });
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        request.path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    }
    Err("stopped after 10 redirects".to_owned())
}

async fn send(
    backend: &Arc<dyn ContainerBackend>,
    dial: Dial,
    target: &Target,
    request: &Request,
) -> Result<Answer, String> {
    let stream = target.connect(backend, dial).await.map_err(|error| target.refusal(&error))?;
    let stream: Box<dyn Duplex> = if request.tls { encrypt(target, stream).await? } else { stream };
    let text = |error: hyper::Error| {
        if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() }
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let mut get =
        http::Request::get(&request.path).body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    get.headers_mut().clone_from(&request.headers);
    let host = match &request.host {
        Some(host) => host.clone(),
        None => HeaderValue::try_from(target.to_string()).map_err(|error| error.to_string())?,
    };
    get.headers_mut().insert(HOST, host);
    let exchange = async {
        let response = sender.send_request(get).await.map_err(text)?;
        let (head, body) = response.into_parts();
        let location = head.headers.get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Limited::new(body, MOST).collect().await;
        // What is longer is cut, which a kubelet does as well; nobody reads it but in a remark.
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Ok(Answer { status: head.status, location, body })
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    // The connection moves the exchange on; whichever ends first, the exchange has the last word.
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(text(error)),
        },
    }
}

/// TLS without a look at the certificate: who answers at the pod's address is the pod.
async fn encrypt(target: &Target, stream: Box<dyn Duplex>) -> Result<Box<dyn Duplex>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    match stream {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(format!("tls: {error}")),
    }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
