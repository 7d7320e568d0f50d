//! One stream of a connection: what the client sends, what is sent to it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::super::client::{Gone, Sink, Source};
use super::super::inbox::Inbox;
use super::codec::{Frame, Headers, INITIAL_WINDOW};
use super::connection::Shared;

/// Taken bytes are told to the client when so many have come together.
pub(super) const UPDATE: u32 = INITIAL_WINDOW / 2;

/// A stream that the client has opened.
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) headers: Headers,
    pub(super) source: StreamSource,
    pub(super) sink: StreamSink,
}

/// The client's bytes.
pub(super) struct StreamSource {
    id: u32,
    shared: Arc<Shared>,
    inbox: Inbox,
    /// Taken, and not yet told to the client.
    taken: u32,
}

/// Bytes to the client.
pub(super) struct StreamSink {
    id: u32,
    shared: Arc<Shared>,
    finished: bool,
    /// Told when the client resets it.
    reset: Option<oneshot::Receiver<()>>,
}

impl Stream {
    pub(super) fn new(
        id: u32,
        headers: Headers,
        inbox: Inbox,
        reset: oneshot::Receiver<()>,
        shared: &Arc<Shared>,
    ) -> Self {
        let source = StreamSource { id, shared: shared.clone(), inbox, taken: 0 };
        let sink = StreamSink { id, shared: shared.clone(), finished: false, reset: Some(reset) };
        Self { id, headers, source, sink }
    }

    /// It was never opened: dropping it changes nothing.
    pub(super) fn disown(mut self) {
        self.sink.finished = true;
    }

    /// The type that the client gives it: `stdin`, `error` and so on.
    pub(super) fn kind(&self) -> &str {
        self.headers.get("streamtype").unwrap_or_default()
    }
}

impl Source for StreamSource {
    async fn next(&mut self) -> Option<Bytes> {
        let bytes = self.inbox.next().await?;
        self.taken = self.taken.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if self.taken >= UPDATE {
            let update = Frame::WindowUpdate { stream: self.id, delta: self.taken };
            self.taken = 0;
            self.shared.control(update).await;
        }
        Some(bytes)
    }
}

impl Sink for StreamSink {
    async fn send(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let allowed = self.shared.window(self.id, bytes.len()).await?;
            let payload = bytes.split_to(allowed);
            self.shared.data(Frame::Data { stream: self.id, fin: false, payload }).await?;
        }
        Ok(())
    }

    async fn finish(&mut self) {
        self.finished = true;
        // The stream may have been reset, or all be over.
        let _ = self.shared.data(Frame::Data { stream: self.id, fin: true, payload: Bytes::new() }).await;
        self.shared.finished(self.id);
    }

    fn given_up(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let reset = self.reset.take();
        async move {
            if let Some(reset) = reset
                && reset.await.is_ok()
            {
                return;
            }
            std::future::pending().await
        }
    }
}

impl Drop for StreamSink {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.finished(self.id);
        }
    }
}
