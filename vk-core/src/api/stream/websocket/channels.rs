//! What is in a message: `channel.k8s.io` and its versions (apimachinery `pkg/util/httpstream/wsstream`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;

/// In a v5 message: the channel that follows gets nothing more.
const CLOSE: u8 = 255;

/// How channels are written into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Coding {
    /// Text messages: the channel as a digit, and the bytes in base64.
    pub(in super::super) base64: bool,
    /// Whether a client can half-close a channel.
    pub(in super::super) half_close: bool,
}

/// What a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Data(u8, Bytes),
    Close(u8),
    /// An empty message, which says nothing.
    Nothing,
}

/// A message that breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadMessage {
    #[error("a close signal of {0} bytes instead of 2")]
    Close(usize),
    #[error("a message without a channel's digit")]
    Digit,
    #[error("a message that is not base64")]
    Base64,
}

impl Coding {
    pub(super) fn decode(self, mut message: Bytes) -> Result<Said, BadMessage> {
        let Some(first) = message.first().copied() else { return Ok(Said::Nothing) };
        if self.half_close && first == CLOSE {
            return match message[..] {
                [_, channel] => Ok(Said::Close(channel)),
                _ => Err(BadMessage::Close(message.len())),
            };
        }
        message.advance(1);
        if !self.base64 {
            return Ok(Said::Data(first, message));
        }
        let channel = char::from(first).to_digit(10).ok_or(BadMessage::Digit)?;
        let data = STANDARD.decode(&message).map_err(|_| BadMessage::Base64)?;
        Ok(Said::Data(channel as u8, data.into()))
    }

    pub(super) fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + data.len().div_ceil(3) * 4);
            text.push(char::from(b'0' + channel % 10));
            STANDARD.encode_string(data, &mut text);
            return Message::text(text);
        }
        let mut message = BytesMut::with_capacity(1 + data.len());
        message.put_u8(channel);
        message.extend_from_slice(data);
        Message::Binary(message.freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: Coding = Coding { base64: false, half_close: false };
    const V5: Coding = Coding { base64: false, half_close: true };
    const BASE64: Coding = Coding { base64: true, half_close: false };

    fn said(channel: u8, data: &'static [u8]) -> Said {
        Said::Data(channel, Bytes::from_static(data))
    }

    #[test]
    fn the_first_byte_is_the_channel() {
        for (coding, message, expected) in [
            (V4, &b"\x00ls\n"[..], Ok(said(0, b"ls\n"))),
            (V4, b"\x04", Ok(said(4, b""))),
            (V4, b"", Ok(Said::Nothing)),
            (V4, b"\xff\x00", Ok(said(255, b"\x00"))),
            (V5, b"\xff\x00", Ok(Said::Close(0))),
            (V5, b"\xff", Err(BadMessage::Close(1))),
            (V5, b"\xff\x00\x00", Err(BadMessage::Close(3))),
            (BASE64, b"0bHMK", Ok(said(0, b"ls\n"))),
            (BASE64, b"4", Ok(said(4, b""))),
            (BASE64, b"x", Err(BadMessage::Digit)),
            (BASE64, b"0b", Err(BadMessage::Base64)),
        ] {
            assert_eq!(coding.decode(Bytes::from_static(message)), expected, "{message:?}");
        }
    }

    #[test]
    fn messages_are_text_only_in_base64() {
        assert_eq!(V4.encode(1, b"hi"), Message::Binary(Bytes::from_static(b"\x01hi")));
        assert_eq!(BASE64.encode(1, b"hi"), Message::text("1aGk="));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            base64: bool, half_close: bool, channel in 0..10_u8, data in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let coding = Coding { base64, half_close };
            let message = coding.encode(channel, &data).into_data();
            prop_assert_eq!(coding.decode(message), Ok(Said::Data(channel, Bytes::from(data))));
        }

        #[test]
        fn any_message_is_understood_or_refused(base64: bool, half_close: bool, message: Vec<u8>) {
            let _ = Coding { base64, half_close }.decode(Bytes::from(message));
        }
    }
}
