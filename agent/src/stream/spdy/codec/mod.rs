//! SPDY/3.1 frames (SPDY protocol draft 3.1): bytes in, frames or an error out. No input makes it keep more than a
//! control frame's limit; data is handed on in the pieces that it comes in.

/// What header compression starts with.
mod dictionary;
/// Frames to bytes.
mod encode;
/// What has to hold for any input.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
/// Header blocks and their compression.
mod headers;

use bytes::{Buf, Bytes, BytesMut};

pub(super) use encode::Encoder;
pub(super) use headers::Headers;
use headers::Inflater;

/// The only version there is.
const VERSION: u16 = 3;
/// What a control frame may hold, in bytes: a header block, mostly.
const CONTROL_LIMIT: usize = 64 << 10;
/// What may be sent on a stream, and on a connection, before the receiver has said anything, in bytes.
pub(super) const INITIAL_WINDOW: u32 = 64 << 10;
/// Ids and windows have 31 bits.
const POSITIVE: u32 = 0x7fff_ffff;

/// RST_STREAM: the stream broke the protocol.
pub(super) const PROTOCOL_ERROR: u32 = 1;
/// RST_STREAM: refused before anything was done for it.
pub(super) const REFUSED_STREAM: u32 = 3;

const FLAG_FIN: u8 = 1;
const SETTING_INITIAL_WINDOW: u32 = 7;

/// Kinds of control frames.
mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const SETTINGS: u16 = 4;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
    pub(super) const HEADERS: u16 = 8;
    pub(super) const WINDOW_UPDATE: u16 = 9;
}

/// One frame, or a piece of a data frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Opens a stream.
    SynStream { stream: u32, fin: bool, headers: Headers },
    /// Accepts one.
    SynReply { stream: u32, fin: bool, headers: Headers },
    /// More headers.
    Headers { stream: u32, fin: bool, headers: Headers },
    /// Bytes of a stream; `fin` with its last.
    Data { stream: u32, fin: bool, payload: Bytes },
    /// Ends a stream both ways.
    RstStream { stream: u32, status: u32 },
    /// Of all settings only this one says something to us: the window of streams, in bytes.
    Settings { initial_window: Option<u32> },
    /// Answered with the same.
    Ping { id: u32 },
    /// No more streams.
    GoAway { last_stream: u32, status: u32 },
    /// More bytes may be sent: on a stream, or on the connection (stream 0).
    WindowUpdate { stream: u32, delta: u32 },
}

/// Bytes that are no SPDY/3.1, or too much of it. The connection cannot go on: header compression has one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("SPDY version {0}, not 3")]
    Version(u16),
    #[error("a control frame of {0} bytes, more than {CONTROL_LIMIT}")]
    TooLong(usize),
    #[error("a control frame of kind {0} with a wrong length")]
    Length(u16),
    #[error("a frame of kind {0} for stream 0")]
    StreamZero(u16),
    #[error("a header block that is not compressed as it should be")]
    Compression,
    #[error("a header block of more than {0} bytes")]
    HeadersTooLong(usize),
    #[error("a malformed header block")]
    Headers,
}

/// Reads one direction of a connection.
pub(super) struct Decoder {
    state: State,
    inflater: Inflater,
}

enum State {
    Head,
    Data {
        stream: u32,
        fin: bool,
        left: usize,
    },
    Control {
        kind: u16,
        flags: u8,
        length: usize,
    },
    /// A control frame that a later revision may know: to be ignored (section 2.2.1).
    Skip {
        left: usize,
    },
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { state: State::Head, inflater: Inflater::new() }
    }

    /// Takes a frame off the front of the bytes; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The connection has to end.
    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        loop {
            match self.state {
                State::Head => {
                    if input.len() < 8 {
                        return Ok(None);
                    }
                    let (word, length) = (input.get_u32(), input.get_u32());
                    self.state = head(word, length)?;
                }
                State::Data { stream, fin, left } => {
                    let take = left.min(input.len());
                    if take == 0 && left > 0 {
                        return Ok(None);
                    }
                    let left = left - take;
                    self.state = if left == 0 { State::Head } else { State::Data { stream, fin, left } };
                    let fin = fin && left == 0;
                    if take > 0 || fin {
                        return Ok(Some(Frame::Data { stream, fin, payload: input.split_to(take).freeze() }));
                    }
                }
                State::Control { kind, flags, length } => {
                    if input.len() < length {
                        return Ok(None);
                    }
                    self.state = State::Head;
                    return self.control(kind, flags & FLAG_FIN != 0, &input.split_to(length)).map(Some);
                }
                State::Skip { left } => {
                    let take = left.min(input.len());
                    input.advance(take);
                    if take < left {
                        self.state = State::Skip { left: left - take };
                        return Ok(None);
                    }
                    self.state = State::Head;
                }
            }
        }
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: &[u8]) -> Result<Frame, CodecError> {
        let mut words = [0u32; 2];
        let count = match kind {
            kind::SYN_STREAM | kind::RST_STREAM | kind::GOAWAY | kind::WINDOW_UPDATE => 2,
            _ => 1,
        };
        for word in &mut words[..count] {
            *word = body.try_get_u32().map_err(|_| CodecError::Length(kind))?;
        }
        let [first, second] = words;
        let (stream, fixed) =
            (first & POSITIVE, matches!(kind, kind::RST_STREAM | kind::PING | kind::GOAWAY | kind::WINDOW_UPDATE));
        if fixed && !body.is_empty() {
            return Err(CodecError::Length(kind));
        }
        let about_a_stream = matches!(kind, kind::SYN_STREAM | kind::SYN_REPLY | kind::HEADERS | kind::RST_STREAM);
        if about_a_stream && stream == 0 {
            return Err(CodecError::StreamZero(kind));
        }
        Ok(match kind {
            kind::SYN_STREAM => {
                // Priority and credential slot mean nothing here.
                body.try_get_u16().map_err(|_| CodecError::Length(kind))?;
                Frame::SynStream { stream, fin, headers: self.inflater.headers(body)? }
            }
            kind::SYN_REPLY => Frame::SynReply { stream, fin, headers: self.inflater.headers(body)? },
            kind::HEADERS => Frame::Headers { stream, fin, headers: self.inflater.headers(body)? },
            kind::RST_STREAM => Frame::RstStream { stream, status: second },
            kind::SETTINGS => settings(first, body)?,
            kind::PING => Frame::Ping { id: first },
            kind::GOAWAY => Frame::GoAway { last_stream: stream, status: second },
            _ => Frame::WindowUpdate { stream, delta: second & POSITIVE },
        })
    }
}

fn head(word: u32, length: u32) -> Result<State, CodecError> {
    let (flags, length) = ((length >> 24) as u8, (length & 0x00ff_ffff) as usize);
    if word >> 31 == 0 {
        return match word {
            0 => Err(CodecError::StreamZero(0)),
            stream => Ok(State::Data { stream, fin: flags & FLAG_FIN != 0, left: length }),
        };
    }
    let (version, kind) = ((word >> 16 & 0x7fff) as u16, word as u16);
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    Ok(match kind {
        kind::SYN_STREAM..=kind::SETTINGS | kind::PING..=kind::WINDOW_UPDATE if length > CONTROL_LIMIT => {
            return Err(CodecError::TooLong(length));
        }
        kind::SYN_STREAM..=kind::SETTINGS | kind::PING..=kind::WINDOW_UPDATE => State::Control { kind, flags, length },
        _ => State::Skip { left: length },
    })
}

fn settings(count: u32, mut body: &[u8]) -> Result<Frame, CodecError> {
    if body.len() / 8 != count as usize || !body.len().is_multiple_of(8) {
        return Err(CodecError::Length(kind::SETTINGS));
    }
    let mut initial_window = None;
    while let (Ok(id), Ok(value)) = (body.try_get_u32(), body.try_get_u32()) {
        if id & 0x00ff_ffff == SETTING_INITIAL_WINDOW {
            initial_window = Some(value & POSITIVE);
        }
    }
    Ok(Frame::Settings { initial_window })
}

#[cfg(test)]
mod tests;
