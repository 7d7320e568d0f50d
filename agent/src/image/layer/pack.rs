//! A layer's folder as an archive: the reverse of `apply`. Entries come sorted, so that the same folder is the same archive;
//! overlayfs's whiteouts and opaque folders become the image specification's (layer.md). A container may be changing the
//! folder meanwhile: nothing is followed out of it.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::tar_writer::{EntryKind, NewEntry, TarWriter};
use super::walk::DEEPEST;
use crate::image::error::ImageError;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
const OVERLAY: &[u8] = b"trusted.overlay.";
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// What overlayfs keeps of a folder that was renamed, and of a file that only its attributes were changed of: the rest is in
/// another layer, so neither can be told in an archive.
const PARTIAL: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];
/// XATTR_SIZE_MAX and XATTR_LIST_MAX.
const LARGEST_XATTR: usize = 64 << 10;

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Writes the folder as a tar archive. Blocks.
///
/// # Errors
/// A file system that fails, a file that changes while it is read, or something that an archive cannot tell.
pub(crate) fn pack<W: Write>(root: &Path, out: W) -> Result<W, ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = sys::openat(CWD, root, flags, Mode::empty()).map_err(|e| ImageError::io("open", root, e))?;
    let mut packer = Packer { root, tar: TarWriter::new(out), links: HashMap::new() };
    packer.folder(&folder, b"", 0)?;
    packer.tar.finish().map_err(|e| ImageError::io("write the archive of", root, e))
}

struct Packer<'a, W: Write> {
    root: &'a Path,
    tar: TarWriter<W>,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Packer<'_, W> {
    fn failed(&self, op: &'static str, path: &[u8], source: impl Into<io::Error>) -> ImageError {
        use std::os::unix::ffi::OsStrExt;
        ImageError::io(op, &self.root.join(std::ffi::OsStr::from_bytes(path)), source)
    }

    fn refused(&self, path: &[u8], reason: &str) -> ImageError {
        let what = format!("{} in {}", String::from_utf8_lossy(path), self.root.display());
        ImageError::Unsupported { what, reason: reason.to_owned() }
    }

    fn folder(&mut self, folder: &OwnedFd, prefix: &[u8], depth: usize) -> Result<(), ImageError> {
        if depth > DEEPEST {
            return Err(self.refused(prefix, "it is nested deeper than 512 folders"));
        }
        let entries = Dir::read_from(folder).and_then(Iterator::collect::<Result<Vec<_>, Errno>>);
        let entries = entries.map_err(|e| self.failed("list", prefix, e))?;
        let mut names: Vec<CString> = entries.iter().map(|entry| entry.file_name().to_owned()).collect();
        names.retain(|name| ![&b"."[..], b".."].contains(&name.as_bytes()));
        names.sort();
        for name in names {
            let path = [prefix, name.as_bytes()].concat();
            if name.as_bytes().starts_with(WHITEOUT) {
                return Err(self.refused(&path, "a name that begins with .wh. would remove a file"));
            }
            match sys::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => self.one(folder, &name, path, &stat, depth)?,
                // A container goes on meanwhile.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(self.failed("look at", &path, e)),
            }
        }
        Ok(())
    }

    fn one(
        &mut self,
        folder: &OwnedFd,
        name: &CString,
        path: Vec<u8>,
        stat: &Stat,
        depth: usize,
    ) -> Result<(), ImageError> {
        let mut entry = described(path.clone(), stat);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            let start = path.len() - name.as_bytes().len();
            let gone = [&path[..start], WHITEOUT, name.as_bytes()].concat();
            return self.write(&NewEntry::file(gone, 0), &mut io::empty());
        }
        if kind == FileType::Socket {
            // A socket without its process is nothing; tar has none.
            return Ok(());
        }
        let mut xattrs = self.xattrs(folder, name, &path)?;
        if xattrs.iter().any(|(name, _)| PARTIAL.contains(&name.as_slice())) {
            return Err(self.refused(&path, "overlayfs keeps only a part of it in this layer"));
        }
        let opaque = xattrs.iter().any(|(name, value)| name == OPAQUE && value == b"y");
        xattrs.retain(|(name, _)| !name.starts_with(OVERLAY) && name != b"security.selinux");
        entry.xattrs = xattrs;
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let first = self.links.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.clone());
            if *first != path {
                (entry.kind, entry.target, entry.size, entry.xattrs) =
                    (EntryKind::HardLink, first.clone(), 0, Vec::new());
                return self.write(&entry, &mut io::empty());
            }
        }
        match kind {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = sys::openat(folder, name, flags, Mode::empty());
                let inner = inner.map_err(|e| self.failed("open", &path, e))?;
                entry.path.push(b'/');
                self.write(&entry, &mut io::empty())?;
                if opaque {
                    let marker = [entry.path.as_slice(), OPAQUE_MARKER].concat();
                    self.write(&NewEntry::file(marker, 0), &mut io::empty())?;
                }
                self.folder(&inner, &entry.path.clone(), depth + 1)
            }
            FileType::RegularFile => {
                let mut file = self.open(folder, name, &path, stat)?;
                self.write(&entry, &mut file)
            }
            FileType::Symlink => {
                let target = sys::readlinkat(folder, name, Vec::new());
                entry.target = target.map_err(|e| self.failed("read link", &path, e))?.into_bytes();
                self.write(&entry, &mut io::empty())
            }
            _ => self.write(&entry, &mut io::empty()),
        }
    }

    fn write(&mut self, entry: &NewEntry, content: &mut impl io::Read) -> Result<(), ImageError> {
        let written = self.tar.entry(entry, content);
        written.map_err(|e| self.failed("write the archive's entry of", &entry.path, e))
    }

    /// The file that was looked at and no other; a FIFO that took its place would block.
    fn open(&self, folder: &OwnedFd, name: &CString, path: &[u8], stat: &Stat) -> Result<File, ImageError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = sys::openat(folder, name, flags, Mode::empty()).and_then(|fd| Ok((sys::fstat(&fd)?, fd)));
        match opened.map_err(|e| self.failed("open", path, e))? {
            (found, fd) if (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino) => Ok(File::from(fd)),
            _ => Err(self.failed("open", path, io::Error::other("it was replaced while it was read"))),
        }
    }

    /// By the magic link of the folder: `*xattr` calls on the entry itself take no folder fd, and must not follow links.
    fn xattrs(&self, folder: &OwnedFd, name: &CString, path: &[u8]) -> Result<Xattrs, ImageError> {
        use std::os::unix::ffi::OsStrExt;
        let place = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        let place = place.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let mut names = vec![0; LARGEST_XATTR];
        let length = match sys::llistxattr(&place, &mut names[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            other => other.map_err(|e| self.failed("list xattrs of", path, e))?,
        };
        let mut found = Vec::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0; LARGEST_XATTR];
            let length = sys::lgetxattr(&place, name, &mut value[..]);
            value.truncate(length.map_err(|e| self.failed("read xattr of", path, e))?);
            found.push((name.to_vec(), value));
        }
        found.sort();
        Ok(found)
    }
}

fn described(path: Vec<u8>, stat: &Stat) -> NewEntry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => EntryKind::Folder,
        FileType::Symlink => EntryKind::Symlink,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        FileType::Fifo => EntryKind::Fifo,
        _ => EntryKind::File,
    };
    let device = match kind {
        EntryKind::CharDevice | EntryKind::BlockDevice => (sys::major(stat.st_rdev), sys::minor(stat.st_rdev)),
        _ => (0, 0),
    };
    NewEntry {
        kind,
        target: Vec::new(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if kind == EntryKind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        device,
        xattrs: Vec::new(),
        path,
    }
}
