//! The straight path: pull, run, create, start, look, exec, log, stop, remove; and what Status says at each step.

use cri_api::v1;
use test_e2e::cri_log::Stream;
use test_e2e::fixture::Fixture;
use tonic::Code;

#[tokio::test]
async fn a_pod_lives_from_pull_to_remove() {
    let e2e = Fixture::shared().await;
    let client = &e2e.client;
    let id = client.pull(e2e.busybox()).await.expect("pull");
    let image = client.image_status(e2e.busybox()).await.expect("image status").expect("image is there");
    assert_eq!(image.id, id, "PullImage answers the image's id");

    let pod = e2e.pod("lifecycle").await;
    let container = pod.create_with("main", &["sh", "-c", "echo started; exec sleep 1000"], |_| {}).await;
    let created = container.status().await;
    assert_eq!(created.state(), v1::ContainerState::ContainerCreated);
    client.start_container(&container.id).await.expect("start");
    assert_eq!(container.status().await.state(), v1::ContainerState::ContainerRunning);

    let output = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 3"]).await;
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "out\n", "err\n"));
    container.wait_for_line("started").await;
    assert_eq!(container.written(Stream::Stdout), "started\n");

    client.stop_container(&container.id, 0).await.expect("stop");
    let stopped = container.status().await;
    assert_eq!((stopped.state(), stopped.exit_code), (v1::ContainerState::ContainerExited, 137));
    client.remove_container(&container.id).await.expect("remove");
    let gone = client.container_status(&container.id).await.expect_err("removed");
    assert_eq!(gone.code(), Code::NotFound);

    client.stop_pod(&pod.id).await.expect("stop pod");
    assert_eq!(pod.status().await.state(), v1::PodSandboxState::SandboxNotready);
    client.remove_pod(&pod.id).await.expect("remove pod");
    assert_eq!(client.pod_status(&pod.id).await.expect_err("removed").code(), Code::NotFound);
}

#[tokio::test]
async fn times_tell_each_state() {
    let e2e = Fixture::shared().await;
    let before = now();
    let pod = e2e.pod("times").await;
    let container = pod.create_with("main", &["sh", "-c", "sleep 0.2"], |_| {}).await;
    let created = container.status().await;
    assert!(created.created_at >= before && created.created_at <= now(), "nanoseconds: {}", created.created_at);
    assert_eq!((created.started_at, created.finished_at), (0, 0));
    e2e.client.start_container(&container.id).await.expect("start");
    let status = container.wait_exit().await;
    assert!(status.created_at <= status.started_at, "{status:?}");
    assert!(status.started_at <= status.finished_at && status.finished_at <= now(), "{status:?}");

    let running = pod.start("second", &["sleep", "1000"]).await.status().await;
    assert!(running.started_at > 0 && running.finished_at == 0, "{running:?}");
}

#[tokio::test]
async fn an_exit_has_its_code_and_reason() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("exits").await;
    for (script, code, reason) in [("exit 0", 0, "Completed"), ("exit 7", 7, "Error"), ("exit 255", 255, "Error")] {
        let name = format!("c{code}");
        let status = pod.start(&name, &["sh", "-c", script]).await.wait_exit().await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{script}");
    }
}

#[tokio::test]
async fn a_status_has_what_kubelet_reads() {
    let e2e = Fixture::shared().await;
    let labels = |n: &str| [("app".to_owned(), n.to_owned())].into();
    let pod = e2e
        .pod_with("fields", |config| {
            config.labels = labels("pod");
            config.annotations = [("a.b/c".to_owned(), "x y\n\"z\"".to_owned())].into();
        })
        .await;
    let container = pod
        .start_with("main", &["sleep", "1000"], |config| {
            config.labels = labels("container");
            config.annotations = [("k".to_owned(), String::new())].into();
            config.metadata = Some(v1::ContainerMetadata { name: "main".into(), attempt: 3 });
        })
        .await;
    let status = container.status().await;
    assert_eq!(status.metadata, Some(v1::ContainerMetadata { name: "main".into(), attempt: 3 }));
    assert_eq!(status.labels, labels("container"));
    assert_eq!(status.annotations.get("k"), Some(&String::new()));
    assert_eq!(status.image.expect("image").image, e2e.busybox());
    assert!(!status.image_ref.is_empty());
    assert_eq!(status.log_path, container.log.display().to_string(), "absolute: the directory and the path joined");

    let pod_status = pod.status().await;
    assert_eq!(pod_status.metadata, pod.config.metadata);
    assert_eq!(pod_status.labels, pod.config.labels);
    assert_eq!(pod_status.annotations, pod.config.annotations);
    assert!(pod_status.created_at > 0);
    let options = pod_status.linux.and_then(|linux| linux.namespaces).and_then(|n| n.options).expect("echoed");
    assert_eq!(options.pid(), v1::NamespaceMode::Container);
    assert_eq!(options.network(), v1::NamespaceMode::Pod);
}

#[tokio::test]
async fn lists_find_by_every_filter() {
    let e2e = Fixture::shared().await;
    let label = |value: &str| [("lists".to_owned(), value.to_owned())].into();
    let first = e2e.pod_with("list-one", |config| config.labels = label("one")).await;
    let second = e2e.pod_with("list-two", |config| config.labels = label("two")).await;
    let a = first.start_with("a", &["sleep", "1000"], |config| config.labels = label("a")).await;
    let b = first.create_with("b", &["true"], |config| config.labels = label("b")).await;

    let pods = async |filter| {
        let found = e2e.client.list_pods(Some(filter)).await.expect("list pods");
        found.into_iter().map(|pod| pod.id).collect::<Vec<_>>().join(" ")
    };
    let by_label = v1::PodSandboxFilter { label_selector: label("one"), ..Default::default() };
    assert_eq!(pods(by_label.clone()).await, first.id);
    let prefix = v1::PodSandboxFilter { id: second.id[..20].to_owned(), ..Default::default() };
    assert_eq!(pods(prefix.clone()).await, second.id, "an id filter takes a unique prefix");
    let both = v1::PodSandboxFilter { id: second.id.clone(), ..by_label };
    assert!(pods(both).await.is_empty(), "filters AND together");
    let notready = Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxNotready.into() });
    assert!(pods(v1::PodSandboxFilter { state: notready, ..prefix }).await.is_empty());

    let containers = async |filter| {
        let found = e2e.client.list_containers(Some(filter)).await.expect("list containers");
        let mut ids: Vec<String> = found.into_iter().map(|container| container.id).collect();
        ids.sort();
        ids.join(" ")
    };
    let of_pod = v1::ContainerFilter { pod_sandbox_id: first.id.clone(), ..Default::default() };
    let mut all = [a.id.as_str(), b.id.as_str()];
    all.sort();
    assert_eq!(containers(of_pod.clone()).await, all.join(" "));
    let created = Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerCreated.into() });
    assert_eq!(containers(v1::ContainerFilter { state: created, ..of_pod.clone() }).await, b.id);
    assert_eq!(containers(v1::ContainerFilter { label_selector: label("a"), ..of_pod }).await, a.id);
    let everything = e2e.client.list_containers(None).await.expect("no filter");
    let item = everything.iter().find(|item| item.id == a.id).expect("no filter means all");
    assert_eq!((item.pod_sandbox_id.as_str(), item.labels.clone()), (first.id.as_str(), label("a")));
}

#[tokio::test]
async fn stop_sends_the_soft_signal_and_then_kills() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("stop").await;
    let polite = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let soft = pod.start("soft", &["sh", "-c", polite]).await;
    soft.wait_for_line("ready").await;
    e2e.client.stop_container(&soft.id, 30).await.expect("stop");
    let status = soft.status().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (5, "Error"), "it exited on TERM by itself");
    soft.wait_for_line("bye").await;

    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let hard = pod.start("hard", &["sh", "-c", deaf]).await;
    hard.wait_for_line("ready").await;
    let begun = std::time::Instant::now();
    e2e.client.stop_container(&hard.id, 1).await.expect("stop");
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1), "the grace was kept");
    assert_eq!(hard.status().await.exit_code, 137);
}

#[tokio::test]
async fn the_images_stop_signal_is_sent() {
    let e2e = Fixture::shared().await;
    let image = test_e2e::image::busybox(test_e2e::image::Format::Oci).expect("busybox");
    let image = image.set("StopSignal", "SIGUSR1").build();
    let reference = e2e.registry().push("e2e/stop-signal", "1", &image).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let pod = e2e.pod("stop-signal").await;
    let script = "trap 'exit 11' USR1; trap 'exit 12' TERM; echo ready; while :; do sleep 0.05; done";
    let change = |config: &mut v1::ContainerConfig| {
        config.image = Some(v1::ImageSpec { image: reference.clone(), ..Default::default() });
    };
    let container = pod.start_with("main", &["sh", "-c", script], change).await;
    container.wait_for_line("ready").await;
    e2e.client.stop_container(&container.id, 30).await.expect("stop");
    assert_eq!(container.status().await.exit_code, 11);
}

/// kubelet's `lifecycle.stopSignal` beats the image's.
#[tokio::test]
async fn newer_the_containers_own_stop_signal_comes_first() {
    let e2e = Fixture::shared().await;
    let script = "trap 'exit 10' USR2; trap 'exit 12' TERM; echo ready; while :; do sleep 0.05; done";
    let change = |config: &mut v1::ContainerConfig| config.stop_signal = v1::Signal::Sigusr2.into();
    let (_pod, container) = e2e.run_with("own-stop-signal", &["sh", "-c", script], change).await;
    container.wait_for_line("ready").await;
    assert_eq!(container.status().await.stop_signal(), v1::Signal::Sigusr2, "kubelet reports it");
    e2e.client.stop_container(&container.id, 30).await.expect("stop");
    assert_eq!(container.status().await.exit_code, 10);
}

/// What the evented PLEG of kubelet reads instead of asking for each container.
#[tokio::test]
async fn newer_a_pods_status_tells_its_containers_and_when() {
    let e2e = Fixture::shared().await;
    let (pod, container) = e2e.run("pod-and-containers", &["sleep", "1000"]).await;
    let first = e2e.client.pod_response(&pod.id, false).await.expect("status");
    assert!(first.timestamp > 0);
    assert_eq!(first.containers_statuses, [container.status().await]);
    e2e.client.stop_container(&container.id, 0).await.expect("stop");
    let second = e2e.client.pod_response(&pod.id, false).await.expect("status");
    assert!(second.timestamp >= first.timestamp);
    assert_eq!(second.containers_statuses[0].state(), v1::ContainerState::ContainerExited);
}

/// Whoever leaves out what may be left out gets a pod with one PID namespace and no log.
#[tokio::test]
async fn nothing_that_is_optional_is_needed() {
    let e2e = Fixture::shared().await;
    let bare = |config: &mut v1::PodSandboxConfig| {
        (config.linux, config.dns_config) = (None, None);
        config.hostname.clear();
        config.log_directory.clear();
    };
    let pod = e2e.pod_with("bare", bare).await;
    let change = |config: &mut v1::ContainerConfig| {
        config.linux = None;
        config.log_path.clear();
    };
    let container = pod.start_with("main", &["sleep", "1000"], change).await;
    assert_eq!(container.exec(&["echo", "hi"]).await.stdout, "hi\n");
    assert!(!container.sh("hostname").await.trim().is_empty(), "the pod has some name of its own");
    assert_eq!(container.status().await.log_path, "");
    let options = pod.status().await.linux.and_then(|linux| linux.namespaces).and_then(|n| n.options).expect("echoed");
    assert_eq!(options.pid(), v1::NamespaceMode::Pod, "the zero value");
}

#[tokio::test]
async fn newer_the_cgroup_driver_is_told() {
    let e2e = Fixture::shared().await;
    let told = e2e.client.runtime.clone().runtime_config(v1::RuntimeConfigRequest {}).await.expect("configuration");
    let driver = told.into_inner().linux.expect("Linux").cgroup_driver();
    // What the driver is decides what a parent looks like, and none is always one.
    let parent = match driver {
        v1::CgroupDriver::Systemd => "e2e-driver.slice".to_owned(),
        v1::CgroupDriver::Cgroupfs => format!("/{}/driver", e2e.machine.cgroup),
    };
    for (name, parent) in [("driver", parent), ("driver-none", String::new())] {
        let pod = e2e.pod_with(name, |config| config.linux.get_or_insert_default().cgroup_parent = parent).await;
        pod.start("main", &["sleep", "1000"]).await.sh("true").await;
    }
}

#[tokio::test]
async fn a_later_shorter_grace_shortens_the_wait() {
    let e2e = Fixture::shared().await;
    let (_pod, container) =
        e2e.run("shorten", &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]).await;
    container.wait_for_line("ready").await;
    let (client, id) = (e2e.client.clone(), container.id.clone());
    let long = tokio::spawn(async move { client.stop_container(&id, 600).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    e2e.client.stop_container(&container.id, 0).await.expect("the second stop");
    assert_eq!(container.status().await.exit_code, 137);
    long.await.expect("task").expect("the first stop ends as well");
}

#[tokio::test]
async fn stopping_a_pod_stops_its_containers() {
    let e2e = Fixture::shared().await;
    let (pod, container) = e2e.run("pod-stop", &["sleep", "1000"]).await;
    e2e.client.stop_pod(&pod.id).await.expect("stop pod");
    assert_eq!(container.status().await.state(), v1::ContainerState::ContainerExited);
    e2e.client.remove_pod(&pod.id).await.expect("remove pod");
    let gone = e2e.client.container_status(&container.id).await.expect_err("its containers go with it");
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn version_and_status_say_what_kubelet_waits_for() {
    let e2e = Fixture::shared().await;
    let version = e2e.client.version().await.expect("version");
    assert_eq!(version.version, "0.1.0");
    assert!(!version.runtime_name.is_empty() && !version.runtime_version.is_empty());
    let conditions = e2e.client.status().await.expect("status").status.expect("present").conditions;
    for kind in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|condition| condition.r#type == kind).expect(kind);
        assert!(condition.status, "{condition:?}");
    }
}

#[tokio::test]
async fn newer_status_names_the_default_handler() {
    let e2e = Fixture::shared().await;
    let handlers = e2e.client.status().await.expect("status").runtime_handlers;
    assert!(handlers.iter().any(|handler| handler.name.is_empty()), "{handlers:?}");
}

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i64)
}
