//! AppArmor and SELinux: what the next execve is to run as (proc_pid_attr(5)). It is each process's own to ask for, and
//! children inherit it until one of them executes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use super::failure::{InitFailure, Step};
use crate::libcontainer::plan::ProcessPlan;

/// AppArmor's own since Linux 5.8, and the one that belongs to whichever module is first.
const APPARMOR: [&str; 2] = ["self/attr/apparmor/exec", "self/attr/exec"];
const SELINUX: [&str; 1] = ["self/attr/exec"];

/// Asks the kernel for the plan's profile and label, for what a borrower clones: the host's procfs is not the child's to
/// have, and inside a user namespace none may be made that shows more than the container's, whose parts are masked.
///
/// CVE-2025-52881: they are written to a procfs that is in no mount table, never to what the container has at /proc, so
/// that nothing can be mounted in their way.
pub(super) fn ask_for(process: &ProcessPlan, procfs: BorrowedFd<'_>) -> Result<(), InitFailure> {
    let (profile, label) = (process.apparmor_profile.as_str(), process.selinux_label.as_str());
    if !profile.is_empty() {
        write(procfs, &APPARMOR, &format!("exec {profile}"))?;
    }
    if !label.is_empty() {
        write(procfs, &SELINUX, label)?;
    }
    Ok(())
}

/// The same for this process alone, which has no procfs and may make one.
pub(super) fn ask_for_own(process: &ProcessPlan) -> Result<(), InitFailure> {
    if process.apparmor_profile.is_empty() && process.selinux_label.is_empty() {
        return Ok(());
    }
    let procfs = procfs().step("open a procfs for the process's label", "")?;
    ask_for(process, procfs.as_fd())
}

/// A procfs of this process's own PID namespace with nothing but processes in it: a neighbour with CAP_SYS_PTRACE that
/// takes it from this process's file descriptors has gained nothing.
fn procfs() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "subset", "pid")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Writes to the first of `paths` that is there.
fn write(procfs: BorrowedFd<'_>, paths: &[&str], text: &str) -> Result<(), InitFailure> {
    let mut found = Err(Errno::NOENT);
    let mut shown = "";
    for path in paths {
        shown = path;
        found = openat(procfs, *path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        if !matches!(found, Err(Errno::NOENT)) {
            break;
        }
    }
    let shown = format!("/proc/{shown}");
    rustix::io::write(found.step("open", &shown)?, text.as_bytes())
        .step(&format!("write {text:?} to"), &shown)
        .map(drop)
}
