//! The verb `delete`: nothing of the container stays.

use std::time::Duration;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::mount::{UnmountFlags, unmount};

use super::record::Record;
use super::{Error, Runtime, Status, process};
use crate::libcontainer::cgroup::Cgroup;

const END_WAIT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Deletes a stopped container, or with `force` any, whose processes are killed. With `force` one that does not exist is
    /// deleted already.
    ///
    /// # Errors
    /// It is not stopped, or something of it cannot be removed; a second try goes on from there.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), Error> {
        let folder = match self.store.locked(id) {
            Err(Error::NotFound(_)) if force => return Ok(()),
            other => other?,
        };
        let record = match folder.read() {
            // Its creation ended before there was anything but a folder.
            Err(Error::NotFound(_)) if force => return folder.remove(),
            other => other?,
        };
        let status = folder.status(&record);
        if status != Status::Stopped && !force {
            return Err(Error::Status { id: id.to_owned(), status, wanted: "stopped" });
        }
        end(&record)?;
        let cgroup = Cgroup::open(&self.cgroups, &record.cgroup);
        cgroup.kill()?;
        cgroup.remove()?;
        let spec = folder.read_spec();
        if let Ok(spec) = &spec {
            unmount_shared(spec, &record)?;
        }
        folder.remove()?;
        if let Ok(spec) = &spec {
            self.run_tolerantly("poststop", spec, &record, Status::Stopped);
        }
        Ok(())
    }
}

/// Kills its process and waits for its end.
fn end(record: &Record) -> Result<(), Error> {
    let Some(pidfd) = record.process() else { return Ok(()) };
    let failed = || Error::io("end the process of", &record.id);
    match process::signal(&pidfd, libc::SIGKILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => return Err(failed()(errno)),
    }
    if process::wait_for_end(&pidfd, END_WAIT).map_err(failed())? {
        return Ok(());
    }
    Err(Error::Immortal { id: record.id.clone(), seconds: END_WAIT.as_secs() })
}

/// A container in the host's own mount namespace has its mounts there.
fn unmount_shared(spec: &Spec, record: &Record) -> Result<(), Error> {
    let mut namespaces = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    if namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::Mount) {
        return Ok(());
    }
    match unmount(&record.rootfs, UnmountFlags::DETACH) {
        // None there: it is a second try, or the bundle is gone.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::io("unmount", &record.rootfs)(errno)),
    }
}
