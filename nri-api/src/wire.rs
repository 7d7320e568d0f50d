//! Two ttrpc connections over one socket: the runtime calls the plugin on one, the plugin the runtime on the other.
//!
//! A packet is a connection's number and a length, big-endian, and so many bytes of that connection. Those are ttrpc messages:
//! length, stream, kind and flags in ten bytes, then a `ttrpc::Request` or `ttrpc::Response`. Whatever lengths the other side
//! claims, a decoder holds the bytes that came and no more than one message of them.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message as _;

use crate::ttrpc;

/// What a ttrpc message holds at most; the protocol's own limit.
pub const MESSAGE_MAX: usize = 4 << 20;

/// Connection number and length.
const PACKET_HEADER: usize = 8;
/// Length, stream, kind, flags.
const MESSAGE_HEADER: usize = 10;
/// A packet holds a message at most.
const PACKET_MAX: usize = MESSAGE_MAX + MESSAGE_HEADER;

/// The reference reads a connection through a buffer of this size and gives up on a packet that is larger than what it asked for:
/// the rest of a larger message goes in a packet of its own, which it asks for exactly.
const FIRST_PACKET: usize = 4096;

/// Which of the two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The plugin serves, the runtime calls.
    Plugin = 1,
    /// The runtime serves, the plugin calls.
    Runtime = 2,
}

/// What a message is.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A call.
    Request(ttrpc::Request),
    /// The answer to one.
    Response(ttrpc::Response),
}

/// A message as it travels.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// On which connection.
    pub side: Side,
    /// Which call it belongs to; the caller numbers them, odd.
    pub stream: u32,
    /// What it says.
    pub body: Body,
}

/// Bytes that are none of the protocol, or a message too large for it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WireError {
    /// Larger than any message may be.
    #[error("a message of {0} bytes; there may be {MESSAGE_MAX}")]
    Oversized(usize),
    /// A packet that cannot hold anything sensible.
    #[error("a packet of {0} bytes; there may be {PACKET_MAX}")]
    Packet(usize),
    /// Parts of streams, which no method of NRI has.
    #[error("a message of kind {0}; only requests (1) and responses (2) are expected")]
    Kind(u8),
    /// Not the protobuf that it should be.
    #[error("a message that cannot be decoded: {0}")]
    Garbled(#[from] prost::DecodeError),
}

impl Message {
    /// The bytes of a message.
    ///
    /// # Errors
    /// `WireError::Oversized`.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        let (kind, length) = match &self.body {
            Body::Request(request) => (1, request.encoded_len()),
            Body::Response(response) => (2, response.encoded_len()),
        };
        if length > MESSAGE_MAX {
            return Err(WireError::Oversized(length));
        }
        let mut message = Vec::with_capacity(MESSAGE_HEADER + length);
        message.extend_from_slice(&(length as u32).to_be_bytes());
        message.extend_from_slice(&self.stream.to_be_bytes());
        message.extend_from_slice(&[kind, 0]);
        match &self.body {
            Body::Request(request) => request.encode_raw(&mut message),
            Body::Response(response) => response.encode_raw(&mut message),
        }
        let (first, rest) = message.split_at(FIRST_PACKET.min(message.len()));
        let mut packets = Vec::with_capacity(message.len() + 2 * PACKET_HEADER);
        for part in [first, rest].into_iter().filter(|part| !part.is_empty()) {
            packets.extend_from_slice(&(self.side as u32).to_be_bytes());
            packets.extend_from_slice(&(part.len() as u32).to_be_bytes());
            packets.extend_from_slice(part);
        }
        Ok(packets.into())
    }
}

/// Bytes to messages.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The header of a packet that has not come whole.
    header: BytesMut,
    /// Whose the packet is that is coming, and how much of it is to come.
    packet: Option<(u32, usize)>,
    plugin: BytesMut,
    runtime: BytesMut,
}

impl Decoder {
    /// Takes what came and gives the messages that are whole with it. Packets of other connections are passed over: the protocol
    /// keeps their numbers for later.
    ///
    /// # Errors
    /// `WireError`: nothing that comes later can be understood either.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<Message>, WireError> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let Some((connection, left)) = self.packet else {
                self.take_header(&mut bytes)?;
                continue;
            };
            let (part, rest) = bytes.split_at(left.min(bytes.len()));
            bytes = rest;
            self.packet = Some((connection, left - part.len())).filter(|(_, left)| *left > 0);
            let side = match connection {
                1 => Side::Plugin,
                2 => Side::Runtime,
                _ => continue,
            };
            self.buffer(side).extend_from_slice(part);
            while let Some(message) = self.next(side)? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    fn take_header(&mut self, bytes: &mut &[u8]) -> Result<(), WireError> {
        let (part, rest) = bytes.split_at((PACKET_HEADER - self.header.len()).min(bytes.len()));
        *bytes = rest;
        self.header.extend_from_slice(part);
        if self.header.len() == PACKET_HEADER {
            let (connection, length) = (self.header.get_u32(), self.header.get_u32() as usize);
            self.header.clear();
            if length > PACKET_MAX {
                return Err(WireError::Packet(length));
            }
            self.packet = Some((connection, length)).filter(|_| length > 0);
        }
        Ok(())
    }

    fn buffer(&mut self, side: Side) -> &mut BytesMut {
        match side {
            Side::Plugin => &mut self.plugin,
            Side::Runtime => &mut self.runtime,
        }
    }

    fn next(&mut self, side: Side) -> Result<Option<Message>, WireError> {
        let buffer = self.buffer(side);
        let Some(mut header) = buffer.get(..MESSAGE_HEADER) else { return Ok(None) };
        let (length, stream, kind) = (header.get_u32() as usize, header.get_u32(), header.get_u8());
        if length > MESSAGE_MAX {
            return Err(WireError::Oversized(length));
        }
        if !matches!(kind, 1 | 2) {
            return Err(WireError::Kind(kind));
        }
        if buffer.len() < MESSAGE_HEADER + length {
            return Ok(None);
        }
        buffer.advance(MESSAGE_HEADER);
        let payload = buffer.split_to(length);
        if buffer.is_empty() {
            // Whoever says little after one large message does not keep its room.
            *buffer = BytesMut::new();
        }
        let body = match kind {
            1 => Body::Request(ttrpc::Request::decode(payload)?),
            _ => Body::Response(ttrpc::Response::decode(payload)?),
        };
        Ok(Some(Message { side, stream, body }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn call(stream: u32, payload: usize) -> Message {
        let request = ttrpc::Request {
            service: crate::PLUGIN_SERVICE.into(),
            method: "Configure".into(),
            payload: vec![7; payload],
            timeout_nano: 5,
            metadata: vec![],
        };
        Message { side: Side::Plugin, stream, body: Body::Request(request) }
    }

    fn answer(stream: u32, message: &str) -> Message {
        let status = ttrpc::Status { code: 12, message: message.into() };
        let response = ttrpc::Response { status: Some(status), payload: vec![] };
        Message { side: Side::Runtime, stream, body: Body::Response(response) }
    }

    /// Lengths of the packets in `bytes`.
    fn packets(mut bytes: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
            found.push(length);
            bytes = &bytes[8 + length..];
        }
        found
    }

    /// As the reference writes it, byte for byte.
    #[test]
    fn a_small_message_is_one_packet() {
        let response = ttrpc::Response { status: None, payload: vec![9] };
        let bytes = Message { side: Side::Runtime, stream: 3, body: Body::Response(response) }.encode().unwrap();
        let wanted = [0, 0, 0, 2, 0, 0, 0, 13, 0, 0, 0, 3, 0, 0, 0, 3, 2, 0, 0x12, 1, 9];
        assert_eq!(bytes[..], wanted);
    }

    #[test]
    fn a_large_message_is_a_first_packet_and_the_rest() {
        for (payload, most) in [(4000, 1), (4100, 2), (3 << 20, 2)] {
            let sizes = packets(&call(1, payload).encode().unwrap());
            assert!(sizes.len() == most && sizes[0] <= 4096, "{payload}: {sizes:?}");
        }
        assert!(matches!(call(1, MESSAGE_MAX).encode(), Err(WireError::Oversized(size)) if size > MESSAGE_MAX));
    }

    #[test]
    fn what_is_no_message_is_told() {
        let packet = |bytes: &[u8]| [&[0, 0, 0, 1][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat();
        let push = |bytes: &[u8]| Decoder::default().push(bytes);
        assert_eq!(push(&[0, 0, 0, 1, 0xff, 0, 0, 0]), Err(WireError::Packet(0xff00_0000)));
        assert_eq!(push(&packet(&[0, 0x40, 0, 1, 0, 0, 0, 1, 1, 0])), Err(WireError::Oversized(MESSAGE_MAX + 1)));
        assert_eq!(push(&packet(&[0, 0, 0, 0, 0, 0, 0, 1, 3, 0])), Err(WireError::Kind(3)));
        assert!(matches!(push(&packet(&[0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0xff])), Err(WireError::Garbled(_))));
        assert_eq!(push(&[0, 0, 0, 9, 0, 0, 0, 2, 1, 2, 0, 0, 0, 1]), Ok(vec![]), "another connection's");
        assert_eq!(push(&[0, 0, 0, 1, 0, 0, 0, 0]), Ok(vec![]), "an empty packet");
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            sizes in prop::collection::vec(0usize..9000, 1..5), cuts in prop::collection::vec(1usize..3000, 1..40)
        ) {
            let mut messages: Vec<Message> = sizes.iter().enumerate().map(|(n, size)| call(n as u32, *size)).collect();
            messages.push(answer(7, "nobody serves that"));
            let bytes: Vec<u8> = messages.iter().flat_map(|one| one.encode().unwrap()).collect();
            let (mut decoder, mut found, mut at, mut cut) = (Decoder::default(), Vec::new(), 0, cuts.iter().cycle());
            while at < bytes.len() {
                let end = (at + cut.next().unwrap()).min(bytes.len());
                found.extend(decoder.push(&bytes[at..end]).unwrap());
                at = end;
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn any_bytes_are_messages_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            for byte in &bytes {
                if decoder.push(std::slice::from_ref(byte)).is_err() {
                    break;
                }
            }
            prop_assert!(decoder.plugin.len() + decoder.runtime.len() <= bytes.len());
        }
    }
}
