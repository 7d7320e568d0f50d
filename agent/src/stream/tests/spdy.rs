//! Exec, attach and port-forward over SPDY.

use super::*;

async fn exec(url: &str, version: &str, streams: ProcessStreams) -> (TestClient<TcpStream>, [u32; 4]) {
    let mut client = spdy_client(url, version).await;
    let mut ids = [0; 4];
    let kinds = [("error", true), ("stdin", streams.stdin), ("stdout", streams.stdout), ("stderr", streams.stderr)];
    for (id, (kind, wanted)) in ids.iter_mut().zip(kinds) {
        if wanted {
            *id = client.open([("streamtype", kind)]).await.unwrap();
        }
    }
    (client, ids)
}

#[tokio::test]
async fn every_byte_comes_through_and_the_exit_code() {
    let server = server().await;
    let (session, seen) = shell(ALL, "cat; echo problem >&2; exit 3");
    let (client, [error, stdin, stdout, stderr]) = exec(&server.url(session).unwrap(), "v4.channel.k8s.io", ALL).await;
    let mut client = client;
    let sent = pattern(1 << 20);
    for (i, chunk) in sent.chunks(10_000).enumerate() {
        client.data(stdin, chunk.to_vec(), false).await;
        // cat's output must be taken, or it stops taking input.
        while client.received[&stdout].0.len() + 60_000 < i * 10_000 {
            assert!(client.receive().await);
        }
    }
    client.data(stdin, "", true).await;
    assert!(client.read_to_end(stdout).await == sent, "what was sent comes back");
    assert_eq!(client.read_to_end(stderr).await, b"problem\n");
    let status: serde_json::Value = serde_json::from_slice(&client.read_to_end(error).await).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    while !client.gone_away {
        assert!(client.receive().await);
    }
    seen.dropped.await.unwrap();
}

#[tokio::test]
async fn older_versions_get_words() {
    let server = server().await;
    for (version, script, told) in
        [("v2.channel.k8s.io", "exit 7", "exit status 7"), ("channel.k8s.io", "echo; exit 0", "")]
    {
        let url = server.url(shell(OUTPUT, script).0).unwrap();
        let (mut client, [error, ..]) = exec(&url, version, OUTPUT).await;
        let status = String::from_utf8(client.read_to_end(error).await).unwrap();
        assert!(status.ends_with(told) && status.is_empty() == told.is_empty(), "{version}: {status}");
    }
}

#[tokio::test]
async fn a_command_that_cannot_start_says_why() {
    let server = server().await;
    let start = Box::new(|| Box::pin(std::future::ready(Err("no such file: /app".to_owned()))) as _);
    let url = server.url(Session::Exec { streams: OUTPUT, start }).unwrap();
    let (mut client, [error, ..]) = exec(&url, "v4.channel.k8s.io", OUTPUT).await;
    let status: serde_json::Value = serde_json::from_slice(&client.read_to_end(error).await).unwrap();
    assert!(status["message"].as_str().unwrap().ends_with("executing command in container: no such file: /app"));
}

#[tokio::test]
async fn a_grandchild_that_holds_the_output_is_not_waited_for() {
    let server = server().await;
    let url = server.url(shell(OUTPUT, "echo hello; (sleep 1000; echo never) & exit 0").0).unwrap();
    let (mut client, [error, _, stdout, _]) = exec(&url, "v4.channel.k8s.io", OUTPUT).await;
    assert_eq!(client.read_to_end(stdout).await, b"hello\n");
    assert!(!client.read_to_end(error).await.is_empty());
}

/// The output of a command that has exited is whole, however late the client takes it.
#[tokio::test]
async fn a_slow_client_loses_nothing_and_holds_nobody_up() {
    let server = server().await;
    let url = server.url(shell(OUTPUT, "head -c 8000000 /dev/zero; printf end").0).unwrap();
    let (mut slow, [error, _, stdout, _]) = exec(&url, "v4.channel.k8s.io", OUTPUT).await;
    let url = server.url(shell(OUTPUT, "echo quick").0).unwrap();
    let (mut quick, [_, _, quick_stdout, _]) = exec(&url, "v4.channel.k8s.io", OUTPUT).await;
    assert_eq!(quick.read_to_end(quick_stdout).await, b"quick\n");
    let output = slow.read_to_end(stdout).await;
    assert_eq!((output.len(), &output[8_000_000..]), (8_000_003, &b"end"[..]));
    assert!(!slow.read_to_end(error).await.is_empty());
}

/// Ctrl-C has to come through while the terminal takes nothing.
#[tokio::test]
async fn what_is_typed_comes_through_to_a_process_whose_output_nobody_takes() {
    let server = server().await;
    let (session, seen) = shell(ALL, "yes & for i in $(seq 300); do read line || exit; done; kill $!");
    let (mut client, [_, stdin, ..]) = exec(&server.url(session).unwrap(), "v4.channel.k8s.io", ALL).await;
    // Until everything between the command and us is full.
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    for _ in 0..300 {
        client.data(stdin, "x\n", false).await;
    }
    // The command has ended when it has read them all; nothing was taken of its output.
    while !seen.exited.load(Ordering::Relaxed) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// The command does not read, the client has sent more than anybody holds, and goes.
#[tokio::test]
async fn a_client_that_goes_takes_its_process_with_it() {
    let server = server().await;
    let (session, seen) = shell(ALL, "exec sleep 1000");
    let (mut client, [_, stdin, ..]) = exec(&server.url(session).unwrap(), "v4.channel.k8s.io", ALL).await;
    let stuffing = async {
        loop {
            client.data(stdin, vec![0; 32 << 10], false).await;
        }
    };
    let stuck = tokio::time::timeout(std::time::Duration::from_millis(300), stuffing).await;
    assert!(stuck.is_err());
    drop(client);
    seen.dropped.await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_before_it_opened_its_streams_starts_nothing() {
    let server = server().await;
    let (session, seen) = shell(ALL, "exec sleep 1000");
    let mut client = spdy_client(&server.url(session).unwrap(), "v4.channel.k8s.io").await;
    client.open([("streamtype", "error")]).await.unwrap();
    drop(client);
    assert!(seen.dropped.await.is_err(), "never started, and dropped");
}

#[tokio::test]
async fn streams_that_make_no_sense_are_refused_and_pings_answered() {
    let server = server().await;
    let mut client = spdy_client(&server.url(shell(ALL, "cat").0).unwrap(), "v4.channel.k8s.io").await;
    assert!(client.open([("streamtype", "stdin")]).await.is_some());
    assert!(client.open([("streamtype", "stdin")]).await.is_none(), "a second one");
    assert!(client.open([("streamtype", "data")]).await.is_none());
    assert!(client.open([]).await.is_none());
    client.ping(7).await;
    while client.pongs.is_empty() {
        assert!(client.receive().await);
    }
    assert_eq!(client.pongs, [7]);
}

#[tokio::test]
async fn attach_takes_sizes_and_ends_with_the_container() {
    let server = server().await;
    let streams = ProcessStreams { tty: true, stdin: true, stdout: true, stderr: false };
    let (start, mut seen) = process("read line; echo $line; exit 9".to_owned());
    let url = server.url(Session::Attach { streams, start }).unwrap();
    let (mut client, [error, stdin, stdout, _]) = exec(&url, "v4.channel.k8s.io", streams).await;
    let resize = client.open([("streamtype", "resize")]).await.unwrap();
    client.data(resize, "{\"Width\":120,\"Height\":40}\n", false).await;
    assert_eq!(seen.sizes.recv().await, Some(TerminalSize { columns: 120, rows: 40 }));
    client.data(stdin, "hi\n", false).await;
    assert_eq!(client.read_to_end(stdout).await, b"hi\n");
    let status: serde_json::Value = serde_json::from_slice(&client.read_to_end(error).await).unwrap();
    assert_eq!(status["status"], "Success", "the container's exit code is not attach's");
}

#[tokio::test]
async fn a_client_that_keeps_windows_is_not_sent_more() {
    let server = server().await;
    let url = server.url(shell(OUTPUT, "head -c 100000 /dev/zero").0).unwrap();
    let mut client = spdy_client(&url, "v4.channel.k8s.io").await;
    client.initial_window(1000).await;
    let error = client.open([("streamtype", "error")]).await.unwrap();
    let stdout = client.open([("streamtype", "stdout")]).await.unwrap();
    while client.received[&stdout].0.len() < 1000 {
        assert!(client.receive().await);
    }
    // The pong comes when everything that may come has come.
    client.ping(1).await;
    while client.pongs.is_empty() {
        assert!(client.receive().await);
    }
    assert_eq!(client.received[&stdout].0.len(), 1000);
    client.window(0, 1 << 20).await;
    client.window(stdout, 1 << 20).await;
    assert_eq!(client.read_to_end(stdout).await.len(), 100_000);
    assert!(!client.read_to_end(error).await.is_empty());
}

async fn forward(client: &mut TestClient<TcpStream>, port: u16, request: &str) -> (u32, u32) {
    let (port, of) = (port.to_string(), |kind| kind);
    let error = client.open([("streamType", of("error")), ("port", &port), ("requestID", request)]).await.unwrap();
    let data = client.open([("streamType", of("data")), ("port", &port), ("requestID", request)]).await.unwrap();
    (error, data)
}

#[tokio::test]
async fn ports_are_forwarded_many_at_a_time() {
    let server = server().await;
    let port = shouting_server().await;
    let url = server.url(Session::PortForward { connect: connect(), gone: Box::pin(std::future::pending()) }).unwrap();
    let mut client = spdy_client(&url, "portforward.k8s.io").await;
    let (first_error, first) = forward(&mut client, port, "0").await;
    let (second_error, second) = forward(&mut client, port, "1").await;
    client.data(second, "second", true).await;
    assert_eq!(client.read_to_end(second).await, b"SECOND", "a half-close is passed on, and is no close");
    let large = pattern(3 << 20);
    client.data(first, large.clone(), true).await;
    assert!(client.read_to_end(first).await == large.to_ascii_uppercase());
    assert!(client.read_to_end(first_error).await.is_empty() && client.read_to_end(second_error).await.is_empty());
    let (error, data) = forward(&mut client, 1, "2").await;
    let told = String::from_utf8(client.read_to_end(error).await).unwrap();
    assert!(told.starts_with("error forwarding port 1 to pod: ") && told.contains("refused"), "{told}");
    assert!(client.read_to_end(data).await.is_empty());
    assert!(client.open([("streamtype", "data"), ("port", "0")]).await.is_none());
    assert!(client.open([("streamtype", "stdin"), ("port", "80")]).await.is_none());
}

/// Nothing says so on the pod's side but the connection's end.
#[tokio::test]
async fn a_forwarded_connection_ends_with_its_stream_or_its_client() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = server.url(Session::PortForward { connect: connect(), gone: Box::pin(std::future::pending()) }).unwrap();
    let mut client = spdy_client(&url, "portforward.k8s.io").await;
    let (error, data) = forward(&mut client, port, "0").await;
    let (mut reset, _) = listener.accept().await.unwrap();
    let (_, _) = forward(&mut client, port, "1").await;
    let (mut left, _) = listener.accept().await.unwrap();
    client.reset(data).await;
    assert!(client.read_to_end(error).await.is_empty());
    assert_eq!(reset.read(&mut [0; 8]).await.unwrap_or(0), 0);
    drop(client);
    assert_eq!(left.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

/// The pod's side has closed and the client's has not: the connection is open on ours, and would keep the pod's network.
#[tokio::test]
async fn forwarded_connections_end_with_their_pod() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let gone = Box::pin(async move { drop(stopped.await) });
    let url = server.url(Session::PortForward { connect: connect(), gone }).unwrap();
    let mut client = spdy_client(&url, "portforward.k8s.io").await;
    let (_, data) = forward(&mut client, port, "0").await;
    let (mut pod, _) = listener.accept().await.unwrap();
    pod.shutdown().await.unwrap();
    assert!(client.read_to_end(data).await.is_empty());
    client.data(data, "still there", false).await;
    pod.read_exact(&mut [0; 11]).await.unwrap();
    stop.send(()).unwrap();
    assert_eq!(pod.read(&mut [0; 8]).await.unwrap_or(0), 0);
}
