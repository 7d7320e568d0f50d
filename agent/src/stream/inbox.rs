//! Bytes on their way from a client's connection to whoever takes them, bounded by their number: a full inbox holds the
//! connection's reader up, and with it only that client.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

/// What an inbox holds, in bytes. More than a SPDY window: a client that keeps to windows never fills one.
const LIMIT: usize = 128 << 10;
/// What a chunk costs beside its bytes.
const OVERHEAD: usize = 64;

/// The connection's end. Dropping it is the end of the bytes.
#[derive(Debug)]
pub(super) struct Sender {
    chunks: mpsc::UnboundedSender<Bytes>,
    room: Arc<Semaphore>,
}

/// The taker's end.
#[derive(Debug)]
pub(super) struct Inbox {
    chunks: mpsc::UnboundedReceiver<Bytes>,
    room: Arc<Semaphore>,
}

/// Both ends of an empty one.
pub(super) fn inbox() -> (Sender, Inbox) {
    let ((sender, receiver), room) = (mpsc::unbounded_channel(), Arc::new(Semaphore::new(LIMIT)));
    (Sender { chunks: sender, room: room.clone() }, Inbox { chunks: receiver, room })
}

/// In permits of the semaphore.
fn cost(chunk: &Bytes) -> usize {
    (chunk.len() + OVERHEAD).min(LIMIT)
}

impl Sender {
    /// Another handle, so that waiting for room holds no lock.
    pub(super) fn handle(&self) -> Self {
        Self { chunks: self.chunks.clone(), room: self.room.clone() }
    }

    /// Waits for room. What nobody takes any more is dropped.
    pub(super) async fn send(&self, chunk: Bytes) {
        let cost = u32::try_from(cost(&chunk)).unwrap_or(u32::MAX);
        if let Ok(permits) = self.room.acquire_many(cost).await {
            permits.forget();
            let _ = self.chunks.send(chunk);
        }
    }
}

impl Inbox {
    /// The next bytes; `None` at their end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.recv().await?;
        self.room.add_permits(cost(&chunk));
        Some(chunk)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // Whoever waits for room learns that there is no need.
        self.room.close();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_full_inbox_waits_and_a_dropped_one_does_not() {
        let (sender, mut inbox) = inbox();
        let chunk = Bytes::from(vec![7; LIMIT / 2]);
        sender.send(chunk.clone()).await;
        assert!(sender.send(chunk.clone()).now_or_never().is_none(), "two do not fit");
        assert_eq!(inbox.next().await, Some(chunk.clone()));
        sender.send(chunk.clone()).await;
        let mut waits = Box::pin(sender.send(chunk));
        assert!((&mut waits).now_or_never().is_none());
        drop(inbox);
        waits.await;
    }

    #[tokio::test]
    async fn small_chunks_fill_it_too() {
        let (sender, _inbox) = inbox();
        let mut count = 0;
        // Without tokio's budget, which would have it yield as if it waited.
        while tokio::task::unconstrained(sender.send(Bytes::from_static(b"x"))).now_or_never().is_some() {
            count += 1;
        }
        assert_eq!(count, LIMIT / (OVERHEAD + 1));
    }
}
