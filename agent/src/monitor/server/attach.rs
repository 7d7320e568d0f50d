//! Clients attached to containers. Input goes from the agent straight to the container: the monitor hands out the way there.
//! Output is copied to each client on its way into the log. The kernel tells when a client is gone: nothing is kept of one
//! whose agent died.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;

use super::container::{Container, Input, Phase};
use super::create::{Fds, set_nonblocking};
use super::events::{Epoll, Source};
use super::monitor::{Monitor, Outcome};
use super::requests::wrong_state;
use super::sink::{Lost, Sink};
use super::spawner::internal;
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::monitor::protocol::{Attach, Body, Failure, Nothing, SessionEnd};

/// Each takes descriptors, and time for each piece of output.
const CLIENTS_LIMIT: usize = 16;
/// How far behind a pod's clients may be together, in bytes: that is memory. The one furthest behind is given up first.
const LAG_LIMIT: u64 = 64 << 20;

/// One attached client.
#[derive(Debug)]
struct Client {
    /// Names it in epoll; never used again.
    serial: u32,
    /// The container's serial number.
    container: u32,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
    session: OwnedFd,
    /// The container ended; the client may still have output to read.
    over: bool,
}

/// Every attached client of a pod.
#[derive(Debug, Default)]
pub(super) struct Clients(Vec<Client>);

impl Monitor {
    /// Attaches a client to a running container.
    pub(super) fn attach(&mut self, attach: &Attach, fds: Vec<OwnedFd>) -> Result<Outcome, Failure> {
        let Attach { id, stdin, stdout_fd, stderr_fd, session_fd } = attach;
        let mut fds = Fds::new(fds);
        let client = self.serial();
        let container = self.find(id)?;
        if container.death.is_some() || !matches!(container.phase, Phase::Running { .. }) {
            return Err(wrong_state("the container does not run"));
        }
        let serial = container.serial;
        // What has ended already stays closed: the client sees the end at once.
        let (has_stdout, has_stderr) = (container.stdio.stdout.is_some(), container.stdio.stderr.is_some());
        let mut sink = |index: &Option<u32>, open: bool| match index {
            Some(index) => fds.take(*index).map(|pipe| open.then_some(pipe)),
            None => Ok(None),
        };
        let (stdout, stderr) = (sink(stdout_fd, has_stdout)?, sink(stderr_fd, has_stderr)?);
        let client = Client {
            serial: client,
            container: serial,
            stdout: stdout.map(Sink::new).transpose().map_err(internal)?,
            stderr: stderr.map(Sink::new).transpose().map_err(internal)?,
            session: fds.take(*session_fd)?,
            over: false,
        };
        set_nonblocking(&client.session).map_err(internal)?;
        if self.clients.0.iter().filter(|client| client.container == serial).count() >= CLIENTS_LIMIT {
            return Err(wrong_state(&format!("{CLIENTS_LIMIT} clients are attached to the container already")));
        }
        // Last: what is handed out once is gone if anything fails.
        client.watch(&self.epoll).map_err(internal)?;
        let lent = if *stdin { self.find(id)?.lend_stdin() } else { Ok(None) };
        match lent.step("duplicate standard input", "").map_err(internal) {
            Ok(stdin) => {
                self.clients.0.push(client);
                Ok(Outcome::AnswerWith(Body::Attached(Nothing {}), stdin.into_iter().collect()))
            }
            Err(failure) => {
                client.unwatch(&self.epoll);
                Err(failure)
            }
        }
    }

    /// A client has room, or closed something.
    pub(super) fn on_client(&mut self, serial: u32, source: Source, flags: EventFlags) {
        let Some(at) = self.clients.0.iter().position(|client| client.serial == serial) else { return };
        let client = &mut self.clients.0[at];
        let lost = match source {
            Source::ClientSession => Some(Lost::Gone),
            _ if flags.intersects(EventFlags::ERR | EventFlags::HUP) => {
                client.close(&self.epoll, source);
                None
            }
            _ => match client.sink(source) {
                Some(sink) => sink.drain(self.buffers.scratch()).err(),
                None => None,
            },
        };
        self.clients.settle(&self.epoll, at, source, lost);
    }
}

impl Clients {
    /// A container said something.
    pub(super) fn copy(&mut self, epoll: &Epoll, container: u32, output: Source, bytes: &[u8]) {
        let source = client_of(output);
        // From the last to the first: `settle` takes out by putting the last one in its place.
        for at in (0..self.0.len()).rev() {
            let client = &mut self.0[at];
            if client.container != container {
                continue;
            }
            let Some(sink) = client.sink(source) else { continue };
            let lost = match sink.write(bytes) {
                // It wants no more of this stream; the session is another matter.
                Err(Lost::Gone) => {
                    client.close(epoll, source);
                    None
                }
                other => other.err(),
            };
            self.settle(epoll, at, source, lost);
        }
        self.limit_lag(epoll);
    }

    fn limit_lag(&mut self, epoll: &Epoll) {
        while self.0.iter().map(Client::lag).sum::<u64>() > LAG_LIMIT {
            let furthest = (0..self.0.len()).max_by_key(|at| self.0[*at].lag());
            let Some(at) = furthest else { return };
            self.settle(epoll, at, Source::ClientSession, Some(Lost::Behind));
        }
    }

    /// One of a container's streams is at its end.
    pub(super) fn end_stream(&mut self, epoll: &Epoll, container: u32, output: Source) {
        let source = client_of(output);
        for at in (0..self.0.len()).rev() {
            if self.0[at].container == container {
                self.0[at].sink(source).into_iter().for_each(|sink| sink.ended = true);
                self.settle(epoll, at, source, None);
            }
        }
    }

    /// A container ended.
    pub(super) fn end_container(&mut self, epoll: &Epoll, container: u32) {
        for at in (0..self.0.len()).rev() {
            if self.0[at].container == container {
                self.0[at].over = true;
                for source in [Source::ClientStdout, Source::ClientStderr] {
                    self.0[at].sink(source).into_iter().for_each(|sink| sink.ended = true);
                }
            }
        }
        for output in [Source::Stdout, Source::Stderr] {
            self.end_stream(epoll, container, output);
        }
    }

    /// After something happened to a client's stream: closes what is done with, and watches for room if that is waited for.
    fn settle(&mut self, epoll: &Epoll, at: usize, source: Source, lost: Option<Lost>) {
        let client = &mut self.0[at];
        if client.sink(source).is_some_and(|sink| sink.ended && !sink.is_waiting()) {
            client.close(epoll, source);
        }
        let end = match lost {
            Some(Lost::Gone) => None,
            Some(Lost::Behind) => Some(SessionEnd::FellBehind),
            None if client.over && client.stdout.is_none() && client.stderr.is_none() => {
                Some(SessionEnd::ContainerEnded)
            }
            // Out of memory for epoll: it would wait for ever.
            None if client.watch_for_room(epoll, source).is_err() => Some(SessionEnd::FellBehind),
            None => return,
        };
        let client = self.0.swap_remove(at);
        client.unwatch(epoll);
        if let Some(end) = end {
            // An agent that is gone needs no telling.
            let _ = rustix::io::write(&client.session, &[end as u8]);
        }
    }
}

/// A client's stream for a container's.
fn client_of(output: Source) -> Source {
    if output == Source::Stdout { Source::ClientStdout } else { Source::ClientStderr }
}

impl Client {
    fn lag(&self) -> u64 {
        [&self.stdout, &self.stderr].into_iter().flatten().map(Sink::lag).sum()
    }

    fn slot(&mut self, source: Source) -> &mut Option<Sink> {
        if source == Source::ClientStdout { &mut self.stdout } else { &mut self.stderr }
    }

    fn sink(&mut self, source: Source) -> Option<&mut Sink> {
        self.slot(source).as_mut()
    }

    fn close(&mut self, epoll: &Epoll, source: Source) {
        if let Some(sink) = self.slot(source).take() {
            epoll.unwatch(sink.fd());
        }
    }

    fn watch(&self, epoll: &Epoll) -> Result<(), InitFailure> {
        // With no flags, the other side's going is told all the same.
        let nothing = EventFlags::empty();
        epoll.watch(self.session.as_fd(), Source::ClientSession, self.serial, nothing)?;
        for (sink, source) in [(&self.stdout, Source::ClientStdout), (&self.stderr, Source::ClientStderr)] {
            if let Some(sink) = sink {
                epoll.watch(sink.fd(), source, self.serial, nothing)?;
            }
        }
        Ok(())
    }

    fn watch_for_room(&mut self, epoll: &Epoll, source: Source) -> Result<(), InitFailure> {
        let serial = self.serial;
        match self.sink(source) {
            Some(sink) => {
                let flags = if sink.is_waiting() { EventFlags::OUT } else { EventFlags::empty() };
                epoll.change(sink.fd(), source, serial, flags)
            }
            None => Ok(()),
        }
    }

    fn unwatch(&self, epoll: &Epoll) {
        epoll.unwatch(&self.session);
        for sink in [&self.stdout, &self.stderr].into_iter().flatten() {
            epoll.unwatch(sink.fd());
        }
    }
}

impl Container {
    /// The way to its standard input; `None`: it takes none (any more). A terminal's is the terminal itself. With
    /// `stdin_once` the pipe is given away, so that it closes with whoever has it, however that ends.
    fn lend_stdin(&mut self) -> std::io::Result<Option<OwnedFd>> {
        match (self.input, self.terminal()) {
            (Input::None, _) => Ok(None),
            (_, Some(master)) => master.try_clone_to_owned().map(Some),
            (Input::Kept, None) => self.stdio.stdin.as_ref().map(OwnedFd::try_clone).transpose(),
            (Input::Once, None) => Ok(self.stdio.stdin.take()),
        }
    }
}
