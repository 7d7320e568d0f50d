//! A connection: one future reads frames and hands their content to streams, another writes what streams have to say.
//! Both are driven by the connection's one task, and end with it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};

use super::super::client::{Activity, Ended, Gone, Input, LINGER, QUEUE, READ, detached};
use super::super::inbox::{self, inbox};
use super::codec::{Decoder, Encoder, Frame, Headers, PROTOCOL_ERROR, REFUSED_STREAM};
use super::stream::{Stream, UPDATE};
use super::windows::Windows;

/// Streams that may be open at one time. A browser behind port-forward opens some tens of connections of two each.
const STREAMS: usize = 512;
/// Small frames (replies, pings, windows) that wait to be written before the reader waits for the writer.
const CONTROL_QUEUE: usize = 64;

/// What the streams and the reader share.
pub(super) struct Shared {
    open: Mutex<Open>,
    /// Windows were opened, or a stream closed.
    changed: Notify,
    /// Written before data.
    control: mpsc::Sender<Frame>,
    data: mpsc::Sender<Frame>,
    activity: Activity,
}

struct Open {
    streams: HashMap<u32, Entry>,
    windows: Windows,
    last_stream: u32,
    /// Bytes that the connection's window was not yet opened again for.
    received: u32,
}

struct Entry {
    /// `None` once the client has finished its half.
    inbox: Option<inbox::Sender>,
    /// Our half is finished.
    finished: bool,
    /// Tells of a reset; dropped untold otherwise.
    reset: oneshot::Sender<()>,
}

/// The session's view of a connection.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    /// Streams as the client opens them; not yet accepted.
    pub(super) opened: mpsc::Receiver<Stream>,
}

/// A connection, and the future that drives it, to the connection's end.
pub(super) fn connection<R: Input, W: AsyncWrite + Send + Unpin>(
    input: R,
    output: W,
) -> (Connection, impl Future<Output = Ended> + Send) {
    let (control, control_frames) = mpsc::channel(CONTROL_QUEUE);
    let (data, data_frames) = mpsc::channel(QUEUE);
    let (open, opened) = mpsc::channel(STREAMS);
    let shared = Arc::new(Shared {
        open: Mutex::new(Open { streams: HashMap::new(), windows: Windows::new(), last_stream: 0, received: 0 }),
        changed: Notify::new(),
        control,
        data,
        activity: Activity::new(),
    });
    let driver = {
        let shared = shared.clone();
        async move {
            tokio::select! {
                ended = read(input, &shared, &open) => ended.map_or_else(|error| error, |()| Ended::Closed),
                ended = write(output, control_frames, data_frames, &shared.activity) => {
                    ended.map_or_else(Ended::Io, |()| Ended::Closed)
                }
                () = shared.activity.idle() => Ended::Idle,
            }
        }
    };
    (Connection { shared, opened }, driver)
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Ended {
    Ended::Broken(Box::new(error))
}

async fn read(mut input: impl Input, shared: &Arc<Shared>, opened: &mpsc::Sender<Stream>) -> Result<(), Ended> {
    let (mut decoder, mut bytes) = (Decoder::new(), BytesMut::new());
    while input.read(&mut bytes).await? > 0 {
        shared.activity.mark();
        while let Some(frame) = decoder.decode(&mut bytes).map_err(broken)? {
            let handled = shared.handle(frame, opened);
            // A stream that nobody reads holds this client up, but not its departure.
            tokio::select! {
                biased;
                () = handled => {}
                () = input.hung_up() => return Err(Ended::HungUp),
            }
        }
    }
    Ok(())
}

/// Writes until GOAWAY, then waits a little for the client to close: whoever closes first, with something unread, takes
/// from the other what is still under way.
async fn write(
    mut output: impl AsyncWrite + Send + Unpin,
    mut control: mpsc::Receiver<Frame>,
    mut data: mpsc::Receiver<Frame>,
    activity: &Activity,
) -> io::Result<()> {
    let (mut encoder, mut head) = (Encoder::new(), BytesMut::with_capacity(READ / 16));
    let mut last = false;
    while !last {
        let frame = tokio::select! {
            biased;
            Some(frame) = control.recv() => frame,
            Some(frame) = data.recv() => frame,
            else => return Ok(()),
        };
        last = matches!(frame, Frame::GoAway { .. });
        encoder.encode(&frame, &mut head);
        let payload = if let Frame::Data { payload, .. } = frame { payload } else { Bytes::new() };
        output.write_all_buf(&mut (&mut head).chain(payload)).await?;
        head.clear();
        activity.mark();
    }
    output.shutdown().await?;
    tokio::time::sleep(LINGER).await;
    Ok(())
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a small frame can be written.
    pub(super) async fn control(&self, frame: Frame) {
        // Without a writer the connection is over, and everybody learns of it otherwise.
        let _ = self.control.send(frame).await;
    }

    /// Waits until a frame of data can be written.
    pub(super) async fn data(&self, frame: Frame) -> Result<(), Gone> {
        self.data.send(frame).await.map_err(|_| Gone)
    }

    /// Accepts a stream.
    pub(super) async fn accept(&self, stream: &Stream) {
        self.control(Frame::SynReply { stream: stream.id, fin: false, headers: Headers::default() }).await;
    }

    /// Refuses a stream that makes no sense here.
    pub(super) async fn refuse(&self, stream: Stream) {
        self.control(Frame::RstStream { stream: stream.id, status: PROTOCOL_ERROR }).await;
        self.remove(stream.id);
    }

    /// Says that this was all, after everything that was said before.
    pub(super) async fn go_away(&self) {
        let last_stream = self.open().last_stream;
        let _ = self.data(Frame::GoAway { last_stream, status: 0 }).await;
    }

    /// Waits until some of `wanted` bytes may be sent on the stream.
    pub(super) async fn window(&self, stream: u32, wanted: usize) -> Result<usize, Gone> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut open = self.open();
                if !open.streams.contains_key(&stream) {
                    return Err(Gone);
                }
                match open.windows.take(stream, wanted) {
                    0 => {}
                    allowed => return Ok(allowed),
                }
            }
            changed.await;
        }
    }

    /// Our half of the stream is done.
    pub(super) fn finished(&self, stream: u32) {
        let mut open = self.open();
        if let Some(entry) = open.streams.get_mut(&stream) {
            entry.finished = true;
            open.forget_if_done(stream);
        }
    }

    fn remove(&self, stream: u32) -> Option<Entry> {
        let mut open = self.open();
        let entry = open.streams.remove(&stream);
        open.windows.close(stream);
        drop(open);
        self.changed.notify_waiters();
        entry
    }

    async fn handle(self: &Arc<Self>, frame: Frame, opened: &mpsc::Sender<Stream>) {
        match frame {
            Frame::SynStream { stream, fin, headers } => self.syn_stream(stream, fin, headers, opened).await,
            Frame::Data { stream, fin, payload } => self.received(stream, fin, payload).await,
            Frame::RstStream { stream, .. } => {
                if let Some(entry) = self.remove(stream) {
                    let _ = entry.reset.send(());
                }
            }
            Frame::WindowUpdate { stream, delta } => {
                self.open().windows.update(stream, delta);
                self.changed.notify_waiters();
            }
            Frame::Settings { initial_window: Some(window) } => {
                self.open().windows.set_initial(window);
                self.changed.notify_waiters();
            }
            Frame::Headers { stream, fin: true, .. } => self.received(stream, true, Bytes::new()).await,
            // Odd ids are the client's own; we send none, so others are answers to nothing.
            Frame::Ping { id } if id % 2 == 1 => self.control(Frame::Ping { id }).await,
            // The client will open no more streams. Those that are open go on; it closes when it is done.
            Frame::GoAway { .. } | Frame::SynReply { .. } | Frame::Headers { .. } => {}
            Frame::Settings { initial_window: None } | Frame::Ping { .. } => {}
        }
    }

    async fn syn_stream(self: &Arc<Self>, id: u32, fin: bool, headers: Headers, opened: &mpsc::Sender<Stream>) {
        let ((sender, inbox), (reset, on_reset)) = (inbox(), oneshot::channel());
        let refused = {
            let mut open = self.open();
            // A client's streams are odd and grow (section 2.3.2).
            if id.is_multiple_of(2) || id <= open.last_stream {
                Some(PROTOCOL_ERROR)
            } else if open.streams.len() >= STREAMS {
                open.last_stream = id;
                Some(REFUSED_STREAM)
            } else {
                open.last_stream = id;
                open.streams.insert(id, Entry { inbox: (!fin).then_some(sender), finished: false, reset });
                open.windows.open(id);
                None
            }
        };
        let stream = Stream::new(id, headers, inbox, on_reset, self);
        match refused {
            Some(status) => {
                // Not the entry of the stream that already has this id.
                stream.disown();
                self.control(Frame::RstStream { stream: id, status }).await;
            }
            None => {
                if let Err(mpsc::error::SendError(stream)) = opened.send(stream).await {
                    self.refuse(stream).await;
                }
            }
        }
    }

    async fn received(&self, stream: u32, fin: bool, payload: Bytes) {
        let (inbox, update) = {
            let mut open = self.open();
            (open.inbox(stream, fin), open.received(payload.len()))
        };
        if let Some(inbox) = inbox
            && !payload.is_empty()
        {
            inbox.send(detached(payload)).await;
        }
        if let Some(delta) = update {
            self.control(Frame::WindowUpdate { stream: 0, delta }).await;
        }
    }
}

impl Open {
    /// Where the stream's bytes go, if anybody takes them.
    fn inbox(&mut self, stream: u32, fin: bool) -> Option<inbox::Sender> {
        let entry = self.streams.get_mut(&stream)?;
        let inbox = if fin { entry.inbox.take() } else { entry.inbox.as_ref().map(inbox::Sender::handle) };
        if fin {
            self.forget_if_done(stream);
        }
        inbox
    }

    /// What the connection's window is to be opened by, now and then. Whoever takes the bytes: each stream has a window of
    /// its own, and its inbox.
    fn received(&mut self, count: usize) -> Option<u32> {
        self.received = self.received.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        (self.received >= UPDATE).then(|| std::mem::take(&mut self.received))
    }

    fn forget_if_done(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|entry| entry.finished && entry.inbox.is_none()) {
            self.streams.remove(&stream);
            self.windows.close(stream);
        }
    }
}
