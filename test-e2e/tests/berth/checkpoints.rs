//! Checkpoints: what CheckpointContainer promises whatever criu does, with a stand-in for it, and, where criu and the kernel go
//! together (`--ignored checkpoints::real::`, in `hack/test vm`), containers that go into an archive and come back.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cri_api::v1;
use test_e2e::cri_log::Stream;
use test_e2e::fixture::{Container, Fixture, Pod, eventually};
use test_e2e::leaks::Census;
use test_e2e::spec;
use tonic::{Code, Status};

use crate::recovery::{crash, nothing_more_than};

/// Counts in its memory.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";

/// Where the agent's configuration says criu is; nothing is there unless a test puts it there.
fn criu_of(e2e: &Fixture) -> PathBuf {
    e2e.agent().root.with_file_name("criu")
}

/// Puts a shell script in criu's place.
fn stand_in(e2e: &Fixture, script: &str) {
    let path = criu_of(e2e);
    let new = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o755).open(&new).expect("script");
    write!(file, "#!/bin/sh\n{script}\n").expect("script");
    drop(file);
    std::fs::rename(new, path).expect("script");
}

/// One that takes nothing, and says that all went well.
const WILLING: &str = "[ \"$1\" != --version ] || echo 'Version: 4.0'";

/// Whether a process is in a frozen cgroup: v2's, which a hybrid host has in a folder of its own, or v1's freezer.
fn is_frozen(pid: i32) -> bool {
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    let path_of = |line: &str| match line.splitn(3, ':').collect::<Vec<_>>()[..] {
        ["0", "", path] => {
            Some(["unified", ""].map(|root| format!("/sys/fs/cgroup/{root}{path}/cgroup.freeze")).to_vec())
        }
        [_, "freezer", path] => Some(vec![format!("/sys/fs/cgroup/freezer{path}/freezer.state")]),
        _ => None,
    };
    let says_so = |path| std::fs::read_to_string(path).is_ok_and(|text| ["1", "FROZEN"].contains(&text.trim()));
    table.lines().filter_map(path_of).flatten().any(says_so)
}

/// Nothing keeps it.
async fn goes_on(container: &Container<'_>) {
    let pid = container.pid();
    eventually("the container goes on", async || (!is_frozen(pid)).then_some(())).await;
    container.sh("true").await;
}

fn refused(result: Result<(), Status>, code: Code, words: &str) {
    let status = result.expect_err("it is refused");
    assert!(status.code() == code && status.message().contains(words), "{words}: {status:?}");
}

#[tokio::test]
async fn a_criu_that_cannot_is_told_and_leaves_the_container_as_it_was() {
    let e2e = Fixture::own("criu").await;
    let (_pod, container) = e2e.run("criu", &["sleep", "1000"]).await;
    container.sh("true").await;
    let location = e2e.folder("archives").join("c.tar");
    let before = Census::take(&e2e.machine.host, &e2e.agent());
    let try_it = async |script: Option<&str>, words: &str| {
        if let Some(script) = script {
            stand_in(&e2e, script);
        }
        refused(e2e.client.checkpoint(&container.id, &location, 0).await, Code::FailedPrecondition, words);
        goes_on(&container).await;
        nothing_more_than(&e2e, &before).await;
    };
    try_it(None, "install it").await;
    try_it(Some("echo Version: 3.15"), "3.16 is the oldest").await;
    let broken =
        "case $1 in --version) echo Version: 3.17.1;; *) echo 'Error (criu/x.c:1): no kernel' >&2; exit 1;; esac";
    try_it(Some(broken), "`criu check` says: (criu/x.c:1): no kernel").await;
    let log = "case $1 in --version) echo Version: 3.17.1;; check) ;; *) while [ \"$1\" != --work-dir ]; do shift; done
               echo '(00.1) Error (criu/sk.c:2): no such socket' > \"$2/dump.log\"; exit 1;; esac";
    try_it(Some(log), "(criu/sk.c:2): no such socket").await;
    assert_eq!(std::fs::read_dir(location.parent().expect("folder")).expect("folder").count(), 0);
}

#[tokio::test]
async fn what_could_not_come_back_is_refused_by_name() {
    let e2e = Fixture::own("refused").await;
    stand_in(&e2e, WILLING);
    let pod = e2e.pod("refused").await;
    let location = e2e.folder("archives").join("c.tar");
    let sleep = ["sleep", "1000"];
    let terminal = pod.start_with("terminal", &sleep, |config| config.tty = true).await;
    refused(e2e.client.checkpoint(&terminal.id, &location, 0).await, Code::FailedPrecondition, "terminal");
    let node =
        |config: &mut v1::ContainerConfig| spec::container_namespaces(config).pid = v1::NamespaceMode::Node.into();
    let node = pod.start_with("node", &sleep, node).await;
    refused(e2e.client.checkpoint(&node.id, &location, 0).await, Code::FailedPrecondition, "PID namespace");
    let created = pod.create_with("created", &sleep, |_| {}).await;
    refused(e2e.client.checkpoint(&created.id, &location, 0).await, Code::FailedPrecondition, "must be running");
    refused(e2e.client.checkpoint("0123", &location, 0).await, Code::NotFound, "0123");
    let plain = pod.start("plain", &sleep).await;
    for location in ["c.tar", "", "/", "/tmp"] {
        let result = e2e.client.checkpoint(&plain.id, Path::new(location), 0).await;
        refused(result, Code::InvalidArgument, "location");
    }
    refused(e2e.client.checkpoint(&plain.id, &location, -1).await, Code::InvalidArgument, "timeout");
    let nowhere = location.with_file_name("missing").join("c.tar");
    refused(e2e.client.checkpoint(&plain.id, &nowhere, 0).await, Code::InvalidArgument, "missing");
    assert!(!location.exists());
    e2e.client.checkpoint(&plain.id, &location, 0).await.expect("and what can come back is taken");
    assert_eq!(std::fs::metadata(&location).expect("archive").permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_pod_that_cannot_be_taken_or_made_is_refused() {
    let e2e = Fixture::own("pods").await;
    stand_in(&e2e, WILLING);
    let folder = e2e.folder("archives");
    let archive = folder.join("pod.tar");
    let (pod, container) = e2e.run("pods", &["sleep", "1000"]).await;
    let (other, empty) = (e2e.run("other", &["sleep", "1000"]).await, e2e.pod("empty").await);
    let take = async |pod: &str, containers: Vec<String>| e2e.client.checkpoint_pod(pod, &archive, containers).await;
    refused(take("0123", vec![]).await, Code::NotFound, "0123");
    refused(take(&empty.id, vec![]).await, Code::FailedPrecondition, "without a running container");
    refused(take(&pod.id, vec![other.1.id.clone()]).await, Code::InvalidArgument, "is not in pod");
    let nowhere = e2e.client.checkpoint_pod(&pod.id, Path::new("pod.tar"), vec![]).await;
    refused(nowhere, Code::InvalidArgument, "output_path");
    let terminal = pod.start_with("terminal", &["sleep", "1000"], |config| config.tty = true).await;
    refused(take(&pod.id, vec![]).await, Code::FailedPrecondition, "terminal");
    assert!(!archive.exists());
    take(&pod.id, vec![container.id.clone()]).await.expect("the one that can be taken");
    assert_eq!(std::fs::metadata(&archive).expect("archive").permissions().mode() & 0o777, 0o600);
    for container in [&container, &terminal] {
        goes_on(container).await;
    }

    let restore = async |archive: &Path| {
        let config = spec::pod("refused", &e2e.machine.folder);
        e2e.client
            .restore_pod(archive, config, vec![spec::container("pods", e2e.busybox(), &["false"])])
            .await
            .map(drop)
    };
    refused(restore(Path::new("pod.tar")).await, Code::InvalidArgument, "checkpoint_path");
    refused(restore(&folder.join("missing.tar")).await, Code::InvalidArgument, "missing.tar");
    refused(restore(&archive).await, Code::InvalidArgument, "\"main\"");
    // An archive of a container is none of a pod.
    e2e.client.checkpoint(&container.id, &archive, 0).await.expect("checkpoint");
    refused(restore(&archive).await, Code::InvalidArgument, "pod.options");
    assert_eq!(e2e.client.list_pods(None).await.expect("pods").len(), 3);
}

#[tokio::test]
async fn a_checkpoint_that_is_late_never_appears() {
    let e2e = Fixture::own("late").await;
    let (_pod, container) = e2e.run("late", &["sleep", "1000"]).await;
    container.sh("true").await;
    let folder = e2e.folder("archives");
    let before = Census::take(&e2e.machine.host, &e2e.agent());
    // It goes on as soon as the test says so, which is long after the request's time.
    let script =
        format!("{WILLING}; [ \"$1\" != dump ] || while [ ! -e {}/go ]; do sleep 0.05; done", folder.display());
    stand_in(&e2e, &script);
    refused(e2e.client.checkpoint(&container.id, &folder.join("c.tar"), 1).await, Code::DeadlineExceeded, "within 1 s");
    std::fs::write(folder.join("go"), "").expect("go");
    goes_on(&container).await;
    nothing_more_than(&e2e, &before).await;
    let names: Vec<_> = std::fs::read_dir(&folder).expect("folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["go"]);
}

#[tokio::test]
async fn a_crash_at_every_step_of_a_checkpoint_is_recovered_from() {
    let mut e2e = Fixture::own("checkpoint-faults").await;
    stand_in(&e2e, WILLING);
    let points = e2e.agent().fault_points().expect("berth debug fault-points");
    let points: Vec<_> = points.iter().filter(|point| point.starts_with("checkpoint_")).collect();
    assert!(!points.is_empty(), "the agent has no fault points; build it with --features fault-points");
    let folder = e2e.folder("archives");
    for point in points {
        let (pod, container) = e2e.run("crash", &["sh", "-c", COUNT]).await;
        let (pod, id, log, pid) = (pod.id.clone(), container.id.clone(), container.log.clone(), container.pid());
        e2e.agent().arm(Some(point)).expect("arm");
        let archive = folder.join("c.tar");
        let interrupted = match point.starts_with("checkpoint_pod.") {
            true => e2e.client.checkpoint_pod(&pod, &archive, vec![]).await,
            false => e2e.client.checkpoint(&id, &archive, 0).await,
        };
        interrupted.expect_err("the agent dies");
        assert!(e2e.agent().wait_gone(), "{point}: the agent did not come by there");
        assert_eq!(is_frozen(pid), point.ends_with(".frozen"), "{point}");
        crash(&mut e2e, async || {}).await;
        eventually("the next agent thaws it", async || (!is_frozen(pid)).then_some(())).await;
        let count = || test_e2e::cri_log::Log::read(&log).written(Stream::Stdout).expect("a log").len();
        let before = count();
        eventually("the container counts on", async || (count() > before + 3).then_some(())).await;
        let files = || std::fs::read_dir(&folder).expect("folder").count();
        eventually("half an archive is taken away", async || (files() == 0).then_some(())).await;
        e2e.client.checkpoint(&id, &folder.join("c.tar"), 0).await.expect("and can be taken now");
        let staging = e2e.agent().root.join("checkpoints");
        assert_eq!(std::fs::read_dir(staging).expect("folder").count(), 0, "{point}");
        std::fs::remove_file(folder.join("c.tar")).expect("archive");
        e2e.client.stop_pod(&pod).await.expect("stop");
        e2e.client.remove_pod(&pod).await.expect("remove");
    }
}

/// Makes a container from an archive. What it would run otherwise fails.
async fn try_create_from<'a>(pod: &Pod<'a>, name: &str, archive: &Path) -> Result<Container<'a>, Status> {
    pod.try_create(name, &["false"], |config| {
        config.image = Some(v1::ImageSpec { image: archive.display().to_string(), ..Default::default() });
    })
    .await
}

/// It is an exited container, as after any start that failed, and nothing of it runs.
async fn did_not_start(e2e: &Fixture, container: &Container<'_>, words: &str) {
    let started = e2e.client.start_container(&container.id).await;
    refused(started, Code::FailedPrecondition, words);
    let status = container.status().await;
    assert_eq!(
        (status.state(), status.exit_code, status.reason.as_str()),
        (v1::ContainerState::ContainerExited, 128, "StartError")
    );
    assert!(container.pids().is_empty(), "{:?}", container.pids());
    e2e.client.remove_container(&container.id).await.expect("remove");
}

#[tokio::test]
async fn an_archive_that_cannot_be_used_is_told_and_leaves_nothing() {
    let e2e = Fixture::own("archives").await;
    stand_in(&e2e, WILLING);
    let (pod, container) = e2e.run("archives", &["sleep", "1000"]).await;
    let folder = e2e.folder("archives");
    let archive = folder.join("c.tar");
    e2e.client.checkpoint(&container.id, &archive, 0).await.expect("checkpoint");
    let before = Census::take(&e2e.machine.host, &e2e.agent());

    let create = async |archive: &Path| try_create_from(&pod, "refused", archive).await.map(drop);
    refused(create(&folder.join("missing.tar")).await, Code::InvalidArgument, "missing.tar");
    refused(create(&folder).await, Code::InvalidArgument, "it is no file");
    std::fs::write(folder.join("broken.tar"), [7; 4096]).expect("broken");
    refused(create(&folder.join("broken.tar")).await, Code::InvalidArgument, "broken.tar");
    std::fs::set_permissions(&archive, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    refused(create(&archive).await, Code::InvalidArgument, "others than root can write it");
    std::fs::set_permissions(&archive, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    nothing_more_than(&e2e, &before).await;

    // Its processes are what criu makes of the images, and this one makes nothing of them.
    let nothing = try_create_from(&pod, "nothing", &archive).await.expect("create");
    did_not_start(&e2e, &nothing, RESTORED_NOTHING).await;
    let log = "while [ \"$1\" != --work-dir ]; do shift; done; echo '(00.1) Error (criu/mem.c:2): no pages' > \"$2/restore.log\"; exit 1";
    stand_in(&e2e, &format!("case $1 in --version) echo Version: 4.0;; *) {log};; esac"));
    let failed = try_create_from(&pod, "failed", &archive).await.expect("create");
    did_not_start(&e2e, &failed, "(criu/mem.c:2): no pages").await;
    // One that does not end is ended with its container.
    stand_in(&e2e, "case $1 in --version) echo Version: 4.0;; *) sleep 98765 & sleep 98765;; esac");
    let stuck = try_create_from(&pod, "stuck", &archive).await.expect("create");
    let start = async {
        let result = e2e.client.start_container(&stuck.id).await;
        refused(result, Code::FailedPrecondition, "");
    };
    let stop = async {
        eventually("criu runs", async || (processes_named("sleep 98765") == 2).then_some(())).await;
        e2e.client.stop_container(&stuck.id, 0).await.expect("stop");
    };
    tokio::join!(start, stop);
    e2e.client.remove_container(&stuck.id).await.expect("remove");
    std::fs::remove_file(criu_of(&e2e)).expect("criu");
    refused(create(&archive).await, Code::FailedPrecondition, "install it");
    nothing_more_than(&e2e, &before).await;
}

/// The end of the monitor's words.
const RESTORED_NOTHING: &str = "restored.pid";

fn processes_named(command: &str) -> usize {
    let all = test_e2e::process::all();
    all.iter().filter(|process| test_e2e::process::command_line(process.pid).contains(command)).count()
}

/// With criu itself, where it and the kernel go together.
mod real {
    use super::*;

    /// `E2E_CRIU`, or the one in PATH.
    fn install_criu(e2e: &Fixture) {
        let found = std::env::var_os("E2E_CRIU").map(PathBuf::from).or_else(|| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|folder| folder.join("criu")).find(|path| path.exists())
        });
        std::os::unix::fs::symlink(found.expect("criu is installed"), criu_of(e2e)).expect("link");
    }

    /// Counts until a file appears, and ends with 7.
    const UNTIL: &str = "echo changed > /etc/changed; rm /etc/passwd; i=0
        while [ ! -e /volume/go ]; do i=$((i+1)); echo $i; echo $i >> /volume/counted; sleep 0.1; done; exit 7";

    fn numbers(container: &Container<'_>) -> Vec<u32> {
        let text = container.written(Stream::Stdout);
        text.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{text}"))).collect()
    }

    fn status_of(pid: i32, key: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or_default()
            .trim_matches([':', '\t', ' '])
            .to_owned()
    }

    /// As kubelet would ask for it: confined, limited, with a volume and an input.
    fn settings(config: &mut v1::ContainerConfig, volume: &Path) {
        config.mounts = vec![spec::bind(volume, "/volume", false)];
        config.stdin = true;
        spec::security(config).seccomp = spec::profile(v1::security_profile::ProfileType::RuntimeDefault, "");
        spec::security(config).capabilities = spec::capabilities(&[], &["NET_RAW"]);
    }

    async fn start_from<'a>(pod: &Pod<'a>, archive: &Path, volume: &Path) -> Container<'a> {
        pod.start_with("restored", &["false"], |config| {
            settings(config, volume);
            config.image = Some(v1::ImageSpec { image: archive.display().to_string(), ..Default::default() });
            spec::resources(config).memory_limit_in_bytes = 64 << 20;
        })
        .await
    }

    #[tokio::test]
    #[ignore = "needs a criu that the kernel goes together with"]
    async fn a_container_comes_back_with_its_memory_and_its_files() {
        let mut e2e = Fixture::own("restore").await;
        install_criu(&e2e);
        let (folder, volume) = (e2e.folder("archives"), e2e.folder("volume"));
        let archive = folder.join("c.tar");
        let (first, counted) = {
            let pod = e2e.pod("restore").await;
            let first = pod.start_with("first", &["sh", "-c", UNTIL], |config| settings(config, &volume)).await;
            eventually("it counts", async || (numbers(&first).len() > 5).then_some(())).await;
            e2e.client.checkpoint(&first.id, &archive, 0).await.expect("checkpoint");
            let counted = numbers(&first).len();
            eventually("it counts on", async || (numbers(&first).len() > counted + 3).then_some(())).await;
            assert!(!is_frozen(first.pid()));
            e2e.client.stop_container(&first.id, 0).await.expect("stop");
            (first.id.clone(), counted)
        };
        e2e.client.remove_container(&first).await.expect("remove");
        let pod = e2e.pod("restored").await;
        let before = Census::take(&e2e.machine.host, &e2e.agent());
        for attempt in 0..2 {
            let restored = start_from(&pod, &archive, &volume).await;
            eventually("it counts on", async || (numbers(&restored).len() > 3).then_some(())).await;
            let numbers = numbers(&restored);
            // What it wrote while it was asked about is in the first log or in this one.
            let begin = usize::try_from(numbers[0]).expect("a number");
            assert!((counted - 3..counted + 3).contains(&begin), "{numbers:?} after {counted}");
            assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
            assert_eq!(
                restored.sh("cat /etc/changed; ls /etc/passwd 2>/dev/null || echo gone").await,
                "changed\ngone\n"
            );
            let pid = processes_of(&restored);
            assert_eq!(status_of(pid, "Seccomp"), "2", "the filter is back");
            let limit = test_e2e::process::cgroup(pid, "memory").expect("a cgroup");
            let limit = ["memory.max", "memory.limit_in_bytes"]
                .iter()
                .find_map(|file| std::fs::read_to_string(limit.join(file)).ok());
            assert_eq!(limit.expect("a limit").trim(), (64u64 << 20).to_string(), "the request's, not the archive's");
            std::fs::write(volume.join("go"), "").expect("go");
            let ended = restored.wait_exit().await;
            assert_eq!((ended.exit_code, ended.reason.as_str()), (7, "Error"), "attempt {attempt}");
            std::fs::remove_file(volume.join("go")).expect("go");
            e2e.client.remove_container(&restored.id).await.expect("remove");
            nothing_more_than(&e2e, &before).await;
        }

        // An agent that comes later knows the processes that came back, and an archive of them is as good.
        let restored = start_from(&pod, &archive, &volume).await;
        let (id, log) = (restored.id.clone(), restored.log.clone());
        crash(&mut e2e, async || {}).await;
        let again = folder.join("again.tar");
        e2e.client.checkpoint(&id, &again, 0).await.expect("checkpoint of what was restored");
        assert!(again.exists());
        e2e.client.exec(&id, &["true"], 10).await.expect("exec");
        std::fs::write(volume.join("go"), "").expect("go");
        let exit_code = eventually("its end is known", async || {
            let status = e2e.client.container_status(&id).await.expect("status");
            (status.state() == v1::ContainerState::ContainerExited).then_some(status.exit_code)
        })
        .await;
        assert_eq!(exit_code, 7);
        assert!(!test_e2e::cri_log::Log::read(&log).written(Stream::Stdout).expect("a log").is_empty());
    }

    /// Restored processes have the environment that they had, so they are found by their cgroup.
    fn processes_of(container: &Container<'_>) -> i32 {
        let in_it = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&container.id))
        };
        let all = test_e2e::process::all();
        all.iter().map(|process| process.pid).filter(in_it).min().expect("a process of the container")
    }

    /// The images say what a process had; the request says what it may have.
    #[tokio::test]
    #[ignore = "needs a criu that the kernel goes together with"]
    async fn a_checkpoint_brings_no_privileges_along() {
        use v1::security_profile::ProfileType;
        let e2e = Fixture::own("privileges").await;
        install_criu(&e2e);
        let pod = e2e.pod("privileges").await;
        let archive = e2e.folder("archives").join("c.tar");
        let capable = |config: &mut v1::ContainerConfig| {
            spec::security(config).capabilities = spec::capabilities(&["SYS_ADMIN"], &[]);
        };
        let container = pod.start_with("capable", &["sleep", "1000"], capable).await;
        e2e.client.checkpoint(&container.id, &archive, 0).await.expect("checkpoint");
        type Change = fn(&mut v1::ContainerConfig);
        let filter: Change = |config| spec::security(config).seccomp = spec::profile(ProfileType::RuntimeDefault, "");
        let no_new: Change = |config| spec::security(config).no_new_privs = true;
        let user: Change = |config| spec::security(config).run_as_user = spec::int(1000);
        let nothing: Change = |_| {};
        for (name, words, with_capability, change) in [
            ("plain", "capabilities", false, nothing),
            ("filter", "no system call filter", true, filter),
            ("no-new", "no_new_privs", true, no_new),
            ("user", "user 0", true, user),
        ] {
            let restored = pod
                .create_with(name, &["false"], |config| {
                    config.image = Some(v1::ImageSpec { image: archive.display().to_string(), ..Default::default() });
                    if with_capability {
                        capable(config);
                    }
                    change(config);
                })
                .await;
            did_not_start(&e2e, &restored, words).await;
        }
        let image = v1::ImageSpec { image: archive.display().to_string(), ..Default::default() };
        let same = pod.start_with("same", &["false"], |config| {
            config.image = Some(image);
            capable(config);
        });
        same.await.sh("true").await;
    }

    #[tokio::test]
    #[ignore = "needs a criu that the kernel goes together with"]
    async fn images_that_are_broken_start_nothing() {
        let e2e = Fixture::own("broken-images").await;
        stand_in(&e2e, WILLING);
        let (pod, container) = e2e.run("broken", &["sleep", "1000"]).await;
        let archive = e2e.folder("archives").join("c.tar");
        // criu took nothing: there are no images.
        e2e.client.checkpoint(&container.id, &archive, 0).await.expect("checkpoint");
        std::fs::remove_file(criu_of(&e2e)).expect("criu");
        install_criu(&e2e);
        let before = Census::take(&e2e.machine.host, &e2e.agent());
        let broken = try_create_from(&pod, "broken", &archive).await.expect("create");
        did_not_start(&e2e, &broken, "criu cannot bring the container's processes back").await;
        nothing_more_than(&e2e, &before).await;
    }
    /// Answers also where its logs are.
    async fn ask_for_pod(
        e2e: &Fixture,
        archive: &Path,
        containers: Vec<v1::ContainerConfig>,
    ) -> (Result<v1::RestorePodResponse, Status>, PathBuf) {
        let mut config = spec::pod("back", &e2e.machine.folder);
        config.linux.get_or_insert_default().cgroup_parent = e2e.machine.cgroup_parent(None);
        let logs = PathBuf::from(&config.log_directory);
        std::fs::create_dir_all(&logs).expect("logs");
        (e2e.client.restore_pod(archive, config, containers).await, logs)
    }

    /// The first number of a log, and how many there are.
    fn counted(log: &Path) -> (u32, usize) {
        if !log.exists() {
            return (0, 0);
        }
        let text = test_e2e::cri_log::Log::read(log).written(Stream::Stdout).expect("a log");
        let text = String::from_utf8(text).expect("numbers");
        (text.lines().next().map_or(0, |line| line.parse().expect("a number")), text.lines().count())
    }

    #[tokio::test]
    #[ignore = "needs a criu that the kernel goes together with"]
    async fn a_pod_comes_back_with_all_its_containers() {
        let e2e = Fixture::own("restore-pod").await;
        install_criu(&e2e);
        let archive = e2e.folder("archives").join("pod.tar");
        let config = |name: &str| spec::container(name, e2e.busybox(), &["false"]);
        let before = {
            let pod = e2e.pod("whole").await;
            let one = pod.start("one", &["sh", "-c", COUNT]).await;
            let two = pod.start("two", &["sh", "-c", COUNT]).await;
            let both = |least| counted(&one.log).1 > least && counted(&two.log).1 > least;
            eventually("both count", async || both(10).then_some(())).await;
            e2e.client.checkpoint_pod(&pod.id, &archive, vec![]).await.expect("checkpoint");
            let least = counted(&one.log).1.max(counted(&two.log).1) + 3;
            eventually("both count on", async || both(least).then_some(())).await;
            e2e.client.stop_pod(&pod.id).await.expect("stop");
            e2e.client.remove_pod(&pod.id).await.expect("remove");
            Census::take(&e2e.machine.host, &e2e.agent())
        };
        // One configuration is missing; with the other a container cannot be made, and the pod goes with it.
        let (refusal, _) = ask_for_pod(&e2e, &archive, vec![config("one")]).await;
        refused(refusal.map(drop), Code::InvalidArgument, "\"two\"");
        let mut bad = config("two");
        bad.tty = true;
        let (refusal, _) = ask_for_pod(&e2e, &archive, vec![config("one"), bad]).await;
        refused(refusal.map(drop), Code::FailedPrecondition, "terminal");
        nothing_more_than(&e2e, &before).await;

        let (restored, logs) = ask_for_pod(&e2e, &archive, vec![config("two"), config("one")]).await;
        let restored = restored.expect("restore");
        let names: Vec<_> = restored.restored_containers.iter().map(|container| container.name.as_str()).collect();
        assert_eq!(names, ["two", "one"]);
        for container in &restored.restored_containers {
            let log = logs.join(format!("{}.log", container.name));
            eventually("it counts on", async || (counted(&log).1 > 3).then_some(())).await;
            assert!(counted(&log).0 > 10, "it began anew");
            let status = e2e.client.container_status(&container.container_id).await.expect("status");
            assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
            assert_eq!(status.metadata.expect("metadata").name, container.name);
        }
        e2e.client.stop_pod(&restored.pod_sandbox_id).await.expect("stop");
        e2e.client.remove_pod(&restored.pod_sandbox_id).await.expect("remove");
        nothing_more_than(&e2e, &before).await;
    }
}
