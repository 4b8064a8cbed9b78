//! Where kubelets are, and a connection to one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::ServiceExt;

use crate::ApiServer;
use crate::error::ApiError;
use crate::resources;
use crate::store::Key;

/// A byte stream to whoever answers.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Kubelets that live in this process, by node name, and how to reach the others.
pub(crate) struct Kubelets {
    local: Mutex<HashMap<String, Router>>,
    tls: Arc<ClientConfig>,
    unverified_tls: Arc<ClientConfig>,
}

impl std::fmt::Debug for Kubelets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubelets").finish_non_exhaustive()
    }
}

impl Kubelets {
    /// `tls` for kubelets; `unverified_tls` for what else is proxied to, and on request.
    pub(crate) fn new(tls: ClientConfig, unverified_tls: ClientConfig) -> Self {
        Self { local: Mutex::default(), tls: Arc::new(tls), unverified_tls: Arc::new(unverified_tls) }
    }

    pub(crate) fn add(&self, node: String, service: Router) {
        self.local.lock().unwrap_or_else(PoisonError::into_inner).insert(node, service);
    }

    pub(crate) fn remove(&self, node: &str) {
        self.local.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    fn get(&self, node: &str) -> Option<Router> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }
}

/// Who is to answer.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
    local: Option<Router>,
    tls: Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    None,
    Kubelet,
    Unverified,
}

/// A kubelet that can't be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("dial tcp {0}: {1}")]
    Connect(String, #[source] std::io::Error),
    #[error("dial tcp {0}: i/o timeout")]
    Timeout(String),
    #[error("tls: {0}")]
    Tls(#[source] std::io::Error),
    #[error("{0:?} is no server name")]
    Name(String),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes in flight to a kubelet in this process.
const PIPE: usize = 64 * 1024;

impl Endpoint {
    /// The kubelet of a node: in this process if registered, else at the node's preferred address.
    pub(super) fn kubelet(server: &ApiServer, node: &str) -> Result<Self, ApiError> {
        let nodes = resources::nodes();
        let local = server.kubelets().get(node);
        let found = server.store().get(nodes, &Key::new("", node));
        if found.is_none() && local.is_none() {
            return Err(ApiError::not_found(nodes, node));
        }
        let node_object = found.as_deref().map_or(&Value::Null, |o| o);
        let port = node_object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
        let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0).unwrap_or(10250);
        let addresses = node_object["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let preferred = server.config().kubelet_addresses.iter().find_map(|kind| {
            addresses.iter().find(|a| a["type"] == kind.as_str()).and_then(|a| a["address"].as_str())
        });
        let host = match (preferred, &local) {
            (Some(host), _) => host.to_owned(),
            (None, Some(_)) => node.to_owned(),
            (None, None) => {
                let known: Vec<String> = addresses.iter().map(Value::to_string).collect();
                return Err(ApiError::internal(&format!(
                    "no preferred addresses found; known addresses: [{}]",
                    known.join(" ")
                )));
            }
        };
        Ok(Self { host, port, local, tls: Tls::Kubelet })
    }

    pub(super) fn address(host: String, port: u16, tls: bool) -> Self {
        Self { host, port, local: None, tls: if tls { Tls::Unverified } else { Tls::None } }
    }

    /// Another port of the same host, which is no kubelet.
    pub(super) fn other_port(self, port: u16, tls: bool) -> Self {
        Self::address(self.host, port, tls)
    }

    /// The same, whatever certificate it shows.
    pub(super) fn unverified(mut self) -> Self {
        if self.tls == Tls::Kubelet {
            self.tls = Tls::Unverified;
        }
        self
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Host and port, as `Host` header and error messages have them.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub(super) async fn connect(&self, server: &ApiServer) -> Result<Box<dyn Io>, DialError> {
        if let Some(service) = &self.local {
            return Ok(Box::new(serve_in_process(service.clone())));
        }
        let authority = self.authority();
        let socket = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((&*self.host, self.port)))
            .await
            .map_err(|_| DialError::Timeout(authority.clone()))?
            .map_err(|e| DialError::Connect(authority.clone(), e))?;
        // Small frames of streams must not wait for each other.
        socket.set_nodelay(true).map_err(|e| DialError::Connect(authority, e))?;
        let config = match self.tls {
            Tls::None => return Ok(Box::new(socket)),
            Tls::Kubelet => &server.kubelets().tls,
            Tls::Unverified => &server.kubelets().unverified_tls,
        };
        let name = ServerName::try_from(self.host.clone()).map_err(|_| DialError::Name(self.host.clone()))?;
        let tls = TlsConnector::from(config.clone()).connect(name, socket).await.map_err(DialError::Tls)?;
        Ok(Box::new(tls))
    }
}

/// Serves a router on one end of a pipe; the other end is returned. HTTP with upgrades, without a socket.
pub(super) fn serve_in_process(router: Router) -> tokio::io::DuplexStream {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    tokio::spawn(async move {
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            router.clone().oneshot(request.map(Body::new))
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "in-process connection");
        }
    });
    ours
}
