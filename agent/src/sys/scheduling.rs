//! How a process is scheduled: sched_setattr(2), ioprio_set(2), personality(2).
#![allow(unsafe_code)]

use std::io;

/// The kernel's `struct sched_attr`, but for what is set by other means.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    /// SCHED_*.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// For SCHED_DEADLINE, ns.
    pub runtime: u64,
    /// For SCHED_DEADLINE, ns.
    pub deadline: u64,
    /// For SCHED_DEADLINE, ns.
    pub period: u64,
}

/// Sets this thread's scheduler.
///
/// # Errors
/// sched_setattr(2)'s.
pub fn set_scheduler(attributes: Attributes) -> io::Result<()> {
    /// SCHED_ATTR_SIZE_VER0.
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let Attributes { policy, flags, nice, priority, runtime, deadline, period } = attributes;
    let size = size_of::<SchedAttr>() as u32;
    let attr = SchedAttr { size, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: `attr` is initialised and says its own size; the kernel copies it. Thread 0 is this one.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })
}

/// Sets this thread's I/O priority: the class in the bits from 13 on, the level below.
///
/// # Errors
/// ioprio_set(2)'s.
pub fn set_io_priority(priority: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: takes numbers only; process 0 is this thread.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) })
}

/// Sets this process's execution domain.
///
/// # Errors
/// personality(2)'s.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: takes a number only.
    check(libc::c_long::from(unsafe { libc::personality(libc::c_ulong::from(domain)) }))
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
