//! Exec and attach over SPDY: the client opens a stream for each of error, stdin, stdout, stderr and resize.

use tokio::io::AsyncWrite;

use super::super::client::{Ended, Input, STREAM_CREATION, Sink};
use super::super::process::{self, Streams, Verb};
use super::super::request::RemoteCommand;
use super::super::{ProcessStreams, StartProcess};
use super::connection::{Connection, connection};
use super::stream::Stream;

/// Serves one client to its end.
pub(in super::super) async fn remote_command(
    verb: Verb,
    wanted: ProcessStreams,
    start: StartProcess,
    protocol: RemoteCommand,
    input: impl Input,
    output: impl AsyncWrite + Send + Unpin,
) -> Ended {
    let (mut connection, driver) = connection(input, output);
    tokio::pin!(driver);
    let session = async {
        let Ok(opened) = tokio::time::timeout(STREAM_CREATION, Opened::wait(&mut connection, wanted, protocol)).await
        else {
            tracing::debug!("a client did not open the streams that it asked for");
            return connection.shared.go_away().await;
        };
        // Nobody opens more: what comes is refused.
        connection.opened.close();
        let streams = Streams {
            stdin: opened.stdin.map(|stream| stream.source),
            stdout: opened.stdout.map(|stream| stream.sink),
            stderr: opened.stderr.map(|stream| stream.sink),
            resize: opened.resize.map(|stream| stream.source),
        };
        let outcome = process::run(verb, start, streams).await;
        if let Some(Stream { mut sink, .. }) = opened.error {
            let _ = sink.send(outcome.write(protocol.status).into()).await;
            sink.finish().await;
        }
        connection.shared.go_away().await;
    };
    tokio::select! {
        ended = &mut driver => return ended,
        () = session => {}
    }
    driver.await
}

/// The streams that the client has opened.
#[derive(Default)]
struct Opened {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Opened {
    /// Accepts streams until all that were asked for are there.
    async fn wait(connection: &mut Connection, wanted: ProcessStreams, protocol: RemoteCommand) -> Self {
        let mut opened = Self::default();
        while !opened.complete(wanted, protocol) {
            let Some(stream) = connection.opened.recv().await else {
                // The connection has ended, and its driver tells.
                return std::future::pending().await;
            };
            match opened.place(&stream) {
                Some(place @ None) => {
                    connection.shared.accept(&stream).await;
                    *place = Some(stream);
                }
                Some(_) | None => connection.shared.refuse(stream).await,
            }
        }
        opened
    }

    fn place(&mut self, stream: &Stream) -> Option<&mut Option<Stream>> {
        Some(match stream.kind() {
            "error" => &mut self.error,
            "stdin" => &mut self.stdin,
            "stdout" => &mut self.stdout,
            "stderr" => &mut self.stderr,
            "resize" => &mut self.resize,
            _ => return None,
        })
    }

    fn complete(&self, wanted: ProcessStreams, protocol: RemoteCommand) -> bool {
        self.error.is_some()
            && (self.stdin.is_some() || !wanted.stdin)
            && (self.stdout.is_some() || !wanted.stdout)
            && (self.stderr.is_some() || !wanted.stderr)
            && (self.resize.is_some() || !wanted.tty || !protocol.resize)
    }
}
