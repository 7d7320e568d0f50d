//! The monitor with real containers: needs root. Everything is in a folder and cgroups of its own.

mod monitor_support;

use std::time::Duration;

use berth::monitor::client::{MonitorError, MonitorEvent};
use monitor_support::Sandbox;

const SIGTERM: i32 = 15;

#[tokio::test]
async fn a_container_lives_and_is_told_of() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = pod.container("echo out; echo err >&2; printf torn; exit 3");
    let pid = pod.create(&container).await.unwrap();
    assert!(pid > 0);
    assert!(pod.log(&container).is_empty(), "it runs before it was started");
    let started = pod.monitor.start(&container.id).await.unwrap();
    let record = pod.exited(&container).await;
    assert_eq!((record.exit_code, record.signal, record.oom_killed), (3, 0, false));
    assert!(record.started_at_ns == started && record.finished_at_ns >= started);
    assert_eq!(container.record(), record);
    let mut lines = pod.log(&container);
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P torn"]);
    pod.monitor.remove(&container.id).await.unwrap();
    assert!(pod.monitor.inspect().await.unwrap().containers.is_empty());
    pod.monitor.shutdown().await.unwrap();
    assert!(matches!(pod.events.recv().await, Some(MonitorEvent::Lost)));
}

#[tokio::test]
async fn exec_runs_beside_the_container() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = pod.run("sleep 1000").await;
    let (code, output) = pod.exec(&container, "echo hello; readlink /proc/self/ns/pid; echo $0; exit 7").await;
    assert_eq!(code, 7);
    assert!(output.starts_with("hello\npid:["), "{output}");
    let missing = pod.exec_raw(&container, &["/no/such/program"]).await;
    let Err(MonitorError::Init { step, path, errno }) = missing else { panic!("{missing:?}") };
    assert_eq!((step.as_str(), path.as_str(), errno), ("exec", "/no/such/program", libc::ENOENT));
    let record = pod.monitor.stop(&container.id, SIGTERM, Duration::ZERO).await.unwrap();
    assert_eq!((record.exit_code, record.signal), (137, 9));
    let late = pod.exec_raw(&container, &["/bin/busybox", "true"]).await;
    assert!(matches!(late, Err(MonitorError::WrongState(_))), "{late:?}");
}
