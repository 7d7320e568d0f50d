//! The log file, as its writer has it. A full disk must never stop or kill a container: what cannot be written is dropped
//! and counted, no line is left torn, and once writing works again a line tells how much is missing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fstat, ftruncate, openat};
use rustix::io::Errno;

use super::timestamp::rfc3339;

/// Opens (or makes) the file `name` in the folder `dir`, to be appended to. `INVAL` for a name that is a path, `LOOP` when a
/// symbolic link is there.
pub(super) fn open(dir: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    if name.is_empty() || name.contains('/') {
        return Err(Errno::INVAL);
    }
    // NONBLOCK: opening a fifo that somebody put there must not hang.
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::from_raw_mode(0o640))
}

/// An open log file.
#[derive(Debug)]
pub(super) struct Appender<'a> {
    pub(super) file: BorrowedFd<'a>,
    /// Bytes of log lines that could not be written since the last one that could.
    pub(super) dropped: u64,
}

impl Appender<'_> {
    /// Appends whole lines.
    pub(super) fn append(&mut self, lines: &[u8], now_ns: i64) {
        if self.dropped != 0 {
            let marker = [
                rfc3339(now_ns).as_slice(),
                format!(" stderr F [berth: {} bytes of log could not be written here]\n", self.dropped).as_bytes(),
            ]
            .concat();
            if write_whole(self.file, &marker).is_ok() {
                self.dropped = 0;
            }
        }
        if self.dropped != 0 || write_whole(self.file, lines).is_err() {
            self.dropped += lines.len() as u64;
        }
    }
}

/// All or nothing: a part that was written before the failure is taken back.
fn write_whole(file: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(file, rest) {
            Ok(0) => return take_back(file, bytes.len() - rest.len(), Errno::IO),
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return take_back(file, bytes.len() - rest.len(), errno),
        }
    }
    Ok(())
}

fn take_back(file: BorrowedFd<'_>, written: usize, errno: Errno) -> Result<(), Errno> {
    if written != 0
        && let Ok(stat) = fstat(file)
    {
        let size = u64::try_from(stat.st_size).unwrap_or(0).saturating_sub(written as u64);
        // If not even this works, a torn line is all that can be had.
        let _ = ftruncate(file, size);
    }
    Err(errno)
}
