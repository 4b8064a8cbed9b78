//! The server over HTTPS, and the kubeconfig that reaches it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::header::{CONNECTION, HeaderValue};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::ApiServer;
use crate::identity::Identity;
use crate::tls::{Credentials, TlsError, identity_of};

/// What kept the server from serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// Certificates or TLS settings.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file could not be written.
    #[error("write {0}")]
    Write(String, #[source] std::io::Error),
}

/// A server that listens. Dropping it closes the listener and all connections.
pub struct Serving {
    address: SocketAddr,
    admin: Credentials,
    ca: String,
    server: ApiServer,
    acceptor: watch::Sender<TlsAcceptor>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Serving {
    /// Shows another serving certificate from the next connection on. The present ones end with their next answers.
    pub fn present(&self, credentials: &Credentials) -> Result<(), TlsError> {
        let config = self.server.pki().server_config(credentials)?;
        self.acceptor.send_replace(TlsAcceptor::from(Arc::new(config)));
        Ok(())
    }

    /// The address it listens on, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The administrator's client certificate.
    #[must_use]
    pub fn admin(&self) -> &Credentials {
        &self.admin
    }

    /// A kubeconfig for the administrator, self-contained.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_for("kubernetes-admin", &self.admin)
    }

    /// A kubeconfig for another client certificate.
    #[must_use]
    pub fn kubeconfig_for(&self, user: &str, credentials: &Credentials) -> String {
        // JSON is YAML, and needs no quoting rules.
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "vk",
            "clusters": [{"name": "vk", "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority-data": STANDARD.encode(&self.ca),
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": STANDARD.encode(&credentials.certificate),
                "client-key-data": STANDARD.encode(&credentials.key),
            }}],
            "contexts": [{"name": "vk", "context": {"cluster": "vk", "user": user}}],
        });
        format!("{config:#}\n")
    }

    /// Writes the administrator's kubeconfig, readable by the owner only.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<(), ServeError> {
        let failed = |e| ServeError::Write(path.display().to_string(), e);
        write_private(path, &self.kubeconfig()).map_err(failed)
    }

    /// Closes the listener and the connections, and waits until they are gone.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // The task only ends by this token; a panic in it has been reported by the runtime.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}

impl ApiServer {
    /// Serves over HTTPS; port 0 chooses one. Clients show a certificate of this server's authority or a
    /// bearer token; others are anonymous. The serving certificate names the address, `localhost` and the
    /// cluster's names for the API.
    pub async fn serve_tls(&self, address: SocketAddr) -> Result<Serving, ServeError> {
        let failed = |e| ServeError::Listen(address, e);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let mut sans = vec![address.ip().to_string(), "localhost".to_owned(), "10.96.0.1".to_owned()];
        sans.extend(["127.0.0.1", "::1", "kubernetes", "kubernetes.default.svc"].map(str::to_owned));
        sans.dedup();
        let now = Timestamp::now();
        let serving = self.pki().serving("kube-apiserver", &[], &sans, now)?;
        let admin = self.pki().client("kubernetes-admin", &["system:masters"], now)?;
        let acceptor = TlsAcceptor::from(Arc::new(self.pki().server_config(&serving)?));
        let stop = CancellationToken::new();
        let (acceptor, newest) = watch::channel(acceptor);
        let task = tokio::spawn(accept(self.clone(), listener, newest, stop.clone()));
        let (server, ca) = (self.clone(), self.ca_certificate().to_owned());
        Ok(Serving { address, admin, ca, server, acceptor, stop, task })
    }
}

async fn accept(
    server: ApiServer,
    listener: TcpListener,
    acceptor: watch::Receiver<TlsAcceptor>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: accept and join_next lose nothing when dropped.
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(connection(server.clone(), socket, acceptor.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

async fn connection(server: ApiServer, socket: TcpStream, mut newest: watch::Receiver<TlsAcceptor>) {
    // Small frames of streams must not wait for each other.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "set_nodelay");
    }
    let acceptor = newest.borrow_and_update().clone();
    let tls = match acceptor.accept(socket).await {
        Ok(tls) => tls,
        Err(error) => {
            tracing::debug!(%error, "TLS handshake");
            return;
        }
    };
    let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(identity_of);
    let identity = shown.unwrap_or_else(Identity::anonymous);
    let router = server.service();
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(identity.clone());
        let answer = router.clone().oneshot(request.map(Body::new));
        let newest = newest.clone();
        async move {
            let mut answer = answer.await;
            // Said with an answer: a connection that is merely closed may meet a request that is on its way.
            if let (Ok(answer), Ok(true)) = (&mut answer, newest.has_changed()) {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let ended = builder.serve_connection_with_upgrades(TokioIo::new(tls), service).await;
    if let Err(error) = ended {
        tracing::debug!(%error, "connection");
    }
}
