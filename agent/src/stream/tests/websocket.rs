//! Exec and port-forward over WebSocket, by a client that others wrote.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;

type Client = WebSocketStream<TcpStream>;

async fn client(url: &str, protocol: &str) -> Client {
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
    let tcp = TcpStream::connect(request.uri().authority().unwrap().as_str()).await.unwrap();
    let (client, response) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], protocol);
    client
}

/// What came on each channel until the server closed, and how many messages of it were empty.
async fn messages(client: &mut Client) -> ([Vec<u8>; 5], usize) {
    let (mut channels, mut empty) = (<[Vec<u8>; 5]>::default(), 0);
    while let Some(message) = client.next().await {
        let (channel, bytes) = match message.unwrap() {
            Message::Binary(message) => (message[0], message[1..].to_vec()),
            Message::Text(message) => (message.as_bytes()[0] - b'0', STANDARD.decode(&message[1..]).unwrap()),
            Message::Close(_) => continue,
            other => panic!("{other:?}"),
        };
        empty += usize::from(bytes.is_empty());
        channels[usize::from(channel)].extend(bytes);
    }
    (channels, empty)
}

#[tokio::test]
async fn v5_closes_stdin_and_every_byte_comes_back() {
    let server = server().await;
    let (session, seen) = shell(ALL, "cat; echo problem >&2");
    let client = client(&server.url(session).unwrap(), "v5.channel.k8s.io").await;
    let sent = pattern(700_000);
    let (mut write, read) = client.split();
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        for chunk in sent.chunks(90_001) {
            write.send(Message::binary([&[0], chunk].concat())).await.unwrap();
        }
        write.send(Message::Ping("still there?".into())).await.unwrap();
        write.send(Message::binary(vec![255, 0])).await.unwrap();
        write
    });
    let mut read = read;
    let (mut channels, mut pong) = (<[Vec<u8>; 5]>::default(), false);
    while let Some(Ok(message)) = read.next().await {
        match message {
            Message::Binary(message) => channels[usize::from(message[0])].extend(&message[1..]),
            Message::Pong(payload) => pong = payload == "still there?",
            Message::Close(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(channels[1] == expected && channels[2] == b"problem\n" && pong);
    assert_eq!(channels[3], br#"{"metadata":{},"status":"Success"}"#);
    drop(writing.await.unwrap());
    seen.dropped.await.unwrap();
}

#[tokio::test]
async fn each_subprotocol_has_its_form() {
    let server = server().await;
    for (protocol, told) in [
        ("v4.channel.k8s.io", "\"ExitCode\""),
        ("v4.base64.channel.k8s.io", "\"ExitCode\""),
        ("channel.k8s.io", "exit status 5"),
        ("base64.channel.k8s.io", "exit status 5"),
    ] {
        let url = server.url(shell(ALL, "read line; echo $line; echo no >&2; exit 5").0).unwrap();
        let mut client = client(&url, protocol).await;
        let input = if protocol.contains("base64") {
            Message::text(format!("0{}", STANDARD.encode("hello\n")))
        } else {
            Message::binary(&b"\x00hello\n"[..])
        };
        client.send(input).await.unwrap();
        let ([_, stdout, stderr, error, _], empty) = messages(&mut client).await;
        assert_eq!((stdout.as_slice(), stderr.as_slice(), empty), (&b"hello\n"[..], &b"no\n"[..], 1), "{protocol}");
        assert!(String::from_utf8(error).unwrap().contains(told), "{protocol}");
    }
}

#[tokio::test]
async fn a_client_that_closes_takes_its_process_with_it() {
    let server = server().await;
    for close in [true, false] {
        let (session, seen) = shell(ALL, "exec sleep 1000");
        let mut client = client(&server.url(session).unwrap(), "v4.channel.k8s.io").await;
        if close {
            client.close(None).await.unwrap();
            while client.next().await.is_some_and(|message| message.is_ok()) {}
        }
        drop(client);
        seen.dropped.await.unwrap();
    }
}

#[tokio::test]
async fn sizes_come_on_channel_four() {
    let server = server().await;
    let streams = ProcessStreams { tty: true, stdin: true, stdout: true, stderr: false };
    let (session, mut seen) = shell(streams, "read line");
    let mut client = client(&server.url(session).unwrap(), "v4.channel.k8s.io").await;
    client.send(Message::binary(&b"\x04{\"Width\":10,\"Height\":20}"[..])).await.unwrap();
    assert_eq!(seen.sizes.recv().await, Some(TerminalSize { columns: 10, rows: 20 }));
}

/// Says the same to everybody, and that is all.
async fn talking_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut asked = [0; 2];
            tcp.read_exact(&mut asked).await.unwrap();
            tcp.write_all(&asked.repeat(2)).await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn ports_over_channels_begin_with_their_number() {
    let (server, port) = (server().await, talking_server().await);
    let url = server.url(Session::PortForward { connect: connect(), gone: Box::pin(std::future::pending()) }).unwrap()
        + &format!("?port={port},1");
    let mut client = client(&url, "v4.channel.k8s.io").await;
    client.send(Message::binary(&b"\x00hi"[..])).await.unwrap();
    let ([data, error, refused, why, _], _) = messages(&mut client).await;
    let number = port.to_le_bytes();
    assert_eq!((data, error, refused), ([&number[..], b"hihi"].concat(), number.to_vec(), vec![1, 0]));
    assert!(String::from_utf8_lossy(&why[2..]).contains("refused"));
}

/// SPDY inside WebSocket: bytes of one connection in messages of the other.
#[tokio::test]
async fn spdy_goes_through_a_tunnel() {
    let (server, port) = (server().await, shouting_server().await.to_string());
    let url = server.url(Session::PortForward { connect: connect(), gone: Box::pin(std::future::pending()) }).unwrap();
    let (mut write, mut read) = client(&url, "SPDY/3.1+portforward.k8s.io").await.split();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (mut from_spdy, mut to_spdy) = tokio::io::split(theirs);
    tokio::spawn(async move {
        let mut chunk = vec![0; 5000];
        while let Ok(count @ 1..) = from_spdy.read(&mut chunk).await {
            write.send(Message::binary(chunk[..count].to_vec())).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = read.next().await {
            to_spdy.write_all(&message.into_data()).await.unwrap();
        }
    });
    let mut spdy = TestClient::new(ours);
    let error = spdy.open([("streamtype", "error"), ("port", &port), ("requestid", "0")]).await.unwrap();
    let data = spdy.open([("streamtype", "data"), ("port", &port), ("requestid", "0")]).await.unwrap();
    let sent = pattern(300_000);
    spdy.data(data, sent.clone(), true).await;
    assert!(spdy.read_to_end(data).await == sent.to_ascii_uppercase());
    assert!(spdy.read_to_end(error).await.is_empty());
}
