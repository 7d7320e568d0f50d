//! Signals, stops, removal, and the deadlines that they set.

use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};

use super::cgroup_tree;
use super::connection::Requester;
use super::container::{Container, Phase, Stop};
use super::monitor::{Monitor, Outcome, find};
use super::requests::{not_found, wrong_state};
use super::spawner::{internal, invalid};
use crate::libcontainer::run::Host;
use crate::libcontainer::run::failure::Step;
use crate::monitor::protocol::{self as wire, Body, Failure, Nothing};

/// A grace period longer than this is as good as for ever (and an `Instant` has an end).
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

impl Monitor {
    /// Sends a signal to the first process or to all.
    pub(super) fn signal(&mut self, request: &wire::Signal) -> Result<Outcome, Failure> {
        let signal = signal_of(request.signal)?;
        let (host, container) = (self.kept.host(), find(&mut self.containers, &request.id)?);
        if container.death.is_some() {
            return Err(wrong_state("the container has exited"));
        }
        match (request.tree, container.cgroup.tree()) {
            (true, _) if signal == Signal::KILL => container.kill_tree(),
            (true, Some(cgroup)) => drop(cgroup_tree::signal(cgroup, signal)),
            _ => {
                container.killed |= signal == Signal::KILL;
                send(host, container, signal)?;
            }
        }
        Ok(Outcome::Answer(Body::Done(Nothing {})))
    }

    /// Asks politely once, and sets or shortens the time after which it is killed. Answered when the exit is published.
    pub(super) fn stop(&mut self, to: Requester, request: &wire::Stop) -> Result<Outcome, Failure> {
        let signal = signal_of(request.signal)?;
        let (host, container) = (self.kept.host(), find(&mut self.containers, &request.id)?);
        if let Phase::Exited(record) = &container.phase {
            return Ok(Outcome::Answer(Body::Stopped(record.clone())));
        }
        let grace = Duration::from_millis(request.grace_ms).min(LONGEST_GRACE);
        // Init itself knows no politeness, and a SIGKILL needs no second one.
        let at_once = grace.is_zero() || signal == Signal::KILL || container.started_at_ns() == 0;
        if at_once {
            container.kill_tree();
        } else if container.stop.is_none() && container.death.is_none() {
            match send(host, container, signal) {
                // An AppArmor profile without a rule for signals: it is killed when its time is over.
                Err(failure) if failure.errno == libc::EACCES => {}
                sent => sent?,
            }
        }
        let deadline = (!at_once).then(|| Instant::now() + grace);
        let stop = container.stop.get_or_insert(Stop { deadline, waiting: Vec::new() });
        stop.deadline = match (stop.deadline, deadline) {
            (Some(before), Some(now)) => Some(before.min(now)),
            // It has been killed.
            _ => None,
        };
        stop.waiting.push(to);
        Ok(Outcome::Later)
    }

    /// Forgets a container, killing it first if it has not ended.
    pub(super) fn remove(&mut self, to: Requester, id: &str) -> Result<Outcome, Failure> {
        let Some(at) = self.containers.iter().position(|container| container.id == id) else {
            return Ok(Outcome::Answer(Body::Done(Nothing {})));
        };
        self.containers[at].removal.push(to);
        if self.containers[at].is_exited() {
            self.forget_if_wanted(at);
        } else {
            self.containers[at].kill_tree();
        }
        Ok(Outcome::Later)
    }

    /// Kills an exec'd process with all its descendants.
    pub(super) fn kill_exec(&mut self, id: &str) -> Result<Outcome, Failure> {
        let exec = self.execs.iter_mut().find(|exec| exec.id == id).ok_or_else(|| not_found("exec", id))?;
        exec.kill_tree();
        Ok(Outcome::Answer(Body::Done(Nothing {})))
    }

    /// When something is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        // Once it is over, only processes are waited for.
        let leave = self.leave_by.filter(|by| *by > Instant::now());
        let of_logs = self.containers.iter().filter_map(|container| container.log.idle_deadline());
        self.containers.iter().filter_map(deadline_of).chain(of_logs).chain(leave).min()
    }

    /// Does what is due.
    pub(super) fn keep_deadlines(&mut self) {
        let now = Instant::now();
        for container in &mut self.containers {
            container.log.keep_deadline(now, &self.epoll);
        }
        let due: Vec<u32> = self
            .containers
            .iter()
            .filter(|container| deadline_of(container).is_some_and(|deadline| deadline <= now))
            .map(|container| container.serial)
            .collect();
        for serial in due {
            let Some(at) = self.position(serial) else { continue };
            let container = &mut self.containers[at];
            if container.death.is_some() {
                self.publish(serial);
            } else {
                container.kill_tree();
                if let Some(stop) = &mut container.stop {
                    stop.deadline = None;
                }
            }
        }
    }
}

fn deadline_of(container: &Container) -> Option<Instant> {
    match (&container.phase, &container.death) {
        (Phase::Exited(_), _) => None,
        // Its runtime has the next word.
        (_, Some(_)) if container.is_being_started() => None,
        (_, Some(death)) => Some(death.drain_until),
        (_, None) => container.stop.as_ref().and_then(|stop| stop.deadline),
    }
}

fn send(host: Host<'_>, container: &Container, signal: Signal) -> Result<(), Failure> {
    if let Some(external) = container.runtime.as_ref().filter(|_| container.death.is_none()) {
        return external.signal(host, signal).map_err(internal);
    }
    match container.pidfd().map(|pidfd| pidfd_send_signal(pidfd, signal)) {
        // It has just died; its exit is about to be seen.
        None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
        Some(Err(errno)) => Err(errno).step("send a signal", "").map_err(internal),
    }
}

/// Real-time signals included (an image's StopSignal may be SIGRTMIN+3, as systemd wants it).
fn signal_of(number: i32) -> Result<Signal, Failure> {
    Signal::from_named_raw(number)
        .or_else(|| crate::sys::signal::realtime(number))
        .ok_or_else(|| invalid(&format!("there is no signal {number}")))
}
