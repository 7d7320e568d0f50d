//! PAX extended headers (POSIX pax, § Extended Header) and the sparse maps of GNU tar in all their four shapes. Pure.

use super::archive::ArchiveError;

/// Extended headers and long names are read into memory: no honest one comes near this (an xattr has 64 KiB at most).
pub(super) const LARGEST_EXTENSION: u64 = 1 << 20;
/// Data areas of one sparse file.
const MOST_AREAS: usize = 65_536;
/// Extended attributes of one entry. What Linux can list of a file are 64 KiB of names (xattr(7)).
const MOST_XATTRS: usize = 1000;

/// What the extended headers before an entry say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseHeader,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparseHeader {
    pub(super) real_size: Option<u64>,
    pub(super) areas: Vec<(u64, u64)>,
    pub(super) major: u64,
    pub(super) found: bool,
    pending_offset: Option<u64>,
}

/// Reads the records of one PAX header into `extension`.
pub(super) fn read_records(mut text: &[u8], extension: &mut Extension) -> Result<(), ArchiveError> {
    while !text.is_empty() {
        let bad = || ArchiveError::Framing("a PAX record is malformed");
        let space = text.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize = number(&text[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > text.len() || text[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &text[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        record_into(&record[..equals], &record[equals + 1..], extension)?;
        text = &text[length..];
    }
    Ok(())
}

fn record_into(key: &[u8], value: &[u8], extension: &mut Extension) -> Result<(), ArchiveError> {
    let bad = || ArchiveError::Framing("a PAX record's value is malformed");
    let bytes = || (!value.is_empty()).then(|| value.to_vec());
    let whole = || if value.is_empty() { Ok(None) } else { number(value).map(Some).ok_or_else(bad) };
    match key {
        b"path" => extension.path = bytes(),
        b"linkpath" => extension.link = bytes(),
        b"size" => extension.size = whole()?,
        b"uid" => extension.uid = whole()?,
        b"gid" => extension.gid = whole()?,
        b"mtime" => extension.mtime = if value.is_empty() { None } else { Some(time(value).ok_or_else(bad)?) },
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                extension.xattrs.retain(|(other, _)| other != name);
                if extension.xattrs.len() >= MOST_XATTRS {
                    return Err(ArchiveError::Framing("an entry has more than 1000 extended attributes"));
                }
                extension.xattrs.push((name.to_vec(), value.to_vec()));
            } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                sparse_record(name, value, extension).ok_or_else(bad)?;
            }
        }
    }
    Ok(())
}

fn sparse_record(name: &[u8], value: &[u8], extension: &mut Extension) -> Option<()> {
    let sparse = &mut extension.sparse;
    sparse.found = true;
    match name {
        b"name" => extension.path = Some(value.to_vec()),
        b"major" => sparse.major = number(value)?,
        b"size" | b"realsize" => sparse.real_size = Some(number(value)?),
        b"offset" => sparse.pending_offset = Some(number(value)?),
        b"numbytes" => push_area(&mut sparse.areas, (sparse.pending_offset.take()?, number(value)?))?,
        b"map" => {
            let numbers: Vec<u64> = value.split(|b| *b == b',').map(number).collect::<Option<_>>()?;
            if !numbers.len().is_multiple_of(2) {
                return None;
            }
            for pair in numbers.chunks_exact(2) {
                push_area(&mut sparse.areas, (pair[0], pair[1]))?;
            }
        }
        _ => {}
    }
    Some(())
}

/// Adds an area if it lies behind those before.
pub(super) fn push_area(areas: &mut Vec<(u64, u64)>, area: (u64, u64)) -> Option<()> {
    let end = areas.last().map_or(0, |(offset, length)| offset + length);
    if area.0 < end || area.0.checked_add(area.1)? > i64::MAX as u64 || areas.len() >= MOST_AREAS {
        return None;
    }
    areas.push(area);
    Some(())
}

/// A decimal number with nothing else around it.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction, perhaps negative: `1700000000.123456789`.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    match (negative, nanos) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((seconds, nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(key: &str, value: &str) -> String {
        let rest = format!(" {key}={value}\n").len();
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        format!("{length} {key}={value}\n")
    }

    fn read(records: &[(&str, &str)]) -> Result<Extension, ArchiveError> {
        let text: String = records.iter().map(|(key, value)| record(key, value)).collect();
        let mut extension = Extension::default();
        read_records(text.as_bytes(), &mut extension).map(|()| extension)
    }

    #[test]
    fn records_override_and_empty_ones_take_back() {
        let e =
            read(&[("path", "a=b\nc"), ("uid", "70000"), ("size", "9999999999"), ("gid", "5"), ("gid", "")]).unwrap();
        assert_eq!(
            (e.path.as_deref(), e.uid, e.gid, e.size),
            (Some(&b"a=b\nc"[..]), Some(70_000), None, Some(9_999_999_999))
        );
        let e = read(&[("SCHILY.xattr.user.x", "1"), ("SCHILY.xattr.user.x", "2=\0")]).unwrap();
        assert_eq!(e.xattrs, [(b"user.x".to_vec(), b"2=\0".to_vec())]);
    }

    /// Each is compared with those before it: a megabyte of them would be a second of work.
    #[test]
    fn extended_attributes_are_not_without_number() {
        let names: Vec<String> = (0..=MOST_XATTRS).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
        let records: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(read(&records[..MOST_XATTRS]).unwrap().xattrs.len(), MOST_XATTRS);
        assert!(read(&records).is_err());
        assert!(read(&[&records[..MOST_XATTRS], &records[..1]].concat()).is_ok(), "one that is there is replaced");
    }

    #[test]
    fn times_go_below_the_second_and_below_zero() {
        assert_eq!(time(b"1700000000.5"), Some((1_700_000_000, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
        assert_eq!(time(b"1.x"), None);
    }

    #[test]
    fn sparse_maps_must_ascend() {
        let e = read(&[("GNU.sparse.map", "0,512,4096,10"), ("GNU.sparse.size", "8192")]).unwrap();
        assert_eq!((e.sparse.areas.as_slice(), e.sparse.real_size), (&[(0, 512), (4096, 10)][..], Some(8192)));
        assert!(read(&[("GNU.sparse.map", "4096,10,0,512")]).is_err());
        assert!(read(&[("GNU.sparse.map", "1,2,3")]).is_err());
        assert!(read(&[("GNU.sparse.map", "0,18446744073709551615")]).is_err());
        assert!(read(&[("GNU.sparse.numbytes", "5")]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_records(&bytes, &mut Extension::default());
        }

        #[test]
        fn any_record_is_read_back(key in "[a-z]{1,9}", value in "[^\0]{0,200}") {
            let mut extension = Extension::default();
            let key = format!("SCHILY.xattr.{key}");
            read_records(record(&key, &value).as_bytes(), &mut extension).unwrap();
            prop_assert_eq!(&extension.xattrs[0].1, value.as_bytes());
        }
    }
}
