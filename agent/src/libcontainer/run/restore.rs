//! Processes from a checkpoint: a program of the host (criu) remakes them in place of an init that has set everything up and waits.
//!
//! The init's mounts are what the new processes get, whatever their images say of mounts: they are cloned in its mount
//! namespace, and put where the program finds them, in a copy of the host's that ends with it. Its cgroup and its standard input and
//! output are theirs, too. The program makes its first process a sibling of itself, and so a child of the monitor.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat};
use rustix::mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use rustix::mount::{mount_change, move_mount, open_tree};
use rustix::process::setsid;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::failure::{InitFailure, Step};
use super::launch::{Host, Launched, Stdio, become_child, enter_v1_cgroups, execute_with};
use super::{process, template};
use crate::libcontainer::plan::ProcessPlan;
use crate::sys::clone::{Child, CloneConfig, Cloned, clone};
use crate::sys::unix_socket;

/// Processes to remake.
#[derive(Debug)]
pub struct Restore<'a> {
    /// The program and its arguments.
    pub args: &'a [String],
    /// Its PATH.
    pub path: &'a str,
    /// The host's mount namespace.
    pub mount_namespace: BorrowedFd<'a>,
    /// The waiting init.
    pub init: i32,
    /// Mounts of it.
    pub mounts: &'a [String],
    /// The folder where the program finds them.
    pub staging: &'a str,
    /// Descriptors of it, and what the program calls them.
    pub inherited: Vec<(u32, &'a str)>,
    /// The cgroup v2 folder that the program, and whatever it makes, starts in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// `tasks` files of v1 hierarchies that it enters.
    pub v1_tasks: &'a [OwnedFd],
    /// With a cgroup namespace of their own.
    pub cgroup_namespace: bool,
}

/// Clones what becomes the program.
///
/// # Errors
/// What the kernel refuses: out of processes, the cgroup is gone …
pub fn restore(host: Host<'_>, restore: &Restore<'_>) -> Result<Launched, InitFailure> {
    let (control, theirs) = unix_socket::pair().step("make the restorer's control socket", "")?;
    let config = CloneConfig { flags: 0, cgroup: restore.cgroup };
    match clone(host.threads, config).step("clone the restorer", "")? {
        Cloned::Parent(Child { pid, pidfd }) => Ok(Launched { pid, pidfd, control }),
        Cloned::Child => {
            let mut kept: Vec<RawFd> = restore.v1_tasks.iter().map(AsRawFd::as_raw_fd).collect();
            kept.extend([restore.mount_namespace.as_raw_fd(), host.procfs.as_raw_fd(), host.null.as_raw_fd()]);
            become_child(&theirs, kept, Stdio::default(), |_| run(host, restore, &theirs))
        }
    }
}

fn run(host: Host<'_>, restore: &Restore<'_>, control: &OwnedFd) -> Result<Infallible, InitFailure> {
    setsid().step("start a session", "")?;
    enter_v1_cgroups(restore.v1_tasks)?;
    let mut args = restore.args.to_vec();
    let mut inherited = Vec::new();
    for (number, key) in &restore.inherited {
        let flags = if *number == 0 { OFlags::RDONLY } else { OFlags::WRONLY };
        let path = format!("{}/fd/{number}", restore.init);
        let fd = openat(host.procfs, &path, flags | OFlags::CLOEXEC, Mode::empty());
        let fd = fd.step("open standard input and output of the waiting init", "")?;
        args.extend(["--inherit-fd".to_owned(), format!("fd[{}]:{key}", fd.as_raw_fd())]);
        inherited.push(fd);
    }
    lay_out_mounts(host, restore)?;
    if restore.cgroup_namespace {
        unshare(CloneFlags::CLONE_NEWCGROUP).step("make a cgroup namespace", "")?;
    }
    let null = "give the restorer no input";
    dup2_stdin(host.null).step(null, "")?;
    dup2_stdout(host.null).step(null, "")?;
    dup2_stderr(host.null).step(null, "")?;
    let program = ProcessPlan { args, env: vec![format!("PATH={}", restore.path).into_bytes()], ..Default::default() };
    execute_with(control, &inherited, || process::execute(&program))
}

/// Clones the init's mounts, and attaches them in a copy of the host's mount namespace.
fn lay_out_mounts(host: Host<'_>, restore: &Restore<'_>) -> Result<(), InitFailure> {
    let path = format!("{}/ns/mnt", restore.init);
    let theirs = openat(host.procfs, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .step("open the waiting init's mount namespace", "")?;
    setns(&theirs, CloneFlags::CLONE_NEWNS).step("enter the waiting init's mount namespace", "")?;
    let clone = |path: &String| {
        let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
        open_tree(CWD, path.as_str(), flags).step("clone the container's mount", path)
    };
    let mounts = restore.mounts.iter().map(clone).collect::<Result<Vec<_>, _>>()?;
    setns(restore.mount_namespace, CloneFlags::CLONE_NEWNS).step("enter the host's mount namespace", "")?;
    unshare(CloneFlags::CLONE_NEWNS).step("make a mount namespace", "")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).step("make private", "/")?;
    let (staging, _) = template::detached("tmpfs", &[("mode", "700")], MountAttrFlags::MOUNT_ATTR_NOSUID)?;
    attach(&staging, restore.staging)?;
    for (number, mount) in mounts.iter().enumerate() {
        let place = format!("{}/{number}", restore.staging);
        let is_dir = FileType::from_raw_mode(fstat(mount).step("look at the mount", &place)?.st_mode).is_dir();
        if is_dir {
            mkdirat(CWD, &place, Mode::from_raw_mode(0o700)).step("make", &place)?;
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            openat(CWD, &place, flags, Mode::from_raw_mode(0o600)).step("make", &place)?;
        }
        attach(mount, &place)?;
    }
    Ok(())
}

fn attach(mount: impl AsFd, place: &str) -> Result<(), InitFailure> {
    move_mount(mount, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("mount on", place)
}
