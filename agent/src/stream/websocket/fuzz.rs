//! What has to hold for any bytes that a client sends, and for any messages that it may build.

use bytes::{Bytes, BytesMut};

use super::channels::{ChannelError, Channels, Format, Said};
use super::codec::{CONTROL_LIMIT, CodecError, Decoder, Opcode, Piece, encode_head};
use crate::fuzz::Input;

const FORMATS: [Format; 4] = [Format::Binary, Format::Closing, Format::Base64, Format::Tunnel];

/// The first byte says how the input is to be read, and in what chunks it comes.
pub(crate) fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.byte();
    let chunk = [1, 3, 9, 500, 20_000, usize::MAX][usize::from(how >> 3) % 6];
    let format = FORMATS[usize::from(how >> 1) % 4];
    if how & 1 == 0 {
        hold(input.rest(), chunk, format);
    } else {
        let (bytes, sent) = built(input, format);
        let (pieces, error) = decode(&bytes, chunk);
        assert_eq!((channels(&pieces, format), error), (Ok(sent), None), "{format:?} in chunks of {chunk}");
    }
}

/// Whatever the chunks are, the same messages come out. (A malformed base64 message may be refused or not: it depends on
/// where it is cut. Nothing that is well formed is.)
fn hold(bytes: &[u8], chunk: usize, format: Format) {
    let (whole, error) = decode(bytes, usize::MAX);
    let (in_chunks, error_in_chunks) = decode(bytes, chunk);
    assert_eq!(error, error_in_chunks, "in chunks of {chunk}");
    assert_eq!(joined(&whole), joined(&in_chunks), "in chunks of {chunk}");
    if let Ok(said) = channels(&whole, format) {
        assert_eq!(channels(&in_chunks, format), Ok(said), "{format:?} in chunks of {chunk}");
    }
}

fn decode(bytes: &[u8], chunk: usize) -> (Vec<Piece>, Option<CodecError>) {
    let (mut decoder, mut input, mut pieces) = (Decoder::default(), BytesMut::new(), Vec::new());
    for chunk in bytes.chunks(chunk) {
        input.extend_from_slice(chunk);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(piece)) => pieces.push(piece),
                Ok(None) => break,
                Err(error) => return (pieces, Some(error)),
            }
            assert!(pieces.len() <= bytes.len(), "pieces out of nothing");
        }
        assert!(input.len() <= CONTROL_LIMIT, "{} bytes are kept", input.len());
    }
    (pieces, None)
}

/// The pieces with those of one frame joined, and what came between.
fn joined(pieces: &[Piece]) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::new();
    let mut open = false;
    for piece in pieces {
        match (out.last_mut(), piece) {
            (Some(Piece::Data { last, payload, .. }), Piece::Data { first, last: ends, payload: more }) if open => {
                assert!(!first, "a message within another");
                *payload = [payload.as_ref(), more.as_ref()].concat().into();
                *last = *ends;
            }
            (_, piece) => out.push(piece.clone()),
        }
        open = matches!(out.last(), Some(Piece::Data { last: false, .. }));
    }
    out
}

/// What the pieces say on their channels, neighbours joined.
fn channels(pieces: &[Piece], format: Format) -> Result<Vec<Said>, ChannelError> {
    let mut channels = Channels::new(format);
    let mut all: Vec<Said> = Vec::new();
    for piece in pieces {
        let Piece::Data { last, payload, .. } = piece else { continue };
        let said = channels.read(*last, payload.clone())?;
        assert!(channels.kept() < 4, "{} bytes are kept", channels.kept());
        match (all.last_mut(), said) {
            (Some(Said::Data(channel, so_far)), Some(Said::Data(same, more))) if *channel == same => {
                *so_far = [so_far.as_ref(), more.as_ref()].concat().into();
            }
            (_, said) => all.extend(said),
        }
    }
    Ok(all)
}

/// A client's messages as frames, and what they say.
fn built(mut input: Input<'_>, format: Format) -> (Vec<u8>, Vec<Said>) {
    let (mut bytes, mut sent) = (Vec::new(), Vec::<Said>::new());
    while !input.is_empty() {
        let (channel, mask) = (input.byte() % 10, input.word().to_le_bytes());
        let (times, fragment) = (1 + usize::from(input.byte()), 1 + usize::from(input.byte()) * 7);
        let payload: Bytes = input.piece().repeat(times).into();
        let (head, body) = super::channels::message(format, channel, payload.clone());
        let (opcode, named) = if format == Format::Base64 {
            (Opcode::Text, 1)
        } else {
            (Opcode::Binary, usize::from(format != Format::Tunnel))
        };
        let message = [&head[head.len() - named..], &body].concat();
        let fragments: Vec<&[u8]> = if message.is_empty() { vec![&[]] } else { message.chunks(fragment).collect() };
        for (n, fragment) in fragments.iter().enumerate() {
            let opcode = if n == 0 { opcode } else { Opcode::Continuation };
            frame(&mut bytes, opcode, n + 1 == fragments.len(), mask, fragment);
            frame(&mut bytes, Opcode::Ping, true, mask, b"between");
        }
        let channel = if format == Format::Tunnel { 0 } else { channel };
        match sent.last_mut() {
            _ if payload.is_empty() => {}
            Some(Said::Data(same, so_far)) if *same == channel => *so_far = [so_far.as_ref(), &payload].concat().into(),
            _ => sent.push(Said::Data(channel, payload)),
        }
    }
    (bytes, sent)
}

/// A client's frame: a server's with a mask.
fn frame(out: &mut Vec<u8>, opcode: Opcode, fin: bool, mask: [u8; 4], payload: &[u8]) {
    let mut head = BytesMut::new();
    encode_head(opcode, payload.len(), &mut head);
    if !fin {
        head[0] &= 0x7f;
    }
    head[1] |= 0x80;
    out.extend_from_slice(&head);
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
