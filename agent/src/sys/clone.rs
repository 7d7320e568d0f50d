//! New processes: clone3(2) with namespaces, cgroup and pidfd, and a vfork-like helper for entering namespaces.
//!
//! Only for the single-threaded monitor: a forked child goes on running ordinary code until it execs.
#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Of clone3 only; libc's constant is cut to 32 bits.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Proof that this process has one thread only, so that a forked child finds every lock free and every invariant whole.
/// Whoever holds it starts no thread.
#[derive(Debug, Clone, Copy)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Counts the threads of this process.
    ///
    /// # Errors
    /// There are others; or /proc is not there to tell.
    pub fn verify() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(())),
            n => Err(io::Error::other(format!("{n} threads where only one may be"))),
        }
    }
}

/// What a new process is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneConfig<'a> {
    /// CLONE_NEW* flags, CLONE_PARENT.
    pub flags: u64,
    /// The cgroup v2 folder it starts in, which costs no attach (floors.md: 130 µs instead of 5 ms after idle).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Who returned from `clone`.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The caller.
    Parent(Child),
}

/// A new process as its maker sees it.
#[derive(Debug)]
pub struct Child {
    /// Its id in the caller's PID namespace.
    pub pid: i32,
    /// Refers to it for good, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Forks as `config` says. The child's memory is a copy.
///
/// # Errors
/// clone3(2)'s.
pub fn clone(_: SingleThreaded, config: CloneConfig<'_>) -> io::Result<Cloned> {
    let mut pidfd: c_int = -1;
    let mut flags = config.flags | libc::CLONE_PIDFD as u64;
    let mut cgroup = 0;
    if let Some(fd) = config.cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = u64::from(fd.as_raw_fd().unsigned_abs());
    }
    // With CLONE_PARENT the kernel takes over the caller's own exit signal and refuses another.
    let exit_signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    let args = libc::clone_args {
        flags,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    // SAFETY: `args` is initialised and its size is passed. Without CLONE_VM the child gets a copy of this memory, stack
    // included, and returns here as fork's would. There is no other thread (`SingleThreaded`), so it may run any code.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel has just made this fd for us (CLONE_PIDFD) and nobody else knows it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent(Child { pid: i32::try_from(pid).unwrap_or(0), pidfd }))
        }
    }
}

/// Stack of a borrower: `job` may clone a child that goes on with the whole of init on it.
const BORROWER_STACK: usize = 256 * 1024;

/// Runs `job` in a process that borrows this one's memory and file descriptors while this one waits: what the job
/// stores stays, but namespaces that it enters are its own. Cheap, since no page table is copied. The borrower is reaped.
///
/// # Errors
/// clone(2)'s or mmap(2)'s.
pub fn in_borrower(_: SingleThreaded, job: &mut dyn FnMut()) -> io::Result<()> {
    extern "C" fn enter(job: *mut libc::c_void) -> c_int {
        // SAFETY: `in_borrower` passes a pointer to its `job`, which outlives this process: it waits (CLONE_VFORK).
        let job = unsafe { &mut *job.cast::<&mut dyn FnMut()>() };
        job();
        0
    }
    let mut job = job;
    let stack = Stack::new(BORROWER_STACK)?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: the stack is fresh, large and aligned; CLONE_VFORK suspends the only thread of this process until the
    // borrower has exited, so that nothing runs beside it and `job` and `stack` outlive it. Signals cannot run code here:
    // the monitor installs no handlers.
    let pid = unsafe { libc::clone(enter, stack.top(), flags, (&raw mut job).cast()) };
    if pid == -1 {
        return Err(io::Error::last_os_error());
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    Ok(())
}

struct Stack {
    base: *mut libc::c_void,
    len: usize,
}

impl Stack {
    fn new(len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at a place the kernel chooses touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { base, len }) }
    }

    fn top(&self) -> *mut libc::c_void {
        self.base.wrapping_byte_add(self.len)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and its only user has exited (see `in_borrower`).
        unsafe { libc::munmap(self.base, self.len) };
    }
}

/// Closes every file descriptor but 0–2 and `kept`, marks these close-on-exec, then runs `rest`, which never returns. For
/// a forked process: its copies are what others must see closed, and what a container must not get hold of.
///
/// # Errors
/// close_range(2)'s.
pub fn close_all_but(kept: &[RawFd], rest: impl FnOnce() -> io::Result<Infallible>) -> io::Result<Infallible> {
    for (first, last) in gaps(kept) {
        // SAFETY: every other `OwnedFd` becomes invalid, but none of them is used or dropped any more: `rest` does not return
        // and has been given `kept` only.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    }
    // SAFETY: no pointer is passed, and no fd is closed.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    rest()
}

/// The ranges between the kept numbers, from 3 on.
fn gaps(kept: &[RawFd]) -> Vec<(u32, u32)> {
    let mut kept: Vec<u32> = kept.iter().filter(|fd| **fd > 2).map(|fd| fd.unsigned_abs()).collect();
    kept.sort_unstable();
    let mut gaps = Vec::with_capacity(kept.len() + 1);
    let mut next = 3;
    for fd in kept {
        if next < fd {
            gaps.push((next, fd - 1));
        }
        next = fd + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every file descriptor. For a process that from here on only waits and never returns to its callers.
///
/// # Errors
/// close_range(2)'s.
pub fn close_all_and_wait_forever() -> io::Result<Infallible> {
    // SAFETY: every `OwnedFd` becomes invalid, but this function never returns once they are closed, so none is used.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    loop {
        // SAFETY: takes no argument.
        unsafe { libc::pause() };
    }
}

/// Ends this process at once: no destructor, no exit handler, nothing flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: it does not return, and what other code would have done afterwards is what the caller wants left out.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn all_but_the_kept_is_in_a_gap() {
        assert_eq!(gaps(&[]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[3, 0, 9, 8]), [(4, 7), (10, u32::MAX)]);
        assert_eq!(gaps(&[5, 5]), [(3, 4), (6, u32::MAX)]);
    }
}
