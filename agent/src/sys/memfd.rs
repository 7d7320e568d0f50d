//! Memory files that can never change again (memfd_create(2), file seals).

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// What makes a memfd constant.
const CONSTANT: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// A sealed, close-on-exec memory file with that content.
///
/// # Errors
/// Out of memory or file descriptors.
pub fn sealed(name: &CStr, content: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    let fd = OwnedFd::from(file);
    fcntl_add_seals(&fd, CONSTANT)?;
    Ok(fd)
}

/// Reads a memory file that its sender sealed: it cannot change while it is read.
///
/// # Errors
/// `InvalidData` when it is not sealed or larger than `limit`.
pub fn read_sealed(fd: &OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    let invalid = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
    if !fcntl_get_seals(fd)?.contains(CONSTANT) {
        return Err(invalid("a message's memory file is not sealed"));
    }
    let file = File::from(fd.try_clone()?);
    let len = file.metadata()?.len();
    if len > limit {
        return Err(invalid("a message is too large"));
    }
    let mut content = vec![0; usize::try_from(len).map_err(|_| invalid("a message is too large"))?];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}
