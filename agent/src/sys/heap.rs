//! The allocator's memory. A pull works in a dozen threads, each of which leaves glibc an arena of freed blocks.

#![allow(unsafe_code)]

/// Gives freed memory back to the kernel. Takes a millisecond or a few: not on the runtime's thread.
#[cfg(target_env = "gnu")]
pub fn trim() {
    // SAFETY: malloc_trim(3) has no precondition; it takes the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators keep less, and have no such call.
#[cfg(not(target_env = "gnu"))]
pub fn trim() {}
