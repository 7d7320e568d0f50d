//! Archive entries to files: modes, owners, times, extended attributes, devices, links, and the whiteouts of the image
//! specification (layer.md) as overlayfs wants them: character device 0:0, and an xattr on opaque folders.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufRead;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags, Timespec, XattrFlags};
use rustix::io::Errno;

use super::archive::{Archive, ArchiveError, Entry, Kind};
use super::attributes::{owner, set_xattrs, times, timespec, write_plain, write_sparse};
use super::tree::{EntryPath, LONGEST_PATH, Named, Tree, TreeError, is_whiteout, remove_all, set_opaque};
use super::unpack::{Limits, Unpacked};
use crate::image::error::{ImageError, shorten};
use crate::image::image::Usage;

const WHITEOUT: &[u8] = b".wh.";
/// AUFS's own files; of them only the opaque marker means anything.
const META: &[u8] = b".wh..wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

/// Unpacks the archive in `input` into the empty folder `root`. `layer` names it in errors.
pub(crate) fn apply<R: BufRead>(
    archive: &mut Archive<R>,
    root: &Path,
    layer: &str,
    limits: &Limits,
) -> Result<Unpacked, ImageError> {
    let tree = Tree::open(root).map_err(|e| ImageError::io("open", root, e))?;
    let mut applier = Applier {
        tree,
        replaced: false,
        folder_times: BTreeMap::new(),
        usage: Usage { bytes: 0, inodes: 1 },
        entries: 0,
        limits: *limits,
    };
    loop {
        let entry = match archive.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => return Err(broken(layer, error)),
        };
        applier.entry(archive, &entry).map_err(|error| {
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            match error {
                Failure::Archive(error) => broken(layer, error),
                Failure::Tree(TreeError::Refused(reason)) => {
                    ImageError::BadEntry { layer: layer.to_owned(), entry: shorten(&name), reason }
                }
                Failure::Tree(TreeError::Io(op, source)) => {
                    ImageError::io(op, &root.join(name.trim_start_matches('/')), source)
                }
                Failure::TooLarge(what, actual, limit) => {
                    ImageError::TooLarge { what: format!("layer {layer}: {what}"), actual, limit }
                }
            }
        })?;
    }
    applier.finish().map_err(|e| ImageError::io("set times in", root, e))
}

fn broken(layer: &str, error: ArchiveError) -> ImageError {
    let reason = match error {
        ArchiveError::Read(error) => error.to_string(),
        ArchiveError::Framing(reason) => reason.to_owned(),
    };
    ImageError::CorruptLayer { layer: layer.to_owned(), reason }
}

pub(super) enum Failure {
    Archive(ArchiveError),
    Tree(TreeError),
    TooLarge(&'static str, u64, u64),
}

impl From<TreeError> for Failure {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

struct Applier {
    tree: Tree,
    /// Something gave way to the entry, and the cached folder may have been it, or been reached through it.
    replaced: bool,
    /// Set at the end: making entries in a folder changes its time.
    folder_times: BTreeMap<Vec<u8>, Timespec>,
    usage: Usage,
    entries: u64,
    limits: Limits,
}

impl Applier {
    fn entry<R: BufRead>(&mut self, archive: &mut Archive<R>, entry: &Entry) -> Result<(), Failure> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Failure::TooLarge("number of entries", self.entries, self.limits.entries));
        }
        // Only now: until its entry is done, the cached folder is the right one whatever became of the way to it.
        if std::mem::take(&mut self.replaced) {
            self.tree.forget();
        }
        let path = EntryPath::parse(&entry.path)?;
        if path.is_root() {
            return Ok(self.root(entry)?);
        }
        if path.parent.split(|b| *b == b'/').any(|component| component.starts_with(WHITEOUT)) {
            return Ok(TreeError::refused("it lies below a whiteout")?);
        }
        if let Some(hidden) = path.name.strip_prefix(WHITEOUT) {
            return Ok(self.whiteout(&path, hidden)?);
        }
        match entry.kind {
            Kind::Directory => Ok(self.folder(&path, entry)?),
            Kind::File => self.file(archive, &path, entry),
            Kind::HardLink => Ok(self.hard_link(&path, entry)?),
            _ => Ok(self.node(&path, entry)?),
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<(), TreeError> {
        if entry.kind != Kind::Directory {
            return TreeError::refused("it would replace the layer's root");
        }
        self.describe(b".".as_slice(), b"", entry)
    }

    /// Makes or keeps a folder; one that replaces a whiteout of this layer hides what the layers below have.
    fn folder(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), TreeError> {
        let parent = self.tree.folder(&path.parent)?;
        let name = path.name.as_slice();
        let mut opaque = false;
        loop {
            match sys::mkdirat(parent, name, Mode::RWXU) {
                Ok(()) => {
                    self.usage.inodes += 1;
                    break;
                }
                Err(Errno::EXIST) => {
                    let stat = sys::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).named("stat")?;
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                        break;
                    }
                    opaque = is_whiteout(&stat);
                    self.replaced = true;
                    remove_all(parent, name)?;
                }
                Err(e) => return Err(e).named("make folder"),
            }
        }
        if opaque {
            set_opaque(parent, name)?;
        }
        let whole = path.whole();
        self.tree.described(&whole)?;
        self.describe(name, &path.parent, entry)?;
        self.folder_times.insert(whole, timespec(entry));
        Ok(())
    }

    /// Owner, mode and xattrs of a folder that is there.
    fn describe(&mut self, name: &[u8], parent: &[u8], entry: &Entry) -> Result<(), TreeError> {
        let parent = self.tree.folder(parent)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = sys::openat(parent, name, flags, Mode::empty()).named("open")?;
        let (uid, gid) = owner(entry)?;
        sys::fchown(&folder, Some(uid), Some(gid)).named("chown")?;
        sys::fchmod(&folder, Mode::from_raw_mode(entry.mode)).named("chmod")?;
        set_xattrs(entry, |name, value| sys::fsetxattr(&folder, name, value, XattrFlags::empty()))?;
        if name == b"." {
            self.folder_times.insert(Vec::new(), timespec(entry));
        }
        Ok(())
    }

    fn whiteout(&mut self, path: &EntryPath, hidden: &[u8]) -> Result<(), TreeError> {
        if path.name == OPAQUE_MARKER {
            let folder = self.tree.folder(&path.parent)?;
            return set_opaque(folder, b"");
        }
        if path.name.starts_with(META) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return TreeError::refused("it is a whiteout of nothing");
        }
        let parent = self.tree.folder(&path.parent)?;
        // What this layer itself has under that name stays; a folder then hides the one below (layer.md § whiteouts).
        match sys::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => self.usage.inodes += 1,
            Err(Errno::EXIST) => {
                let stat = sys::statat(parent, hidden, AtFlags::SYMLINK_NOFOLLOW).named("stat")?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    set_opaque(parent, hidden)?;
                }
            }
            Err(e) => return Err(e).named("make whiteout"),
        }
        Ok(())
    }

    fn file<R: BufRead>(&mut self, archive: &mut Archive<R>, path: &EntryPath, entry: &Entry) -> Result<(), Failure> {
        let limit = self.limits.bytes;
        let total = self.usage.bytes.saturating_add(archive.left());
        if total > limit || entry.size > limit {
            return Err(Failure::TooLarge("unpacked size", total.max(entry.size), limit));
        }
        let (uid, gid) = owner(entry)?;
        let file = File::from(self.create(path, |parent, name| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            sys::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
        })?);
        match &entry.sparse {
            None => write_plain(archive, &file)?,
            Some(areas) => write_sparse(archive, &file, areas, entry.size)?,
        }
        // The order matters: chown takes set-id bits and security.capability away.
        if (uid.as_raw(), gid.as_raw()) != (0, 0) {
            sys::fchown(&file, Some(uid), Some(gid)).named("chown")?;
        }
        sys::fchmod(&file, Mode::from_raw_mode(entry.mode)).named("chmod")?;
        set_xattrs(entry, |name, value| sys::fsetxattr(&file, name, value, XattrFlags::empty()))?;
        sys::futimens(&file, &times(timespec(entry))).named("set time of")?;
        let stored = entry.sparse.as_ref().map_or(entry.size, |areas| areas.iter().map(|(_, length)| length).sum());
        self.usage.bytes += stored.next_multiple_of(4096);
        self.usage.inodes += 1;
        Ok(())
    }

    fn hard_link(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), TreeError> {
        let target = EntryPath::parse(&entry.link).map_err(|error| match error {
            TreeError::Refused(reason) => {
                let link = String::from_utf8_lossy(&entry.link);
                TreeError::Refused(format!("the target of its hard link, {:?}: {reason}", shorten(&link)))
            }
            failed => failed,
        })?;
        if target == *path || target.is_root() {
            return TreeError::refused("the target of its hard link is itself or the root");
        }
        let from = match self.tree.existing_folder(&target.parent) {
            Err(TreeError::Io(_, e)) if e.kind() == std::io::ErrorKind::NotFound => return missing_target(entry),
            other => other?,
        };
        let made = self
            .create(path, |parent, name| sys::linkat(&from, target.name.as_slice(), parent, name, AtFlags::empty()));
        match made {
            Err(TreeError::Io(_, e)) if e.kind() == std::io::ErrorKind::NotFound => missing_target(entry),
            // linkat(2): the target is a folder.
            Err(TreeError::Io(_, e)) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                TreeError::refused("the target of its hard link is a folder")
            }
            other => other,
        }
    }

    /// Symlinks, devices and fifos.
    fn node(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), TreeError> {
        let (uid, gid) = owner(entry)?;
        if entry.kind == Kind::Symlink && (entry.link.is_empty() || entry.link.contains(&0)) {
            return TreeError::refused("its symlink has no target");
        }
        if entry.link.len() > LONGEST_PATH {
            return TreeError::refused("its link is longer than 4095 bytes");
        }
        let file_type = match entry.kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        self.create(path, |parent, name| {
            if entry.kind == Kind::Symlink {
                sys::symlinkat(entry.link.as_slice(), parent, name)
            } else {
                let device = sys::makedev(entry.device.0, entry.device.1);
                sys::mknodat(parent, name, file_type, Mode::from_raw_mode(entry.mode), device)
            }
        })?;
        let parent = self.tree.folder(&path.parent)?;
        let name = path.name.as_slice();
        sys::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).named("chown")?;
        if entry.kind != Kind::Symlink {
            sys::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty()).named("chmod")?;
        }
        if !entry.xattrs.is_empty() {
            // There is no fd to set them by: opening a device or fifo has effects. The name is ours alone.
            let by_fd = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name].concat();
            set_xattrs(entry, |name, value| sys::lsetxattr(by_fd.as_slice(), name, value, XattrFlags::empty()))?;
        }
        sys::utimensat(parent, name, &times(timespec(entry)), AtFlags::SYMLINK_NOFOLLOW).named("set time of")?;
        self.usage.inodes += 1;
        Ok(())
    }

    /// Makes something under a name; what had it before goes (the last entry of a name wins).
    fn create<T>(
        &mut self,
        path: &EntryPath,
        mut make: impl FnMut(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, TreeError> {
        let parent = self.tree.folder(&path.parent)?;
        match make(parent, &path.name) {
            Err(Errno::EXIST) => {}
            other => return other.named("create"),
        }
        remove_all(parent, &path.name)?;
        self.replaced = true;
        make(parent, &path.name).named("create")
    }

    /// Folder times, the deepest first.
    fn finish(mut self) -> Result<Unpacked, std::io::Error> {
        for (path, time) in std::mem::take(&mut self.folder_times).into_iter().rev() {
            let set = self.tree.existing_folder(&path).and_then(|folder| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let folder = sys::openat(&folder, ".", flags, Mode::empty()).named("open")?;
                sys::futimens(&folder, &times(time)).named("set time of")
            });
            match set {
                // A later entry took the folder's place.
                Ok(()) | Err(TreeError::Refused(_)) => {}
                Err(TreeError::Io(_, e))
                    if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
                Err(TreeError::Io(_, e)) => return Err(e),
            }
        }
        let implied = self.tree.implied();
        self.usage.inodes += implied.len() as u64;
        self.usage.bytes += 4096 * (1 + implied.len() as u64);
        Ok(Unpacked { usage: self.usage, implied })
    }
}

fn missing_target(entry: &Entry) -> Result<(), TreeError> {
    let target = String::from_utf8_lossy(&entry.link);
    TreeError::refused(format!("the target of its hard link, {:?}, is not in this layer", shorten(&target)))
}
