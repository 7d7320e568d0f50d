//! Port-forward over WebSocket channels: the ports are in the request, two channels each (data, then error). The first
//! message of each is the port, 16 bits little endian.

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::io::AsyncWrite;

use super::super::ConnectPort;
use super::super::client::{Ended, Input};
use super::super::forward;
use super::super::inbox::{Inbox, inbox};
use super::channels::Format;
use super::connection::{ChannelSink, ChannelSource, Connection, connection};

/// Serves one client until all connections have ended. Channels have one byte, so more than 127 ports do not fit.
pub(in super::super) async fn port_forward(
    connect: ConnectPort,
    ports: &[u16],
    format: Format,
    input: impl Input,
    output: impl AsyncWrite + Send + Unpin,
) -> Ended {
    let (mut senders, mut inboxes) = (Vec::new(), Vec::new());
    for _ in ports {
        let (sender, inbox) = inbox();
        // Nothing comes on the error channel.
        senders.extend([Some(sender), None]);
        inboxes.push(inbox);
    }
    let (connection, driver) = connection(input, output, format, senders);
    tokio::pin!(driver);
    let session = async {
        let channels = (0u8..).step_by(2).zip(ports.iter().zip(inboxes));
        let forwards = channels.map(|(data, (port, inbox))| forward(&connection, &connect, *port, data, inbox));
        join_all(forwards).await;
        connection.close().await;
    };
    tokio::select! {
        ended = &mut driver => return ended,
        () = session => {}
    }
    driver.await
}

async fn forward(connection: &Connection, connect: &ConnectPort, port: u16, data: u8, inbox: Inbox) {
    let (error, head) = (data + 1, Bytes::copy_from_slice(&port.to_le_bytes()));
    let _ = connection.send(data, head.clone()).await;
    let _ = connection.send(error, head).await;
    match forward::connect(connect, port).await {
        Ok(tcp) => {
            let sink = ChannelSink { connection: connection.clone(), channel: data };
            forward::join(tcp, ChannelSource(inbox), sink, false).await;
        }
        Err(why) => drop(connection.send(error, why.into()).await),
    }
}
