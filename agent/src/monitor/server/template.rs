//! The mount namespace of spawner and monitors: one tiny read-only tmpfs, so that copying it for a container costs next
//! to nothing (floors.md, trap 3) and no host path can be reached from it.

use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, XattrFlags, fsetxattr, openat};
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::libcontainer::run::template::{NULL, detached, template};

/// Where a monitor mounts its pod's shared memory.
pub(super) const SHM: &str = "/shm";

/// Where the monitor of a pod in a user namespace mounts a procfs and a sysfs (see `mount_views`).
const VIEWS: [(&str, &str); 2] = [("/proc", "proc"), ("/sys", "sysfs")];

/// What spawner and monitors lend to the processes they start.
#[derive(Debug)]
pub(super) struct Host {
    /// A procfs of the host's PID namespace, in no mount table.
    pub(super) procfs: OwnedFd,
    /// A null device, the template's.
    pub(super) null: OwnedFd,
    /// The host's network namespace.
    pub(super) network: OwnedFd,
}

/// Leaves the host's mount table for good.
pub(super) fn enter() -> Result<Host, InitFailure> {
    let procfs = detached("proc", &[], MountAttrFlags::empty())?.0;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let network = openat(&procfs, "self/ns/net", flags, Mode::empty()).step("open the network namespace", "")?;
    unshare(CloneFlags::CLONE_NEWNS).step("make a mount namespace", "")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).step("make private", "/")?;
    let root = template(&[SHM, VIEWS[0].0, VIEWS[1].0])?;
    let attach = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", CWD, "/", attach).step("mount the template root", "")?;
    fchdir(&root).step("enter the template root", "")?;
    pivot_root(".", ".").step("pivot into the template root", "")?;
    unmount(".", UnmountFlags::DETACH).step("leave the host's mounts", "")?;
    chdir("/").step("enter the template root", "/")?;
    let null = openat(CWD, NULL, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step("open", NULL)?;
    Ok(Host { procfs, null, network })
}

/// Mounts what a pod in a user namespace has to see for the kernel to let its inits mount the same of their own. They leave
/// it behind as they leave the template.
pub(super) fn mount_views() -> Result<(), InitFailure> {
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    for (path, fstype) in VIEWS {
        let (view, _) = detached(fstype, &[], attributes)?;
        move_mount(&view, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("mount on", path)?;
    }
    Ok(())
}

/// Mounts the pod's shared memory in this monitor's own namespace; `(uid, gid)` is the pod's
/// root, and `label` its SELinux label unless it is empty.
pub(super) fn mount_shm(bytes: u64, (uid, gid): (u32, u32), label: &str) -> Result<(), InitFailure> {
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let (size, uid, gid) = (bytes.to_string(), uid.to_string(), gid.to_string());
    let mut options = vec![("size", size.as_str()), ("mode", "1777")];
    if (uid.as_str(), gid.as_str()) != ("0", "0") {
        options.extend([("uid", uid.as_str()), ("gid", gid.as_str())]);
    }
    if !label.is_empty() {
        options.push(("context", label));
    }
    let (shm, _) = detached("tmpfs", &options, attributes)?;
    move_mount(&shm, "", CWD, SHM, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("mount on", SHM)
}

/// Labels the root of the pod's message queues, which cannot be mounted with a label: an IPC namespace has one file system of
/// them, for all mounts of it, made before anybody can say so. Only the host's root may do it for a pod in a user namespace.
pub(super) fn label_mqueue(label: &str) -> Result<(), InitFailure> {
    let step = "label the message queues";
    let (queues, _) = detached("mqueue", &[], MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    let folder =
        openat(&queues, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).step(step, "")?;
    fsetxattr(&folder, "security.selinux", label.as_bytes(), XattrFlags::empty()).step(step, label)
}
