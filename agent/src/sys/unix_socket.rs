//! SEQPACKET sockets at paths of any length.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, openat, unlinkat};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect as connect_to,
    listen as listen_at, socket_with, socketpair,
};

/// A connected pair, close-on-exec.
///
/// # Errors
/// Out of file descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A listening socket at `path`, mode 0600; a stale one there is replaced.
///
/// # Errors
/// The folder does not exist, or is full.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = new()?;
    // The mode of the inode that bind makes is that of the socket's own.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let (dir, address) = short_address(path)?;
    if let Some(name) = path.file_name() {
        match unlinkat(&dir, name, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => {}
            other => other?,
        }
    }
    bind(&socket, &address)?;
    listen_at(&socket, 4)?;
    Ok(socket)
}

/// Connects to a listening socket.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when nobody listens.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = new()?;
    let (_dir, address) = short_address(path)?;
    connect_to(&socket, &address)?;
    Ok(socket)
}

/// Whether somebody listens at `path`. Who does sees a connection that closes at once.
pub fn is_listened_to(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None) else { return false };
    let Ok((_dir, address)) = short_address(path) else { return false };
    // A listener that is busy has no room for one more.
    matches!(connect_to(&socket, &address), Ok(()) | Err(rustix::io::Errno::AGAIN))
}

/// Accepts a connection, if one waits, from a process of the superuser; others are closed.
///
/// # Errors
/// accept(2)'s; `WouldBlock` when none waits.
pub fn accept_root(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let socket = accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    Ok(socket_peercred(&socket)?.uid.is_root().then_some(socket))
}

fn new() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// An address has room for 107 bytes only, a path may be longer: go through the folder's fd.
fn short_address(path: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a socket"));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let dir = openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let address = SocketAddrUnix::new(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))?;
    Ok((dir, address))
}
