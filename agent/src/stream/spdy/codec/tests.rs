//! Round trips, chunks of any size, and hostile bytes.

use proptest::prelude::*;

use super::dictionary::DICTIONARY;
use super::*;

fn bytes_of(frames: &[Frame]) -> BytesMut {
    let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
    for frame in frames {
        encoder.encode(frame, &mut out);
        if let Frame::Data { payload, .. } = frame {
            out.extend_from_slice(payload);
        }
    }
    out
}

/// Decodes what comes in chunks of the given sizes; the pieces of a data frame are joined again.
fn decode(bytes: &[u8], chunk: usize) -> Result<Vec<Frame>, CodecError> {
    let (mut decoder, mut input, mut frames) = (Decoder::new(), BytesMut::new(), Vec::<Frame>::new());
    for chunk in bytes.chunks(chunk) {
        input.extend_from_slice(chunk);
        while let Some(frame) = decoder.decode(&mut input)? {
            frames.push(frame);
        }
        assert!(input.len() <= CONTROL_LIMIT + 8, "keeps no more than a control frame");
    }
    Ok(frames)
}

fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut out: Vec<Frame> = Vec::new();
    for frame in frames {
        match (out.last_mut(), frame) {
            (
                Some(Frame::Data { stream, fin: fin @ false, payload }),
                Frame::Data { stream: same, fin: last, payload: more },
            ) if *stream == same => {
                *payload = [payload.as_ref(), more.as_ref()].concat().into();
                *fin = last;
            }
            (_, frame) => out.push(frame),
        }
    }
    out
}

fn headers() -> impl Strategy<Value = Headers> {
    prop_oneof![
        Just(Headers::from([("streamtype", "stdout")])),
        Just(Headers::default()),
        ("x-[a-z:-]{1,40}", "\\PC{0,300}")
            .prop_map(|(name, value)| Headers::from([(name.as_str(), value.as_str()), ("port", "80")])),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let stream = 1..=POSITIVE;
    prop_oneof![
        (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynStream {
            stream,
            fin,
            headers
        }),
        (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynReply {
            stream,
            fin,
            headers
        }),
        (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::Headers {
            stream,
            fin,
            headers
        }),
        // Ends, so that what is joined again cannot be two.
        (stream.clone(), proptest::collection::vec(any::<u8>(), 0..3000)).prop_map(|(stream, payload)| Frame::Data {
            stream,
            fin: true,
            payload: payload.into()
        }),
        (stream.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
        proptest::option::of(0..=POSITIVE).prop_map(|initial_window| Frame::Settings { initial_window }),
        any::<u32>().prop_map(|id| Frame::Ping { id }),
        (0..=POSITIVE, any::<u32>()).prop_map(|(last_stream, status)| Frame::GoAway { last_stream, status }),
        (0..=POSITIVE, 0..=POSITIVE).prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read_in_chunks_of_any_size(
        frames in proptest::collection::vec(frame(), 0..12),
        chunk in 1usize..5000,
    ) {
        let decoded = decode(&bytes_of(&frames), chunk).expect("our own frames");
        prop_assert_eq!(joined(decoded), frames);
    }

    #[test]
    fn hostile_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..4000), chunk in 1usize..4000) {
        let _ = decode(&bytes, chunk);
    }

    #[test]
    fn damaged_frames_are_frames_or_an_error(
        frames in proptest::collection::vec(frame(), 1..8),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = bytes_of(&frames);
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode(&bytes, 700);
    }
}

/// The check sum that zlib names the dictionary by, as every SPDY/3 peer has it.
#[test]
fn the_dictionary_is_everybodys() {
    let (a, b) = DICTIONARY.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    assert_eq!((DICTIONARY.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
}

#[test]
fn header_compression_has_one_state() {
    let frame = |stream| Frame::SynStream { stream, fin: false, headers: [("streamtype", "stdin-of-a-kind")].into() };
    let (first, both) = (bytes_of(&[frame(1)]).len(), bytes_of(&[frame(1), frame(3)]).len());
    assert!(both - first < first - 10, "the second refers to the first: {first}, then {}", both - first);
    assert!(decode(&bytes_of(&[frame(1), frame(3)])[first..], 9).is_err());
}

#[test]
fn a_small_block_that_grows_large_is_refused() {
    let headers = Headers::from([("a", "x".repeat(LIMIT_TEST).as_str())]);
    let bytes = bytes_of(&[Frame::SynStream { stream: 1, fin: false, headers }]);
    assert!(bytes.len() < 4000);
    assert!(matches!(decode(&bytes, 4000), Err(CodecError::HeadersTooLong(_))));
}
const LIMIT_TEST: usize = 70 << 10;

#[test]
fn limits_and_nonsense_are_errors() {
    let control = |kind: u16, length: u32, body: &[u8]| {
        let mut bytes = (0x8003_0000 | u32::from(kind)).to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend(body);
        decode(&bytes, 64).map(|frames| frames.len())
    };
    assert_eq!(control(1, 0x00ff_ffff, b""), Err(CodecError::TooLong(0x00ff_ffff)));
    assert_eq!(control(6, 8, &[0; 8]), Err(CodecError::Length(6)));
    assert_eq!(control(3, 8, &[0; 8]), Err(CodecError::StreamZero(3)));
    assert_eq!(control(4, 12, &[0xff; 12]), Err(CodecError::Length(4)));
    assert_eq!(control(1, 10, &[1; 10]), Err(CodecError::Headers), "an empty block has not even a count");
    assert_eq!(control(1, 14, &[1; 14]), Err(CodecError::Compression));
    let headers = |count: u32| {
        let names = (0..count).map(|n| [&[0, 0, 0, 4][..], format!("{n:04}").as_bytes(), &[0; 4]].concat());
        let block = [count.to_be_bytes().to_vec(), names.collect::<Vec<_>>().concat()].concat();
        let body = [&[0, 0, 0, 1][..], &super::headers::Deflater::new().deflate(&block)].concat();
        control(8, body.len() as u32, &body)
    };
    assert_eq!((headers(256), headers(257)), (Ok(1), Err(CodecError::Headers)), "more than any client has");
    assert_eq!(control(12, 3, b"abc"), Ok(0), "a kind that we do not know is passed over");
    assert_eq!(decode(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], 64), Err(CodecError::Version(2)));
    assert_eq!(decode(&[0; 8], 64), Err(CodecError::StreamZero(0)));
}

/// Sixteen megabytes, the most a frame can claim, and nothing is set aside for it.
#[test]
fn a_large_data_frame_comes_in_pieces() {
    let frames = decode(&[0, 0, 0, 1, 1, 0xff, 0xff, 0xff, b'a', b'b'], 9).unwrap();
    let piece = |payload: &'static [u8]| Frame::Data { stream: 1, fin: false, payload: payload.into() };
    assert_eq!(frames, [piece(b"a"), piece(b"b")]);
}
