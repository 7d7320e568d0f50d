//! Exec and attach over WebSocket: five channels in one connection.

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::super::client::{Ended, Input};
use super::super::inbox::inbox;
use super::super::process::{self, Streams, Verb};
use super::super::request::RemoteCommand;
use super::super::{ProcessStreams, StartProcess};
use super::channels::Format;
use super::connection::{ChannelSink, ChannelSource, connection};

const STDIN: usize = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: usize = 4;

/// Serves one client to its end.
pub(in super::super) async fn remote_command(
    verb: Verb,
    wanted: ProcessStreams,
    start: StartProcess,
    (protocol, format): (RemoteCommand, Format),
    input: impl Input,
    output: impl AsyncWrite + Send + Unpin,
) -> Ended {
    let ((stdin_sender, stdin), (resize_sender, resize)) = (inbox(), inbox());
    let mut inboxes = vec![None, None, None, None, None];
    inboxes[STDIN] = wanted.stdin.then_some(stdin_sender);
    inboxes[RESIZE] = wanted.tty.then_some(resize_sender);
    let (connection, driver) = connection(input, output, format, inboxes);
    tokio::pin!(driver);
    let sink = |channel| ChannelSink { connection: connection.clone(), channel };
    let session = async {
        // An empty message on the first channel of the server's tells the client that it is connected, as kubelet does.
        let first = if wanted.stdout {
            STDOUT
        } else if wanted.stderr {
            STDERR
        } else {
            ERROR
        };
        let _ = connection.send(first, Bytes::new()).await;
        let streams = Streams {
            stdin: wanted.stdin.then_some(ChannelSource(stdin)),
            stdout: wanted.stdout.then(|| sink(STDOUT)),
            stderr: wanted.stderr.then(|| sink(STDERR)),
            resize: wanted.tty.then_some(ChannelSource(resize)),
        };
        let outcome = process::run(verb, start, streams).await.write(protocol.status);
        if !outcome.is_empty() {
            let _ = connection.send(ERROR, outcome.into()).await;
        }
        connection.close().await;
    };
    tokio::select! {
        ended = &mut driver => return ended,
        () = session => {}
    }
    driver.await
}
