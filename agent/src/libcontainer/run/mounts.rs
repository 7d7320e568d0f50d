//! Mounts inside the container. A target is resolved by the kernel inside the root, and covered through its fd: nobody
//! can swap a path between looking and mounting.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fstat, fstatfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, move_mount,
};

use super::failure::{InitFailure, Step};
use crate::libcontainer::plan::{MountFs, SetMountAttr};
use crate::sys::in_root;
use crate::sys::mount::{SetAttr, set_attr};

/// PROC_SUPER_MAGIC.
pub(super) const PROC: i64 = 0x9fa0;

/// Attaches a detached mount.
pub(super) fn attach(root: &OwnedFd, mount: &OwnedFd, target: &str) -> Result<(), InitFailure> {
    let is_dir = FileType::from_raw_mode(fstat(mount).step("look at the source of mount", target)?.st_mode).is_dir();
    let place = if is_dir { in_root::ensure_dir(root, target, 0o755) } else { in_root::ensure_file(root, target) }
        .step("make mount point", target)?;
    // Covering a part of /proc would fool whoever trusts it, the container's own init included; a whole procfs may be
    // mounted where one is.
    if type_of(&place, target)? == PROC && !(is_procfs(mount, target)? && is_procfs(&place, target)?) {
        return Err(InitFailure::refused("nothing but proc may be mounted on", target));
    }
    cover(mount, &place).step("mount on", target)
}

/// Makes a file system of the container's own namespaces and attaches it.
pub(super) fn mount_fs(root: &OwnedFd, plan: &MountFs) -> Result<(), InitFailure> {
    place_fs(root, &new_fs(plan)?, plan)
}

/// Attaches it.
pub(super) fn place_fs(root: &OwnedFd, fs: &OwnedFd, plan: &MountFs) -> Result<(), InitFailure> {
    let MountFs { fstype, target, .. } = plan;
    if matches!(fstype.as_str(), "proc" | "sysfs") {
        refuse_link(root, target)?;
    }
    let place = in_root::ensure_dir(root, target, 0o755).step("make mount point", target)?;
    if fstype != "proc" && type_of(&place, target)? == PROC {
        return Err(InitFailure::refused("nothing but proc may be mounted on", target));
    }
    cover(fs, &place).step("mount on", target)
}

/// CVE-2019-19921, CVE-2023-28642: where an image's own link takes /proc or /sys, a volume may be, and who shares it could
/// change what masks and labels are applied to.
fn refuse_link(root: &OwnedFd, target: &str) -> Result<(), InitFailure> {
    match in_root::open_without_links(root, target, OFlags::PATH) {
        Err(Errno::LOOP) => Err(InitFailure::refused("the image has a symbolic link instead of the folder", target)),
        Err(Errno::NOENT) => Ok(()),
        other => other.step("look at mount point", target).map(drop),
    }
}

/// A detached mount of a new file system.
pub(super) fn new_fs(plan: &MountFs) -> Result<OwnedFd, InitFailure> {
    let MountFs { fstype, target, source, attributes, options, propagation, .. } = plan;
    let name = format!("mount {fstype}");
    let context = fsopen(fstype.as_str(), FsOpenFlags::FSOPEN_CLOEXEC).step(&name, target)?;
    let make = || {
        if !source.is_empty() {
            fsconfig_set_string(&context, "source", source.as_str())?;
        }
        for option in options {
            match option.split_once('=') {
                Some((key, value)) => fsconfig_set_string(&context, key, value)?,
                None => fsconfig_set_flag(&context, option.as_str())?,
            }
        }
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::from_bits_retain(u32::try_from(*attributes).map_err(|_| Errno::INVAL)?);
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    let mount = make().map_err(|errno: Errno| {
        let mut name = name.clone();
        let mut line = [0u8; 256];
        // The file system's own words (fsopen(2)), e.g. "e tmpfs: Bad value for 'size'".
        if let Ok(len) = rustix::io::read(&context, &mut line) {
            let text = String::from_utf8_lossy(&line[..len]);
            name = format!("{name} ({})", text.trim_start_matches("e ").trim_end());
        }
        InitFailure { step: name, path: target.clone(), errno: errno.raw_os_error() }
    })?;
    if *propagation != 0 {
        let change = SetAttr { propagation: *propagation, ..SetAttr::default() };
        set_attr(&mount, change, false).step("set the propagation of mount", target)?;
    }
    Ok(mount)
}

/// Changes the attributes of a mount that is in place.
pub(super) fn set_attributes(root: &OwnedFd, plan: &SetMountAttr) -> Result<(), InitFailure> {
    let place = in_root::open(root, &plan.path, OFlags::PATH).step("find mount", &plan.path)?;
    set_attr(&place, SetAttr { set: plan.set, ..SetAttr::default() }, plan.recursive)
        .step("set attributes of mount", &plan.path)
}

/// Makes the root mount read-only, not what is mounted below it.
pub(super) fn set_root_readonly(root: &OwnedFd) -> Result<(), InitFailure> {
    let readonly = SetAttr { set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()), ..SetAttr::default() };
    set_attr(root, readonly, false).step("make read-only", "/")
}

/// Puts a detached mount on top of what an fd refers to.
pub(super) fn cover(mount: impl AsFd, place: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", flags)
}

/// The file system's magic number.
pub(super) fn type_of(place: impl AsFd, path: &str) -> Result<i64, InitFailure> {
    Ok(fstatfs(place).step("look at the file system of", path)?.f_type)
}

/// The root of a procfs, and nothing else.
pub(super) fn is_procfs(fd: &OwnedFd, path: &str) -> Result<bool, InitFailure> {
    const ROOT_INODE: u64 = 1;
    Ok(type_of(fd, path)? == PROC && fstat(fd).step("look at", path)?.st_ino == ROOT_INODE)
}
