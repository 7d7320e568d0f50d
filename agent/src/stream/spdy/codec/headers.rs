//! Header blocks: a count, then names and values with their lengths, all of it zlib with a dictionary and one state for
//! the whole connection (SPDY protocol draft 3, section 2.6.10).

use bytes::Buf;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::CodecError;
use super::dictionary::DICTIONARY;

/// What a header block may grow to, in bytes: it is compressed, and a small one can hold much.
const LIMIT: usize = 64 << 10;
/// Headers of one block: no client sends ten, and each is compared with those before it.
const MOST: u32 = 256;
/// Growth by a step, in bytes.
const STEP: usize = 4 << 10;

/// Names, in small letters, and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// A header's value, or the first of several (they are separated by NUL).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.split('\0').next().unwrap_or_default())
    }

    fn parse(mut block: &[u8]) -> Result<Self, CodecError> {
        let count = block.try_get_u32().map_err(|_| CodecError::Headers)?;
        if count > MOST {
            return Err(CodecError::Headers);
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let (name, value) = (text(&mut block)?.to_ascii_lowercase(), text(&mut block)?);
            if name.is_empty() || headers.iter().any(|(known, _)| *known == name) {
                return Err(CodecError::Headers);
            }
            headers.push((name, value));
        }
        if block.is_empty() { Ok(Self(headers)) } else { Err(CodecError::Headers) }
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = length(self.0.len()).to_vec();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(length(text.len()));
            block.extend(text.as_bytes());
        }
        block
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(headers: [(&str, &str); N]) -> Self {
        Self(headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect())
    }
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

fn text(block: &mut &[u8]) -> Result<String, CodecError> {
    let length = block.try_get_u32().map_err(|_| CodecError::Headers)? as usize;
    let (text, rest) = block.split_at_checked(length).ok_or(CodecError::Headers)?;
    *block = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// The receiving side's state.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn headers(&mut self, compressed: &[u8]) -> Result<Headers, CodecError> {
        Headers::parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, CodecError> {
        let mut block = Vec::new();
        loop {
            block.reserve(STEP);
            let before = (self.0.total_in(), block.len());
            let inflated = self.0.decompress_vec(input, &mut block, FlushDecompress::Sync);
            let consumed = (self.0.total_in() - before.0) as usize;
            input = &input[consumed.min(input.len())..];
            if block.len() > LIMIT {
                return Err(CodecError::HeadersTooLong(LIMIT));
            }
            match inflated {
                Ok(Status::StreamEnd) => return Err(CodecError::Compression),
                // Room left over: all that was to come has come.
                Ok(_) if input.is_empty() && block.len() < block.capacity() => return Ok(block),
                Ok(_) if consumed == 0 && block.len() == before.1 => return Err(CodecError::Compression),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).map_err(|_| CodecError::Compression)?;
                }
                Err(_) => return Err(CodecError::Compression),
            }
        }
    }
}

/// The sending side's state.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        // Refused only by a stream that has begun, or has no zlib header.
        let _ = deflate.set_dictionary(DICTIONARY);
        Self(deflate)
    }

    pub(super) fn headers(&mut self, headers: &Headers) -> Vec<u8> {
        self.deflate(&headers.to_block())
    }

    /// What the other side inflates to that block.
    pub(super) fn deflate(&mut self, block: &[u8]) -> Vec<u8> {
        let (mut input, mut out) = (block, Vec::new());
        loop {
            out.reserve(input.len() / 2 + STEP);
            let before = self.0.total_in();
            let deflated = self.0.compress_vec(input, &mut out, FlushCompress::Sync);
            input = &input[(self.0.total_in() - before) as usize..];
            // Its only error is a state that cannot be: one that has been finished.
            if deflated.is_err() || input.is_empty() && out.len() < out.capacity() {
                return out;
            }
        }
    }
}
