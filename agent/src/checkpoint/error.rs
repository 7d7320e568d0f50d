//! Why a checkpoint cannot be taken, or not be used.

use std::io;
use std::path::PathBuf;

/// A checkpoint's failure.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// criu is not there, or does not run.
    #[error(
        "cannot run {}: checkpoints are taken by criu; install it (Debian's package is `criu`), or name the program in the \
         configuration as `checkpoint.criu`",
        program.display()
    )]
    NoCriu {
        /// What was run.
        program: PathBuf,
        /// Why it could not be.
        #[source]
        source: io::Error,
    },
    /// An old criu.
    #[error("{} is version {found}; {wanted} is the oldest that can do it", program.display())]
    TooOld {
        /// Which program.
        program: PathBuf,
        /// What it says of itself.
        found: String,
        /// What is needed.
        wanted: &'static str,
    },
    /// `criu check` fails: no process at all can be taken.
    #[error("this kernel and {} (version {version}) do not go together; `criu check` says: {said}", program.display())]
    Kernel {
        /// Which program.
        program: PathBuf,
        /// Its version.
        version: String,
        /// Its own words.
        said: String,
    },
    /// What a container has that cannot be taken or remade.
    #[error("{what} cannot be checkpointed: {reason}")]
    Unsupported {
        /// "a container with a terminal", for one.
        what: &'static str,
        /// Why not, and what to do.
        reason: &'static str,
    },
    /// criu could not do it with these processes.
    #[error("criu cannot {what}: {said}")]
    Refused {
        /// "take the container's processes", for one.
        what: &'static str,
        /// The errors of its log.
        said: String,
    },
    /// An archive that is none, or that a hostile hand made.
    #[error("{} is no checkpoint that can be used: {reason}", path.display())]
    BadArchive {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Its time was over before it was ready.
    #[error("it was given up")]
    GivenUp,
    /// A file of ours, or the archive.
    #[error("cannot {op} {}", path.display())]
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

impl CheckpointError {
    pub(super) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }
}
