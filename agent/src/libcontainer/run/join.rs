//! One more process in a running container (exec).
//!
//! A borrower of the monitor's memory enters the container's namespaces and clones the process from there with
//! CLONE_PARENT: it is the monitor's own child, in the container's PID namespace, and no helper program is executed.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{setsid, umask};

use super::failure::{InitFailure, Step};
use super::launch::{Host, Launched, READY, Stdio, become_child, enter_v1_cgroups, execute_alone, report};
use super::user_namespace::{become_root, stay_closed};
use super::{process, terminal};
use crate::libcontainer::plan::ProcessPlan;
use crate::sys::clone::{Child, CloneConfig, Cloned, clone, in_borrower};
use crate::sys::unix_socket;

/// A process to start in a running container.
#[derive(Debug)]
pub struct Join<'a> {
    /// What to run.
    pub process: &'a ProcessPlan,
    /// With a terminal.
    pub tty: bool,
    /// The container's first process.
    pub container: BorrowedFd<'a>,
    /// The container has a cgroup namespace of its own.
    pub cgroup_namespace: bool,
    /// The cgroup v2 folder it starts in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// cgroup.procs files of v1 hierarchies that it enters.
    pub v1_procs: &'a [OwnedFd],
}

/// Clones it. `ESRCH` in the failure: the container has just ended.
///
/// # Errors
/// Namespaces that cannot be entered, or what clone3(2) refuses.
pub fn join(host: Host<'_>, join: &Join<'_>, stdio: Stdio) -> Result<Launched, InitFailure> {
    let (control, theirs) = unix_socket::pair().step("make the exec's control socket", "")?;
    if let Some(user) = host.user {
        user.give(&stdio, join.process)?;
    }
    let mut stdio = Some(stdio);
    let mut result = Err(InitFailure::refused("the exec's helper died", ""));
    let mut job = || {
        result = enter_and_clone(host, join).map(|cloned| match cloned {
            Cloned::Parent(child) => child,
            Cloned::Child => {
                let mut kept: Vec<RawFd> = join.v1_procs.iter().map(AsRawFd::as_raw_fd).collect();
                kept.extend([host.null.as_raw_fd(), join.container.as_raw_fd()]);
                let stdio = stdio.take().unwrap_or_default();
                become_child(host, &theirs, kept, stdio, |stdio| run(host, join, &theirs, stdio))
            }
        });
    };
    let lent = in_borrower(host.threads, &mut job).step("clone the exec's helper", "");
    if host.user.is_some() {
        stay_closed()?;
    }
    let Child { pid, pidfd } = lent.and(result)?;
    Ok(Launched { pid, pidfd, control })
}

fn enter_and_clone(host: Host<'_>, join: &Join<'_>) -> Result<Cloned, InitFailure> {
    let mut namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    if host.user.is_some() {
        // Of all at once: only the host's root may look at every process of the container.
        namespaces |= CloneFlags::CLONE_NEWUSER;
        process::set_oom_score(join.process, host.procfs)?;
    }
    setns(join.container, namespaces).step("enter the container's namespaces", "")?;
    let config = CloneConfig { flags: libc::CLONE_PARENT as u64, cgroup: join.cgroup };
    clone(host.threads, config).step("clone into the container", "")
}

fn run(host: Host<'_>, join: &Join<'_>, control: &OwnedFd, mut stdio: Stdio) -> Result<Infallible, InitFailure> {
    setsid().step("start a session", "")?;
    umask(Mode::empty());
    enter_v1_cgroups(join.v1_procs)?;
    if join.cgroup_namespace {
        // Not before the clone: from inside, a hierarchy mounted with nsdelegate refuses the way in from outside (ENOENT).
        setns(join.container, CloneFlags::CLONE_NEWCGROUP).step("enter the container's cgroup namespace", "")?;
    }
    match host.user {
        Some(_) => become_root()?,
        None => process::set_oom_score(join.process, host.procfs)?,
    }
    let root = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step("open the root file system", "/")?;
    if join.tty {
        let terminal = terminal::open(&root, join.process.tty_columns, join.process.tty_rows)?;
        terminal::take_control(&terminal.slave)?;
        stdio = Stdio::terminal(terminal.slave)?;
        report(control, READY, Some(terminal.master.as_fd())).step("report to the monitor", "")?;
    }
    process::take_stdio(&root, stdio, host.null, join.process)?;
    process::prepare(join.process, host.procfs)?;
    execute_alone(control, || process::execute(join.process))
}
