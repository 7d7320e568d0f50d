//! A container's folder: `state.json`, the `config.json` that it was created with, and the socket on which its init waits.
//!
//! ```text
//!            create                 start              its process ends
//!  Creating ───────► Created ──────────────► Running ──────────────────► Stopped
//!     └────────────────────┴──── its process ends ────────────────────────┘
//! ```
//! What changes a container does so under the lock of its folder. `state` does not: hooks call it from within `create`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use serde::{Deserialize, Serialize};

use super::{Error, SPEC_VERSION, process};
use crate::sys::unix_socket;

/// The form of `state.json`.
const VERSION: u32 = 1;

/// OCI runtime-spec, state; `paused` is runc's addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `create` has not returned.
    Creating,
    /// Waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What is remembered of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) annotations: BTreeMap<String, String>,
    /// Below the root of each hierarchy; written before there is one.
    pub(super) cgroup: String,
    /// Its process; 0 before there is one.
    pub(super) pid: i32,
    /// See `process::start_time`.
    pub(super) began: u64,
    /// `create` has returned.
    pub(super) created: bool,
    pub(super) paused: bool,
    /// RFC 3339.
    pub(super) created_at: String,
}

impl Record {
    pub(super) fn new(id: &str, bundle: &Path, rootfs: &Path, cgroup: &str, spec: &Spec) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            rootfs: rootfs.to_owned(),
            annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
            cgroup: cgroup.to_owned(),
            pid: 0,
            began: 0,
            created: false,
            paused: false,
            created_at: jiff::Timestamp::now().to_string(),
        }
    }

    /// Its process, if that has not ended.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        process::open(self.pid, self.began)
    }

    /// As hooks and callers of `state` are told.
    pub(super) fn state(&self, status: Status) -> serde_json::Value {
        serde_json::json!({
            "ociVersion": SPEC_VERSION,
            "id": self.id,
            "status": status.to_string(),
            "pid": if status == Status::Stopped { 0 } else { self.pid },
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created_at,
            "annotations": self.annotations,
        })
    }
}

/// All containers' folders.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
}

/// One container's.
#[derive(Debug)]
pub(super) struct Folder {
    id: String,
    path: PathBuf,
    fd: OwnedFd,
}

impl Store {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Makes a folder, locked.
    pub(super) fn create(&self, id: &str) -> Result<Folder, Error> {
        let path = self.path(id)?;
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).recursive(true).create(&self.root).map_err(Error::io("make", &self.root))?;
        match builder.recursive(false).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists(id.to_owned())),
            made => made.map_err(Error::io("make", &path))?,
        }
        self.locked(id)
    }

    pub(super) fn open(&self, id: &str) -> Result<Folder, Error> {
        let path = self.path(id)?;
        match openat(CWD, &path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => Err(Error::NotFound(id.to_owned())),
            Err(errno) => Err(Error::io("open", &path)(errno)),
            Ok(fd) => Ok(Folder { id: id.to_owned(), path, fd }),
        }
    }

    /// For a verb that changes the container.
    pub(super) fn locked(&self, id: &str) -> Result<Folder, Error> {
        let folder = self.open(id)?;
        flock(&folder.fd, FlockOperation::LockExclusive).map_err(Error::io("lock", &folder.path))?;
        // Whoever had it may have removed it.
        if folder.path.exists() { Ok(folder) } else { Err(Error::NotFound(id.to_owned())) }
    }

    /// The ids of all containers.
    pub(super) fn ids(&self) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("list", &self.root))?,
        };
        let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
        let mut ids: Vec<String> = names.filter(|name| self.path(name).is_ok()).collect();
        ids.sort();
        Ok(ids)
    }

    fn path(&self, id: &str) -> Result<PathBuf, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        let good = (1..=255).contains(&id.len()) && id.chars().all(plain) && !matches!(id, "." | "..");
        if good { Ok(self.root.join(id)) } else { Err(Error::Id(id.chars().take(300).collect())) }
    }
}

impl Folder {
    /// Where init waits for `start`.
    pub(super) fn socket(&self) -> PathBuf {
        self.path.join("start.sock")
    }

    pub(super) fn write(&self, record: &Record) -> Result<(), Error> {
        self.write_json("state.json", record)
    }

    pub(super) fn write_spec(&self, spec: &Spec) -> Result<(), Error> {
        self.write_json("config.json", spec)
    }

    pub(super) fn read(&self) -> Result<Record, Error> {
        self.read_json("state.json")
    }

    pub(super) fn read_spec(&self) -> Result<Spec, Error> {
        self.read_json("config.json")
    }

    pub(super) fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::io("remove", &self.path)),
        }
    }

    pub(super) fn status(&self, record: &Record) -> Status {
        if record.process().is_none() {
            // Before there is a process, somebody is about to make it, or was.
            let creating = !record.created
                && record.pid == 0
                && flock(&self.fd, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK);
            return if creating { Status::Creating } else { Status::Stopped };
        }
        match (record.created, record.paused, unix_socket::is_listened_to(&self.socket())) {
            (false, ..) => Status::Creating,
            (true, true, _) => Status::Paused,
            (true, false, true) => Status::Created,
            (true, false, false) => Status::Running,
        }
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!(".{name}"));
        let text = serde_json::to_vec(value).map_err(|source| Error::Json { path: path.clone(), source })?;
        fs::write(&temporary, text).map_err(Error::io("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(Error::io("write", &path))
    }

    fn read_json<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<T, Error> {
        let path = self.path.join(name);
        match fs::read(&path) {
            // Before it is written, and while the folder is being removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NotFound(self.id.clone())),
            Err(error) => Err(Error::io("read", &path)(error)),
            Ok(text) => serde_json::from_slice(&text).map_err(|source| Error::Json { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: i32, began: u64) -> Record {
        let mut record = Record::new("c", Path::new("/b"), Path::new("/b/r"), "x/c", &Spec::default());
        (record.pid, record.began, record.created) = (pid, began, true);
        record
    }

    #[test]
    fn an_id_is_a_name_and_there_is_one_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("root"));
        for bad in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(256)] {
            assert!(matches!(store.create(bad), Err(Error::Id(_))), "{bad}");
        }
        assert!(matches!(store.open("c"), Err(Error::NotFound(_))));
        let folder = store.create("c").unwrap();
        assert!(matches!(store.create("c"), Err(Error::Exists(_))));
        assert!(matches!(folder.read(), Err(Error::NotFound(_))));
        assert_eq!(store.ids().unwrap(), ["c"]);
        folder.remove().unwrap();
        assert!(matches!(store.open("c"), Err(Error::NotFound(_))));
    }

    #[test]
    fn status_is_told_by_the_process_and_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let folder = store.create("c").unwrap();
        let pid = rustix::process::getpid().as_raw_pid();
        let began = process::start_time(pid).unwrap();
        assert_eq!(folder.status(&record(pid, began)), Status::Running);
        let listener = unix_socket::listen(&folder.socket()).unwrap();
        assert_eq!(folder.status(&record(pid, began)), Status::Created);
        drop(listener);
        assert_eq!(folder.status(&record(pid, began)), Status::Running, "a socket that was left behind");
        assert_eq!(folder.status(&record(pid, began + 1)), Status::Stopped, "an id that is another process by now");
        let mut creating = record(0, 0);
        creating.created = false;
        assert_eq!(store.open("c").unwrap().status(&creating), Status::Creating);
        drop(folder);
        assert_eq!(store.open("c").unwrap().status(&creating), Status::Stopped, "`create` was killed");
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Store::new(dir.path().to_owned()).create("c").unwrap();
        folder.write(&record(7, 8)).unwrap();
        let read = folder.read().unwrap();
        assert_eq!((read.pid, read.began, read.cgroup.as_str()), (7, 8, "x/c"));
        assert_eq!(read.state(Status::Stopped)["pid"], 0);
        assert_eq!(read.state(Status::Created)["status"], "created");
    }
}
