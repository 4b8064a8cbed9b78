//! The admin port: metrics and health of the daemon itself, for those who run it. Plain HTTP.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use vk_core::admin::Observed;

use crate::fault::{Fault, chain};

/// Serves it until it is aborted.
pub(crate) async fn serve(listener: TcpListener, nodes: Vec<Observed>) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "admin port: /metrics, /livez, /readyz");
    }
    vk_core::admin::serve(listener, nodes).await;
}

/// Binds the port.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| {
        Fault::new(
            "cannot serve the admin port",
            format!("at {address}"),
            format!("choose another --admin-listen ({})", chain(&error)),
        )
    })
}
