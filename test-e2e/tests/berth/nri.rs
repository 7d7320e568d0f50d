//! NRI plugins: each event once and in its order, what plugins say no to, and plugins that fail, hang or vanish, which cost nobody
//! but themselves.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cri_api::v1;
use nri_api::v1alpha1::{self as api, Event};
use test_e2e::fixture::{Fixture, eventually};
use test_e2e::host::sibling_binary;
use test_e2e::leaks::Census;
use test_e2e::nri::{Call, Plugin, Reply};
use test_e2e::{process, spec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::Code;

use crate::recovery::{crash, nothing_more_than};

const MIB: i64 = 1 << 20;

/// See `Agent::configuration`.
pub(crate) fn beside(e2e: &Fixture, name: &str) -> PathBuf {
    e2e.agent().root.with_file_name(name)
}

/// A plugin that wants to know of everything.
pub(crate) async fn plugin(e2e: &Fixture, index: &str, answer: impl FnMut(&Call) -> Reply + Send + 'static) -> Plugin {
    // It is in no order before it is told of something: the agent has let it in then.
    let plugin =
        Plugin::connect(&beside(e2e, "nri.sock"), index, "test", 0, answer).await.expect("the plugin connects");
    let log = e2e.agent().log.clone();
    let told = format!("plugin={index}-test");
    eventually("the plugin is let in", async || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let lines = log.lines().filter(|line| line.contains("an NRI plugin is connected") && line.contains(&told));
        (lines.count() > 0).then_some(())
    })
    .await;
    plugin
}

fn fails(method: &'static str) -> impl FnMut(&Call) -> Reply + Send + 'static {
    move |call| match call.method == method {
        true => Reply::Fail(2, "the test says no".into()),
        false => Reply::Fine,
    }
}

fn memory(limit: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources { memory_limit_in_bytes: limit, ..Default::default() }
}

#[tokio::test]
async fn a_plugin_is_told_of_a_life_in_its_order() {
    let e2e = Fixture::own("nri-life").await;
    let plugin = plugin(&e2e, "10", |_| Reply::Fine).await;
    let pod = e2e.pod_with("nri-life", |config| drop(config.labels.insert("who".into(), "pod".into()))).await;
    let container = pod
        .start_with("main", &["sleep", "1000"], |config| {
            config.labels.insert("who".into(), "container".into());
            config.envs.push(v1::KeyValue { key: "A".into(), value: b"1".to_vec() });
            *spec::resources(config) = v1::LinuxContainerResources { cpu_shares: 300, ..memory(64 * MIB) };
        })
        .await;
    let pid = container.pid();
    e2e.client.update_resources(&container.id, memory(96 * MIB)).await.expect("resize");
    let resources = Some(memory(128 * MIB));
    let request =
        v1::UpdatePodSandboxResourcesRequest { pod_sandbox_id: pod.id.clone(), resources, ..Default::default() };
    e2e.client.runtime.clone().update_pod_sandbox_resources(request).await.expect("resize of the pod");
    e2e.client.stop_container(&container.id, 0).await.expect("stop");
    e2e.client.stop_container(&container.id, 0).await.expect("again");
    e2e.client.remove_container(&container.id).await.expect("remove");
    e2e.client.stop_pod(&pod.id).await.expect("stop");
    e2e.client.stop_pod(&pod.id).await.expect("again");
    e2e.client.remove_pod(&pod.id).await.expect("remove");
    assert_eq!(
        plugin.events(),
        [
            "RunPodSandbox",
            "CreateContainer",
            "ValidateContainerAdjustment",
            "PostCreateContainer",
            "StartContainer",
            "PostStartContainer",
            "UpdateContainer",
            "PostUpdateContainer",
            "UpdatePodSandbox",
            "PostUpdatePodSandbox",
            "StopContainer",
            "RemoveContainer",
            "StopPodSandbox",
            "RemovePodSandbox",
        ]
    );
    let told = |method: &str| plugin.told(method).remove(0);
    let metadata = pod.config.metadata.clone().unwrap_or_default();
    for method in ["RunPodSandbox", "CreateContainer", "StopContainer", "RemovePodSandbox"] {
        let told = told(method).pod();
        assert_eq!((&told.id, &told.name, &told.uid), (&pod.id, &metadata.name, &metadata.uid), "{method}");
        assert_eq!((told.namespace.as_str(), told.labels["who"].as_str()), ("e2e", "pod"), "{method}");
        assert!(!told.ips.is_empty(), "{method}");
    }
    let namespaces = told("RunPodSandbox").pod().linux.unwrap_or_default().namespaces;
    assert!(namespaces.iter().any(|one| one.r#type == "network" && one.path.ends_with("/ns/net")), "{namespaces:?}");
    let created = told("CreateContainer").container();
    assert_eq!((created.id.as_str(), created.name.as_str()), (container.id.as_str(), "main"));
    assert_eq!((created.args.join(" "), created.labels["who"].as_str()), ("sleep 1000".into(), "container"));
    assert!(created.env.contains(&"A=1".to_owned()) && created.mounts.iter().any(|one| one.destination == "/proc"));
    let limits = |container: &api::Container| {
        let resources = container.linux.clone().unwrap_or_default().resources.unwrap_or_default();
        let shares = resources.cpu.and_then(|cpu| cpu.shares).map(|value| value.value);
        (resources.memory.and_then(|memory| memory.limit).map(|value| value.value), shares)
    };
    assert_eq!(limits(&created), (Some(64 * MIB), Some(300)));
    let asked = told("UpdateContainer").request::<api::UpdateContainerRequest>().linux_resources.unwrap_or_default();
    assert_eq!(asked.memory.and_then(|memory| memory.limit).map(|limit| limit.value), Some(96 * MIB));
    assert_eq!(limits(&told("PostUpdateContainer").container()), (Some(96 * MIB), Some(300)));
    let started = told("PostStartContainer").container();
    assert_eq!((started.state(), started.pid as i32), (api::ContainerState::ContainerRunning, pid));
    let stopped = told("StopContainer").container();
    assert_eq!((stopped.state(), stopped.exit_code), (api::ContainerState::ContainerStopped, 137));
    assert!(stopped.finished_at > stopped.started_at && stopped.started_at > stopped.created_at);
    assert_eq!(stopped.env, created.env);
}

#[tokio::test]
async fn an_end_that_nobody_asked_for_is_told() {
    let e2e = Fixture::own("nri-exit").await;
    let plugin = plugin(&e2e, "10", |_| Reply::Fine).await;
    let (pod, _container) = e2e.run("nri-exit", &["sh", "-c", "exit 7"]).await;
    eventually("the end is told", async || (plugin.told("StopContainer").len() == 1).then_some(())).await;
    assert_eq!(plugin.told("StopContainer")[0].container().exit_code, 7);
    e2e.client.remove_pod(&pod.id).await.expect("remove");
    let tail: Vec<_> = plugin.events().into_iter().skip(5).collect();
    assert_eq!(tail, ["PostStartContainer", "StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox"]);
}

#[tokio::test]
async fn a_plugin_hears_what_it_subscribed_to() {
    let e2e = Fixture::own("nri-subscribed").await;
    let events = Event::StartContainer.bit() | Event::StopPodSandbox.bit();
    let some =
        Plugin::connect(&beside(&e2e, "nri.sock"), "05", "some", events, |_| Reply::Fine).await.expect("connect");
    let _all = plugin(&e2e, "10", |_| Reply::Fine).await;
    let (pod, _container) = e2e.run("nri-subscribed", &["sleep", "1000"]).await;
    e2e.client.remove_pod(&pod.id).await.expect("remove");
    assert_eq!(some.events(), ["StartContainer", "StopPodSandbox"]);
    assert_eq!(some.told("Configure")[0].request::<api::ConfigureRequest>().runtime_name, "berth");
}

/// Plugins of before 2026 have one method for most events.
#[tokio::test]
async fn an_old_plugin_is_told_as_it_knows() {
    let e2e = Fixture::own("nri-old").await;
    let known = ["Configure", "Synchronize", "CreateContainer", "UpdateContainer", "StopContainer", "StateChange"];
    let old = plugin(&e2e, "10", move |call| match known.contains(&call.method.as_str()) {
        true => Reply::Fine,
        false => Reply::Fail(12, "no such method".into()),
    })
    .await;
    let (pod, _container) = e2e.run("nri-old", &["sleep", "1000"]).await;
    e2e.client.remove_pod(&pod.id).await.expect("remove");
    let changes: Vec<_> =
        old.told("StateChange").iter().map(|call| call.request::<api::StateChangeEvent>().event()).collect();
    assert_eq!(
        changes,
        [
            Event::RunPodSandbox,
            Event::PostCreateContainer,
            Event::StartContainer,
            Event::PostStartContainer,
            Event::StopPodSandbox,
            Event::RemoveContainer,
            Event::RemovePodSandbox,
        ]
    );
    assert!(old.is_connected());
}

#[tokio::test]
async fn what_a_plugin_refuses_fails_and_leaves_nothing() {
    let e2e = Fixture::own("nri-refuse").await;
    used_once(&e2e).await;
    let before = Census::take(&e2e.machine.host, &e2e.agent());
    for (index, method) in [("11", "RunPodSandbox"), ("12", "CreateContainer"), ("13", "ValidateContainerAdjustment")] {
        let plugin = plugin(&e2e, index, fails(method)).await;
        let refused = match e2e.try_pod("nri-refuse", |_| {}).await {
            Err(refused) => refused,
            Ok(pod) => {
                let refused = pod.try_create("main", &["true"], |_| {}).await.expect_err(method);
                e2e.client.remove_pod(&pod.id).await.expect("remove");
                refused
            }
        };
        assert_eq!(refused.code(), Code::FailedPrecondition, "{method}: {refused:?}");
        for word in [&format!("{index}-test"), method, "the test says no"] {
            assert!(refused.message().contains(word), "{method}: {refused:?}");
        }
        // What it was told of, it is told the end of.
        let ended = if method == "RunPodSandbox" { "RemovePodSandbox" } else { "RemoveContainer" };
        assert_eq!(plugin.told(ended).len(), 1, "{method}: {:?}", plugin.events());
        assert!(plugin.is_connected(), "who says no stays");
        drop(plugin);
        gone(&e2e, index).await;
    }
    nothing_more_than(&e2e, &before).await;
}

/// Waits until the agent has noticed.
async fn gone(e2e: &Fixture, index: &str) {
    let (log, told) = (e2e.agent().log.clone(), format!("plugin={index}-test"));
    eventually("the plugin is forgotten", async || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.lines().any(|line| line.contains("an NRI plugin is gone") && line.contains(&told)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_refused_start_or_resize_changes_nothing() {
    let e2e = Fixture::own("nri-start").await;
    let refuses = Arc::new(AtomicBool::new(true));
    let says = refuses.clone();
    let plugin = plugin(&e2e, "10", move |call| match call.method.as_str() {
        "StartContainer" | "UpdateContainer" if says.load(Ordering::SeqCst) => Reply::Fail(2, "not now".into()),
        _ => Reply::Fine,
    })
    .await;
    let pod = e2e.pod("nri-start").await;
    let container =
        pod.create_with("main", &["sleep", "1000"], |config| *spec::resources(config) = memory(64 * MIB)).await;
    let refused = e2e.client.start_container(&container.id).await.expect_err("refused");
    assert!(refused.message().contains("not now"), "{refused:?}");
    assert_eq!(container.status().await.state(), v1::ContainerState::ContainerCreated);
    refuses.store(false, Ordering::SeqCst);
    e2e.client.start_container(&container.id).await.expect("the next try");
    refuses.store(true, Ordering::SeqCst);
    e2e.client.update_resources(&container.id, memory(96 * MIB)).await.expect_err("refused");
    let limits = container.status().await.resources.unwrap_or_default().linux.unwrap_or_default();
    assert_eq!(limits.memory_limit_in_bytes, 64 * MIB);
    assert_eq!(plugin.told("PostStartContainer").len(), 1);
}

#[tokio::test]
async fn nothing_that_ends_is_kept_by_a_plugin() {
    let e2e = Fixture::own("nri-keep").await;
    used_once(&e2e).await;
    let before = Census::take(&e2e.machine.host, &e2e.agent());
    let ends = [
        "StopContainer",
        "RemoveContainer",
        "StopPodSandbox",
        "RemovePodSandbox",
        "PostCreateContainer",
        "PostStartContainer",
    ];
    let plugin = plugin(&e2e, "10", move |call| match ends.contains(&call.method.as_str()) {
        true => Reply::Fail(2, "never".into()),
        false => Reply::Fine,
    })
    .await;
    let (pod, container) = e2e.run("nri-keep", &["sleep", "1000"]).await;
    e2e.client.stop_container(&container.id, 0).await.expect("stop");
    e2e.client.remove_pod(&pod.id).await.expect("remove");
    assert!(plugin.is_connected());
    drop(plugin);
    nothing_more_than(&e2e, &before).await;
}

/// What the first pod of an agent makes stays for the others.
async fn used_once(e2e: &Fixture) {
    let pod = e2e.pod("nri-first").await;
    e2e.client.remove_pod(&pod.id).await.expect("remove");
}

#[tokio::test]
async fn a_plugin_that_hangs_or_vanishes_costs_only_itself() {
    let e2e = Fixture::own("nri-hang").await;
    let healthy = plugin(&e2e, "90", |_| Reply::Fine).await;
    let methods = ["RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer"];
    for (number, method) in methods.into_iter().enumerate() {
        for hangs in [true, false] {
            let index = format!("{}{}", number + 1, u8::from(hangs));
            let bad = plugin(&e2e, &index, move |call| match (call.method == method, hangs) {
                (true, true) => Reply::Hang,
                (true, false) => Reply::HangUp,
                _ => Reply::Fine,
            })
            .await;
            let (pod, container) = e2e.run("nri-hang", &["sleep", "1000"]).await;
            assert_eq!(container.sh("echo alive").await, "alive\n");
            e2e.client.remove_pod(&pod.id).await.expect("remove");
            gone(&e2e, &index).await;
            assert!(!bad.is_connected() && bad.events().last().is_some_and(|last| last == method), "{index}");
        }
    }
    assert_eq!(healthy.told("RemovePodSandbox").len(), 2 * methods.len(), "the others are told of everything");
    assert!(healthy.is_connected());
}

/// While a plugin hangs, what only looks is answered.
#[tokio::test]
async fn a_plugin_that_hangs_blocks_no_status() {
    let e2e = Fixture::own("nri-block").await;
    let (pod, container) = e2e.run("nri-block", &["sleep", "1000"]).await;
    let _bad = plugin(&e2e, "10", |call| if call.method == "RunPodSandbox" { Reply::Hang } else { Reply::Fine }).await;
    let config = spec::pod("nri-other", &e2e.machine.folder);
    let client = e2e.client.clone();
    let running = tokio::spawn(async move { client.run_pod(config).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!running.is_finished(), "it waits for the plugin");
    container.status().await;
    pod.status().await;
    assert_eq!(e2e.client.list_pods(None).await.expect("list").len(), 1, "and the pod is not to be seen yet");
    assert!(!running.is_finished());
    let id = running.await.expect("no panic").expect("the pod runs without the plugin");
    e2e.client.remove_pod(&id).await.expect("remove");
}

#[tokio::test]
async fn what_is_no_plugin_is_sent_away() {
    let e2e = Fixture::own("nri-hostile").await;
    let socket = beside(&e2e, "nri.sock");
    let garbage = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 64],
        // A call that would be 4 GiB.
        [&[0, 0, 0, 2, 0, 0, 0, 10][..], &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0]].concat(),
        // An answer to a question of its own.
        [&[0, 0, 0, 2, 0, 0, 0, 10][..], &[0, 0, 0, 0, 0, 0, 0, 1, 2, 0]].concat(),
    ];
    for bytes in garbage {
        let mut stream = UnixStream::connect(&socket).await.expect("connect");
        stream.write_all(&bytes).await.expect("write");
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0, "{bytes:?}");
    }
    let mut silent = UnixStream::connect(&socket).await.expect("connect");
    for (index, name) in [("1", "x"), ("ab", "x"), ("10", ""), ("10", "../x")] {
        let stream = UnixStream::connect(&socket).await.expect("connect");
        let plugin = Plugin::unregistered(stream, 0, |_| Reply::Fine);
        plugin.register(index, name).await.expect_err("no name");
        eventually("it is sent away", async || (!plugin.is_connected()).then_some(())).await;
    }
    let stream = UnixStream::connect(&socket).await.expect("connect");
    let greedy = Plugin::unregistered(stream, 1 << 20, |_| Reply::Fine);
    greedy.register("10", "greedy").await.expect("a good name");
    eventually("it is sent away", async || (!greedy.is_connected()).then_some(())).await;
    let (_pod, container) = e2e.run("nri-hostile", &["sleep", "1000"]).await;
    assert_eq!(container.sh("echo alive").await, "alive\n");
    assert_eq!(silent.read(&mut [0; 64]).await.unwrap_or(0), 0, "who says nothing does not stay");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&socket).expect("socket").permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_plugin_that_comes_back_learns_what_is_there() {
    let mut e2e = Fixture::own("nri-again").await;
    let first = plugin(&e2e, "10", |call| match call.method.as_str() {
        "CreateContainer" => Reply::adjust(|adjust| {
            adjust.env = vec![api::KeyValue { key: "SET".into(), value: "by-plugin".into() }];
        }),
        _ => Reply::Fine,
    })
    .await;
    let (pod, container) = e2e.run("nri-again", &["sleep", "1000"]).await;
    let (pod, id, pid) = (pod.id.clone(), container.id.clone(), container.pid());
    crash(&mut e2e, async || eventually("it is hung up on", async || (!first.is_connected()).then_some(())).await)
        .await;
    std::fs::write(&e2e.agent().log, "").expect("log");
    let second = plugin(&e2e, "10", |_| Reply::Fine).await;
    let told = second.told("Synchronize").remove(0).request::<api::SynchronizeRequest>();
    assert_eq!(told.pods.iter().map(|pod| pod.id.as_str()).collect::<Vec<_>>(), [pod.as_str()]);
    assert_eq!(told.containers.len(), 1);
    let known = &told.containers[0];
    assert_eq!(
        (known.id.as_str(), known.state(), known.pid as i32),
        (id.as_str(), api::ContainerState::ContainerRunning, pid)
    );
    assert!(known.env.contains(&"SET=by-plugin".to_owned()), "{:?}", known.env);
    assert_eq!((known.args.join(" ").as_str(), known.pod_sandbox_id.as_str()), ("sleep 1000", pod.as_str()));
    e2e.client.remove_pod(&pod).await.expect("remove");
    assert_eq!(second.events(), ["StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox"]);
}

#[tokio::test]
async fn what_is_there_is_told_in_several_messages() {
    let e2e = Fixture::own("nri-many").await;
    let pod = e2e.pod("nri-many").await;
    let mut ids = Vec::new();
    for number in 0..12 {
        let change =
            |config: &mut v1::ContainerConfig| drop(config.annotations.insert("big".into(), "x".repeat(1 << 19)));
        ids.push(pod.create_with(&format!("c{number}"), &["true"], change).await.id);
    }
    let plugin = plugin(&e2e, "10", |_| Reply::Fine).await;
    let told: Vec<api::SynchronizeRequest> = plugin.told("Synchronize").iter().map(Call::request).collect();
    assert!(told.len() > 1, "12 times 512 KiB are more than a message holds");
    let (last, before) = told.split_last().expect("some");
    assert!(!last.more && before.iter().all(|one| one.more));
    let mut known: Vec<_> = told.into_iter().flat_map(|one| one.containers).map(|container| container.id).collect();
    known.sort();
    ids.sort();
    assert_eq!(known, ids, "each once");
}

#[tokio::test]
async fn installed_plugins_are_started_and_started_again() {
    let mut e2e = Fixture::own("nri-installed").await;
    let (plugins, configs) = (beside(&e2e, "nri-plugins"), beside(&e2e, "nri-conf"));
    std::fs::create_dir_all(&plugins).expect("folder");
    std::fs::create_dir_all(&configs).expect("folder");
    let told = configs.join("told");
    let program = sibling_binary("e2e-nri-plugin").expect("the plugin is built with the tests");
    std::os::unix::fs::symlink(&program, plugins.join("20-installed")).expect("install");
    std::fs::write(configs.join("installed.conf"), told.display().to_string()).expect("configure");
    std::os::unix::fs::symlink("/bin/false", plugins.join("10-broken")).expect("install");
    std::os::unix::fs::symlink("/bin/true", plugins.join("nonsense")).expect("install");
    for _ in 0..2 {
        std::fs::write(&told, "").expect("told");
        crash(&mut e2e, async || {}).await;
        // Whoever is answered finds the plugins of the node in their places.
        let (pod, container) = e2e.run("nri-installed", &["sleep", "1000"]).await;
        assert_eq!(container.sh("echo $LAUNCHED").await, "installed\n");
        e2e.client.remove_pod(&pod.id).await.expect("remove");
        let told = std::fs::read_to_string(&told).expect("told");
        assert!(told.starts_with("installed Configure\ninstalled Synchronize\ninstalled RunPodSandbox\n"), "{told}");
    }
    e2e.agent().signal(nix::sys::signal::Signal::SIGTERM);
    assert!(e2e.agent().wait_gone());
    let left = || process::all().into_iter().find(|one| process::command_line(one.pid).contains("20-installed"));
    eventually("the plugin ends with the agent", async || left().is_none().then_some(())).await;
    let machine = e2e.machine.clone();
    e2e.agent().launch(&machine.host).expect("the agent starts again");
}
