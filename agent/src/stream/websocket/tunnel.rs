//! SPDY inside binary messages (`SPDY/3.1+portforward.k8s.io`): for clients whose proxies know only WebSocket.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::super::ConnectPort;
use super::super::client::{Ended, Input, READ};
use super::super::inbox::{Inbox, inbox};
use super::super::spdy;
use super::channels::Format;
use super::connection::connection;

/// Serves one client until it goes.
pub(in super::super) async fn tunnel(
    connect: ConnectPort,
    input: impl Input,
    output: impl AsyncWrite + Send + Unpin,
) -> Ended {
    let (sender, inbox) = inbox();
    let (connection, driver) = connection(input, output, Format::Tunnel, vec![Some(sender)]);
    tokio::pin!(driver);
    let (mut to_client, from_spdy) = tokio::io::duplex(READ);
    let session = async {
        let outward = async {
            let mut bytes = BytesMut::new();
            while to_client.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
                if connection.send(0, bytes.split().freeze()).await.is_err() {
                    return;
                }
            }
        };
        let (ended, ()) = tokio::join!(spdy::port_forward(connect, InboxInput(inbox), from_spdy), outward);
        tracing::debug!(%ended, "a tunnelled connection has ended");
        connection.close().await;
    };
    tokio::select! {
        ended = &mut driver => return ended,
        () = session => {}
    }
    driver.await
}

/// The messages' bytes, one after the other.
struct InboxInput(Inbox);

impl Input for InboxInput {
    async fn read(&mut self, into: &mut BytesMut) -> std::io::Result<usize> {
        let bytes: Bytes = self.0.next().await.unwrap_or_default();
        into.extend_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// The connection around this one sees it, and ends both.
    async fn hung_up(&self) {
        std::future::pending().await
    }
}
