//! The image's own /etc/passwd and /etc/group, read through the container's root before anything runs in it. The image is
//! hostile: links stay inside the root, and only a regular file of bounded size is read (a FIFO would hang the reader).

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Error;
use crate::sys::in_root;

/// No honest account file comes near it.
const LARGEST: u64 = 8 << 20;

/// The content of a file below the root mount; a missing one is empty.
///
/// # Errors
/// When it is no regular file, too large, or cannot be read.
pub(super) fn read(root: impl AsFd, path: &'static str) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Io { op: "read the image's file", path: path.into(), source };
    let fd: OwnedFd = match in_root::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(errno) => return Err(failed(errno.into())),
    };
    let file = std::fs::File::from(fd);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    let mut content = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > LARGEST {
        return Err(failed(io::Error::other(format!("it has more than {LARGEST} bytes"))));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, std::fs::File) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        (dir, fd)
    }

    #[test]
    fn a_missing_file_is_empty_and_a_link_stays_inside() {
        let (dir, fd) = root();
        assert_eq!(read(&fd, "etc/passwd").unwrap(), b"");
        std::fs::write(dir.path().join("etc/real"), "inside").unwrap();
        std::os::unix::fs::symlink("/etc/real", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(read(&fd, "etc/passwd").unwrap(), b"inside");
        std::os::unix::fs::symlink("../../../../etc/group", dir.path().join("etc/group")).unwrap();
        assert!(read(&fd, "etc/group").is_err_and(|error| error.to_string().contains("etc/group")));
    }

    #[test]
    fn what_is_no_file_is_refused_and_hangs_nobody() {
        let (dir, fd) = root();
        rustix::fs::mknodat(&fd, "etc/passwd", rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(read(&fd, "etc/passwd").is_err());
        std::fs::create_dir(dir.path().join("etc/group")).unwrap();
        assert!(read(&fd, "etc/group").is_err());
    }

    #[test]
    fn a_huge_file_is_refused() {
        let (dir, fd) = root();
        std::fs::File::create(dir.path().join("etc/passwd")).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(read(&fd, "etc/passwd").is_err());
    }
}
