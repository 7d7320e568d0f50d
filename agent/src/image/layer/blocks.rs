//! A stream of blocks that is hashed and counted as it is read.

use std::fs::File;
use std::io::{self, BufRead, Read};

use sha2::{Digest as _, Sha256};

use crate::model::Digest;

/// Large enough that a wake-up of the thread at the other end (floors.md, trap 7) is paid for.
pub(crate) const BLOCK: usize = 256 << 10;

/// Where blocks come from.
pub(crate) trait Source {
    /// One block; handed back once read, so that its memory can be used again.
    type Block: AsRef<[u8]>;

    /// The next block, `None` at the end.
    fn next(&mut self, used: Option<Self::Block>) -> io::Result<Option<Self::Block>>;
}

/// Reads a [`Source`], with the SHA-256 and the length of all that came.
pub(crate) struct BlockReader<S: Source> {
    source: S,
    block: Option<S::Block>,
    position: usize,
    hasher: Sha256,
    length: u64,
    ended: bool,
}

impl<S: Source> BlockReader<S> {
    pub(crate) fn new(source: S) -> Self {
        Self { source, block: None, position: 0, hasher: Sha256::new(), length: 0, ended: false }
    }

    /// Reads to the end, then tells digest and length of the whole stream.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64)> {
        loop {
            let rest = self.fill_buf()?.len();
            if rest == 0 {
                return Ok((Digest::from_sha256(&self.hasher.finalize().into()), self.length));
            }
            self.consume(rest);
        }
    }
}

impl<S: Source> BufRead for BlockReader<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while !self.ended && self.block.as_ref().is_none_or(|block| self.position >= block.as_ref().len()) {
            self.block = self.source.next(self.block.take())?;
            self.position = 0;
            match &self.block {
                Some(block) => {
                    self.hasher.update(block.as_ref());
                    self.length += block.as_ref().len() as u64;
                }
                None => self.ended = true,
            }
        }
        Ok(self.block.as_ref().map_or(&[], |block| &block.as_ref()[self.position..]))
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount;
    }
}

impl<S: Source> Read for BlockReader<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

/// A part of a file, from where it stands.
pub(crate) struct FileBlocks {
    file: File,
    offset: u64,
    left: u64,
}

impl FileBlocks {
    /// `left` bytes of `file` from `offset` on.
    pub(crate) fn new(file: File, offset: u64, left: u64) -> Self {
        Self { file, offset, left }
    }
}

impl Source for FileBlocks {
    type Block = Vec<u8>;

    fn next(&mut self, used: Option<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
        use std::os::unix::fs::FileExt;
        let mut block = used.unwrap_or_default();
        let wanted = usize::try_from(self.left).unwrap_or(BLOCK).min(BLOCK);
        block.resize(wanted, 0);
        let read = if wanted == 0 { 0 } else { self.file.read_at(&mut block, self.offset)? };
        if read == 0 {
            return Ok(None);
        }
        block.truncate(read);
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(Some(block))
    }
}
