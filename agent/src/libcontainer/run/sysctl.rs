//! Kernel settings of the pod's namespaces, written by the monitor through the spawner's own procfs, and by a container's init
//! through the container's: which namespace a file of /proc/sys/{net,kernel,fs} speaks of depends on who opens it, not on
//! where procfs was mounted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::failure::{InitFailure, Step};
use super::mounts::is_procfs;
use crate::sys::in_root;

/// Writes one setting.
///
/// # Errors
/// The key does not exist, or the kernel refuses the value.
pub fn write(procfs: BorrowedFd<'_>, key: &str, value: &str) -> Result<(), InitFailure> {
    let path = format!("sys/{}", path_of(key));
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file =
        openat2(procfs, path.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve).step("sysctl", key)?;
    rustix::io::write(&file, value.as_bytes()).step("sysctl", key)?;
    Ok(())
}

/// Writes one setting through the procfs that the container has at /proc by now (CVE-2025-52881: nothing else, and nothing
/// that is mounted on a part of it).
pub(super) fn write_in(root: &OwnedFd, key: &str, value: &str) -> Result<(), InitFailure> {
    const PROC: &str = "/proc";
    let procfs = in_root::open_without_links(root, PROC, OFlags::PATH | OFlags::DIRECTORY).step("open", PROC)?;
    if !is_procfs(&procfs, PROC)? {
        return Err(InitFailure::refused(&format!("there is no procfs to set {key} by at"), PROC));
    }
    write(procfs.as_fd(), key, value)
}

/// As sysctl(8) reads keys: the first separator tells which of `.` and `/` separates; the other stands for itself
/// swapped (`net.ipv4.conf.eth0/1.forwarding` is of the interface `eth0.1`).
fn path_of(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn dots_and_slashes_separate() {
        assert_eq!(path_of("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path_of("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path_of("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }
}
