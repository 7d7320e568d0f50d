//! A file system with next to nothing in it: what masks are made of, and, for a monitor, all that it sees.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, chmodat, makedev, mkdirat, mknodat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::failure::{InitFailure, Step};

/// A null device. Its file system is read-only: nobody changes its mode or owner.
pub(crate) const NULL: &str = "/null";
/// An empty folder.
pub(crate) const VOID: &str = "/void";

/// Makes it, detached and read-only, with more empty folders.
pub(crate) fn template(folders: &[&str]) -> Result<OwnedFd, InitFailure> {
    let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let (root, context) = detached("tmpfs", &[("size", "64k"), ("nr_inodes", "16"), ("mode", "755")], nosuid)?;
    for path in folders.iter().copied().chain([VOID]) {
        mkdirat(&root, path.trim_start_matches('/'), Mode::from_raw_mode(0o755)).step("make", path)?;
    }
    // A node of its own: what a container changes about a masked path or its standard input (chmod(2)) must not change the
    // host's /dev/null.
    let (null, mode) = (NULL.trim_start_matches('/'), Mode::from_raw_mode(0o666));
    mknodat(&root, null, FileType::CharacterDevice, mode, makedev(1, 3)).step("make the device", NULL)?;
    // Whatever the umask is.
    chmodat(&root, null, mode, AtFlags::empty()).step("set the mode of", NULL)?;
    // From here on it does not change: what a container gets of it is read-only as a whole, not only as mounted.
    fsconfig_set_flag(&context, "ro").step("make read-only", "/")?;
    fsconfig_reconfigure(&context).step("make read-only", "/")?;
    Ok(root)
}

/// A detached mount of a new file system, and its context.
pub(crate) fn detached(
    fstype: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<(OwnedFd, OwnedFd), InitFailure> {
    let step = format!("mount {fstype}");
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).step(&step, "")?;
    fsconfig_set_string(&context, "source", fstype).step(&step, "")?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value).step(&step, key)?;
    }
    fsconfig_create(&context).step(&step, "")?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).step(&step, "")?;
    Ok((mount, context))
}
