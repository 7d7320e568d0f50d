//! Agents that die, and what goes on without them.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth::monitor::client::{Monitor, MonitorError, MonitorEvent, Phase};
use berth::monitor::protocol::frame::{self, PACKET_LIMIT, Packet};
use berth::monitor::protocol::{Answer, Body, Call, ForkMonitor, Hello, Nothing, Request, SysctlSetting, VERSION};
use berth::sys::unix_socket;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::Sandbox;

#[tokio::test]
async fn a_new_agent_finds_everything_as_it_was() {
    let mut sandbox = Sandbox::new().await;
    let (running, ended, waiting, socket, netns) = {
        let mut pod = sandbox.pod().await;
        let running = pod.run("i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done").await;
        let ended = pod.run("sleep 0.3; exit 9").await;
        let waiting = pod.container("echo late");
        pod.create(&waiting).await.unwrap();
        pod.until_logged(&running, "stdout F 3").await;
        let netns = pod.namespaces.netns.take().unwrap();
        (running, ended, waiting, sandbox.socket(&pod.id), netns)
        // The connection closes here, as when an agent dies.
    };
    // The spawner, too, is gone: it ends with its agent.
    sandbox.restart_spawner().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let (monitor, namespaces, events) = Monitor::connect(&socket).await.unwrap();
    let inode = |fd: &std::os::fd::OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
    assert_eq!(inode(namespaces.netns.as_ref().unwrap()), inode(&netns));
    let state = monitor.inspect().await.unwrap();
    let phase =
        |id: &berth::model::ContainerId| state.containers.iter().find(|container| container.id == id.as_str()).unwrap();
    assert_eq!(phase(&running.id).phase(), Phase::Running);
    assert_eq!(phase(&waiting.id).phase(), Phase::Created);
    assert_eq!(phase(&ended.id).exit.as_ref().unwrap().exit_code, 9);
    assert_eq!(ended.record(), phase(&ended.id).exit.clone().unwrap());
    let mut pod = sandbox.adopt(monitor, namespaces, events);
    pod.monitor.start(&waiting.id).await.unwrap();
    assert_eq!(pod.exited(&waiting).await.exit_code, 0);
    pod.monitor.stop(&running.id, 15, Duration::ZERO).await.unwrap();
    let lines = pod.log(&running);
    assert!(lines.len() > 20);
    assert!(lines.iter().enumerate().all(|(i, line)| *line == format!("stdout F {i}")), "a gap in the log");
}

#[tokio::test]
async fn the_newest_agent_wins() {
    let sandbox = Sandbox::new().await;
    let mut old = sandbox.pod().await;
    // An init that waits holds no copy of the connection: the old agent sees it close.
    old.create(&old.container("true")).await.unwrap();
    let (monitor, namespaces, events) = Monitor::connect(&sandbox.socket(&old.id)).await.unwrap();
    assert!(matches!(old.event().await, MonitorEvent::Lost));
    assert!(matches!(old.monitor.inspect().await, Err(MonitorError::Lost)));
    let new = sandbox.adopt(monitor, namespaces, events);
    assert!(new.monitor.inspect().await.is_ok());
}

#[tokio::test]
async fn a_killed_monitor_is_noticed_at_once() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    pod.create(&pod.container("true")).await.unwrap();
    kill_process(Pid::from_raw(pod.monitor.pid()).unwrap(), Signal::KILL).unwrap();
    assert!(matches!(pod.event().await, MonitorEvent::Lost));
    assert!(Monitor::connect(&sandbox.socket(&pod.id)).await.is_err());
}

#[tokio::test]
async fn a_pod_that_cannot_be_made_leaves_nothing() {
    let sandbox = Sandbox::new().await;
    let sysctl = ("net.ipv4.no_such_key".to_owned(), "1".to_owned());
    let failed = sandbox.pod_with(|pod| pod.sysctls = vec![sysctl]).await;
    let Err(MonitorError::Internal { step, path, errno }) = failed else { panic!() };
    assert_eq!((step.as_str(), path.as_str(), errno), ("sysctl", "net.ipv4.no_such_key", libc::ENOENT));
    assert_eq!(std::fs::read_dir(sandbox.dir.path().join("pods")).unwrap().count(), 0);
}

/// An agent that ends a pod as soon as it has it may have said both before its monitor first looks.
#[tokio::test]
async fn a_monitor_that_is_told_to_leave_at_once_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, theirs) = unix_socket::pair().unwrap();
    let mut spawner = Command::new(env!("CARGO_BIN_EXE_berth-monitor")).stdin(Stdio::from(theirs)).spawn().unwrap();
    say(&agent, 1, Call::Hello(Hello { version: VERSION, cgroup_procs_fds: Vec::new() }), Vec::new());
    assert!(matches!(hear(&agent, 1), Body::Hello(_)));

    let (connection, theirs) = unix_socket::pair().unwrap();
    say(&connection, 1, Call::Hello(Hello { version: VERSION, cgroup_procs_fds: Vec::new() }), Vec::new());
    say(&connection, 2, Call::Shutdown(Nothing {}), Vec::new());
    let listener = unix_socket::listen(&folder.path().join("monitor.sock")).unwrap();
    let fork = ForkMonitor { pod: "p".to_owned(), connection_fd: 1, ..ForkMonitor::default() };
    say(&agent, 2, Call::ForkMonitor(fork), vec![listener, theirs]);
    assert!(matches!(hear(&agent, 2), Body::Forked(_)));
    assert!(matches!(hear(&connection, 1), Body::Hello(_)));
    assert!(matches!(hear(&connection, 2), Body::Done(_)));
    drop(agent);
    spawner.wait().unwrap();
}

/// The hello may come after the pod has failed, when the agent is kept from the processor in between: it gets the reason.
#[tokio::test]
async fn a_late_hello_is_told_why_there_is_no_pod() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, theirs) = unix_socket::pair().unwrap();
    let mut spawner = Command::new(env!("CARGO_BIN_EXE_berth-monitor")).stdin(Stdio::from(theirs)).spawn().unwrap();
    say(&agent, 1, Call::Hello(Hello { version: VERSION, cgroup_procs_fds: Vec::new() }), Vec::new());
    assert!(matches!(hear(&agent, 1), Body::Hello(_)));

    let (connection, theirs) = unix_socket::pair().unwrap();
    let listener = unix_socket::listen(&folder.path().join("monitor.sock")).unwrap();
    let sysctls = vec![SysctlSetting { key: "net.ipv4.no_such_key".to_owned(), value: "1".to_owned() }];
    let fork =
        ForkMonitor { pod: "p".to_owned(), connection_fd: 1, private_net: true, sysctls, ..ForkMonitor::default() };
    say(&agent, 2, Call::ForkMonitor(fork), vec![listener, theirs]);
    assert!(matches!(hear(&agent, 2), Body::Forked(_)));
    std::thread::sleep(Duration::from_millis(100));
    say(&connection, 1, Call::Hello(Hello { version: VERSION, cgroup_procs_fds: Vec::new() }), Vec::new());
    let Body::Failure(failure) = hear(&connection, 1) else { panic!() };
    assert_eq!((failure.step.as_str(), failure.path.as_str()), ("sysctl", "net.ipv4.no_such_key"));
    drop(agent);
    spawner.wait().unwrap();
}

fn say(socket: &OwnedFd, id: u64, call: Call, fds: Vec<OwnedFd>) {
    Packet::new(&Request { id, call: Some(call) }, fds).unwrap().send(socket).unwrap();
}

fn hear(socket: &OwnedFd, expected: u64) -> Body {
    let begun = Instant::now();
    loop {
        match frame::receive::<Answer>(socket, &mut vec![0; PACKET_LIMIT]) {
            Ok((Answer { id, body: Some(body) }, _)) if id == expected => return body,
            Ok((answer, _)) => panic!("{answer:?}"),
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "no answer to {expected}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
