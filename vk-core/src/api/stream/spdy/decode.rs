//! From bytes to frames.

use bytes::{Buf as _, Bytes, BytesMut};

use super::frame::{
    CONTROL, FLAG_FIN, FLAG_UNIDIRECTIONAL, Frame, HEAD, Headers, MAX_STREAM_ID, ResetStatus, Setting,
    StreamId, VERSION, kind,
};
use super::headers::Inflater;

/// Bounds on what a peer may make us hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of a control frame's payload. Default 16 KiB.
    pub control_frame: usize,
    /// Bytes of a header block, inflated. Default 16 KiB.
    pub header_block: usize,
    /// Headers of a block. Default 64.
    pub headers: usize,
    /// Settings of a frame. Default 64.
    pub settings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { control_frame: 16 * 1024, header_block: 16 * 1024, headers: 64, settings: 64 }
    }
}

/// What makes a connection unreadable: nothing that follows can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DecodeError {
    /// Not this protocol.
    #[error("SPDY version {0} instead of 3")]
    Version(u16),
    /// Beyond [`Limits::control_frame`].
    #[error("a control frame of {0} bytes is too long")]
    ControlFrameTooLong(usize),
    /// A length that its type can't have.
    #[error("a control frame of type {kind} can't have {length} bytes")]
    Length {
        /// The frame's type.
        kind: u16,
        /// The length it claims.
        length: usize,
    },
    /// Beyond [`Limits::settings`].
    #[error("{0} settings are too many")]
    TooManySettings(u32),
    /// Not zlib, or not with SPDY's dictionary.
    #[error("a header block can't be decompressed")]
    Compression,
    /// Beyond [`Limits::header_block`].
    #[error("a header block is too long")]
    HeaderBlockTooLong,
    /// Beyond [`Limits::headers`].
    #[error("a header block has too many headers")]
    TooManyHeaders,
    /// Lengths that contradict each other, names that are none, or none that is text.
    #[error("a header block is malformed")]
    HeaderBlock,
    /// Stream 0 where a stream is needed.
    #[error("a frame of stream 0")]
    StreamZero,
}

/// Reads the frames of one direction. Feed it bytes as they come; it holds none of its own.
#[derive(Debug)]
pub(crate) struct Decoder {
    limits: Limits,
    inflater: Inflater,
    rest: Rest,
}

/// What is left of the frame whose head was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    None,
    Data {
        id: StreamId,
        fin: bool,
        left: usize,
    },
    /// Of a type that nobody knows, which is to be passed over.
    Unknown {
        left: usize,
    },
}

impl Decoder {
    /// A decoder for a new connection.
    #[must_use]
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, inflater: Inflater::new(), rest: Rest::None }
    }

    /// Takes the next frame, or the next piece of a data frame, off the front of `buffer`. `None` if more
    /// bytes are needed: at most [`wanted`](Self::wanted) of them are held at a time.
    ///
    /// # Errors
    /// [`DecodeError`], and from then on the decoder is of no use.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        loop {
            match self.rest {
                Rest::Data { id, fin, left } => return Ok(self.piece(id, fin, left, buffer)),
                Rest::Unknown { left } => {
                    let passed = left.min(buffer.len());
                    buffer.advance(passed);
                    if passed < left {
                        self.rest = Rest::Unknown { left: left - passed };
                        return Ok(None);
                    }
                    self.rest = Rest::None;
                }
                Rest::None => {}
            }
            let Some(mut head) = buffer.get(..HEAD) else { return Ok(None) };
            let (word, length) = (head.get_u32(), head.get_u32());
            let (flags, length) = ((length >> 24) as u8, (length & 0x00ff_ffff) as usize);
            if word & CONTROL == 0 {
                if word == 0 {
                    return Err(DecodeError::StreamZero);
                }
                buffer.advance(HEAD);
                self.rest = Rest::Data { id: word, fin: flags & FLAG_FIN != 0, left: length };
                continue;
            }
            let (version, kind) = ((word >> 16) as u16 & 0x7fff, word as u16);
            if version != VERSION {
                return Err(DecodeError::Version(version));
            }
            if !is_known(kind) {
                buffer.advance(HEAD);
                self.rest = Rest::Unknown { left: length };
                continue;
            }
            if length > self.limits.control_frame {
                return Err(DecodeError::ControlFrameTooLong(length));
            }
            if buffer.len() < HEAD + length {
                return Ok(None);
            }
            buffer.advance(HEAD);
            let payload = buffer.split_to(length);
            return self.control(kind, flags, &payload).map(Some);
        }
    }

    /// The largest number of bytes that are ever needed at once.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn wanted(&self) -> usize {
        HEAD + self.limits.control_frame
    }

    fn piece(&mut self, id: StreamId, fin: bool, left: usize, buffer: &mut BytesMut) -> Option<Frame> {
        if left == 0 {
            self.rest = Rest::None;
            return Some(Frame::Data { id, fin, data: Bytes::new() });
        }
        if buffer.is_empty() {
            return None;
        }
        let data = buffer.split_to(left.min(buffer.len())).freeze();
        let left = left - data.len();
        self.rest = if left == 0 { Rest::None } else { Rest::Data { id, fin, left } };
        Some(Frame::Data { id, fin: fin && left == 0, data })
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: &[u8]) -> Result<Frame, DecodeError> {
        let length = payload.len();
        let wrong = DecodeError::Length { kind, length };
        let fin = flags & FLAG_FIN != 0;
        let frame = match (kind, length) {
            (kind::SYN_STREAM, 10..) => {
                let (id, associated) = (payload.get_u32() & MAX_STREAM_ID, payload.get_u32() & MAX_STREAM_ID);
                let priority = payload.get_u8() >> 5;
                payload.advance(1);
                let headers = self.headers(id, payload)?;
                let unidirectional = flags & FLAG_UNIDIRECTIONAL != 0;
                Frame::SynStream { id, associated, priority, fin, unidirectional, headers }
            }
            (kind::SYN_REPLY, 4..) => {
                let id = payload.get_u32() & MAX_STREAM_ID;
                Frame::SynReply { id, fin, headers: self.headers(id, payload)? }
            }
            (kind::HEADERS, 4..) => {
                let id = payload.get_u32() & MAX_STREAM_ID;
                Frame::Headers { id, fin, headers: self.headers(id, payload)? }
            }
            (kind::RST_STREAM, 8) => {
                let id = stream(payload.get_u32() & MAX_STREAM_ID)?;
                Frame::RstStream { id, status: ResetStatus(payload.get_u32()) }
            }
            (kind::SETTINGS, 4..) => {
                let count = payload.get_u32();
                if usize::try_from(count).map_or(true, |count| count > self.limits.settings) {
                    return Err(DecodeError::TooManySettings(count));
                }
                if payload.len() != count as usize * 8 {
                    return Err(wrong);
                }
                let setting = |mut entry: &[u8]| {
                    let word = entry.get_u32();
                    Setting { flags: (word >> 24) as u8, id: word & 0x00ff_ffff, value: entry.get_u32() }
                };
                Frame::Settings(payload.chunks_exact(8).map(setting).collect())
            }
            (kind::PING, 4) => Frame::Ping(payload.get_u32()),
            (kind::GO_AWAY, 8) => {
                Frame::GoAway { last: payload.get_u32() & MAX_STREAM_ID, status: payload.get_u32() }
            }
            (kind::WINDOW_UPDATE, 8) => Frame::WindowUpdate {
                id: payload.get_u32() & MAX_STREAM_ID,
                delta: payload.get_u32() & MAX_STREAM_ID,
            },
            _ => return Err(wrong),
        };
        Ok(frame)
    }

    fn headers(&mut self, id: StreamId, block: &[u8]) -> Result<Headers, DecodeError> {
        stream(id)?;
        self.inflater.block(block, &self.limits)
    }
}

fn stream(id: StreamId) -> Result<StreamId, DecodeError> {
    if id == 0 { Err(DecodeError::StreamZero) } else { Ok(id) }
}

fn is_known(kind: u16) -> bool {
    matches!(
        kind,
        kind::SYN_STREAM
            | kind::SYN_REPLY
            | kind::RST_STREAM
            | kind::SETTINGS
            | kind::PING
            | kind::GO_AWAY
            | kind::HEADERS
            | kind::WINDOW_UPDATE
    )
}
