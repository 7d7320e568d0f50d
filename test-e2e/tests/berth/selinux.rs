//! SELinux, where the kernel enforces a policy: `hack/test vm` runs these under the one of `hack/selinux`, and `--ignored selinux::` on
//! a node that has a distribution's.

use std::collections::HashSet;
use std::path::Path;

use cri_api::v1;
use test_e2e::fixture::{Container, Fixture};
use test_e2e::spec::{bind, pod_namespaces, pod_security, security};

const WHICH: &str = "cat /proc/self/attr/current";

/// User, role, type and level of what the container's first process runs as, as the host sees it.
fn label_of(container: &Container<'_>) -> [String; 4] {
    let text = std::fs::read_to_string(format!("/proc/{}/attr/current", container.pid())).expect("attr/current");
    let mut parts = text.trim_end_matches(['\0', '\n']).splitn(4, ':').map(str::to_owned);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

fn file_label(path: &Path) -> String {
    let mut command = std::process::Command::new("stat");
    let output = command.args(["--format", "%C"]).arg(path).output().expect("stat");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn relabelled(host: &Path) -> v1::Mount {
    v1::Mount { selinux_relabel: true, ..bind(host, "/v", false) }
}

#[tokio::test]
#[ignore = "needs SELinux in the kernel, and a policy"]
async fn a_pods_processes_and_files_have_its_own_level() {
    let e2e = Fixture::shared().await;
    let mut levels = HashSet::new();
    for name in ["selinux-one", "selinux-two"] {
        let pod = e2e.pod(name).await;
        let (main, other) = (pod.start("main", &["sleep", "1000"]).await, pod.start("other", &["sleep", "1000"]).await);
        let label = label_of(&main);
        assert_eq!(label[..3], ["system_u", "system_r", "container_t"]);
        assert!(label[3].starts_with("s0:c") && label[3].contains(','), "two categories: {label:?}");
        assert_eq!(label_of(&other), label, "one pod, one level");
        assert_eq!(main.sh(WHICH).await.trim_end_matches('\0'), label.join(":"), "an exec has it, too");
        let mounts = main.sh("cat /proc/mounts").await;
        let file = format!("system_u:object_r:container_file_t:{}", label[3]);
        for point in ["/", "/dev", "/dev/pts", "/dev/shm"] {
            let line = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(point)).unwrap_or_default();
            assert!(line.contains(&format!("context=\"{file}\"")), "{point}: {line:?}");
        }
        let script = "echo x > /new && echo x > /dev/shm/x && echo x > /dev/null && cat /etc/hosts /new && ls /dev/mqueue && kill -0 1";
        assert!(main.sh(script).await.ends_with("x\n"));
        assert!(levels.insert(label[3].clone()), "no other pod has it: {levels:?}");
    }
}

#[tokio::test]
#[ignore = "needs SELinux in the kernel, and a policy"]
async fn a_volume_is_the_pods_that_it_was_relabelled_for() {
    let e2e = Fixture::shared().await;
    let volume = e2e.folder("selinux");
    std::fs::create_dir(volume.join("deep")).expect("folder");
    std::fs::write(volume.join("deep/file"), "kept").expect("file");
    std::os::unix::fs::symlink("/etc/passwd", volume.join("link")).expect("link");
    let before = file_label(Path::new("/etc/passwd"));

    let one = e2e.pod("selinux-volume").await;
    let plain =
        one.start_with("plain", &["sleep", "1000"], |config| config.mounts = vec![bind(&volume, "/v", false)]).await;
    let refused = plain.exec(&["cat", "/v/deep/file"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("ermission denied"), "it is the node's: {refused:?}");
    let main = one.start_with("main", &["sleep", "1000"], |config| config.mounts = vec![relabelled(&volume)]).await;
    assert_eq!(main.sh("cat /v/deep/file && echo new > /v/new").await, "kept");
    let file = format!("system_u:object_r:container_file_t:{}", label_of(&main)[3]);
    for path in ["", "deep", "deep/file", "link", "new"] {
        assert_eq!(file_label(&volume.join(path)), file, "{path}");
    }
    assert_eq!(file_label(Path::new("/etc/passwd")), before, "no link is followed");

    let two = e2e.pod("selinux-stranger").await;
    let other =
        two.start_with("other", &["sleep", "1000"], |config| config.mounts = vec![bind(&volume, "/v", false)]).await;
    let refused = other.exec(&["cat", "/v/deep/file"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("ermission denied"), "it is another pod's: {refused:?}");
    let system = v1::Mount { selinux_relabel: true, ..bind(Path::new("/etc"), "/v", true) };
    let refused =
        two.try_create("etc", &["true"], |config| config.mounts = vec![system]).await.expect_err("the node's");
    assert!(refused.message().contains("/etc"), "{refused:?}");
}

#[tokio::test]
#[ignore = "needs SELinux in the kernel, and a policy"]
async fn what_is_asked_for_is_applied() {
    let e2e = Fixture::shared().await;
    let level = "s0:c7,c1000".to_owned();
    let asked = v1::SeLinuxOption { level: level.clone(), ..Default::default() };
    let pod = e2e.pod_with("selinux-asked", |config| pod_security(config).selinux_options = Some(asked)).await;
    let main = pod.start("main", &["sleep", "1000"]).await;
    assert_eq!(label_of(&main)[2..], ["container_t".to_owned(), level.clone()]);
    let unbound = v1::SeLinuxOption { r#type: "spc_t".to_owned(), ..Default::default() };
    let container =
        pod.start_with("spc", &["sleep", "1000"], |config| security(config).selinux_options = Some(unbound)).await;
    assert_eq!(label_of(&container)[2..], ["spc_t".to_owned(), level]);
    // A label that the policy does not have is refused by the kernel as the program is executed.
    let unknown = v1::SeLinuxOption { r#type: "no_such_t".to_owned(), ..Default::default() };
    let made = pod.try_create("unknown", &["true"], |config| security(config).selinux_options = Some(unknown)).await;
    let refused = match made {
        Ok(container) => e2e.client.start_container(&container.id).await.expect_err("no such type"),
        Err(refused) => refused,
    };
    assert!(refused.message().contains("no_such_t"), "{refused:?}");

    let privileged = e2e.pod_with("selinux-privileged", |config| pod_security(config).privileged = true).await;
    let container =
        privileged.start_with("main", &["sleep", "1000"], |config| security(config).privileged = true).await;
    assert_eq!(label_of(&container)[2], "spc_t");
}

#[tokio::test]
#[ignore = "needs SELinux in the kernel, and a policy"]
async fn a_pod_in_a_user_namespace_is_labelled_as_any() {
    let e2e = Fixture::shared().await;
    let ask = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), ..Default::default() };
    let pod = e2e.pod_with("selinux-userns", |config| pod_namespaces(config).userns_options = Some(ask)).await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    let label = label_of(&container);
    assert_eq!(label[2], "container_t");
    assert_eq!(container.sh(WHICH).await.trim_end_matches('\0'), label.join(":"));
    container.sh("echo x > /new && echo x > /dev/shm/x").await;
    let root = container.sh("cat /proc/mounts").await;
    let file = format!("context=\"system_u:object_r:container_file_t:{}\"", label[3]);
    assert!(root.lines().any(|line| line.contains(" / overlay ") && line.contains(&file)), "{root}");
}
