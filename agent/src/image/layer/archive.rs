//! A tar reader: V7, ustar, GNU and PAX, as far as layers use them. It reads a hostile stream: what an entry makes it
//! keep in memory is capped, and nothing here touches a file. (The crate `tar` reads long names and PAX headers of any
//! size into memory and knows no PAX sparse files.)

use std::io::{self, BufRead};

use super::header::{BLOCK, Header, until_nul};
use super::pax::{self, Extension, LARGEST_EXTENSION};

/// Why an archive cannot be read.
#[derive(Debug)]
pub(crate) enum ArchiveError {
    /// Its bytes did not come.
    Read(io::Error),
    /// It is no tar archive, or a broken one.
    Framing(&'static str),
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry's header; its data follows by [`Archive::data`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As written, with whatever it tries.
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, set-id and sticky included.
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Of the file once written, holes included.
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data belongs, for a file with holes: offset and length of each area, ascending.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
}

/// Reads the entries of `input` one after the other.
pub(crate) struct Archive<R> {
    input: R,
    /// Bytes of the current entry's data not yet read, and of the padding behind it.
    left: u64,
    padding: u64,
    /// Bytes of the archive read so far.
    position: u64,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, position: 0 }
    }

    /// What is behind the archive's end, for whoever has to read it.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// Where in the archive the current entry's data goes on.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the current entry's data that are left.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The next entry; what is left of the one before is skipped. `None` at the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extension = Extension::default();
        let mut extended = 0;
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.size()?;
            let flag = header.0[156];
            self.set_data(size)?;
            match flag {
                b'L' | b'K' | b'x' => {
                    extended += size;
                    if extended > LARGEST_EXTENSION {
                        return Err(ArchiveError::Framing("an entry's extended headers are larger than 1 MiB"));
                    }
                    let text = self.read_all()?;
                    match flag {
                        b'L' => extension.path = Some(until_nul(&text).to_vec()),
                        b'K' => extension.link = Some(until_nul(&text).to_vec()),
                        _ => pax::read_records(&text, &mut extension)?,
                    }
                }
                // For the whole archive, with comments and the like: Go's reader does not apply it either.
                b'g' => {}
                _ => return self.entry(&header, extension).map(Some),
            }
        }
    }

    /// Some of the current entry's data, empty at its end. To be followed by [`Archive::consume`].
    pub(crate) fn data(&mut self) -> Result<&[u8], ArchiveError> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let available = self.input.fill_buf()?;
        if available.is_empty() {
            return Err(ArchiveError::Framing("it ends within an entry"));
        }
        let usable = usize::try_from(self.left).unwrap_or(usize::MAX).min(available.len());
        Ok(&available[..usable])
    }

    /// That much of what `data` gave has been used.
    pub(crate) fn consume(&mut self, amount: usize) {
        self.input.consume(amount);
        self.left -= amount as u64;
        self.position += amount as u64;
    }

    /// The current entry's data, for one that is known to be small.
    pub(crate) fn read_all(&mut self) -> Result<Vec<u8>, ArchiveError> {
        let mut all = Vec::new();
        loop {
            let data = self.data()?;
            if data.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(data);
            let length = data.len();
            self.consume(length);
        }
    }

    fn set_data(&mut self, size: u64) -> Result<(), ArchiveError> {
        if size > i64::MAX as u64 {
            return Err(ArchiveError::Framing("an entry's size is not possible"));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip(&mut self, mut amount: u64) -> Result<(), ArchiveError> {
        while amount > 0 {
            let available = self.input.fill_buf()?.len() as u64;
            if available == 0 {
                return Err(ArchiveError::Framing("it ends within an entry"));
            }
            let skipped = available.min(amount);
            self.input.consume(usize::try_from(skipped).unwrap_or(usize::MAX));
            self.position += skipped;
            amount -= skipped;
        }
        Ok(())
    }

    /// Reads one block, `None` where the input ends.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.input.fill_buf()?;
            if available.is_empty() {
                break;
            }
            let length = available.len().min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&available[..length]);
            self.input.consume(length);
            filled += length;
        }
        self.position += filled as u64;
        match filled {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(ArchiveError::Framing("it ends within a header")),
        }
    }

    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let header = Header(block);
        if header.checksum_fits() {
            Ok(Some(header))
        } else {
            Err(ArchiveError::Framing("a header's checksum is wrong"))
        }
    }

    fn entry(&mut self, header: &Header, extension: Extension) -> Result<Entry, ArchiveError> {
        if let Some(size) = extension.size {
            self.set_data(size)?;
        }
        let path = extension.path.unwrap_or_else(|| header.path());
        let kind = header.kind(&path)?;
        if kind != Kind::File {
            // Without data whatever the size says, as in Go's reader.
            self.set_data(0)?;
        }
        let mut entry = Entry {
            path,
            link: extension.link.unwrap_or_else(|| until_nul(&header.0[157..257]).to_vec()),
            kind,
            mode: u32::try_from(header.number(100..108)? & 0o7777).unwrap_or(0),
            uid: extension.uid.map_or_else(|| header.number(108..116), Ok)?,
            gid: extension.gid.map_or_else(|| header.number(116..124), Ok)?,
            mtime: match extension.mtime {
                Some(mtime) => mtime,
                None => (header.signed(136..148)?, 0),
            },
            size: self.left,
            device: match kind {
                Kind::CharDevice | Kind::BlockDevice => (header.small(329..337)?, header.small(337..345)?),
                _ => (0, 0),
            },
            xattrs: extension.xattrs,
            sparse: None,
        };
        if header.0[156] == b'S' {
            self.old_sparse(header, &mut entry)?;
        } else if extension.sparse.found && kind == Kind::File {
            let mut areas = extension.sparse.areas;
            if extension.sparse.major == 1 {
                areas = self.inline_map()?;
            }
            entry.size = extension.sparse.real_size.ok_or(BAD_SPARSE)?;
            entry.sparse = Some(areas);
        }
        self.check_sparse(&entry)?;
        Ok(entry)
    }

    /// GNU's own format: four areas in the header, more in blocks behind it.
    fn old_sparse(&mut self, header: &Header, entry: &mut Entry) -> Result<(), ArchiveError> {
        let mut areas = Vec::new();
        let mut add = |block: &Header, at: std::ops::Range<usize>| -> Result<(), ArchiveError> {
            for start in at.step_by(24) {
                if block.0[start] == 0 {
                    break;
                }
                let area = (block.number(start..start + 12)?, block.number(start + 12..start + 24)?);
                pax::push_area(&mut areas, area).ok_or(BAD_SPARSE)?;
            }
            Ok(())
        };
        add(header, 386..482)?;
        entry.size = header.number(483..495)?;
        let mut more = header.0[482] != 0;
        let (left, padding) = (self.left, self.padding);
        while more {
            let block = Header(self.block()?.ok_or(BAD_SPARSE)?);
            add(&block, 0..504)?;
            more = block.0[504] != 0;
        }
        (self.left, self.padding) = (left, padding);
        entry.sparse = Some(areas);
        Ok(())
    }

    /// PAX sparse format 1.0: the map stands in front of the data, in decimal lines, padded to a block.
    fn inline_map(&mut self) -> Result<Vec<(u64, u64)>, ArchiveError> {
        let mut read = 0;
        let mut line = |archive: &mut Self| -> Result<u64, ArchiveError> {
            let mut digits = Vec::new();
            loop {
                let byte = *archive.data()?.first().ok_or(BAD_SPARSE)?;
                archive.consume(1);
                read += 1;
                match byte {
                    b'\n' => return pax::number(&digits).ok_or(BAD_SPARSE),
                    _ if digits.len() < 20 => digits.push(byte),
                    _ => return Err(BAD_SPARSE),
                }
            }
        };
        let count = line(self)?;
        let mut areas = Vec::new();
        for _ in 0..count {
            let area = (line(self)?, line(self)?);
            pax::push_area(&mut areas, area).ok_or(BAD_SPARSE)?;
        }
        let rest = (BLOCK - read % BLOCK) % BLOCK;
        if self.left < rest as u64 {
            return Err(BAD_SPARSE);
        }
        self.skip(rest as u64)?;
        self.left -= rest as u64;
        Ok(areas)
    }

    fn check_sparse(&self, entry: &Entry) -> Result<(), ArchiveError> {
        let Some(areas) = &entry.sparse else { return Ok(()) };
        let stored: u64 = areas.iter().map(|(_, length)| length).sum();
        let end = areas.last().map_or(0, |(offset, length)| offset + length);
        if stored == self.left && end <= entry.size && entry.size <= i64::MAX as u64 { Ok(()) } else { Err(BAD_SPARSE) }
    }
}

const BAD_SPARSE: ArchiveError = ArchiveError::Framing("a sparse file's map is malformed");

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
