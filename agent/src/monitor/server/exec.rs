//! Processes exec'd into a container.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::process::{Signal, pidfd_send_signal};

use super::connection::Requester;
use super::container::Phase;
use super::create::{Fds, init};
use super::events::Source;
use super::exec_cgroup::ExecCgroup;
use super::monitor::{Monitor, Outcome};
use super::requests::{not_found, wrong_state};
use super::spawner::internal;
use crate::libcontainer::run::external::{self, ExternalExec};
use crate::libcontainer::run::failure::InitFailure;
use crate::libcontainer::run::{Join, Launched, Ready, Report, Stdio, join, receive_report};
use crate::monitor::protocol::{Body, Created, Exec, ExecExited, Failure};

/// One exec'd process.
#[derive(Debug)]
pub(super) struct ExecProcess {
    pub(super) serial: u32,
    pub(super) id: String,
    container: u32,
    pub(super) pid: i32,
    pidfd: OwnedFd,
    /// Until its program runs.
    control: Option<OwnedFd>,
    /// An OCI runtime starts it, and has not said which process it is.
    is_external: bool,
    /// Who waits for its program to run.
    requester: Option<Requester>,
    failure: Option<InitFailure>,
    /// Its terminal's master side on the way to the agent.
    terminal: Option<OwnedFd>,
    cgroup: Option<ExecCgroup>,
    /// By this monitor.
    killed: bool,
}

impl ExecProcess {
    /// Its process is not known yet: an OCI runtime makes it.
    pub(super) fn is_being_made(&self) -> bool {
        self.is_external && self.control.is_some()
    }

    /// Kills it and all it started.
    pub(super) fn kill_tree(&mut self) {
        self.killed = true;
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.kill();
        }
    }
}

impl Monitor {
    /// Starts a process in a running container; answered when its program runs.
    pub(super) fn exec(&mut self, to: Requester, exec: Exec, fds: Vec<OwnedFd>) -> Result<Outcome, Failure> {
        let Exec { container, exec: id, process, tty, stdin_fd, stdout_fd, stderr_fd } = exec;
        if self.execs.iter().any(|exec| exec.id == id) {
            return Err(wrong_state("an exec of that id exists"));
        }
        let mut fds = Fds::new(fds);
        let mut take = |index: Option<u32>| index.map(|index| fds.take(index)).transpose();
        let stdio = Stdio { stdin: take(stdin_fd)?, stdout: take(stdout_fd)?, stderr: take(stderr_fd)? };
        let serial = self.serial();
        let host = self.kept.host();
        let container = self
            .containers
            .iter_mut()
            .find(|candidate| candidate.id == container)
            .ok_or_else(|| not_found("container", &container))?;
        let (Phase::Running { .. }, None, Some(pidfd)) = (&container.phase, container.death, &container.pidfd) else {
            return Err(wrong_state("the container does not run"));
        };
        let cgroup = container.cgroup.exec_cgroup(serial).map_err(internal)?;
        // On v1 it enters the cgroup by itself, as it does the container's.
        let own_v1_tasks = match (&container.cgroup.unified, &cgroup) {
            (None, Some(cgroup)) => Some(cgroup.open_tasks().map_err(internal)?),
            _ => None,
        };
        let unified = cgroup.as_ref().filter(|_| container.cgroup.unified.is_some());
        let joined = match &container.runtime {
            None => join(
                host,
                &Join {
                    process: &process,
                    tty,
                    container: pidfd.as_fd(),
                    cgroup_namespace: container.cgroup_namespace,
                    namespaces: CloneFlags::empty(),
                    passed: &[],
                    cgroup: unified.map(AsFd::as_fd),
                    v1_tasks: &container.cgroup.v1_tasks,
                    own_v1_tasks: own_v1_tasks.as_ref(),
                },
                stdio,
            ),
            Some(external) => {
                let cgroup = unified.map(|cgroup| (cgroup.as_fd(), cgroup.name()));
                external::exec(host, &external.runtime, &ExternalExec { id: &id, tty, cgroup }, stdio)
            }
        };
        let Launched { pid, pidfd, control } = match joined {
            Ok(launched) => launched,
            Err(failure) => {
                container.cgroup.exec_over(cgroup);
                // ESRCH: its first process has just died.
                return Err(if failure.errno == libc::ESRCH {
                    wrong_state("the container does not run")
                } else {
                    init(failure)
                });
            }
        };
        let (is_external, container) = (container.runtime.is_some(), container.serial);
        let mut exec = ExecProcess {
            serial,
            id,
            container,
            pid,
            pidfd,
            control: Some(control),
            is_external,
            requester: Some(to),
            failure: None,
            terminal: None,
            cgroup,
            killed: false,
        };
        if let Some(control) = &exec.control
            && let Err(failure) = self.watch(control.as_fd(), Source::ExecControl, serial)
        {
            exec.kill_tree();
            return Err(internal(failure));
        }
        self.execs.push(exec);
        Ok(Outcome::Later)
    }

    /// An exec'd process says something, or its socket closed: its program runs.
    pub(super) fn on_exec_report(&mut self, serial: u32) {
        let Some(at) = self.execs.iter().position(|exec| exec.serial == serial) else { return };
        let exec = &mut self.execs[at];
        let Some(control) = &exec.control else { return };
        match receive_report(control) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(Report::Ready(Ready { terminal, pid: None })) => exec.terminal = terminal,
            Ok(Report::Ready(Ready { terminal, pid: Some(pid) })) => {
                exec.terminal = terminal;
                self.on_external_exec(serial, pid);
            }
            Ok(Report::Failed(failure)) => exec.failure = Some(failure),
            // Out of file descriptors for a terminal: what it said is lost.
            Err(error) => {
                exec.failure.get_or_insert(InitFailure::refused(&format!("the process's report: {error}"), ""));
                exec.kill_tree();
            }
            Ok(Report::Closed) => self.on_execed(at),
        }
    }

    /// Its program runs, or it has failed.
    fn on_execed(&mut self, at: usize) {
        let exec = &mut self.execs[at];
        let control = exec.control.take();
        if exec.failure.is_none()
            && let Some(to) = exec.requester.take()
        {
            let terminal = exec.terminal.take().into_iter().collect();
            self.connection.answer(to, Body::Execed(Created { pid: exec.pid }), terminal);
        }
        if let Some(control) = control {
            self.unwatch(control);
        }
    }

    /// An OCI runtime has started it: its program runs, if it is not over already.
    fn on_external_exec(&mut self, serial: u32, pid: i32) {
        let adopted = self.adopt_process(pid);
        let Some(at) = self.execs.iter().position(|exec| exec.serial == serial) else { return };
        match adopted {
            Ok(process) => {
                self.execs[at].pid = pid;
                self.on_execed(at);
                match process {
                    Ok(pidfd) => self.execs[at].pidfd = pidfd,
                    Err((exit_code, _)) => self.on_exec_death(serial, pid, exit_code),
                }
            }
            Err(failure) => {
                self.execs[at].failure = Some(failure);
                self.execs[at].kill_tree();
            }
        }
    }

    pub(super) fn on_exec_death(&mut self, serial: u32, pid: i32, exit_code: i32) {
        // What it said last comes first.
        for _ in 0..3 {
            self.on_exec_report(serial);
        }
        let is_it = |exec: &ExecProcess| exec.serial == serial && exec.pid == pid;
        let Some(at) = self.execs.iter().position(is_it) else { return };
        let exec = self.execs.swap_remove(at);
        if let Some(control) = &exec.control {
            self.unwatch(control);
        }
        match (exec.failure, exec.requester) {
            (Some(failure), Some(to)) => self.connection.answer(to, Body::Failure(init(failure)), Vec::new()),
            _ => self.connection.event(Body::ExecExited(ExecExited { exec: exec.id, exit_code })),
        }
        if let Some(at) = self.position(exec.container) {
            let container = &mut self.containers[at];
            if !exec.killed {
                container.note_end_of_exec(exit_code, &self.kept.host.procfs);
            }
            container.cgroup.exec_over(exec.cgroup);
        }
    }
}
