//! Which protocol a client and we both speak, and the answer that says so.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::session::Protocol;
use super::websocket;
use super::websocket::channels::Coding;
use crate::api::reply;
use crate::api::request::Call;

const VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// Before the name of a SPDY protocol that is to run inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+";
const PORT_FORWARD: &str = "portforward.k8s.io";

const V1: Protocol = Protocol { name: "channel.k8s.io", status: false, resize: false };
const V2: Protocol = Protocol { name: "v2.channel.k8s.io", ..V1 };
const V3: Protocol = Protocol { name: "v3.channel.k8s.io", resize: true, ..V1 };
const V4: Protocol = Protocol { name: "v4.channel.k8s.io", status: true, resize: true };
/// Over SPDY the fifth version is not offered: half-close is SPDY's own.
pub(super) const SPDY: [Protocol; 4] = [V4, V3, V2, V1];

const BINARY: Coding = Coding { base64: false, half_close: false };
const BASE64: Coding = Coding { base64: true, half_close: false };

/// The WebSocket sub-protocols of exec and attach. Over channels every version can resize.
const CHANNELS: [(Protocol, Coding); 6] = [
    (Protocol { name: "", resize: true, ..V1 }, BINARY),
    (Protocol { resize: true, ..V1 }, BINARY),
    (Protocol { name: "base64.channel.k8s.io", resize: true, ..V1 }, BASE64),
    (V4, BINARY),
    (Protocol { name: "v4.base64.channel.k8s.io", ..V4 }, BASE64),
    (Protocol { name: "v5.channel.k8s.io", ..V4 }, Coding { base64: false, half_close: true }),
];

/// The sub-protocols of port-forward over WebSocket channels.
const PORT_CHANNELS: [(&str, Coding); 3] =
    [("", BINARY), ("v4.channel.k8s.io", BINARY), ("v4.base64.channel.k8s.io", BASE64)];

/// What exec and attach go on in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Spdy(Protocol),
    Channels(Protocol, Coding),
}

/// What a port-forward goes on in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortTransport {
    Spdy,
    /// SPDY inside a WebSocket.
    Tunnel,
    Channels(Coding),
}

/// What was agreed on, and the answer that says so.
pub(super) struct Agreed<T> {
    pub(super) transport: T,
    pub(super) response: Response,
}

type Refused = Box<Response>;

/// Chooses for an exec or attach.
pub(super) fn remote_command(call: &Call) -> Result<Agreed<Transport>, Refused> {
    let headers = &call.parts.headers;
    if websocket::is_websocket(headers) {
        let known = CHANNELS.map(|(protocol, coding)| (protocol.name, (protocol, coding)));
        let ((protocol, coding), name) = choose(&websocket::protocols(headers), &known)?;
        let response = websocket_answer(call, name)?;
        return Ok(Agreed { transport: Transport::Channels(protocol, coding), response });
    }
    let protocol = spdy_protocol(headers, &SPDY.map(|protocol| (protocol.name, protocol)))?;
    Ok(Agreed { transport: Transport::Spdy(protocol), response: spdy_answer(headers, protocol.name)? })
}

/// Chooses for a port-forward.
pub(super) fn port_forward(call: &Call) -> Result<Agreed<PortTransport>, Refused> {
    let headers = &call.parts.headers;
    if !websocket::is_websocket(headers) {
        spdy_protocol(headers, &[(PORT_FORWARD, ())])?;
        return Ok(Agreed { transport: PortTransport::Spdy, response: spdy_answer(headers, PORT_FORWARD)? });
    }
    let asked = websocket::protocols(headers);
    let tunnelled: Vec<&str> = asked
        .iter()
        .filter_map(|name| name.strip_prefix(TUNNEL).filter(|inner| inner.ends_with(".k8s.io")))
        .collect();
    if tunnelled.is_empty() {
        let (coding, name) = choose(&asked, &PORT_CHANNELS)?;
        let response = websocket_answer(call, name)?;
        return Ok(Agreed { transport: PortTransport::Channels(coding), response });
    }
    if !tunnelled.contains(&PORT_FORWARD) {
        return Err(Box::new(not_negotiated(&tunnelled, &[PORT_FORWARD])));
    }
    let response = websocket_answer(call, &format!("{TUNNEL}{PORT_FORWARD}"))?;
    Ok(Agreed { transport: PortTransport::Tunnel, response })
}

/// The first of the client's protocols that we know. Naming none means the one without a name.
fn choose<'a, T: Copy>(asked: &[&'a str], known: &[(&'static str, T)]) -> Result<(T, &'a str), Refused> {
    let asked = if asked.is_empty() { &[""] } else { asked };
    let chosen = asked.iter().find_map(|name| {
        let (_, what) = known.iter().find(|(known, _)| known == name)?;
        Some((*what, *name))
    });
    chosen.ok_or_else(|| {
        let mut refusal = Response::new(Body::empty());
        *refusal.status_mut() = StatusCode::FORBIDDEN;
        refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        Box::new(refusal)
    })
}

fn websocket_answer(call: &Call, protocol: &str) -> Result<Response, Refused> {
    let key = websocket::accept_key(&call.parts.headers).filter(|_| call.parts.method == Method::GET);
    let key = key.and_then(|key| HeaderValue::from_str(&key).ok());
    let protocol = HeaderValue::from_str(protocol).ok();
    let (Some(key), Some(protocol)) = (key, protocol) else {
        return Err(Box::new(reply::error_line(StatusCode::BAD_REQUEST, "bad WebSocket handshake")));
    };
    let mut response = switching("websocket");
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, key);
    if !protocol.is_empty() {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// As `httpstream.Handshake`: the client's first that we know.
fn spdy_protocol<T: Copy>(headers: &HeaderMap, known: &[(&'static str, T)]) -> Result<T, Refused> {
    let lines = headers.get_all(VERSION).iter().filter_map(|value| value.to_str().ok());
    let asked: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    if asked.is_empty() {
        let body = "unable to upgrade: X-Stream-Protocol-Version is required";
        return Err(Box::new(reply::error_line(StatusCode::BAD_REQUEST, body)));
    }
    let chosen = asked.iter().find_map(|name| known.iter().find(|(known, _)| known == name));
    chosen.map(|(_, what)| *what).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        Box::new(not_negotiated(&asked, &names))
    })
}

fn not_negotiated(asked: &[&str], accepted: &[&'static str]) -> Response {
    let body = format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
        asked.join(" "),
        accepted.join(" ")
    );
    let mut refusal = reply::error_line(StatusCode::FORBIDDEN, &body);
    for name in accepted {
        refusal.headers_mut().append(ACCEPTED, HeaderValue::from_static(name));
    }
    refusal
}

fn spdy_answer(headers: &HeaderMap, protocol: &'static str) -> Result<Response, Refused> {
    let mut upgrades = headers.get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
    if !upgrades.any(|value| value.to_ascii_lowercase().contains("spdy/3.1")) {
        let body = "unable to upgrade: missing upgrade headers in request";
        return Err(Box::new(reply::error_line(StatusCode::BAD_REQUEST, body)));
    }
    let mut response = switching("SPDY/3.1");
    response.headers_mut().insert(VERSION, HeaderValue::from_static(protocol));
    Ok(response)
}

fn switching(protocol: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}
