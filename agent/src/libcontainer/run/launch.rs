//! The monitor's part of starting a container: clone, and the small conversation with init until its program runs.
//!
//! Init says READY (with its terminal, if it has one), waits for one byte, and executes: the socket then closes by
//! itself (close-on-exec). Instead of either it may say FAILED and why.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sched::{CloneFlags, setns};
use prost::Message;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::failure::{InitFailure, Step};
use super::init::Init;
use super::process;
use super::user_namespace::{PodUser, stay_closed};
use crate::libcontainer::plan::{InitPlan, ProcessPlan};
use crate::sys::clone::{Child, CloneConfig, Cloned, SingleThreaded, clone, close_all_but, exit_now, in_borrower};
use crate::sys::{fd_passing, unix_socket};

pub(super) const READY: u8 = b'R';
const FAILED: u8 = b'F';
pub(super) const GO: u8 = b'G';
/// The longest report.
const REPORT_LIMIT: usize = 4096;

/// What the monitor lends to the processes it starts.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// The monitor has one thread.
    pub threads: SingleThreaded,
    /// A procfs of the host's PID namespace. Not for what becomes a process of a container: there it is closed.
    pub procfs: BorrowedFd<'a>,
    /// A null device that is not the host's own.
    pub null: BorrowedFd<'a>,
    /// The monitor's own pidfd: the way back into its PID namespace.
    pub own_pidfd: BorrowedFd<'a>,
    /// The user namespace of a pod that has one of its own.
    pub user: Option<PodUser<'a>>,
}

/// Standard input and output of a process; `None` is /dev/null.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Fd 0.
    pub stdin: Option<OwnedFd>,
    /// Fd 1.
    pub stdout: Option<OwnedFd>,
    /// Fd 2.
    pub stderr: Option<OwnedFd>,
}

impl Stdio {
    /// Their present numbers.
    fn numbers(&self) -> impl Iterator<Item = RawFd> + '_ {
        [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten().map(AsRawFd::as_raw_fd)
    }

    /// A terminal's slave for all three.
    pub(super) fn terminal(slave: OwnedFd) -> Result<Self, InitFailure> {
        let copy = || slave.try_clone().map(Some).step("duplicate the terminal", "");
        Ok(Self { stdin: copy()?, stdout: copy()?, stderr: Some(slave) })
    }
}

/// A container to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What init does.
    pub plan: &'a InitPlan,
    /// What the plan's fd indexes mean.
    pub fds: &'a [OwnedFd],
    /// The cgroup v2 folder it starts in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// `tasks` files of v1 hierarchies that it enters.
    pub v1_tasks: &'a [OwnedFd],
    /// A PID namespace of its own.
    pub new_pid_namespace: bool,
    /// The process whose PID namespace it joins instead.
    pub join_pid_namespace: Option<BorrowedFd<'a>>,
}

/// A process on its way to its program.
#[derive(Debug)]
pub struct Launched {
    /// Its id on the host.
    pub pid: i32,
    /// Refers to it for good.
    pub pidfd: OwnedFd,
    /// The conversation with it.
    pub control: OwnedFd,
}

/// Clones a container's init.
///
/// # Errors
/// What the kernel refuses: out of processes, the cgroup is gone …
pub fn launch(host: Host<'_>, launch: &Launch<'_>, stdio: Stdio) -> Result<Launched, InitFailure> {
    let (control, theirs) = unix_socket::pair().step("make init's control socket", "")?;
    if let Some(user) = host.user {
        user.give(&stdio, &launch.plan.process)?;
    }
    let mut stdio = Some(stdio);
    let mut start = |flags: i32| {
        let pid = if launch.new_pid_namespace { libc::CLONE_NEWPID } else { 0 };
        let flags = (flags | libc::CLONE_NEWNS | pid) as u64;
        match clone(host.threads, CloneConfig { flags, cgroup: launch.cgroup }).step("clone init", "")? {
            Cloned::Parent(child) => Ok(child),
            Cloned::Child => become_init(host, launch, &theirs, stdio.take().unwrap_or_default()),
        }
    };
    let Child { pid, pidfd } = match host.user {
        None => {
            let child = in_pid_namespace(host, launch.join_pid_namespace, || start(0))?;
            adjusted(host, &launch.plan.process, child)?
        }
        Some(user) => {
            let mut result = Err(InitFailure::refused("init's helper died", ""));
            let mut job = || {
                // The PID namespace first: its owner is not to be asked who may look at the pod's init.
                result = join_pid_namespace(launch.join_pid_namespace)
                    .and_then(|()| user.enter(host, &launch.plan.process))
                    .and_then(|()| start(libc::CLONE_PARENT));
            };
            let lent = in_borrower(host.threads, &mut job).step("clone init's helper", "");
            stay_closed()?;
            lent.and(result)?
        }
    };
    Ok(Launched { pid, pidfd, control })
}

/// Sets the OOM adjustment of a new process from outside: the host's procfs is nothing for it to have open. It waits for its
/// release before it executes anything. One that cannot be adjusted is gone afterwards.
pub(super) fn adjusted(host: Host<'_>, process: &ProcessPlan, child: Child) -> Result<Child, InitFailure> {
    let adjusted = process::set_oom_score(process, host.procfs, &child.pid.to_string());
    if adjusted.is_err() {
        let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
    adjusted.map(|()| child)
}

fn become_init(host: Host<'_>, launch: &Launch<'_>, control: &OwnedFd, stdio: Stdio) -> ! {
    let Launch { plan, fds, v1_tasks, .. } = *launch;
    let mut kept: Vec<RawFd> = fds.iter().chain(v1_tasks).map(AsRawFd::as_raw_fd).collect();
    kept.push(host.null.as_raw_fd());
    become_child(control, kept, stdio, |stdio| Init { plan, fds, v1_tasks, host, control, alone: None }.run(stdio))
}

/// Has `start` clone into the PID namespace of `target`, if there is one.
pub(super) fn in_pid_namespace<T>(
    host: Host<'_>,
    target: Option<BorrowedFd<'_>>,
    start: impl FnOnce() -> Result<T, InitFailure>,
) -> Result<T, InitFailure> {
    join_pid_namespace(target)?;
    let started = start();
    if target.is_some() {
        // Children would all end up there. It cannot fail: it is this process's own namespace.
        setns(host.own_pidfd, CloneFlags::CLONE_NEWPID).step("return to the monitor's PID namespace", "")?;
    }
    started
}

fn join_pid_namespace(target: Option<BorrowedFd<'_>>) -> Result<(), InitFailure> {
    match target {
        Some(target) => setns(target, CloneFlags::CLONE_NEWPID).step("join the PID namespace", ""),
        None => Ok(()),
    }
}

/// The child's whole life: either it becomes the program or it tells why not.
///
/// Of what the monitor has open it keeps only what it needs, since others in its PID namespace may see it: `kept`, the
/// control socket and its own standard input and output.
pub(super) fn become_child(
    control: &OwnedFd,
    mut kept: Vec<RawFd>,
    stdio: Stdio,
    life: impl FnOnce(Stdio) -> Result<Infallible, InitFailure>,
) -> ! {
    kept.push(control.as_raw_fd());
    kept.extend(stdio.numbers());
    let Err(failure) = close_all_but(&kept, || {
        let Err(failure) = life(stdio);
        fail(control, &failure)
    })
    .step("close file descriptors", "");
    fail(control, &failure)
}

/// Becomes the program, with nothing open but standard input and output: `/proc/self/fd/7/../../bin/sh`, or a link of the
/// image to it, would be a program of the host, which the container could then write to (CVE-2024-21626). That the others
/// are close-on-exec is not enough, since they close only after the program was found.
pub(super) fn execute_alone(
    control: &OwnedFd,
    program: impl FnOnce() -> Result<Infallible, InitFailure>,
) -> Result<Infallible, InitFailure> {
    execute_with(control, &[], program)
}

/// The same, but with descriptors that whoever asked for the process gave it.
pub(super) fn execute_with(
    control: &OwnedFd,
    passed: &[OwnedFd],
    program: impl FnOnce() -> Result<Infallible, InitFailure>,
) -> Result<Infallible, InitFailure> {
    let kept: Vec<RawFd> = passed.iter().chain([control]).map(AsRawFd::as_raw_fd).collect();
    close_all_but(&kept, || {
        let passed = passed.iter().try_for_each(|fd| fcntl_setfd(fd, FdFlags::empty()));
        let Err(failure) = passed.step("pass a file descriptor on", "").and_then(|()| program());
        fail(control, &failure)
    })
    .step("close file descriptors", "")
}

/// Tells the monitor why, and ends.
pub(super) fn fail(control: &OwnedFd, failure: &InitFailure) -> ! {
    let mut message = vec![FAILED];
    // The monitor's buffer has an end, and a command can be longer than any path.
    let InitFailure { step, path, errno } = failure;
    let (step, path) = (beginning(step).to_owned(), beginning(path).to_owned());
    InitFailure { step, path, errno: *errno }.encode_raw(&mut message);
    // When the monitor is gone nobody is left to tell.
    let _ = fd_passing::send(control, &message, &[]);
    exit_now(1)
}

/// Enough for people to see what is meant.
fn beginning(text: &str) -> &str {
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= REPORT_LIMIT / 4).last();
    if text.len() <= REPORT_LIMIT / 4 { text } else { &text[..end.unwrap_or(0)] }
}

/// Moves this process into v1 cgroups.
/// By `tasks` and not cgroup.procs: a thread that moves itself alone takes no lock against forks, for which the kernel waits an RCU
/// grace period, 6 ms, when none was moved a moment ago ("cgroup: Optimize single thread migration"). The caller has one thread.
pub(super) fn enter_v1_cgroups<'a>(v1_tasks: impl IntoIterator<Item = &'a OwnedFd>) -> Result<(), InitFailure> {
    for tasks in v1_tasks {
        rustix::io::write(tasks, b"0").step("enter a v1 cgroup", "")?;
    }
    Ok(())
}

/// What a runner says of the process that an OCI runtime made.
pub(super) fn report_ready(control: &OwnedFd, pid: i32, terminal: Option<OwnedFd>) -> Result<(), InitFailure> {
    let mut message = vec![READY];
    message.extend(pid.to_ne_bytes());
    let terminal = terminal.as_ref().map(AsFd::as_fd);
    fd_passing::send(control, &message, terminal.as_slice()).step("report to the monitor", "")
}

pub(super) fn report(control: &OwnedFd, what: u8, terminal: Option<BorrowedFd<'_>>) -> io::Result<()> {
    fd_passing::send(control, &[what], terminal.as_slice())
}

/// Blocks until the monitor says go.
pub(super) fn await_release(control: &OwnedFd) -> Result<(), InitFailure> {
    let mut byte = [0u8];
    loop {
        match rustix::io::read(control, &mut byte) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(1) if byte == [GO] => return Ok(()),
            // The monitor closed the socket: the container is given up, or the monitor is dead.
            Ok(_) => exit_now(1),
            Err(errno) => return Err(errno).step("wait for release", ""),
        }
    }
}

/// Lets init go on to its program.
///
/// # Errors
/// Init is gone.
pub fn release(control: impl AsFd) -> io::Result<()> {
    fd_passing::send(control, &[GO], &[])
}

/// A process that is set up.
#[derive(Debug)]
pub struct Ready {
    /// Its terminal's master side, if it has one.
    pub terminal: Option<OwnedFd>,
    /// Its id, where it is not the process that says so.
    pub pid: Option<i32>,
}

/// What a process on its way says.
#[derive(Debug)]
pub enum Report {
    /// Everything is set up.
    Ready(Ready),
    /// A step failed; the process exits.
    Failed(InitFailure),
    /// The program runs (or the process died: its exit will be seen).
    Closed,
}

/// Reads one report without blocking.
///
/// # Errors
/// `WouldBlock` when it has not said anything; others as recvmsg(2).
pub fn receive_report(control: impl AsFd) -> io::Result<Report> {
    let mut buffer = [0u8; REPORT_LIMIT];
    let (len, fds) = match fd_passing::receive(&control, &mut buffer) {
        // It died before it had read its release. What it said before that is still there, and is told now.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => fd_passing::receive(&control, &mut buffer)?,
        other => other?,
    };
    match buffer[..len].split_first() {
        None => Ok(Report::Closed),
        Some((&READY, pid)) => {
            let pid = pid.try_into().ok().map(i32::from_ne_bytes);
            Ok(Report::Ready(Ready { terminal: fds.into_iter().next(), pid }))
        }
        Some((_, body)) => Ok(Report::Failed(
            InitFailure::decode(body).unwrap_or_else(|_| InitFailure::refused("init failed and could not say why", "")),
        )),
    }
}
