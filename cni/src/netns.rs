//! A network namespace that is named by a path, and work done inside it on a thread of its own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
}

/// A namespace cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {}: {operation}", path.display())]
pub struct NetnsError {
    path: PathBuf,
    operation: &'static str,
    source: io::Error,
}

impl NetnsError {
    /// Whether there is no such namespace (any more).
    pub fn is_gone(&self) -> bool {
        self.operation == "open" && self.source.kind() == io::ErrorKind::NotFound
            // A pinned namespace that has been let go leaves an empty file.
            || self.operation == "look at" && self.source.kind() == io::ErrorKind::InvalidInput
    }
}

/// `NSFS_MAGIC` (linux/magic.h)
const NSFS: u64 = 0x6e73_6673;

impl Netns {
    /// Opens a namespace.
    ///
    /// # Errors
    /// When there is none at the path.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, NetnsError> {
        let path = path.into();
        let failed = |operation: &'static str| {
            let path = path.clone();
            move |source: io::Error| NetnsError { path, operation, source }
        };
        // A pipe would otherwise wait for its other end.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).map_err(failed("open"))?;
        let found = rustix::fs::fstatfs(&file).map_err(|errno| failed("look at")(errno.into()))?;
        if found.f_type as u64 != NSFS {
            let reason = io::Error::new(io::ErrorKind::InvalidInput, "it is no namespace");
            return Err(failed("look at")(reason));
        }
        Ok(Self { path, file })
    }

    /// Its path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the one that the calling thread is in.
    pub fn is_own(&self) -> bool {
        let same = |own: fs::Metadata| self.file.metadata().map(|it| (it.dev(), it.ino()) == (own.dev(), own.ino()));
        fs::metadata("/proc/thread-self/ns/net").and_then(same).unwrap_or(false)
    }

    /// Does something inside, on a thread that ends with it: no thread of the caller's ever leaves its namespace.
    ///
    /// # Errors
    /// setns(2), or no thread could be had.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let failed = |operation, source| NetnsError { path: self.path.clone(), operation, source };
        std::thread::scope(|scope| {
            let inside = || {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok::<_, io::Error>(work())
            };
            let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside);
            let thread = thread.map_err(|source| failed("start a thread", source))?;
            match thread.join() {
                Ok(outcome) => outcome.map_err(|source| failed("enter", source)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Netns::open(&file).unwrap_err().is_gone());
        assert!(Netns::open(folder.path().join("none")).unwrap_err().is_gone());
        // Another kind of namespace is found when it is entered.
        let other = Netns::open("/proc/self/ns/uts").unwrap();
        assert!(!other.enter(|| ()).unwrap_err().is_gone());
        assert!(Netns::open("/proc/thread-self/ns/net").unwrap().is_own());
    }
}
