//! Masked and read-only paths, by fd.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, fstat, major, minor};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::failure::{InitFailure, Step};
use super::mounts::{PROC, cover, type_of};
use super::root::Keepsakes;
use crate::sys::in_root;
use crate::sys::mount::{SetAttr, set_attr};

/// Covers a path so that nothing can be read from it: a folder with an empty one, anything else with /dev/null.
pub(super) fn mask(root: &OwnedFd, kept: &Keepsakes, path: &str) -> Result<(), InitFailure> {
    let Some(place) = existing(root, path)? else { return Ok(()) };
    check_proc(&place, path)?;
    let (Some(null), Some(void)) = (&kept.null, &kept.void) else {
        return Err(InitFailure::refused("nothing to mask with", path));
    };
    let is_dir = FileType::from_raw_mode(fstat(&place).step("look at", path)?.st_mode).is_dir();
    let source = if is_dir { void } else { null };
    if !is_dir {
        check_null(&null.mount, path)?;
    }
    if source.attached.replace(true) {
        cover(clone_mount(&source.mount, false).step("mask", path)?, place).step("mask", path)
    } else {
        cover(&source.mount, place).step("mask", path)
    }
}

/// Makes a path read-only with everything below it.
pub(super) fn readonly(root: &OwnedFd, path: &str) -> Result<(), InitFailure> {
    let Some(place) = existing(root, path)? else { return Ok(()) };
    check_proc(&place, path)?;
    let clone = clone_mount(&place, true).step("make read-only", path)?;
    let change = SetAttr { set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()), ..SetAttr::default() };
    set_attr(&clone, change, true).step("make read-only", path)?;
    cover(clone, place).step("make read-only", path)
}

fn existing(root: &OwnedFd, path: &str) -> Result<Option<OwnedFd>, InitFailure> {
    match in_root::open(root, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        other => other.map(Some).step("find", path),
    }
}

fn clone_mount(place: &OwnedFd, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(place, "", flags)
}

/// What is to protect a part of /proc has to cover /proc and not something that an image or a volume put in its place.
fn check_proc(place: &OwnedFd, path: &str) -> Result<(), InitFailure> {
    if path.starts_with("/proc/") && type_of(place, path)? != PROC {
        return Err(InitFailure::refused("what is to be protected is not in proc:", path));
    }
    Ok(())
}

/// CVE-2025-31133: what masks has to be the null device itself.
fn check_null(null: &OwnedFd, path: &str) -> Result<(), InitFailure> {
    let stat = fstat(null).step("look at the null device for", path)?;
    let is_device = FileType::from_raw_mode(stat.st_mode).is_char_device();
    if is_device && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3) {
        Ok(())
    } else {
        Err(InitFailure::refused("no null device to mask with", path))
    }
}
