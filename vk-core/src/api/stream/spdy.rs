//! SPDY/3.1, as far as Kubernetes speaks it.
//!
//! The codec does no input or output: [`Decoder`] turns bytes into [`Frame`]s within [`Limits`], and
//! [`Encoder`] turns them back. It is symmetrical, so that a test is a client with the same two types. What is
//! on the wire, and what of it matters, is told by the draft
//! (<https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>) and by the only peer there is,
//! moby/spdystream: no flow control, settings without effect, and nothing is read after a GOAWAY.

mod connection;
mod decode;
mod encode;
mod frame;
mod headers;
#[cfg(test)]
mod tests;

pub(super) use self::connection::{Accepted, Incoming, serve};
pub(super) use self::decode::{Decoder, Limits};
pub(super) use self::encode::Encoder;
pub(super) use self::frame::{Frame, Headers, ResetStatus, StreamId};
