//! The allocator's memory. glibc gives each thread an arena, in which freed blocks stay: a dozen threads of pulls and file work
//! cost more than they gain, since none of them allocates much.

#![allow(unsafe_code)]

/// All threads allocate from one arena: a tenth less memory with 50 pods, and nothing slower (docs/performance.md). To be called before
/// there are others.
#[cfg(target_env = "gnu")]
pub fn use_one_arena() {
    // SAFETY: mallopt(3) takes numbers only. A refusal (0) leaves the default, which is no less right.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives freed memory back to the kernel. Takes a millisecond or a few: not on the runtime's thread.
#[cfg(target_env = "gnu")]
pub fn trim() {
    // SAFETY: malloc_trim(3) has no precondition; it takes the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators have no such setting.
#[cfg(not(target_env = "gnu"))]
pub fn use_one_arena() {}

/// Other allocators keep less, and have no such call.
#[cfg(not(target_env = "gnu"))]
pub fn trim() {}
