//! Why a cgroup could not be made or used.

use std::io;
use std::path::PathBuf;

/// A failed operation on cgroups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A parent or path that names no cgroup.
    #[error("cgroup path {path:?} {reason}")]
    Path {
        /// As given.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// The host has no hierarchy that can be used.
    #[error("no cgroup file system is mounted below /sys/fs/cgroup")]
    NoHierarchy,
    /// A limit that the host cannot set.
    #[error(
        "{file} = {value:?}: the {controller} controller, or the kernel's support for this file, is not available on this host"
    )]
    NoController {
        /// Which.
        controller: &'static str,
        /// The file that is not there.
        file: String,
        /// What was to be written.
        value: String,
    },
    /// A file of cgroup v2 whose controller this host has on v1.
    #[error("{file} = {value:?}: this is a file of cgroup v2, and this host has its controller on cgroup v1")]
    OnV1 {
        /// As requested.
        file: String,
        /// What was to be written.
        value: String,
    },
    /// More memory is in use than a new limit allows, and not enough of it could be reclaimed.
    #[error("a memory limit of {limit} bytes is below what is in use, {usage} bytes; the limit is as it was")]
    InUse {
        /// The new limit in bytes.
        limit: u64,
        /// Bytes.
        usage: u64,
    },
    /// A change failed half way, and what it had changed could not be changed back.
    #[error("limits are partly changed, because they could not be changed back ({undo}) after this")]
    NotUndone {
        /// What changing back failed of.
        undo: String,
        /// What the change failed of.
        #[source]
        source: Box<CgroupError>,
    },
    /// A file that did not take a value.
    #[error("write {value:?} to {}", file.display())]
    Write {
        /// Which file.
        file: PathBuf,
        /// What was to be written.
        value: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Any other system call.
    #[error("{op} {}", path.display())]
    Io {
        /// What was being done.
        op: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A wait that took too long.
    #[error("{} did not become {state} in time", path.display())]
    Timeout {
        /// Which cgroup.
        path: PathBuf,
        /// What was waited for.
        state: &'static str,
    },
    /// Device rules that make no program.
    #[error("device rules: {0}")]
    Devices(&'static str),
    /// systemd could not be asked, or said no.
    #[error("systemd: {op} {unit}")]
    Systemd {
        /// What was being done.
        op: &'static str,
        /// To which unit.
        unit: String,
        /// What it answered.
        #[source]
        source: Box<zbus::Error>,
    },
    /// systemd tried, and its job did not succeed.
    #[error("systemd: {op} {unit}: the job ended as {result:?}")]
    Job {
        /// What was being done.
        op: &'static str,
        /// To which unit.
        unit: String,
        /// systemd's word for it: canceled, timeout, failed, dependency, skipped.
        result: String,
    },
}

impl CgroupError {
    /// The file is not there; the cgroup may be.
    pub(super) fn is_no_file(&self) -> bool {
        matches!(self, Self::Io { source, .. } | Self::Write { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// The cgroup is not there (any more).
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Write { source, .. } => {
                source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(libc::ENODEV)
            }
            _ => false,
        }
    }
}
