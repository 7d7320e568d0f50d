//! Containers that runc and crun run: as much Berth's as those that it runs itself. What a container's life is like otherwise is in the
//! tests of the CRI, which run with `E2E_HANDLER=runc`, too.

use cri_api::v1;
use test_e2e::cri_log::Stream;
use test_e2e::fixture::{Fixture, Pod, eventually};
use test_e2e::leaks::Census;
use test_e2e::machine::Setup;
use test_e2e::stream::{Client, STDIN, STDOUT};
use test_e2e::{process, spec};
use tonic::Code;

use crate::recovery::{crash, crash_at, nothing_more_than};

/// Each of these tests, for each runtime.
macro_rules! with_runc_and_crun {
    ($($name:ident),* $(,)?) => {
        mod runc {
            $(#[tokio::test] async fn $name() { super::$name("runc").await; })*
        }
        mod crun {
            $(#[tokio::test] async fn $name() { super::$name("crun").await; })*
        }
    };
}

with_runc_and_crun!(
    a_life_leaves_nothing_behind,
    containers_outlive_the_agent,
    a_crash_at_every_step_is_recovered_from,
    a_lost_monitor_takes_its_pod_along,
    a_terminal_is_attached_to_across_a_restart,
    pids_are_shared_as_asked_for,
    a_program_may_end_before_its_start_is_told,
    the_runtime_says_why_not,
    annotations_are_let_through_by_name,
    hooks_of_devices_run,
);

async fn machine(runtime: &str, name: &str) -> Fixture {
    let program = process::find_program(runtime).unwrap_or_else(|| panic!("{runtime} is not installed"));
    let path = program.display();
    let configuration =
        format!("runtimes:\n  {runtime}: {{path: {path}}}\n  noted: {{path: {path}, annotations: [\"io.e2e/*\"]}}\n");
    Fixture::own_with(Setup { name: format!("{runtime}-{name}"), configuration, ..Setup::default() }).await
}

async fn pod<'a>(e2e: &'a Fixture, runtime: &str, name: &str) -> Pod<'a> {
    e2e.try_pod_of(runtime, name, |_| {}).await.unwrap_or_else(|e| panic!("running pod {name}: {e:?}"))
}

/// What is there once a pod of the runtime has come and gone.
async fn after_first_use(e2e: &Fixture, runtime: &str) -> Census {
    let first = pod(e2e, runtime, "first-use").await;
    first.start("main", &["sleep", "1000"]).await.sh("true").await;
    e2e.client.remove_pod(&first.id).await.expect("removed");
    eventually("the machine settles", async || {
        let before = Census::take(&e2e.machine.host, &e2e.agent());
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let after = Census::take(&e2e.machine.host, &e2e.agent());
        (before == after).then_some(after)
    })
    .await
}

async fn a_life_leaves_nothing_behind(runtime: &str) {
    let e2e = machine(runtime, "life").await;
    let before = after_first_use(&e2e, runtime).await;
    let pod = pod(&e2e, runtime, "life").await;
    assert_eq!(pod.status().await.runtime_handler, runtime);
    let container = pod.start("main", &["sh", "-c", "echo out; echo err >&2; sleep 1000"]).await;
    container.wait_for_line("out").await;
    let state = e2e.agent().run_root.join("containers").join(&container.id).join("oci/state");
    assert!(state.join(&container.id).exists(), "{runtime} keeps its state in {}", state.display());
    let monitor = process::read(container.pid()).expect("it runs").parent;
    assert_eq!(process::read(monitor).expect("alive").name, "berth-monitor", "its parent");
    let created = pod.create_with("created", &["sleep", "1000"], |_| {}).await;
    let ended = pod.start("ended", &["sh", "-c", "exit 3"]).await;
    assert_eq!(ended.wait_exit().await.exit_code, 3);
    let mounts = e2e.inside(|| std::fs::read_to_string("/proc/self/mountinfo").expect("the host's mounts"));
    assert!(!mounts.contains(&container.id), "nothing of it is mounted on the host:\n{mounts}");
    for id in [&container.id, &created.id, &ended.id] {
        e2e.client.remove_container(id).await.expect("removed");
        assert!(!e2e.agent().run_root.join("containers").join(id).exists());
    }
    e2e.client.remove_pod(&pod.id).await.expect("removed");
    nothing_more_than(&e2e, &before).await;
}

async fn containers_outlive_the_agent(runtime: &str) {
    let mut e2e = machine(runtime, "outlive").await;
    let before = after_first_use(&e2e, runtime).await;
    let pod = pod(&e2e, runtime, "outlive").await;
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
    let counting = pod.start("counting", &["sh", "-c", script]).await;
    let waiting = pod.create_with("waiting", &["sh", "-c", "echo late; sleep 1000"], |_| {}).await;
    let killed = pod.start("killed", &["sleep", "1000"]).await;
    let (counting_id, log, waiting_id, killed_id) =
        (counting.id.clone(), counting.log.clone(), waiting.id.clone(), killed.id.clone());
    let (pid, victim, pod_id) = (counting.pid(), killed.pid(), pod.id.clone());
    // The next agent does not even know the runtime.
    e2e.agent().configure("log: {level: info}\n").expect("configured");
    crash(&mut e2e, async || {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim), nix::sys::signal::Signal::SIGKILL).expect("killed");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    })
    .await;
    assert!(process::is_alive(pid), "the process is the same");
    assert_eq!(e2e.client.container_status(&killed_id).await.expect("known").exit_code, 137);
    let exec = e2e.client.exec(&counting_id, &["echo", "hi"], 30).await.expect("exec works");
    assert_eq!(exec.stdout.as_ref(), b"hi\n");
    e2e.client.start_container(&waiting_id).await.expect("what was created is started");
    let status = e2e.client.container_status(&waiting_id).await.expect("known");
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    e2e.client.stop_container(&counting_id, 0).await.expect("stop works");
    let text = test_e2e::cri_log::Log::read(&log).written(Stream::Stdout).expect("well-formed");
    for (expected, line) in String::from_utf8(text).expect("digits").lines().enumerate() {
        assert_eq!(line, expected.to_string(), "the log has a gap");
    }
    e2e.client.remove_pod(&pod_id).await.expect("removed");
    nothing_more_than(&e2e, &before).await;
}

async fn a_crash_at_every_step_is_recovered_from(runtime: &str) {
    let mut e2e = machine(runtime, "faults").await;
    let points = e2e.agent().fault_points().expect("berth debug fault-points");
    let before = after_first_use(&e2e, runtime).await;
    let verbs = ["create_container.", "start_container.", "stop_container.", "remove_container."];
    let of_containers = points.iter().filter(|point| verbs.iter().any(|verb| point.starts_with(verb)));
    let mut died = 0;
    for point in of_containers {
        let pod_id = pod(&e2e, runtime, "faults").await.id;
        // It ends in the middle: which of them fails is the point's.
        let _ = crash_at(&mut e2e, point, async |e2e| life(e2e, &pod_id).await).await;
        died += 1;
        life(&e2e, &pod_id).await.unwrap_or_else(|e| panic!("{point}: the second try: {e:?}"));
        e2e.client.remove_pod(&pod_id).await.unwrap_or_else(|e| panic!("{point}: {e:?}"));
        nothing_more_than(&e2e, &before).await;
    }
    assert!(died > 5, "{died} points");
}

/// A container from its creation to its removal; what an earlier try has left is taken away first.
async fn life(e2e: &Fixture, pod: &str) -> Result<(), tonic::Status> {
    let client = &e2e.client;
    for container in client.list_containers(None).await? {
        client.remove_container(&container.id).await?;
    }
    let config = spec::container("main", e2e.busybox(), &["sleep", "1000"]);
    let sandbox = spec::pod("faults", &e2e.machine.folder);
    let id =
        client.create_container(pod, config, v1::PodSandboxConfig { log_directory: String::new(), ..sandbox }).await?;
    client.start_container(&id).await?;
    client.stop_container(&id, 0).await?;
    client.remove_container(&id).await
}

async fn a_lost_monitor_takes_its_pod_along(runtime: &str) {
    let e2e = machine(runtime, "lost").await;
    let before = after_first_use(&e2e, runtime).await;
    let pod = pod(&e2e, runtime, "lost").await;
    let container = pod.start("main", &["sh", "-c", "setsid sleep 1000 & sleep 1000"]).await;
    let pids = container.pids();
    let monitor = process::read(container.pid()).expect("it runs").parent;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), nix::sys::signal::Signal::SIGKILL).expect("killed");
    eventually("its processes are gone", async || pids.iter().all(|pid| !process::is_alive(*pid)).then_some(())).await;
    eventually("it is told to be lost", async || (container.status().await.exit_code == 255).then_some(())).await;
    e2e.client.remove_pod(&pod.id).await.expect("removed");
    nothing_more_than(&e2e, &before).await;
}

async fn a_terminal_is_attached_to_across_a_restart(runtime: &str) {
    let mut e2e = machine(runtime, "terminal").await;
    let pod = pod(&e2e, runtime, "terminal").await;
    let script = "while read line; do echo \"got $line\"; done";
    let change = |config: &mut v1::ContainerConfig| (config.tty, config.stdin) = (true, true);
    let id = pod.start_with("main", &["sh", "-c", script], change).await.id;
    crash(&mut e2e, async || {}).await;
    let attach = v1::AttachRequest { container_id: id.clone(), stdin: true, tty: true, stdout: true, stderr: false };
    let url = e2e.client.attach_url(attach).await.expect("a url");
    let mut client = Client::connect(&e2e, &url).await;
    client.send(STDIN, b"hello\n").await;
    client.wait_for(STDOUT, "got hello").await;
    let exec = v1::ExecRequest {
        container_id: id,
        cmd: ["sh", "-c", "tty; read word; echo \"$word\"; exit 7"].map(str::to_owned).to_vec(),
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let url = e2e.client.exec_url(exec).await.expect("a url");
    let mut client = Client::connect(&e2e, &url).await;
    client.wait_for(STDOUT, "/dev/pts/").await;
    client.send(STDIN, b"word\n").await;
    assert_eq!(client.finish().await.code, Ok(7));
}

async fn pids_are_shared_as_asked_for(runtime: &str) {
    let e2e = machine(runtime, "pids").await;
    let shared = |pid: v1::NamespaceMode| v1::NamespaceOption { pid: pid.into(), ..Default::default() };
    let change = |config: &mut v1::PodSandboxConfig| {
        spec::pod_security(config).namespace_options = Some(shared(v1::NamespaceMode::Pod))
    };
    let pod = e2e.try_pod_of(runtime, "pids", change).await.expect("pod");
    let first = pod
        .start_with("first", &["sleep", "1001"], |config| {
            spec::security(config).namespace_options = Some(shared(v1::NamespaceMode::Pod));
        })
        .await;
    assert!(first.sh("cat /proc/1/comm").await.starts_with("berth-pod-init"), "pid 1 is the pod's");
    let own = pod.start("own", &["sleep", "1002"]).await;
    assert_eq!(own.sh("cat /proc/1/comm").await, "sleep\n");
    let target = v1::NamespaceOption { target_id: own.id.clone(), ..shared(v1::NamespaceMode::Target) };
    let debug = pod
        .start_with("debug", &["sleep", "1003"], |config| {
            spec::security(config).namespace_options = Some(target.clone())
        })
        .await;
    assert!(debug.sh("ps").await.contains("sleep 1002"), "it sees its target's processes");
    // One that ends leaves its neighbours in the namespace alone.
    e2e.client.stop_container(&debug.id, 0).await.expect("stopped");
    e2e.client.stop_container(&first.id, 0).await.expect("stopped");
    assert_eq!(own.sh("hostname").await, "pids\n", "the pod's other namespaces are shared as ever");
    e2e.client.remove_container(&own.id).await.expect("removed");
    let refused = pod.try_create("late", &["sleep", "1"], |config| {
        spec::security(config).namespace_options = Some(target.clone());
    });
    assert!(refused.await.is_err(), "there is nobody to join any more");
}

async fn a_program_may_end_before_its_start_is_told(runtime: &str) {
    let e2e = machine(runtime, "short").await;
    let pod = pod(&e2e, runtime, "short").await;
    for code in 0..10 {
        let container = pod.start(&format!("short-{code}"), &["sh", "-c", &format!("echo {code}; exit {code}")]).await;
        let status = container.wait_exit().await;
        assert_eq!(status.exit_code, code);
        assert_eq!(status.reason, if code == 0 { "Completed" } else { "Error" });
        assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at, "{status:?}");
        assert_eq!(container.written(Stream::Stdout), format!("{code}\n"));
    }
}

async fn the_runtime_says_why_not(runtime: &str) {
    let e2e = machine(runtime, "why").await;
    let before = after_first_use(&e2e, runtime).await;
    let owned = pod(&e2e, runtime, "why").await;
    let missing = owned.try_create("missing", &["/no/such/program"], |_| {}).await.expect_err("it is not there");
    assert!(missing.message().contains(&format!("{runtime} create: ")), "{missing:?}");
    assert!(missing.message().contains("/no/such/program"), "{missing:?}");
    let binary = v1::KeyValue { key: "RAW".into(), value: vec![0xff] };
    let refused = owned.try_create("binary", &["true"], |config| config.envs.push(binary)).await.expect_err("no text");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let user = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), ..Default::default() };
    let change = |config: &mut v1::PodSandboxConfig| {
        spec::pod_security(config).namespace_options.get_or_insert_default().userns_options = Some(user);
    };
    let refused = e2e.try_pod_of(runtime, "mapped", change).await.expect_err("no user namespaces");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let handlers = e2e.client.status().await.expect("status").runtime_handlers;
    let told = handlers.iter().find(|handler| handler.name == runtime).and_then(|handler| handler.features);
    assert!(told.is_some_and(|features| !features.user_namespaces && features.recursive_read_only_mounts));
    let own = |config: &mut v1::ContainerConfig| {
        spec::container_namespaces(config).pid = v1::NamespaceMode::Container.into();
    };
    let container = owned.start_with("kept", &["sleep", "1000"], own).await;
    let archive = e2e.folder("archive").join("kept.tar");
    let refused = e2e.client.checkpoint(&container.id, &archive, 10).await.expect_err("it is not ours to take");
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("OCI runtime"), "{refused:?}");
    e2e.client.remove_pod(&owned.id).await.expect("removed");
    nothing_more_than(&e2e, &before).await;
}

async fn annotations_are_let_through_by_name(runtime: &str) {
    let e2e = machine(runtime, "notes").await;
    let given = async |handler: &str| {
        let pod = pod(&e2e, handler, "notes").await;
        let notes =
            [("io.e2e/note".to_owned(), "n".to_owned()), ("run.oci.keep_original_groups".to_owned(), "1".to_owned())];
        let container = pod.create_with("main", &["true"], |config| config.annotations = notes.into()).await;
        let file = e2e.agent().run_root.join("containers").join(&container.id).join("oci/config.json");
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file).expect("config.json")).expect("JSON");
        config["annotations"].clone()
    };
    assert_eq!(given("noted").await, serde_json::json!({"io.e2e/note": "n"}));
    assert_eq!(given(runtime).await, serde_json::json!({}));
}

/// A runtime that never gets done with making a container.
const HANGS: &str = "#!/bin/sh\ncase \"$*\" in *' create '*) exec sleep 86397;; esac\n";

fn hanging() -> Option<i32> {
    let ids = std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let hangs = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x0086397\0");
    ids.into_iter().find(hangs)
}

#[tokio::test]
async fn a_runtime_that_hangs_ends_with_whom_it_works_for() {
    let setup = Setup { name: "hangs".into(), ..Setup::default() };
    let program = setup.folder().join("hangs");
    let configuration = format!("runtimes: {{hangs: {{path: {}}}}}\n", program.display());
    let mut e2e = Fixture::own_with(Setup { configuration, ..setup }).await;
    std::fs::write(&program, HANGS).expect("program");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let before = crate::recovery::after_first_use(&e2e).await;
    for how in ["the agent dies", "the monitor dies"] {
        let pod = pod(&e2e, "hangs", "hangs").await;
        let (pod_id, sandbox, client) = (pod.id.clone(), pod.config.clone(), e2e.client.clone());
        let config = spec::container("main", e2e.busybox(), &["true"]);
        let create = tokio::spawn(async move { client.create_container(&pod.id.clone(), config, sandbox).await });
        let runtime = eventually("the runtime runs", async || hanging()).await;
        if how == "the agent dies" {
            crash(&mut e2e, async || {}).await;
        } else {
            let runner = process::read(runtime).expect("alive").parent;
            let monitor = process::read(runner).expect("alive").parent;
            assert_eq!(process::read(monitor).expect("alive").name, "berth-monitor");
            let monitor = nix::unistd::Pid::from_raw(monitor);
            nix::sys::signal::kill(monitor, nix::sys::signal::Signal::SIGKILL).expect("killed");
        }
        e2e.client.stop_pod(&pod_id).await.unwrap_or_else(|e| panic!("{how}: {e:?}"));
        assert!(create.await.expect("no panic").is_err(), "{how}: there is no container");
        e2e.client.remove_pod(&pod_id).await.unwrap_or_else(|e| panic!("{how}: {e:?}"));
        assert_eq!(hanging(), None, "{how}");
        nothing_more_than(&e2e, &before).await;
    }
}

/// What a device's file says is to be run on the way up and down is run by the runtime.
async fn hooks_of_devices_run(runtime: &str) {
    let e2e = machine(runtime, "hooks").await;
    let (out, files) = (e2e.folder("hooks"), e2e.agent().root.with_file_name("cdi"));
    std::fs::create_dir_all(&files).expect("folder");
    let hook = |kind: &str| {
        let script = format!("cat > {}/{kind}", out.display());
        serde_json::json!({"hookName": kind, "path": "/bin/sh", "args": ["sh", "-c", script]})
    };
    let hooks: Vec<_> = ["createRuntime", "createContainer", "poststop"].map(hook).into();
    let device = serde_json::json!({"name": "hooked", "containerEdits": {"hooks": hooks}});
    let file = serde_json::json!({"cdiVersion": "0.7.0", "kind": "vendor.example/thing", "devices": [device]});
    std::fs::write(files.join("vendor.json"), file.to_string()).expect("vendor's file");
    let pod = pod(&e2e, runtime, "hooks").await;
    let named = vec![v1::CdiDevice { name: "vendor.example/thing=hooked".into() }];
    let container = pod.start_with("main", &["sleep", "1000"], |config| config.cdi_devices = named).await;
    for kind in ["createRuntime", "createContainer"] {
        let state = std::fs::read_to_string(out.join(kind)).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert!(state.contains(&container.id), "{kind} is given the container's state: {state}");
    }
    assert!(!out.join("poststop").exists());
    e2e.client.remove_container(&container.id).await.expect("removed");
    eventually("the last hook has run", async || out.join("poststop").exists().then_some(())).await;
}
