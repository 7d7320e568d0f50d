//! Channels in messages, as kubelet's clients know them: a message's first byte names the channel. Pieces in, bytes of
//! channels out; pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{Opcode, encode_head};

/// v5.channel.k8s.io: closes the channel that the next byte names.
const CLOSE: u8 = 255;

/// How a subprotocol writes its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Format {
    /// Binary messages: the channel's number, then the bytes.
    Binary,
    /// The same, and the client may close one channel (v5).
    Closing,
    /// Text messages: the channel's digit, then base64.
    Base64,
    /// Binary messages without a channel: all is of channel 0.
    Tunnel,
}

/// What a client has said on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Data(u8, Bytes),
    Close(u8),
}

/// A message that is none of the subprotocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChannelError {
    #[error("a close signal that does not name one channel")]
    Close,
    #[error("a message that is not base64")]
    Base64,
}

/// Reads the messages of one connection.
#[derive(Debug)]
pub(super) struct Channels {
    format: Format,
    /// The message's channel; `None` before its first byte.
    channel: Option<u8>,
    /// Base64 comes in fours, and pieces end anywhere.
    carry: Vec<u8>,
}

impl Channels {
    pub(super) fn new(format: Format) -> Self {
        Self { format, channel: None, carry: Vec::new() }
    }

    /// Bytes that wait for the next piece.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn kept(&self) -> usize {
        self.carry.len()
    }

    /// Takes a piece of a message.
    ///
    /// # Errors
    /// The connection has to end.
    pub(super) fn read(&mut self, last: bool, mut payload: Bytes) -> Result<Option<Said>, ChannelError> {
        if self.format == Format::Tunnel {
            return Ok((!payload.is_empty()).then_some(Said::Data(0, payload)));
        }
        let Some(channel) = self.channel.or_else(|| (!payload.is_empty()).then(|| payload.split_to(1)[0])) else {
            // Nothing but a piece without a byte: an empty message is ignored.
            return Ok(None);
        };
        self.channel = (!last).then_some(channel);
        if self.format == Format::Closing && channel == CLOSE {
            self.carry.extend(payload.iter().take(2));
            return match (last, std::mem::take(&mut self.carry).as_slice()) {
                (true, [closed]) => Ok(Some(Said::Close(*closed))),
                (false, so_far @ ([] | [_])) => {
                    self.carry = so_far.to_vec();
                    Ok(None)
                }
                _ => Err(ChannelError::Close),
            };
        }
        if self.format != Format::Base64 {
            return Ok((!payload.is_empty()).then_some(Said::Data(channel, payload)));
        }
        self.carry.extend(&payload);
        let whole = if last { self.carry.len() } else { self.carry.len() / 4 * 4 };
        let decoded = STANDARD.decode(&self.carry[..whole]).map_err(|_| ChannelError::Base64)?;
        self.carry.drain(..whole);
        Ok((!decoded.is_empty()).then(|| Said::Data(channel.wrapping_sub(b'0'), decoded.into())))
    }
}

/// A message's head, with its first byte, and what follows it.
pub(super) fn message(format: Format, channel: u8, payload: Bytes) -> (BytesMut, Bytes) {
    let mut head = BytesMut::with_capacity(16);
    match format {
        Format::Tunnel => encode_head(Opcode::Binary, payload.len(), &mut head),
        Format::Binary | Format::Closing => {
            encode_head(Opcode::Binary, payload.len() + 1, &mut head);
            head.put_u8(channel);
        }
        Format::Base64 => {
            let text = STANDARD.encode(payload);
            encode_head(Opcode::Text, text.len() + 1, &mut head);
            head.put_u8(b'0' + channel);
            return (head, text.into());
        }
    }
    (head, payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BINARY: Format = Format::Binary;
    const V5: Format = Format::Closing;
    const TEXT: Format = Format::Base64;

    fn read(format: Format, message: &[u8], piece: usize) -> Result<Vec<Said>, ChannelError> {
        let mut channels = Channels::new(format);
        let pieces: Vec<_> = message.chunks(piece.max(1)).collect();
        let mut said = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            said.extend(channels.read(i + 1 == pieces.len(), Bytes::copy_from_slice(piece))?);
        }
        Ok(said)
    }

    proptest! {
        #[test]
        fn a_channels_bytes_come_through_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            piece in 1usize..700,
            base64: bool,
        ) {
            let format = if base64 { TEXT } else { V5 };
            let (head, body) = message(format, 1, bytes.clone().into());
            let sent = [&head[head.len() - 1..], &body].concat();
            let said = read(format, &sent, piece).expect("our own");
            let read: Vec<u8> = said.into_iter().flat_map(|said| match said {
                Said::Data(1, bytes) => bytes,
                other => panic!("{other:?}"),
            }).collect();
            prop_assert_eq!(read, bytes);
        }
    }

    #[test]
    fn only_v5_closes_a_channel() {
        assert_eq!(read(V5, &[255, 0], 1), Ok(vec![Said::Close(0)]));
        assert_eq!(read(V5, &[255, 0], 2), Ok(vec![Said::Close(0)]));
        assert_eq!(read(V5, &[255], 1), Err(ChannelError::Close));
        assert_eq!(read(V5, &[255, 0, 0], 3), Err(ChannelError::Close));
        assert_eq!(read(V5, &[255, 0, 0], 1), Err(ChannelError::Close));
        assert_eq!(read(BINARY, &[255, 0], 2), Ok(vec![Said::Data(255, Bytes::from_static(&[0]))]));
    }

    #[test]
    fn what_is_no_base64_ends_the_connection() {
        assert_eq!(read(TEXT, b"0aGk=", 5), Ok(vec![Said::Data(0, Bytes::from("hi"))]));
        assert_eq!(read(TEXT, b"0a?k=", 5), Err(ChannelError::Base64));
        assert_eq!(read(TEXT, b"0aGk", 2), Err(ChannelError::Base64));
        assert_eq!(Channels::new(TEXT).read(true, Bytes::new()), Ok(None));
    }
}
