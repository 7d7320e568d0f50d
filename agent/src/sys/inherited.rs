//! Descriptors that this process was started with beside standard input and output.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes the `count` descriptors from 3 on, once, before the process has opened any of its own.
///
/// # Errors
/// `BadFd` when one of them is not open; `AlreadyExists` the second time.
pub fn take(count: u32) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let last = i32::try_from(count).ok().and_then(|count| count.checked_add(3)).ok_or(io::ErrorKind::InvalidInput)?;
    for number in 3..last {
        // SAFETY: takes numbers only, and changes nothing.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: they are open, and nobody in this process owns them: it inherited them, and this is the only place that takes
    // such ones, once.
    Ok((3..last).map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}
