//! Owner, times and extended attributes of an entry, as system calls want them; and writing a file's content.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{self as sys, Timespec, Timestamps};
use rustix::io::Errno;

use super::apply::Failure;
use super::archive::{Archive, ArchiveError, Entry};
use super::tree::{Named, TreeError};
use crate::image::error::shorten;

/// Of a tree's xattrs these are overlayfs's commands (redirects!), never an image's.
const OVERLAY_XATTR: &[u8] = b"trusted.overlay.";

pub(super) fn write_plain<R: BufRead>(archive: &mut Archive<R>, mut file: &File) -> Result<(), Failure> {
    loop {
        let data = archive.data()?;
        if data.is_empty() {
            return Ok(());
        }
        file.write_all(data).map_err(|e| TreeError::Io("write", e))?;
        let length = data.len();
        archive.consume(length);
    }
}

pub(super) fn write_sparse<R: BufRead>(
    archive: &mut Archive<R>,
    file: &File,
    areas: &[(u64, u64)],
    size: u64,
) -> Result<(), Failure> {
    for (start, length) in areas {
        let (mut offset, mut left) = (*start, *length);
        while left > 0 {
            let data = archive.data()?;
            if data.is_empty() {
                return Err(ArchiveError::Framing("a sparse file's data is too short").into());
            }
            let part = &data[..usize::try_from(left).unwrap_or(usize::MAX).min(data.len())];
            file.write_all_at(part, offset).map_err(|e| TreeError::Io("write", e))?;
            let written = part.len();
            archive.consume(written);
            offset += written as u64;
            left -= written as u64;
        }
    }
    file.set_len(size).map_err(|e| TreeError::Io("set length of", e))?;
    Ok(())
}

/// A file system without xattrs (or without this class of them) does without, as it does under every runtime.
pub(super) fn set_xattrs(entry: &Entry, set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>) -> Result<(), TreeError> {
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| !name.starts_with(OVERLAY_XATTR)) {
        match set(name, value) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            // `user.` exists on files and folders only (xattr(7)).
            Err(Errno::PERM) if name.starts_with(b"user.") => {}
            // security.capability and the ACLs have a form; a name has at most 255 bytes, a value 64 KiB (xattr(7)).
            Err(e @ (Errno::INVAL | Errno::RANGE | Errno::TOOBIG)) => {
                let name = shorten(&String::from_utf8_lossy(name));
                return TreeError::refused(format!("its extended attribute {name:?} cannot be: {e}"));
            }
            Err(e) => return Err(e).named("set xattr of"),
        }
    }
    Ok(())
}

pub(super) fn owner(entry: &Entry) -> Result<(sys::Uid, sys::Gid), TreeError> {
    // The highest value means "leave as it is" to chown(2).
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    match (id(entry.uid), id(entry.gid)) {
        (Some(uid), Some(gid)) => Ok((sys::Uid::from_raw(uid), sys::Gid::from_raw(gid))),
        _ => TreeError::refused("its owner is not a 32-bit id"),
    }
}

pub(super) fn timespec(entry: &Entry) -> Timespec {
    Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) }
}

pub(super) fn times(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}
