//! Paths inside a container, resolved by the kernel so that neither `..` nor a symbolic link leads out of its root
//! (openat2(2)); and making what is missing on the way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat};
use rustix::io::{Errno, Result};

/// As many symbolic links as the kernel follows.
const MAX_LINKS: u32 = 40;
const CONFINED: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Opens what is at `path`, links followed.
///
/// # Errors
/// openat2(2)'s.
pub fn open(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd> {
    retry(|| openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), CONFINED))
}

/// Opens what is at `path` when no symbolic link is on the way or at its end.
///
/// # Errors
/// `LOOP` where there is one; openat2(2)'s.
pub fn open_without_links(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    retry(|| openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
}

/// Opens (O_PATH) the folder at `path`, made with its missing parents.
///
/// # Errors
/// `NOTDIR` when something else is in the way, mkdirat(2)'s and openat2(2)'s.
pub fn ensure_dir(root: impl AsFd, path: &str, mode: u32) -> Result<OwnedFd> {
    ensure(root.as_fd(), path, mode, Kind::Dir, MAX_LINKS)
}

/// Opens (O_PATH) the file at `path`, made empty, mode 0644, with its missing parents.
///
/// # Errors
/// openat2(2)'s.
pub fn ensure_file(root: impl AsFd, path: &str) -> Result<OwnedFd> {
    ensure(root.as_fd(), path, 0o755, Kind::File, MAX_LINKS)
}

/// The folder that `path` is to be in, made if missing, and the last name.
///
/// # Errors
/// `INVAL` for a path without a last name.
pub fn ensure_parent(root: impl AsFd, path: &str) -> Result<(OwnedFd, &str)> {
    let (parent, name) = split(path).ok_or(Errno::INVAL)?;
    Ok((ensure_dir(root, parent, 0o755)?, name))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dir,
    File,
}

fn ensure(root: BorrowedFd<'_>, path: &str, mode: u32, kind: Kind, links: u32) -> Result<OwnedFd> {
    let flags = OFlags::PATH | if kind == Kind::Dir { OFlags::DIRECTORY } else { OFlags::empty() };
    match open(root, path, flags) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (parent_path, name) = split(path).ok_or(Errno::NOENT)?;
    let parent = ensure(root, parent_path, 0o755, Kind::Dir, links)?;
    let made = match kind {
        Kind::Dir => mkdirat(&parent, name, Mode::from_raw_mode(mode)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        Ok(()) => open(root, path, flags),
        // Somebody else was faster, or a symbolic link is there that leads to nothing: make what it says.
        Err(Errno::EXIST) => match open(root, path, flags) {
            Err(Errno::NOENT) if links > 0 => {
                let link = readlinkat(&parent, name, Vec::new())?.into_string().map_err(|_| Errno::ILSEQ)?;
                let target = if link.starts_with('/') { link } else { format!("{parent_path}/{link}") };
                ensure(root, &target, mode, kind, links - 1)
            }
            Err(Errno::NOENT) => Err(Errno::LOOP),
            other => other,
        },
        Err(errno) => Err(errno),
    }
}

/// "/a/b/" to "/a" and "b". A last `..` or `.` is no name.
fn split(path: &str) -> Option<(&str, &str)> {
    let path = path.trim_end_matches('/');
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = if parent.is_empty() { "/" } else { parent };
    (!matches!(name, "" | "." | "..")).then_some((parent, name))
}

/// openat2 says EAGAIN when a rename elsewhere made it unsure about a `..`.
fn retry<T>(mut open: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..128 {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    open()
}
