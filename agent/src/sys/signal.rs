//! Signal dispositions and masks.
#![allow(unsafe_code)]

use std::io;

/// Every signal to its default action, whatever was inherited (execve(2) resets handlers only), but for SIGPIPE, which stays
/// ignored: a peer that is gone is an error of the write. Once at a program's start, so that `reset` in each child is short.
pub fn default_but_pipe() {
    for signal in (1..=64).filter(|signal| *signal != libc::SIGPIPE) {
        set_disposition(signal, libc::SIG_DFL);
    }
    set_disposition(libc::SIGPIPE, libc::SIG_IGN);
}

/// Every signal to its default action and none blocked, as a new program expects. The parent has called `default_but_pipe`,
/// and since then ignored no other signal.
///
/// # Errors
/// sigprocmask(2)'s.
pub fn reset() -> io::Result<()> {
    set_disposition(libc::SIGPIPE, libc::SIG_DFL);
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Children are reaped by the kernel, their ends are not told.
pub fn ignore_children() {
    set_disposition(libc::SIGCHLD, libc::SIG_IGN);
}

/// The ends of children are told again.
pub fn notice_children() {
    set_disposition(libc::SIGCHLD, libc::SIG_DFL);
}

/// By the bare system call: the C library refuses the two signals that it keeps to itself, which a parent may have ignored
/// all the same.
fn set_disposition(signal: libc::c_int, disposition: libc::sighandler_t) {
    /// The kernel's `struct sigaction`, for SIG_DFL and SIG_IGN the same everywhere: no flags, no restorer, no mask.
    #[repr(C)]
    struct Action {
        handler: libc::sighandler_t,
        flags: libc::c_ulong,
        restorer: usize,
        mask: u64,
    }
    let action = Action { handler: disposition, flags: 0, restorer: 0, mask: 0 };
    // SAFETY: neither SIG_DFL nor SIG_IGN runs code in this process; the old action is not asked for. It fails for SIGKILL
    // and SIGSTOP, which have their default disposition anyway.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            &raw const action,
            std::ptr::null_mut::<Action>(),
            size_of::<u64>(),
        );
    }
}

/// Sends a signal by its number to those of `processes` that `still_there` goes on listing: by pidfd, since between reading
/// and sending an id may come to mean another process.
pub fn all_of(processes: &[i32], number: i32, still_there: impl Fn() -> Vec<i32>) {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let Some(signal) = Signal::from_named_raw(number).or_else(|| realtime(number)) else { return };
    let open = |pid: &i32| Some((*pid, pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?));
    let opened: Vec<_> = processes.iter().filter_map(open).collect();
    let there = still_there();
    for (_, pidfd) in opened.iter().filter(|(pid, _)| there.contains(pid)) {
        // One that has just ended minds no signal.
        let _ = pidfd_send_signal(pidfd, signal);
    }
}

/// A real-time signal by its number, as the kernel counts (SIGRTMIN is 32 there, 34 for programs using the C library).
pub fn realtime(number: i32) -> Option<rustix::process::Signal> {
    // SAFETY: the C library keeps 32 and 33 to itself for its own threads; those of a container's program are not ours,
    // and sending is not handling.
    (34..=64).contains(&number).then(|| unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}
