//! The header block of a tar entry: its numbers, names and kind, from untrusted bytes. Pure.

use super::archive::{ArchiveError, Kind};

/// Headers, and the padding of what follows them, come in blocks of this size.
pub(super) const BLOCK: usize = 512;

/// A header block.
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    pub(super) fn checksum_fits(&self) -> bool {
        let told = self.number(148..156).ok();
        let with_spaces = |n: usize, b: u8| if (148..156).contains(&n) { b' ' } else { b };
        let bytes = || self.0.iter().enumerate().map(|(n, b)| with_spaces(n, *b));
        let unsigned: u64 = bytes().map(u64::from).sum();
        // Some old writers summed signed characters.
        let signed: i64 = bytes().map(|b| i64::from(b.cast_signed())).sum();
        told == Some(unsigned) || told.map(u64::cast_signed) == Some(signed)
    }

    pub(super) fn size(&self) -> Result<u64, ArchiveError> {
        self.number(124..136)
    }

    pub(super) fn small(&self, at: std::ops::Range<usize>) -> Result<u32, ArchiveError> {
        u32::try_from(self.number(at)?).map_err(|_| ArchiveError::Framing("a device number is too large"))
    }

    pub(super) fn number(&self, at: std::ops::Range<usize>) -> Result<u64, ArchiveError> {
        u64::try_from(self.signed(at)?).map_err(|_| ArchiveError::Framing("a number in a header is negative"))
    }

    /// Octal with blanks or NULs around it, or GNU's base 256 where the first bit is set.
    pub(super) fn signed(&self, at: std::ops::Range<usize>) -> Result<i64, ArchiveError> {
        let bad = ArchiveError::Framing("a number in a header is malformed");
        let field = &self.0[at];
        if field[0] & 0x80 != 0 {
            let negative = field[0] & 0x40 != 0;
            let first = if negative { i128::from(field[0]) - 0x100 } else { i128::from(field[0] & 0x7f) };
            let mut value = first;
            for byte in &field[1..] {
                value = (value << 8) | i128::from(*byte);
            }
            return i64::try_from(value).map_err(|_| bad);
        }
        let blank = |b: &u8| *b == b' ' || *b == 0;
        let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
        let digits = &field[start..];
        let end = digits.iter().position(blank).unwrap_or(digits.len());
        digits[..end]
            .iter()
            .try_fold(0i64, |value, byte| match byte {
                b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
                _ => None,
            })
            .ok_or(bad)
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        if &self.0[257..263] != b"ustar\0" {
            return name.to_vec();
        }
        // The `star` variant keeps times where ustar has the end of the prefix.
        let end = if &self.0[508..512] == b"tar\0" { 345 + 131 } else { 500 };
        let prefix = until_nul(&self.0[345..end]);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn kind(&self, path: &[u8]) -> Result<Kind, ArchiveError> {
        Ok(match self.0[156] {
            b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(ArchiveError::Framing("an entry is of an unknown type")),
        })
    }
}

/// Text up to its first NUL.
pub(super) fn until_nul(text: &[u8]) -> &[u8] {
    &text[..text.iter().position(|b| *b == 0).unwrap_or(text.len())]
}
