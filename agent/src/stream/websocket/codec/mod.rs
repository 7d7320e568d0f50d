//! WebSocket frames (RFC 6455), the server's side: bytes in, pieces of messages or an error out. Messages are handed on
//! in the pieces that they come in, so their size has no limit and needs none.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What a control frame may hold (section 5.5), in bytes.
pub(super) const CONTROL_LIMIT: usize = 125;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Kinds of frames (section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// A control frame, or a piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes of a message, whether it is text or binary.
    Data {
        /// The message begins with them.
        first: bool,
        /// It ends with them.
        last: bool,
        /// May be empty.
        payload: Bytes,
    },
    /// To be answered by a pong with the same payload.
    Ping(Bytes),
    /// An answer nobody needs.
    Pong,
    /// The other side is done.
    Close,
}

/// Bytes that are no WebSocket. The connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("a frame with reserved bits, which no extension was agreed on for")]
    Reserved,
    #[error("an unknown opcode {0}")]
    Opcode(u8),
    #[error("a client's frame without a mask")]
    Unmasked,
    #[error("a control frame in fragments, or of more than {CONTROL_LIMIT} bytes")]
    Control,
    #[error("a fragment that does not follow a first one, or a message inside another")]
    Fragment,
    #[error("a frame length with its first bit set")]
    Length,
}

/// Reads what a client sends.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    frame: Option<Open>,
    /// A message whose last frame has not been seen.
    in_message: bool,
}

/// A frame whose head was read.
#[derive(Clone, Copy, Debug)]
struct Open {
    opcode: Opcode,
    fin: bool,
    mask: [u8; 4],
    left: u64,
    first: bool,
}

impl Decoder {
    /// Takes a piece off the front of the bytes; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The connection has to end.
    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, CodecError> {
        let Some(open) = self.frame.take().map_or_else(|| self.head(input), |open| Ok(Some(open)))? else {
            return Ok(None);
        };
        let take = usize::try_from(open.left).unwrap_or(usize::MAX).min(input.len());
        let left = open.left - take as u64;
        let control = !matches!(open.opcode, Opcode::Continuation | Opcode::Text | Opcode::Binary);
        // A control frame is taken whole, of others what is there.
        if left > 0 && (control || take == 0) {
            self.frame = Some(open);
            return Ok(None);
        }
        let mut payload = input.split_to(take);
        unmask(&mut payload, open.mask);
        let payload = payload.freeze();
        if left > 0 {
            let mut mask = open.mask;
            mask.rotate_left(take % 4);
            self.frame = Some(Open { mask, left, first: false, ..open });
        }
        Ok(Some(match open.opcode {
            Opcode::Close => Piece::Close,
            Opcode::Ping => Piece::Ping(payload),
            Opcode::Pong => Piece::Pong,
            _ => Piece::Data { first: open.first, last: open.fin && left == 0, payload },
        }))
    }

    fn head(&mut self, input: &mut BytesMut) -> Result<Option<Open>, CodecError> {
        let [first, second, ..] = input[..] else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(CodecError::Reserved);
        }
        if second & MASKED == 0 {
            return Err(CodecError::Unmasked);
        }
        let (fin, opcode) = (first & FIN != 0, opcode(first & 0x0f)?);
        let short = second & !MASKED;
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        match opcode {
            Opcode::Continuation if !self.in_message => return Err(CodecError::Fragment),
            Opcode::Text | Opcode::Binary if self.in_message => return Err(CodecError::Fragment),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {}
            _ if !fin || extended > 0 => return Err(CodecError::Control),
            _ => {}
        }
        if input.len() < 2 + extended + 4 {
            return Ok(None);
        }
        input.advance(2);
        let left = if extended > 0 { input.get_uint(extended) } else { u64::from(short) };
        if left >> 63 != 0 {
            return Err(CodecError::Length);
        }
        let mut mask = [0; 4];
        input.copy_to_slice(&mut mask);
        if matches!(opcode, Opcode::Continuation | Opcode::Text | Opcode::Binary) {
            self.in_message = !fin;
        }
        Ok(Some(Open { opcode, fin, mask, left, first: opcode != Opcode::Continuation }))
    }
}

fn opcode(code: u8) -> Result<Opcode, CodecError> {
    use Opcode::{Binary, Close, Continuation, Ping, Pong, Text};
    let known = [Continuation, Text, Binary, Close, Ping, Pong];
    known.into_iter().find(|known| *known as u8 == code).ok_or(CodecError::Opcode(code))
}

/// Section 5.3. Eight bytes at a time: data is mostly this.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends the head of a whole message or control frame from a server: final, not masked.
pub(super) fn encode_head(opcode: Opcode, length: usize, out: &mut BytesMut) {
    out.put_u8(FIN | opcode as u8);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => out.put_u8(short),
        (_, Ok(medium)) => {
            out.put_u8(126);
            out.put_u16(medium);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}

#[cfg(test)]
mod tests;
