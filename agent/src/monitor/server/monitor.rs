//! The event loop: what a monitor waits for, and who deals with it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::epoll::{Event, EventFlags};
use rustix::time::{ClockId, clock_gettime};

use super::attach::Clients;
use super::connection::{Connection, Requester};
use super::container::Container;
use super::events::{Epoll, Source};
use super::exec::ExecProcess;
use super::log::{Buffers, Fork, Start};
use super::pod::Network;
use super::requests::not_found;
use super::strays::Strays;
use super::template;
use super::user_namespace::UserNamespace;
use crate::libcontainer::run::Host;
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::monitor::protocol::frame::{self, FrameError};
use crate::monitor::protocol::{Body, Failure, Request};
use crate::sys::clone::{Child, SingleThreaded};
use crate::sys::{signal, unix_socket};

/// What a monitor keeps for the pod's whole life.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) threads: SingleThreaded,
    pub(super) host: template::Host,
    pub(super) own_pidfd: OwnedFd,
    pub(super) pod: String,
    pub(super) network: Option<Network>,
    pub(super) pod_init: Option<Child>,
    pub(super) user: Option<UserNamespace>,
}

impl Kept {
    /// What is lent to new processes.
    pub(super) fn host(&self) -> Host<'_> {
        Host {
            threads: self.threads,
            procfs: self.host.procfs.as_fd(),
            null: self.host.null.as_fd(),
            own_pidfd: self.own_pidfd.as_fd(),
            user: self.user.as_ref().map(UserNamespace::lend),
        }
    }

    /// What starting a log's writer takes.
    pub(super) fn start_writer<'a>(&'a self, epoll: &'a Epoll, serial: u32) -> Start<'a> {
        let network = self.network.as_ref().map(|_| self.host.network.as_fd());
        Start { fork: Fork { threads: self.threads, network }, epoll, serial }
    }
}

/// One pod's monitor.
#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) kept: Kept,
    pub(super) epoll: Epoll,
    listener: OwnedFd,
    signals: SignalFd,
    pub(super) connection: Connection,
    /// The connection is watched for room, too.
    watching_for_room: bool,
    pub(super) buffers: Buffers,
    pub(super) containers: Vec<Container>,
    pub(super) execs: Vec<ExecProcess>,
    pub(super) clients: Clients,
    pub(super) strays: Strays,
    next_serial: u32,
    /// The monitor leaves when everything has ended; who waits for that.
    pub(super) leaving: Option<Vec<Requester>>,
    /// And when at the latest.
    pub(super) leave_by: Option<Instant>,
}

/// How a verb ended for now.
pub(super) enum Outcome {
    Answer(Body),
    AnswerWith(Body, Vec<OwnedFd>),
    /// The answer comes when something has happened.
    Later,
}

impl Monitor {
    pub(super) fn new(kept: Kept, listener: OwnedFd, connection: OwnedFd) -> Result<Self, InitFailure> {
        let children = SigSet::from(NixSignal::SIGCHLD);
        children.thread_block().step("block SIGCHLD", "")?;
        signal::notice_children();
        let signals = SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .step("open a signalfd", "")?;
        let mut monitor = Self {
            kept,
            epoll: Epoll::new()?,
            listener,
            signals,
            connection: Connection::default(),
            watching_for_room: false,
            buffers: Buffers::new().step("reserve memory", "")?,
            containers: Vec::new(),
            execs: Vec::new(),
            clients: Clients::default(),
            strays: Strays::new(),
            next_serial: 0,
            leaving: None,
            leave_by: None,
        };
        monitor.watch(monitor.listener.as_fd(), Source::Listener, 0)?;
        monitor.watch(monitor.signals.as_fd(), Source::Signals, 0)?;
        monitor.adopt(connection)?;
        Ok(monitor)
    }

    /// Answers what the agent has said already.
    pub(super) fn greet(&mut self) {
        self.read_requests();
    }

    /// Serves until the agent says shutdown and everything has ended.
    pub(super) fn run(&mut self) -> Result<(), InitFailure> {
        let mut events: Vec<Event> = Vec::with_capacity(16);
        loop {
            // Before waiting: `greet` may have heard all that there is to hear, a farewell included.
            self.watch_for_room()?;
            if self.has_left() {
                return Ok(());
            }
            events.clear();
            self.wait(&mut events)?;
            for event in &events {
                if let Some((source, serial)) = Source::of(event.data) {
                    self.dispatch(source, serial, event.flags);
                }
            }
            self.keep_deadlines();
        }
    }

    /// Waits for events; memory that only busy times need is given back before a wait that really waits.
    fn wait(&mut self, events: &mut Vec<Event>) -> Result<(), InitFailure> {
        if self.buffers.are_used() {
            self.epoll.wait(events, Some(Duration::ZERO))?;
            if !events.is_empty() {
                return Ok(());
            }
            self.buffers.release();
        }
        let now = Instant::now();
        let timeout = self.next_deadline().map(|deadline| deadline.saturating_duration_since(now));
        self.epoll.wait(events, timeout)
    }

    fn dispatch(&mut self, source: Source, serial: u32, flags: EventFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Connection => {
                self.connection.flush();
                self.read_requests();
            }
            Source::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Source::Control => self.on_report(serial),
            Source::Stdout | Source::Stderr => self.on_output(serial, source),
            Source::ExecControl => self.on_exec_report(serial),
            Source::Log => self.on_log(serial),
            Source::ClientStdout | Source::ClientStderr | Source::ClientSession => {
                self.on_client(serial, source, flags);
            }
        }
    }

    /// A number for a new container or exec.
    pub(super) fn serial(&mut self) -> u32 {
        self.next_serial = self.next_serial.wrapping_add(1);
        self.next_serial
    }

    /// Has epoll tell when there is something to read.
    pub(super) fn watch(&self, fd: BorrowedFd<'_>, source: Source, serial: u32) -> Result<(), InitFailure> {
        self.epoll.watch(fd, source, serial, EventFlags::IN)
    }

    /// Before an fd is closed.
    pub(super) fn unwatch(&self, fd: impl AsFd) {
        self.epoll.unwatch(fd);
    }

    fn watch_for_room(&mut self) -> Result<(), InitFailure> {
        let wanted = self.connection.has_unsent();
        let Some(socket) = self.connection.socket() else {
            self.watching_for_room = false;
            return Ok(());
        };
        if wanted != self.watching_for_room {
            let flags = if wanted { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            self.epoll.change(socket, Source::Connection, 0, flags)?;
            self.watching_for_room = wanted;
        }
        Ok(())
    }

    fn accept(&mut self) {
        // The newest agent wins: the one before it is dead, or about to be told that it has been replaced.
        if let Ok(Some(socket)) = unix_socket::accept_root(&self.listener) {
            let _ = self.adopt(socket);
        }
    }

    fn adopt(&mut self, socket: OwnedFd) -> Result<(), InitFailure> {
        self.disconnect();
        self.watch(socket.as_fd(), Source::Connection, 0)?;
        self.connection.replace(Some(socket));
        self.watching_for_room = false;
        Ok(())
    }

    fn disconnect(&mut self) {
        if let Some(socket) = self.connection.socket() {
            self.unwatch(socket);
        }
        self.connection.replace(None);
    }

    fn read_requests(&mut self) {
        while let Some(socket) = self.connection.socket() {
            match frame::receive::<Request>(socket, self.buffers.packet()) {
                Ok((request, fds)) => self.handle(request, fds),
                Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The agent is gone, or talks nonsense: either way the next one starts afresh.
                Err(_) => return self.disconnect(),
            }
        }
    }

    /// The container of that id.
    pub(super) fn find(&mut self, id: &str) -> Result<&mut Container, Failure> {
        find(&mut self.containers, id)
    }

    /// Where the container of that serial number is.
    pub(super) fn position(&self, serial: u32) -> Option<usize> {
        self.containers.iter().position(|container| container.serial == serial)
    }
}

/// The container of that id among these.
pub(super) fn find<'a>(containers: &'a mut [Container], id: &str) -> Result<&'a mut Container, Failure> {
    containers.iter_mut().find(|container| container.id == id).ok_or_else(|| not_found("container", id))
}

/// ns since 1970.
pub(super) fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
