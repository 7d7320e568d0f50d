//! Folders and files of a cgroup file system, reached from the hierarchy's root by its file descriptor.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::CgroupError;

/// A mounted hierarchy.
#[derive(Debug, Clone)]
pub(super) struct Root {
    fd: Arc<OwnedFd>,
    mount: PathBuf,
    /// v1: those it was mounted with; unified: those that its root offers.
    controllers: Vec<String>,
}

/// One cgroup in one hierarchy.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

fn io_error(op: &'static str, path: &Path, errno: Errno) -> CgroupError {
    CgroupError::Io { op, path: path.to_owned(), source: errno.into() }
}

impl Root {
    pub(super) fn new(mount: &Path, controllers: Vec<String>) -> Result<Self, CgroupError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(mount, flags, Mode::empty()).map_err(|errno| io_error("open", mount, errno))?;
        Ok(Self { fd: Arc::new(fd), mount: mount.to_owned(), controllers })
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|one| one == controller)
    }

    pub(super) fn controllers(&self) -> &[String] {
        &self.controllers
    }

    pub(super) fn full(&self, path: &str) -> PathBuf {
        self.mount.join(path)
    }

    pub(super) fn open(&self, path: &str) -> Result<Folder, CgroupError> {
        let relative = if path.is_empty() { "." } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&*self.fd, relative, flags, Mode::empty())
            .map_err(|errno| io_error("open", &self.full(path), errno))?;
        Ok(Folder { fd, path: self.full(path) })
    }

    /// Reads a whole file of a cgroup in three system calls, into a buffer that serves many.
    pub(super) fn read<'b>(&self, path: &str, file: &str, buffer: &'b mut Vec<u8>) -> Result<&'b str, CgroupError> {
        let name = if path.is_empty() { file.to_owned() } else { format!("{path}/{file}") };
        let failed = |op, errno| io_error(op, &self.full(&name), errno);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = openat(&*self.fd, &name, flags, Mode::empty()).map_err(|errno| failed("open", errno))?;
        let length = read_file(&fd, buffer).map_err(|errno| failed("read", errno))?;
        // The kernel writes ASCII; what is not text has no number that we look for.
        Ok(std::str::from_utf8(&buffer[..length]).unwrap_or_default())
    }

    /// Makes a folder and its missing parents; gives those that were made, the outermost first.
    pub(super) fn make<'p>(&self, path: &'p str) -> Result<Vec<&'p str>, CgroupError> {
        let make = |path: &str| mkdirat(&*self.fd, path, Mode::from_raw_mode(0o755));
        let mut pending = vec![path];
        let mut made = Vec::new();
        while let Some(&next) = pending.last() {
            match (make(next), next.rsplit_once('/')) {
                (Ok(()), _) => {
                    made.push(next);
                    pending.pop();
                }
                (Err(Errno::EXIST), _) => drop(pending.pop()),
                // Once a parent was made, its child cannot lack it: a second ENOENT is somebody removing under us.
                (Err(Errno::NOENT), Some((parent, _))) if !made.contains(&parent) => pending.push(parent),
                (Err(errno), _) => return Err(io_error("make", &self.full(next), errno)),
            }
        }
        Ok(made)
    }

    /// rmdir(2); a folder that is not there is removed already.
    pub(super) fn remove(&self, path: &str) -> Result<(), Errno> {
        match unlinkat(&*self.fd, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Names of the cgroups directly below; none when there is no such cgroup.
    pub(super) fn children(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.full(path)) else { return Vec::new() };
        let folders = entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// Fills the buffer, which grows with the file; its length is not the text's. A file whose text is one record (seq_file's
/// single_open, all that we read for numbers) comes whole in one read(2), so that one that leaves room is the last.
fn read_file(fd: &OwnedFd, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    buffer.resize(buffer.len().max(4096), 0);
    let mut length = 0;
    loop {
        match rustix::io::read(fd, &mut buffer[length..]) {
            Ok(more) => length += more,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
        if length < buffer.len() {
            return Ok(length);
        }
        buffer.resize(length * 2, 0);
    }
}

impl Folder {
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub(super) fn open_file(&self, file: &str, flags: OFlags) -> Result<OwnedFd, CgroupError> {
        openat(&self.fd, file, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| io_error("open", &self.path.join(file), errno))
    }

    pub(super) fn read(&self, file: &str) -> Result<String, CgroupError> {
        let fd = self.open_file(file, OFlags::RDONLY)?;
        let mut bytes = vec![0; 4096];
        let mut length = 0;
        loop {
            match rustix::io::read(&fd, &mut bytes[length..]) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(io_error("read", &self.path.join(file), errno)),
            }
            if length == bytes.len() {
                bytes.resize(length * 2, 0);
            }
        }
        bytes.truncate(length);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A file that holds one number; `max` is none.
    pub(super) fn number(&self, file: &str) -> Result<Option<u64>, CgroupError> {
        Ok(self.read(file)?.trim().parse().ok())
    }

    /// The kernel takes one value a write.
    pub(super) fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let failed =
            |source: io::Error| CgroupError::Write { file: self.path.join(file), value: value.to_owned(), source };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = openat(&self.fd, file, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        loop {
            match rustix::io::write(&fd, value.as_bytes()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}
