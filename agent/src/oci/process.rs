//! Processes by id and start time: an id alone may mean another process by now.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// When a process began, in clock ticks since the host's start; `None`: it is not there, or has ended and waits to be
/// reaped.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc_pid_stat(5): the name in parentheses may hold anything, so that fields count from its end.
fn parse(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    match fields.next()? {
        "Z" | "X" | "x" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// A process that is still the one which began then.
pub(super) fn open(pid: i32, began: u64) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Looked at after opening: what the descriptor refers to does not change any more.
    (start_time(pid) == Some(began)).then_some(pidfd)
}

/// Sends a signal by its number.
pub(super) fn signal(pidfd: impl AsFd, number: i32) -> Result<(), Errno> {
    let signal = Signal::from_named_raw(number).or_else(|| crate::sys::signal::realtime(number)).ok_or(Errno::INVAL)?;
    pidfd_send_signal(pidfd, signal)
}

/// Whether it ended within that time.
pub(super) fn wait_for_end(pidfd: impl AsFd, limit: Duration) -> Result<bool, Errno> {
    let timeout = Timespec::try_from(limit).map_err(|_| Errno::INVAL)?;
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_fool_the_reader() {
        let rest = "1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!(parse(&format!("7 (a) Z 1 (b) S {rest}")), Some(4711));
        assert_eq!(parse(&format!("7 (a) Z {rest}")), None);
        assert_eq!(parse("7 (a"), None);
    }

    #[test]
    fn this_process_is_itself_and_no_other() {
        let pid = rustix::process::getpid().as_raw_pid();
        let began = start_time(pid).unwrap();
        assert!(open(pid, began).is_some());
        assert!(open(pid, began + 1).is_none());
    }
}
