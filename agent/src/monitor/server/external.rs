//! Containers that an OCI runtime runs: which process is theirs, and what the runtime is asked for beside it.

use rustix::process::Signal;

use super::container::{Container, External};
use super::create::Fds;
use super::monitor::Monitor;
use super::spawner;
use crate::libcontainer::run::Host;
use crate::libcontainer::run::external::{self, Runtime};
use crate::libcontainer::run::failure::InitFailure;
use crate::monitor::protocol::{self as wire, Failure};

impl External {
    /// Who runs a container, by the request to create it.
    pub(super) fn of(id: &str, runtime: wire::Runtime, fds: &mut Fds) -> Result<Box<Self>, Failure> {
        let wire::Runtime { program, folder, mounts_fd, hybrid, exec_cgroup } = runtime;
        let mounts = fds.take(mounts_fd)?;
        let runtime = Runtime { program, folder, id: id.to_owned(), mounts, hybrid, exec_cgroup };
        Ok(Box::new(Self { runtime, deleting: None }))
    }

    /// Has the runtime send the container a signal.
    pub(super) fn signal(&self, host: Host<'_>, signal: Signal) -> Result<(), InitFailure> {
        external::command(host, &self.runtime, &["kill", &signal.as_raw().to_string()]).map(drop)
    }
}

impl Monitor {
    /// Whether the process that was reaped is one that took away what a runtime keeps of a container.
    pub(super) fn was_deletion(&mut self, pid: i32) -> bool {
        let of_runtime = |container: &&Container| container.runtime.as_ref().is_some_and(|it| it.deleting == Some(pid));
        let serial = self.containers.iter().find(of_runtime).map(|container| container.serial);
        serial.map(|serial| self.on_deleted(serial)).is_some()
    }

    /// Its first process has ended: the runtime takes away what it keeps of it, and runs its last hooks.
    pub(super) fn delete_external(&mut self, at: usize) {
        let host = self.kept.host();
        let Some(external) = &mut self.containers[at].runtime else { return };
        match external::command(host, &external.runtime, &["delete", "--force"]) {
            Ok(child) => external.deleting = Some(child.pid),
            Err(failure) => spawner::complain(&format!("{}: {failure}", external.runtime.id)),
        }
    }

    fn on_deleted(&mut self, serial: u32) {
        let Some(at) = self.position(serial) else { return };
        if let Some(external) = &mut self.containers[at].runtime {
            external.deleting = None;
        }
        self.forget_if_wanted(at);
    }
}
