//! Pods in user namespaces (rules.md, rule 19): root inside is nobody on the host, and files, volumes, execs and the
//! network work all the same.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use cri_api::v1;
use cri_api::v1::NamespaceMode::{self, Container as OfContainer, Node, Pod as OfPod, Target};
use test_e2e::cri_log::Stream;
use test_e2e::fixture::{Container, Fixture, Pod, eventually};
use test_e2e::image::{self, Compression, Format, Layer};
use test_e2e::spec::{bind, container_namespaces, int, pod_namespaces, resources, security};
use tonic::Code;

/// Ids that nothing else on a test machine has.
const FIRST: u32 = 700_000_000;
const COUNT: u32 = 65_536;

fn mapping(host_id: u32) -> Vec<v1::IdMapping> {
    vec![v1::IdMapping { host_id, container_id: 0, length: COUNT }]
}

fn user_namespace(host_id: u32) -> Option<v1::UserNamespace> {
    Some(v1::UserNamespace { mode: OfPod.into(), uids: mapping(host_id), gids: mapping(host_id) })
}

/// A pod whose root is `host_id` on the host.
async fn pod_of<'a>(e2e: &'a Fixture, name: &str, host_id: u32) -> Pod<'a> {
    e2e.pod_with(name, |config| pod_namespaces(config).userns_options = user_namespace(host_id)).await
}

/// What /proc says of a container's first process: real user and group ids on the host.
fn ids_on_host(container: &Container<'_>) -> (u32, u32) {
    let metadata = std::fs::metadata(format!("/proc/{}", container.pid())).expect("stat");
    (metadata.uid(), metadata.gid())
}

fn volume(host: &Path, container: &str, host_id: u32) -> v1::Mount {
    v1::Mount { uid_mappings: mapping(host_id), gid_mappings: mapping(host_id), ..bind(host, container, false) }
}

#[tokio::test]
async fn newer_root_of_a_pod_is_nobody_on_the_host() {
    let e2e = Fixture::shared().await;
    let pod = pod_of(&e2e, "userns", FIRST).await;
    let container = pod.start("main", &["sh", "-c", "id -u; id -g; exec sleep 1000"]).await;
    container.wait_for_line("0").await;
    assert_eq!(ids_on_host(&container), (FIRST, FIRST));
    let map = std::fs::read_to_string(format!("/proc/{}/uid_map", container.pid())).expect("uid_map");
    let fields: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(fields, ["0", &FIRST.to_string(), &COUNT.to_string()]);
    assert_eq!(
        container.sh("id -u; id -g; cat /proc/self/uid_map | tr -s ' '").await,
        format!("0\n0\n 0 {FIRST} {COUNT}\n")
    );
    let status = pod.status().await.linux.expect("linux").namespaces.expect("namespaces").options.expect("options");
    assert_eq!(status.userns_options, user_namespace(FIRST), "kubelet finds its options again");
    // Namespaces of the pod are the user namespace's: its root may change what is its own, and that only.
    assert_eq!(container.exec(&["hostname"]).await.stdout.trim(), "userns");
    assert_ne!(container.exec(&["sh", "-c", "echo 1 > /proc/sys/vm/drop_caches"]).await.code, 0);
    let handlers = e2e.client.status().await.expect("status").runtime_handlers;
    let default = handlers.iter().find(|handler| handler.name.is_empty()).expect("the default handler");
    assert!(default.features.expect("features").user_namespaces);
}

#[tokio::test]
async fn newer_files_belong_to_the_pods_root() {
    let e2e = Fixture::shared().await;
    let (one, two) = (pod_of(&e2e, "userns-one", FIRST).await, pod_of(&e2e, "userns-two", FIRST + COUNT).await);
    let (first, second) = (one.start("main", &["sleep", "1000"]).await, two.start("main", &["sleep", "1000"]).await);
    let plain = e2e.pod("userns-none").await;
    let third = plain.start("main", &["sleep", "1000"]).await;
    for container in [&first, &second, &third] {
        assert_eq!(container.sh("stat -c '%u:%g' / /bin /bin/busybox /proc/1 /dev").await, "0:0\n".repeat(5));
        let write =
            "echo x > /new && mkdir -p /etc/deep/er && chown 1000:1001 /new && stat -c '%u:%g' /new /etc/deep/er";
        assert_eq!(container.sh(write).await, "1000:1001\n0:0\n");
        // A file of the image is copied up with its owner.
        assert_eq!(container.sh("touch /bin/busybox && stat -c '%u:%g' /bin/busybox").await, "0:0\n");
    }
    assert_eq!(ids_on_host(&second), (FIRST + COUNT, FIRST + COUNT));
    assert_eq!(ids_on_host(&third), (0, 0));
    // Neither sees what the other wrote over the layers that they share.
    first.sh("echo one > /only").await;
    assert_ne!(second.exec(&["cat", "/only"]).await.code, 0);
    let beyond = first.exec(&["chown", &COUNT.to_string(), "/new"]).await;
    assert_ne!(beyond.code, 0, "an id that is not mapped: {beyond:?}");
}

#[tokio::test]
async fn newer_an_image_volumes_owners_are_the_pods() {
    let e2e = Fixture::shared().await;
    let mut built = image::ImageBuilder::new(Format::Oci);
    for number in 0..3 {
        let mut layer = Layer::new();
        layer.owned_file(&format!("floors/{number}"), b"", 0o644, number, 1000).expect("file");
        built = built.layer(layer.finish(Compression::Gzip).expect("layer"));
    }
    let reference = e2e.registry().push("e2e/userns-volume", "1", &built.build()).expect("push");
    let image = Some(v1::ImageSpec { image: e2e.client.pull(&reference).await.expect("pull"), ..Default::default() });
    let part = |target: &str, sub_path: &str| v1::Mount {
        container_path: target.to_owned(),
        readonly: true,
        image: image.clone(),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    };
    let mounts = vec![part("/whole", ""), part("/part", "floors"), part("/file", "floors/2")];
    let pod = pod_of(&e2e, "userns-volume", FIRST).await;
    let container = pod.start_with("main", &["sleep", "1000"], |config| config.mounts = mounts).await;
    let seen = container.sh("stat -c %u:%g /whole/floors/* /part/1 /file").await;
    assert_eq!(seen, "0:1000\n1:1000\n2:1000\n1:1000\n2:1000\n");
}

#[tokio::test]
async fn newer_what_every_container_has_is_there() {
    let e2e = Fixture::shared().await;
    let pod = pod_of(&e2e, "userns-parts", FIRST).await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    let devices = "echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 5 /dev/urandom | wc -c && \
                   test -c /dev/tty && test -c /dev/full && test -c /dev/random && test -e /dev/ptmx && echo all";
    assert_eq!(container.sh(devices).await, "3\n5\nall\n");
    assert_eq!(
        container.sh("stat -c '%u %a' /dev/shm && echo x > /dev/shm/x && stat -c %u /dev/shm/x").await,
        "0 1777\n0\n"
    );
    let files = "stat -c %u /etc/hosts /etc/resolv.conf /etc/hostname && cat /etc/hosts | grep -c localhost >/dev/null";
    assert_eq!(container.sh(files).await, "0\n0\n0\n");
    let mounts = container.sh("cat /proc/mounts").await;
    for line in [" /proc proc ", " /sys sysfs ", " /dev/pts devpts ", " /dev/mqueue mqueue ", " /sys/fs/cgroup "] {
        assert!(mounts.contains(line), "{line}: {mounts}");
    }
    assert!(!container.sh("ls /sys/fs/cgroup").await.is_empty());
    assert_ne!(container.exec(&["mknod", "/dev/sda", "b", "8", "0"]).await.code, 0);
    // Output goes to pipes that belong to the user, who may open them anew.
    assert_eq!(container.sh("echo again > /dev/stdout").await, "again\n");
}

#[tokio::test]
async fn newer_a_user_of_the_image_and_one_that_is_not_mapped() {
    let e2e = Fixture::shared().await;
    let pod = pod_of(&e2e, "userns-user", FIRST).await;
    let script = "id -u; id -g; echo x > /dev/stdout; exec sleep 1000";
    let container = pod
        .start_with("user", &["sh", "-c", script], |config| {
            security(config).run_as_user = int(1234);
            security(config).run_as_group = int(1235);
            resources(config).oom_score_adj = 500;
        })
        .await;
    container.wait_for_line("x").await;
    assert_eq!(container.written(Stream::Stdout), "1234\n1235\nx\n");
    assert_eq!(ids_on_host(&container), (FIRST + 1234, FIRST + 1235));
    assert_eq!(container.sh("id -u; cat /proc/self/oom_score_adj").await, "1234\n500\n");
    let pid = container.pid();
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("adjustment").trim(), "500");

    let change = |config: &mut v1::ContainerConfig| security(config).run_as_user = int(COUNT.into());
    let refused = pod.try_create("beyond", &["true"], change).await.expect_err("the id is not mapped");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains(&COUNT.to_string()), "{refused:?}");
}

#[tokio::test]
async fn newer_the_users_of_an_image() {
    let e2e = Fixture::shared().await;
    let mut layer = Layer::new();
    layer.file("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:500:501::/:/bin/sh\n", 0o644).expect("file");
    let blob = layer.finish(Compression::Gzip).expect("layer");
    let image = image::busybox(Format::Oci).expect("busybox").layer(blob).set("User", "app").build();
    let reference = e2e.registry().push("e2e/userns", "1", &image).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let pod = pod_of(&e2e, "userns-image", FIRST).await;
    let container = pod
        .start_with("main", &["sleep", "1000"], |config| {
            config.image = Some(v1::ImageSpec { image: reference.clone(), ..Default::default() });
        })
        .await;
    assert_eq!(container.sh("id -u; id -g").await, "500\n501\n");
    assert_eq!(ids_on_host(&container), (FIRST + 500, FIRST + 501));
}

#[tokio::test]
async fn newer_a_volume_has_the_same_owners_inside_and_outside() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("userns-volume");
    std::fs::write(folder.join("roots"), "x").expect("file");
    std::fs::write(folder.join("users"), "x").expect("file");
    chown(folder.join("users"), Some(1000), Some(1001)).expect("chown");
    let pod = pod_of(&e2e, "userns-volume", FIRST).await;
    let container = pod
        .start_with("main", &["sleep", "1000"], |config| {
            config.mounts = vec![volume(&folder, "/mapped", FIRST), bind(&folder, "/unmapped", false)];
        })
        .await;
    assert_eq!(container.sh("cd /mapped; stat -c '%u:%g' . roots users").await, "0:0\n0:0\n1000:1001\n");
    assert_eq!(container.sh("cd /unmapped; stat -c '%u:%g' . roots users").await, "65534:65534\n".repeat(3));
    container.sh("echo new > /mapped/new && chown 7:8 /mapped/new && rm /mapped/roots").await;
    let made = std::fs::metadata(folder.join("new")).expect("made");
    assert_eq!((made.uid(), made.gid()), (7, 8), "as if there were no user namespace");
    assert_ne!(container.exec(&["rm", "/unmapped/users"]).await.code, 0, "the host's root owns it");
    assert!(folder.join("users").exists());
    let other =
        pod.try_create("other", &["true"], |config| config.mounts = vec![volume(&folder, "/v", FIRST + 1)]).await;
    assert_eq!(other.expect_err("not the pod's mapping").code(), Code::InvalidArgument);
    // A file system that cannot map owners says so.
    let sysfs = vec![volume(Path::new("/sys/kernel"), "/v", FIRST)];
    let refused = pod.try_create("sysfs", &["true"], |config| config.mounts = sysfs).await.expect_err("sysfs");
    assert!(refused.message().contains("/sys/kernel"), "{refused:?}");
    let plain = e2e.pod("userns-volume-plain").await;
    let mapped = plain.try_create("main", &["true"], |config| config.mounts = vec![volume(&folder, "/v", FIRST)]).await;
    assert_eq!(mapped.expect_err("no user namespace").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn newer_pods_in_user_namespaces_have_a_network() {
    let e2e = Fixture::shared().await;
    let server = pod_of(&e2e, "userns-server", FIRST).await;
    let script = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";
    let serving = server.start("server", &["sh", "-c", script]).await;
    eventually("the server listens on a low port", async || {
        (serving.exec(&["wget", "-qO-", "http://127.0.0.1/"]).await.code == 0).then_some(())
    })
    .await;
    let url = format!("http://{}/", server.ip().await);
    let client = pod_of(&e2e, "userns-client", FIRST + COUNT).await.start("main", &["sleep", "1000"]).await;
    assert_eq!(client.sh(&format!("wget -qO- {url}")).await, "hello\n");
    let (_plain, plain) = e2e.run("userns-plain-client", &["sleep", "1000"]).await;
    assert_eq!(plain.sh(&format!("wget -qO- {url}")).await, "hello\n");
}

#[tokio::test]
async fn newer_containers_share_the_pods_processes_and_shared_memory() {
    let e2e = Fixture::shared().await;
    let pod = e2e
        .pod_with("userns-shared", |config| {
            pod_namespaces(config).userns_options = user_namespace(FIRST);
            pod_namespaces(config).pid = OfPod.into();
            config.linux.get_or_insert_default().sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
            config
                .linux
                .get_or_insert_default()
                .sysctls
                .insert("net.ipv4.ip_unprivileged_port_start".into(), "99".into());
        })
        .await;
    let shared = |config: &mut v1::ContainerConfig| container_namespaces(config).pid = OfPod.into();
    let first = pod.start_with("first", &["sleep", "1111"], shared).await;
    let second = pod.start_with("second", &["sleep", "2222"], shared).await;
    assert!(second.sh("ps").await.contains("sleep 1111"));
    first.sh("echo here > /dev/shm/note").await;
    assert_eq!(second.sh("cat /dev/shm/note").await, "here\n");
    let settings = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(second.sh(settings).await, "1\n99\n");
    // Another container's processes may be joined, by whoever is of the same pod.
    let target = pod
        .start_with("target", &["sleep", "3333"], |config| {
            let options = container_namespaces(config);
            options.pid = Target.into();
            options.target_id = first.id.clone();
        })
        .await;
    assert!(target.sh("ps").await.contains("sleep 1111"));
}

#[tokio::test]
async fn newer_terminals_and_attributes_work_in_user_namespaces() {
    let e2e = Fixture::shared().await;
    let pod = e2e
        .pod_with("userns-tty", |config| {
            pod_namespaces(config).userns_options = user_namespace(FIRST);
            test_e2e::spec::pod_security(config).privileged = true;
        })
        .await;
    let terminal = pod.start_with("tty", &["sh", "-c", "tty; test -t 1 && echo yes"], |c| c.tty = true).await;
    assert_eq!(terminal.wait_exit().await.exit_code, 0);
    terminal.wait_for_line("yes").await;
    let readonly = pod
        .start_with("readonly", &["sleep", "1000"], |config| {
            security(config).readonly_rootfs = true;
            security(config).no_new_privs = true;
            security(config).seccomp = Some(v1::SecurityProfile::default());
            security(config).masked_paths = vec!["/proc/kcore".into(), "/sys/firmware".into()];
            security(config).readonly_paths = vec!["/proc/sys".into()];
        })
        .await;
    assert_ne!(readonly.exec(&["touch", "/x"]).await.code, 0);
    assert_eq!(readonly.sh("cat /proc/kcore | wc -c; grep Seccomp: /proc/self/status").await, "0\nSeccomp:\t2\n");
    assert_ne!(readonly.exec(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).await.code, 0);
    // All capabilities there are, in the pod: it mounts and makes interfaces, but what is the host's is not its own.
    let privileged =
        pod.start_with("privileged", &["sleep", "1000"], |config| security(config).privileged = true).await;
    privileged.sh("mkdir /m && mount -t tmpfs none /m && ip link add br0 type bridge").await;
    assert!(privileged.sh("grep CapEff /proc/self/status").await.contains("1ffffffffff"));
    for line in ["mknod /m/sda b 8 0", "cat /proc/sys/vm/swappiness > /proc/sys/vm/swappiness"] {
        assert_ne!(privileged.exec(&["sh", "-c", line]).await.code, 0, "{line}");
    }
}

#[tokio::test]
async fn newer_user_namespaces_that_cannot_be_are_refused() {
    let e2e = Fixture::shared().await;
    let one = |container_id, length| v1::IdMapping { host_id: FIRST, container_id, length };
    let two = vec![one(0, 10), one(10, 10)];
    type Change = fn(&mut v1::NamespaceOption);
    let cases: [(&str, NamespaceMode, Vec<v1::IdMapping>, Change); 9] = [
        ("two mappings", OfPod, two, |_| {}),
        ("0 unmapped", OfPod, vec![one(1, 10)], |_| {}),
        ("an empty mapping", OfPod, vec![one(0, 0)], |_| {}),
        ("beyond the last id", OfPod, vec![one(0, u32::MAX)], |_| {}),
        ("CONTAINER", OfContainer, vec![one(0, 10)], |_| {}),
        ("TARGET", Target, vec![one(0, 10)], |_| {}),
        ("NODE with mappings", Node, vec![one(0, 10)], |_| {}),
        ("the host's network", OfPod, vec![one(0, COUNT)], |options| options.network = Node.into()),
        ("the host's processes", OfPod, vec![one(0, COUNT)], |options| options.pid = Node.into()),
    ];
    for (case, mode, ids, change) in cases {
        let refused = e2e
            .try_pod("userns-bad", |config| {
                let options = pod_namespaces(config);
                options.userns_options = Some(v1::UserNamespace { mode: mode.into(), uids: ids.clone(), gids: ids });
                change(options);
            })
            .await
            .expect_err(case);
        assert_eq!(refused.code(), Code::InvalidArgument, "{case}: {refused:?}");
    }
    let pod = pod_of(&e2e, "userns-odd", FIRST).await;
    let change =
        |config: &mut v1::ContainerConfig| container_namespaces(config).userns_options = user_namespace(FIRST + 1);
    let refused = pod.try_create("main", &["true"], change).await.expect_err("not the pod's");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}
