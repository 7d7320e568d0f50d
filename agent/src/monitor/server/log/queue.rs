//! Log lines on their way to the file: those that a writer has, and those that wait for it. While both are there no more
//! output is read, so that the container waits for its log as it would for the disk.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::writer::{Fork, PACKET, Said, Target, Writer};
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::monitor::server::events::{Epoll, Source};

/// How long a writer is kept that has nothing to write.
const IDLE: Duration = Duration::from_secs(1);
/// Memory up to this is kept between lines.
const KEEP: usize = 8 * 1024;

/// A container's log; the default one is not wanted and drops everything.
#[derive(Debug, Default)]
pub(crate) struct Log {
    wanted: bool,
    file: Option<OwnedFd>,
    writer: Option<Writer>,
    lines: Vec<u8>,
    /// So many of the first bytes of `lines` are with the writer.
    in_hand: usize,
    /// Bytes that could not be written, and of which the file does not tell yet.
    dropped: u64,
    /// When the writer is sent away if it gets nothing to write.
    idle: Option<Instant>,
    opener: Option<Opener>,
}

/// A writer that opens another file, to which the log changes as soon as the one before has what is on its way.
#[derive(Debug)]
struct Opener {
    writer: Writer,
    name: String,
    file: Option<OwnedFd>,
}

/// What starting and watching a writer takes; the serial is the container's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'a> {
    pub(crate) fork: Fork<'a>,
    pub(crate) epoll: &'a Epoll,
    pub(crate) serial: u32,
}

impl Start<'_> {
    fn writer(self, target: Target<'_>) -> Result<Writer, InitFailure> {
        let writer = Writer::start(self.fork, target)?;
        self.epoll.watch(writer.fd(), Source::Log, self.serial, EventFlags::IN)?;
        Ok(writer)
    }
}

impl Log {
    /// Has the file `name` in `dir` opened, which `hear` tells of; what is written before goes to the one before.
    ///
    /// # Errors
    /// No process can be made.
    pub(crate) fn open(&mut self, start: Start<'_>, dir: BorrowedFd<'_>, name: &str) -> Result<(), InitFailure> {
        let writer = start.writer(Target::Named(dir, name))?;
        self.opener = Some(Opener { writer, name: name.to_owned(), file: None });
        self.wanted = true;
        Ok(())
    }

    /// A file is being opened.
    pub(crate) fn is_opening(&self) -> bool {
        self.opener.is_some()
    }

    /// Whether lines are wanted at all.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// No more output should be read.
    pub(crate) fn is_full(&self) -> bool {
        self.lines.len() > self.in_hand && (self.in_hand != 0 || self.file.is_none())
    }

    /// All of it is in the file.
    pub(crate) fn is_settled(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whole lines.
    pub(super) fn push(&mut self, lines: &[u8]) {
        self.lines.extend_from_slice(lines);
    }

    /// Gives the writer what waits, unless it has not written the last lines yet.
    pub(crate) fn hand_over(&mut self, start: Start<'_>) {
        while self.in_hand == 0 && !self.lines.is_empty() {
            let Some(file) = &self.file else { return };
            let writer = match self.writer.take() {
                Some(writer) => Ok(writer),
                None => start.writer(Target::Open(std::os::fd::AsFd::as_fd(file), self.dropped)),
            };
            let len = whole_lines(&self.lines);
            match writer {
                Ok(writer) if writer.hand_over(&self.lines[..len]).is_ok() => {
                    (self.writer, self.in_hand, self.idle) = (Some(writer), len, None);
                }
                // It died, or there is no room for it: as on a full disk, no container waits for that.
                Ok(writer) => {
                    start.epoll.unwatch(writer.fd());
                    self.lose(len);
                }
                Err(_) => self.lose(len),
            }
        }
    }

    /// A writer says something. Gives how the opening of a file ended, once it has.
    pub(crate) fn hear(&mut self, start: Start<'_>) -> Option<Result<(), InitFailure>> {
        match self.writer.as_ref().map_or(Said::Nothing, Writer::hear) {
            Said::Written(dropped) => {
                self.dropped = dropped;
                self.take_off(self.in_hand);
                self.idle = Some(Instant::now() + IDLE);
            }
            Said::Nothing => {}
            Said::Gone | Said::Opened(_) | Said::Refused(_) => {
                self.dismiss(start.epoll);
                self.lose(self.in_hand);
            }
        }
        let opener = self.opener.as_mut()?;
        let refused = match opener.writer.hear() {
            Said::Opened(file) => {
                opener.file = Some(file);
                None
            }
            Said::Nothing => None,
            Said::Refused(errno) => Some(Err(errno).step("open the log", &opener.name)),
            Said::Gone | Said::Written(_) => Some(Err(InitFailure::refused("the log's writer died", &opener.name))),
        };
        if refused.is_some() {
            start.epoll.unwatch(opener.writer.fd());
            self.opener = None;
            return refused;
        }
        if self.in_hand != 0 || opener.file.is_none() {
            return None;
        }
        let opener = self.opener.take()?;
        self.dismiss(start.epoll);
        (self.file, self.writer) = (opener.file, Some(opener.writer));
        if self.dropped != 0 {
            // It does not know what is missing: the next one will.
            self.dismiss(start.epoll);
        }
        self.idle = Some(Instant::now() + IDLE);
        Some(Ok(()))
    }

    /// When the writer has been idle for long enough.
    pub(crate) fn idle_deadline(&self) -> Option<Instant> {
        self.idle
    }

    /// Sends it away if that has come.
    pub(crate) fn keep_deadline(&mut self, now: Instant, epoll: &Epoll) {
        if self.idle.is_some_and(|idle| idle <= now) {
            self.dismiss(epoll);
        }
    }

    /// Before it is dropped: what a writer has in hand it still writes.
    pub(crate) fn end(&mut self, epoll: &Epoll) {
        self.dismiss(epoll);
        if let Some(opener) = self.opener.take() {
            epoll.unwatch(opener.writer.fd());
        }
        *self = Self::default();
    }

    fn dismiss(&mut self, epoll: &Epoll) {
        self.idle = None;
        if let Some(writer) = self.writer.take() {
            epoll.unwatch(writer.fd());
        }
    }

    fn lose(&mut self, len: usize) {
        self.dropped += len as u64;
        self.take_off(len);
    }

    fn take_off(&mut self, len: usize) {
        self.lines.drain(..len);
        self.in_hand = 0;
        if self.lines.is_empty() && self.lines.capacity() > KEEP {
            self.lines = Vec::new();
        }
    }
}

/// How much of it fits into a packet: whole lines, each of which is much shorter than that.
fn whole_lines(lines: &[u8]) -> usize {
    if lines.len() <= PACKET {
        return lines.len();
    }
    lines[..PACKET].iter().rposition(|byte| *byte == b'\n').map_or(PACKET, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_end_with_a_line() {
        assert_eq!(whole_lines(b"a\nb\n"), 4);
        let line = [vec![b'x'; 999], vec![b'\n']].concat();
        assert_eq!(whole_lines(&line.repeat(100)), 65_000);
        assert_eq!(whole_lines(&line.repeat(65)), 65_000);
    }
}
