//! Exec over its stream (rules.md, rule 32): exact bytes, exit codes, terminals, half-closes, and clients that go away.

use cri_api::v1;
use test_e2e::fixture::{Container, Fixture, eventually};
use test_e2e::stream::{Client, STDERR, STDIN, STDOUT};
use tonic::Code;

/// A command with pipes for all three streams.
fn request(container: &Container<'_>, script: &str) -> v1::ExecRequest {
    v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        tty: false,
        stdin: true,
        stdout: true,
        stderr: true,
    }
}

fn terminal(container: &Container<'_>, script: &str) -> v1::ExecRequest {
    v1::ExecRequest { tty: true, stderr: false, ..request(container, script) }
}

async fn exec(e2e: &Fixture, request: v1::ExecRequest) -> Client {
    let url = e2e.client.exec_url(request).await.expect("a url");
    Client::connect(e2e, &url).await
}

#[tokio::test]
async fn output_is_exact_and_the_exit_code_comes_last() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("stream-exact", &["sleep", "1000"]).await;
    for (script, stdout, stderr, code) in [
        ("printf hello", b"hello".as_slice(), b"".as_slice(), 0),
        (r"printf 'a\000\377\r\n'; printf err >&2; exit 7", b"a\0\xff\r\n", b"err", 7),
        ("kill -9 $$", b"", b"", 137),
    ] {
        let ended = exec(&e2e, v1::ExecRequest { stdin: false, ..request(&container, script) }).await.finish().await;
        assert_eq!((ended.stdout.as_slice(), ended.stderr.as_slice(), ended.code), (stdout, stderr, Ok(code)));
    }
    let only_stdout = v1::ExecRequest { stdin: false, stderr: false, ..request(&container, "echo out; echo err >&2") };
    let ended = exec(&e2e, only_stdout).await.finish().await;
    assert_eq!((ended.stdout.as_slice(), ended.stderr.len(), ended.code), (b"out\n".as_slice(), 0, Ok(0)));
    let large = request(&container, "head -c 5000000 /dev/zero | tr '\\000' x");
    let ended = exec(&e2e, v1::ExecRequest { stdin: false, ..large }).await.finish().await;
    assert!(ended.stdout.len() == 5_000_000 && ended.stdout.iter().all(|byte| *byte == b'x'));
}

#[tokio::test]
async fn newer_ten_megabytes_come_back_as_they_went() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("stream-large", &["sleep", "1000"]).await;
    let bytes: Vec<u8> = (0..10_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut client = exec(&e2e, request(&container, "cat; exit 3")).await;
    client.send_all(STDIN, bytes.clone()).await;
    let ended = client.finish().await;
    assert!(ended.stdout == bytes, "{} bytes came back", ended.stdout.len());
    assert_eq!(ended.code, Ok(3));
}

#[tokio::test]
async fn newer_the_end_of_input_is_not_the_end_of_output() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("stream-half", &["sleep", "1000"]).await;
    let mut client = exec(&e2e, request(&container, "cat; sleep 0.3; echo later; echo wrong >&2")).await;
    client.send(STDIN, b"first\n").await;
    client.wait_for(STDOUT, "first\n").await;
    client.close(STDIN).await;
    let ended = client.finish().await;
    let expected = (b"first\nlater\n".as_slice(), b"wrong\n".as_slice(), Ok(0));
    assert_eq!((ended.stdout.as_slice(), ended.stderr.as_slice(), ended.code), expected);
}

#[tokio::test]
async fn a_terminal_has_one_stream_and_a_size() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("stream-tty", &["sleep", "1000"]).await;
    let script = "trap 'stty size' WINCH; test -t 2 && echo terminal >&2; \
                  while read -r line || test -z \"$line\"; do test \"$line\" = end && exit 5; done";
    let mut client = exec(&e2e, terminal(&container, script)).await;
    client.wait_for(STDOUT, "terminal\r\n").await;
    client.resize(101, 37).await;
    // A shell runs its trap when what it waits for is over.
    client.send(STDIN, b"\n").await;
    client.wait_for(STDOUT, "37 101\r\n").await;
    client.resize(80, 24).await;
    client.send(STDIN, b"\n").await;
    client.wait_for(STDOUT, "24 80\r\n").await;
    client.send(STDIN, b"end\n").await;
    let ended = client.finish().await;
    assert_eq!((ended.stderr.as_slice(), ended.code), (b"".as_slice(), Ok(5)));
}

#[tokio::test]
async fn strict_a_client_that_goes_takes_its_command_along() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("stream-gone", &["sleep", "1000"]).await;
    let script = "setsid sleep 3001 & (sleep 3002 &); echo up; exec sleep 3003";
    for request in [request(&container, script), terminal(&container, script)] {
        let mut client = exec(&e2e, request).await;
        client.wait_for(STDOUT, "up").await;
        assert!(container.sh("ps").await.contains("sleep 3003"));
        drop(client);
        eventually("the command and its children die", async || {
            (!container.sh("ps").await.contains("sleep 300")).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_cannot_be_run_is_told_to_the_client() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("stream-bad", &["sleep", "1000"]).await;
    let cmd = vec!["/no/such/program".to_owned()];
    let ended = exec(&e2e, v1::ExecRequest { cmd, ..request(&container, "") }).await.finish().await;
    let message = ended.code.expect_err("it cannot be run");
    assert!(message.contains("/no/such/program"), "{message}");
}

#[tokio::test]
async fn a_url_serves_once() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("stream-once", &["sleep", "1000"]).await;
    let url = e2e.client.exec_url(request(&container, "echo once")).await.expect("a url");
    Client::connect(&e2e, &url).await.wait_for(STDOUT, "once\n").await;
    assert!(Client::try_connect(&e2e, &url).await.is_err(), "and no second time");
}

#[tokio::test]
async fn strict_bad_requests_are_refused_by_kind() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("stream-refused").await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    let good = request(&container, "true");
    let nothing = v1::ExecRequest { stdin: false, stdout: false, stderr: false, ..good.clone() };
    let created = pod.create_with("created", &["sleep", "1000"], |_| {}).await;
    for (request, code) in [
        (nothing, Code::InvalidArgument),
        (v1::ExecRequest { tty: true, ..good.clone() }, Code::InvalidArgument),
        (v1::ExecRequest { cmd: vec![], ..good.clone() }, Code::InvalidArgument),
        (v1::ExecRequest { container_id: "no-such-container".into(), ..good.clone() }, Code::NotFound),
        (request(&created, "true"), Code::FailedPrecondition),
    ] {
        let refused = e2e.client.exec_url(request.clone()).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{request:?}: {refused:?}");
    }
    let url = e2e.client.exec_url(good).await.expect("a url");
    e2e.client.stop_container(&container.id, 0).await.expect("stop");
    let message = Client::connect(&e2e, &url).await.finish().await.code.expect_err("it is too late");
    assert!(message.contains("must be running"), "{message}");
}

#[tokio::test]
async fn many_at_once_do_not_mix() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("stream-many", &["sleep", "1000"]).await;
    let runs = (0..12).map(async |n: i32| {
        let script = format!("read word; echo {n} $word; echo {n} >&2; exit {n}");
        let mut client = exec(&e2e, request(&container, &script)).await;
        client.send(STDIN, format!("word-{n}\n").as_bytes()).await;
        client.wait_for(STDERR, "\n").await;
        let ended = client.finish().await;
        assert_eq!((ended.stdout, ended.code), (format!("{n} word-{n}\n").into_bytes(), Ok(n)));
    });
    futures_util::future::join_all(runs).await;
}
