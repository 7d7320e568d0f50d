//! The process that opens and writes one container's log. A disk may hang for minutes (a dead file server, a frozen file
//! system), and nothing wakes who writes to it; the monitor has one thread, and its pod is not to hang with it (decision
//! 024). It is there while there is something to write.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::file::{self, Appender};
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::monitor::server::monitor::now_ns;
use crate::sys::clone::{CloneConfig, Cloned, SingleThreaded, clone, close_all_but, exit_now};
use crate::sys::{fd_passing, unix_socket};

/// The most that is handed over at once. Larger packets take memory that the kernel may not find in one piece.
pub(super) const PACKET: usize = 64 * 1024;

const OPENED: u8 = b'O';
const REFUSED: u8 = b'R';
const WRITTEN: u8 = b'W';
/// The longest word: which, and a number.
const WORD: usize = 9;

/// What starting one takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fork<'a> {
    pub(crate) threads: SingleThreaded,
    /// The host's network namespace, if the monitor is in another: a writer that hangs must not keep the pod's alive.
    pub(crate) network: Option<BorrowedFd<'a>>,
}

/// What it writes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    /// A file to be opened: its folder and name.
    Named(BorrowedFd<'a>, &'a str),
    /// An open file, and how many bytes are missing at its end.
    Open(BorrowedFd<'a>, u64),
}

/// The monitor's end.
#[derive(Debug)]
pub(super) struct Writer(OwnedFd);

/// What it says.
#[derive(Debug)]
pub(super) enum Said {
    Nothing,
    /// The file is there.
    Opened(OwnedFd),
    /// It cannot be opened; the process ends.
    Refused(Errno),
    /// What it had is in the file, but for so many bytes.
    Written(u64),
    /// It is dead.
    Gone,
}

impl Writer {
    pub(super) fn start(fork: Fork<'_>, target: Target<'_>) -> Result<Self, InitFailure> {
        let (ours, theirs) = unix_socket::pair().step("make the log writer's socket", "")?;
        match clone(fork.threads, CloneConfig::default()).step("fork the log's writer", "")? {
            Cloned::Parent(_) => Ok(Self(ours)),
            Cloned::Child => become_writer(fork, &theirs, target),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Hands over at most `PACKET` bytes of whole lines; only when the last ones are written.
    pub(super) fn hand_over(&self, lines: &[u8]) -> io::Result<()> {
        fd_passing::send(&self.0, lines, &[])
    }

    pub(super) fn hear(&self) -> Said {
        let mut word = [0u8; WORD];
        match fd_passing::receive(&self.0, &mut word) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Said::Nothing,
            Ok((WORD, fds)) => {
                let [which, number @ ..] = word;
                let number = u64::from_le_bytes(number);
                match (which, fds.into_iter().next()) {
                    (OPENED, Some(file)) => Said::Opened(file),
                    (REFUSED, None) => Said::Refused(Errno::from_raw_os_error(i32::try_from(number).unwrap_or(0))),
                    (WRITTEN, None) => Said::Written(number),
                    // Out of file descriptors, so that what it opened is lost.
                    _ => Said::Gone,
                }
            }
            Ok(_) | Err(_) => Said::Gone,
        }
    }
}

/// The forked process's whole life.
fn become_writer(fork: Fork<'_>, socket: &OwnedFd, target: Target<'_>) -> ! {
    // Otherwise it is taken for a monitor by whoever looks.
    let _ = rustix::thread::set_name(c"berth-log");
    if let Some(network) = fork.network
        && setns(network, CloneFlags::CLONE_NEWNET).is_err()
    {
        exit_now(1);
    }
    let (Target::Named(fd, _) | Target::Open(fd, _)) = target;
    let _ = close_all_but(&[socket.as_raw_fd(), fd.as_raw_fd()], || {
        write_all(socket, target);
        exit_now(0)
    });
    exit_now(1)
}

/// Until the monitor closes its end. One that is dead is no reason to stop: what was handed over is written.
fn write_all(socket: &OwnedFd, target: Target<'_>) {
    let say = |which: u8, number: u64, fd: Option<BorrowedFd<'_>>| {
        let mut word = [which; WORD];
        word[1..].copy_from_slice(&number.to_le_bytes());
        let _ = fd_passing::send(socket, &word, fd.as_slice());
    };
    let opened;
    let mut log = match target {
        Target::Open(file, dropped) => Appender { file, dropped },
        Target::Named(dir, name) => match file::open(dir, name) {
            Ok(file) => {
                say(OPENED, 0, Some(file.as_fd()));
                opened = file;
                Appender { file: opened.as_fd(), dropped: 0 }
            }
            Err(errno) => return say(REFUSED, u64::from(errno.raw_os_error().unsigned_abs()), None),
        },
    };
    let mut lines = vec![0; PACKET];
    loop {
        match recv(socket, &mut lines[..], RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            Ok((0, _)) | Err(_) => return,
            Ok((len, _)) => {
                log.append(&lines[..len], now_ns());
                say(WRITTEN, log.dropped, None);
            }
        }
    }
}
