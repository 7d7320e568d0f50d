//! What a monitor waits for: epoll, and what an event is about.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

use crate::libcontainer::run::failure::{InitFailure, Step};

/// What an event is about: a fixed source, or an fd of a container, an exec or an attached client by its serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Source {
    Listener,
    Connection,
    Signals,
    Control,
    Stdout,
    Stderr,
    ExecControl,
    Log,
    ClientStdout,
    ClientStderr,
    ClientSession,
}

impl Source {
    fn token(self, serial: u32) -> EventData {
        EventData::new_u64(u64::from(serial) << 8 | self as u64)
    }

    /// The source and serial number that an event is about.
    pub(super) fn of(data: EventData) -> Option<(Self, u32)> {
        const ALL: [Source; 11] = [
            Source::Listener,
            Source::Connection,
            Source::Signals,
            Source::Control,
            Source::Stdout,
            Source::Stderr,
            Source::ExecControl,
            Source::Log,
            Source::ClientStdout,
            Source::ClientStderr,
            Source::ClientSession,
        ];
        let source = ALL.get((data.u64() & 0xff) as usize)?;
        Some((*source, (data.u64() >> 8) as u32))
    }
}

/// epoll(7), level-triggered. A pipe whose other side is gone is told of with any flags, also with none.
#[derive(Debug)]
pub(super) struct Epoll(OwnedFd);

impl Epoll {
    pub(super) fn new() -> Result<Self, InitFailure> {
        epoll::create(CreateFlags::CLOEXEC).step("open epoll", "").map(Self)
    }

    pub(super) fn watch(
        &self,
        fd: BorrowedFd<'_>,
        source: Source,
        serial: u32,
        flags: EventFlags,
    ) -> Result<(), InitFailure> {
        epoll::add(&self.0, fd, source.token(serial), flags).step("watch a file descriptor", "")
    }

    pub(super) fn change(
        &self,
        fd: BorrowedFd<'_>,
        source: Source,
        serial: u32,
        flags: EventFlags,
    ) -> Result<(), InitFailure> {
        epoll::modify(&self.0, fd, source.token(serial), flags).step("watch a file descriptor", "")
    }

    /// Before an fd is closed: an init that is still being set up may hold a copy, and epoll would go on telling.
    pub(super) fn unwatch(&self, fd: impl AsFd) {
        // An fd that is not watched is as good.
        let _ = epoll::delete(&self.0, fd);
    }

    /// `None` waits for ever.
    pub(super) fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> Result<(), InitFailure> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(&self.0, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno).step("wait for events", ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_what_was_watched() {
        for source in [Source::Listener, Source::ExecControl, Source::ClientSession] {
            assert_eq!(Source::of(source.token(u32::MAX)), Some((source, u32::MAX)));
        }
        assert_eq!(Source::of(EventData::new_u64(Source::ClientSession as u64 + 1)), None);
    }
}
