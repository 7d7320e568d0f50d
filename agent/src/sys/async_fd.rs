//! File descriptors in the agent's tokio reactor. Not used by the monitor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a file descriptor that is nonblocking already.
///
/// # Errors
/// epoll_ctl(2)'s.
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open file for as long as it lives, and the `AsyncFd` owns it until it deregisters.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
