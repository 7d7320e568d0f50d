//! Children that ended before anybody knew whose they are: a process that an OCI runtime or criu has made may end before they have
//! told of it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::container::Container;
use super::monitor::Monitor;
use crate::libcontainer::run::failure::{InitFailure, Step};

/// Orphans of a hostile container may be any number; the latest are kept.
const MOST: usize = 256;

/// Their ids, with exit codes and signals.
pub(super) type Strays = Vec<(i32, i32, i32)>;

impl Monitor {
    /// Whether somebody is about to say which process is whose.
    fn awaits_processes(&self) -> bool {
        let is_remade = |container: &Container| container.restorer.is_some();
        self.containers.iter().any(|container| container.is_being_made() || is_remade(container))
            || self.execs.iter().any(|exec| exec.is_being_made())
    }

    /// A process that was reaped and is nobody's.
    pub(super) fn note_stray(&mut self, pid: i32, exit_code: i32, signal: i32) {
        if !self.awaits_processes() {
            return self.strays.clear();
        }
        if self.strays.len() == MOST {
            self.strays.remove(0);
        }
        self.strays.push((pid, exit_code, signal));
    }

    /// The process of that id, of which somebody has told: its pidfd, or exit code and signal if it ended meanwhile. It has to be a child of
    /// ours: then the id stays its own until it is reaped.
    pub(super) fn adopt_process(&mut self, pid: i32) -> Result<Result<OwnedFd, (i32, i32)>, InitFailure> {
        if let Some(at) = self.strays.iter().position(|(stray, ..)| *stray == pid) {
            let (_, exit_code, signal) = self.strays.swap_remove(at);
            return Ok(Err((exit_code, signal)));
        }
        let step = "find the process among the monitor's children";
        let named = Pid::from_raw(pid).ok_or_else(|| InitFailure::refused(step, ""))?;
        let pidfd = pidfd_open(named, PidfdFlags::empty()).step(step, "")?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(pidfd.as_fd()), options).step(step, "")?;
        Ok(Ok(pidfd))
    }
}
