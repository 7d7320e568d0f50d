//! The verbs `state`, `list`, `ps`, `kill`, `pause`, `resume` and `update`.

use oci_spec::runtime::LinuxResources;
use serde_json::Value;

use super::{Error, Runtime, Status, process};
use crate::libcontainer::cgroup::Cgroup;
use crate::sys::signal::all_of;

impl Runtime {
    /// A container's state (OCI runtime-spec, state).
    ///
    /// # Errors
    /// There is no such container.
    pub fn state(&self, id: &str) -> Result<Value, Error> {
        let folder = self.store.open(id)?;
        let record = folder.read()?;
        Ok(record.state(folder.status(&record)))
    }

    /// The states of all containers. One that is being made or removed just now may be missing.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn list(&self) -> Result<Vec<Value>, Error> {
        Ok(self.store.ids()?.iter().filter_map(|id| self.state(id).ok()).collect())
    }

    /// The ids of a container's processes on the host.
    ///
    /// # Errors
    /// There is no such container, or its cgroup cannot be read.
    pub fn processes(&self, id: &str) -> Result<Vec<i32>, Error> {
        let record = self.store.open(id)?.read()?;
        Ok(Cgroup::open(&self.cgroups, &record.cgroup).processes()?)
    }

    /// Sends a signal to a container's process, or to all of its processes.
    ///
    /// # Errors
    /// It is not created and does not run; with `all` it may be stopped, since others may outlive its first process.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), Error> {
        let folder = self.store.open(id)?;
        let record = folder.read()?;
        if all {
            let cgroup = Cgroup::open(&self.cgroups, &record.cgroup);
            all_of(&cgroup.processes()?, signal, || cgroup.processes().unwrap_or_default());
            return Ok(());
        }
        let wrong = |status| Error::Status { id: id.to_owned(), status, wanted: "running" };
        let Some(pidfd) = record.process() else { return Err(wrong(Status::Stopped)) };
        match process::signal(&pidfd, signal) {
            Err(rustix::io::Errno::SRCH) => Err(wrong(Status::Stopped)),
            other => other.map_err(Error::io("signal the process of", id)),
        }
    }

    /// Freezes a container's processes.
    ///
    /// # Errors
    /// It does not run, or a process does not stop.
    pub fn pause(&self, id: &str) -> Result<(), Error> {
        self.set_paused(id, true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// It is not paused.
    pub fn resume(&self, id: &str) -> Result<(), Error> {
        self.set_paused(id, false)
    }

    fn set_paused(&self, id: &str, paused: bool) -> Result<(), Error> {
        let (folder, mut record) = self.locked(id)?;
        let wanted = if paused { "running" } else { "paused" };
        match (folder.status(&record), paused) {
            (Status::Running | Status::Created, true) | (Status::Paused, false) => {}
            (status, _) => return Err(Error::Status { id: id.to_owned(), status, wanted }),
        }
        let cgroup = Cgroup::open(&self.cgroups, &record.cgroup);
        if paused {
            cgroup.freeze()?
        } else {
            cgroup.thaw()?
        }
        record.paused = paused;
        folder.write(&record)
    }

    /// Changes a container's limits; what is not given stays.
    ///
    /// # Errors
    /// It is stopped, or a limit cannot be set.
    pub fn update(&self, id: &str, limits: &LinuxResources) -> Result<(), Error> {
        let (folder, record) = self.locked(id)?;
        match folder.status(&record) {
            Status::Stopped => Err(Error::Status { id: id.to_owned(), status: Status::Stopped, wanted: "running" }),
            _ => Ok(Cgroup::open(&self.cgroups, &record.cgroup).update(limits)?),
        }
    }
}
