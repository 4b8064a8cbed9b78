//! The codec as a whole: what is written is read, in whatever pieces, and nothing else is believed.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::decode::DecodeError;
use super::frame::{MAX_PAYLOAD, MAX_STREAM_ID, Setting};
use super::*;

fn headers() -> impl Strategy<Value = Headers> {
    proptest::collection::btree_map("[a-z][a-z0-9-]{0,12}", "[ -~]{0,40}", 0..6).prop_map(|pairs| {
        pairs.iter().fold(Headers::new(), |headers, (name, value)| headers.with(name, value))
    })
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = || 1..=MAX_STREAM_ID;
    let setting = (any::<u8>(), 0..0x00ff_ffff_u32, any::<u32>()).prop_map(|(flags, id, value)| Setting {
        flags,
        id,
        value,
    });
    prop_oneof![
        (id(), 0..=MAX_STREAM_ID, 0..8_u8, any::<bool>(), any::<bool>(), headers()).prop_map(
            |(id, associated, priority, fin, unidirectional, headers)| Frame::SynStream {
                id,
                associated,
                priority,
                fin,
                unidirectional,
                headers
            }
        ),
        (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply { id, fin, headers }),
        (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers { id, fin, headers }),
        (id(), any::<u32>()).prop_map(|(id, status)| Frame::RstStream { id, status: ResetStatus(status) }),
        (0..=MAX_STREAM_ID, any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (0..=MAX_STREAM_ID, 0..=MAX_STREAM_ID).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        any::<u32>().prop_map(Frame::Ping),
        proptest::collection::vec(setting, 0..8).prop_map(Frame::Settings),
        (id(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..2000))
            .prop_map(|(id, fin, data)| { Frame::Data { id, fin, data: Bytes::from(data) } }),
    ]
}

/// Decodes what comes in pieces of the given lengths.
fn decode(mut wire: &[u8], pieces: &[usize]) -> Result<Vec<Frame>, DecodeError> {
    let mut decoder = Decoder::new(Limits::default());
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    let mut lengths = pieces.iter().copied().cycle();
    while !wire.is_empty() {
        let (piece, rest) = wire.split_at(lengths.next().unwrap_or(usize::MAX).clamp(1, wire.len()));
        wire = rest;
        buffer.extend_from_slice(piece);
        while let Some(frame) = decoder.decode(&mut buffer)? {
            frames.push(frame);
        }
        assert!(buffer.len() < decoder.wanted(), "more is held than is needed");
    }
    Ok(frames)
}

/// Neighbouring pieces of one stream as one frame. A frame that ends a stream ends the run.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut whole: Vec<Frame> = Vec::new();
    for frame in frames {
        if let (
            Some(Frame::Data { id, fin: fin @ false, data }),
            Frame::Data { id: next, fin: ends, data: more },
        ) = (whole.last_mut(), &frame)
            && *id == *next
        {
            *data = Bytes::from([&data[..], more].concat());
            *fin = *ends;
            continue;
        }
        whole.push(frame);
    }
    whole
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_whatever_pieces_it_comes(
        frames in proptest::collection::vec(frame(), 1..12),
        pieces in proptest::collection::vec(1..200_usize, 1..8),
    ) {
        let (mut encoder, mut wire) = (Encoder::new(), BytesMut::new());
        for frame in &frames {
            encoder.encode(frame, &mut wire);
        }
        let read = decode(&wire, &pieces).unwrap();
        prop_assert_eq!(joined(read), joined(frames));
    }

    #[test]
    fn any_bytes_are_frames_or_an_error_and_never_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..4000),
        pieces in proptest::collection::vec(1..500_usize, 1..4),
    ) {
        let _ = decode(&bytes, &pieces);
    }

    /// Mutations of what is right get further into the decoder than noise does.
    #[test]
    fn damaged_frames_are_frames_or_an_error_and_never_a_panic(
        frames in proptest::collection::vec(frame(), 1..6),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (mut encoder, mut wire) = (Encoder::new(), BytesMut::new());
        for frame in &frames {
            encoder.encode(frame, &mut wire);
        }
        for (place, byte) in damage {
            let place = place.index(wire.len());
            wire[place] = byte;
        }
        let _ = decode(&wire, &[777]);
    }
}

fn one(wire: &[u8]) -> Result<Option<Frame>, DecodeError> {
    Decoder::new(Limits::default()).decode(&mut BytesMut::from(wire))
}

#[test]
fn frames_have_the_layout_of_the_draft() {
    let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    assert_eq!(one(&ping), Ok(Some(Frame::Ping(1))));
    let reset = [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 7, 0, 0, 0, 5];
    assert_eq!(one(&reset), Ok(Some(Frame::RstStream { id: 7, status: ResetStatus::CANCEL })));
    let data = [0, 0, 0, 3, 1, 0, 0, 2, b'h', b'i'];
    assert_eq!(one(&data), Ok(Some(Frame::Data { id: 3, fin: true, data: Bytes::from_static(b"hi") })));
    let mut wire = BytesMut::new();
    let mut encoder = Encoder::new();
    encoder.encode(&Frame::Ping(1), &mut wire);
    encoder.encode(&Frame::RstStream { id: 7, status: ResetStatus::CANCEL }, &mut wire);
    encoder.encode(&Frame::Data { id: 3, fin: true, data: Bytes::from_static(b"hi") }, &mut wire);
    assert_eq!(&wire[..], [&ping[..], &reset, &data].concat());
}

/// CVE-2026-35469 (GHSA-pc3f-x583-g7j2): a SETTINGS frame whose count is four thousand million.
#[test]
fn a_settings_count_that_lies_is_refused() {
    let settings = [0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(one(&settings), Err(DecodeError::TooManySettings(u32::MAX)));
    let settings = [0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 2];
    assert_eq!(one(&settings), Err(DecodeError::Length { kind: 4, length: 4 }));
}

#[test]
fn a_control_frame_is_refused_by_its_head_when_it_is_too_long() {
    let head = [0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff];
    assert_eq!(one(&head), Err(DecodeError::ControlFrameTooLong(MAX_PAYLOAD)));
    for (kind, length) in [(1, 9), (2, 3), (3, 7), (3, 9), (4, 3), (6, 3), (6, 5), (7, 4), (8, 3), (9, 4)] {
        let mut frame = vec![0x80, 3, 0, kind, 0, 0, 0, length];
        frame.resize(8 + usize::from(length), 0);
        let wrong = DecodeError::Length { kind: kind.into(), length: length.into() };
        assert_eq!(one(&frame), Err(wrong), "type {kind}");
    }
}

#[test]
fn another_version_is_refused_and_an_unknown_type_passed_over() {
    assert_eq!(one(&[0x80, 2, 0, 6, 0, 0, 0, 4]), Err(DecodeError::Version(2)));
    let mut wire = BytesMut::from(&[0x80, 3, 0, 10, 0, 1, 0, 0][..]);
    wire.extend_from_slice(&vec![0; 0x0001_0000]);
    wire.extend_from_slice(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2]);
    assert_eq!(decode(&wire, &[1000]), Ok(vec![Frame::Ping(2)]));
}

#[test]
fn stream_zero_is_no_stream() {
    assert_eq!(one(&[0, 0, 0, 0, 0, 0, 0, 0]), Err(DecodeError::StreamZero));
    assert_eq!(one(&[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5]), Err(DecodeError::StreamZero));
}

/// A data frame of 16 MiB is handed on as it comes and never held.
#[test]
fn a_large_data_frame_is_not_collected() {
    let mut decoder = Decoder::new(Limits::default());
    let mut buffer = BytesMut::from(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff, b'x'][..]);
    let data = Bytes::from_static(b"x");
    assert_eq!(decoder.decode(&mut buffer), Ok(Some(Frame::Data { id: 1, fin: false, data })));
    assert!(buffer.is_empty());
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
}
