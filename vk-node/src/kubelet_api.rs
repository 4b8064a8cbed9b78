//! The kubelet API's door: where it listens, with which certificate, and whom it lets in.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};
use vk_core::api::tls::{Request, Serving, ServingCertificate};
use vk_core::api::{Access, ClientCa, KubeReviewer};

use crate::cluster::Cluster;
use crate::config::settings::{KubeletApiSettings, NodeSettings};
use crate::fault::{Fault, chain};
use crate::preflight::Rights;

/// Where a node's kubelet API is.
pub(crate) fn place(settings: &KubeletApiSettings, node: &NodeSettings) -> SocketAddr {
    SocketAddr::new(settings.listen, node.config.port)
}

/// Binds a node's port.
pub(crate) async fn listen(settings: &KubeletApiSettings, node: &NodeSettings) -> Result<TcpListener, Fault> {
    let address = place(settings, node);
    TcpListener::bind(address).await.map_err(|error| {
        Fault::new(
            format!("cannot serve the kubelet API of node {:?}", node.config.name),
            format!("at {address}"),
            format!("choose another --port or --listen ({})", chain(&error)),
        )
    })
}

/// The certificate: the one in the files, or one that the node signs itself.
pub(crate) fn tls(settings: &KubeletApiSettings, node: &str, addresses: &[IpAddr]) -> Result<Serving, Fault> {
    if let Some(folder) = &settings.requested_in {
        let request = Request::new(node, addresses.iter().copied()).stored_in(folder);
        return Serving::requested(request, jiff::Timestamp::now()).map_err(|error| {
            let remedy = format!("check --cert-dir ({})", chain(&error));
            Fault::new("cannot keep the serving certificate", format!("in {}", folder.display()), remedy)
        });
    }
    let (serving, place, remedy) = match &settings.serving {
        Some((cert, key)) => (
            Serving::files(cert, key),
            format!("in {} and {}", cert.display(), key.display()),
            "check --tls-cert-file and --tls-private-key-file",
        ),
        None => (
            ServingCertificate::self_signed(node, addresses, jiff::Timestamp::now()).and_then(Serving::fixed),
            format!("for node {node:?}"),
            "give one with --tls-cert-file and --tls-private-key-file",
        ),
    };
    serving.map_err(|error| {
        Fault::new("unusable serving certificate", place, format!("{remedy} ({})", chain(&error)))
    })
}

/// Who may call. Without any way to know and to judge callers the daemon does not start, unless it is told
/// to let everybody in.
pub(crate) async fn access(
    settings: &KubeletApiSettings,
    cluster: &Cluster,
    rights: &Rights,
) -> Result<Access, Fault> {
    if settings.insecure_allow_anonymous {
        tracing::warn!("the kubelet API is open to everyone who can reach it (--insecure-allow-anonymous)");
        return Ok(Access::insecure_allow_all());
    }
    let mut access = Access::none();
    let no_ca = match client_ca(settings, cluster).await? {
        Ok(ca) => {
            access = access.with_client_ca(Arc::new(ca));
            None
        }
        Err(reason) => Some(reason),
    };
    if rights.review_access {
        access = access.with_reviewer(Arc::new(KubeReviewer::new(cluster.client.clone())));
    }
    for name in &settings.trusted_clients {
        access = access.with_trusted_name(name);
    }
    if !access.admits_anyone() {
        let (what, remedy) = match no_ca {
            Some(reason) if !rights.review_access => (
                format!("no client CA ({reason}) and no permission to create subjectaccessreviews"),
                "give --client-ca-file and --trusted-client, apply manifests/rbac.yaml, or open it to \
                 everyone with --insecure-allow-anonymous",
            ),
            _ => (
                "no permission to create subjectaccessreviews".to_owned(),
                "apply manifests/rbac.yaml, name the API server's client certificate with --trusted-client, or \
                 open it to everyone with --insecure-allow-anonymous",
            ),
        };
        return Err(Fault::new(
            format!("nobody could call the kubelet API, {what},"),
            format!("at {}", cluster.server),
            remedy,
        ));
    }
    if let Some(reason) = no_ca {
        tracing::warn!("the kubelet API knows callers by token only: no client CA ({reason})");
    }
    Ok(access.with_anonymous_metrics(settings.anonymous_metrics))
}

/// The client CA, or why there is none. A file that was named has to be there.
async fn client_ca(
    settings: &KubeletApiSettings,
    cluster: &Cluster,
) -> Result<Result<ClientCa, String>, Fault> {
    if let Some(path) = &settings.client_ca {
        return client_ca_file(path).map(Ok);
    }
    let ca = ClientCa::from_cluster(cluster.client.clone()).await;
    Ok(ca.map_err(|error| format!("ConfigMap kube-system/extension-apiserver-authentication: {error}")))
}

/// The client CA in a file.
pub(crate) fn client_ca_file(path: &Path) -> Result<ClientCa, Fault> {
    ClientCa::from_file(path).map_err(|error| {
        Fault::new(
            "unusable client CA",
            format!("in {}", path.display()),
            format!("check --client-ca-file ({})", chain(&error)),
        )
    })
}

/// The node's addresses: those it was given, else the one it listens on, else the one this machine reaches
/// the API server from.
pub(crate) async fn addresses(
    settings: &KubeletApiSettings,
    node: &NodeSettings,
    cluster: &Cluster,
) -> Result<Vec<IpAddr>, Fault> {
    if !node.config.addresses.is_empty() {
        return Ok(node.config.addresses.clone());
    }
    if !settings.listen.is_unspecified() {
        return Ok(vec![settings.listen]);
    }
    let found = towards(&cluster.server).await.map_err(|error| {
        Fault::new(
            format!("no address for node {:?}", node.config.name),
            format!("towards {}", cluster.server),
            format!("give one with --node-ip ({})", chain(&error)),
        )
    })?;
    if found.is_loopback() {
        tracing::warn!(
            address = %found,
            "the API server is reached by loopback, where a real one proxies nothing to; see --node-ip"
        );
    }
    Ok(vec![found])
}

/// The source address the kernel chooses towards a server. Nothing is sent.
async fn towards(server: &http::Uri) -> std::io::Result<IpAddr> {
    let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = server.port_u16().unwrap_or(443);
    let mut last = std::io::Error::other("the name has no address");
    for target in tokio::net::lookup_host((host, port)).await? {
        let any: SocketAddr =
            if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().map_err(std::io::Error::other)?;
        let attempt = async {
            let socket = UdpSocket::bind(any).await?;
            socket.connect(target).await?;
            socket.local_addr()
        };
        match attempt.await {
            Ok(address) => return Ok(address.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_address_towards_a_server_is_one_of_this_machine() {
        let found = towards(&"https://127.0.0.1:6443".parse().unwrap()).await.unwrap();
        assert!(found.is_loopback());
        let found = towards(&"https://[::1]:6443".parse().unwrap()).await;
        assert!(found.is_err() || found.unwrap().is_loopback(), "machines without IPv6 say so");
        assert!(towards(&"https://name.invalid:6443".parse().unwrap()).await.is_err());
    }
}
