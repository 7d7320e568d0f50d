//! The pod's user namespace on the way into it. What only the host's root may do comes before, in the process that then
//! enters; from there on a process has no say over anything of the host.

use std::os::fd::BorrowedFd;

use nix::sched::{CloneFlags, setns};
use rustix::fs::{FileType, Gid, Uid, fchown, fstat};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::failure::{InitFailure, Step};
use super::launch::{Host, Stdio};
use super::{labels, process};
use crate::libcontainer::plan::{ProcessPlan, UserNamespace};

/// A pod's user namespace, as its monitor holds it.
#[derive(Debug, Clone, Copy)]
pub struct PodUser<'a> {
    /// The namespace.
    pub namespace: BorrowedFd<'a>,
    /// Who is who in it.
    pub ids: UserNamespace,
}

impl PodUser<'_> {
    /// Pipes become the user's while that can be done: inside nobody knows who made them.
    pub(super) fn give(self, stdio: &Stdio, process: &ProcessPlan) -> Result<(), InitFailure> {
        let (Some(uid), Some(gid)) = (self.ids.uids.on_host(process.uid), self.ids.gids.on_host(process.gid)) else {
            return Err(InitFailure::refused("the user or group is not in the pod's user namespace", ""));
        };
        for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
            let stat = fstat(fd).step("look at standard input and output", "")?;
            if FileType::from_raw_mode(stat.st_mode).is_fifo() {
                fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                    .step("give standard input and output to the user", "")?;
            }
        }
        Ok(())
    }

    /// For a borrower: its children are born in the namespace, but still as the host's root, whom nobody knows there.
    pub(super) fn enter(self, host: Host<'_>, process: &ProcessPlan) -> Result<(), InitFailure> {
        process::set_oom_score(process, host.procfs, "self")?;
        labels::ask_for(process, host.procfs)?;
        setns(self.namespace, CloneFlags::CLONE_NEWUSER).step("enter the pod's user namespace", "")
    }
}

/// The namespace's own root; its capabilities are there already.
pub(super) fn become_root() -> Result<(), InitFailure> {
    set_thread_groups(&[]).step("set supplementary groups", "")?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).step("become group 0 of the user namespace", "")?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).step("become root of the user namespace", "")
}

/// For the monitor, after a borrower of its memory changed its credentials: where fs.suid_dumpable is 1, that made it
/// dumpable.
pub(super) fn stay_closed() -> Result<(), InitFailure> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("become not dumpable", "")
}
