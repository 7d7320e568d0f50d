//! The cgroups of execs, each below its container's, so that all an exec started can be killed without touching the container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::cgroup_tree;
use crate::libcontainer::run::failure::{InitFailure, Step};

/// How many empty ones a container keeps for its next execs; each is a descriptor, and memory in the kernel.
const SPARES: usize = 4;

/// Those of one container.
#[derive(Debug, Default)]
pub(super) struct ExecCgroups {
    /// Empty ones. To look whether one is empty takes 10 µs, to remove it and make another 60.
    spare: Vec<ExecCgroup>,
    /// Of those whose execs are over, the names of what was in use when last looked at.
    left: Vec<String>,
}

/// The cgroup of one exec.
#[derive(Debug)]
pub(super) struct ExecCgroup {
    name: String,
    folder: OwnedFd,
    killed: bool,
}

impl ExecCgroups {
    /// One with nobody in it, below `container`; `serial` is no other's.
    pub(super) fn take(&mut self, container: &OwnedFd, serial: u32) -> Result<ExecCgroup, InitFailure> {
        if let Some(spare) = self.spare.pop() {
            return Ok(spare);
        }
        let name = format!("exec-{serial}");
        mkdirat(container, &name, Mode::from_raw_mode(0o755)).step("make the exec's cgroup", &name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(container, &name, flags, Mode::empty()).step("open the exec's cgroup", &name)?;
        Ok(ExecCgroup { name, folder, killed: false })
    }

    /// The exec is over. Of a killed tree some may still be dying; and what was left running in the background keeps its cgroup.
    pub(super) fn give_back(&mut self, container: &OwnedFd, cgroup: ExecCgroup) {
        self.left.retain(|name| !remove(container, name));
        if self.spare.len() < SPARES && !cgroup.killed && cgroup.is_empty() {
            self.spare.push(cgroup);
        } else if !remove(container, &cgroup.name) {
            self.left.push(cgroup.name);
        }
    }
}

impl ExecCgroup {
    /// Kills all in it. It is not for another exec then: newer kernels (seen with 6.18) also kill what is later cloned into a cgroup that
    /// was killed more often than the cloning process's own ("cgroup: fix race between fork and cgroup.kill").
    pub(super) fn kill(&mut self) {
        self.killed = true;
        cgroup_tree::kill(&self.folder);
    }

    /// Below the container's.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// v1: what the exec enters it by.
    pub(super) fn open_tasks(&self) -> Result<OwnedFd, InitFailure> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&self.folder, "tasks", flags, Mode::empty()).step("open the exec's cgroup", &self.name)
    }

    /// Below it too. One of v1 does not say, and is not kept.
    fn is_empty(&self) -> bool {
        let events = openat(&self.folder, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        events.is_ok_and(|events| cgroup_tree::read_all(&events).lines().any(|line| line == "populated 0"))
    }
}

impl AsFd for ExecCgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// Whether it is gone.
fn remove(container: &OwnedFd, name: &str) -> bool {
    unlinkat(container, name, AtFlags::REMOVEDIR) != Err(Errno::BUSY)
}
