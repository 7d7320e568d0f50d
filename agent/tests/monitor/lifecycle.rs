//! From create to exit, execs, stops.

use std::fs;
use std::time::{Duration, Instant};

use berth::libcontainer::plan::{Action, EnterRoot, PidNamespace};
use berth::monitor::client::{MonitorError, MonitorEvent, Phase, Scope};

use crate::support::{Sandbox, cgroup_is_empty, step};

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
    assert!(matches!(pod.event().await, MonitorEvent::Lost));
}

#[tokio::test]
async fn exec_runs_beside_the_container() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = pod.run("sleep 1000").await;
    let (code, output) = pod.exec(&container, "echo hello; cat /proc/1/cmdline; exit 7").await;
    assert_eq!((code, output.as_str()), (7, "hello\nsleep\x001000\0"));
    let missing = pod.exec_raw(&container, "a", &["/no/such/program"]).await;
    let Err(MonitorError::Init { step, path, errno }) = missing else { panic!("{missing:?}") };
    assert_eq!((step.as_str(), path.as_str(), errno), ("exec", "/no/such/program", libc::ENOENT));
    let cgroups = container.exec_cgroups();
    assert!(cgroups.len() == 1 && cgroup_is_empty(&cgroups[0]), "one for them all: {cgroups:?}");
    let record = pod.monitor.stop(&container.id, SIGTERM, Duration::ZERO).await.unwrap();
    assert_eq!((record.exit_code, record.signal), (137, 9));
    let late = pod.exec_raw(&container, "b", &["/bin/true"]).await;
    assert!(matches!(late, Err(MonitorError::WrongState(_))), "{late:?}");
}

#[tokio::test]
async fn kill_exec_takes_the_whole_tree_and_nothing_else() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = pod.run("sleep 1000").await;
    // A daemon that left session, parent and group.
    let script = "(setsid sh -c 'sleep 2000 & sleep 3000' &) ; sleep 4000";
    pod.exec_raw(&container, "tree", &["/bin/sh", "-c", script]).await.unwrap();
    let [cgroup] = <[_; 1]>::try_from(container.exec_cgroups()).unwrap();
    pod.until(|| fs::read_to_string(cgroup.join("cgroup.procs")).unwrap().lines().count() >= 3).await;
    pod.monitor.kill_exec("tree").await.unwrap();
    assert!(matches!(pod.event().await, MonitorEvent::ExecExited { exit_code: 137, .. }));
    pod.until(|| cgroup_is_empty(&cgroup)).await;
    assert_eq!(fs::read_to_string(container.cgroup.join("cgroup.procs")).unwrap().lines().count(), 1);
    assert!(matches!(pod.monitor.kill_exec("tree").await, Err(MonitorError::NotFound(_))));
    assert_eq!(pod.exec(&container, "true").await.0, 0);
    // What was killed is for no other.
    pod.until(|| container.exec_cgroups().len() == 1 && !cgroup.exists()).await;
}

#[tokio::test]
async fn stop_asks_first_and_kills_later() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let polite = pod.run("trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done").await;
    pod.until_logged(&polite, "ready").await;
    let record = pod.monitor.stop(&polite.id, SIGTERM, Duration::from_secs(60)).await.unwrap();
    assert_eq!((record.exit_code, record.signal), (5, 0));
    assert_eq!(pod.monitor.stop(&polite.id, SIGTERM, Duration::ZERO).await.unwrap(), record, "again is no error");

    let stubborn = pod.run("trap 'echo asked' TERM; echo ready; while :; do sleep 0.02; done").await;
    pod.until_logged(&stubborn, "ready").await;
    let (begun, monitor, id) = (Instant::now(), pod.monitor.clone(), stubborn.id.clone());
    let long = tokio::spawn(async move { monitor.stop(&id, SIGTERM, Duration::from_secs(600)).await });
    pod.until_logged(&stubborn, "asked").await;
    // A later, shorter grace shortens the wait; a longer one does not lengthen it again; nobody asks twice.
    let both = async {
        tokio::join!(
            pod.monitor.stop(&stubborn.id, SIGTERM, Duration::from_millis(200)),
            pod.monitor.stop(&stubborn.id, SIGTERM, Duration::from_secs(300)),
        )
    };
    let (short, longer) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("it is killed in time");
    let record = short.unwrap();
    assert_eq!((record.exit_code, record.signal), (137, 9));
    assert_eq!(longer.unwrap(), record);
    assert_eq!(long.await.unwrap().unwrap(), record);
    assert!(begun.elapsed() > Duration::from_millis(200) && begun.elapsed() < Duration::from_secs(20));
    assert_eq!(pod.log(&stubborn).iter().filter(|line| line.ends_with("asked")).count(), 1);
    pod.exited(&stubborn).await;
}

#[tokio::test]
async fn a_program_that_cannot_start_is_told_and_counts_as_exited() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let mut container = pod.container("");
    container.plan.process.args = vec!["nowhere".to_owned()];
    pod.create(&container).await.unwrap();
    let error = pod.monitor.start(&container.id).await.unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOENT));
    assert_eq!(error.to_string(), "exec \"nowhere\": No such file or directory (os error 2)");
    let state = &pod.monitor.inspect().await.unwrap().containers[0];
    let record = state.exit.clone().unwrap();
    assert_eq!((state.phase(), record.exit_code, record.started_at_ns), (Phase::Exited, 128, 0));
    assert_eq!(container.record(), record);
    assert!(matches!(pod.monitor.start(&container.id).await, Err(MonitorError::WrongState(_))));
    assert!(cgroup_is_empty(&container.cgroup));
}

#[tokio::test]
async fn a_failure_longer_than_a_report_is_a_failure() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let mut container = pod.container("");
    let name = format!("/{}", "ü".repeat(30_000));
    container.plan.process.args = vec![name.clone()];
    pod.create(&container).await.unwrap();
    let error = pod.monitor.start(&container.id).await.unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENAMETOOLONG));
    let running = pod.run("sleep 1000").await;
    let error = pod.exec_raw(&running, "long", &[&name]).await.unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENAMETOOLONG));
}

#[tokio::test]
async fn a_step_that_fails_is_named_and_leaves_nothing() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let mut container = pod.container("true");
    let good = container.plan.clone();
    container.plan.steps.push(step(Action::EnterRoot(EnterRoot::default())));
    let error = pod.create(&container).await.unwrap_err();
    assert_eq!(error.to_string(), "the plan enters a second root");
    container.plan = good.clone();
    container.fresh_folders();
    let Some(Action::MountFs(mount)) = &mut container.plan.steps[2].action else { panic!() };
    mount.options = vec!["size=banana".to_owned()];
    let Err(MonitorError::Init { step, path, errno }) = pod.create(&container).await else { panic!() };
    assert_eq!((path.as_str(), errno), ("/dev", libc::EINVAL));
    assert!(step.starts_with("mount tmpfs (tmpfs: Bad value for 'size'"), "{step}");
    assert!(pod.monitor.inspect().await.unwrap().containers.is_empty());
    assert!(cgroup_is_empty(&container.cgroup));
    container.plan = good;
    container.fresh_folders();
    pod.create(&container).await.unwrap();
    container.fresh_folders();
    assert!(matches!(pod.create(&container).await, Err(MonitorError::WrongState(_))), "one id, one container");
    pod.monitor.remove(&container.id).await.unwrap();
    assert!(cgroup_is_empty(&container.cgroup), "a waiting init outlived its removal");
}

#[tokio::test]
async fn a_shared_pid_namespace_has_one_pid_1_and_no_survivors() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod_with(|pod| pod.shared_pid = true).await.unwrap();
    let mut first = pod.container("(setsid sleep 5000 &); echo up; sleep 6000");
    let mut second = pod.container("cat /proc/*/cmdline | tr '\\0' ' '; cat /proc/1/status | grep Uid");
    for container in [&mut first, &mut second] {
        container.plan.namespaces.pid = PidNamespace::Pod.into();
    }
    pod.create(&first).await.unwrap();
    pod.monitor.start(&first.id).await.unwrap();
    pod.until_logged(&first, "up").await;
    pod.create(&second).await.unwrap();
    pod.monitor.start(&second.id).await.unwrap();
    assert_eq!(pod.exited(&second).await.exit_code, 0);
    let lines = pod.log(&second).join("\n");
    assert!(lines.contains("sleep 5000") && lines.contains("sleep 6000"), "{lines}");
    assert!(lines.contains("65535"), "the pod's init is somebody: {lines}");
    pod.monitor.signal(&first.id, 9, Scope::Process).await.unwrap();
    assert_eq!(pod.exited(&first).await.signal, 9);
    // They are killed before the exit is told; a dying process leaves its cgroup a moment later.
    pod.until(|| cgroup_is_empty(&first.cgroup)).await;
    let monitor = pod.monitor.pid();
    let init = fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children")).unwrap();
    pod.monitor.shutdown().await.unwrap();
    pod.until(|| fs::read_to_string(format!("/proc/{}/stat", init.trim())).map_or(true, |stat| stat.contains(") Z ")))
        .await;
}

#[tokio::test]
async fn target_containers_share_pids() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let target = pod.run("exec sleep 7000").await;
    let mut debug = pod.container("cat /proc/1/cmdline");
    debug.plan.namespaces.pid = PidNamespace::Target.into();
    debug.plan.namespaces.pid_target = target.id.to_string();
    pod.create(&debug).await.unwrap();
    pod.monitor.start(&debug.id).await.unwrap();
    assert_eq!(pod.exited(&debug).await.exit_code, 0);
    assert_eq!(pod.log(&debug), ["stdout P sleep\x007000\0"]);
}
