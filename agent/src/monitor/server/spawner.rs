//! The process that forks monitors. It serves one agent and ends with it, without touching a pod.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, set_dumpable_behavior, setsid};
use rustix::stdio::{dup2_stdin, dup2_stdout};

use super::{overlay, placeholder, pod, template};
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::monitor::protocol::frame::{self, FrameError, PACKET_LIMIT, Packet};
use crate::monitor::protocol::{
    Answer, Body, Call, Failure, FailureKind, ForkMonitor, ForkPlaceholder, Forked, Hello, HelloAnswer, MountOverlay,
    Request, VERSION,
};
use crate::sys::clone::{Child, CloneConfig, Cloned, SingleThreaded, clone};
use crate::sys::signal;

/// The program `berth-monitor`: the agent's socket is standard input.
pub fn main() -> ExitCode {
    let result = Spawner::start().and_then(Spawner::serve);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.to_string());
            ExitCode::FAILURE
        }
    }
}

struct Spawner {
    threads: SingleThreaded,
    socket: OwnedFd,
    host: template::Host,
}

/// What the next child is to be.
enum Fork {
    Monitor(ForkMonitor),
    /// With the index of its pipe.
    Placeholder(u32),
    Overlay(MountOverlay),
}

impl Spawner {
    fn start() -> Result<Self, InitFailure> {
        let threads = SingleThreaded::verify().step("count threads", "")?;
        // Nobody may look into a monitor: its memory and fds are the way to every container (CVE-2016-9962).
        set_dumpable_behavior(DumpableBehavior::NotDumpable).step("become not dumpable", "")?;
        signal::default_but_pipe();
        // Otherwise it is named after the fd that it was executed from.
        let _ = rustix::thread::set_name(c"berth-monitor");
        let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).step("take the agent's socket", "")?;
        // A session of its own: Ctrl-C at the agent's terminal must not reach a pod. Fails if it leads one already.
        let _ = setsid();
        let mut buffer = vec![0; PACKET_LIMIT];
        let (id, cgroup) = await_hello(&socket, &mut buffer)?;
        let started = (|| {
            for cgroup in cgroup {
                rustix::io::write(&cgroup, b"0").step("enter the monitors' cgroup", "")?;
            }
            template::enter()
        })();
        match started {
            Ok(host) => {
                let pid = rustix::process::getpid().as_raw_pid();
                let hello = HelloAnswer { version: VERSION, pid, ..HelloAnswer::default() };
                answer(&socket, id, Body::Hello(hello), Vec::new())?;
                dup2_stdin(&host.null).step("open standard input", "")?;
                dup2_stdout(&host.null).step("open standard output", "")?;
                // Monitors are reaped by the kernel; the agent holds their pidfds.
                signal::ignore_children();
                Ok(Self { threads, socket, host })
            }
            Err(failure) => {
                answer(&socket, id, Body::Failure(internal(failure.clone())), Vec::new())?;
                Err(failure)
            }
        }
    }

    fn serve(self) -> Result<(), InitFailure> {
        let mut buffer = vec![0; PACKET_LIMIT];
        loop {
            let (request, fds) = match await_request(&self.socket, &mut buffer) {
                Ok(request) => request,
                Err(FrameError::Closed) => return Ok(()),
                Err(error) => return Err(InitFailure::refused(&format!("agent's socket: {error}"), "")),
            };
            let fork = match request.call {
                Some(Call::ForkMonitor(pod)) => Fork::Monitor(pod),
                Some(Call::ForkPlaceholder(ForkPlaceholder { pipe_fd })) => Fork::Placeholder(pipe_fd),
                Some(Call::MountOverlay(overlay)) => Fork::Overlay(overlay),
                _ => {
                    let failure = invalid("a spawner does nothing but fork");
                    answer(&self.socket, request.id, Body::Failure(failure), Vec::new())?;
                    continue;
                }
            };
            let (body, fds) = match clone(self.threads, CloneConfig::default()).step("fork", "") {
                Ok(Cloned::Parent(Child { pid, pidfd })) => (Body::Forked(Forked { pid }), vec![pidfd]),
                Ok(Cloned::Child) => {
                    let Self { threads, host, socket } = self;
                    // The agent learns of the spawner's death by this socket, which nobody else may keep open.
                    drop((socket, buffer));
                    match fork {
                        Fork::Monitor(pod) => pod::become_monitor(pod::Start { threads, host, pod, fds }),
                        Fork::Placeholder(pipe) => placeholder::wait(fds, pipe),
                        Fork::Overlay(request) => overlay::serve(fds, request),
                    }
                }
                Err(failure) => (Body::Failure(internal(failure)), Vec::new()),
            };
            answer(&self.socket, request.id, body, fds)?;
        }
    }
}

/// The first request, which has to be a hello: its id and the fds it came with.
fn await_hello(socket: &OwnedFd, buffer: &mut [u8]) -> Result<(u64, Vec<OwnedFd>), InitFailure> {
    match await_request(socket, buffer) {
        Ok((Request { id, call: Some(Call::Hello(Hello { .. })) }, fds)) => Ok((id, fds)),
        Ok(_) => Err(InitFailure::refused("the agent did not say hello", "")),
        Err(error) => Err(InitFailure::refused(&format!("standard input is not the agent's socket: {error}"), "")),
    }
}

fn await_request(socket: &OwnedFd, buffer: &mut [u8]) -> Result<(Request, Vec<OwnedFd>), FrameError> {
    loop {
        match frame::receive(socket, buffer) {
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                match poll(&mut [PollFd::new(socket, PollFlags::IN)], None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(FrameError::Io(errno.into())),
                }
            }
            other => return other,
        }
    }
}

/// Tells whoever reads the log. Standard error may be a pipe whose reader went with an earlier agent, and `eprintln!` would
/// then panic: a monitor must not end for want of listeners.
pub(super) fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "berth-monitor: {what}");
}

/// Sends an answer, waiting for room if need be.
pub(super) fn answer(socket: &OwnedFd, id: u64, body: Body, fds: Vec<OwnedFd>) -> Result<(), InitFailure> {
    let packet = Packet::new(&Answer { id, body: Some(body) }, fds)
        .map_err(|error| InitFailure::refused(&format!("answer the agent: {error}"), ""))?;
    loop {
        match packet.send(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(socket, PollFlags::OUT)], None);
            }
            // The agent is gone: the next receive says so.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => return other.step("answer the agent", ""),
        }
    }
}

/// The monitor's own trouble, as an answer.
pub(super) fn internal(failure: InitFailure) -> Failure {
    with_kind(failure, FailureKind::Internal)
}

/// A request that makes no sense.
pub(super) fn invalid(why: &str) -> Failure {
    with_kind(InitFailure::refused(why, ""), FailureKind::Invalid)
}

/// A failure of that kind.
pub(super) fn with_kind(failure: InitFailure, kind: FailureKind) -> Failure {
    let InitFailure { step, path, errno } = failure;
    Failure { kind: kind.into(), step, path, errno }
}
