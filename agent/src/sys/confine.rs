//! What a process gives up for good: capabilities (capabilities(7)), new privileges, system calls (seccomp(2)).
#![allow(unsafe_code)]

use std::ffi::{c_int, c_ulong};
use std::io;

/// CAP_SYS_ADMIN as a bit.
pub const CAP_SYS_ADMIN: u64 = 1 << 21;

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// This thread's permitted capabilities as bits.
///
/// # Errors
/// capget(2)'s.
pub fn permitted() -> io::Result<u64> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 writes two `CapData`, and both places are valid.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Sets this thread's sets.
///
/// # Errors
/// capset(2)'s; `EPERM` for a capability that is not held.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two `CapData`, and both places are valid.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })
}

/// Drops from the bounding set whatever is not in `keep`.
///
/// # Errors
/// prctl(2)'s.
pub fn limit_bounding_set(keep: u64) -> io::Result<()> {
    for capability in (0..64u32).filter(|capability| keep >> capability & 1 == 0) {
        match prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability), 0) {
            Ok(_) => {}
            // A number that this kernel does not know: all following are unknown, too.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Raises each of `set` into the ambient set; all have to be permitted and inheritable.
///
/// # Errors
/// prctl(2)'s.
pub fn raise_ambient(set: u64) -> io::Result<()> {
    for capability in (0..64u32).filter(|capability| set >> capability & 1 == 1) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as c_ulong, c_ulong::from(capability))?;
    }
    Ok(())
}

/// Keeps the permitted set over the change to another user.
///
/// # Errors
/// prctl(2)'s.
pub fn keep_capabilities() -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0).map(drop)
}

/// No execve gives this process more than it has.
///
/// # Errors
/// prctl(2)'s.
pub fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Loads a filter: an array of `struct sock_filter` in memory order.
///
/// # Errors
/// seccomp(2)'s; `InvalidInput` when it is no whole number of instructions.
pub fn load_seccomp(program: &[u8], flags: u32) -> io::Result<()> {
    let (chunks, rest) = program.as_chunks::<8>();
    let Ok(len) = u16::try_from(chunks.len()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    if !rest.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // A copy, since bytes off the wire are not aligned for the struct.
    let mut filter: Vec<libc::sock_filter> = chunks
        .iter()
        .map(|chunk| libc::sock_filter {
            code: u16::from_ne_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        })
        .collect();
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: `program` points to `len` instructions that live until the call returns; the kernel copies and checks them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) })
}

fn prctl(option: c_int, second: c_ulong, third: c_ulong) -> io::Result<c_int> {
    let zero: c_ulong = 0;
    // SAFETY: every option used in this file takes numbers only.
    match unsafe { libc::prctl(option, second, third, zero, zero) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// setrlimit(2) with a raw resource number.
///
/// # Errors
/// `EPERM` when the hard limit would be raised without CAP_SYS_RESOURCE, `EINVAL` for an unknown resource.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: reads one `rlimit64`; process id 0 is this process and nothing is written back.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>())
    })
}
