//! The admin port: metrics and health of the daemon itself, for those who run it. Plain HTTP.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::fault::{Fault, chain};

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
