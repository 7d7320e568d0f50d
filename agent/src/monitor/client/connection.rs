//! Requests matched with answers by id; events handed on.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::Ready;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::MonitorError;
use crate::monitor::protocol::frame::{self, FrameError, PACKET_LIMIT, Packet};
use crate::monitor::protocol::{Answer, Body, Call, Request};
use crate::sys::async_fd;

/// An answer's body and the fds that came with it.
pub(super) type Reply = (Body, Vec<OwnedFd>);

/// One connection; the receiving task ends with the last handle.
#[derive(Debug)]
pub(super) struct Connection {
    shared: Arc<Shared>,
    receiver: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    socket: AsyncFd<OwnedFd>,
    waiting: Mutex<Waiting>,
    next_id: AtomicU64,
}

/// Who waits for which answer; `None` once the connection is lost.
#[derive(Debug)]
struct Waiting(Option<HashMap<u64, oneshot::Sender<Reply>>>);

impl Connection {
    /// Takes over a connected SEQPACKET socket. `on_event` gets each event, then `None` when the connection ends.
    pub(super) fn new(socket: OwnedFd, on_event: impl FnMut(Option<Body>) + Send + 'static) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&socket)?;
        rustix::fs::fcntl_setfl(&socket, flags | rustix::fs::OFlags::NONBLOCK)?;
        let shared = Arc::new(Shared {
            socket: async_fd::register(socket)?,
            waiting: Mutex::new(Waiting(Some(HashMap::new()))),
            next_id: AtomicU64::new(1),
        });
        let receiver = tokio::spawn(receive(Arc::clone(&shared), on_event));
        Ok(Self { shared, receiver })
    }

    /// The peer is gone: no request will be answered any more.
    pub(super) fn is_lost(&self) -> bool {
        self.shared.waiting().0.is_none()
    }

    /// Sends a request and waits for its answer. Dropping the future does not take the request back.
    pub(super) async fn call(&self, call: Call, fds: Vec<OwnedFd>) -> Result<Reply, MonitorError> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let packet = Packet::new(&Request { id, call: Some(call) }, fds)?;
        let (sender, answer) = oneshot::channel();
        match &mut self.shared.waiting().0 {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(MonitorError::Lost),
        };
        let guard = Forget { shared: &self.shared, id };
        match self.shared.send(&packet).await {
            // It may have said why before it went: the receiver reads to the end, and then drops who still waits.
            Ok(()) | Err(MonitorError::Lost) => {}
            Err(error) => return Err(error),
        }
        drop(packet);
        let reply = answer.await.map_err(|_| MonitorError::Lost)?;
        drop(guard);
        match reply {
            (Body::Failure(failure), _) => Err(failure.into()),
            reply => Ok(reply),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

/// Nobody waits any more, also when the caller's future is dropped.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = &mut self.shared.waiting().0 {
            waiting.remove(&self.id);
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, answer: Answer, fds: Vec<OwnedFd>, on_event: &mut impl FnMut(Option<Body>)) {
        match answer {
            Answer { id: 0, body: Some(body) } => on_event(Some(body)),
            Answer { id, body: Some(body) } => {
                let sender = self.waiting().0.as_mut().and_then(|waiting| waiting.remove(&id));
                if let Some(sender) = sender {
                    // The caller may have given up; then the fds close here.
                    let _ = sender.send((body, fds));
                }
            }
            // A newer monitor may tell what this agent does not know; whoever asked is not left waiting for it.
            Answer { id, body: None } => drop(self.waiting().0.as_mut().and_then(|waiting| waiting.remove(&id))),
        }
    }

    /// Tries at once: the socket is hardly ever full, and readiness costs a trip through the reactor.
    async fn send(&self, packet: &Packet) -> Result<(), MonitorError> {
        loop {
            match packet.send(self.socket.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut ready = self.socket.writable().await.map_err(FrameError::Io)?;
                    if packet.send(self.socket.as_fd()).is_ok() {
                        return Ok(());
                    }
                    ready.clear_ready_matching(Ready::WRITABLE);
                }
                Err(error) if is_lost(&error) => return Err(MonitorError::Lost),
                other => return other.map_err(|error| FrameError::Io(error).into()),
            }
        }
    }
}

fn is_lost(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
}

async fn receive(shared: Arc<Shared>, mut on_event: impl FnMut(Option<Body>)) {
    // Readiness is taken before trying and given back only after a try found nothing: no packet is overlooked.
    while let Ok(mut ready) = shared.socket.readable().await {
        if receive_what_is_there(&shared, &mut on_event).is_break() {
            break;
        }
        ready.clear_ready_matching(Ready::READABLE);
    }
    // Dropping the senders wakes every caller.
    shared.waiting().0 = None;
    on_event(None);
}

/// Breaks when the connection is at its end. The buffer is the stack's: one for each connection would be more than all else a pod
/// takes in the agent.
fn receive_what_is_there(shared: &Shared, on_event: &mut impl FnMut(Option<Body>)) -> ControlFlow<()> {
    let mut buffer = [0; PACKET_LIMIT];
    // A peer that died with something unread resets the connection, and the kernel tells that (once) before it gives
    // out what the peer had still said: its last words are read all the same.
    let mut reset = false;
    loop {
        match frame::receive::<Answer>(shared.socket.as_fd(), &mut buffer) {
            Ok((answer, fds)) => shared.deliver(answer, fds, on_event),
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset && !reset => reset = true,
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return ControlFlow::Continue(()),
            Err(FrameError::Closed) => return ControlFlow::Break(()),
            Err(FrameError::Io(error)) if is_lost(&error) => return ControlFlow::Break(()),
            Err(error) => {
                tracing::warn!(fd = shared.socket.as_raw_fd(), %error, "monitor connection given up");
                return ControlFlow::Break(());
            }
        }
    }
}
