//! Tells when something in a folder changes, by inotify(7). The folder need not be there yet: then it is waited for.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::sys::async_fd;

/// A watched folder. What is read after it is set misses no change that [`Watch::changed`] does not tell, again and again: another one
/// is set to go on.
#[derive(Debug)]
pub(in crate::network) struct Watch {
    inotify: AsyncFd<OwnedFd>,
    /// A folder vanished while it was being watched.
    vanished: bool,
}

impl Watch {
    /// Watches a folder, and those in it. To be called within the runtime.
    ///
    /// # Errors
    /// When the kernel watches no more folders for this user.
    pub(super) fn set(folder: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut vanished = false;
        for path in watched(folder) {
            match inotify::add_watch(&inotify, &path, flags()) {
                Err(Errno::NOENT | Errno::NOTDIR) => vanished = true,
                other => other.map(drop)?,
            }
        }
        Ok(Self { inotify: async_fd::register(inotify)?, vanished })
    }

    /// Whether something has changed. One system call.
    pub(in crate::network) fn has_changed(&self) -> bool {
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        // Who cannot be asked may have changed.
        self.vanished || poll(&mut fds, Some(&Timespec::default())) != Ok(0)
    }

    /// Waits for a change.
    ///
    /// # Errors
    /// When the runtime cannot wait.
    pub(in crate::network) async fn changed(&self) -> io::Result<()> {
        while !self.has_changed() {
            let mut ready = self.inotify.readable().await?;
            if !self.has_changed() {
                ready.clear_ready();
            }
        }
        Ok(())
    }
}

fn flags() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
}

/// The folder and those in it, where plugins of a network may stand in files of their own; or else the nearest folder above.
fn watched(folder: &Path) -> Vec<PathBuf> {
    if !folder.is_dir() {
        return folder.ancestors().skip(1).find(|above| above.is_dir()).map(Path::to_owned).into_iter().collect();
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let inside = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    // Whoever puts a thousand folders there is not to use the kernel's watches up.
    std::iter::once(folder.to_owned()).chain(inside.take(100)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn told(folder: &Path, change: impl FnOnce()) {
        let watch = Watch::set(folder).unwrap();
        assert!(!watch.has_changed());
        change();
        assert!(watch.has_changed(), "it is known at once");
        tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.expect("the change is told").unwrap();
        assert!(watch.has_changed(), "and stays so");
    }

    #[tokio::test]
    async fn changes_are_told_also_of_a_folder_that_is_not_there_yet() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("cni/net.d");
        told(&folder, || fs::create_dir(root.path().join("cni")).unwrap()).await;
        told(&folder, || fs::create_dir(&folder).unwrap()).await;
        told(&folder, || fs::write(folder.join("a.conf"), "{}").unwrap()).await;
        told(&folder, || fs::create_dir(folder.join("net")).unwrap()).await;
        told(&folder, || fs::write(folder.join("net/1.conf"), "{}").unwrap()).await;
        told(&folder, || fs::rename(folder.join("a.conf"), root.path().join("b.conf")).unwrap()).await;
        told(&folder, || fs::remove_dir_all(&folder).unwrap()).await;
    }
}
