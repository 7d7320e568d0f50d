//! A host that has everything, and what is said when one thing is taken away.

use std::path::Path;

use super::*;
use crate::config::Settings;

fn config() -> Config {
    Config::resolve(Settings::default(), Path::new("/usr/bin/berth")).unwrap()
}

fn good() -> Facts {
    Facts {
        uid: 0,
        kernel: "6.12.0-1-amd64".into(),
        capabilities: u64::MAX,
        calls: vec![("openat2", Ok(())), ("fsopen", Ok(()))],
        overlay: Ok(()),
        max_user_namespaces: Some(15000),
        seccomp: Some("kill_process errno allow\n".into()),
        cgroups: Cgroups {
            v2: Some(("/sys/fs/cgroup".into(), ["cpu", "memory", "pids"].map(str::to_owned).into())),
            v1: vec![],
        },
        systemd: false,
        forwarding: [Some(false), Some(false)],
        sysctls_writable: true,
        programs: vec![("iptables", Some("/usr/sbin/iptables".into()))],
        monitor: Ok(()),
        runtimes: Vec::new(),
        disk: Ok(Disk { free_bytes: 1 << 40, free_inodes: 1 << 30, counts_inodes: true, read_only: false }),
        run_root_tmpfs: true,
    }
}

/// The findings that are not well, after `spoil`.
fn complaints(spoil: impl FnOnce(&mut Facts, &mut Config)) -> Vec<(&'static str, Level)> {
    let (mut facts, mut config) = (good(), config());
    spoil(&mut facts, &mut config);
    let bad = evaluate(&facts, &config).into_iter().filter(|check| check.level > Level::Ok);
    bad.inspect(|check| assert!(!check.remedy.is_empty(), "{check:?}")).map(|check| (check.name, check.level)).collect()
}

#[test]
fn a_host_that_has_everything_gets_no_complaint() {
    assert_eq!(complaints(|_, _| {}), []);
}

#[test]
fn each_thing_that_is_missing_is_told() {
    let fail = |name| vec![(name, Level::Fail)];
    let warn = |name| vec![(name, Level::Warn)];
    assert_eq!(complaints(|facts, _| facts.uid = 1000), fail("user"));
    assert_eq!(complaints(|facts, _| facts.kernel = "5.10.0-28-amd64".into()), fail("kernel"));
    assert_eq!(complaints(|facts, _| facts.capabilities &= !(1 << 24)), warn("capabilities"));
    assert_eq!(complaints(|facts, _| facts.capabilities = 1 << 24), fail("capabilities"));
    assert_eq!(complaints(|facts, _| facts.calls[0].1 = Err(Errno::NOSYS)), fail("system calls"));
    assert_eq!(complaints(|facts, _| facts.overlay = Err(Errno::NODEV)), fail("overlay"));
    assert_eq!(complaints(|facts, _| facts.max_user_namespaces = Some(0)), warn("user namespaces"));
    assert_eq!(complaints(|facts, _| facts.max_user_namespaces = None), warn("user namespaces"));
    assert_eq!(complaints(|facts, _| facts.seccomp = None), fail("seccomp"));
    let broken = |name: &str| vec![(name.to_owned(), "/usr/bin/runc: No such file".to_owned())];
    assert_eq!(complaints(|facts, _| facts.runtimes = broken("runc")), warn("runtimes"));
    assert_eq!(complaints(|facts, _| facts.runtimes = broken("")), fail("runtimes"));
    assert_eq!(complaints(|facts, _| facts.cgroups.v2 = None), fail("cgroups"));
    assert_eq!(complaints(|facts, _| facts.systemd = true), warn("cgroup driver"));
    assert_eq!(complaints(|_, config| config.cgroups.driver = CgroupDriver::Systemd), fail("cgroup driver"));
    assert_eq!(complaints(|facts, _| facts.sysctls_writable = false), warn("forwarding"));
    assert_eq!(complaints(|facts, _| facts.programs[0].1 = None), fail("iptables"));
    assert_eq!(complaints(|facts, _| facts.monitor = Err("no such file".into())), fail("monitor"));
    assert_eq!(complaints(|facts, _| facts.run_root_tmpfs = false), warn("run_root"));
}

#[test]
fn a_hybrid_host_counts_the_controllers_of_both() {
    let hybrid = |facts: &mut Facts, v1: &[&str]| {
        facts.cgroups.v1 = v1.iter().map(|name| (*name).to_owned()).collect();
        facts.cgroups.v2 = Some(("/sys/fs/cgroup/unified".into(), vec!["hugetlb".into()]));
    };
    assert_eq!(complaints(|facts, _| hybrid(facts, &["cpu", "memory", "pids"])), []);
    assert_eq!(complaints(|facts, _| hybrid(facts, &["cpu", "pids"])), [("cgroups", Level::Warn)]);
}

#[test]
fn disks_are_judged_by_room_inodes_and_mode() {
    let disk =
        |free_bytes, free_inodes, counts_inodes, read_only| Disk { free_bytes, free_inodes, counts_inodes, read_only };
    let with = |disk: Disk| complaints(|facts, _| facts.disk = Ok(disk));
    assert_eq!(with(disk(1 << 20, 1 << 30, true, false)), [("disk", Level::Warn)]);
    assert_eq!(with(disk(1 << 40, 10, true, false)), [("disk", Level::Warn)]);
    assert_eq!(with(disk(1 << 40, 0, false, false)), [], "btrfs has no number of inodes");
    assert_eq!(with(disk(1 << 40, 1 << 30, true, true)), [("disk", Level::Fail)]);
}

#[test]
fn kernel_releases_are_read() {
    assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
    assert_eq!(version("5.14.0"), Some((5, 14)));
    assert_eq!(version("6.18+"), Some((6, 18)));
    assert_eq!(version("next"), None);
}
