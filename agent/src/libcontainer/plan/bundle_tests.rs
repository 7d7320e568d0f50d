//! Plans of bundles, compared as data.

use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::*;
use crate::libcontainer::spec::HostFacts;

fn host() -> HostFacts {
    crate::libcontainer::spec::tests::Fixture::new().host
}

fn config() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "hostname": "h",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "network", "path": "/run/netns/x"}],
            "maskedPaths": ["/proc/kcore"],
        },
    })
}

fn plan_of(config: &Value) -> Result<BundlePlan, PlanError> {
    let spec: Spec = serde_json::from_value(config.clone()).unwrap();
    let (bundle, rootfs) = (Path::new("/b"), Path::new("/b/rootfs"));
    super::bundle(&spec, &BundleInput { bundle, rootfs, cgroup: "x/c", filter: None, host: &host() })
}

/// The names of its steps.
fn steps(plan: &BundlePlan) -> Vec<String> {
    let name = |step: &Step| match step.action.as_ref().unwrap() {
        Action::EnterRoot(step) => format!("root fd{} at {} foreign {}", step.fd, step.at, step.foreign_mounts),
        Action::LeaveHost(step) => format!("leave chroot {} {:x}", step.chroot, step.propagation),
        Action::MountFs(step) => format!("mount {} {} {:x}", step.fstype, step.target, step.propagation),
        Action::MoveMount(step) => format!("move {}", step.target),
        Action::SetNames(step) => format!("name {} {}", step.hostname, step.domainname),
        Action::RunHooks(hooks) => format!("hooks {}", hooks.hooks.len()),
        Action::MaskPath(step) => format!("mask {}", step.path),
        Action::ReadonlyRoot(_) => "ro root".to_owned(),
        Action::MakeNode(_) | Action::Symlink(_) => "dev".to_owned(),
        other => format!("{other:?}"),
    };
    let mut names: Vec<String> = plan.container.init.steps.iter().map(name).collect();
    names.dedup();
    names
}

#[test]
fn hooks_come_before_the_host_is_left_and_covers_after() {
    let mut config = config();
    config["hooks"] = json!({"createContainer": [{"path": "/h", "timeout": 3}], "startContainer": [{"path": "/s"}]});
    let plan = plan_of(&config).unwrap();
    let expected = [
        "root fd0 at /b/rootfs foreign false",
        "name h ",
        "mount proc /proc 0",
        "dev",
        "hooks 1",
        "leave chroot false 0",
        "mask /proc/kcore",
        "ro root",
    ];
    assert_eq!(steps(&plan), expected);
    assert_eq!(plan.container.init.start_hooks[0].path, "/s");
    let FdSource::Bind(root) = &plan.container.fds[0] else { panic!("no bind") };
    assert_eq!((root.source.to_str(), root.recursive), (Some("/b/rootfs"), true));
    assert_eq!(plan.namespaces.joined.len(), 1);
}

#[test]
fn mounts_of_any_type_are_somebodys() {
    let mut config = config();
    config["mounts"] = json!([
        {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["shared", "nomand", "size=1k"]},
        {"destination": "e", "type": "ext4", "source": "/dev/x", "options": ["ro", "noload"]},
        {"destination": "/b", "source": "data", "options": ["rbind", "rshared", "mode=755", "rnosuid"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
    ]);
    let plan = plan_of(&config).unwrap();
    assert!(steps(&plan).contains(&"mount tmpfs /t 100000".to_owned()), "{:?}", steps(&plan));
    let FdSource::FileSystem(ext4) = &plan.container.fds[1] else { panic!("{:?}", plan.container.fds) };
    assert_eq!(
        (ext4.target.as_str(), ext4.attributes, ext4.options.as_slice()),
        ("/e", 1, ["noload".to_owned()].as_slice())
    );
    let FdSource::Bind(bind) = &plan.container.fds[2] else { panic!("no bind") };
    assert_eq!((bind.source.to_str(), bind.propagation), (Some("/b/data"), Propagation::Shared));
    assert_eq!(bind.recursive_attributes.set, 2);
    let FdSource::Bind(cgroup) = &plan.container.fds[3] else { panic!("no bind") };
    assert_eq!(cgroup.source.to_str(), Some("/sys/fs/cgroup/x/c"), "the host's cgroup namespace shows its own part");
}

#[test]
fn a_root_is_spread_as_asked() {
    let mut config = config();
    for (asked, at_opening, at_the_end) in [
        ("shared", Propagation::Private, 1 << 20),
        ("rshared", Propagation::Private, 1 << 20 | 1 << 14),
        ("rslave", Propagation::HostToContainer, 0),
        ("private", Propagation::Private, 0),
        ("unbindable", Propagation::Private, 1 << 17),
    ] {
        config["linux"]["rootfsPropagation"] = json!(asked);
        let plan = plan_of(&config).unwrap();
        let FdSource::Bind(root) = &plan.container.fds[0] else { panic!("no bind") };
        assert_eq!(root.propagation, at_opening, "{asked}");
        assert!(steps(&plan).contains(&format!("leave chroot false {at_the_end:x}")), "{asked}");
    }
    config["linux"]["rootfsPropagation"] = json!("other");
    assert!(plan_of(&config).is_err());
}

#[test]
fn without_mounts_of_its_own_it_is_confined_by_chroot() {
    let mut config = config();
    config["linux"]["namespaces"] = json!([{"type": "uts"}]);
    let steps = steps(&plan_of(&config).unwrap());
    assert_eq!(steps[0], "root fd0 at /b/rootfs foreign true");
    assert!(steps.contains(&"leave chroot true 0".to_owned()));
}

#[test]
fn what_cannot_be_had_is_named() {
    let cases = [
        ("/linux/namespaces/9", json!({"type": "uts"}), "two of one type"),
        ("/linux/namespaces/9", json!({"type": "ipc", "path": "x"}), "linux.namespaces.path"),
        ("/linux/namespaces/9", json!({"type": "user"}), "uidMappings"),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 1, "size": 1}]), "user namespace"),
        ("/linux/timeOffsets", json!({"boottime": {"secs": 1}}), "linux.timeOffsets"),
        ("/linux/sysctl", json!({"kernel.shmmax": "1"}), "kernel.shmmax"),
        ("/linux/sysctl", json!({"vm.swappiness": "1"}), "vm.swappiness"),
        ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}), "linux.memoryPolicy"),
        ("/linux/readonlyPaths", json!(["x"]), "linux.readonlyPaths"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), "ioPriority"),
        ("/process/args", json!([]), "program to run"),
        ("/mounts/9", json!({"destination": "/x", "source": "/y", "options": ["bind", "idmap"]}), "idmap"),
        ("/hooks", json!({"poststop": [{"path": "x"}], "createContainer": [{"path": "rel"}]}), "hooks.path"),
        ("/hooks", json!({"startContainer": [{"path": "/x", "timeout": 0}]}), "hooks.timeout"),
    ];
    for (place, value, word) in cases {
        let mut config = config();
        let (parent, name) = place.rsplit_once('/').unwrap();
        match config.pointer_mut(parent).unwrap() {
            Value::Array(list) => list.push(value),
            other => other[name] = value,
        }
        let error = plan_of(&config).unwrap_err().to_string();
        assert!(error.contains(word), "{place}: {error}");
    }
}

#[test]
fn in_a_user_namespace_devices_are_the_hosts() {
    let mut config = config();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    config["linux"]["devices"] = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
    let plan = plan_of(&config).unwrap();
    assert!(steps(&plan).contains(&"move /dev/fuse".to_owned()));
    assert!(plan.container.init.namespaces.user);
}
