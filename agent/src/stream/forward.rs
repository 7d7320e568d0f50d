//! Port-forward: a client's stream joined to a TCP connection into a pod, the same over either protocol.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::ConnectPort;
use super::client::{READ, Sink, Source};

/// Connects to the port.
///
/// # Errors
/// What to tell the client.
pub(super) async fn connect(connect: &ConnectPort, port: u16) -> Result<TcpStream, String> {
    let tcp = connect(port).await.map_err(|why| format!("error forwarding port {port} to pod: {why}"))?;
    // Only latency is lost without it.
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}

/// Copies both ways. A side's half-close is passed on, and the other direction goes on; a client that cannot tell of
/// one (`half_closes` false) is done when the pod is.
pub(super) async fn join<R: Source, W: Sink>(tcp: TcpStream, mut source: R, mut sink: W, half_closes: bool) {
    let ((read, mut write), given_up) = (tcp.into_split(), sink.given_up());
    let up = async {
        while let Some(bytes) = source.next().await {
            // A connection that the pod has reset: the other direction has seen it as well.
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    let down = async {
        while let Ok(Some(chunk)) = read_chunk(&read).await {
            if sink.send(chunk).await.is_err() {
                return;
            }
        }
        sink.finish().await;
    };
    let done = async {
        if half_closes {
            tokio::join!(up, down);
        } else {
            let never = async {
                up.await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = down => {}
                () = never => {}
            }
        }
    };
    tokio::select! {
        () = done => {}
        () = given_up => {}
    }
}

/// What is there; `None` at the end.
async fn read_chunk(read: &OwnedReadHalf) -> io::Result<Option<Bytes>> {
    loop {
        read.readable().await?;
        let mut chunk = Vec::with_capacity(READ / 2);
        match read.try_read_buf(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(_) => {
                chunk.shrink_to_fit();
                return Ok(Some(chunk.into()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
