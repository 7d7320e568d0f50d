//! Checkpoints: what CheckpointContainer promises whatever criu does, with a stand-in for it, and, where criu and the kernel go
//! together (`--ignored checkpoints::real::`, in `hack/test vm`), containers that go into an archive and come back.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cri_api::v1;
use test_e2e::cri_log::Stream;
use test_e2e::fixture::{Container, Fixture, eventually};
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
    let points: Vec<_> = points.iter().filter(|point| point.starts_with("checkpoint_container.")).collect();
    assert!(!points.is_empty(), "the agent has no fault points; build it with --features fault-points");
    let folder = e2e.folder("archives");
    for point in points {
        let (pod, container) = e2e.run("crash", &["sh", "-c", COUNT]).await;
        let (pod, id, log, pid) = (pod.id.clone(), container.id.clone(), container.log.clone(), container.pid());
        e2e.agent().arm(Some(point)).expect("arm");
        e2e.client.checkpoint(&id, &folder.join("c.tar"), 0).await.expect_err("the agent dies");
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
