//! WebSocket, as far as Kubernetes speaks it: messages that begin with the number of a channel, and a tunnel
//! for SPDY.

pub(super) mod channels;
pub(super) mod connection;
mod tunnel;

use http::HeaderMap;
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

pub(super) use self::tunnel::Tunnel;

/// The largest message of a client, as upstream's WebSocket library has it. Kubernetes' own clients send at
/// most 32 KiB and a byte.
const MAX_MESSAGE: usize = 32 << 20;
/// Read at a time, and allocated from the start.
const READ: usize = 16 * 1024;

/// Whether a request asks for a WebSocket.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
    upgrades.any(|value| value.eq_ignore_ascii_case("websocket"))
}

/// The sub-protocols a request names, in its order.
pub(super) fn protocols(headers: &HeaderMap) -> Vec<&str> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect()
}

/// `Sec-WebSocket-Accept` for a well-formed request (RFC 6455, 4.2.1).
pub(super) fn accept_key(headers: &HeaderMap) -> Option<String> {
    let is_13 = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let upgrades = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let upgrades =
        upgrades.flat_map(|line| line.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_13 && upgrades)?;
    Some(derive_accept_key(key.as_bytes()))
}

/// The server's side of an upgraded connection.
pub(super) async fn server<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(READ)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}
