//! One call of a plugin, whoever carries it out: a process of its own or this one.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::types::{CniError, Command};

/// What a plugin is called with: its environment and its standard input.
#[derive(Debug, Clone)]
pub struct Call {
    /// `CNI_COMMAND`
    pub command: Command,
    /// `CNI_CONTAINERID`; empty where the verb has none.
    pub container: String,
    /// `CNI_NETNS`, a path; empty for none.
    pub netns: String,
    /// `CNI_IFNAME`
    pub interface: String,
    /// `CNI_ARGS`
    pub args: String,
    /// `CNI_PATH`: where plugins are.
    pub path: Vec<PathBuf>,
    /// Its configuration, as JSON.
    pub input: Vec<u8>,
    /// When the caller has lost patience.
    pub deadline: Instant,
}

/// Carries calls out.
pub trait Runner: Send + Sync {
    /// Runs a plugin by its name and returns what it printed: a result, or nothing.
    ///
    /// # Errors
    /// When it cannot be run, or fails.
    fn run(&self, plugin: &str, call: &Call) -> Result<Vec<u8>, RunError>;
}

impl<R: Runner + ?Sized> Runner for &R {
    fn run(&self, plugin: &str, call: &Call) -> Result<Vec<u8>, RunError> {
        (**self).run(plugin, call)
    }
}

/// A call that has failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is no such program.
    #[error("CNI plugin {plugin:?} is not in {}", Paths(path))]
    NotFound {
        /// Its name.
        plugin: String,
        /// Where it was looked for.
        path: Vec<PathBuf>,
    },
    /// The program cannot be run.
    #[error("CNI plugin {plugin}: {operation}")]
    Process {
        /// Its name.
        plugin: String,
        /// The step.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("CNI plugin {plugin}: {command} took longer than {} ms and was killed{}", patience.as_millis(), Said(said))]
    Deadline {
        /// Its name.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// How long it had.
        patience: Duration,
        /// What it had printed as an error.
        said: String,
    },
    /// It printed more than any result has, and was killed.
    #[error("CNI plugin {plugin}: {command} printed more than {limit} bytes and was killed")]
    TooMuchOutput {
        /// Its name.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// What it may print, in bytes.
        limit: usize,
    },
    /// It says that it has failed.
    #[error("CNI plugin {plugin}: {command}: {error} (code {})", error.code.0)]
    Failed {
        /// Its name.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// What it says.
        error: CniError,
    },
    /// It has failed and says nothing that the specification knows.
    #[error("CNI plugin {plugin}: {command}: {status}{}", Said(said))]
    Died {
        /// Its name.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it printed.
        said: String,
    },
}

impl RunError {
    /// What the plugin itself says.
    pub fn plugin_error(&self) -> Option<&CniError> {
        match self {
            Self::Failed { error, .. } => Some(error),
            _ => None,
        }
    }
}

struct Paths<'a>(&'a [PathBuf]);

impl fmt::Display for Paths<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.0.iter().enumerate() {
            write!(out, "{}{}", if index > 0 { ":" } else { "" }, path.display())?;
        }
        Ok(())
    }
}

struct Said<'a>(&'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            said => write!(out, ": {said}"),
        }
    }
}
