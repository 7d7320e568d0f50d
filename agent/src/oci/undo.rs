//! What is undone when a creation fails, the last first: the process, the cgroup, the folder.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::process;
use super::record::Folder;
use crate::libcontainer::cgroup::Cgroup;

/// Long enough for a process that is killed while it waits for a disk.
const END_WAIT: Duration = Duration::from_secs(10);

/// Undoes on drop, unless it was kept.
pub(super) struct Undo {
    pub(super) folder: Option<Folder>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) process: Option<OwnedFd>,
}

impl Undo {
    /// The creation succeeded.
    pub(super) fn keep(mut self) {
        (self.folder, self.cgroup, self.process) = (None, None, None);
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // The first error is the one that is told; `delete --force` tries again what cannot be undone now.
        if let Some(pidfd) = &self.process {
            let _ = process::signal(pidfd, libc::SIGKILL);
            let _ = process::wait_for_end(pidfd, END_WAIT);
            let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(pidfd));
            let _ = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
        }
        let removed = self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.kill().and_then(|()| cgroup.remove()));
        // As long as the cgroup is there its record has to be, too.
        if let (Ok(()), Some(folder)) = (removed, &self.folder) {
            let _ = folder.remove();
        }
    }
}
