//! Attach (rules.md, rule 32): a container's own input and output, for several clients at once, to its end.

use cri_api::v1;
use test_e2e::cri_log::Stream;
use test_e2e::fixture::{Container, Fixture, eventually};
use test_e2e::stream::{Client, STDERR, STDIN, STDOUT};
use tonic::Code;

fn request(container: &Container<'_>) -> v1::AttachRequest {
    v1::AttachRequest { container_id: container.id.clone(), stdin: true, tty: false, stdout: true, stderr: true }
}

async fn attach(e2e: &Fixture, request: v1::AttachRequest) -> Client {
    let url = e2e.client.attach_url(request).await.expect("a url");
    Client::connect(e2e, &url).await
}

fn open_stdin(config: &mut v1::ContainerConfig) {
    config.stdin = true;
}

#[tokio::test]
async fn newer_a_container_and_its_client_end_together() {
    let e2e = Fixture::shared().await;
    let once = |config: &mut v1::ContainerConfig| (config.stdin, config.stdin_once) = (true, true);
    let script = "read line; echo \"got $line\"; cat; echo wrong >&2; printf bye; exit 4";
    let (_pod, container) = e2e.run_with("attach-once", &["sh", "-c", script], once).await;
    let mut client = attach(&e2e, request(&container)).await;
    client.send(STDIN, b"hello\n").await;
    client.wait_for(STDOUT, "got hello\n").await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    client.send_all(STDIN, bytes.clone()).await;
    let ended = client.finish().await;
    assert!(ended.stdout == [b"got hello\n", bytes.as_slice(), b"bye"].concat(), "{} bytes", ended.stdout.len());
    assert_eq!(ended.stderr, b"wrong\n");
    assert_eq!(ended.code, Ok(0), "how it ended is told by its status");
    assert_eq!(container.wait_exit().await.exit_code, 4);
}

#[tokio::test]
async fn newer_input_stays_open_for_the_next_client() {
    let e2e = Fixture::shared().await;
    let script = "while read line; do echo \"got $line\"; done; echo end";
    let (_pod, container) = e2e.run_with("attach-again", &["sh", "-c", script], open_stdin).await;
    for word in ["one", "two"] {
        let mut client = attach(&e2e, request(&container)).await;
        client.send(STDIN, format!("{word}\n").as_bytes()).await;
        client.wait_for(STDOUT, &format!("got {word}\n")).await;
        client.close(STDIN).await;
    }
    container.wait_for_line("got two").await;
    assert_eq!(container.written(Stream::Stdout), "got one\ngot two\n");
}

#[tokio::test]
async fn every_client_gets_all_that_is_said() {
    let e2e = Fixture::shared().await;
    let script = "while read line; do echo \"got $line\"; echo err >&2; done";
    let (_pod, container) = e2e.run_with("attach-many", &["sh", "-c", script], open_stdin).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(attach(&e2e, request(&container)).await);
    }
    clients.push(attach(&e2e, v1::AttachRequest { stdin: false, ..request(&container) }).await);
    // Each is there when what it typed comes back.
    for (at, client) in clients.iter_mut().take(3).enumerate() {
        client.send(STDIN, format!("{at}\n").as_bytes()).await;
        client.wait_for(STDOUT, &format!("got {at}\n")).await;
    }
    clients[0].send(STDIN, b"last\n").await;
    for client in &mut clients {
        client.wait_for(STDOUT, "got last\n").await;
        client.wait_for(STDERR, "err\n").await;
    }
    e2e.client.stop_container(&container.id, 0).await.expect("stop");
    for client in clients {
        assert_eq!(client.finish().await.code, Ok(0));
    }
}

#[tokio::test]
async fn strict_a_client_that_never_reads_holds_up_nobody() {
    let e2e = Fixture::shared().await;
    let script = "line=$(yes 0123456789abcdef | head -n 60); read go; yes \"$(echo $line)\" | head -n 40000; \
                  echo through; sleep 1000";
    let (_pod, container) = e2e.run_with("attach-stuck", &["sh", "-c", script], open_stdin).await;
    let _stuck = attach(&e2e, request(&container)).await;
    let mut reading = attach(&e2e, request(&container)).await;
    reading.send(STDIN, b"go\n").await;
    reading.wait_for(STDOUT, "through\n").await;
    assert_eq!(reading.received(STDOUT).len(), 40_000 * 1020 + "through\n".len());
    container.wait_for_line("through").await;
}

#[tokio::test]
async fn a_terminal_is_typed_at_and_resized() {
    let e2e = Fixture::shared().await;
    let script = "trap 'stty size' WINCH; echo up; while read -r line || test -z \"$line\"; do \
                  test \"$line\" = end && exit 5; done";
    let tty = |config: &mut v1::ContainerConfig| (config.stdin, config.tty) = (true, true);
    let (_pod, container) = e2e.run_with("attach-tty", &["sh", "-c", script], tty).await;
    container.wait_for_line("up").await;
    let mut client = attach(&e2e, v1::AttachRequest { tty: true, stderr: false, ..request(&container) }).await;
    client.resize(101, 37).await;
    eventually("the size arrives", async || {
        client.send(STDIN, b"\n").await;
        container.written(Stream::Stdout).contains("37 101").then_some(())
    })
    .await;
    client.wait_for(STDOUT, "37 101\r\n").await;
    client.send(STDIN, b"end\n").await;
    let ended = client.finish().await;
    assert_eq!((ended.stderr.as_slice(), ended.code), (b"".as_slice(), Ok(0)));
    assert_eq!(container.wait_exit().await.exit_code, 5);
}

#[tokio::test]
async fn strict_bad_requests_are_refused_by_kind() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("attach-refused").await;
    let container = pod.start_with("main", &["cat"], open_stdin).await;
    let created = pod.create_with("created", &["cat"], open_stdin).await;
    let good = request(&container);
    let nothing = v1::AttachRequest { stdin: false, stdout: false, stderr: false, ..good.clone() };
    for (request, code) in [
        (nothing, Code::InvalidArgument),
        (v1::AttachRequest { tty: true, ..good.clone() }, Code::InvalidArgument),
        (v1::AttachRequest { container_id: "no-such-container".into(), ..good.clone() }, Code::NotFound),
        (request(&created), Code::FailedPrecondition),
    ] {
        let refused = e2e.client.attach_url(request.clone()).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{request:?}: {refused:?}");
    }
    e2e.client.stop_container(&container.id, 0).await.expect("stop");
    let refused = e2e.client.attach_url(good).await.expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
}
