//! Containers of OCI bundles without an agent (OCI runtime-spec 1.2): what `berth oci` does, for engines that drive a runtime
//! by its command line. Each verb is a process of its own; between two of them a container is its folder of records, its
//! cgroup, and its own processes.
//!
//! Called by `cli::oci` from a process with one thread, which must not have opened a file yet.

/// `config.json`, read and checked.
mod bundle;
/// Terminals of containers, handed on.
mod console;
/// The verb `create`.
mod create;
/// The verb `delete`.
mod delete;
/// Why a verb did not do what it was asked.
mod error;
/// The verb `exec`.
mod exec;
/// The verb `features`.
mod features;
/// Who reads a runtime's log.
mod log;
/// Processes by id and start time.
mod process;
/// A container's folder.
mod record;
/// The verb `run`.
mod run;
/// This program as a file that no container can reach.
mod sealed;
/// The verb `start`.
mod start;
/// The verbs that look at a container, or signal, limit, stop and let go its processes.
mod steer;
/// What is undone when a creation fails.
mod undo;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::libcontainer::cgroup::{Driver, Layout};
use crate::libcontainer::host;
use crate::libcontainer::run::OwnHost;
use crate::libcontainer::spec::HostFacts;
use crate::sys::clone::SingleThreaded;
use crate::sys::inherited;

pub use create::CreateOptions;
pub use error::Error;
pub use exec::{ExecOptions, ExecProcess};
pub use features::features;
pub use log::{Level, Log, LogFormat};
pub use record::Status;

use record::Store;

/// The newest version of the specification that is known here.
pub const SPEC_VERSION: &str = "1.2.1";

/// What the verbs share.
#[derive(Debug)]
pub struct Runtime {
    store: Store,
    cgroups: Layout,
    log: Log,
}

/// What only those verbs need that start processes.
struct Starter {
    threads: SingleThreaded,
    host: OwnHost,
    facts: HostFacts,
}

/// Before anything else in a process that is to start others: moves this program to where no container can reach it, and
/// takes the descriptors from 3 on that a container is to have.
///
/// # Errors
/// Out of memory; a descriptor that is not there.
pub fn enter(preserved: u32) -> Result<Vec<OwnedFd>, Error> {
    sealed::ensure()?;
    inherited::take(preserved).map_err(Error::io("keep", "the descriptors from 3 on"))
}

impl Runtime {
    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Looks at the host. `root` is where the folders of containers are.
    ///
    /// # Errors
    /// The host has no cgroups.
    pub fn open(root: PathBuf, log: Log) -> Result<Self, Error> {
        crate::sys::signal::default_but_pipe();
        Ok(Self { store: Store::new(root), cgroups: Layout::detect(Driver::Cgroupfs)?, log })
    }

    fn starter(&self) -> Result<Starter, Error> {
        let threads = SingleThreaded::verify().map_err(Error::io("count the threads of", "/proc/self/task"))?;
        let host = OwnHost::open()?;
        Ok(Starter { threads, host, facts: host::facts(self.cgroups.mounts().clone())? })
    }
}
