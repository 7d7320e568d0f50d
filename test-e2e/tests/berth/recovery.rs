//! `kill -9` of the agent, and a reboot: what ran runs on, what ended meanwhile is known, nothing is left over.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use cri_api::v1;
use test_e2e::cri_log::Stream;
use test_e2e::fixture::{Fixture, eventually};
use test_e2e::host::remove_cgroup_everywhere;
use test_e2e::leaks::Census;
use test_e2e::process;

/// Kills the agent, runs `meanwhile`, and starts it again.
pub(crate) async fn crash(e2e: &mut Fixture, meanwhile: impl AsyncFnOnce()) {
    e2e.agent().kill();
    meanwhile().await;
    let machine = e2e.machine.clone();
    e2e.agent().launch(&machine.host).expect("the agent starts again");
    e2e.reconnect().await;
}

/// Runs `work` with an agent that dies at a fault point on the way, and starts it again.
pub(crate) async fn crash_at<T>(e2e: &mut Fixture, point: &str, work: impl AsyncFnOnce(&Fixture) -> T) -> T {
    let machine = e2e.machine.clone();
    e2e.agent().arm(Some(point)).expect("arm");
    let interrupted = work(e2e).await;
    assert!(e2e.agent().wait_gone(), "{point}: the agent did not come by there");
    e2e.agent().arm(None).expect("disarm");
    e2e.agent().launch(&machine.host).unwrap_or_else(|e| panic!("{point}: {e}"));
    e2e.reconnect().await;
    interrupted
}

#[tokio::test]
async fn running_containers_run_on() {
    let mut e2e = Fixture::own("run-on").await;
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
    let (pod, container) = e2e.run("run-on", &["sh", "-c", script]).await;
    let (pod_id, id, log, pid) = (pod.id.clone(), container.id.clone(), container.log.clone(), container.pid());
    let before = (pod.status().await, container.status().await);
    for _ in 0..3 {
        crash(&mut e2e, async || tokio::time::sleep(Duration::from_millis(300)).await).await;
        assert!(process::is_alive(pid), "the process is the same");
        let after = (
            e2e.client.pod_status(&pod_id).await.expect("known"),
            e2e.client.container_status(&id).await.expect("known"),
        );
        assert_eq!(after, before, "and so is everything that is told about it");
    }
    let exec = e2e.client.exec(&id, &["echo", "hi"], 10).await.expect("exec works");
    assert_eq!(exec.stdout.as_ref(), b"hi\n");
    e2e.client.stop_container(&id, 0).await.expect("stop works");
    let text = test_e2e::cri_log::Log::read(&log).written(Stream::Stdout).expect("well-formed");
    let text = String::from_utf8(text).expect("digits");
    for (expected, line) in text.lines().enumerate() {
        assert_eq!(line, expected.to_string(), "the log has a gap");
    }
    assert!(text.lines().count() > 50);
}

#[tokio::test]
async fn exits_meanwhile_are_known() {
    let mut e2e = Fixture::own("exits").await;
    let pod = e2e.pod("exits").await;
    let wait = "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 7";
    let volume = e2e.folder("go");
    let mount = test_e2e::spec::bind(&volume, "/tmp", false);
    let container = pod.start_with("main", &["sh", "-c", wait], |config| config.mounts = vec![mount]).await;
    let oom = pod
        .start_with("oom", &["sh", "-c", "while [ ! -e /go/go ]; do sleep 0.02; done; exec tail /dev/zero"], |config| {
            config.mounts = vec![test_e2e::spec::bind(&volume, "/go", false)];
            test_e2e::spec::resources(config).memory_limit_in_bytes = 24 << 20;
            test_e2e::spec::resources(config).memory_swap_limit_in_bytes = 24 << 20;
        })
        .await;
    let (id, oom_id, pid) = (container.id.clone(), oom.id.clone(), container.pid());
    let (oom_pid, mut window) = (oom.pid(), (0, 0));
    crash(&mut e2e, async || {
        window.0 = now();
        std::fs::write(volume.join("go"), "").expect("go");
        eventually("both exit", async || (!process::is_alive(pid) && !process::is_alive(oom_pid)).then_some(())).await;
        window.1 = now();
        tokio::time::sleep(Duration::from_millis(300)).await;
    })
    .await;
    let status = e2e.client.container_status(&id).await.expect("known");
    assert_eq!((status.state(), status.exit_code, status.reason.as_str()), (exited(), 7, "Error"));
    let slack = 200_000_000;
    assert!((window.0..=window.1 + slack).contains(&status.finished_at), "{window:?} {}", status.finished_at);
    let status = e2e.client.container_status(&oom_id).await.expect("known");
    assert_eq!((status.state(), status.exit_code, status.reason.as_str()), (exited(), 137, "OOMKilled"));
}

#[tokio::test]
async fn exits_while_the_agent_starts_are_known() {
    let mut e2e = Fixture::own("starting").await;
    let machine = e2e.machine.clone();
    let volume = e2e.folder("go");
    let mut ids = Vec::new();
    for number in 0..20 {
        let pod = e2e.pod(&format!("starting-{number}")).await;
        for container in 0..2 {
            let delay = 0.004 * f64::from(2 * number + container);
            let script = format!("while [ ! -e /go/go ]; do sleep 0.01; done; sleep {delay}; exit 7");
            let mount = test_e2e::spec::bind(&volume, "/go", false);
            let change = |config: &mut v1::ContainerConfig| config.mounts = vec![mount];
            ids.push(pod.start_with(&format!("c{container}"), &["sh", "-c", &script], change).await.id);
        }
    }
    e2e.agent().kill();
    std::fs::write(volume.join("go"), "").expect("go");
    e2e.agent().launch(&machine.host).expect("the agent starts again");
    e2e.reconnect().await;
    for id in ids {
        let status = eventually("the exit is known", async || {
            Some(e2e.client.container_status(&id).await.expect("known")).filter(|status| status.state() == exited())
        })
        .await;
        assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    }
}

#[tokio::test]
async fn every_state_is_taken_over_and_can_be_ended() {
    let mut e2e = Fixture::own("states").await;
    let before = after_first_use(&e2e).await;
    let running = e2e.pod("running").await;
    let created = running.create_with("created", &["sleep", "1000"], |_| {}).await.id;
    let alive = running.start("alive", &["sleep", "1000"]).await.id;
    let done = running.start("done", &["false"]).await;
    done.wait_exit().await;
    let (done, running) = (done.id, running.id);
    let stopped = e2e.pod("stopped").await.id;
    e2e.client.stop_pod(&stopped).await.expect("stop");
    crash(&mut e2e, async || ()).await;

    let state = async |id: &str| e2e.client.container_status(id).await.expect("known").state();
    assert_eq!(state(&created).await, v1::ContainerState::ContainerCreated);
    assert_eq!(state(&alive).await, v1::ContainerState::ContainerRunning);
    assert_eq!(state(&done).await, exited());
    let pod_state = async |id: &str| e2e.client.pod_status(id).await.expect("known").state();
    assert_eq!(pod_state(&running).await, v1::PodSandboxState::SandboxReady);
    assert_eq!(pod_state(&stopped).await, v1::PodSandboxState::SandboxNotready);
    e2e.client.start_container(&created).await.expect("a created container still starts");
    for pod in [running, stopped] {
        e2e.client.stop_pod(&pod).await.expect("stop");
        e2e.client.remove_pod(&pod).await.expect("remove");
    }
    nothing_more_than(&e2e, &before).await;
}

/// Its containers are children of the monitor, and would live on without it while kubelet starts the pod anew.
#[tokio::test]
async fn a_lost_monitor_takes_its_pod_along() {
    let mut e2e = Fixture::own("lost").await;
    let before = after_first_use(&e2e).await;
    for agent_is_there in [true, false] {
        let (pod, container) = e2e.run("lost", &["sh", "-c", "setsid sleep 1000 & sleep 1000"]).await;
        let created = pod.create_with("created", &["sleep", "1000"], |_| {}).await.id;
        let (pod_id, id, pids) = (pod.id.clone(), container.id.clone(), container.pids());
        let monitor = process::read(container.pid()).expect("it runs").parent;
        let kill = async || {
            let monitor = nix::unistd::Pid::from_raw(monitor);
            nix::sys::signal::kill(monitor, nix::sys::signal::Signal::SIGKILL).expect("killed");
        };
        if agent_is_there {
            kill().await;
        } else {
            crash(&mut e2e, kill).await;
        }
        let client = &e2e.client;
        eventually("the container is told to be lost", async || {
            let status = client.container_status(&id).await.expect("known");
            (status.state() == exited()).then(|| assert_eq!(status.exit_code, 255))
        })
        .await;
        eventually("the pod is not ready", async || {
            let state = client.pod_status(&pod_id).await.expect("known").state();
            (state == v1::PodSandboxState::SandboxNotready).then_some(())
        })
        .await;
        eventually("nobody lives on", async || (!pids.iter().any(|pid| process::is_alive(*pid))).then_some(())).await;
        client.remove_container(&created).await.expect("remove the other one, which never ran");
        client.stop_pod(&pod_id).await.expect("stop");
        client.remove_pod(&pod_id).await.expect("remove");
    }
    nothing_more_than(&e2e, &before).await;
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_anew() {
    let e2e = Fixture::own("broken").await;
    let (pod, container) = e2e.run("broken", &["sleep", "1000"]).await;
    let exiting = pod.start("exiting", &["sleep", "1000"]).await;
    let folder = e2e.agent().run_root.join("pods").join(&pod.id);
    // A monitor serves whoever came last.
    let usurper = connect(&folder.join("monitor.sock"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(exiting.pid()), nix::sys::signal::Signal::SIGKILL).expect("kill");
    drop(usurper);
    let exec = eventually("exec works", async || e2e.client.exec(&container.id, &["echo", "hi"], 10).await.ok()).await;
    assert_eq!(exec.stdout.as_ref(), b"hi\n");
    assert_eq!(exiting.wait_exit().await.exit_code, 137);
    assert_eq!(pod.status().await.state(), v1::PodSandboxState::SandboxReady);
    assert_eq!(container.status().await.state(), v1::ContainerState::ContainerRunning);
}

#[tokio::test]
async fn a_monitor_that_does_not_answer_delays_only_its_own_pod() {
    use nix::sys::signal::Signal;
    let mut e2e = Fixture::own("silent").await;
    let (_pod, healthy) = e2e.run("healthy", &["sleep", "1000"]).await;
    let (_pod, held) = e2e.run("held", &["sleep", "1000"]).await;
    let (healthy, held, held_pid) = (healthy.id.clone(), held.id.clone(), held.pid());
    let monitor = nix::unistd::Pid::from_raw(process::read(held_pid).expect("it runs").parent);
    nix::sys::signal::kill(monitor, Signal::SIGSTOP).expect("stop the monitor");
    crash(&mut e2e, async || {}).await;
    assert_eq!(e2e.client.exec(&healthy, &["true"], 10).await.expect("exec").exit_code, 0);
    assert!(e2e.client.container_status(&held).await.is_err(), "nothing is known of it");
    nix::sys::signal::kill(monitor, Signal::SIGCONT).expect("continue the monitor");
    assert!(process::is_alive(held_pid), "nothing was done to it");
    crash(&mut e2e, async || {}).await;
    assert_eq!(e2e.client.exec(&held, &["true"], 10).await.expect("exec").exit_code, 0, "the next agent has it");
    assert_eq!(e2e.client.exec(&healthy, &["true"], 10).await.expect("exec").exit_code, 0);
}

/// Connects to a monitor's socket, whose path may be longer than an address can be.
fn connect(path: &Path) -> OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let folder = std::fs::File::open(path.parent().expect("folder")).expect("folder");
    let short = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), path.file_name().expect("name").display());
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    connect(socket.as_raw_fd(), &UnixAddr::new(short.as_str()).expect("address")).expect("connect");
    socket
}

#[tokio::test]
async fn a_reboot_leaves_images_and_nothing_else() {
    let mut e2e = Fixture::own("reboot").await;
    let machine = e2e.machine.clone();
    let before = after_first_use(&e2e).await;
    for name in ["one", "two"] {
        let (_pod, container) = e2e.run(name, &["sleep", "1000"]).await;
        container.sh("echo x > /written").await;
    }
    // Power off: every process of the node but the registry, and all that a tmpfs held.
    e2e.agent().kill();
    let registry = |pid: &i32| process::read(*pid).is_some_and(|process| process.name.starts_with("docker-registry"));
    loop {
        let others: Vec<i32> =
            process::descendants(machine.host.pid()).into_iter().filter(|pid| !registry(pid)).collect();
        if others.is_empty() {
            break;
        }
        for pid in others {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::remove_dir_all(&e2e.agent().run_root).expect("empty /run");
    remove_cgroup_everywhere(&machine.cgroup);
    e2e.agent().launch(&machine.host).expect("boots");
    e2e.reconnect().await;

    assert!(e2e.client.list_pods(None).await.expect("list").is_empty());
    assert!(e2e.client.list_containers(None).await.expect("list").is_empty());
    let image = e2e.client.image_status(e2e.busybox()).await.expect("status");
    assert!(image.is_some(), "images are on disk");
    nothing_more_than(&e2e, &before).await;
    let (_pod, container) = e2e.run("after", &["sleep", "1000"]).await;
    assert_eq!(container.sh("ls /written 2>/dev/null; true").await, "");
}

/// What is there once a pod has come and gone: what is made once, on first use, is not a leak.
pub(crate) async fn after_first_use(e2e: &Fixture) -> Census {
    let (pod, container) = e2e.run("first-use", &["sleep", "1000"]).await;
    container.sh("true").await;
    e2e.client.stop_pod(&pod.id).await.expect("stop");
    e2e.client.remove_pod(&pod.id).await.expect("remove");
    eventually("the machine settles", async || {
        let first = Census::take(&e2e.machine.host, &e2e.agent());
        tokio::time::sleep(Duration::from_millis(300)).await;
        let second = Census::take(&e2e.machine.host, &e2e.agent());
        (first == second).then_some(second)
    })
    .await
}

/// Waits until nothing is left that was not there before: namespaces and interfaces die a moment after their pod.
pub(crate) async fn nothing_more_than(e2e: &Fixture, before: &Census) {
    let mut left = None;
    for _ in 0..500 {
        let difference = Census::take(&e2e.machine.host, &e2e.agent()).more_than(before);
        if difference.is_empty() {
            return;
        }
        left = Some(difference);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if let Some(left) = left {
        panic!("{left}");
    }
}

fn exited() -> v1::ContainerState {
    v1::ContainerState::ContainerExited
}

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i64)
}
