//! The CRI socket: inherited from the service manager, or made with mode 0600 and moved into place whole, so that a
//! client finds the old one or the new one and never one that others may connect to.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// A socket that clients can connect to from now on.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    /// To remove at the end; none when the service manager owns it.
    path: Option<PathBuf>,
}

/// There is no socket to serve on.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum SocketError {
    #[error("{} is in use: something answers there already", .0.display())]
    Alive(PathBuf),
    #[error("{} is there and is no socket; it is not replaced", .0.display())]
    NoSocket(PathBuf),
    #[error("cannot listen at {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the service manager hands over {0} sockets; exactly one is expected")]
    TooMany(usize),
    #[error("cannot take over the socket of the service manager")]
    Inherit(#[source] io::Error),
}

impl Socket {
    /// The service manager's socket, if it hands one over (sd_listen_fds(3)), else a new one at `path`. To be called
    /// while the process has one thread: the umask is the process's.
    pub(super) fn open(path: &Path) -> Result<Self, SocketError> {
        match inherited()? {
            Some(listener) => Ok(Self { listener, path: None }),
            None => Self::bind(path),
        }
    }

    /// A new socket at `path`, to be called as `open` is.
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        Ok(Self { listener: listen(path)?, path: Some(path.to_owned()) })
    }

    /// Nobody serves it any more.
    pub(super) fn remove(path: Option<&Path>) {
        if let Some(path) = path {
            let _ = std::fs::remove_file(path);
        }
    }

    /// What to give to `remove`.
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.path.clone()
    }
}

fn inherited() -> Result<Option<UnixListener>, SocketError> {
    let mut fds = sd_notify::listen_fds().map_err(SocketError::Inherit)?;
    let (first, count) = (fds.next(), fds.len() + 1);
    match first {
        None => Ok(None),
        Some(_) if count != 1 => Err(SocketError::TooMany(count)),
        // A descriptor by its number is not ours until we have one that we own: the kernel duplicates it (Linux 5.6).
        Some(number) => {
            let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
                .and_then(|myself| rustix::process::pidfd_getfd(myself, number, PidfdGetfdFlags::empty()));
            let listener = UnixListener::from(own.map_err(|errno| SocketError::Inherit(errno.into()))?);
            listener.set_nonblocking(true).map_err(SocketError::Inherit)?;
            Ok(Some(listener))
        }
    }
}

fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Listen { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(SocketError::Alive(path.to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let _ = std::fs::remove_file(&new);
    let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(&new);
    rustix::process::umask(umask);
    let listener = bound.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_only_root_may_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/berth.sock");
        drop(listen(&path).unwrap());
        assert!(path.exists(), "a listener that ends leaves its file");
        let _listener = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_socket_in_use_and_a_file_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("berth.sock");
        let _listener = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(SocketError::Alive(_))));
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(listen(&file), Err(SocketError::NoSocket(_))));
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
    }
}
