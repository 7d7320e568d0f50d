//! Writing tar (ustar with pax records, POSIX.1-2001), deterministically: the same entries are the same bytes.

use std::io::{self, Read, Write};

use super::header::BLOCK;

/// The largest number that eleven octal digits tell, and seven.
const MOST_SIZE: u64 = 0o777_7777_7777;
const MOST_ID: u32 = 0o777_7777;

/// What an entry is; the byte that tar has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File = b'0' as isize,
    HardLink = b'1' as isize,
    Symlink = b'2' as isize,
    CharDevice = b'3' as isize,
    BlockDevice = b'4' as isize,
    Folder = b'5' as isize,
    Fifo = b'6' as isize,
}

/// One entry without its content.
#[derive(Debug, Clone)]
pub(crate) struct NewEntry {
    pub(crate) kind: EntryKind,
    pub(crate) path: Vec<u8>,
    /// Of a link.
    pub(crate) target: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Of a device node, major and minor.
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl NewEntry {
    /// A file of root's from 1970.
    pub(crate) fn file(path: impl Into<Vec<u8>>, size: u64) -> Self {
        Self {
            kind: EntryKind::File,
            path: path.into(),
            target: Vec::new(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            size,
            mtime: (0, 0),
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }
}

/// A tar archive on its way out.
pub(crate) struct TarWriter<W: Write> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    /// An entry and its content, which has to be `entry.size` bytes.
    pub(crate) fn entry(&mut self, entry: &NewEntry, content: &mut impl Read) -> io::Result<()> {
        let records = records(entry);
        if !records.is_empty() {
            let carrier = NewEntry::file(b"PaxHeaders/entry".to_vec(), records.len() as u64);
            self.out.write_all(&header(&carrier, b'x'))?;
            self.padded(&mut records.as_slice(), carrier.size)?;
        }
        self.out.write_all(&header(entry, entry.kind as u8))?;
        self.padded(content, entry.size)
    }

    fn padded(&mut self, content: &mut impl Read, size: u64) -> io::Result<()> {
        if io::copy(&mut content.take(size), &mut self.out)? != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        let rest = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if rest > 0 { self.out.write_all(&[0; BLOCK][rest..]) } else { Ok(()) }
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }
}

fn header(entry: &NewEntry, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let text = |block: &mut [u8; BLOCK], at: usize, text: &[u8]| {
        let length = text.len().min(100);
        block[at..at + length].copy_from_slice(&text[..length]);
    };
    // What does not fit stands in a pax record.
    let number = |block: &mut [u8; BLOCK], at: usize, digits: usize, value: u64| {
        let value = if value > MOST_SIZE >> (3 * (11 - digits)) { 0 } else { value };
        block[at..at + digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    };
    text(&mut block, 0, &entry.path);
    number(&mut block, 100, 7, u64::from(entry.mode & 0o7777));
    number(&mut block, 108, 7, u64::from(entry.uid));
    number(&mut block, 116, 7, u64::from(entry.gid));
    number(&mut block, 124, 11, entry.size);
    number(&mut block, 136, 11, u64::try_from(entry.mtime.0).unwrap_or(0));
    block[156] = kind;
    text(&mut block, 157, &entry.target);
    block[257..265].copy_from_slice(b"ustar\x0000");
    number(&mut block, 329, 7, u64::from(entry.device.0));
    number(&mut block, 337, 7, u64::from(entry.device.1));
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    number(&mut block, 148, 6, sum);
    block[154] = 0;
    block
}

/// What the header has no room or no field for.
fn records(entry: &NewEntry) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| record(&mut records, key, value);
    let plain = |text: &[u8]| text.len() <= 100 && text.is_ascii();
    if !plain(&entry.path) {
        add(b"path", &entry.path);
    }
    if !plain(&entry.target) {
        add(b"linkpath", &entry.target);
    }
    if entry.size > MOST_SIZE {
        add(b"size", entry.size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if id > MOST_ID {
            add(key, id.to_string().as_bytes());
        }
    }
    let (seconds, nanoseconds) = entry.mtime;
    if nanoseconds != 0 || !(0..=MOST_SIZE.cast_signed()).contains(&seconds) {
        add(b"mtime", decimal(seconds, nanoseconds).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// A time before 1970 has its fraction counted the other way.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (0.., fraction) => format!("{seconds}.{fraction:09}"),
        (_, fraction) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - fraction),
    }
}

/// `length key=value\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn written(entry: &NewEntry, content: &[u8]) -> Vec<u8> {
        let mut writer = TarWriter::new(Vec::new());
        writer.entry(entry, &mut &*content).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn another_reader_sees_what_was_written() {
        let mut entry = NewEntry::file("d/".repeat(70) + "ä", 3);
        (entry.uid, entry.gid, entry.mode, entry.mtime) = (3_000_000_000, 1000, 0o4755, (1_700_000_000, 500_000_000));
        entry.xattrs = vec![(b"user.x".to_vec(), b"\0=x".to_vec())];
        let bytes = written(&entry, b"abc");
        let mut archive = tar::Archive::new(Cursor::new(bytes));
        let mut read = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(read.path_bytes().as_ref(), entry.path.as_slice());
        let mut content = String::new();
        read.read_to_string(&mut content).unwrap();
        assert_eq!(content, "abc");
        assert_eq!((read.header().gid().unwrap(), read.header().mode().unwrap()), (1000, 0o4755));
        let records: Vec<(Vec<u8>, Vec<u8>)> = read
            .pax_extensions()
            .unwrap()
            .unwrap()
            .map(|record| record.map(|r| (r.key_bytes().to_vec(), r.value_bytes().to_vec())).unwrap())
            .collect();
        assert!(records.contains(&(b"uid".to_vec(), b"3000000000".to_vec())), "{records:?}");
        assert!(records.contains(&(b"mtime".to_vec(), b"1700000000.500000000".to_vec())));
        assert!(records.contains(&(b"SCHILY.xattr.user.x".to_vec(), b"\0=x".to_vec())));
        assert_eq!(decimal(-2, 750_000_000), "-1.250000000");
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut writer = TarWriter::new(Vec::new());
        assert!(writer.entry(&NewEntry::file("f", 4), &mut &b"abc"[..]).is_err());
    }

    proptest! {
        #[test]
        fn a_record_tells_its_own_length(key in "[a-z]{1,12}", value in proptest::collection::vec(any::<u8>(), 0..1100)) {
            let mut records = Vec::new();
            record(&mut records, key.as_bytes(), &value);
            let space = records.iter().position(|byte| *byte == b' ').unwrap();
            let told: usize = std::str::from_utf8(&records[..space]).unwrap().parse().unwrap();
            prop_assert_eq!(told, records.len());
        }
    }
}
