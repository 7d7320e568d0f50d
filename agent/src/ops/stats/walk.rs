//! The walk of one writable layer, in portions, so that a layer of a million files does not keep the others waiting. The
//! container changes the tree meanwhile and is no friend: every folder is opened from its parent, and no link is followed.

use std::collections::HashSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat};

/// Each level holds a descriptor; what lies deeper is counted as the folder that it lies in.
const DEPTH: usize = 256;

/// What a writable layer takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and folders.
    pub inodes: u64,
    /// When, in nanoseconds since the epoch.
    pub measured_at: i64,
}

/// A walk under way: the folders from the layer's own down to where it stands.
pub(super) struct Walk {
    open: Vec<Dir>,
    /// Files with several names that were met: each counts once.
    linked: HashSet<u64>,
    usage: LayerUsage,
}

impl Walk {
    /// At the top of a tree. One that is gone takes nothing.
    pub(super) fn begin(root: &Path) -> Self {
        let mut walk = Self { open: Vec::new(), linked: HashSet::new(), usage: LayerUsage::default() };
        if let Ok(fd) = openat(CWD, root, FOLDER, Mode::empty()) {
            // The top folder belongs to the layer: a container that wrote nothing takes that much.
            walk.usage =
                LayerUsage { bytes: fstat(&fd).map_or(0, |stat| disk(stat.st_blocks)), inodes: 1, measured_at: 0 };
            walk.descend(fd);
        }
        walk
    }

    /// Goes on for so many entries. The usage when all is seen; what vanishes meanwhile is not counted.
    pub(super) fn go_on(&mut self, entries: usize) -> Option<LayerUsage> {
        for _ in 0..entries {
            let Some(dir) = self.open.last_mut() else { return Some(self.usage) };
            let Some(Ok(entry)) = dir.read() else {
                self.open.pop();
                continue;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(fd) = dir.fd() else { continue };
            let below = count(fd, name, &mut self.usage, &mut self.linked);
            if let Some(fd) = below.filter(|_| self.open.len() < DEPTH) {
                self.descend(fd);
            }
        }
        None
    }

    fn descend(&mut self, fd: OwnedFd) {
        if let Ok(dir) = Dir::new(fd) {
            self.open.push(dir);
        }
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Adds an entry; a folder is given back opened.
fn count(
    parent: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    usage: &mut LayerUsage,
    linked: &mut HashSet<u64>,
) -> Option<OwnedFd> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if !folder && stat.st_nlink > 1 && !linked.insert(stat.st_ino) {
        return None;
    }
    usage.inodes += 1;
    usage.bytes += disk(stat.st_blocks);
    if folder { openat(parent, name, FOLDER, Mode::empty()).ok() } else { None }
}

/// stat(2): blocks are of 512 bytes.
fn disk(blocks: i64) -> u64 {
    u64::try_from(blocks).unwrap_or(0) * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(root: &Path) -> LayerUsage {
        let mut walk = Walk::begin(root);
        loop {
            if let Some(usage) = walk.go_on(1) {
                return usage;
            }
        }
    }

    #[test]
    fn a_tree_is_measured_with_each_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let empty = whole(dir.path());
        assert_eq!(empty.inodes, 1, "the top folder");
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a"), vec![1u8; 8192]).unwrap();
        std::fs::hard_link(dir.path().join("sub/a"), dir.path().join("b")).unwrap();
        let usage = whole(dir.path());
        assert_eq!(usage.inodes, 3);
        assert!((8192..3 * 8192).contains(&(usage.bytes - empty.bytes)), "{usage:?}");
    }

    #[test]
    fn links_lead_nowhere_and_depth_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        assert_eq!(whole(dir.path()).inodes, 2);
        let mut deep = dir.path().to_owned();
        (0..DEPTH + 10).for_each(|_| deep.push("d"));
        std::fs::create_dir_all(&deep).unwrap();
        assert_eq!(whole(dir.path()).inodes, 2 + DEPTH as u64);
    }

    #[test]
    fn what_is_not_there_takes_nothing() {
        assert_eq!(whole(Path::new("/nonexistent/layer")), LayerUsage::default());
    }
}
