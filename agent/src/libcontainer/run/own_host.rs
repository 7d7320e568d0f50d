//! What a monitor holds for the containers of its pod, for a command that makes one container and ends.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::MountAttrFlags;
use rustix::process::{DumpableBehavior, PidfdFlags, getpid, pidfd_open, set_dumpable_behavior};

use super::failure::{InitFailure, Step};
use super::launch::Host;
use super::template;
use crate::sys::clone::SingleThreaded;

/// What a command of its own lends to the processes it starts, as a monitor does.
#[derive(Debug)]
pub struct OwnHost {
    procfs: OwnedFd,
    null: OwnedFd,
    pidfd: OwnedFd,
}

impl OwnHost {
    /// Opens it.
    ///
    /// # Errors
    /// procfs cannot be mounted.
    pub fn open() -> Result<Self, InitFailure> {
        let (procfs, _) = template::detached("proc", &[], MountAttrFlags::empty())?;
        let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step("open", "/dev/null")?;
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).step("open this process", "")?;
        // Nobody may look into what becomes a container (CVE-2016-9962).
        set_dumpable_behavior(DumpableBehavior::NotDumpable).step("become not dumpable", "")?;
        Ok(Self { procfs, null, pidfd })
    }

    /// For new processes.
    pub fn lend(&self, threads: SingleThreaded) -> Host<'_> {
        let (procfs, null, own_pidfd) = (self.procfs.as_fd(), self.null.as_fd(), self.pidfd.as_fd());
        Host { threads, procfs, null, own_pidfd, user: None }
    }

    /// Says who is who in the user namespace of a cloned init that has not been let on.
    ///
    /// # Errors
    /// Mappings that the kernel refuses.
    pub fn admit(&self, pid: i32, uids: &str, gids: &str) -> Result<(), InitFailure> {
        for (name, text) in [("uid_map", uids), ("gid_map", gids)] {
            if text.is_empty() {
                continue;
            }
            let path = format!("{pid}/{name}");
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(&self.procfs, path.as_str(), flags, Mode::empty()).step("open", name)?;
            // A mapping has to come in one write.
            rustix::io::write(&file, text.as_bytes()).step(&format!("write {:?} to", text.trim_end()), name)?;
        }
        Ok(())
    }
}
