//! What happens when a process ends: it is reaped, its output read to the end, its record written, and then it is told.

use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, openat, renameat};
use rustix::process::{WaitOptions, WaitStatus, wait};

use super::container::{Cgroup, Container, Death, Phase};
use super::create::init;
use super::events::Source;
use super::log::{Output, Progress};
use super::monitor::{Monitor, now_ns};
use super::requests::{not_found, wrong_state};
use super::spawner;
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::monitor::protocol::{Body, ContainerExited, ExitRecord, Nothing, exit_file};

/// How long a survivor outside the container may hold its output open. What is in the container is dead by then.
const DRAIN: Duration = Duration::from_secs(1);
/// Reads of one stream at once when a container ended: 4 MiB, far more than a pipe holds.
const DRAIN_READS: usize = 64;
/// What a container that could not be started counts as (CRI rule 9).
const START_FAILED: i32 = 128;

impl Monitor {
    /// Reaps everything that ended: first processes, execs, and orphans of the pod.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_pid();
            let (exit_code, signal) = code_of(status);
            let by_pid = |container: &&Container| container.pid == pid && container.death.is_none();
            if let Some(serial) = self.containers.iter().find(by_pid).map(|container| container.serial) {
                self.on_death(serial, pid, exit_code, signal);
            } else if let Some(serial) = self.execs.iter().find(|exec| exec.pid == pid).map(|exec| exec.serial) {
                self.on_exec_death(serial, pid, exit_code);
            } else if let Some(serial) = self.restored_by(pid) {
                self.on_restored(serial, exit_code);
            } else if self.kept.pod_init.as_ref().is_some_and(|init| init.pid == pid) {
                self.kept.pod_init = None;
            } else if !self.was_deletion(pid) {
                self.note_stray(pid, exit_code, signal);
            }
        }
    }

    pub(super) fn on_death(&mut self, serial: u32, pid: i32, exit_code: i32, signal: i32) {
        // What it said last comes first: ready, a failure, the closed socket.
        for _ in 0..3 {
            self.on_report(serial);
        }
        let Some(at) = self.position(serial) else { return };
        let container = &mut self.containers[at];
        if container.pid != pid {
            // That was a runner, whose last word was the process that the OCI runtime has made.
            return;
        }
        // At once: systemd takes a scope away, and its counters with it, as soon as nobody is in it.
        let oom_killed = container.was_oom_killed(exit_code);
        let death = Death { exit_code, signal, oom_killed, at_ns: now_ns(), drain_until: Instant::now() + DRAIN };
        container.death = Some(death);
        if let Phase::Creating { .. } = container.phase {
            return self.give_up(at);
        }
        if !container.own_pid_namespace || container.restorer.is_some() {
            container.kill_tree();
        }
        container.pidfd = None;
        self.delete_external(at);
        for source in [Source::Stdout, Source::Stderr] {
            for _ in 0..DRAIN_READS {
                if self.read_output(serial, source) != Progress::More {
                    break;
                }
                self.write_log(serial);
            }
        }
        self.write_log(serial);
        self.publish_if_dry(serial);
    }

    /// Init died before it was ready: nothing is left of the container.
    fn give_up(&mut self, at: usize) {
        let mut container = self.containers.swap_remove(at);
        if !container.own_pid_namespace {
            container.kill_tree();
        }
        self.let_go(&mut container);
        if let Phase::Creating { requester, control, failure, .. } = container.phase {
            self.unwatch(&control);
            let how = container.death.map_or(0, |death| death.signal);
            let unsaid = || InitFailure::refused(&format!("init died while it was set up (signal {how})"), "");
            let failure = init(failure.unwrap_or_else(unsaid));
            self.connection.answer(requester, Body::Failure(failure), Vec::new());
        }
        for to in container.stop.into_iter().flat_map(|stop| stop.waiting) {
            let failure = not_found("container", &container.id);
            self.connection.answer(to, Body::Failure(failure), Vec::new());
        }
        for to in container.removal {
            self.connection.answer(to, Body::Done(Nothing {}), Vec::new());
        }
    }

    /// There is output, or its end.
    pub(super) fn on_output(&mut self, serial: u32, source: Source) {
        self.read_output(serial, source);
        self.write_log(serial);
        self.publish_if_dry(serial);
    }

    /// Reads what is there, unless the log is behind. What the pipe of a container that has ended still held is read to
    /// where nothing is left.
    pub(super) fn read_output(&mut self, serial: u32, source: Source) -> Progress {
        let Some(at) = self.position(serial) else { return Progress::End };
        let Self { containers, clients, epoll, buffers, .. } = self;
        let has_ended = containers[at].is_exited();
        let Container { stdio, log, .. } = &mut containers[at];
        if log.is_full() {
            return Progress::Empty;
        }
        let slot = if source == Source::Stdout { &mut stdio.stdout } else { &mut stdio.stderr };
        let Some(output) = slot else { return Progress::End };
        let progress = output.read(log, buffers, now_ns, |bytes| clients.copy(epoll, serial, source, bytes));
        if progress == Progress::End || has_ended && progress == Progress::Empty {
            output.finish(log, buffers, now_ns());
            if let Some(output) = slot.take() {
                epoll.unwatch(output.fd());
            }
            clients.end_stream(epoll, serial, source);
        }
        progress
    }

    pub(super) fn publish_if_dry(&mut self, serial: u32) {
        let Some(at) = self.position(serial) else { return };
        let container = &self.containers[at];
        if container.death.is_some()
            && container.is_dry()
            && container.log.is_settled()
            && !container.is_exited()
            && !container.is_being_started()
        {
            self.publish(serial);
        }
    }

    /// Logs what broke off without a newline, and reads no more.
    fn close_output(&mut self, at: usize) {
        let stdio = &mut self.containers[at].stdio;
        let open: Vec<Output> = [stdio.stdout.take(), stdio.stderr.take()].into_iter().flatten().collect();
        for mut output in open {
            output.finish(&mut self.containers[at].log, &mut self.buffers, now_ns());
            self.unwatch(output.fd());
        }
    }

    /// Writes the exit record and tells everybody who waits for it. A record is on disk before anybody hears of it.
    pub(super) fn publish(&mut self, serial: u32) {
        let Some(at) = self.position(serial) else { return };
        let container = &mut self.containers[at];
        let Some(Death { exit_code, signal, oom_killed, at_ns, .. }) = container.death else { return };
        if container.log.is_settled() {
            self.close_output(at);
        }
        let container = &mut self.containers[at];
        let mut record = ExitRecord {
            exit_code,
            signal,
            oom_killed,
            finished_at_ns: at_ns,
            started_at_ns: container.started_at_ns(),
        };
        let start_failure = match std::mem::replace(&mut container.phase, Phase::Running { started_at_ns: 0 }) {
            Phase::Starting { requester, failure, .. } => {
                (record.exit_code, record.signal) = (START_FAILED, 0);
                let unsaid = || InitFailure::refused("init died before it executed the program", "");
                Some((requester, init(failure.unwrap_or_else(unsaid))))
            }
            _ => None,
        };
        if let Err(failure) = write_record(container, &record) {
            // Nothing better can be done: the event still tells, and so does inspect.
            spawner::complain(&format!("{}: {failure}", container.id));
        }
        container.phase = Phase::Exited(record.clone());
        container.cgroup = Cgroup::default();
        container.stdio.stdin = None;
        let reopening = container.reopening.take();
        let id = container.id.clone();
        let waiting = container.stop.take().map_or_else(Vec::new, |stop| stop.waiting);
        match start_failure {
            Some((requester, failure)) if self.connection.is_of(requester) => {
                self.connection.answer(requester, Body::Failure(failure), Vec::new());
            }
            // An agent that came after the one that asked for the start took the container for a running one.
            _ => {
                let exited = ContainerExited { id, record: record.clone() };
                self.connection.event(Body::ContainerExited(exited));
            }
        }
        for to in waiting {
            self.connection.answer(to, Body::Stopped(record.clone()), Vec::new());
        }
        if let Some(to) = reopening {
            let failure = wrong_state("the container has exited, so its log is not reopened");
            self.connection.answer(to, Body::Failure(failure), Vec::new());
        }
        self.clients.end_container(&self.epoll, serial);
        if self.containers[at].removal.is_empty() {
            // What its log still lacks is written when that is possible.
            self.write_log(serial);
        } else {
            self.forget_if_wanted(at);
        }
    }

    /// Forgets an exited container if somebody waits for that, unless its runtime is still busy with it.
    pub(super) fn forget_if_wanted(&mut self, at: usize) {
        let container = &self.containers[at];
        if !container.is_exited() || container.is_being_deleted() || container.removal.is_empty() {
            return;
        }
        let mut container = self.containers.swap_remove(at);
        self.let_go(&mut container);
        for to in container.removal {
            self.connection.answer(to, Body::Done(Nothing {}), Vec::new());
        }
    }
}

impl Monitor {
    /// Of a container that is forgotten: nothing is read and nothing told any more.
    pub(super) fn let_go(&mut self, container: &mut Container) {
        for output in [container.stdio.stdout.take(), container.stdio.stderr.take()].into_iter().flatten() {
            self.unwatch(output.fd());
        }
        container.log.end(&self.epoll);
    }
}

fn write_record(container: &Container, record: &ExitRecord) -> Result<(), InitFailure> {
    let dir = &container.record_dir;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = openat(dir, exit_file::TEMPORARY, flags, Mode::from_raw_mode(0o600)).step("make", "exit record")?;
    let text = exit_file::encode(record);
    let written = rustix::io::write(&file, text.as_bytes()).step("write", "exit record")?;
    if written != text.len() {
        return Err(InitFailure::refused("not enough room for the", "exit record"));
    }
    renameat(dir, exit_file::TEMPORARY, dir, exit_file::NAME).step("rename", "exit record")
}

/// Exit code as a shell shows it, and the signal (0: none).
fn code_of(status: WaitStatus) -> (i32, i32) {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code, 0),
        (None, Some(signal)) => (128 + signal, signal),
        (None, None) => (255, 0),
    }
}
