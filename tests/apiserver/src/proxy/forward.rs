//! A request passed on, and what comes back: an answer, or a stream in both directions.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::dial::{DialError, Endpoint, Io, serve_in_process};
use crate::ApiServer;

/// Sends a request whose URI is the path there, and returns the answer. An upgraded connection is carried
/// on in a task of its own.
pub(super) async fn forward(
    server: &ApiServer,
    endpoint: &Endpoint,
    mut parts: Parts,
    body: Body,
) -> Result<Response, DialError> {
    let ours = parts.extensions.remove::<OnUpgrade>();
    let upgrade = parts.headers.get(header::UPGRADE).cloned().filter(|_| is_upgrade(&parts.headers));
    clean(&mut parts.headers);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(header::UPGRADE, upgrade);
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    if let Ok(host) = HeaderValue::from_str(&endpoint.authority()) {
        parts.headers.insert(header::HOST, host);
    }
    parts.extensions.clear();
    parts.version = http::Version::HTTP_11;
    let io = endpoint.connect(server).await?;
    let mut response = exchange(io, Request::from_parts(parts, body)).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = response.extensions_mut().remove::<OnUpgrade>();
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            tokio::spawn(join(ours, theirs));
        }
    } else {
        clean(response.headers_mut());
    }
    Ok(response)
}

/// Answers an upgrade request of a client in this process: it is sent through a pipe to the same service,
/// so that both ends have a connection to upgrade.
pub(crate) async fn loop_back(router: Router, request: Request<Body>) -> Result<Response, hyper::Error> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    if let Ok(uri) = path.parse() {
        parts.uri = uri;
    }
    parts.headers.entry(header::HOST).or_insert(HeaderValue::from_static("kubernetes"));
    parts.version = http::Version::HTTP_11;
    exchange(Box::new(serve_in_process(router)), Request::from_parts(parts, body)).await
}

/// Whether a client wants to go on in another protocol.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).iter();
    headers.contains_key(header::UPGRADE)
        && connection.filter_map(|v| v.to_str().ok()).any(|v| v.to_ascii_lowercase().contains("upgrade"))
}

async fn exchange(io: Box<dyn Io>, request: Request<Body>) -> Result<Response, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "proxied connection");
        }
    });
    Ok(sender.send_request(request).await?.map(Body::new))
}

async fn join(ours: OnUpgrade, theirs: OnUpgrade) {
    match futures::future::try_join(ours, theirs).await {
        Ok((ours, theirs)) => {
            let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
            if let Err(error) = copy_bidirectional(&mut ours, &mut theirs).await {
                tracing::debug!(%error, "proxied stream");
            }
        }
        Err(error) => tracing::debug!(%error, "upgrade"),
    }
}

/// Headers that are about one hop, or that must not reach a kubelet.
fn clean(headers: &mut HeaderMap) {
    const HOP: [HeaderName; 6] = [
        header::CONNECTION,
        header::UPGRADE,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::AUTHORIZATION,
    ];
    for name in HOP {
        headers.remove(name);
    }
}
