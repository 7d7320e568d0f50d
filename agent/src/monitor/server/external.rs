//! Containers that an OCI runtime runs: which process is theirs, and what the runtime is asked for beside it.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::container::{Container, External};
use super::create::Fds;
use super::monitor::Monitor;
use super::spawner;
use crate::libcontainer::run::Host;
use crate::libcontainer::run::external::{self, Runtime};
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::monitor::protocol::{self as wire, Failure};

/// Processes that were reaped before anybody knew whose they are: their ids, with exit codes and signals.
pub(super) type Strays = Vec<(i32, i32, i32)>;

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
    /// Whether a runtime is about to say which process is whose.
    fn awaits_processes(&self) -> bool {
        self.containers.iter().any(Container::is_being_made) || self.execs.iter().any(|exec| exec.is_being_made())
    }

    /// A process that was reaped and is nobody's. One that a runtime has made may end before the runtime has told of it.
    pub(super) fn note_stray(&mut self, pid: i32, exit_code: i32, signal: i32) {
        let of_runtime =
            |container: &&mut Container| container.runtime.as_ref().is_some_and(|it| it.deleting == Some(pid));
        if let Some(container) = self.containers.iter_mut().find(of_runtime) {
            let serial = container.serial;
            return self.on_deleted(serial);
        }
        if self.awaits_processes() {
            self.strays.push((pid, exit_code, signal));
        } else {
            self.strays.clear();
        }
    }

    /// The process of that id, of which a runtime has told: its pidfd, or how it ended meanwhile.
    pub(super) fn adopt_process(&mut self, pid: i32) -> Result<Result<OwnedFd, (i32, i32)>, InitFailure> {
        if let Some(at) = self.strays.iter().position(|(stray, ..)| *stray == pid) {
            let (_, exit_code, signal) = self.strays.swap_remove(at);
            return Ok(Err((exit_code, signal)));
        }
        let named = Pid::from_raw(pid).ok_or_else(|| InitFailure::refused("the runtime told of no process", ""))?;
        // It is a child that was not reaped: the id means nothing else.
        pidfd_open(named, PidfdFlags::empty()).step("open the process that the runtime made", "").map(Ok)
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
