//! The whole server over loopback, with real commands as its processes: SPDY by our own codec, WebSocket by a client
//! that others wrote.

/// Exec and attach over SPDY.
mod spdy;
/// All of it over WebSocket.
mod websocket;

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::spdy::test_client::TestClient;
use super::{ConnectPort, ProcessIo, ProcessStreams, Session, StreamServer, TerminalSize};

const OUTPUT: ProcessStreams = ProcessStreams { tty: false, stdin: false, stdout: true, stderr: false };
const ALL: ProcessStreams = ProcessStreams { tty: false, stdin: true, stdout: true, stderr: true };

async fn server() -> Arc<StreamServer> {
    let server = StreamServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    tokio::spawn(server.clone().serve(std::future::pending()));
    server
}

/// What a test sees of a session.
struct Seen {
    /// Resolves when the session has let go of its process.
    dropped: oneshot::Receiver<()>,
    sizes: mpsc::Receiver<TerminalSize>,
    exited: Arc<AtomicBool>,
}

/// Kills the command, as `ops` does when its caller goes.
struct Kill(u32, Option<oneshot::Sender<()>>);

impl Drop for Kill {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0 as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if let Some(dropped) = self.1.take() {
            let _ = dropped.send(());
        }
    }
}

/// A shell that runs the script, with the streams.
fn shell(streams: ProcessStreams, script: &str) -> (Session, Seen) {
    let (start, seen) = process(script.to_owned());
    (Session::Exec { streams, start }, seen)
}

fn process(script: String) -> (super::StartProcess, Seen) {
    let ((dropped, on_drop), (resize, sizes)) = (oneshot::channel(), mpsc::channel(8));
    let over = Arc::new(AtomicBool::new(false));
    let seen = Seen { dropped: on_drop, sizes, exited: over.clone() };
    let start = move || {
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let kill = Kill(child.id(), Some(dropped));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (exited, exit) = oneshot::channel();
        std::thread::spawn(move || {
            let status = child.wait().map(|status| status.code().unwrap_or(137));
            over.store(true, Ordering::Relaxed);
            exited.send(status)
        });
        Ok(ProcessIo {
            stdin: stdin.map(OwnedFd::from),
            stdout: stdout.map(OwnedFd::from),
            stderr: stderr.map(OwnedFd::from),
            resize,
            exit: Box::pin(async move {
                let _kill = kill;
                exit.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            }),
        })
    };
    (Box::new(move || Box::pin(std::future::ready(start()))), seen)
}

/// Asks for an upgrade; the answer's head, and the connection behind it.
async fn upgrade(url: &str, headers: &str) -> (String, TcpStream) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut tcp = TcpStream::connect(host).await.unwrap();
    let request = format!("POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n{headers}\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap(), tcp)
}

async fn spdy_client(url: &str, version: &str) -> TestClient<TcpStream> {
    let (head, tcp) = upgrade(url, &format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {version}\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_lowercase().contains(&format!("x-stream-protocol-version: {version}")), "{head}");
    TestClient::new(tcp)
}

/// Connects to real ports; 1 is one where nobody listens.
fn connect() -> ConnectPort {
    Arc::new(|port| {
        Box::pin(async move { TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string()) })
    })
}

/// A server that says what it was told, in capitals, when the client is done.
async fn shouting_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut told = Vec::new();
                tcp.read_to_end(&mut told).await.unwrap();
                tcp.write_all(&told.to_ascii_uppercase()).await.unwrap();
            });
        }
    });
    port
}

/// Bytes in which a lost or doubled one shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i / 251 + i) as u8).collect()
}

#[tokio::test]
async fn a_url_is_good_once_and_only_for_an_upgrade() {
    let server = server().await;
    let url = server.url(shell(OUTPUT, "true").0).unwrap();
    let spdy = "Upgrade: SPDY/3.1\r\n";
    let (head, _) = upgrade(&url, spdy).await;
    assert!(head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("connection: upgrade"), "{head}");
    assert!(upgrade(&url, spdy).await.0.starts_with("HTTP/1.1 404"));
    let url = server.url(shell(OUTPUT, "true").0).unwrap();
    assert!(upgrade(&url.replace("/exec/", "/attach/"), spdy).await.0.starts_with("HTTP/1.1 404"));
    let url = server.url(shell(OUTPUT, "true").0).unwrap();
    assert!(upgrade(&url, "").await.0.starts_with("HTTP/1.1 400"));
    let url = server.url(shell(OUTPUT, "true").0).unwrap();
    let (head, _) = upgrade(&url, "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n").await;
    assert!(head.starts_with("HTTP/1.1 403") && head.contains("v4.channel.k8s.io"), "{head}");
    let host = url.trim_start_matches("http://").split('/').next().unwrap();
    for nonsense in ["http://host/", "http://host/exec/", "http://host/exec/a/b", "http://host//"] {
        let url = nonsense.replace("host", host);
        assert!(upgrade(&url, spdy).await.0.starts_with("HTTP/1.1 404"), "{nonsense}");
    }
    for target in ["host:80", "http://host", "*"] {
        let mut tcp = TcpStream::connect(host).await.unwrap();
        tcp.write_all(format!("GET {target} HTTP/1.1\r\nHost: host\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{target}: {answer}");
    }
}
