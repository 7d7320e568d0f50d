//! One plugin's socket: calls to it with a limit on their time, and its own calls to the runtime. What it sends is hostile: it is
//! decoded within bounds, and the first thing that is not understood ends the connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nri_api::ttrpc::{Request, Response, Status};
use nri_api::wire::{Body, Decoder, Message, Side, WireError};
use nri_api::{PLUGIN_SERVICE, RUNTIME_SERVICE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

/// Messages on their way to a plugin that reads slowly, and calls of its that nobody has looked at.
const QUEUE: usize = 16;
const READ: usize = 16 << 10;

/// gRPC's code for a method that the other side does not have.
pub(super) const UNIMPLEMENTED: i32 = 12;
const INVALID_ARGUMENT: i32 = 3;

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The plugin's own words.
    #[error("{message}")]
    Refused { code: i32, message: String },
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the connection is closed")]
    Closed,
    /// The question is too large for one message.
    #[error(transparent)]
    Oversized(WireError),
    #[error("an answer that cannot be decoded: {0}")]
    Garbled(prost::DecodeError),
}

/// A call of the plugin.
pub(super) struct Incoming {
    stream: u32,
    /// Of `Runtime`.
    pub(super) method: String,
    pub(super) payload: Vec<u8>,
}

/// A plugin's socket.
pub(super) struct Connection {
    outbox: mpsc::Sender<Bytes>,
    pending: Mutex<Pending>,
    open: watch::Sender<bool>,
}

#[derive(Default)]
struct Pending {
    last: u32,
    answers: HashMap<u32, oneshot::Sender<Response>>,
}

impl Connection {
    /// Takes a socket over; what the plugin calls comes out of the receiver, which ends with the connection.
    pub(super) fn open(stream: UnixStream) -> (Arc<Self>, mpsc::Receiver<Incoming>) {
        let (outbox, messages) = mpsc::channel(QUEUE);
        let (calls, incoming) = mpsc::channel(QUEUE);
        let connection = Arc::new(Self { outbox, pending: Mutex::default(), open: watch::Sender::new(true) });
        let (read, write) = stream.into_split();
        tokio::spawn(connection.clone().until_closed(connection.clone().receive(read, calls)));
        tokio::spawn(connection.clone().until_closed(send(write, messages)));
        (connection, incoming)
    }

    async fn until_closed(self: Arc<Self>, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => self.close(),
            () = self.closed() => {}
        }
    }

    async fn receive(self: Arc<Self>, mut read: OwnedReadHalf, calls: mpsc::Sender<Incoming>) {
        let (mut decoder, mut buffer) = (Decoder::default(), vec![0; READ]);
        loop {
            let messages = match read.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => decoder.push(&buffer[..count]),
            };
            let messages = match messages {
                Ok(messages) => messages,
                Err(error) => {
                    tracing::warn!(%error, "an NRI plugin says what cannot be understood; it is disconnected");
                    return;
                }
            };
            for Message { side, stream, body } in messages {
                match (side, body) {
                    (Side::Plugin, Body::Response(response)) => self.answered(stream, response),
                    (Side::Runtime, Body::Request(request)) if request.service == RUNTIME_SERVICE => {
                        let call = Incoming { stream, method: request.method, payload: request.payload };
                        if calls.send(call).await.is_err() {
                            return;
                        }
                    }
                    (Side::Runtime, Body::Request(request)) => {
                        let message = format!("{} is not served here", request.service);
                        self.reply(stream, Err(Status { code: UNIMPLEMENTED, message })).await;
                    }
                    // Nobody asks on this side, and nobody has been asked on the other.
                    (Side::Plugin, Body::Request(_)) | (Side::Runtime, Body::Response(_)) => return,
                }
            }
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that nobody waits for any more is no mistake of the plugin.
    fn answered(&self, stream: u32, response: Response) {
        if let Some(answer) = self.pending().answers.remove(&stream) {
            let _ = answer.send(response);
        }
    }

    /// Calls a method of the plugin.
    pub(super) async fn call<A: prost::Message + Default>(
        &self,
        method: &str,
        request: &impl prost::Message,
        limit: Duration,
    ) -> Result<A, CallError> {
        let (told, answer) = oneshot::channel();
        let stream = {
            let mut pending = self.pending();
            let stream = pending.last + 1;
            pending.last = stream.checked_add(1).unwrap_or_default();
            pending.answers.insert(stream, told);
            stream
        };
        let request = Request {
            service: PLUGIN_SERVICE.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
            metadata: Vec::new(),
        };
        let message = Message { side: Side::Plugin, stream, body: Body::Request(request) };
        let asked = async {
            let bytes = message.encode().map_err(CallError::Oversized)?;
            self.outbox.send(bytes).await.map_err(|_| CallError::Closed)?;
            answer.await.map_err(|_| CallError::Closed)
        };
        let response = tokio::select! {
            response = tokio::time::timeout(limit, asked) => response.unwrap_or(Err(CallError::Timeout(limit))),
            () = self.closed() => Err(CallError::Closed),
        };
        self.pending().answers.remove(&stream);
        match response? {
            Response { status: Some(Status { code, message }), .. } if code != 0 => {
                Err(CallError::Refused { code, message })
            }
            Response { payload, .. } => A::decode(payload.as_slice()).map_err(CallError::Garbled),
        }
    }

    /// Answers a call of the plugin.
    pub(super) async fn answer(&self, call: &Incoming, answer: Result<Vec<u8>, Status>) {
        self.reply(call.stream, answer).await;
    }

    async fn reply(&self, stream: u32, answer: Result<Vec<u8>, Status>) {
        let response = match answer {
            Ok(payload) => Response { status: None, payload },
            Err(status) => Response { status: Some(status), payload: Vec::new() },
        };
        let message = Message { side: Side::Runtime, stream, body: Body::Response(response) };
        match message.encode() {
            // Whoever does not read is found out by the next call to it.
            Ok(bytes) => drop(self.outbox.send(bytes).await),
            Err(error) => tracing::warn!(%error, "an NRI plugin cannot be answered"),
        }
    }

    /// Ends the connection; calls under way end with it.
    pub(super) fn close(&self) {
        self.open.send_replace(false);
    }

    pub(super) fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Returns once the connection has ended.
    pub(super) async fn closed(&self) {
        let _ = self.open.subscribe().wait_for(|open| !open).await;
    }
}

async fn send(mut write: OwnedWriteHalf, mut messages: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = messages.recv().await {
        if write.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// What a plugin is told of a request that cannot be decoded.
pub(super) fn bad_request(error: &prost::DecodeError) -> Status {
    Status { code: INVALID_ARGUMENT, message: error.to_string() }
}
