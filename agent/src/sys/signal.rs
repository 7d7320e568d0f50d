//! Signal dispositions and masks.
#![allow(unsafe_code)]

use std::io;

/// Every signal to its default action and none blocked: what a new program expects (execve(2) resets handlers only).
///
/// # Errors
/// sigprocmask(2)'s.
pub fn reset() -> io::Result<()> {
    for signal in 1..=64 {
        set_disposition(signal, libc::SIG_DFL);
    }
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

fn set_disposition(signal: libc::c_int, disposition: libc::sighandler_t) {
    // SAFETY: neither SIG_DFL nor SIG_IGN runs code in this process. It fails for SIGKILL, SIGSTOP and the two that libc
    // keeps to itself, which have their default disposition anyway.
    unsafe { libc::signal(signal, disposition) };
}

/// A real-time signal by its number, as the kernel counts (SIGRTMIN is 32 there, 34 for programs using the C library).
pub fn realtime(number: i32) -> Option<rustix::process::Signal> {
    // SAFETY: the C library keeps 32 and 33 to itself for its own threads; those of a container's program are not ours,
    // and sending is not handling.
    (34..=64).contains(&number).then(|| unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}
