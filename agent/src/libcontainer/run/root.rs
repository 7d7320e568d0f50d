//! Entering the root file system. Before: a template namespace that holds nothing of the host. After: the container's
//! root, and nothing else at all.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use super::failure::{InitFailure, Step};
use super::mounts::new_fs;
use super::template::{NULL, VOID};
use crate::libcontainer::plan::{Action, EnterRoot, LeaveHost, MountSource, MoveMount, Step as PlanStep};
use crate::sys::mount::{SetAttr, set_attr};

/// A mount that covers many paths: itself the first, clones of it the others. (Before Linux 6.15 a mount can be cloned only
/// once it is attached.)
#[derive(Debug)]
pub(super) struct Cover {
    pub(super) mount: OwnedFd,
    pub(super) attached: Cell<bool>,
}

/// Clones of what only the template has, taken before it is left.
#[derive(Debug, Default)]
pub(super) struct Keepsakes {
    /// The null device as a mount, for masked files.
    pub(super) null: Option<Cover>,
    /// An empty read-only folder as a mount, for masked folders.
    pub(super) void: Option<Cover>,
    /// The pod's own tmpfs mounts, one for each step that asks for one, in the steps' order.
    pub(super) pod_mounts: Vec<OwnedFd>,
    /// In a user namespace: new procfs and sysfs mounts with their targets, in the steps' order. Who is no root of the host
    /// may mount them only where others are seen whole (`mount_too_revealing`), and the template has such.
    pub(super) views: Vec<(String, OwnedFd)>,
}

impl Keepsakes {
    /// Takes what the steps will ask for from the template at `template`, which is empty for the root.
    pub(super) fn take(template: &str, steps: &[PlanStep], in_user_namespace: bool) -> Result<Self, InitFailure> {
        let mut kept = Self::default();
        for action in steps.iter().filter_map(|step| step.action.as_ref()) {
            match action {
                Action::MaskPath(_) if kept.null.is_none() => {
                    kept.null =
                        Some(Cover { mount: clone_of(&format!("{template}{NULL}"))?, attached: Cell::new(false) });
                    kept.void =
                        Some(Cover { mount: clone_of(&format!("{template}{VOID}"))?, attached: Cell::new(false) });
                }
                Action::MoveMount(MoveMount { source: Some(MountSource::Pod(name)), .. }) => {
                    if name.contains('/') || name.is_empty() {
                        return Err(InitFailure::refused("the pod has no mount", name));
                    }
                    kept.pod_mounts.push(clone_of(&format!("{template}/{name}"))?);
                }
                Action::MountFs(plan) if in_user_namespace && matches!(plan.fstype.as_str(), "proc" | "sysfs") => {
                    kept.views.push((plan.target.clone(), new_fs(plan)?));
                }
                _ => {}
            }
        }
        Ok(kept)
    }
}

fn clone_of(path: &str) -> Result<OwnedFd, InitFailure> {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE)
        .step("clone the pod's mount", path)
}

/// Makes the detached mount this process's root, and its namespace's, and drops everything that was there before.
/// Returns the new root (O_PATH).
pub(super) fn enter(mount: impl AsFd, propagation: u64) -> Result<OwnedFd, InitFailure> {
    let attach = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&mount, "", CWD, "/", attach).step("attach the root file system", "")?;
    pivot(&mount)?;
    let root = open_root("/")?;
    spread(&root, propagation)?;
    Ok(root)
}

/// Attaches the detached mount where the root file system is on the host, and goes on seeing the host. What is mounted from
/// here on shows nowhere else. Returns the new root (O_PATH), and clones of what `template` has.
pub(super) fn attach(
    mount: impl AsFd,
    step: &EnterRoot,
    template: &OwnedFd,
    steps: &[PlanStep],
) -> Result<(OwnedFd, Keepsakes), InitFailure> {
    let at = step.at.as_str();
    if !step.foreign_mounts {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).step("make private", "/")?;
    }
    // The only place that is known to be ours to mount on.
    let attach = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(template, "", CWD, at, attach).step("mount on", at)?;
    let kept = Keepsakes::take(at, steps, false);
    unmount(at, UnmountFlags::DETACH).step("unmount", at)?;
    move_mount(&mount, "", CWD, at, attach).step("attach the root file system at", at)?;
    Ok((open_root(at)?, kept?))
}

/// Leaves everything but the root that was attached.
pub(super) fn leave_host(root: &OwnedFd, step: &LeaveHost) -> Result<(), InitFailure> {
    if step.chroot {
        fchdir(root).step("enter the root file system", "")?;
        chroot(".").step("make the root file system the root", "")?;
        chdir("/").step("enter the root file system", "/")?;
    } else {
        pivot(root)?;
    }
    spread(root, step.propagation)
}

fn pivot(mount: impl AsFd) -> Result<(), InitFailure> {
    fchdir(&mount).step("enter the root file system", "")?;
    // The same folder twice: the old root ends up on top of the new one, and is taken away from there (pivot_root(2)).
    pivot_root(".", ".").step("pivot into the root file system", "")?;
    unmount(".", UnmountFlags::DETACH).step("detach the old root", "")?;
    chdir("/").step("enter the root file system", "/")
}

fn open_root(path: &str) -> Result<OwnedFd, InitFailure> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step("open the root file system", path)
}

fn spread(root: &OwnedFd, propagation: u64) -> Result<(), InitFailure> {
    if propagation == 0 {
        return Ok(());
    }
    let recursive = propagation & libc::MS_REC != 0;
    let change = SetAttr { propagation: propagation & !libc::MS_REC, ..SetAttr::default() };
    set_attr(root, change, recursive).step("set the root's propagation", "/")
}
