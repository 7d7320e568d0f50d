//! A container without a monitor (an OCI bundle's): one command clones it and ends, another one releases it through a
//! socket that init listens on, and whoever reaps this process's orphans reaps it.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use prost::Message;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::failure::{InitFailure, Step};
use super::hooks::run_hooks;
use super::init::Init;
use super::labels;
use super::launch::{GO, Host, Launched, Report, Stdio, adjusted, become_child, execute_with, fail, receive_report};
use super::open::{OpenError, open};
use super::overlay::mount_overlay;
use super::process::execute;
use super::template;
use crate::libcontainer::plan::{FdSource, InitPlan, Names};
use crate::sys::clone::{Child, CloneConfig, Cloned, clone, close_all_but, exit_now, in_borrower};
use crate::sys::{fd_passing, memfd, unix_socket};

/// What hooks are told; annotations are part of it.
const STATES_LIMIT: u64 = 16 << 20;
/// Signals that end a program which does nothing about them. Init waits as pid 1, whom the kernel spares.
const ENDING: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// A container to start.
#[derive(Debug)]
pub struct Alone<'a> {
    /// What init does.
    pub plan: &'a InitPlan,
    /// What the plan's first fd indexes mean.
    pub fds: &'a [OwnedFd],
    /// What they all mean. Beyond `fds` init opens them itself, when their turn comes: since Linux 6.8 mountinfo lists mounts
    /// by their age. Who is in a user namespace cannot.
    pub sources: &'a [FdSource],
    /// The cgroup v2 folder it starts in.
    pub cgroup: Option<std::os::fd::BorrowedFd<'a>>,
    /// `tasks` files of v1 hierarchies that it enters.
    pub v1_tasks: &'a [OwnedFd],
    /// The namespaces that it gets.
    pub new: CloneFlags,
    /// Those it is born in, the user namespace last.
    pub joined: &'a [(CloneFlags, OwnedFd)],
    /// Those it enters itself: cgroup and time.
    pub joined_late: &'a [(CloneFlags, OwnedFd)],
    /// Gets a new time namespace with these lines of timens_offsets (time_namespaces(7)).
    pub time_offsets: Option<&'a str>,
    /// From `blank`.
    pub template: &'a OwnedFd,
    /// Where it waits for `start`.
    pub listener: &'a OwnedFd,
    /// Descriptors that its program gets under their numbers.
    pub passed: &'a [OwnedFd],
}

/// What hooks that init runs are told of the container (OCI runtime-spec, state).
#[derive(Clone, PartialEq, Message)]
pub struct HookStates {
    /// For `createContainer`.
    #[prost(string, tag = "1")]
    pub creating: String,
    /// For `startContainer`.
    #[prost(string, tag = "2")]
    pub created: String,
}

/// A namespace that nix has no name for.
pub const NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// What masks are made of.
///
/// # Errors
/// tmpfs cannot be mounted.
pub fn blank() -> Result<OwnedFd, InitFailure> {
    template::template(&[])
}

/// The socket that init waits on.
///
/// # Errors
/// bind(2)'s.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    unix_socket::listen(path)
}

/// Clones a container's init, which waits for `proceed`.
///
/// # Errors
/// Namespaces that cannot be entered or made, or what clone3(2) refuses.
pub fn launch_alone(host: Host<'_>, launch: &Alone<'_>, stdio: Stdio) -> Result<Launched, InitFailure> {
    let (control, theirs) = unix_socket::pair().step("make init's control socket", "")?;
    let mut stdio = Some(stdio);
    let mut result = Err(InitFailure::refused("init's helper died", ""));
    let mut job = || {
        result = launch.bring_label(host).and_then(|()| launch.enter_namespaces(host)).and_then(|()| {
            let flags = u64::from((launch.new | CloneFlags::CLONE_PARENT).bits().unsigned_abs());
            match clone(host.threads, CloneConfig { flags, cgroup: launch.cgroup }).step("clone init", "")? {
                Cloned::Parent(child) => Ok(child),
                Cloned::Child => launch.become_init(host, &theirs, stdio.take().unwrap_or_default()),
            }
        });
    };
    in_borrower(host.threads, &mut job).step("clone init's helper", "")?;
    let Child { pid, pidfd } = adjusted(host, &launch.plan.process, result?)?;
    Ok(Launched { pid, pidfd, control })
}

impl Alone<'_> {
    /// What is behind an index that nobody opened before.
    pub(super) fn open(&self, index: u32) -> Option<Result<OwnedFd, InitFailure>> {
        let index = usize::try_from(index).ok().filter(|index| *index >= self.fds.len())?;
        let source = std::slice::from_ref(self.sources.get(index)?);
        let opened: Result<_, OpenError> = open(source, None, &|overlay| mount_overlay(overlay, None));
        let opened = opened.map_err(|error| error.as_failure());
        Some(opened.and_then(|mut fds| fds.pop().ok_or_else(|| InitFailure::refused("a mount opened as none", ""))))
    }

    /// The borrower's part of the label of who will be in a user namespace, and could not ask for it there.
    fn bring_label(&self, host: Host<'_>) -> Result<(), InitFailure> {
        if self.plan.namespaces.user { labels::ask_for(&self.plan.process, host.procfs) } else { Ok(()) }
    }

    fn enter_namespaces(&self, host: Host<'_>) -> Result<(), InitFailure> {
        if let Some(offsets) = self.time_offsets {
            unshare(NEWTIME).step("make a time namespace", "")?;
            if !offsets.is_empty() {
                let (path, flags) = ("self/timens_offsets", OFlags::WRONLY | OFlags::CLOEXEC);
                let file = openat(host.procfs, path, flags, Mode::empty()).step("open", path)?;
                rustix::io::write(&file, offsets.as_bytes()).step("set the offsets of the time namespace", offsets)?;
            }
        }
        self.joined.iter().try_for_each(|(kind, fd)| enter(*kind, fd))
    }

    fn become_init(&self, host: Host<'_>, control: &OwnedFd, stdio: Stdio) -> ! {
        let Alone { plan, fds, v1_tasks, .. } = *self;
        let late = self.joined_late.iter().map(|(_, fd)| fd);
        let kept = fds.iter().chain(v1_tasks).chain(self.passed).chain(late).chain([self.template, self.listener]);
        let mut kept: Vec<RawFd> = kept.map(AsRawFd::as_raw_fd).collect();
        kept.push(host.null.as_raw_fd());
        become_child(control, kept, stdio, |stdio| {
            Init { plan, fds, v1_tasks, host, control, alone: Some(self) }.run(stdio)
        })
    }

    /// Waits until everything that the host's root has to do about this process is done.
    pub(super) fn begin(&self, control: &OwnedFd) -> Result<HookStates, InitFailure> {
        let step = "wait for the runtime";
        let mut byte = [0u8];
        let fd = loop {
            poll(&mut [PollFd::new(control, PollFlags::IN)], None)
                .map(drop)
                .or_else(unless_interrupted)
                .step(step, "")?;
            match fd_passing::receive(control, &mut byte) {
                Ok((1, mut fds)) if fds.len() == 1 => break fds.swap_remove(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The command gave the container up, or is dead.
                _ => exit_now(1),
            }
        };
        let states = memfd::read_sealed(&fd, STATES_LIMIT).step(step, "")?;
        self.joined_late.iter().try_for_each(|(kind, fd)| enter(*kind, fd))?;
        HookStates::decode(states.as_slice()).map_err(|_| InitFailure::refused("the runtime said what is no state", ""))
    }

    /// Waits for its release, and becomes the program.
    pub(super) fn finish(&self, plan: &InitPlan, state: &str) -> Result<Infallible, InitFailure> {
        let mut kept = vec![self.listener.as_raw_fd()];
        kept.extend(self.passed.iter().map(AsRawFd::as_raw_fd));
        let wait = || {
            let connection = await_start(self.listener)?;
            if let Err(failure) = run_hooks(&plan.start_hooks, state) {
                fail(&connection, &failure);
            }
            execute_with(&connection, self.passed, || execute(&plan.process))
        };
        close_all_but(&kept, || {
            // Nobody is there to be told.
            let Err::<Infallible, InitFailure>(_) = wait();
            exit_now(1)
        })
        .step("close file descriptors", "")
    }
}

fn unless_interrupted(errno: Errno) -> Result<(), Errno> {
    if errno == Errno::INTR { Ok(()) } else { Err(errno) }
}

fn enter(kind: CloneFlags, fd: &OwnedFd) -> Result<(), InitFailure> {
    let name = match kind {
        CloneFlags::CLONE_NEWNS => "mount",
        CloneFlags::CLONE_NEWCGROUP => "cgroup",
        CloneFlags::CLONE_NEWUTS => "uts",
        CloneFlags::CLONE_NEWIPC => "ipc",
        CloneFlags::CLONE_NEWUSER => "user",
        CloneFlags::CLONE_NEWPID => "pid",
        CloneFlags::CLONE_NEWNET => "network",
        _ => "time",
    };
    setns(fd, kind).step("join the namespace of type", name)
}

/// Hostname and domain name of this process's UTS namespace.
pub(super) fn set_names(names: &Names) -> Result<(), InitFailure> {
    if !names.hostname.is_empty() {
        rustix::system::sethostname(names.hostname.as_bytes()).step("set the hostname", &names.hostname)?;
    }
    if !names.domainname.is_empty() {
        rustix::system::setdomainname(names.domainname.as_bytes()).step("set the domain name", &names.domainname)?;
    }
    Ok(())
}

/// The connection of who starts the container. It ends with the signals that end a program which waits for nothing.
fn await_start(listener: &OwnedFd) -> Result<OwnedFd, InitFailure> {
    let step = "wait to be started";
    let ending: SigSet = ENDING.into_iter().collect();
    ending.thread_block().step(step, "")?;
    let signals = SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC).step(step, "")?;
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        poll(&mut ready, None).map(drop).or_else(unless_interrupted).step(step, "")?;
        if ready[1].revents().contains(PollFlags::IN) {
            exit_now(128 + signals.read_signal().ok().flatten().map_or(0, |signal| signal.ssi_signo.cast_signed()));
        }
        if !ready[0].revents().contains(PollFlags::IN) {
            continue;
        }
        let Ok(connection) = accept_with(listener, SocketFlags::CLOEXEC) else { continue };
        let mut byte = [0u8];
        // Who only looks whether somebody listens says nothing.
        if matches!(rustix::io::read(&connection, &mut byte), Ok(1)) && byte == [GO] {
            return Ok(connection);
        }
    }
}

/// Lets a cloned init begin.
///
/// # Errors
/// It is gone.
pub fn proceed(control: impl AsFd, states: &HookStates) -> io::Result<()> {
    let states = memfd::sealed(c"states", &states.encode_to_vec())?;
    fd_passing::send(control, &[GO], &[states.as_fd()])
}

/// What came of a start.
#[derive(Debug)]
pub enum Started {
    /// The program runs, or ran.
    Running,
    /// A step failed, and init ends.
    Failed(InitFailure),
}

/// Starts the container that waits on the socket at `path`, and waits until its program runs.
///
/// # Errors
/// `ConnectionRefused` or `NotFound`: nobody waits.
pub fn start(path: &Path) -> io::Result<Started> {
    let connection = unix_socket::connect(path)?;
    fd_passing::send(&connection, &[GO], &[])?;
    loop {
        match poll(&mut [PollFd::new(&connection, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        match receive_report(&connection) {
            Ok(Report::Failed(failure)) => return Ok(Started::Failed(failure)),
            Ok(Report::Closed) => return Ok(Started::Running),
            Ok(Report::Ready(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
