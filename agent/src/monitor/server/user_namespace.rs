//! The namespaces of a pod in a user namespace. A child makes them all at once, so that the user namespace owns the others.
//! This process writes who is who in it and enters the others, but not that one: it keeps the host's privileges.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags, Uid, openat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::set_thread_res_uid;

use super::pod::{POD_INIT_ID, become_pod_init};
use super::template;
use crate::libcontainer::plan::{self, IdRange};
use crate::libcontainer::run::PodUser;
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::sys::clone::{Child, CloneConfig, Cloned, SingleThreaded, clone, exit_now};

/// The user namespace of the monitor's pod.
#[derive(Debug)]
pub(super) struct UserNamespace {
    pub(super) namespace: OwnedFd,
    ids: plan::UserNamespace,
}

impl UserNamespace {
    /// For new processes.
    pub(super) fn lend(&self) -> PodUser<'_> {
        PodUser { namespace: self.namespace.as_fd(), ids: self.ids }
    }
}

/// Makes the user namespace and those in `flags`, which this process then is in. With `shared_pid` the child that made
/// them stays as the pod's pid 1.
pub(super) fn make(
    threads: SingleThreaded,
    host: &template::Host,
    ids: plan::UserNamespace,
    flags: CloneFlags,
    shared_pid: bool,
) -> Result<(UserNamespace, Option<Child>), InitFailure> {
    let (wait, release) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe", "")?;
    let pid = if shared_pid { CloneFlags::CLONE_NEWPID } else { CloneFlags::empty() };
    let all = CloneFlags::CLONE_NEWUSER | flags | pid;
    let config = CloneConfig { flags: u64::from(all.bits().unsigned_abs()), cgroup: None };
    let child = match clone(threads, config).step("make the pod's user namespace", "")? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(release);
            hold(&wait, ids)
        }
    };
    drop(wait);
    for (name, range) in [("uid_map", ids.uids), ("gid_map", ids.gids)] {
        map(host, child.pid, name, range)?;
    }
    let path = format!("{}/ns/user", child.pid);
    let namespace = openat(&host.procfs, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .step("open the user namespace", "")?;
    setns(&child.pidfd, flags).step("enter the pod's namespaces", "")?;
    if shared_pid {
        rustix::io::write(&release, b"1").step("release the pod's init", "")?;
    }
    // A child that is not released has nothing more to do, and ends by this.
    drop(release);
    Ok((UserNamespace { namespace, ids }, shared_pid.then_some(child)))
}

/// Does what the namespace's root alone may, the host's not: the kernel lets nobody else write settings of an ipc namespace.
pub(super) fn as_its_root(
    ids: plan::UserNamespace,
    work: impl FnOnce() -> Result<(), InitFailure>,
) -> Result<(), InitFailure> {
    let become_user = |uid| set_thread_res_uid(Uid::ROOT, uid, Uid::ROOT).step("become the pod's root and back", "");
    become_user(Uid::from_raw(ids.uids.first))?;
    let done = work();
    become_user(Uid::ROOT)?;
    // The change may have undone that (fs.suid_dumpable).
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("become not dumpable", "")?;
    done
}

/// Writes who is who, for which the whole line has to come at once.
fn map(host: &template::Host, pid: i32, name: &str, range: IdRange) -> Result<(), InitFailure> {
    let path = format!("{pid}/{name}");
    let file =
        openat(&host.procfs, path.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).step("open", name)?;
    let line = range.map_line();
    rustix::io::write(&file, line.as_bytes()).step(&format!("write {:?} to", line.trim_end()), name).map(drop)
}

/// The child's life: until the monitor is done with it, or as the pod's pid 1.
fn hold(wait: &OwnedFd, ids: plan::UserNamespace) -> ! {
    let mut byte = [0u8];
    loop {
        match rustix::io::read(wait, &mut byte) {
            Err(Errno::INTR) => {}
            Ok(1) => {
                let highest = |range: IdRange| POD_INIT_ID.min(range.count.saturating_sub(1));
                become_pod_init(highest(ids.uids), highest(ids.gids))
            }
            // Not needed, or the monitor is dead.
            Ok(_) | Err(_) => exit_now(0),
        }
    }
}
