//! Round trips with a mask and fragments, chunks of any size, and hostile bytes.

use proptest::prelude::*;

use super::*;

/// A client's frame, written out by hand.
fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_head(Opcode::Binary, payload.len(), &mut out);
    out[0] = first;
    out[1] |= MASKED;
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out.to_vec()
}

fn decode(bytes: &[u8], chunk: usize) -> Result<Vec<Piece>, CodecError> {
    let (mut decoder, mut input, mut pieces) = (Decoder::default(), BytesMut::new(), Vec::new());
    for chunk in bytes.chunks(chunk) {
        input.extend_from_slice(chunk);
        while let Some(piece) = decoder.decode(&mut input)? {
            pieces.push(piece);
        }
        assert!(input.len() <= CONTROL_LIMIT, "keeps no more than a control frame or a head");
    }
    Ok(pieces)
}

/// Whole messages of the pieces, and the pings between them.
fn messages(pieces: Vec<Piece>) -> (Vec<Vec<u8>>, Vec<Bytes>) {
    let (mut messages, mut pings, mut open) = (Vec::new(), Vec::new(), None);
    for piece in pieces {
        match piece {
            Piece::Data { first, last, payload } => {
                assert_eq!(first, open.is_none());
                let mut message: Vec<u8> = open.take().unwrap_or_default();
                message.extend(payload);
                if last { messages.push(message) } else { open = Some(message) }
            }
            Piece::Ping(payload) => pings.push(payload),
            Piece::Pong | Piece::Close => {}
        }
    }
    (messages, pings)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn messages_are_read_in_chunks_and_fragments_of_any_size(
        sent in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..70_000), 1usize..40_000), 0..4),
        mask: [u8; 4],
        chunk in 1usize..9000,
    ) {
        let (mut bytes, mut count) = (Vec::new(), 0);
        for (message, fragment) in &sent {
            let fragments: Vec<_> = if message.is_empty() { vec![&[][..]] } else { message.chunks(*fragment).collect() };
            for (i, fragment) in fragments.iter().enumerate() {
                let fin = if i + 1 == fragments.len() { FIN } else { 0 };
                bytes.extend(frame(fin | if i == 0 { 2 } else { 0 }, mask, fragment));
                bytes.extend(frame(FIN | 9, mask, b"between"));
                count += 1;
            }
        }
        let (read, pings) = messages(decode(&bytes, chunk).expect("well formed"));
        prop_assert_eq!(read, sent.into_iter().map(|(message, _)| message).collect::<Vec<_>>());
        prop_assert_eq!(pings, vec![Bytes::from("between"); count]);
    }

    #[test]
    fn hostile_bytes_are_pieces_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..3000), chunk in 1usize..3000) {
        let _ = decode(&bytes, chunk);
    }

    #[test]
    fn frames_with_damage_are_pieces_or_an_error(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        at: proptest::sample::Index,
        byte: u8,
    ) {
        let mut bytes = [frame(2, [1, 2, 3, 4], &payload), frame(FIN, [9; 4], &payload)].concat();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(&bytes, 100);
    }
}

#[test]
fn nonsense_is_an_error() {
    let of = |bytes: &[u8]| decode(bytes, 100);
    assert_eq!(of(&[0xc2, 0x80]), Err(CodecError::Reserved));
    assert_eq!(of(&[0x83, 0x80]), Err(CodecError::Opcode(3)));
    assert_eq!(of(&[0x82, 0x01, 0]), Err(CodecError::Unmasked));
    assert_eq!(of(&[0x09, 0x80]), Err(CodecError::Control));
    assert_eq!(of(&[0x89, 0xfe]), Err(CodecError::Control));
    assert_eq!(of(&[0x80, 0x80]), Err(CodecError::Fragment));
    assert_eq!(of(&[frame(2, [0; 4], b"a"), frame(2, [0; 4], b"b")].concat()), Err(CodecError::Fragment));
    assert_eq!(of(&[&[0x82, 0xff][..], &[0xff; 12]].concat()), Err(CodecError::Length));
}

/// Eight exabytes, and nothing is set aside for them.
#[test]
fn a_message_of_any_size_comes_in_pieces() {
    let pieces = decode(&[&[0x82, 0xff, 0x7f][..], &[0xff; 7], &[0; 4], b"ab"].concat(), 15).unwrap();
    let piece = |first, payload: &'static [u8]| Piece::Data { first, last: false, payload: payload.into() };
    assert_eq!(pieces, [piece(true, b"a"), piece(false, b"b")]);
}
