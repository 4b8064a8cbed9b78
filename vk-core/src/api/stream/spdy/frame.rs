//! SPDY/3.1 frames, as values.

use std::fmt;

use bytes::Bytes;

/// A stream's number: odd if the client opened it. At most [`StreamId::MAX`].
pub(crate) type StreamId = u32;

/// The largest stream number; the bit above it marks control frames.
pub(crate) const MAX_STREAM_ID: StreamId = 0x7fff_ffff;

/// The largest payload of any frame.
pub(crate) const MAX_PAYLOAD: usize = 0x00ff_ffff;

/// A frame, or a part of one: the payload of a data frame comes in pieces, as it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Frame {
    /// Opens a stream.
    SynStream {
        /// The new stream.
        id: StreamId,
        /// The stream it belongs to; 0 is none.
        associated: StreamId,
        /// 0 (first) to 7 (last).
        priority: u8,
        /// The sender will send nothing on it.
        fin: bool,
        /// The receiver may send nothing on it.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        id: StreamId,
        /// The sender will send nothing on it.
        fin: bool,
        /// More about it; Kubernetes sends none.
        headers: Headers,
    },
    /// Ends a stream in both directions.
    RstStream {
        /// The stream.
        id: StreamId,
        /// Why.
        status: ResetStatus,
    },
    /// Settings, which nobody in Kubernetes heeds.
    Settings(Vec<Setting>),
    /// To be sent back by the peer, if the number is of the sender's parity.
    Ping(u32),
    /// The sender takes no more streams; moby/spdystream reads nothing after it.
    GoAway {
        /// The last stream that was taken.
        last: StreamId,
        /// 0 is an orderly end.
        status: u32,
    },
    /// Further headers of a stream.
    Headers {
        /// The stream.
        id: StreamId,
        /// The sender will send nothing more on it.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// A larger window, which nobody in Kubernetes heeds.
    WindowUpdate {
        /// The stream; 0 is the connection.
        id: StreamId,
        /// By how many bytes.
        delta: u32,
    },
    /// Bytes of a stream.
    Data {
        /// The stream.
        id: StreamId,
        /// The sender will send nothing more on it.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
}

/// One entry of a [`Frame::Settings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Whether to keep it over connections.
    pub flags: u8,
    /// Which; 24 bits.
    pub id: u32,
    /// Its value.
    pub value: u32,
}

/// Why a stream is reset.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResetStatus(pub u32);

impl ResetStatus {
    /// The peer broke the protocol.
    pub(crate) const PROTOCOL_ERROR: Self = Self(1);
    /// The stream was not taken, and nothing was done.
    pub(crate) const REFUSED_STREAM: Self = Self(3);
    /// The stream is not needed any more.
    pub(crate) const CANCEL: Self = Self(5);
    /// The sender failed.
    pub(crate) const INTERNAL_ERROR: Self = Self(6);
}

impl fmt::Debug for ResetStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::PROTOCOL_ERROR => "PROTOCOL_ERROR",
            Self::REFUSED_STREAM => "REFUSED_STREAM",
            Self::CANCEL => "CANCEL",
            Self::INTERNAL_ERROR => "INTERNAL_ERROR",
            Self(other) => return write!(f, "ResetStatus({other})"),
        };
        f.write_str(name)
    }
}

/// The headers of a stream: names in lower case, each with its values, in the order of the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// No headers.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a header. Several values of one name are one text with NUL between them, as on the wire.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// The first value of a name, which is in lower case.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        value.split('\0').next()
    }

    /// Every header.
    #[must_use]
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn push(&mut self, name: String, value: String) {
        self.0.push((name, value));
    }
}

/// The types of control frames.
pub(super) mod kind {
    pub(in super::super) const SYN_STREAM: u16 = 1;
    pub(in super::super) const SYN_REPLY: u16 = 2;
    pub(in super::super) const RST_STREAM: u16 = 3;
    pub(in super::super) const SETTINGS: u16 = 4;
    pub(in super::super) const PING: u16 = 6;
    pub(in super::super) const GO_AWAY: u16 = 7;
    pub(in super::super) const HEADERS: u16 = 8;
    pub(in super::super) const WINDOW_UPDATE: u16 = 9;
}

/// The version in every control frame: 3.1 calls itself 3.
pub(super) const VERSION: u16 = 3;
/// In the first byte of a control frame.
pub(super) const CONTROL: u32 = 0x8000_0000;
/// No more frames of the sender on this stream.
pub(super) const FLAG_FIN: u8 = 1;
/// No frames of the receiver on this stream.
pub(super) const FLAG_UNIDIRECTIONAL: u8 = 2;
/// Length of a frame's head.
pub(super) const HEAD: usize = 8;
