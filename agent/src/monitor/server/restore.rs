//! A container whose processes come from a checkpoint: while criu remakes them, the container is on its way to its program with the
//! waiting init as its first process; afterwards what criu made takes the init's place.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{Signal, pidfd_send_signal};

use super::cgroup_tree;
use super::confinement;
use super::connection::Requester;
use super::container::Phase;
use super::create::{Fds, init};
use super::events::Source;
use super::monitor::{Monitor, Outcome, now_ns};
use super::requests::wrong_state;
use super::spawner::invalid;
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::libcontainer::run::{self, Launched};
use crate::monitor::protocol::{Body, Confinement, Failure, RESTORED_PID, Restore, Started};

/// The program, and what it stands in for.
#[derive(Debug)]
pub(super) struct Restorer {
    pid: i32,
    confinement: Confinement,
    /// The way to the waiting init. It ends when this is closed.
    _waiting: OwnedFd,
}

impl Monitor {
    /// Has a created container's processes remade; the answer comes when they run.
    pub(super) fn restore(&mut self, to: Requester, request: Restore, fds: Vec<OwnedFd>) -> Result<Outcome, Failure> {
        let mount_namespace = Fds::new(fds).take(request.mount_namespace_fd)?;
        let host = self.kept.host();
        let container = self.containers.iter_mut().find(|container| container.id == request.id);
        let container = container.ok_or_else(|| super::requests::not_found("container", &request.id))?;
        if !matches!(container.phase, Phase::Created { .. }) || container.death.is_some() {
            return Err(wrong_state("the container is not waiting to be started"));
        }
        if !container.own_pid_namespace || container.tty || host.user.is_some() {
            return Err(invalid("such a container cannot be restored"));
        }
        let restore = run::Restore {
            args: &request.args,
            path: &request.path,
            mount_namespace: mount_namespace.as_fd(),
            init: container.pid,
            mounts: &request.mounts,
            staging: &request.staging,
            inherited: request.inherited.iter().map(|inherited| (inherited.fd, inherited.key.as_str())).collect(),
            cgroup: container.cgroup.unified.as_ref().map(AsFd::as_fd),
            v1_tasks: &container.cgroup.v1_tasks,
            cgroup_namespace: container.cgroup_namespace,
        };
        let Launched { pid, control, .. } = run::restore(host, &restore).map_err(init)?;
        let starting = Phase::Starting { requester: to, control, failure: None };
        let serial = container.serial;
        let Phase::Created { control: waiting } = std::mem::replace(&mut container.phase, starting) else {
            return Err(wrong_state("the container is not waiting to be started"));
        };
        self.epoll.unwatch(&waiting);
        container.restorer = Some(Restorer { pid, confinement: request.confinement, _waiting: waiting });
        let control = self.position(serial).and_then(|at| self.containers[at].control());
        let watched = control.map_or(Ok(()), |control| self.watch(control, Source::Control, serial));
        if let Err(failure) = watched {
            self.fail(serial, failure);
        }
        Ok(Outcome::Later)
    }

    /// Whose program that process is.
    pub(super) fn restored_by(&self, pid: i32) -> Option<u32> {
        let is_it = |restorer: &Restorer| restorer.pid == pid;
        self.containers
            .iter()
            .find(|container| container.restorer.as_ref().is_some_and(is_it))
            .map(|found| found.serial)
    }

    /// The program ended.
    pub(super) fn on_restored(&mut self, serial: u32, exit_code: i32) {
        // What it said last comes first: why it could not be executed.
        self.on_report(serial);
        let Some(at) = self.position(serial) else { return };
        let container = &self.containers[at];
        let known = match exit_code {
            _ if container.death.is_some() => {
                Err(InitFailure::refused("the container ended while it was restored", ""))
            }
            0 => read_pid(&container.record_dir),
            code => Err(InitFailure::refused(&format!("criu ended with exit code {code}"), "")),
        };
        let found = known.and_then(|pid| Ok((pid, self.adopt_process(pid)?)));
        let container = &self.containers[at];
        let confined = container.restorer.as_ref().map_or(Ok(()), |restorer| {
            confinement::check(&self.kept.host.procfs, container.cgroup.tree(), container.pid, &restorer.confinement)
        });
        let found = found.and_then(|found| confined.map(|()| found));
        let (pid, process) = match found {
            Ok(found) => found,
            Err(failure) => {
                // Whatever it made is in the container's cgroup.
                self.fail(serial, failure);
                self.containers[at].restorer = None;
                return;
            }
        };
        let container = &mut self.containers[at];
        container.restorer = None;
        if let Some(waiting) = container.pidfd.take() {
            let _ = pidfd_send_signal(&waiting, Signal::KILL);
        }
        let ended = process.as_ref().err().copied();
        (container.pid, container.pidfd) = (pid, process.ok());
        let started_at_ns = now_ns();
        match std::mem::replace(&mut container.phase, Phase::Running { started_at_ns }) {
            Phase::Starting { requester, .. } => {
                self.connection.answer(requester, Body::Started(Started { started_at_ns, pid }), Vec::new());
            }
            other => container.phase = other,
        }
        // criu left them stopped.
        self.containers[at].cgroup.tree().map(|cgroup| cgroup_tree::signal(cgroup, Signal::CONT));
        if let Some((exit_code, signal)) = ended {
            self.on_death(serial, pid, exit_code, signal);
        }
    }
}

/// What the program left.
fn read_pid(records: &OwnedFd) -> Result<i32, InitFailure> {
    let step = "read the id of the restored process from";
    let file =
        openat(records, RESTORED_PID, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step(step, RESTORED_PID)?;
    let mut text = [0u8; 16];
    let length = rustix::io::read(&file, &mut text).step(step, RESTORED_PID)?;
    let number = std::str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse::<i32>().ok());
    number.filter(|pid| *pid > 1).ok_or_else(|| InitFailure::refused("criu left no process id in", RESTORED_PID))
}
