//! A container as its monitor knows it.
//!
//! ```text
//! Creating ──ready──► Created ──start──► Starting ──execve──► Running ──death, pipes dry──► Exited
//!     └──failed──► gone                      └──failed──► Exited (128), no event
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use super::cgroup_tree;
use super::connection::Requester;
use super::exec_cgroup::{ExecCgroup, ExecCgroups};
use super::log::{Log, Output};
use super::oom_kills::OomKills;
use super::restore::Restorer;
use crate::libcontainer::run::InitFailure;
use crate::libcontainer::run::external::Runtime;
use crate::monitor::protocol::{ContainerState, ExitRecord, Phase as WirePhase};

/// One container.
#[derive(Debug)]
pub(super) struct Container {
    /// Names it in epoll; never used again.
    pub(super) serial: u32,
    pub(super) id: String,
    pub(super) phase: Phase,
    pub(super) pid: i32,
    pub(super) pidfd: Option<OwnedFd>,
    /// Everything in it dies with its first process.
    pub(super) own_pid_namespace: bool,
    pub(super) cgroup_namespace: bool,
    /// Who runs it, if it is not this monitor.
    pub(super) runtime: Option<Box<External>>,
    pub(super) cgroup: Cgroup,
    /// `stdio.stdout` is its terminal's master side.
    pub(super) tty: bool,
    pub(super) input: Input,
    pub(super) stdio: Stdio,
    pub(super) log: Log,
    /// Its output is not read while its log is behind.
    pub(super) paused: bool,
    /// Who waits for another log file to be open.
    pub(super) reopening: Option<Requester>,
    pub(super) record_dir: OwnedFd,
    pub(super) stop: Option<Stop>,
    /// Who waits for it to be forgotten.
    pub(super) removal: Vec<Requester>,
    /// What remakes its processes from a checkpoint, while it does; its first process is the init that waits for that.
    pub(super) restorer: Option<Restorer>,
    /// SIGKILL was sent to its first process by this monitor.
    pub(super) killed: bool,
    /// Its first process died, and how; output may still be read.
    pub(super) death: Option<Death>,
}

/// Where in its life it is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Init carries out the plan.
    Creating { requester: Requester, control: OwnedFd, ready: bool, failure: Option<InitFailure> },
    /// Init waits for its release.
    Created { control: OwnedFd },
    /// Init was released and has not executed its program yet.
    Starting { requester: Requester, control: OwnedFd, failure: Option<InitFailure> },
    /// The program runs.
    Running { started_at_ns: i64 },
    /// It ended, and the record is written.
    Exited(ExitRecord),
}

/// A container that an OCI runtime runs.
#[derive(Debug)]
pub(super) struct External {
    pub(super) runtime: Runtime,
    /// The runtime's process that takes away what it keeps of the container.
    pub(super) deleting: Option<i32>,
}

/// What it is counted and killed by.
#[derive(Debug, Default)]
pub(super) struct Cgroup {
    pub(super) unified: Option<OwnedFd>,
    pub(super) v1_tasks: Vec<OwnedFd>,
    pub(super) memory: Option<OwnedFd>,
    /// Where there is no unified hierarchy.
    pub(super) freezer: Option<OwnedFd>,
    /// OOM kills counted before it started.
    pub(super) oom_kills_before: OomKills,
    /// OOM kills since then that took execs and not its first process.
    pub(super) oom_kills_of_execs: u64,
    pub(super) execs: ExecCgroups,
}

/// What its standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// /dev/null, or a terminal that nobody types at.
    None,
    /// Open as long as the container lives: it blocks while nobody writes.
    Kept,
    /// Open until the first client that was attached to it ends (CRI `stdin_once`).
    Once,
}

/// The monitor's ends of its standard input and output.
#[derive(Debug, Default)]
pub(super) struct Stdio {
    /// Kept open for attach.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
}

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stop {
    /// When the tree is killed; `None`: it was.
    pub(super) deadline: Option<Instant>,
    pub(super) waiting: Vec<Requester>,
}

/// How the first process died.
#[derive(Debug, Clone, Copy)]
pub(super) struct Death {
    pub(super) exit_code: i32,
    pub(super) signal: i32,
    pub(super) oom_killed: bool,
    pub(super) at_ns: i64,
    /// Until when output of survivors is waited for.
    pub(super) drain_until: Instant,
}

impl Cgroup {
    /// What an exec ran in comes back.
    pub(super) fn exec_over(&mut self, cgroup: Option<ExecCgroup>) {
        if let (Some(home), Some(cgroup)) = (self.unified.as_ref().or(self.freezer.as_ref()), cgroup) {
            self.execs.give_back(home, cgroup);
        }
    }

    /// A cgroup for an exec, in which it is not limited any further; `None` where none can be made.
    pub(super) fn exec_cgroup(&mut self, serial: u32) -> Result<Option<ExecCgroup>, InitFailure> {
        let home = self.unified.as_ref().or(self.freezer.as_ref());
        home.map(|home| self.execs.take(home, serial)).transpose()
    }

    /// Where all of its processes are found.
    pub(super) fn tree(&self) -> Option<&OwnedFd> {
        self.unified.as_ref().or(self.freezer.as_ref()).or(self.memory.as_ref())
    }
}

impl Container {
    pub(super) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// The conversation with its init, while there is one.
    pub(super) fn control(&self) -> Option<BorrowedFd<'_>> {
        match &self.phase {
            Phase::Creating { control, .. } | Phase::Created { control } | Phase::Starting { control, .. } => {
                Some(control.as_fd())
            }
            Phase::Running { .. } | Phase::Exited(_) => None,
        }
    }

    /// Its terminal's master side.
    pub(super) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.stdio.stdout.as_ref().filter(|_| self.tty).map(Output::fd)
    }

    /// Kills everything in it. In a PID namespace of its own that takes one signal; otherwise its cgroup is killed. So it is,
    /// too, when the signal is refused: an AppArmor profile without a rule for signals lets none in, not even from the node.
    pub(super) fn kill_tree(&mut self) {
        self.killed = true;
        // An init that is dead already has taken everything with it.
        let refused =
            self.pidfd.as_ref().is_some_and(|pidfd| pidfd_send_signal(pidfd, Signal::KILL) == Err(Errno::ACCESS));
        let has_others = !self.own_pid_namespace || self.restorer.is_some();
        if let (true, Some(cgroup)) = (refused || has_others, self.cgroup.tree()) {
            cgroup_tree::kill(cgroup);
        }
    }

    /// Its first process is not known yet: the OCI runtime makes it.
    pub(super) fn is_being_made(&self) -> bool {
        self.runtime.is_some() && matches!(self.phase, Phase::Creating { ready: false, .. })
    }

    /// The OCI runtime starts it, and has not said whether it could; the program may be over already.
    pub(super) fn is_being_started(&self) -> bool {
        self.runtime.is_some() && matches!(self.phase, Phase::Starting { failure: None, .. })
    }

    /// The OCI runtime has not taken away yet what it keeps of it.
    pub(super) fn is_being_deleted(&self) -> bool {
        self.runtime.as_ref().is_some_and(|external| external.deleting.is_some())
    }

    pub(super) fn is_exited(&self) -> bool {
        matches!(self.phase, Phase::Exited(_))
    }

    /// Both pipes (or the terminal) are at their end.
    pub(super) fn is_dry(&self) -> bool {
        self.stdio.stdout.is_none() && self.stdio.stderr.is_none()
    }

    pub(super) fn started_at_ns(&self) -> i64 {
        match &self.phase {
            Phase::Running { started_at_ns } => *started_at_ns,
            Phase::Exited(record) => record.started_at_ns,
            _ => 0,
        }
    }

    pub(super) fn state(&self) -> ContainerState {
        let (phase, exit) = match &self.phase {
            Phase::Creating { .. } => (WirePhase::Creating, None),
            Phase::Created { .. } => (WirePhase::Created, None),
            Phase::Starting { .. } | Phase::Running { .. } => (WirePhase::Running, None),
            Phase::Exited(record) => (WirePhase::Exited, Some(record.clone())),
        };
        let pid = if exit.is_some() { 0 } else { self.pid };
        ContainerState { id: self.id.clone(), phase: phase.into(), pid, started_at_ns: self.started_at_ns(), exit }
    }
}
