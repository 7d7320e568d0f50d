//! What a container's process starts with (rules.md, rules 15–17 and 20–24).

use cri_api::v1;
use cri_api::v1::security_profile::ProfileType;
use serde_json::json;
use test_e2e::fixture::Fixture;
use test_e2e::image::{self, Format};
use test_e2e::spec::{self, capabilities, int, profile, security};

/// Linux's numbers of the capabilities the tests speak of.
const CAP_CHOWN: u64 = 1 << 0;
const CAP_NET_ADMIN: u64 = 1 << 12;

#[tokio::test]
async fn users_and_groups() {
    let e2e = Fixture::shared().await;
    let id = async |name: &str, change: fn(&mut v1::LinuxContainerSecurityContext)| {
        let script = "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n)";
        let (code, out) = e2e.output_of(name, script, |config| change(security(config))).await;
        assert_eq!(code, 0, "{out}");
        out.trim().to_owned()
    };
    assert_eq!(id("user-none", |_| {}).await, "0 0 0");
    assert_eq!(id("user-uid", |s| s.run_as_user = int(1000)).await, "1000 1000 1000 5000");
    assert_eq!(id("user-name", |s| s.run_as_username = "app".into()).await, "1000 1000 1000 5000");
    assert_eq!(id("user-unknown", |s| s.run_as_user = int(4242)).await, "4242 0 0");
    let user_and_group = |s: &mut v1::LinuxContainerSecurityContext| {
        s.run_as_user = int(4242);
        s.run_as_group = int(77);
        s.supplemental_groups = vec![88, 99];
    };
    assert_eq!(id("user-groups", user_and_group).await, "4242 77 77 88 99");
}

#[tokio::test]
async fn newer_strict_groups_leave_the_images_out() {
    let e2e = Fixture::shared().await;
    let (_code, out) = e2e
        .output_of("user-strict", "id -G", |config| {
            let security = security(config);
            security.run_as_user = int(1000);
            security.supplemental_groups = vec![88];
            security.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict.into();
        })
        .await;
    let mut groups: Vec<&str> = out.split_whitespace().collect();
    groups.sort_unstable();
    assert_eq!(groups, ["1000", "88"]);
}

#[tokio::test]
async fn newer_the_status_tells_the_user() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e
        .run_with("user-status", &["sleep", "1000"], |config| {
            security(config).run_as_user = int(1000);
            security(config).supplemental_groups = vec![88];
        })
        .await;
    let user = container.status().await.user.and_then(|user| user.linux).expect("user");
    let mut groups = user.supplemental_groups.clone();
    groups.sort_unstable();
    assert_eq!((user.uid, user.gid, groups), (1000, 1000, vec![88, 1000, 5000]));
}

#[tokio::test]
async fn the_images_user_is_used_and_told() {
    let e2e = Fixture::shared().await;
    let image = image::busybox(Format::Oci).expect("busybox").set("User", "app:extra").build();
    let reference = e2e.registry().push("e2e/user", "1", &image).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let told = e2e.client.image_status(&reference).await.expect("status").expect("there");
    assert_eq!((told.uid, told.username.as_str()), (None, "app"), "without the group");
    let (_, out) = e2e.output_of("image-user", "echo $(id -u) $(id -g)", |config| with_image(config, &reference)).await;
    assert_eq!(out, "1000 5000\n");
}

#[tokio::test]
async fn capability_sets() {
    let e2e = Fixture::shared().await;
    let default = effective(&e2e, "cap-default", &[], &[]).await;
    assert_eq!((default & CAP_CHOWN, default & CAP_NET_ADMIN), (CAP_CHOWN, 0));
    assert_eq!(effective(&e2e, "cap-none", &[], &["ALL"]).await, 0);
    assert_eq!(effective(&e2e, "cap-one", &["NET_ADMIN"], &["ALL"]).await, CAP_NET_ADMIN);
    assert_eq!(effective(&e2e, "cap-two", &["NET_ADMIN"], &["CHOWN"]).await, (default | CAP_NET_ADMIN) & !CAP_CHOWN);
    let all = effective(&e2e, "cap-all", &["ALL"], &[]).await;
    assert_eq!(all & (default | CAP_NET_ADMIN), default | CAP_NET_ADMIN);
    assert_eq!(effective(&e2e, "cap-all-but", &["ALL"], &["CHOWN"]).await & CAP_CHOWN, 0);
}

#[tokio::test]
async fn strict_capability_names_may_have_their_prefix() {
    let e2e = Fixture::shared().await;
    assert_eq!(effective(&e2e, "cap-prefix", &["CAP_NET_ADMIN"], &["ALL"]).await, CAP_NET_ADMIN);
    assert_eq!(effective(&e2e, "cap-drop-prefix", &[], &["CAP_CHOWN"]).await & CAP_CHOWN, 0);
}

/// The effective capabilities of root in a container with these added and dropped.
async fn effective(e2e: &Fixture, name: &str, add: &[&str], drop: &[&str]) -> u64 {
    let wanted = capabilities(add, drop);
    let script = "grep CapEff /proc/self/status; grep CapBnd /proc/self/status";
    let (_, out) = e2e.output_of(name, script, |config| security(config).capabilities = wanted).await;
    let last = |line: &str| u64::from_str_radix(line.split_whitespace().last().expect("a set"), 16).expect("hex");
    let sets: Vec<u64> = out.lines().map(last).collect();
    assert_eq!(sets[0], sets[1], "effective and bounding set of root");
    sets[0]
}

#[tokio::test]
async fn commands_and_arguments() {
    let e2e = Fixture::shared().await;
    let image = image::busybox(Format::Oci).expect("busybox");
    let image = image.set("Entrypoint", json!(["echo", "entry"])).set("Cmd", json!(["cmd"])).build();
    let reference = e2e.registry().push("e2e/entry", "1", &image).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let pod = e2e.pod("command").await;
    let said = async |name: &str, command: &[&str], args: &[&str]| {
        let container = pod
            .start_with(name, command, |config| {
                with_image(config, &reference);
                config.args = args.iter().map(|&word| word.to_owned()).collect();
            })
            .await;
        container.wait_exit().await;
        container.written(test_e2e::cri_log::Stream::Stdout)
    };
    assert_eq!(said("image", &[], &[]).await, "entry cmd\n");
    assert_eq!(said("args", &[], &["a", "b"]).await, "entry a b\n");
    assert_eq!(said("command", &["echo", "c"], &[]).await, "c\n", "the image's Cmd is dropped");
    assert_eq!(said("both", &["echo", "c"], &["a"]).await, "c a\n");
}

#[tokio::test]
async fn the_environment_is_layered() {
    let e2e = Fixture::shared().await;
    let image = image::busybox(Format::Oci).expect("busybox");
    let image = image.set("Env", json!(["A=image", "B=image", "EMPTY="])).build();
    let reference = e2e.registry().push("e2e/env", "1", &image).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let script = "/bin/echo \"$A|$B|$EMPTY|$HOSTNAME|$PATH|$SPACED\"";
    let (_, out) = e2e
        .output_of("env", script, |config| {
            with_image(config, &reference);
            let mut add = |key: &str, value: &str| {
                config.envs.push(v1::KeyValue { key: key.into(), value: value.as_bytes().to_vec() });
            };
            add("B", "config");
            add("SPACED", "x = y\tz");
        })
        .await;
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(out, format!("image|config||env|{path}|x = y\tz\n"));
}

#[tokio::test]
async fn the_working_directory() {
    let e2e = Fixture::shared().await;
    assert_eq!(e2e.output_of("cwd-root", "pwd", |_| {}).await.1, "/\n");
    let missing = |config: &mut v1::ContainerConfig| config.working_dir = "/made/on/demand".into();
    assert_eq!(e2e.output_of("cwd-made", "pwd", missing).await.1, "/made/on/demand\n");
}

#[tokio::test]
async fn a_readonly_root() {
    let e2e = Fixture::shared().await;
    let script = "touch /x 2>&1; touch /tmp/x 2>&1; echo ok > /dev/null && echo dev";
    let (_, out) = e2e.output_of("readonly", script, |config| security(config).readonly_rootfs = true).await;
    assert_eq!(out.matches("Read-only file system").count(), 2, "{out}");
    assert!(out.ends_with("dev\n"), "{out}");
}

#[tokio::test]
async fn masked_and_readonly_paths() {
    let e2e = Fixture::shared().await;
    let script = "cat /proc/meminfo | wc -c; ls /usr | wc -l; touch /home/x 2>&1; \
        echo 1 2>&1 > /proc/sys/kernel/domainname; ls /nowhere 2>&1";
    let (_, out) = e2e
        .output_of("masked", script, |config| {
            let security = security(config);
            security.masked_paths = vec!["/proc/meminfo".into(), "/usr".into(), "/nowhere".into()];
            security.readonly_paths = vec!["/home".into(), "/proc/sys".into(), "/not-there".into()];
        })
        .await;
    assert!(out.starts_with("0\n0\n"), "masked file and folder are empty: {out}");
    assert!(out.contains("/home/x: Read-only file system"), "{out}");
}

#[tokio::test]
async fn seccomp_by_profile() {
    let e2e = Fixture::shared().await;
    let mode = async |name: &str, seccomp: Option<v1::SecurityProfile>| {
        let script = "grep Seccomp: /proc/self/status | grep -o '[0-9]*'";
        let (_, out) = e2e.output_of(name, script, |config| security(config).seccomp = seccomp).await;
        out.trim().to_owned()
    };
    assert_eq!(mode("seccomp-nil", None).await, "0", "nil is unconfined");
    assert_eq!(mode("seccomp-unconfined", profile(ProfileType::Unconfined, "")).await, "0");
    assert_eq!(mode("seccomp-default", profile(ProfileType::RuntimeDefault, "")).await, "2");
}

#[tokio::test]
async fn the_default_profile_refuses_what_it_should() {
    let e2e = Fixture::shared().await;
    // A namespace is for CAP_SYS_ADMIN only, with or without a user namespace; ordinary calls go on as ever.
    let script =
        "unshare -U true 2>&1; echo $?; mkdir /tmp/d && ln -s d /tmp/l && sleep 0 && date >/dev/null && echo fine";
    let (_, out) = e2e
        .output_of("seccomp-refuses", script, |config| {
            security(config).seccomp = profile(ProfileType::RuntimeDefault, "");
        })
        .await;
    assert!(out.contains("Operation not permitted") && out.ends_with("1\nfine\n"), "{out}");
}

#[tokio::test]
async fn a_localhost_profile_is_applied_and_inherited_by_exec() {
    let e2e = Fixture::shared().await;
    let path = e2e.folder("seccomp").join("profile.json");
    let rules = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            { "names": ["mkdir", "mkdirat", "no_such_syscall"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
            { "names": ["chmod", "fchmod", "fchmodat"], "action": "SCMP_ACT_ERRNO" },
        ],
    });
    std::fs::write(&path, rules.to_string()).expect("profile");
    let (_pod, container) = e2e
        .run_with("seccomp-local", &["sleep", "1000"], |config| {
            security(config).seccomp = profile(ProfileType::Localhost, &path.display().to_string());
        })
        .await;
    let output = container.exec(&["sh", "-c", "mkdir /tmp/d; chmod 700 /tmp; touch /tmp/f && echo touched"]).await;
    assert!(output.stderr.contains("No space left on device"), "the profile's errno: {output:?}");
    assert!(output.stderr.contains("Operation not permitted"), "the default errno: {output:?}");
    assert_eq!(output.stdout, "touched\n");
    assert_eq!(container.sh("grep Seccomp: /proc/1/status | grep -o '[0-9]*'").await, "2\n");
}

#[tokio::test]
async fn no_new_privileges() {
    let e2e = Fixture::shared().await;
    for wanted in [false, true] {
        let name = format!("nnp-{wanted}");
        let script = "grep NoNewPrivs /proc/self/status | grep -o '[0-9]*'";
        let (_, out) = e2e.output_of(&name, script, |config| security(config).no_new_privs = wanted).await;
        assert_eq!(out, format!("{}\n", u8::from(wanted)));
    }
}

#[tokio::test]
async fn sysctls_are_the_pods_own() {
    let e2e = Fixture::shared().await;
    let pod = e2e
        .pod_with("sysctl", |config| {
            let sysctls = [("kernel.shm_rmid_forced", "1"), ("net.ipv4.ip_local_port_range", "1024 65000")];
            config.linux.get_or_insert_default().sysctls =
                sysctls.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        })
        .await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    let out = container.sh("cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range").await;
    assert_eq!(out, "1\n1024\t65000\n");
    let outside = e2e.inside(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")).expect("sysctl");
    assert_ne!(outside, "1024\t65000\n");
}

#[tokio::test]
async fn the_hostname_is_the_pods() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod_with("hostname", |config| config.hostname = "a-name".into()).await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    assert_eq!(container.sh("hostname; cat /etc/hostname; echo $HOSTNAME").await, "a-name\na-name\na-name\n");
}

#[tokio::test]
async fn a_terminal() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e
        .run_with(
            "tty",
            &["sh", "-c", "tty; test -t 0 && test -t 1 && test -t 2 && echo terminal; sleep 1000"],
            |config| {
                config.tty = true;
            },
        )
        .await;
    container.wait_for_line("terminal").await;
    assert!(container.written(test_e2e::cri_log::Stream::Stdout).starts_with("/dev/"), "a path in /dev");
    let console = container.sh("stat -c %F /dev/console").await;
    assert_eq!(console, "character special file\n");
}

#[tokio::test]
async fn privileged() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod_with("privileged", |config| spec::pod_security(config).privileged = true).await;
    let container = pod
        .start_with("main", &["sleep", "1000"], |config| {
            security(config).privileged = true;
            security(config).masked_paths = vec!["/proc/meminfo".into()];
        })
        .await;
    let set = container.sh("grep CapEff /proc/self/status").await;
    let set = u64::from_str_radix(set.split_whitespace().last().expect("hex"), 16).expect("hex");
    assert_eq!(set & (CAP_CHOWN | CAP_NET_ADMIN), CAP_CHOWN | CAP_NET_ADMIN);
    assert_eq!(container.sh("ls -d /dev/kmsg").await, "/dev/kmsg\n", "the host's devices");
    container.sh("mkdir /tmp/m && mount -t tmpfs none /tmp/m").await;
}

/// A runtime that mounts sysfs read-only for the pod's first container makes the superblock of its network namespace so.
#[tokio::test]
async fn strict_privileged_sees_a_writable_sys() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod_with("privileged-sys", |config| spec::pod_security(config).privileged = true).await;
    let _ordinary = pod.start("first", &["sleep", "1000"]).await;
    let container = pod.start_with("main", &["sleep", "1000"], |config| security(config).privileged = true).await;
    let options = container.sh("grep ' /sys sysfs ' /proc/mounts").await;
    assert!(options.contains(" rw,"), "{options}");
}

#[tokio::test]
async fn a_privileged_container_needs_a_privileged_pod() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("unprivileged").await;
    let refused = pod.try_create("main", &["true"], |config| security(config).privileged = true).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn pid_namespaces() {
    let e2e = Fixture::shared().await;
    let own = e2e.output_of("pid-own", "echo $$", |_| {}).await;
    assert_eq!(own.1, "1\n");
    let pod = e2e.pod_with("pid-pod", |config| spec::pod_namespaces(config).pid = v1::NamespaceMode::Pod.into()).await;
    let shared = |config: &mut v1::ContainerConfig| {
        spec::container_namespaces(config).pid = v1::NamespaceMode::Pod.into();
    };
    let first = pod.start_with("first", &["sleep", "1234"], shared).await;
    let second = pod.start_with("second", &["sleep", "4321"], shared).await;
    assert!(second.sh("ps").await.contains("sleep 1234"), "the containers of the pod see each other");
    let other = second.sh("readlink /proc/self/ns/pid").await;
    assert_eq!(first.sh("readlink /proc/self/ns/pid").await, other);
}

#[tokio::test]
async fn shared_memory_is_the_pods() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("shm").await;
    let first = pod.start("first", &["sleep", "1000"]).await;
    let second = pod.start("second", &["sleep", "1000"]).await;
    first.sh("echo hi > /dev/shm/x").await;
    assert_eq!(second.sh("cat /dev/shm/x").await, "hi\n");
    assert_eq!(second.sh("df -k /dev/shm | tail -1 | awk '{print $2}'").await, "65536\n", "64 MiB");
    assert_eq!(first.sh("readlink /proc/self/ns/ipc").await, second.sh("readlink /proc/self/ns/ipc").await);
}

#[tokio::test]
async fn a_pod_in_the_hosts_ipc_namespace_has_the_hosts_shared_memory() {
    let e2e = Fixture::shared().await;
    let node = v1::NamespaceMode::Node;
    let pod = e2e.pod_with("host-ipc", |config| spec::pod_namespaces(config).ipc = node.into()).await;
    let change = |config: &mut v1::ContainerConfig| spec::container_namespaces(config).ipc = node.into();
    let container = pod.start_with("main", &["sleep", "1000"], change).await;
    let own = e2e.inside(|| std::fs::read_link("/proc/thread-self/ns/ipc")).expect("link");
    assert_eq!(container.sh("readlink /proc/self/ns/ipc").await.trim(), own.display().to_string());
    let name = format!("berth-e2e-{}", std::process::id());
    let path = format!("/dev/shm/{name}");
    e2e.inside(|| std::fs::write(&path, "of the host")).expect("the host's /dev/shm");
    let seen = container.exec(&["cat", &path]).await.stdout;
    e2e.inside(|| std::fs::remove_file(&path)).expect("remove");
    assert_eq!(seen, "of the host");
}

#[tokio::test]
async fn nothing_but_the_standard_streams_is_open() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("fds", &["sleep", "1000"]).await;
    let open = |pid: i32| {
        let mut fds: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("fds")
            .flatten()
            .map(|entry| entry.file_name().display().to_string())
            .collect();
        fds.sort();
        fds
    };
    assert_eq!(open(container.pid()), ["0", "1", "2"]);
    // The fourth is the shell's glob reading the folder itself.
    assert_eq!(container.sh("cd /proc/self/fd; echo *").await, "0 1 2 3\n");
}

#[tokio::test]
async fn the_default_mounts_and_devices() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("defaults", &["sleep", "1000"]).await;
    let mounts = container.sh("cat /proc/mounts").await;
    for (path, kind) in
        [("/proc", "proc"), ("/dev", "tmpfs"), ("/dev/pts", "devpts"), ("/dev/mqueue", "mqueue"), ("/sys", "sysfs")]
    {
        assert!(mounts.lines().any(|line| line.split(' ').skip(1).take(2).eq([path, kind])), "{path}:\n{mounts}");
    }
    assert!(mounts.lines().any(|line| line.contains(" /sys sysfs ro,")), "/sys is read-only:\n{mounts}");
    container.sh("test -d /sys/fs/cgroup && test \"$(ls /sys/fs/cgroup)\"").await;
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        let kind = container.sh(&format!("stat -c '%F %a' /dev/{device}")).await;
        assert_eq!(kind, "character special file 666\n", "{device}");
    }
    let links = container.sh("for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done").await;
    let [fd, stdin, stdout, stderr, ptmx] =
        ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"];
    assert_eq!(
        links.lines().map(|link| link.trim_start_matches("/dev/")).collect::<Vec<_>>(),
        [fd, stdin, stdout, stderr, ptmx]
    );
    container.sh("echo x > /dev/null; head -c 4 /dev/zero; head -c 4 /dev/urandom").await;
}

fn with_image(config: &mut v1::ContainerConfig, reference: &str) {
    config.image = Some(v1::ImageSpec { image: reference.to_owned(), ..Default::default() });
}
