//! CDI devices, and classes of block I/O, cache and memory bandwidth: what the node's files say, containers get; what they do not
//! say, or say and cannot be had, is refused by name and leaves nothing behind.

use std::path::{Path, PathBuf};

use cri_api::v1;
use test_e2e::fixture::{Container, Fixture, Pod};
use test_e2e::leaks::Census;
use test_e2e::{process, spec};
use tonic::Code;

use crate::recovery::nothing_more_than;

/// Two devices of one vendor, and one that needs a hook.
const VENDOR: &str = r#"{
  "cdiVersion": "0.7.0", "kind": "vendor.example/thing",
  "containerEdits": {"env": ["ALL=1"]},
  "devices": [
    {"name": "one", "containerEdits": {
      "env": ["WHO=one", "PATH=/bin"], "additionalGids": [4242],
      "deviceNodes": [{"path": "/dev/vendor0", "hostPath": "DEVICE", "permissions": "r"}],
      "mounts": [{"hostPath": "FOLDER", "containerPath": "/opt/vendor", "options": ["ro", "nosuid", "nodev", "bind"]}]}},
    {"name": "two", "containerEdits": {"env": ["TWO=2"]}},
    {"name": "hooked", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/usr/bin/vendor-hook"}]}}
  ]}"#;

/// A device that root may open anywhere but no container by default.
fn device() -> &'static str {
    let candidates = ["/dev/fuse", "/dev/loop-control", "/dev/cpu_dma_latency"];
    candidates.into_iter().find(|path| std::fs::File::open(path).is_ok()).expect("one of the devices")
}

/// Beside the agent's other folders; see `Agent::configuration`.
fn beside(e2e: &Fixture, name: &str) -> PathBuf {
    e2e.agent().root.with_file_name(name)
}

fn write_vendor_file(e2e: &Fixture) {
    let library = e2e.folder("vendor");
    std::fs::write(library.join("library"), "lib").expect("library");
    let dir = beside(e2e, "cdi");
    std::fs::create_dir_all(&dir).expect("folder");
    let text = VENDOR.replace("DEVICE", device()).replace("FOLDER", &library.display().to_string());
    std::fs::write(dir.join("vendor.json"), text).expect("vendor's file");
    std::fs::write(dir.join("broken.yaml"), "kind: [").expect("another vendor's");
}

async fn start<'a>(pod: &Pod<'a>, name: &str, change: impl FnOnce(&mut v1::ContainerConfig)) -> Container<'a> {
    pod.start_with(name, &["sleep", "1000"], change).await
}

fn named(names: &[&str]) -> Vec<v1::CdiDevice> {
    names.iter().map(|&name| v1::CdiDevice { name: name.to_owned() }).collect()
}

/// Everything that the device `one` brings.
async fn has_the_device(container: &Container<'_>) {
    assert_eq!(container.sh("echo $WHO $ALL $PATH").await, "one 1 /bin\n");
    assert_eq!(container.sh("/bin/stat -c %F /dev/vendor0").await, "character special file\n");
    container.sh(": < /dev/vendor0").await;
    let output = container.exec(&["sh", "-c", ": > /dev/vendor0"]).await;
    assert!(output.code != 0 && output.stderr.contains("Operation not permitted"), "only r was given: {output:?}");
    assert_eq!(container.sh("/bin/cat /opt/vendor/library").await, "lib");
    let output = container.exec(&["sh", "-c", ": > /opt/vendor/library"]).await;
    assert!(output.code != 0 && output.stderr.contains("Read-only"), "{output:?}");
    assert!(container.sh("/bin/id -G").await.split_whitespace().any(|group| group == "4242"));
    let user = container.status().await.user.unwrap_or_default().linux.unwrap_or_default();
    assert!(user.supplemental_groups.contains(&4242), "and the status tells the group: {user:?}");
}

#[tokio::test]
async fn cdi_devices_come_by_the_field_and_by_annotations() {
    let e2e = Fixture::own("cdi").await;
    write_vendor_file(&e2e);
    let pod = e2e.pod("cdi").await;
    let by_field = start(&pod, "field", |config| config.cdi_devices = named(&["vendor.example/thing=one"])).await;
    has_the_device(&by_field).await;
    let annotation = ("cdi.k8s.io/plugin".to_owned(), "vendor.example/thing=one,vendor.example/thing=two".to_owned());
    let by_annotation = start(&pod, "annotation", |config| config.annotations = [annotation].into()).await;
    has_the_device(&by_annotation).await;
    assert_eq!(by_annotation.sh("echo $TWO").await, "2\n");
    let without = start(&pod, "without", |_| {}).await;
    assert_eq!(without.sh("echo $WHO$ALL; ls /dev/vendor0 2>/dev/null; true").await, "\n");
}

#[tokio::test]
async fn cdi_devices_come_into_user_namespaces() {
    let e2e = Fixture::own("cdi-userns").await;
    write_vendor_file(&e2e);
    let user = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), ..Default::default() };
    let pod = e2e.pod_with("cdi-userns", |config| spec::pod_namespaces(config).userns_options = Some(user)).await;
    let container = start(&pod, "main", |config| config.cdi_devices = named(&["vendor.example/thing=one"])).await;
    assert_eq!(
        container.sh("/bin/stat -c %F /dev/vendor0; /bin/cat /opt/vendor/library").await,
        "character special file\nlib"
    );
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_and_leaves_nothing() {
    let e2e = Fixture::own("cdi-refused").await;
    write_vendor_file(&e2e);
    let pod = e2e.pod("cdi-refused").await;
    let before = Census::take(&e2e.machine.host, &e2e.agent());
    type Change = fn(&mut v1::ContainerConfig);
    let refusals: [(Code, &str, Change); 8] = [
        (Code::FailedPrecondition, "vendor.example/thing=none", |config| {
            config.cdi_devices = named(&["vendor.example/thing=one", "vendor.example/thing=none"]);
        }),
        (Code::FailedPrecondition, "broken.yaml", |config| config.cdi_devices = named(&["other.example/x=y"])),
        (Code::FailedPrecondition, "hook \"/usr/bin/vendor-hook\"", |config| {
            config.cdi_devices = named(&["vendor.example/thing=hooked"]);
        }),
        (Code::InvalidArgument, "../../etc/passwd", |config| config.cdi_devices = named(&["../../etc/passwd"])),
        (Code::InvalidArgument, "CDI device", |config| {
            config.annotations.insert("cdi.k8s.io/x".into(), "nonsense".into());
        }),
        (Code::FailedPrecondition, "blockio.yaml", |config| {
            config.annotations.insert("io.kubernetes.cri.blockio-class".into(), "slow".into());
        }),
        (Code::FailedPrecondition, "resctrl", |config| {
            config.annotations.insert("io.kubernetes.cri.rdt-class".into(), "gold".into());
        }),
        (Code::InvalidArgument, "is too long", |config| {
            config.cdi_devices = named(&[&format!("a/b={}", "x".repeat(1 << 20))]);
        }),
    ];
    for (code, told, change) in refusals {
        if told == "resctrl" && Path::new("/sys/fs/resctrl/tasks").exists() {
            continue;
        }
        let refused = pod.try_create("refused", &["true"], change).await.expect_err(told);
        assert!(refused.code() == code && refused.message().contains(told), "{told}: {refused:?}");
    }
    nothing_more_than(&e2e, &before).await;
}

/// A whole disk of this machine, and its number.
fn disk() -> (String, String) {
    let disks = std::fs::read_dir("/sys/block").expect("/sys/block").filter_map(Result::ok);
    let mut disks = disks.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>();
    disks.sort();
    let name = disks.into_iter().find(|name| Path::new("/dev").join(name).exists()).expect("a disk");
    let number = std::fs::read_to_string(format!("/sys/block/{name}/dev")).expect("its number");
    (format!("/dev/{name}"), number.trim().to_owned())
}

#[tokio::test]
async fn block_io_classes_limit_disks() {
    let e2e = Fixture::own("blockio").await;
    let (path, number) = disk();
    // The last letter by a wildcard, as operators name disks.
    let wildcard = format!("{}[a-z0-9]", &path[..path.len() - 1]);
    let entry = |devices: &str, rate: &str| format!("  - Devices: [{devices:?}]\n    ThrottleReadBps: {rate}\n");
    let file = format!("Classes:\n  slow:\n{}{}  other: []\n", entry(&wildcard, "5M"), entry(&path, "1Mi"));
    std::fs::write(beside(&e2e, "blockio.yaml"), file).expect("classes");
    let class = ("blockio.resources.beta.kubernetes.io/container.main".to_owned(), "slow".to_owned());
    let pod = e2e.pod_with("blockio", |config| config.annotations = [class].into()).await;
    let limited = |container: &Container<'_>| {
        let group =
            process::cgroup(container.pid(), if process::cgroup_is_v2() { "io" } else { "blkio" }).expect("a cgroup");
        let file = if process::cgroup_is_v2() { "io.max" } else { "blkio.throttle.read_bps_device" };
        let text = std::fs::read_to_string(group.join(file)).expect("limits");
        text.lines().find(|line| line.split(' ').next() == Some(&number)).map(str::to_owned)
    };
    let main = start(&pod, "main", |_| {}).await;
    let line = limited(&main).expect("the disk is limited");
    assert!(line.contains(&(1 << 20).to_string()), "the last word on a disk counts: {line}");
    let other = start(&pod, "other", |_| {}).await;
    assert_eq!(limited(&other), None);
    let refused = pod
        .try_create("unknown", &["true"], |config| {
            config.annotations.insert("io.kubernetes.cri.blockio-class".into(), "fast".into());
        })
        .await
        .expect_err("no such class");
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("\"fast\""), "{refused:?}");
}
