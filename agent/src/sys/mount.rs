//! Mount calls that rustix lacks; the rest of the mount API is used from rustix directly.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// MS_SHARED: a peer group.
pub const SHARED: u64 = libc::MS_SHARED;
/// MS_SLAVE: receives only.
pub const SLAVE: u64 = libc::MS_SLAVE;
/// MS_PRIVATE: nothing crosses.
pub const PRIVATE: u64 = libc::MS_PRIVATE;
/// MS_UNBINDABLE: private, and not to be cloned.
pub const UNBINDABLE: u64 = libc::MS_UNBINDABLE;

/// A change of a mount's attributes: the kernel's `struct mount_attr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// MOUNT_ATTR_* bits to set.
    pub set: u64,
    /// MOUNT_ATTR_* bits to clear, before setting.
    pub clear: u64,
    /// `SHARED`, `SLAVE`, `PRIVATE` or `UNBINDABLE`; 0 leaves the propagation as it is.
    pub propagation: u64,
}

/// mount_setattr(2) on the mount of an fd, which is its root.
///
/// # Errors
/// mount_setattr(2)'s.
pub fn set_attr(mount: impl AsFd, change: SetAttr, recursive: bool) -> io::Result<()> {
    let SetAttr { set, mut clear, propagation } = change;
    // An atime mode is a value, not a bit: the kernel wants the whole mask cleared when one is set.
    if set & ATIME_MODES != 0 {
        clear |= ATIME_MODES;
    }
    setattr(mount, libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 }, recursive)
}

/// Shows the owners of a detached mount's files as the same ids in that user namespace.
///
/// # Errors
/// mount_setattr(2)'s: `EINVAL` when the file system cannot do that, `EPERM` when the mount is mapped already.
pub fn set_idmap(mount: impl AsFd, user_namespace: impl AsFd) -> io::Result<()> {
    let fd = u64::from(user_namespace.as_fd().as_raw_fd().unsigned_abs());
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd: fd };
    setattr(mount, attr, false)
}

fn setattr(mount: impl AsFd, attr: libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a nul-terminated empty string, `attr` is initialised and its size is passed; the kernel keeps
    // neither pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// MOUNT_ATTR__ATIME.
const ATIME_MODES: u64 = 0x70;
