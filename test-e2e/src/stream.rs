//! A client of Exec, Attach and PortForward: the WebSocket protocol that kubelet's own clients speak, over a library that
//! knows nothing of the runtime.

use std::net::ToSocketAddrs;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use crate::fixture::{Fixture, seconds};

/// Standard input.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// The status at the end, or an error.
pub const ERROR: u8 = 3;
/// Sizes of the terminal.
pub const RESIZE: u8 = 4;
/// Of v5: the channel whose number follows is closed.
const CLOSE: u8 = 255;

/// The versions, the newest first.
const PROTOCOLS: &str = "v5.channel.k8s.io, v4.channel.k8s.io";

/// A connection, and what came on it so far.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<TcpStream>,
    received: Vec<Vec<u8>>,
    ended: bool,
}

/// How a command or a container ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// All of standard output.
    pub stdout: Vec<u8>,
    /// All of standard error.
    pub stderr: Vec<u8>,
    /// The exit code; `Err` is the message of any other failure.
    pub code: Result<i32, String>,
}

impl Client {
    /// Connects to a URL that the runtime gave.
    pub async fn connect(e2e: &Fixture, url: &str) -> Client {
        Client::try_connect(e2e, url).await.unwrap_or_else(|e| panic!("{url}: {e}"))
    }

    /// Connects to a URL that may not be good any more.
    pub async fn try_connect(e2e: &Fixture, url: &str) -> Result<Client, Box<Error>> {
        let url = url.replacen("http", "ws", 1);
        let mut request = url.as_str().into_client_request()?;
        let (host, port) = (request.uri().host().unwrap_or_default(), request.uri().port_u16().unwrap_or(80));
        let address = (host.trim_matches(['[', ']']), port);
        // A socket stays in the network namespace that it was made in.
        let stream = e2e.inside(|| {
            let addresses = address.to_socket_addrs()?.collect::<Vec<_>>();
            std::net::TcpStream::connect(addresses.as_slice())
        });
        let stream = stream.and_then(|stream| {
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream)
        });
        let stream = stream.map_err(|error| Box::new(Error::Io(error)))?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(PROTOCOLS));
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        Ok(Client { socket, received: vec![Vec::new(); 256], ended: false })
    }

    /// Sends bytes on a channel.
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) {
        for piece in bytes.chunks(32 << 10) {
            let message = Message::Binary(Bytes::from([&[channel], piece].concat()));
            self.socket.send(message).await.unwrap_or_else(|e| panic!("sending on channel {channel}: {e}"));
        }
    }

    /// Says that no more will come on a channel.
    pub async fn close(&mut self, channel: u8) {
        let message = Message::Binary(Bytes::copy_from_slice(&[CLOSE, channel]));
        self.socket.send(message).await.unwrap_or_else(|e| panic!("closing channel {channel}: {e}"));
    }

    /// Says what size the terminal has.
    pub async fn resize(&mut self, columns: u16, rows: u16) {
        self.send(RESIZE, format!("{{\"Width\":{columns},\"Height\":{rows}}}").as_bytes()).await;
    }

    /// Sends much on a channel, closes it, and reads meanwhile.
    pub async fn send_all(&mut self, channel: u8, bytes: Vec<u8>) {
        let mut messages: Vec<_> = bytes.chunks(32 << 10).map(|piece| [&[channel], piece].concat()).collect();
        messages.push(vec![CLOSE, channel]);
        let (mut sink, mut stream) = (&mut self.socket).split();
        let sending = async {
            for message in messages {
                sink.send(Message::Binary(message.into())).await.unwrap_or_else(|e| panic!("sending: {e}"));
            }
        };
        tokio::pin!(sending);
        loop {
            tokio::select! {
                () = &mut sending => return,
                message = stream.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => keep(&mut self.received, &bytes),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => panic!("the connection ended while data was sent"),
                    Some(Ok(_)) => {}
                },
            }
        }
    }

    /// What has come on a channel.
    pub fn received(&self, channel: u8) -> &[u8] {
        &self.received[usize::from(channel)]
    }

    /// Waits until what came on a channel holds `text`.
    pub async fn wait_for(&mut self, channel: u8, text: &str) {
        let mut searched = 0;
        loop {
            let got = self.received(channel);
            if got[searched..].windows(text.len()).any(|window| window == text.as_bytes()) {
                return;
            }
            searched = got.len().saturating_sub(text.len());
            let got = String::from_utf8_lossy(&got[got.len().saturating_sub(200)..]).into_owned();
            assert!(self.read().await, "it ended without {text:?} on channel {channel}: …{got:?}, {:?}", self.status());
        }
    }

    /// Waits for the end.
    pub async fn finish(mut self) -> Ended {
        while self.read().await {}
        let [stdout, stderr] = [STDOUT, STDERR].map(|channel| self.received(channel).to_vec());
        Ended { stdout, stderr, code: exit_code(&self.status()) }
    }

    /// Waits for the end, and answers what came on a channel.
    pub async fn rest(mut self, channel: u8) -> Vec<u8> {
        while self.read().await {}
        self.received(channel).to_vec()
    }

    fn status(&self) -> String {
        String::from_utf8_lossy(self.received(ERROR)).into_owned()
    }

    /// Reads a message; false at the end.
    async fn read(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let limit = std::time::Duration::from_secs(seconds(60) as u64);
        match tokio::time::timeout(limit, self.socket.next()).await.expect("something comes in time") {
            Some(Ok(Message::Binary(bytes))) => keep(&mut self.received, &bytes),
            Some(Ok(Message::Close(_)) | Err(_)) | None => self.ended = true,
            Some(Ok(_)) => {}
        }
        !self.ended
    }
}

fn keep(received: &mut [Vec<u8>], message: &[u8]) {
    match message.split_first() {
        // The runtime has closed that channel.
        Some((&CLOSE, _)) | None => {}
        Some((&channel, bytes)) => received[usize::from(channel)].extend_from_slice(bytes),
    }
}

/// From the `metav1.Status` that comes last.
fn exit_code(status: &str) -> Result<i32, String> {
    let parsed: serde_json::Value = serde_json::from_str(status).map_err(|_| status.to_owned())?;
    if parsed["status"] == "Success" {
        return Ok(0);
    }
    let causes = parsed["details"]["causes"].as_array().cloned().unwrap_or_default();
    let code = causes.iter().find(|cause| cause["reason"] == "ExitCode").and_then(|cause| cause["message"].as_str());
    match code.filter(|_| parsed["reason"] == "NonZeroExitCode").and_then(|code| code.parse().ok()) {
        Some(code) => Ok(code),
        None => Err(parsed["message"].as_str().unwrap_or(status).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::exit_code;

    #[test]
    fn a_status_is_understood() {
        assert_eq!(exit_code(r#"{"metadata":{},"status":"Success"}"#), Ok(0));
        let failed = r#"{"status":"Failure","message":"m","reason":"NonZeroExitCode",
            "details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(exit_code(failed), Ok(7));
        assert_eq!(exit_code(r#"{"status":"Failure","message":"m","reason":"InternalError"}"#), Err("m".to_owned()));
        assert_eq!(exit_code(""), Err(String::new()));
    }
}
