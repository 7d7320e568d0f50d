//! A buffer whose pages go back to the system while it is not in use: a monitor is idle most of its life.
#![allow(unsafe_code)]

use std::io;
use std::ops::{Deref, DerefMut};

/// Zeroed, page-aligned memory.
#[derive(Debug)]
pub struct Scratch {
    base: *mut u8,
    len: usize,
}

impl Scratch {
    /// Reserves `len` bytes; pages come with use.
    ///
    /// # Errors
    /// Out of address space.
    pub fn new(len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at a place the kernel chooses touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { base: base.cast(), len }) }
    }

    /// Gives the pages back; the content is zero afterwards.
    pub fn release(&mut self) {
        // SAFETY: the range is ours, and `&mut self` says that nobody looks into it; it reads as zero afterwards.
        unsafe { libc::madvise(self.base.cast(), self.len, libc::MADV_DONTNEED) };
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `len` initialised (zeroed) bytes and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody borrows from it any more.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
