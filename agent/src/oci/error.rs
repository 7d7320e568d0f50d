//! Why a verb did not do what it was asked. Engines look for some of the words: "does not exist", "not running".

use std::io;
use std::path::{Path, PathBuf};

use super::Status;
use crate::libcontainer::cgroup::CgroupError;
use crate::libcontainer::host::HostError;
use crate::libcontainer::plan::PlanError;
use crate::libcontainer::run::{InitFailure, OpenError};
use crate::libcontainer::seccomp::CompileError;

/// A verb that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No folder of that name.
    #[error("container {0:?} does not exist")]
    NotFound(String),
    /// A folder of that name.
    #[error("container {0:?} exists already")]
    Exists(String),
    /// What cannot be the name of a folder.
    #[error("container id {0:?} is not made of letters, digits, '_', '+', '-' and '.', 255 at most")]
    Id(String),
    /// A verb at the wrong time.
    #[error("container not {wanted}: {id:?} is {status}")]
    Status {
        /// Which.
        id: String,
        /// What it is.
        status: Status,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// A container that does not end.
    #[error("container {id:?} did not end within {seconds} s of SIGKILL")]
    Immortal {
        /// Which.
        id: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A file that is not what it should be.
    #[error("{} is not as the specification says", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// Line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A bundle that cannot be run.
    #[error("config.json: {0}")]
    Config(String),
    /// What in a bundle cannot be had.
    #[error("config.json")]
    Plan(#[from] PlanError),
    /// A system call filter that cannot be had.
    #[error("config.json: linux.seccomp")]
    Seccomp(#[from] CompileError),
    /// Arguments that make no sense together.
    #[error("{0}")]
    Arguments(String),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A mount.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A step of the container's own process, or a hook.
    #[error(transparent)]
    Init(#[from] InitFailure),
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
}

impl Error {
    /// For `map_err`.
    pub(super) fn io<E: Into<io::Error>>(op: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { op, path: path.as_ref().to_owned(), source: source.into() }
    }
}
