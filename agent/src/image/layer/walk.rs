//! The careful way to a folder of a layer: component by component, following symlinks itself. It can tell a climbing
//! symlink from a legal absolute one, and makes the folders that the archive implies. `tree` takes it where one system
//! call does not suffice.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tree::{Named, TreeError, set_opaque};

const MOST_SYMLINKS: usize = 40;
/// Removing a tree again takes an open folder a level: no real image is near this.
pub(super) const DEEPEST: usize = 512;
/// What the names of folders may take in memory until the layer is done; the largest real images need a twentieth.
const NAMES: usize = 64 << 20;

/// Folders that no entry of their own described.
#[derive(Default)]
pub(super) struct Implied {
    pub(super) folders: BTreeSet<Vec<u8>>,
    /// Of all names remembered, those of described folders included.
    bytes: usize,
}

impl Implied {
    /// A name that will be kept until the end of the layer.
    pub(super) fn account(&mut self, path: &[u8]) -> Result<(), TreeError> {
        // A node of a map beside the name itself.
        self.bytes += path.len() + 64;
        if self.bytes > NAMES {
            TreeError::refused("the names of the layer's folders take more than 64 MiB")
        } else {
            Ok(())
        }
    }
}

/// Component by component, following symlinks itself: it can tell a climbing one from a legal absolute one, and makes
/// what is missing.
pub(super) fn walk(root: BorrowedFd<'_>, path: &[u8], make: bool, implied: &mut Implied) -> Result<OwnedFd, TreeError> {
    let mut todo: VecDeque<(Vec<u8>, bool)> = components(path).map(|c| (c.to_vec(), false)).collect();
    let mut done: Vec<(Vec<u8>, OwnedFd)> = Vec::new();
    let mut links = 0;
    while let Some((component, by_link)) = todo.pop_front() {
        let shown = || String::from_utf8_lossy(&component).into_owned();
        if component == b".." {
            if done.pop().is_none() {
                return TreeError::refused("a symlink on its way climbs out of the layer");
            }
            continue;
        }
        let top = done.last().map_or(root, |(_, fd)| fd.as_fd());
        let next = match open_path(top, &component) {
            Err(Errno::NOENT) if make && !by_link => make_implied(top, &component, &done, implied)?,
            Err(Errno::NOENT) => {
                return TreeError::refused(format!(
                    "the way to it leads to {:?}, which the layer does not have",
                    shown()
                ));
            }
            other => other.named("open")?,
        };
        let stat = sys::fstat(&next).named("stat")?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if done.len() >= DEEPEST => {
                return TreeError::refused("its symlinks lead deeper than 512 folders");
            }
            FileType::Directory => done.push((component, next)),
            FileType::Symlink => {
                links += 1;
                if links > MOST_SYMLINKS {
                    return TreeError::refused("there are too many symlinks on its way");
                }
                let target = sys::readlinkat(&next, "", Vec::new()).named("read link")?.into_bytes();
                if target.starts_with(b"/") {
                    done.clear();
                }
                for part in components(&target).collect::<Vec<_>>().into_iter().rev() {
                    todo.push_front((part.to_vec(), true));
                }
            }
            FileType::CharacterDevice if stat.st_rdev == 0 && make && !by_link => {
                // Removed from the layers below, and there again in this one: a new folder that hides theirs.
                sys::unlinkat(top, component.as_slice(), AtFlags::empty()).named("remove")?;
                let next = make_implied(top, &component, &done, implied)?;
                set_opaque(top, &component)?;
                done.push((component, next));
            }
            _ => return TreeError::refused(format!("{:?} on its way is not a folder", shown())),
        }
    }
    match done.pop() {
        Some((_, fd)) => Ok(fd),
        None => sys::openat(root, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).named("open"),
    }
}

/// The parts of a path that say something.
pub(super) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|c| !matches!(*c, b"" | b"."))
}

fn open_path(folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    sys::openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn make_implied(
    folder: BorrowedFd<'_>,
    name: &[u8],
    above: &[(Vec<u8>, OwnedFd)],
    implied: &mut Implied,
) -> Result<OwnedFd, TreeError> {
    let mode = Mode::from_raw_mode(0o755);
    sys::mkdirat(folder, name, mode).named("make folder")?;
    let opened = open_path(folder, name).named("open")?;
    // Whatever the umask of the process is.
    sys::chmodat(folder, name, mode, AtFlags::empty()).named("chmod")?;
    let mut path: Vec<u8> = Vec::new();
    for component in above.iter().map(|(c, _)| c.as_slice()).chain([name]) {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    implied.account(&path)?;
    implied.folders.insert(path);
    Ok(opened)
}
