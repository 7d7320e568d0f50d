//! Frames to bytes.

use bytes::{BufMut, BytesMut};

use super::headers::{Deflater, Headers};
use super::{FLAG_FIN, Frame, SETTING_INITIAL_WINDOW, VERSION, kind};

/// Writes one direction of a connection.
pub(crate) struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { deflater: Deflater::new() }
    }

    /// Appends the frame; of data only the head, so that its bytes (fewer than 2^24) need not be copied to follow it.
    pub(crate) fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::SynStream { stream, fin, headers } => {
                let block = self.deflater.headers(headers);
                head(out, kind::SYN_STREAM, *fin, 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply { stream, fin, headers } => self.block(out, kind::SYN_REPLY, *stream, *fin, headers),
            Frame::Headers { stream, fin, headers } => self.block(out, kind::HEADERS, *stream, *fin, headers),
            Frame::Data { stream, fin, payload } => {
                out.put_u32(*stream);
                out.put_u8(if *fin { FLAG_FIN } else { 0 });
                out.put_uint(payload.len() as u64, 3);
            }
            Frame::RstStream { stream, status } => words(out, kind::RST_STREAM, &[*stream, *status]),
            Frame::Settings { initial_window: None } => words(out, kind::SETTINGS, &[0]),
            Frame::Settings { initial_window: Some(window) } => {
                words(out, kind::SETTINGS, &[1, SETTING_INITIAL_WINDOW, *window]);
            }
            Frame::Ping { id } => words(out, kind::PING, &[*id]),
            Frame::GoAway { last_stream, status } => words(out, kind::GOAWAY, &[*last_stream, *status]),
            Frame::WindowUpdate { stream, delta } => words(out, kind::WINDOW_UPDATE, &[*stream, *delta]),
        }
    }

    fn block(&mut self, out: &mut BytesMut, kind: u16, stream: u32, fin: bool, headers: &Headers) {
        let block = self.deflater.headers(headers);
        head(out, kind, fin, 4 + block.len());
        out.put_u32(stream);
        out.put_slice(&block);
    }
}

fn words(out: &mut BytesMut, kind: u16, words: &[u32]) {
    head(out, kind, false, words.len() * 4);
    words.iter().for_each(|word| out.put_u32(*word));
}

fn head(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u8(if fin { FLAG_FIN } else { 0 });
    out.put_uint(length as u64, 3);
}
