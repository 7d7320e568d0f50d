//! Exec, Attach and PortForward when the agent, the client or the pod goes away.

use cri_api::v1;
use nix::sys::signal::Signal;
use test_e2e::fixture::{Container, Fixture, eventually};
use test_e2e::leaks::Census;
use test_e2e::process;
use test_e2e::stream::{Client, STDIN, STDOUT};

use crate::recovery::{after_first_use, crash, nothing_more_than};

const ECHO: &str = "while read line; do echo \"got $line\"; done; echo end";

fn open_stdin(config: &mut v1::ContainerConfig) {
    config.stdin = true;
}

async fn attach(e2e: &Fixture, id: &str) -> Client {
    let request = v1::AttachRequest { container_id: id.into(), stdin: true, tty: false, stdout: true, stderr: true };
    let url = e2e.client.attach_url(request).await.expect("a url");
    Client::connect(e2e, &url).await
}

async fn exec(e2e: &Fixture, id: &str, script: &str, tty: bool) -> Client {
    let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
    let container_id = id.to_owned();
    let request = v1::ExecRequest { container_id, cmd, tty, stdin: true, stdout: true, stderr: !tty };
    let url = e2e.client.exec_url(request).await.expect("a url");
    Client::connect(e2e, &url).await
}

async fn forward(e2e: &Fixture, pod: &str, port: u16) -> Client {
    let url = e2e.client.port_forward_url(pod, vec![]).await.expect("a url");
    Client::connect(e2e, &format!("{url}?port={port}")).await
}

#[tokio::test]
async fn attach_works_after_a_restart() {
    let mut e2e = Fixture::own("attach-again").await;
    let (_pod, container) = e2e.run_with("attach", &["sh", "-c", ECHO], open_stdin).await;
    let id = container.id.clone();
    let mut before = attach(&e2e, &id).await;
    before.send(STDIN, b"one\n").await;
    before.wait_for(STDOUT, "got one\n").await;
    crash(&mut e2e, async || {}).await;
    before.finish().await.code.expect_err("its agent is gone, and nothing is said of the container");
    let mut after = attach(&e2e, &id).await;
    after.send(STDIN, b"two\n").await;
    after.wait_for(STDOUT, "got two\n").await;
    assert_eq!(after.received(STDOUT), b"got two\n", "the input was not closed meanwhile");
}

/// Nobody hears of the command's end any more.
#[tokio::test]
async fn a_command_does_not_outlive_the_agent_that_ran_it() {
    let mut e2e = Fixture::own("exec-end").await;
    let (_pod, container) = e2e.run("exec", &["sleep", "1000"]).await;
    let (id, marks) = (container.id.clone(), ["E2E_SESSION", "lost"]);
    let script = "export E2E_SESSION=lost; trap '' HUP PIPE; setsid sleep 3001 & echo up; sleep 3002";
    let running = || process::with_environment(marks[0], marks[1]).len();
    for terminate in [true, false] {
        let mut client = exec(&e2e, &id, script, false).await;
        client.wait_for(STDOUT, "up").await;
        eventually("both run", async || (running() == 2).then_some(())).await;
        if terminate {
            e2e.agent().signal(Signal::SIGTERM);
            assert!(e2e.agent().wait_gone(), "it does not wait for its clients");
            eventually("all of the command ends", async || (running() == 0).then_some(())).await;
        }
        crash(&mut e2e, async || {}).await;
        eventually("all of the command ends", async || (running() == 0).then_some(())).await;
        client.finish().await.code.expect_err("no exit code");
    }
}

#[tokio::test]
async fn clients_that_go_away_leave_nothing() {
    let e2e = Fixture::own("sessions").await;
    after_first_use(&e2e).await;
    let script = format!("mkdir /www; httpd -p 8080 -h /www; {ECHO}");
    let (pod, container) = e2e.run_with("sessions", &["sh", "-c", &script], open_stdin).await;
    let use_all = async || {
        let mut attached = attach(&e2e, &container.id).await;
        attached.send(STDIN, b"x\n").await;
        attached.wait_for(STDOUT, "got x\n").await;
        let mut clients = vec![attached, forward(&e2e, &pod.id, 8080).await, forward(&e2e, &pod.id, 9).await];
        for tty in [false, true] {
            let mut client = exec(&e2e, &container.id, "sleep 3001 & echo up; exec sleep 3002", tty).await;
            client.wait_for(STDOUT, "up").await;
            clients.push(client);
        }
        clients
    };
    // What is made once, on first use, is no leak.
    drop(use_all().await);
    commands_end(&container).await;
    let before = eventually("the machine settles", async || {
        let first = Census::take(&e2e.machine.host, &e2e.agent());
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let second = Census::take(&e2e.machine.host, &e2e.agent());
        (first == second).then_some(second)
    })
    .await;
    for _ in 0..5 {
        drop(use_all().await);
    }
    commands_end(&container).await;
    nothing_more_than(&e2e, &before).await;
}

async fn commands_end(container: &Container<'_>) {
    eventually("the commands die", async || (!container.sh("ps").await.contains("sleep 300")).then_some(())).await;
    // When the next one ends, the monitor takes away the cgroup of a command that was still dying, and keeps the empty one.
    container.sh("true").await;
}

#[tokio::test]
async fn clients_that_stay_keep_nothing_of_a_pod_that_is_gone() {
    let e2e = Fixture::own("stay").await;
    let before = after_first_use(&e2e).await;
    let script = format!("mkdir /www; httpd -p 8080 -h /www; echo ready; {ECHO}");
    let (pod, container) = e2e.run_with("stay", &["sh", "-c", &script], open_stdin).await;
    container.wait_for_line("ready").await;
    let attached = attach(&e2e, &container.id).await;
    let mut command = exec(&e2e, &container.id, "echo up; sleep 3001", true).await;
    command.wait_for(STDOUT, "up").await;
    let mut forwarded = forward(&e2e, &pod.id, 8080).await;
    // The server waits for the rest of the request, and the client sends none.
    forwarded.send(0, b"GET").await;
    e2e.client.stop_pod(&pod.id).await.expect("stop");
    e2e.client.remove_pod(&pod.id).await.expect("remove");
    assert_eq!(attached.finish().await.code, Ok(0));
    assert_eq!(command.finish().await.code, Ok(137));
    forwarded.finish().await;
    nothing_more_than(&e2e, &before).await;
}
