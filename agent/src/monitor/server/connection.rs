//! The agent's connection: answers, events, and what could not be sent yet. The newest agent wins.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::monitor::protocol::frame::Packet;
use crate::monitor::protocol::{Answer, Body};

/// So many packets may wait for an agent that does not read; it is cut off then and learns by asking.
const BACKLOG: usize = 1024;

/// Where an answer goes: nowhere, once another agent has connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Requester {
    generation: u64,
    id: u64,
}

/// One agent's connection, or none at the moment.
#[derive(Debug, Default)]
pub(super) struct Connection {
    socket: Option<OwnedFd>,
    generation: u64,
    unsent: VecDeque<Packet>,
}

impl Connection {
    /// Replaces the connection; the old one closes.
    pub(super) fn replace(&mut self, socket: Option<OwnedFd>) {
        self.socket = socket;
        self.generation += 1;
        self.unsent.clear();
    }

    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Names whoever sent request `id` on the present connection.
    pub(super) fn requester(&self, id: u64) -> Requester {
        Requester { generation: self.generation, id }
    }

    /// Answers a request, unless its agent is gone.
    pub(super) fn answer(&mut self, to: Requester, body: Body, fds: Vec<OwnedFd>) {
        if self.is_of(to) {
            self.send(to.id, body, fds);
        }
    }

    /// Whether the present agent sent that request.
    pub(super) fn is_of(&self, requester: Requester) -> bool {
        requester.generation == self.generation
    }

    /// Tells the agent unasked. With no agent there nothing is lost: the next one inspects.
    pub(super) fn event(&mut self, body: Body) {
        self.send(0, body, Vec::new());
    }

    /// Something waits to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) {
        while let (Some(socket), Some(packet)) = (&self.socket, self.unsent.front()) {
            match packet.send(socket) {
                Ok(()) => drop(self.unsent.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.replace(None),
            }
        }
    }

    fn send(&mut self, id: u64, body: Body, fds: Vec<OwnedFd>) {
        if self.socket.is_none() {
            return;
        }
        match Packet::new(&Answer { id, body: Some(body) }, fds) {
            Ok(packet) if self.unsent.len() < BACKLOG => {
                self.unsent.push_back(packet);
                self.flush();
            }
            // No answer is worse than no connection: the agent would wait for ever.
            _ => self.replace(None),
        }
    }
}
