//! What can go wrong between the agent and a monitor.

use std::io;
use std::path::PathBuf;

use crate::monitor::protocol::frame::FrameError;
use crate::monitor::protocol::{Failure, FailureKind};

/// A request to a spawner or monitor that failed.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A step between clone and execve failed: the user's image or configuration, mostly.
    #[error("{}", describe(step, path, *errno))]
    Init {
        /// What was being done, e.g. "mount proc".
        step: String,
        /// On what; may be empty.
        path: String,
        /// The system's error number; 0: none.
        errno: i32,
    },
    /// The monitor knows no such container or exec.
    #[error("the monitor knows no {0}")]
    NotFound(String),
    /// The object is not in a state for that.
    #[error("{0}")]
    WrongState(String),
    /// The monitor does not accept the request.
    #[error("the monitor refuses: {0}")]
    Invalid(String),
    /// The monitor itself could not.
    #[error("monitor: {}", describe(step, path, *errno))]
    Internal {
        /// What was being done.
        step: String,
        /// On what; may be empty.
        path: String,
        /// The system's error number; 0: none.
        errno: i32,
    },
    /// The monitor is gone (or its connection was taken over), so the answer will never come.
    #[error("the connection to the monitor is lost")]
    Lost,
    /// The answer makes no sense.
    #[error("the monitor answered with something else than was asked for")]
    Unexpected,
    /// Something could not be sent or understood.
    #[error("monitor protocol")]
    Frame(#[from] FrameError),
    /// The spawner's program could not be started.
    #[error("{step} {path:?}")]
    Start {
        /// What was being done.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl MonitorError {
    /// The error number of a failed step, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Init { errno, .. } | Self::Internal { errno, .. } if *errno != 0 => Some(*errno),
            _ => None,
        }
    }
}

impl From<Failure> for MonitorError {
    fn from(failure: Failure) -> Self {
        let kind = failure.kind();
        let Failure { step, path, errno, .. } = failure;
        match kind {
            FailureKind::Init => Self::Init { step, path, errno },
            FailureKind::NotFound => Self::NotFound(step),
            FailureKind::WrongState => Self::WrongState(step),
            FailureKind::Invalid => Self::Invalid(step),
            FailureKind::Internal => Self::Internal { step, path, errno },
        }
    }
}

fn describe(step: &str, path: &str, errno: i32) -> String {
    let mut text = step.to_owned();
    if !path.is_empty() {
        text = format!("{text} {path:?}");
    }
    if errno != 0 {
        text = format!("{text}: {}", rustix::io::Errno::from_raw_os_error(errno));
    }
    text
}
