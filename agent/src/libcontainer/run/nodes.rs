//! Folders, links and device nodes inside the container.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, makedev, mknodat, symlinkat};
use rustix::io::Errno;

use super::failure::{InitFailure, Step};
use crate::libcontainer::plan::{MakeDir, MakeNode, Symlink};
use crate::sys::in_root;

/// mknod(2); what exists already stays.
pub(super) fn make_node(root: &OwnedFd, plan: &MakeNode) -> Result<(), InitFailure> {
    let path = plan.path.as_str();
    let (parent, name) = in_root::ensure_parent(root, path).step("make the folder of device", path)?;
    let kind = FileType::from_raw_mode(plan.mode);
    let mode = Mode::from_raw_mode(plan.mode);
    // The mode is exact: init's umask is 0.
    match mknodat(&parent, name, kind, mode, makedev(plan.major, plan.minor)) {
        Err(Errno::EXIST) => return Ok(()),
        other => other.step("make device", path)?,
    }
    if (plan.uid, plan.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
        chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .step("set the owner of device", path)?;
    }
    Ok(())
}

/// symlink(2); what exists already stays.
pub(super) fn symlink(root: &OwnedFd, plan: &Symlink) -> Result<(), InitFailure> {
    let path = plan.path.as_str();
    let (parent, name) = in_root::ensure_parent(root, path).step("make the folder of link", path)?;
    match symlinkat(plan.points_to.as_str(), &parent, name) {
        Err(Errno::EXIST) => Ok(()),
        other => other.step("make link", path),
    }
}

/// A folder and its missing parents.
pub(super) fn make_dir(root: &OwnedFd, plan: &MakeDir) -> Result<(), InitFailure> {
    in_root::ensure_dir(root, &plan.path, plan.mode).step("make folder", &plan.path).map(drop)
}
