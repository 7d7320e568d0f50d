//! A process that only waits: systemd makes no scope without one, and the container's init comes after the scope. It ends
//! with the other end of its pipe, which only the agent has, so that it outlives neither its use nor the agent.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use crate::sys::clone::{close_all_but, exit_now};

/// The forked process's whole life.
pub(super) fn wait(fds: Vec<OwnedFd>, pipe: u32) -> ! {
    // Otherwise it is taken for a monitor by whoever looks.
    let _ = rustix::thread::set_name(c"berth-scope");
    if let Some(pipe) = fds.into_iter().nth(pipe as usize) {
        let _ = close_all_but(&[pipe.as_raw_fd()], || {
            let mut byte = [0u8];
            while matches!(rustix::io::read(&pipe, &mut byte), Ok(1..) | Err(Errno::INTR)) {}
            exit_now(0)
        });
    }
    exit_now(1)
}
