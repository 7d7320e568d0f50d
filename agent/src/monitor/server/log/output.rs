//! A container's pipe or terminal: read when there is something, and cut into lines.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::lines::{LIMIT, Pieces};
use super::queue::Log;
use super::timestamp::{self, rfc3339};
use crate::sys::scratch::Scratch;

/// What a pipe holds by default.
const READ_CHUNK: usize = 64 * 1024;
/// Room for the lines of a chunk unless they are very short.
const LINES: usize = 128 * 1024;
/// Scratch memory up to this is kept between reads: most containers log a line now and then.
const KEEP: usize = 8 * 1024;

/// "… stdout F " without the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamName {
    Stdout,
    Stderr,
}

/// The monitor's end of a container's output.
#[derive(Debug)]
pub(crate) struct Output {
    fd: OwnedFd,
    name: StreamName,
    /// The beginning of a line.
    pending: Vec<u8>,
}

/// What reading found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There may be more.
    More,
    /// Nothing at the moment.
    Empty,
    /// The end: nobody has the other side open any more.
    End,
}

/// Scratch memory of one monitor, shared by all its streams; given back when it is idle.
#[derive(Debug)]
pub(crate) struct Buffers {
    input: Scratch,
    lines: Scratch,
    used: bool,
}

impl Buffers {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { input: Scratch::new(LIMIT + READ_CHUNK)?, lines: Scratch::new(LINES)?, used: false })
    }

    /// Memory for a packet of the agent.
    pub(crate) fn packet(&mut self) -> &mut [u8] {
        &mut self.input
    }

    /// Memory for what an attached client reads late.
    pub(crate) fn scratch(&mut self) -> &mut [u8] {
        self.used = true;
        &mut self.input
    }

    /// Much of it was used since the last release.
    pub(crate) fn are_used(&self) -> bool {
        self.used
    }

    /// Gives it back.
    pub(crate) fn release(&mut self) {
        self.input.release();
        self.lines.release();
        self.used = false;
    }
}

impl Output {
    /// `fd` is nonblocking.
    pub(crate) fn new(fd: OwnedFd, name: StreamName) -> Self {
        Self { fd, name, pending: Vec::new() }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads one chunk, shows it to `copy` and logs its lines.
    pub(crate) fn read(
        &mut self,
        log: &mut Log,
        buffers: &mut Buffers,
        now_ns: impl Fn() -> i64,
        copy: impl FnOnce(&[u8]),
    ) -> Progress {
        let begun = self.pending.len();
        let place = &mut buffers.input[begun..begun + READ_CHUNK];
        let len = loop {
            match rustix::io::read(&self.fd, &mut *place) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Progress::Empty,
                // EIO is how a terminal says that its other side is closed.
                Ok(0) | Err(_) => return Progress::End,
                Ok(len) => break len,
            }
        };
        buffers.used |= begun + len > KEEP;
        copy(&buffers.input[begun..begun + len]);
        if log.is_wanted() {
            buffers.input[..begun].copy_from_slice(&self.pending);
            let mut pieces = Pieces::new(&buffers.input[..begun + len]);
            let mut writer = Writer::new(log, &mut buffers.lines, self.name, now_ns());
            for piece in pieces.by_ref() {
                writer.line(piece.text, piece.full);
            }
            writer.finish();
            self.pending.clear();
            self.pending.extend_from_slice(pieces.rest());
            if self.pending.capacity() > KEEP && self.pending.len() <= KEEP {
                self.pending.shrink_to(KEEP);
            }
        }
        Progress::More
    }

    /// Logs what broke off without a newline.
    pub(crate) fn finish(&mut self, log: &mut Log, buffers: &mut Buffers, now_ns: i64) {
        if !self.pending.is_empty() {
            let mut writer = Writer::new(log, &mut buffers.lines, self.name, now_ns);
            writer.line(&self.pending, false);
            writer.finish();
            self.pending = Vec::new();
        }
    }
}

/// "<time> stdout F "
const PREFIX: usize = timestamp::LEN + " stdout F ".len();

/// Gathers lines and hands them on together.
struct Writer<'a> {
    log: &'a mut Log,
    lines: &'a mut [u8],
    len: usize,
    prefix: [u8; PREFIX],
}

impl<'a> Writer<'a> {
    fn new(log: &'a mut Log, lines: &'a mut [u8], name: StreamName, now_ns: i64) -> Self {
        let mut prefix = [b' '; PREFIX];
        prefix[..timestamp::LEN].copy_from_slice(&rfc3339(now_ns));
        let name = match name {
            StreamName::Stdout => b"stdout",
            StreamName::Stderr => b"stderr",
        };
        prefix[timestamp::LEN + 1..PREFIX - 3].copy_from_slice(name);
        Self { log, lines, len: 0, prefix }
    }

    fn line(&mut self, text: &[u8], full: bool) {
        let needed = PREFIX + text.len() + 1;
        if self.lines.len() - self.len < needed {
            self.flush();
        }
        self.prefix[PREFIX - 2] = if full { b'F' } else { b'P' };
        let place = &mut self.lines[self.len..self.len + needed];
        place[..PREFIX].copy_from_slice(&self.prefix);
        place[PREFIX..needed - 1].copy_from_slice(text);
        place[needed - 1] = b'\n';
        self.len += needed;
    }

    fn flush(&mut self) {
        if self.len != 0 {
            self.log.push(&self.lines[..self.len]);
            self.len = 0;
        }
    }

    fn finish(mut self) {
        self.flush();
    }
}
