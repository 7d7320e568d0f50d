//! What of this process stays in memory. An agent starts pods and answers probes for months; reading its configuration, pulling an
//! image and whatever else was done once is not to be paid for all that time.
//!
//! The allocator is glibc's. It gives each thread an arena, in which freed blocks stay: a dozen threads of pulls and file work cost
//! more than they gain, since none of them allocates much.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

/// All threads allocate from one arena: a tenth less memory with 50 pods, and nothing slower (docs/performance.md). To be called before
/// there are others.
#[cfg(target_env = "gnu")]
pub fn use_one_arena() {
    // SAFETY: mallopt(3) takes numbers only. A refusal (0) leaves the default, which is no less right.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other allocators have no such setting.
#[cfg(not(target_env = "gnu"))]
pub fn use_one_arena() {}

/// Gives back to the kernel what was freed, and the pages of the program itself: those that are run again come back from the page
/// cache, sixteen at a time, and those of work that is done do not. Takes a millisecond or a few: not on the runtime's thread.
pub fn give_back() {
    // SAFETY: malloc_trim(3) has no precondition; it takes the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
    // SAFETY: the callback is called with a valid description of each loaded object, until it answers other than 0.
    unsafe { libc::dl_iterate_phdr(Some(let_go), std::ptr::null_mut()) };
}

/// dl_iterate_phdr(3) comes with the program first; libraries are others' too.
unsafe extern "C" fn let_go(program: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the caller's promise: a description, and as many headers as it says.
    let (base, headers) = unsafe {
        let program = &*program;
        (program.dlpi_addr, std::slice::from_raw_parts(program.dlpi_phdr, usize::from(program.dlpi_phnum)))
    };
    // What is never written is the file's, byte by byte: relocations are made in the other segments.
    for segment in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        let (start, end) = whole_pages(base + segment.p_vaddr, segment.p_memsz);
        // SAFETY: the pages are this program's, mapped from its file and read only: each is read from there again when touched.
        // A refusal leaves them where they are.
        unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
    }
    1
}

/// The pages that lie wholly within: what shares one with another segment stays.
fn whole_pages(start: u64, len: u64) -> (usize, usize) {
    let page = page_size();
    let (start, end) = (start as usize, (start + len) as usize);
    let start = start.next_multiple_of(page);
    (start, (end & !(page - 1)).max(start))
}

fn page_size() -> usize {
    // SAFETY: sysconf(3) takes a number only.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn pages_lie_wholly_within() {
        let page = page_size();
        let of = |start: usize, len: usize| whole_pages(start as u64, len as u64);
        assert_eq!(of(page, 2 * page), (page, 3 * page));
        assert_eq!(of(page + 1, 2 * page), (2 * page, 3 * page));
        assert_eq!(of(page + 1, 8), (2 * page, 2 * page));
    }

    /// The program's code: where it is, and how much of it is mapped now, in KiB.
    fn code() -> (u64, u64, u64) {
        let (program, smaps) = (std::env::current_exe().unwrap(), std::fs::read_to_string("/proc/self/smaps").unwrap());
        let mut lines = smaps.lines();
        let of_code = |line: &&str| line.contains(" r-xp ") && line.ends_with(program.to_str().unwrap());
        let range = lines.find(of_code).unwrap().split([' ', '-']).take(2);
        let range: Vec<_> = range.map(|address| u64::from_str_radix(address, 16).unwrap()).collect();
        let mapped = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap().trim().trim_end_matches(" kB");
        (range[0], range[1], mapped.parse().unwrap())
    }

    #[test]
    fn what_was_given_back_is_there_when_it_is_needed() {
        let read = || {
            let (start, end, _) = code();
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            File::open("/proc/self/mem").unwrap().read_exact_at(&mut bytes, start).unwrap();
            bytes
        };
        let before = read();
        let all = code().2;
        give_back();
        let rest = code().2;
        assert!(rest < all / 2, "{rest} KiB of {all} are still mapped");
        assert!(read() == before);
    }
}
