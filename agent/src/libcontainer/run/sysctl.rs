//! Kernel settings of the pod's namespaces, written through the spawner's own procfs: which namespace a file of
//! /proc/sys/{net,kernel,fs} speaks of depends on who opens it, not on where procfs was mounted.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::failure::{InitFailure, Step};

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
