//! A container's log as the event loop sees it: opened, written and reopened by a process of its own, and output read no
//! faster than that goes.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;

use super::container::{Container, Phase};
use super::events::Source;
use super::log::Progress;
use super::monitor::Monitor;
use super::spawner::{self, internal};
use crate::libcontainer::run::failure::InitFailure;
use crate::monitor::protocol::{Body, Nothing};

impl Monitor {
    /// Has a log opened; `on_log` hears of it.
    pub(super) fn open_log(&mut self, serial: u32, dir: &OwnedFd, name: &str) -> Result<(), InitFailure> {
        let Some(at) = self.position(serial) else { return Ok(()) };
        let Self { containers, kept, epoll, .. } = self;
        containers[at].log.open(kept.start_writer(epoll, serial), dir.as_fd(), name)
    }

    /// A log's writer says something, or died.
    pub(super) fn on_log(&mut self, serial: u32) {
        let Some(at) = self.position(serial) else { return };
        let Self { containers, kept, epoll, .. } = self;
        let opened = containers[at].log.hear(kept.start_writer(epoll, serial));
        let reopening = if opened.is_some() { containers[at].reopening.take() } else { None };
        match (opened, reopening) {
            (Some(Ok(())), Some(to)) => self.connection.answer(to, Body::Done(Nothing {}), Vec::new()),
            (Some(Err(failure)), Some(to)) => {
                self.connection.answer(to, Body::Failure(internal(failure)), Vec::new());
            }
            (Some(Ok(())), None) => self.answer_if_created(at),
            // After its creation, whoever asked for another file has been told that the container exited.
            (Some(Err(failure)), None) if matches!(self.containers[at].phase, Phase::Creating { .. }) => {
                self.fail(serial, failure);
            }
            (Some(Err(_)), None) | (None, _) => {}
        }
        self.write_log(serial);
        self.publish_if_dry(serial);
    }

    /// Hands lines on, and reads output again once the log is not behind any more.
    pub(super) fn write_log(&mut self, serial: u32) {
        self.hand_over(serial);
        let Some(at) = self.position(serial) else { return };
        if self.containers[at].is_exited() {
            for source in [Source::Stdout, Source::Stderr] {
                while self.read_output(serial, source) == Progress::More {
                    self.hand_over(serial);
                }
            }
            self.hand_over(serial);
            let container = &mut self.containers[at];
            if container.is_dry() && container.log.is_settled() {
                container.log.end(&self.epoll);
            }
        }
    }

    fn hand_over(&mut self, serial: u32) {
        let Some(at) = self.position(serial) else { return };
        let Self { containers, kept, epoll, .. } = self;
        let Container { log, stdio, paused, id, .. } = &mut containers[at];
        log.hand_over(kept.start_writer(epoll, serial));
        if log.is_full() == *paused {
            return;
        }
        *paused = log.is_full();
        for (output, source) in [(&stdio.stdout, Source::Stdout), (&stdio.stderr, Source::Stderr)] {
            let Some(output) = output else { continue };
            if *paused {
                // Not with no flags: that the other side is gone would be told again and again.
                epoll.unwatch(output.fd());
            } else if let Err(failure) = epoll.watch(output.fd(), source, serial, EventFlags::IN) {
                spawner::complain(&format!("{id}: its output is not read any more: {failure}"));
            }
        }
    }
}
