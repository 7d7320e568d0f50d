//! What has to hold for any bytes that a client sends, and for any frames that it may build.

use bytes::BytesMut;

use super::headers::Deflater;
use super::{CONTROL_LIMIT, CodecError, Decoder, Encoder, FLAG_FIN, Frame, VERSION, kind};
use crate::fuzz::Input;

/// The first byte says how the input is to be read, and in what chunks it comes.
pub(crate) fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.byte();
    let chunk = [1, 3, 9, 500, 20_000, usize::MAX][usize::from(how >> 1) % 6];
    if how & 1 == 0 {
        hold(input.rest(), chunk);
    } else {
        hold(&built(input), chunk);
    }
}

/// Whatever the chunks are, the same frames come out, and what they are written as is read as them.
fn hold(bytes: &[u8], chunk: usize) {
    let (whole, error) = decode(bytes, usize::MAX);
    let in_chunks = decode(bytes, chunk);
    assert_eq!((&whole, error), (&in_chunks.0, in_chunks.1), "in chunks of {chunk}");
    let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
    for frame in &whole {
        encoder.encode(frame, &mut out);
        if let Frame::Data { payload, .. } = frame {
            out.extend_from_slice(payload);
        }
    }
    match decode(&out, usize::MAX) {
        (again, None) => assert_eq!(again, whole),
        // Bytes that are no text take three times the room once they are, and random ones do not get smaller.
        (_, Some(error)) => {
            assert!(
                matches!(error, CodecError::HeadersTooLong(_) | CodecError::TooLong(_)),
                "{error} of our own frames"
            );
        }
    }
}

/// The frames, pieces of data joined, and what ended them.
fn decode(bytes: &[u8], chunk: usize) -> (Vec<Frame>, Option<CodecError>) {
    let (mut decoder, mut input, mut frames) = (Decoder::new(), BytesMut::new(), Vec::<Frame>::new());
    for chunk in bytes.chunks(chunk) {
        input.extend_from_slice(chunk);
        loop {
            let before = input.len();
            match decoder.decode(&mut input) {
                Ok(Some(frame)) => {
                    assert!(input.len() < before || matches!(frame, Frame::Data { fin: true, .. }), "no progress");
                    join(&mut frames, frame);
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(input.len() <= CONTROL_LIMIT + 8, "{} bytes are kept", input.len());
    }
    (frames, None)
}

fn join(frames: &mut Vec<Frame>, frame: Frame) {
    match (frames.last_mut(), frame) {
        (
            Some(Frame::Data { stream, fin: fin @ false, payload }),
            Frame::Data { stream: same, fin: last, payload: more },
        ) if *stream == same => {
            *payload = [payload.as_ref(), more.as_ref()].concat().into();
            *fin = last;
        }
        (_, frame) => frames.push(frame),
    }
}

/// Frames with header blocks that are compressed as they should be and hold anything.
fn built(mut input: Input<'_>) -> Vec<u8> {
    let (mut deflater, mut out) = (Deflater::new(), Vec::new());
    while !input.is_empty() {
        let kind = input.pick(&[kind::SYN_STREAM, kind::SYN_REPLY, kind::HEADERS, kind::SETTINGS, kind::PING, 0]);
        let flags = input.byte() & FLAG_FIN;
        let stream = u32::from(input.byte()).to_be_bytes();
        let mut body = stream.to_vec();
        match kind {
            kind::SYN_STREAM => body.extend([0; 6]),
            kind::SETTINGS | kind::PING | 0 => body.extend(input.piece()),
            _ => {}
        }
        if matches!(kind, kind::SYN_STREAM | kind::SYN_REPLY | kind::HEADERS) {
            body.extend(deflater.deflate(&block(&mut input)));
        }
        let word = if kind == 0 {
            u32::from_be_bytes(stream)
        } else {
            0x8000_0000 | u32::from(VERSION) << 16 | u32::from(kind)
        };
        out.extend(word.to_be_bytes());
        out.extend((u32::from(flags) << 24 | body.len() as u32).to_be_bytes());
        out.extend(body);
    }
    out
}

/// A header block: names and values, their number told right or not, or any bytes.
fn block(input: &mut Input<'_>) -> Vec<u8> {
    let how = input.byte();
    if how & 0x80 != 0 {
        return input.piece().to_vec();
    }
    let told = if how & 0x40 != 0 { input.word() } else { u32::from(how & 7) };
    let mut block = told.to_be_bytes().to_vec();
    // Repeated, a few bytes of input are a block that is larger than any may be.
    let times = if how & 0x20 != 0 { 1 + usize::from(input.byte()) } else { 1 };
    for _ in 0..2 * (how & 7) {
        let text = input.piece().repeat(times);
        block.extend((text.len() as u32).to_be_bytes());
        block.extend(text);
    }
    block
}
