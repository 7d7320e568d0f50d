//! Terminals.

use std::fs::File;
use std::io::{Read, Write};

use berth::monitor::client::{ExecRequest, MonitorEvent};

use crate::support::{Sandbox, process};

#[tokio::test]
async fn a_container_may_have_a_terminal() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let mut container = pod.container(
        "stty size; readlink /proc/self/fd/0; test -c /dev/console && echo console; trap 'stty size; exit 4' WINCH; \
         echo up; while :; do sleep 0.02; done",
    );
    container.plan.tty = true;
    (container.plan.process.tty_columns, container.plan.process.tty_rows) = (100, 30);
    pod.create(&container).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    pod.until_logged(&container, "up").await;
    pod.monitor.resize(&container.id, 120, 40).await.unwrap();
    assert_eq!(pod.exited(&container).await.exit_code, 4);
    let expected = ["30 100", "/dev/pts/0", "console", "up", "40 120"];
    let lines = pod.log(&container);
    assert!(container.raw_log("0.log").contains("console\r\n"), "a terminal's own line ends are kept");
    assert!(lines.iter().map(|line| line.strip_prefix("stdout F ").unwrap()).eq(expected), "{lines:?}");
}

#[tokio::test]
async fn an_exec_may_have_a_terminal() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = pod.run("sleep 1000").await;
    let execed = pod
        .monitor
        .exec(ExecRequest {
            container: container.id.clone(),
            exec: "tty".to_owned(),
            process: process(&["/bin/sh", "-c", "read line; echo \"got $line\"; test -t 0 && exit 6"]),
            tty: true,
            stdin: None,
            stdout: None,
            stderr: None,
        })
        .await
        .unwrap();
    let mut master = File::from(execed.terminal.unwrap());
    master.write_all(b"typed\n").unwrap();
    let output = tokio::task::spawn_blocking(move || {
        let mut output = Vec::new();
        // EIO at the end.
        let _ = master.read_to_end(&mut output);
        String::from_utf8(output).unwrap()
    });
    assert!(matches!(pod.event().await, MonitorEvent::ExecExited { exit_code: 6, .. }));
    assert_eq!(output.await.unwrap(), "typed\r\ngot typed\r\n");
}
