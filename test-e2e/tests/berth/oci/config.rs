//! What a bundle's config.json may ask for.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Bundle, exists};

/// Starts it, waits for its end, and gives what it said.
fn said(bundle: &Bundle) -> String {
    bundle.create_and_start();
    bundle.wait_stopped();
    bundle.output()
}

fn shell(name: &str, script: &str) -> Bundle {
    Bundle::new(name).program(&["sh", "-c", script])
}

fn namespace(bundle: &mut Bundle, kind: &str, value: Option<Value>) {
    let list = bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    list.retain(|namespace| namespace["type"] != kind);
    list.extend(value);
}

#[test]
fn names_user_limits_and_directory_are_as_asked() {
    let mut bundle = shell("process", "hostname; id; pwd; ulimit -n; umask; echo $A; cat /proc/self/oom_score_adj");
    bundle.config["hostname"] = json!("inside");
    let process = &mut bundle.config["process"];
    process["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o077});
    process["cwd"] = json!("/made/for/it");
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 99, "soft": 98}]);
    process["env"].as_array_mut().expect("env").push(json!("A=b"));
    process["oomScoreAdj"] = json!(321);
    assert_eq!(said(&bundle), "inside\nuid=5 gid=6 groups=7\n/made/for/it\n98\n0077\nb\n321\n");
}

#[test]
fn mounts_are_made_in_their_order_with_their_options() {
    let script =
        "cat /host/file; ! touch /host/x; grep ' /t ' /proc/mounts; cat /t/in/file; ls /dev/extra; ! cat /masked";
    let mut bundle = shell("mounts", script);
    let source = bundle.dir.join("source");
    fs::create_dir(&source).expect("a folder");
    fs::write(source.join("file"), "content\n").expect("a file");
    fs::write(bundle.file("masked"), "secret\n").expect("a file");
    let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
    mounts.push(json!({"destination": "/host", "source": "source", "options": ["rbind", "ro"]}));
    mounts
        .push(json!({"destination": "/t", "type": "tmpfs", "source": "t", "options": ["nosuid", "size=4k", "shared"]}));
    mounts.push(json!({"destination": "/t/in", "source": source, "options": ["bind"]}));
    bundle.config["linux"]["devices"] = json!([{"path": "/dev/extra", "type": "c", "major": 1, "minor": 3}]);
    bundle.config["linux"]["maskedPaths"].as_array_mut().expect("masks").push(json!("/masked"));
    let out = said(&bundle);
    assert_eq!(out.lines().next(), Some("content"), "{out}");
    assert!(out.contains("t /t tmpfs rw,nosuid,relatime,size=4k"), "{out}");
    assert!(out.ends_with("content\n/dev/extra\n"), "{out}");
    assert!(!exists(&source.join("x")));
}

#[test]
fn namespaces_are_made_joined_and_shared() {
    let mut other = Command::new("unshare")
        .args(["--net", "--uts", "sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .expect("unshare");
    let of = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
    super::wait_for(|| of(other.id(), "uts") != of(std::process::id(), "uts"));
    let mut bundle = Bundle::new("namespaces");
    for (kind, path) in [("network", "net"), ("uts", "uts")] {
        namespace(&mut bundle, kind, Some(json!({"type": kind, "path": format!("/proc/{}/ns/{path}", other.id())})));
    }
    namespace(&mut bundle, "ipc", None);
    namespace(&mut bundle, "time", Some(json!({"type": "time"})));
    bundle.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000}});
    bundle.create_and_start();
    let pid = u32::try_from(bundle.pid()).expect("a pid");
    assert_eq!((of(pid, "net"), of(pid, "uts")), (of(other.id(), "net"), of(other.id(), "uts")));
    assert_eq!(of(pid, "ipc"), of(std::process::id(), "ipc"));
    for kind in ["pid", "mnt", "time"] {
        assert_ne!(of(pid, kind), of(std::process::id(), kind), "{kind}");
    }
    let uptime = bundle.ok(&["exec", &bundle.id, "cat", "/proc/uptime"]);
    assert!(uptime.split('.').next().expect("seconds").parse::<u64>().expect("a number") > 999_999_999, "{uptime}");
    other.kill().and_then(|()| other.wait()).expect("end");
}

#[test]
fn a_namespace_of_another_type_is_refused() {
    let mut bundle = Bundle::new("wrong-type");
    namespace(&mut bundle, "network", Some(json!({"type": "network", "path": "/proc/self/ns/uts"})));
    let error = bundle.try_create(&[]).expect_err("it is no network");
    assert!(error.contains("network") && error.contains("Invalid argument"), "{error}");
    bundle.assert_nothing_left();
}

#[test]
fn without_a_mount_namespace_the_hosts_is_left_as_it_was() {
    let mut bundle = shell("host-mounts", "ls /; echo; cat /proc/self/mountinfo");
    namespace(&mut bundle, "mount", None);
    let out = said(&bundle);
    assert!(out.starts_with("bin\ndev\netc\nproc\nsys\ntmp\n\n"), "{out}");
    assert!(bundle.refused(&["exec", &bundle.id, "true"]).contains("not running"));
    bundle.ok(&["delete", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn root_of_a_user_namespace_is_nobody_outside() {
    let mut bundle = shell("user", "id -u; cat /proc/self/uid_map; echo x > /tmp/file; exec sleep 1000");
    namespace(&mut bundle, "user", Some(json!({"type": "user"})));
    bundle.config["process"]["oomScoreAdj"] = json!(321);
    let map =
        json!([{"containerID": 0, "hostID": 100_000, "size": 1000}, {"containerID": 1000, "hostID": 0, "size": 1}]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
    fs::set_permissions(bundle.file("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).expect("a mode");
    bundle.create_and_start();
    super::wait_for(|| exists(&bundle.file("tmp/file")));
    let lines: Vec<String> =
        bundle.output().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["0", "0 100000 1000", "1000 0 1"]);
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.file("tmp/file")).expect("a file"));
    assert_eq!(owner, 100_000);
    assert_eq!(
        bundle.ok(&["exec", &bundle.id, "sh", "-c", "id -u; cat /proc/1/oom_score_adj /proc/self/oom_score_adj"]),
        "0\n321\n321\n"
    );
}

#[test]
fn capabilities_filters_and_scheduling_hold_for_the_program_and_for_execs() {
    let mut bundle = Bundle::new("security");
    let process = &mut bundle.config["process"];
    let set = json!(["CAP_KILL"]);
    process["capabilities"] = json!({"bounding": set, "effective": set, "permitted": set});
    process["noNewPrivileges"] = json!(true);
    process["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 7});
    process["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    });
    bundle.create_and_start();
    let script = "grep -e CapBnd -e CapEff -e NoNewPrivs -e '^Seccomp:' /proc/self/status; busybox mkdir /tmp/x 2>&1";
    let output = bundle.berth(&["exec", &bundle.id, "sh", "-c", script]);
    let text = String::from_utf8_lossy(&output.stdout).replace('\t', " ");
    assert!(text.contains("CapEff: 0000000000000020") && text.contains("CapBnd: 0000000000000020"), "{text}");
    assert!(text.contains("NoNewPrivs: 1") && text.contains("Seccomp: 2"), "{text}");
    assert!(text.contains("not supported"), "{text}");
    // proc_pid_stat(5): nice is the 19th field, the policy the 41st; of the container's own process.
    let stat = fs::read_to_string(format!("/proc/{}/stat", bundle.pid())).expect("stat");
    let fields: Vec<&str> = stat.split(' ').collect();
    assert_eq!((fields[18], fields[40]), ("5", "3"), "{stat}");
}

#[test]
fn a_container_without_a_cgroup_namespace_sees_its_own_cgroup_alone() {
    let mut bundle = shell(
        "cgroups",
        "ls /sys/fs/cgroup; cat $(ls -d /sys/fs/cgroup/pids 2>/dev/null || echo /sys/fs/cgroup)/pids.max",
    );
    namespace(&mut bundle, "cgroup", None);
    bundle.config["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["type"] != "cgroup");
    let mount =
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]});
    bundle.config["mounts"].as_array_mut().expect("mounts").push(mount);
    bundle.config["linux"]["resources"] = json!({"pids": {"limit": 33}});
    let out = said(&bundle);
    assert!(out.ends_with("\n33\n"), "{out}");
}

#[test]
fn settings_of_the_kernel_are_those_of_the_containers_namespaces() {
    let mut bundle = shell("sysctl", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax");
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4242"});
    assert_eq!(said(&bundle), "1\n4242\n");
    bundle.ok(&["delete", &bundle.id]);
    let mounts = bundle.config["mounts"].clone();
    bundle.config["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["type"] != "proc");
    let error = bundle.try_create(&[]).expect_err("what is at /proc is the image's");
    assert!(error.contains("there is no procfs"), "{error}");
    bundle.config["mounts"] = mounts;
    namespace(&mut bundle, "network", None);
    let error = bundle.try_create(&[]).expect_err("it would be the host's");
    assert!(error.contains("net.ipv4.ip_forward"), "{error}");
}
