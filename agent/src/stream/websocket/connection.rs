//! A connection: one future reads messages into the channels' inboxes, another writes what the channels have to say.
//! Both are driven by the connection's one task, and end with it.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::super::client::{Activity, Ended, Gone, Input, LINGER, QUEUE, Sink, Source, detached};
use super::super::inbox::{self, Inbox};
use super::channels::{ChannelError, Channels, Format, Said, message};
use super::codec::{Decoder, Opcode, Piece, encode_head};

/// Pongs that wait to be written before the reader waits for the writer.
const CONTROL_QUEUE: usize = 16;
/// Status code 1000: the purpose is fulfilled (RFC 6455, section 7.4.1).
const NORMAL: [u8; 2] = 1000u16.to_be_bytes();

/// What is written.
enum Out {
    Message(u8, Bytes),
    Pong(Bytes),
    Close,
}

/// The session's view of a connection.
#[derive(Clone)]
pub(super) struct Connection {
    data: mpsc::Sender<Out>,
    control: mpsc::Sender<Out>,
    activity: Arc<Activity>,
}

impl Connection {
    /// Waits until a message can be written.
    pub(super) async fn send(&self, channel: u8, payload: Bytes) -> Result<(), Gone> {
        self.data.send(Out::Message(channel, payload)).await.map_err(|_| Gone)
    }

    /// Says that this was all, after everything that was said before.
    pub(super) async fn close(&self) {
        let _ = self.data.send(Out::Close).await;
    }
}

/// A connection whose channel n goes to inbox n, and the future that drives it, to the connection's end.
pub(super) fn connection<R: Input, W: AsyncWrite + Send + Unpin>(
    input: R,
    output: W,
    format: Format,
    inboxes: Vec<Option<inbox::Sender>>,
) -> (Connection, impl Future<Output = Ended> + Send) {
    let (data, data_out) = mpsc::channel(QUEUE);
    let (control, control_out) = mpsc::channel(CONTROL_QUEUE);
    let connection = Connection { data, control, activity: Arc::new(Activity::new()) };
    let driver = {
        let connection = connection.clone();
        async move {
            tokio::select! {
                ended = read(input, format, inboxes, &connection) => ended.map_or_else(|error| error, |()| Ended::Closed),
                ended = write(output, format, control_out, data_out, &connection.activity) => {
                    ended.map_or_else(Ended::Io, |()| Ended::Closed)
                }
                () = connection.activity.idle() => Ended::Idle,
            }
        }
    };
    (connection, driver)
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Ended {
    Ended::Broken(Box::new(error))
}

async fn read(
    mut input: impl Input,
    format: Format,
    mut inboxes: Vec<Option<inbox::Sender>>,
    connection: &Connection,
) -> Result<(), Ended> {
    let (mut decoder, mut channels, mut bytes) = (Decoder::default(), Channels::new(format), BytesMut::new());
    while input.read(&mut bytes).await? > 0 {
        connection.activity.mark();
        while let Some(piece) = decoder.decode(&mut bytes).map_err(broken)? {
            let handled = handle(piece, &mut channels, &mut inboxes, connection);
            // A channel that nobody reads holds this client up, but not its departure.
            let open = tokio::select! {
                biased;
                open = handled => open.map_err(broken)?,
                () = input.hung_up() => return Err(Ended::HungUp),
            };
            if !open {
                // Answered; the client closes when it has the answer, and is not waited for longer than the writer does.
                while input.read(&mut bytes).await? > 0 {
                    bytes.clear();
                }
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Whether the connection goes on.
async fn handle(
    piece: Piece,
    channels: &mut Channels,
    inboxes: &mut [Option<inbox::Sender>],
    connection: &Connection,
) -> Result<bool, ChannelError> {
    match piece {
        Piece::Data { last, payload, .. } => match channels.read(last, payload)? {
            Some(Said::Data(channel, bytes)) => {
                if let Some(Some(inbox)) = inboxes.get(usize::from(channel)) {
                    inbox.send(detached(bytes)).await;
                }
            }
            Some(Said::Close(channel)) => {
                if let Some(inbox) = inboxes.get_mut(usize::from(channel)) {
                    *inbox = None;
                }
            }
            None => {}
        },
        Piece::Ping(payload) => drop(connection.control.send(Out::Pong(Bytes::copy_from_slice(&payload))).await),
        Piece::Pong => {}
        Piece::Close => {
            // What a session still says is not heard any more.
            inboxes.fill_with(|| None);
            let _ = connection.control.send(Out::Close).await;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes until the close, then waits a little for the client to close.
async fn write(
    mut output: impl AsyncWrite + Send + Unpin,
    format: Format,
    mut control: mpsc::Receiver<Out>,
    mut data: mpsc::Receiver<Out>,
    activity: &Activity,
) -> io::Result<()> {
    let mut last = false;
    while !last {
        let out = tokio::select! {
            biased;
            Some(out) = control.recv() => out,
            Some(out) = data.recv() => out,
            else => return Ok(()),
        };
        last = matches!(out, Out::Close);
        let (head, payload) = match out {
            Out::Message(channel, payload) => message(format, channel, payload),
            Out::Pong(payload) => frame(Opcode::Pong, payload),
            Out::Close => frame(Opcode::Close, Bytes::from_static(&NORMAL)),
        };
        output.write_all_buf(&mut head.chain(payload)).await?;
        activity.mark();
    }
    output.shutdown().await?;
    tokio::time::sleep(LINGER).await;
    Ok(())
}

fn frame(opcode: Opcode, payload: Bytes) -> (BytesMut, Bytes) {
    let mut head = BytesMut::new();
    encode_head(opcode, payload.len(), &mut head);
    (head, payload)
}

/// A channel from the client.
pub(super) struct ChannelSource(pub(super) Inbox);

/// A channel to the client.
pub(super) struct ChannelSink {
    pub(super) connection: Connection,
    pub(super) channel: u8,
}

impl Source for ChannelSource {
    async fn next(&mut self) -> Option<Bytes> {
        self.0.next().await
    }
}

impl Sink for ChannelSink {
    async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        self.connection.send(self.channel, bytes).await
    }

    /// The protocol knows no end of a channel towards the client.
    async fn finish(&mut self) {}

    fn given_up(&mut self) -> impl Future<Output = ()> + Send + 'static {
        std::future::pending()
    }
}
