//! From frames to bytes.

use bytes::{BufMut as _, BytesMut};

use super::frame::{
    CONTROL, FLAG_FIN, FLAG_UNIDIRECTIONAL, Frame, HEAD, Headers, MAX_PAYLOAD, StreamId, VERSION, kind,
};
use super::headers::Deflater;

/// Writes the frames of one direction, in order.
#[derive(Debug)]
pub(crate) struct Encoder(Deflater);

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder for a new connection.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self(Deflater::new())
    }

    /// Appends a frame. Data beyond a frame's [largest payload](super::MAX_PAYLOAD) is put into several.
    pub(crate) fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::SynStream { id, associated, priority, fin, unidirectional, headers } => {
                let flags = flag(*fin, FLAG_FIN) | flag(*unidirectional, FLAG_UNIDIRECTIONAL);
                control(kind::SYN_STREAM, flags, out, |out| {
                    out.put_u32(*id);
                    out.put_u32(*associated);
                    out.put_u8(priority << 5);
                    out.put_u8(0);
                    self.0.block(headers, out);
                });
            }
            Frame::SynReply { id, fin, headers } => self.headers(kind::SYN_REPLY, *id, *fin, headers, out),
            Frame::Headers { id, fin, headers } => self.headers(kind::HEADERS, *id, *fin, headers, out),
            Frame::RstStream { id, status } => pair(kind::RST_STREAM, *id, status.0, out),
            Frame::GoAway { last, status } => pair(kind::GO_AWAY, *last, *status, out),
            Frame::WindowUpdate { id, delta } => pair(kind::WINDOW_UPDATE, *id, *delta, out),
            Frame::Ping(id) => control(kind::PING, 0, out, |out| out.put_u32(*id)),
            Frame::Settings(settings) => control(kind::SETTINGS, 0, out, |out| {
                out.put_u32(settings.len() as u32);
                for setting in settings {
                    out.put_u32(u32::from(setting.flags) << 24 | setting.id & 0x00ff_ffff);
                    out.put_u32(setting.value);
                }
            }),
            Frame::Data { id, fin, data } => {
                let mut rest = &data[..];
                while rest.len() > MAX_PAYLOAD {
                    let (piece, behind) = rest.split_at(MAX_PAYLOAD);
                    data_head(*id, false, piece.len(), out);
                    out.extend_from_slice(piece);
                    rest = behind;
                }
                data_head(*id, *fin, rest.len(), out);
                out.extend_from_slice(rest);
            }
        }
    }

    fn headers(&mut self, kind: u16, id: StreamId, fin: bool, headers: &Headers, out: &mut BytesMut) {
        control(kind, flag(fin, FLAG_FIN), out, |out| {
            out.put_u32(id);
            self.0.block(headers, out);
        });
    }
}

fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

fn pair(kind: u16, first: u32, second: u32, out: &mut BytesMut) {
    control(kind, 0, out, |out| {
        out.put_u32(first);
        out.put_u32(second);
    });
}

fn data_head(id: StreamId, fin: bool, length: usize, out: &mut BytesMut) {
    out.put_u32(id);
    out.put_u32(u32::from(flag(fin, FLAG_FIN)) << 24 | length as u32);
}

/// A control frame whose length is known once its payload is written.
fn control(kind: u16, flags: u8, out: &mut BytesMut, payload: impl FnOnce(&mut BytesMut)) {
    let begin = out.len();
    out.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind));
    out.put_u32(0);
    payload(out);
    let length = (out.len() - begin - HEAD) as u32;
    debug_assert!(length as usize <= MAX_PAYLOAD, "a control frame of {length} bytes");
    out[begin + 4..begin + HEAD].copy_from_slice(&(u32::from(flags) << 24 | length).to_be_bytes());
}
