//! Terminals. The container's side is made inside it; the other side goes to whoever asked, over their socket, or to this
//! process's own terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::Error;
use crate::sys::fd_passing;

/// Sends a terminal's master side (runc's `--console-socket`).
pub(super) fn send(path: &Path, master: &OwnedFd) -> Result<(), Error> {
    let socket = UnixStream::connect(path).map_err(Error::io("connect to the console socket", path))?;
    fd_passing::send(&socket, b"/dev/ptmx", &[master.as_fd()]).map_err(Error::io("send the terminal to", path))
}

/// This process's terminal while it shows the container's, as it was before.
pub(super) struct Raw(Option<Termios>);

impl Raw {
    /// Hands every key on, if standard input is a terminal.
    pub(super) fn enter(master: &OwnedFd) -> io::Result<Self> {
        if !isatty(stdin()) {
            return Ok(Self(None));
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        resize(master);
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Gives the container's terminal this one's size.
pub(super) fn resize(master: &OwnedFd) {
    if let Ok(size) = tcgetwinsize(stdin()) {
        let _ = tcsetwinsize(master, size);
    }
}

/// What one round of copying found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// Both directions go on.
    None,
    /// Standard input is at its end.
    Input,
    /// Nobody has the container's side open any more.
    Output,
}

/// Copies once what is there, in the direction that `from_container` says.
pub(super) fn copy(master: &OwnedFd, from_container: bool) -> Ends {
    let mut buffer = [0u8; 4096];
    let (read, ended) = if from_container {
        (rustix::io::read(master, &mut buffer), Ends::Output)
    } else {
        (rustix::io::read(stdin(), &mut buffer), Ends::Input)
    };
    match read {
        Ok(0) => ended,
        Ok(len) => {
            let written = if from_container { write(stdout(), &buffer[..len]) } else { write(master, &buffer[..len]) };
            if written.is_ok() { Ends::None } else { ended }
        }
        Err(Errno::INTR | Errno::AGAIN) => Ends::None,
        Err(_) => ended,
    }
}

fn write(fd: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
