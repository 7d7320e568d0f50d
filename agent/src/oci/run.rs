//! The verb `run`, and waiting for a process that is this one's child.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::stdio::stdin;

use super::console::{self, Ends, Raw};
use super::create::CreateOptions;
use super::{Error, Runtime, process};

impl Runtime {
    /// Creates and starts a container. Unless it is to be left alone, waits for its end, deletes it, and tells its exit code.
    ///
    /// # Errors
    /// As `create` and `start`; nothing stays then.
    pub fn run(&self, options: &CreateOptions, detach: bool) -> Result<i32, Error> {
        if detach {
            self.create(options)?;
            return self.start(&options.id).map(|()| 0).inspect_err(|_| drop(self.delete(&options.id, true)));
        }
        let created = self.create_here(options)?;
        let signals = Signals::take()?;
        let ended = self.start(&options.id).and_then(|()| wait(&created.pidfd, created.terminal.as_ref(), &signals));
        let deleted = self.delete(&options.id, true);
        ended.and_then(|code| deleted.map(|()| code))
    }
}

/// Signals to this process, which are the container's.
pub(super) struct Signals(SignalFd);

impl Signals {
    pub(super) fn take() -> Result<Self, Error> {
        let failed = || Error::io("take", "this process's signals");
        let all = SigSet::all();
        all.thread_block().map_err(failed())?;
        Ok(Self(SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed())?))
    }

    /// Hands them on. A change of this terminal's size is one of the container's, and the ends of children are no signals
    /// for it.
    fn forward(&self, pidfd: &OwnedFd, terminal: Option<&OwnedFd>) {
        while let Ok(Some(signal)) = self.0.read_signal() {
            match (signal.ssi_signo.cast_signed(), terminal) {
                (libc::SIGCHLD, _) => {}
                (libc::SIGWINCH, Some(master)) => console::resize(master),
                (number, _) => drop(process::signal(pidfd, number)),
            }
        }
    }
}

/// Waits for the end of a child, and copies its terminal meanwhile. Its exit code; 128 and the signal that ended it.
pub(super) fn wait(pidfd: &OwnedFd, terminal: Option<&OwnedFd>, signals: &Signals) -> Result<i32, Error> {
    let failed = |source: io::Error| Error::Io { op: "wait for", path: "the container's process".into(), source };
    let _raw = terminal.map(Raw::enter).transpose().map_err(failed)?;
    let (mut input, mut output) = (terminal.is_some(), terminal.is_some());
    loop {
        let mut ready = vec![PollFd::new(&signals.0, PollFlags::IN), PollFd::new(pidfd, PollFlags::IN)];
        let watched = if input { PollFlags::IN } else { PollFlags::empty() };
        let own_input = stdin();
        if let Some(master) = terminal {
            ready.push(PollFd::new(master, if output { PollFlags::IN } else { PollFlags::empty() }));
            ready.push(PollFd::new(&own_input, watched));
        }
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        let is_ready = |at: usize| ready.get(at).is_some_and(|fd| !fd.revents().is_empty());
        signals.forward(pidfd, terminal);
        if let Some(master) = terminal {
            if output && is_ready(2) {
                output = console::copy(master, true) != Ends::Output;
                // What it said last is copied before its end is looked at.
                continue;
            }
            if input && is_ready(3) {
                input = console::copy(master, false) != Ends::Input;
            }
        }
        if is_ready(1) {
            return exit_code(pidfd);
        }
    }
}

/// Reaps a child; its exit code.
pub(super) fn exit_code(pidfd: &OwnedFd) -> Result<i32, Error> {
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    let status = status.map_err(Error::io("reap", "the container's process"))?;
    Ok(status
        .and_then(|status| {
            status
                .exit_status()
                .map(i32::try_from)
                .and_then(Result::ok)
                .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        })
        .unwrap_or(255))
}
