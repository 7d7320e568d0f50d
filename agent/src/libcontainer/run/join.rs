//! One more process in a running container (exec).
//!
//! The monitor clones it into the container's PID namespace, and it enters the others itself. Into a user namespace there is no
//! way back for the monitor, so a borrower of its memory enters that, and clones with CLONE_PARENT. Either way it is the monitor's
//! own child, and no helper program is executed.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{setsid, umask};

use super::alone::NEWTIME;
use super::failure::{InitFailure, Step};
use super::launch::{
    Host, Launched, READY, Stdio, adjusted, await_release, become_child, enter_v1_cgroups, execute_with,
    in_pid_namespace, release, report,
};
use super::user_namespace::{become_root, stay_closed};
use super::{labels, process, terminal};
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
    /// Which other namespaces of the container this process is not in already: of a pod's container none but the user
    /// namespace, which `Host` tells of.
    pub namespaces: CloneFlags,
    /// Descriptors that its program gets under their numbers.
    pub passed: &'a [OwnedFd],
    /// The cgroup v2 folder it starts in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// `tasks` files of v1 hierarchies that it enters.
    pub v1_tasks: &'a [OwnedFd],
    /// The same of a cgroup of its own, below one of those.
    pub own_v1_tasks: Option<&'a OwnedFd>,
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
    let mut start = |flags: libc::c_int| {
        let config = CloneConfig { flags: flags as u64, cgroup: join.cgroup };
        match clone(host.threads, config).step("clone into the container", "")? {
            Cloned::Parent(child) => Ok(child),
            Cloned::Child => {
                let tasks = join.v1_tasks.iter().chain(join.own_v1_tasks);
                let mut kept: Vec<RawFd> = tasks.chain(join.passed).map(AsRawFd::as_raw_fd).collect();
                kept.extend([host.null.as_raw_fd(), join.container.as_raw_fd()]);
                let stdio = stdio.take().unwrap_or_default();
                become_child(&theirs, kept, stdio, |stdio| run(host, join, &theirs, stdio))
            }
        }
    };
    let Child { pid, pidfd } = match in_user_namespace(host, join) {
        false => {
            let child = in_pid_namespace(host, Some(join.container), || start(0))?;
            let child = adjusted(host, join.process, child)?;
            // A send that fails means that it has been killed: its death is the answer.
            let _ = release(&control);
            child
        }
        true => {
            let mut result = Err(InitFailure::refused("the exec's helper died", ""));
            let mut job = || result = enter_user_namespace(host, join).and_then(|()| start(libc::CLONE_PARENT));
            let lent = in_borrower(host.threads, &mut job).step("clone the exec's helper", "");
            stay_closed()?;
            lent.and(result)?
        }
    };
    Ok(Launched { pid, pidfd, control })
}

/// The borrower's part, in all at once: only the host's root may look at every process of the container.
fn enter_user_namespace(host: Host<'_>, join: &Join<'_>) -> Result<(), InitFailure> {
    // The child inherits both, and needs no procfs.
    process::set_oom_score(join.process, host.procfs, "self")?;
    labels::ask_for(join.process, host.procfs)?;
    let always = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    setns(join.container, always | join.namespaces.difference(NEWTIME)).step("enter the container's namespaces", "")
}

fn in_user_namespace(host: Host<'_>, join: &Join<'_>) -> bool {
    host.user.is_some() || join.namespaces.contains(CloneFlags::CLONE_NEWUSER)
}

fn run(host: Host<'_>, join: &Join<'_>, control: &OwnedFd, mut stdio: Stdio) -> Result<Infallible, InitFailure> {
    setsid().step("start a session", "")?;
    umask(Mode::empty());
    enter_v1_cgroups(join.v1_tasks.iter().chain(join.own_v1_tasks))?;
    let mut namespaces = CloneFlags::empty();
    // Not before the clone: from inside, a hierarchy mounted with nsdelegate refuses the way in from outside (ENOENT).
    namespaces.set(CloneFlags::CLONE_NEWCGROUP, join.cgroup_namespace);
    if !in_user_namespace(host, join) {
        namespaces |= CloneFlags::CLONE_NEWNS | join.namespaces.difference(NEWTIME);
    }
    if !namespaces.is_empty() {
        setns(join.container, namespaces).step("enter the container's namespaces", "")?;
    }
    if join.namespaces.contains(NEWTIME) {
        setns(join.container, NEWTIME).step("enter the container's time namespace", "")?;
    }
    if in_user_namespace(host, join) {
        become_root()?;
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
    if !in_user_namespace(host, join) {
        labels::ask_for_own(join.process)?;
    }
    process::prepare(join.process)?;
    if !in_user_namespace(host, join) {
        // Which the one who cloned it gives without being asked: it is there by now.
        await_release(control)?;
    }
    execute_with(control, join.passed, || process::execute(join.process))
}
