//! From a request to its verb, and the verbs that need no more than a few lines.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::connection::Requester;
use super::container::Container;
use super::monitor::{Monitor, Outcome};
use super::pod::Network;
use super::spawner::{internal, invalid, with_kind};
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::libcontainer::run::resize_terminal;
use crate::monitor::protocol::{
    Body, Call, Failure, FailureKind, HelloAnswer, MonitorState, Nothing, OpenSocket, ReopenLog, Request, Resize,
    VERSION,
};

/// How long a pod that is ended waits for the disks of its logs.
const LEAVE: Duration = Duration::from_secs(3);

impl Monitor {
    /// Does what is asked, and answers at once if it can.
    pub(super) fn handle(&mut self, request: Request, fds: Vec<OwnedFd>) {
        let to = self.connection.requester(request.id);
        let outcome = match request.call {
            Some(Call::Hello(_)) => self.hello(),
            Some(Call::Create(create)) => self.create(to, create, fds),
            Some(Call::Start(start)) => self.start(to, &start.id),
            Some(Call::Restore(restore)) => self.restore(to, restore, fds),
            Some(Call::Signal(signal)) => self.signal(&signal),
            Some(Call::Stop(stop)) => self.stop(to, &stop),
            Some(Call::Exec(exec)) => self.exec(to, exec, fds),
            Some(Call::KillExec(exec)) => self.kill_exec(&exec.exec),
            Some(Call::ReopenLog(reopen)) => self.reopen_log(to, &reopen, &fds),
            Some(Call::Resize(resize)) => self.resize(&resize),
            Some(Call::Attach(attach)) => self.attach(&attach, fds),
            Some(Call::OpenSocket(socket)) => open_socket(socket),
            Some(Call::Remove(remove)) => self.remove(to, &remove.id),
            Some(Call::Inspect(Nothing {})) => Ok(Outcome::Answer(Body::State(self.state()))),
            Some(Call::Shutdown(Nothing {})) => self.shutdown(to),
            Some(Call::ForkMonitor(_) | Call::ForkPlaceholder(_) | Call::MountOverlay(_)) | None => {
                Err(invalid("a monitor does not know this request"))
            }
        };
        match outcome {
            Ok(Outcome::Answer(body)) => self.connection.answer(to, body, Vec::new()),
            Ok(Outcome::AnswerWith(body, fds)) => self.connection.answer(to, body, fds),
            Ok(Outcome::Later) => {}
            Err(failure) => self.connection.answer(to, Body::Failure(failure), Vec::new()),
        }
    }

    fn hello(&self) -> Result<Outcome, Failure> {
        let copy = |fd: &OwnedFd| fd.try_clone().step("duplicate a file descriptor", "").map_err(internal);
        let mut fds = match &self.kept.network {
            Some(Network { namespace, netlink }) => vec![copy(namespace)?, copy(netlink)?],
            None => Vec::new(),
        };
        let hello = HelloAnswer {
            version: VERSION,
            pod: self.kept.pod.clone(),
            pid: rustix::process::getpid().as_raw_pid(),
            network_fds: !fds.is_empty(),
            streams: true,
            user_namespace_fd: self.kept.user.is_some(),
        };
        if let Some(user) = &self.kept.user {
            fds.push(copy(&user.namespace)?);
        }
        Ok(Outcome::AnswerWith(Body::Hello(hello), fds))
    }

    fn state(&self) -> MonitorState {
        MonitorState {
            containers: self.containers.iter().map(Container::state).collect(),
            execs: self.execs.iter().map(|exec| exec.id.clone()).collect(),
        }
    }

    fn reopen_log(&mut self, to: Requester, reopen: &ReopenLog, fds: &[OwnedFd]) -> Result<Outcome, Failure> {
        let container = self.find(&reopen.id)?;
        if container.death.is_some() || container.started_at_ns() == 0 {
            return Err(wrong_state("the container does not run, so its log is not reopened"));
        }
        let dir = fds.get(reopen.log_dir_fd as usize).ok_or_else(|| invalid("the log's folder is missing"))?;
        if container.log.is_opening() {
            return Err(wrong_state("the log is being reopened already"));
        }
        let serial = container.serial;
        container.reopening = Some(to);
        self.open_log(serial, dir, &reopen.log_name).map_err(internal)?;
        Ok(Outcome::Later)
    }

    fn resize(&mut self, resize: &Resize) -> Result<Outcome, Failure> {
        let container = self.find(&resize.id)?;
        let Some(master) = container.terminal() else {
            return Err(wrong_state("the container has no terminal"));
        };
        resize_terminal(master, resize.columns, resize.rows).step("resize the terminal", "").map_err(internal)?;
        Ok(Outcome::Answer(Body::Done(Nothing {})))
    }

    fn shutdown(&mut self, to: Requester) -> Result<Outcome, Failure> {
        self.leaving.get_or_insert_default().push(to);
        self.leave_by.get_or_insert_with(|| Instant::now() + LEAVE);
        for container in &mut self.containers {
            container.kill_tree();
        }
        Ok(Outcome::Later)
    }

    /// Everything has ended, and the agent wanted that: the last answer goes out.
    pub(super) fn has_left(&mut self) -> bool {
        if self.leaving.is_none() || !self.containers.iter().all(Container::is_exited) {
            return false;
        }
        // A disk or a runtime that hangs is not waited for: what waits for it is lost with the pod.
        let is_late = self.leave_by.is_some_and(|by| by <= Instant::now());
        let is_settled = |container: &Container| container.log.is_settled() && !container.is_being_deleted();
        if !is_late && !self.containers.iter().all(is_settled) {
            return false;
        }
        for to in self.leaving.take().unwrap_or_default() {
            self.connection.answer(to, Body::Done(Nothing {}), Vec::new());
        }
        true
    }
}

/// The agent connects it: a socket stays in the network namespace that it was made in, which for a pod's monitor is the pod's.
fn open_socket(OpenSocket { ipv6 }: OpenSocket) -> Result<Outcome, Failure> {
    let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None).step("make a socket", "").map_err(internal)?;
    Ok(Outcome::AnswerWith(Body::Socket(Nothing {}), vec![socket]))
}

/// No such thing.
pub(super) fn not_found(what: &str, id: &str) -> Failure {
    with_kind(InitFailure::refused(&format!("{what} {id}"), ""), FailureKind::NotFound)
}

/// Not now.
pub(super) fn wrong_state(why: &str) -> Failure {
    with_kind(InitFailure::refused(why, ""), FailureKind::WrongState)
}
