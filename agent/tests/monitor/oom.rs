//! OOM kills, and whose they are. Where the memory controller is in neither hierarchy nothing can be tested; this machine
//! and its VM have it.

use std::time::Duration;

use berth::monitor::client::{ExitRecord, Scope};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{Container, Pod, Sandbox, zero_device};

const SIGKILL: i32 = 9;
/// Takes all memory that there is.
const GREEDY: &str = "tail /dev/zero";
/// Waits until the test says when, and takes no memory meanwhile that somebody would have to die for.
const WAIT: &str = "read x < /when";
const NOW: &str = "echo > /when";

/// A container with 8 MiB that runs `script`, and its process on the host.
async fn small(sandbox: &Sandbox, pod: &Pod<'_>, script: &str) -> (Container, i32) {
    let mut container = pod.container(script);
    container.limit_memory(sandbox, 8 << 20);
    container.plan.steps.extend(zero_device());
    let when = container.dir.join("upper/when");
    mknodat(CWD, &when, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let pid = pod.create(&container).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    (container, pid)
}

/// Runs `script` as a container until it ends by itself.
async fn outcome(script: &str) -> ExitRecord {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let (container, _) = small(&sandbox, &pod, script).await;
    let record = pod.exited(&container).await;
    assert_eq!(container.record(), record);
    container.remove_v1();
    record
}

#[tokio::test]
async fn an_oom_kill_is_seen() {
    let record = outcome(&format!("exec {GREEDY}")).await;
    assert_eq!((record.exit_code, record.signal, record.oom_killed), (137, 9, true));
}

/// A shell passes on how its last command ended.
#[tokio::test]
async fn an_oom_kill_of_the_shells_command_is_the_containers() {
    let record = outcome(&format!("{GREEDY}; exit $?")).await;
    assert_eq!((record.exit_code, record.signal, record.oom_killed), (137, 0, true));
}

#[tokio::test]
async fn a_container_that_goes_on_after_an_oom_kill_ends_by_its_own_cause() {
    let record = outcome(&format!("{GREEDY}; exit 1")).await;
    assert_eq!((record.exit_code, record.oom_killed), (1, false));
}

/// The exec's kill is counted in the container's cgroup, and lies long back.
#[tokio::test]
async fn an_oom_kill_of_an_exec_is_not_the_containers() {
    for greedy in [format!("exec {GREEDY}"), format!("{GREEDY}; exit $?")] {
        for end in ["exit", "stop", "signal"] {
            let sandbox = Sandbox::new().await;
            let mut pod = sandbox.pod().await;
            let (container, _) = small(&sandbox, &pod, &format!("{WAIT}; exit 1")).await;
            assert_eq!(pod.exec(&container, &greedy).await.0, 137);
            let record = match end {
                "exit" => {
                    pod.exec(&container, NOW).await;
                    pod.exited(&container).await
                }
                "stop" => pod.monitor.stop(&container.id, SIGKILL, Duration::ZERO).await.unwrap(),
                _ => {
                    pod.monitor.signal(&container.id, SIGKILL, Scope::Process).await.unwrap();
                    pod.exited(&container).await
                }
            };
            assert_eq!((record.exit_code, record.oom_killed), (if end == "exit" { 1 } else { 137 }, false), "{end}");
            container.remove_v1();
        }
    }
}

/// All in the container's PID namespace die before its first process is gone, the exec among them.
#[tokio::test]
async fn an_oom_kill_beside_an_exec_is_the_containers() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let (container, _) = small(&sandbox, &pod, &format!("{WAIT}; exec {GREEDY}")).await;
    pod.exec_raw(&container, "beside", &["/bin/sleep", "1000"]).await.unwrap();
    pod.exec(&container, NOW).await;
    let record = pod.exited(&container).await;
    assert_eq!((record.exit_code, record.oom_killed), (137, true));
    container.remove_v1();
}
