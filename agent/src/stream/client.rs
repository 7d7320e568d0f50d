//! What both protocols give: the connection's bytes, the client's streams, and the limits that bound them.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Instant;

/// A connection on which nothing goes either way for so long is given up; kubelet's streaming-connection-idle-timeout.
pub(super) const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// A client opens its streams within this time; kubelet's streamCreationTimeout.
pub(super) const STREAM_CREATION: Duration = Duration::from_secs(30);
/// After the last byte was written a client has this long to close: closing first could take bytes from it that are
/// still under way.
pub(super) const LINGER: Duration = Duration::from_secs(5);
/// What one read takes from a connection, in bytes.
pub(super) const READ: usize = 64 << 10;
/// Frames of data that wait to be written to one connection.
pub(super) const QUEUE: usize = 4;

/// Why a client's connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// In order, by either side.
    #[error("closed")]
    Closed,
    /// The client went while it was waited for.
    #[error("the client has hung up")]
    HungUp,
    /// Nothing went either way for [`IDLE`].
    #[error("idle for too long")]
    Idle,
    /// What it sent is not the protocol.
    #[error("the client breaks the protocol")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection failed.
    #[error("the connection")]
    Io(#[from] io::Error),
}

/// The client takes nothing more on this stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// A stream from the client.
pub(super) trait Source: Send {
    /// The next bytes; `None`: it sends no more.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

/// A stream to the client.
pub(super) trait Sink: Send {
    /// Waits until the client can take it.
    fn send(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), Gone>> + Send;
    /// Tells the client that there is no more, where the protocol can.
    fn finish(&mut self) -> impl Future<Output = ()> + Send;
    /// Returns when the client has given the stream up, both ways; of one that it ends in order, never. Asked for once.
    fn given_up(&mut self) -> impl Future<Output = ()> + Send + 'static;
}

/// The bytes that come from the client.
pub(super) trait Input: Send {
    /// Appends what is there; 0 at the end.
    fn read(&mut self, into: &mut BytesMut) -> impl Future<Output = io::Result<usize>> + Send;
    /// Returns when the client has closed its side, though it may not all have been read.
    fn hung_up(&self) -> impl Future<Output = ()> + Send;
}

/// A TCP connection, and what the HTTP server had read beyond the request.
pub(super) struct TcpInput {
    pub(super) ahead: Bytes,
    pub(super) half: OwnedReadHalf,
}

impl Input for TcpInput {
    async fn read(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        if !self.ahead.is_empty() {
            let ahead = std::mem::take(&mut self.ahead);
            into.extend_from_slice(&ahead);
            return Ok(ahead.len());
        }
        loop {
            self.half.readable().await?;
            // Not before there is something: connections wait for hours.
            into.reserve(READ);
            match self.half.try_read_buf(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    async fn hung_up(&self) {
        let tcp: &TcpStream = self.half.as_ref();
        // tokio tells a closed read side (EPOLLRDHUP) to whoever waits for priority, without unread bytes being in the
        // way as they are for whoever waits for reading. An error is the end too.
        let _ = tcp.ready(Interest::PRIORITY).await;
    }
}

/// When something last went over a connection.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Instant>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    pub(super) fn mark(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when the connection has been idle for too long.
    pub(super) async fn idle(&self) {
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + IDLE;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Keeps large pieces as they are and copies small ones, which would keep a whole read's memory alive.
pub(super) fn detached(payload: Bytes) -> Bytes {
    if payload.len() >= READ / 4 { payload } else { Bytes::copy_from_slice(&payload) }
}
