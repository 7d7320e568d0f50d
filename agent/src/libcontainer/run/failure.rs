//! Steps that failed, as data: it crosses from init to the monitor to the agent, and becomes the error's text there.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// A step between clone and execve that failed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct InitFailure {
    /// What was being done, e.g. "mount proc".
    #[prost(string, tag = "1")]
    pub step: String,
    /// On what; may be empty.
    #[prost(string, tag = "2")]
    pub path: String,
    /// The system's error number; 0: none, `step` says it all.
    #[prost(int32, tag = "3")]
    pub errno: i32,
}

impl fmt::Display for InitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)?;
        if !self.path.is_empty() {
            write!(f, " {:?}", self.path)?;
        }
        if self.errno != 0 {
            write!(f, ": {}", Errno::from_raw_os_error(self.errno))?;
        }
        Ok(())
    }
}

impl std::error::Error for InitFailure {}

impl InitFailure {
    /// A step that is refused rather than failed.
    pub fn refused(step: &str, path: &str) -> Self {
        Self { step: step.to_owned(), path: path.to_owned(), errno: 0 }
    }
}

/// Names the step in which a call failed.
pub(crate) trait Step<T> {
    /// `step` is what was being done, `path` on what (may be empty).
    fn step(self, step: &str, path: &str) -> Result<T, InitFailure>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, step: &str, path: &str) -> Result<T, InitFailure> {
        self.map_err(|errno| InitFailure { step: step.to_owned(), path: path.to_owned(), errno: errno.raw_os_error() })
    }
}

impl<T> Step<T> for Result<T, nix::errno::Errno> {
    fn step(self, step: &str, path: &str) -> Result<T, InitFailure> {
        self.map_err(|errno| InitFailure { step: step.to_owned(), path: path.to_owned(), errno: errno as i32 })
    }
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &str, path: &str) -> Result<T, InitFailure> {
        self.map_err(|error| InitFailure {
            step: step.to_owned(),
            path: path.to_owned(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }
}
