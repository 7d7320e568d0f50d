//! Port-forward over SPDY: for each forwarded connection the client opens an error and a data stream, which belong
//! together by their request id.

use std::collections::HashMap;

use tokio::io::AsyncWrite;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::super::ConnectPort;
use super::super::client::{Ended, Input, STREAM_CREATION, Sink};
use super::super::forward;
use super::connection::{Connection, connection};
use super::stream::Stream;

/// Serves one client, with all connections that it forwards, until it goes.
pub(in super::super) async fn port_forward(
    connect: ConnectPort,
    input: impl Input,
    output: impl AsyncWrite + Send + Unpin,
) -> Ended {
    let (connection, driver) = connection(input, output);
    tokio::select! {
        ended = driver => ended,
        never = forward_all(connection, connect) => never,
    }
}

/// A stream whose other half has not come.
struct Half {
    stream: Stream,
    until: Instant,
}

async fn forward_all(mut connection: Connection, connect: ConnectPort) -> Ended {
    let mut halves: HashMap<String, Half> = HashMap::new();
    // Dropped with this future, which aborts them.
    let mut forwards = JoinSet::new();
    loop {
        let next = halves.values().map(|half| half.until).min();
        tokio::select! {
            opened = connection.opened.recv() => match opened {
                Some(stream) => {
                    if let Some((port, data, error)) = pair(&connection, &mut halves, stream).await {
                        forwards.spawn(forward(connect.clone(), port, data, error));
                    }
                }
                // The connection has ended, and its driver tells.
                None => return std::future::pending().await,
            },
            Some(_) = forwards.join_next() => {}
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                for (_, half) in halves.extract_if(|_, half| half.until <= Instant::now()) {
                    connection.shared.refuse(half.stream).await;
                }
            }
        }
    }
}

/// Accepts a stream; with its other half there it is port, data and error.
async fn pair(
    connection: &Connection,
    halves: &mut HashMap<String, Half>,
    stream: Stream,
) -> Option<(u16, Stream, Stream)> {
    let port = stream.headers.get("port").and_then(|port| port.parse().ok()).filter(|port: &u16| *port > 0);
    let (Some(port), "data" | "error") = (port, stream.kind()) else {
        connection.shared.refuse(stream).await;
        return None;
    };
    let request = request_id(&stream);
    if let Some(half) = halves.get(&request)
        && half.stream.kind() == stream.kind()
    {
        connection.shared.refuse(stream).await;
        return None;
    }
    connection.shared.accept(&stream).await;
    match halves.remove(&request) {
        None => {
            halves.insert(request, Half { stream, until: Instant::now() + STREAM_CREATION });
            None
        }
        Some(half) if stream.kind() == "data" => Some((port, stream, half.stream)),
        Some(half) => Some((port, half.stream, stream)),
    }
}

/// The id that the client gave, or, for clients of before it was known, what kubelet makes of the stream's number: a
/// data stream follows its error stream.
fn request_id(stream: &Stream) -> String {
    match stream.headers.get("requestid") {
        Some(id) if !id.is_empty() => id.to_owned(),
        _ if stream.kind() == "data" => format!("stream {}", stream.id.wrapping_sub(2)),
        _ => format!("stream {}", stream.id),
    }
}

async fn forward(connect: ConnectPort, port: u16, data: Stream, error: Stream) {
    let Stream { source, mut sink, .. } = data;
    let mut error = error.sink;
    match forward::connect(&connect, port).await {
        Ok(tcp) => forward::join(tcp, source, sink, true).await,
        Err(why) => {
            let _ = error.send(why.into()).await;
            sink.finish().await;
        }
    }
    error.finish().await;
}
