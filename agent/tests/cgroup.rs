//! cgroups on the host that the test runs on: v1, v2 or hybrid. Needs root. Every test has a cgroup of its own name
//! below `/berth-test-<pid>-<name>`, so that it runs beside anything.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use berth::libcontainer::cgroup::{Cgroup, CgroupError, Driver, Layout, attach_device_rules};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxHugepageLimit, LinuxMemory, LinuxPids,
    LinuxResources, LinuxThrottleDeviceBuilder,
};

struct Fixture {
    layout: Layout,
    path: String,
}

impl Fixture {
    fn new(name: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let layout = Layout::detect(Driver::Cgroupfs).expect("the host's cgroup hierarchies");
        Self { layout, path: format!("berth-test-{}-{name}", std::process::id()) }
    }

    fn create(&self, limits: &LinuxResources) -> Result<Cgroup, CgroupError> {
        Cgroup::create(&self.layout, &format!("{}/a/b", self.path), Some(limits))
    }

    /// Where a v1 controller's or the unified hierarchy's file of the container is.
    fn file(&self, v1: &str, v2: &str) -> PathBuf {
        let (controller, _) = v1.split_once('.').unwrap();
        if self.layout.is_unified() {
            Path::new("/sys/fs/cgroup").join(&self.path).join("a/b").join(v2)
        } else {
            Path::new("/sys/fs/cgroup").join(controller).join(&self.path).join("a/b").join(v1)
        }
    }

    fn read(&self, v1: &str, v2: &str) -> String {
        let file = self.file(v1, v2);
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).trim().to_owned()
    }

    /// The container's folder in the unified hierarchy.
    fn unified(&self) -> PathBuf {
        let roots =
            ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|root| Path::new(root).join(&self.path).join("a/b"));
        roots.into_iter().find(|folder| folder.join("cgroup.events").exists()).expect("a unified hierarchy")
    }

    fn exists_anywhere(&self) -> bool {
        let entries = std::fs::read_dir("/sys/fs/cgroup").unwrap().filter_map(Result::ok);
        let folders = entries.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
        folders.map(|folder| folder.join(&self.path)).any(|path| path.exists())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let cgroup = Cgroup::open(&self.layout, &self.path);
        let _ = cgroup.kill();
        let removed = cgroup.remove();
        if !std::thread::panicking() {
            removed.expect("the test's cgroup is removed");
        }
    }
}

/// A shell that enters the cgroup as init does (v1: its own pid into each cgroup.procs) and then runs the script.
fn run_in(cgroup: &Cgroup, script: &str) -> Child {
    let fds = cgroup.join_fds().expect("join_fds");
    let inherit = |fd: &std::os::fd::OwnedFd| {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    };
    let mut enter: String = fds.v1_tasks.iter().map(|fd| format!("echo 0 > {} && ", inherit(fd))).collect();
    enter.extend(fds.unified.iter().map(|fd| format!("echo 0 > {}/cgroup.procs && ", inherit(fd))));
    let script = format!("{enter} echo ready && {script}");
    let mut child = Command::new("/bin/sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

fn memory(limit: i64, swap: Option<i64>) -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(limit)).set_swap(swap);
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory));
    resources
}

fn rule(allow: bool, typ: LinuxDeviceType, numbers: Option<(i64, i64)>) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(typ))
        .set_major(numbers.map(|numbers| numbers.0))
        .set_minor(numbers.map(|numbers| numbers.1))
        .set_access(Some("rwm".to_owned()));
    rule
}

#[test]
fn all_limits_are_in_force_and_can_be_moved_up_and_down() {
    let fixture = Fixture::new("limits");
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(512)).set_period(Some(50_000)).set_quota(Some(25_000)).set_cpus(Some("0".to_owned()));
    let mut pids = LinuxPids::default();
    pids.set_limit(77);
    let swap = fixture.layout.has_swap_limit().then_some(64 << 20);
    let mut limits = memory(64 << 20, swap);
    limits.set_cpu(Some(cpu)).set_pids(Some(pids));
    let cgroup = fixture.create(&limits).unwrap();

    if fixture.layout.is_unified() {
        assert_eq!(fixture.read("cpu.", "cpu.weight"), "59");
        assert_eq!(fixture.read("cpu.", "cpu.max"), "25000 50000");
    } else {
        assert_eq!(fixture.read("cpu.shares", ""), "512");
        assert_eq!(fixture.read("cpu.cfs_quota_us", ""), "25000");
        assert_eq!(fixture.read("cpu.cfs_period_us", ""), "50000");
    }
    assert_eq!(fixture.read("cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(fixture.read("pids.max", "pids.max"), "77");
    assert_eq!(fixture.read("memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());

    for megabytes in [128i64, 32, 256, 16] {
        let bytes = megabytes << 20;
        cgroup.update(&memory(bytes, swap.map(|_| bytes))).unwrap();
        assert_eq!(fixture.read("memory.limit_in_bytes", "memory.max"), bytes.to_string());
        assert_eq!(cgroup.stats().unwrap().memory_limit, Some(bytes as u64));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_period(Some(10_000)).set_quota(Some(5_000));
    let mut update = LinuxResources::default();
    update.set_cpu(Some(cpu));
    cgroup.update(&update).unwrap();
    if fixture.layout.is_unified() {
        assert_eq!(fixture.read("cpu.", "cpu.max"), "5000 10000");
    } else {
        assert_eq!(fixture.read("cpu.cfs_quota_us", ""), "5000");
        assert_eq!(fixture.read("cpu.cfs_period_us", ""), "10000");
    }
}

/// The parent allows half a processor: the child's old quota does not fit its new period, nor its new quota its old one.
#[test]
fn a_quota_moves_within_its_parents() {
    let fixture = Fixture::new("quota");
    let limits = |quota, period| {
        let mut cpu = LinuxCpu::default();
        cpu.set_period(Some(period)).set_quota(Some(quota));
        let mut limits = LinuxResources::default();
        limits.set_cpu(Some(cpu));
        limits
    };
    let parent = format!("{}/a", fixture.path);
    Cgroup::create(&fixture.layout, &parent, Some(&limits(50_000, 100_000))).unwrap();
    let cgroup = fixture.create(&limits(40_000, 100_000)).unwrap();
    for (quota, period) in [(4_000, 10_000), (40_000, 100_000), (5_000, 10_000), (50_000, 100_000)] {
        cgroup.update(&limits(quota, period)).unwrap();
    }
}

#[test]
fn what_cannot_be_set_is_told_and_leaves_nothing() {
    let fixture = Fixture::new("refused");
    let mut cpu = LinuxCpu::default();
    cpu.set_cpus(Some("4000".to_owned()));
    let mut limits = LinuxResources::default();
    limits.set_cpu(Some(cpu));
    let error = fixture.create(&limits).unwrap_err();
    let CgroupError::Write { file, value, .. } = &error else { panic!("{error}") };
    assert!(file.ends_with("a/b/cpuset.cpus") && value == "4000", "{error}");
    assert!(!file.parent().unwrap().exists());

    limits = LinuxResources::default();
    limits.set_unified(Some([("nothing.max".to_owned(), "1".to_owned())].into()));
    let error = fixture.create(&limits).unwrap_err();
    assert!(matches!(error, CgroupError::NoController { .. }), "{error}");
    for path in ["", "/", "a/../b"] {
        assert!(matches!(Cgroup::create(&fixture.layout, path, None), Err(CgroupError::Path { .. })));
    }
}

/// A change whose last part the kernel refuses.
fn change_with_a_device_that_is_not_there() -> LinuxResources {
    let device = LinuxThrottleDeviceBuilder::default().major(259).minor(1_000_000).rate(1000u64).build().unwrap();
    let mut io = LinuxBlockIo::default();
    io.set_throttle_read_bps_device(Some(vec![device]));
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(256)).set_period(Some(20_000)).set_quota(Some(1_000)).set_cpus(Some("0".to_owned()));
    let mut pids = LinuxPids::default();
    pids.set_limit(9);
    let mut change = memory(128 << 20, None);
    change.set_cpu(Some(cpu)).set_pids(Some(pids)).set_block_io(Some(io));
    change
}

#[test]
fn a_change_is_made_as_a_whole_or_not_at_all() {
    let fixture = Fixture::new("whole");
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(512)).set_period(Some(50_000)).set_quota(Some(25_000));
    let mut limits = memory(64 << 20, None);
    limits.set_cpu(Some(cpu));
    let cgroup = fixture.create(&limits).unwrap();
    let files = [
        ("cpu.shares", "cpu.weight"),
        ("cpu.cfs_period_us", "cpu.max"),
        ("cpu.cfs_quota_us", "cpu.max"),
        ("cpuset.cpus", "cpuset.cpus"),
        ("memory.limit_in_bytes", "memory.max"),
        ("pids.max", "pids.max"),
    ];
    let all = || files.map(|(v1, v2)| fixture.read(v1, v2));
    let before = all();
    let mut change = change_with_a_device_that_is_not_there();
    let error = cgroup.update(&change).unwrap_err();
    assert!(matches!(&error, CgroupError::Write { value, .. } if value.starts_with("259:1000000 ")), "{error}");
    assert_eq!(all(), before);

    change.set_block_io(None);
    let planned = cgroup.change(&change).unwrap();
    assert_eq!(all(), before, "looking it up changes nothing");
    planned.carry_out().unwrap();
    let after = all();
    assert!(after.iter().zip(&before).all(|(after, before)| after != before || before == "0"), "{after:?}");
    // What an agent finds that was killed half way.
    cgroup.put_back(planned.undo()).unwrap();
    assert_eq!(all(), before);
}

#[test]
fn a_limit_below_what_is_in_use_is_refused_and_kills_nobody() {
    let fixture = Fixture::new("in-use");
    let swap = |bytes: i64| fixture.layout.has_swap_limit().then_some(bytes);
    let cgroup = fixture.create(&memory(96 << 20, swap(96 << 20))).unwrap();
    let mut child = run_in(&cgroup, "x=$(head -c 30000000 /dev/zero | tr '\\0' x); read -r line");
    let deadline = Instant::now() + Duration::from_secs(60);
    while cgroup.stats().unwrap().memory_usage < 30_000_000 {
        assert!(Instant::now() < deadline, "{:?}", cgroup.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(256));
    let mut change = memory(8 << 20, swap(8 << 20));
    change.set_cpu(Some(cpu));
    let before = fixture.read("cpu.shares", "cpu.weight");
    let error = cgroup.update(&change).unwrap_err();
    assert!(matches!(error, CgroupError::InUse { limit, usage } if limit == 8 << 20 && usage > limit), "{error}");
    assert_eq!(fixture.read("memory.limit_in_bytes", "memory.max"), (96 << 20).to_string());
    assert_eq!(fixture.read("cpu.shares", "cpu.weight"), before);
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
    assert_eq!(child.try_wait().unwrap(), None, "it goes on");
    // What it needs is left to it.
    cgroup.update(&memory(80 << 20, swap(80 << 20))).unwrap();
    cgroup.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn memory_and_swap_move_up_and_down_together() {
    let fixture = Fixture::new("memory-swap");
    if !fixture.layout.has_swap_limit() {
        return;
    }
    let cgroup = fixture.create(&memory(64 << 20, Some(96 << 20))).unwrap();
    let limits = [(32, 32), (128, 128), (128, 256), (300, 300), (16, 400), (500, 600), (20, 20)];
    for (limit, both) in limits.map(|(limit, both): (i64, i64)| (limit << 20, both << 20)) {
        cgroup.update(&memory(limit, Some(both))).unwrap();
        assert_eq!(fixture.read("memory.limit_in_bytes", "memory.max"), limit.to_string());
        let swap = if fixture.layout.is_unified() { both - limit } else { both };
        assert_eq!(fixture.read("memory.memsw.limit_in_bytes", "memory.swap.max"), swap.to_string());
    }
}

/// kubelet may set page limits by an update only, and on a hybrid host the controller is not on by itself.
#[test]
fn a_hugepage_limit_can_be_set_later() {
    let fixture = Fixture::new("hugepages-later");
    if !fixture.layout.has_controller("hugetlb") {
        return;
    }
    let cgroup = fixture.create(&LinuxResources::default()).unwrap();
    let mut limit = LinuxHugepageLimit::default();
    limit.set_page_size("2MB".to_owned()).set_limit(6 << 20);
    let mut change = LinuxResources::default();
    change.set_hugepage_limits(Some(vec![limit]));
    cgroup.update(&change).unwrap();
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/hugetlb", "/sys/fs/cgroup"];
    let files = ["hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"];
    let folders = roots.iter().map(|root| Path::new(root).join(&fixture.path).join("a/b"));
    let found = folders.flat_map(|folder| files.map(|file| folder.join(file)));
    let values: Vec<String> = found.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    assert_eq!(values, ["6291456\n"]);
}

#[test]
fn a_file_of_the_other_version_and_a_deed_are_refused_by_name() {
    let fixture = Fixture::new("by-hand");
    let cgroup = fixture.create(&LinuxResources::default()).unwrap();
    let by_hand = |file: &str, value: &str| {
        let mut change = LinuxResources::default();
        change.set_unified(Some([(file.to_owned(), value.to_owned())].into()));
        cgroup.update(&change)
    };
    if fixture.layout.is_unified() {
        by_hand("memory.high", "50000000").unwrap();
        assert_eq!(fixture.read("memory.", "memory.high"), "49999872");
        let error = by_hand("memory.reclaim", "1").unwrap_err();
        assert!(matches!(error, CgroupError::Write { .. }), "{error}");
    } else {
        let error = by_hand("memory.high", "50000000").unwrap_err();
        assert!(matches!(error, CgroupError::OnV1 { .. }), "{error}");
    }
}

#[test]
fn a_hugepage_limit_goes_to_the_hierarchy_that_has_the_controller() {
    let fixture = Fixture::new("hugepages");
    if !fixture.layout.has_controller("hugetlb") {
        return;
    }
    let mut limit = LinuxHugepageLimit::default();
    limit.set_page_size("2MB".to_owned()).set_limit(4 << 20);
    let mut limits = LinuxResources::default();
    limits.set_hugepage_limits(Some(vec![limit]));
    fixture.create(&limits).unwrap();
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/hugetlb", "/sys/fs/cgroup"];
    let files = ["hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"];
    let folders = roots.iter().map(|root| Path::new(root).join(&fixture.path).join("a/b"));
    let found = folders.flat_map(|folder| files.map(|file| folder.join(file)));
    let values: Vec<String> = found.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    assert_eq!(values, ["4194304\n"]);
}

#[test]
fn processes_are_counted_frozen_and_killed_with_their_children() {
    let fixture = Fixture::new("kill");
    let cgroup = fixture.create(&LinuxResources::default()).unwrap();
    let mut child = run_in(&cgroup, "(setsid sleep 1000 &) ; (sleep 1000 &) ; n=0; while :; do n=$((n+1)); done");
    let deadline = Instant::now() + Duration::from_secs(5);
    while cgroup.processes().unwrap().len() < 3 {
        assert!(Instant::now() < deadline, "{:?}", cgroup.processes());
        std::thread::sleep(Duration::from_millis(2));
    }
    let cpu = |cgroup: &Cgroup| cgroup.stats().unwrap().cpu_usage_ns;
    cgroup.freeze().unwrap();
    let frozen = cpu(&cgroup);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(cpu(&cgroup), frozen);
    cgroup.thaw().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let stats = cgroup.stats().unwrap();
    assert!(stats.cpu_usage_ns > frozen && stats.memory_usage > 0 && stats.page_faults > 0, "{stats:?}");
    assert!(cgroup.tasks().unwrap() >= Some(3));
    if Path::new("/proc/pressure").exists() {
        // Three processes that never pause wait for a processor, or for none: that it is told is what counts.
        assert!(stats.cpu_psi.is_some() && stats.memory_psi.is_some() && stats.io_psi.is_some(), "{stats:?}");
    }
    cgroup.freeze().unwrap();
    cgroup.kill().unwrap();
    cgroup.thaw().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    cgroup.remove().unwrap();
    assert!(cgroup.processes().unwrap().is_empty());
    assert!(cgroup.stats().unwrap_err().is_not_found());
    cgroup.remove().unwrap();
    cgroup.kill().unwrap();
}

#[test]
fn an_out_of_memory_kill_is_counted() {
    let fixture = Fixture::new("oom");
    let swap = fixture.layout.has_swap_limit().then_some(8 << 20);
    let cgroup = fixture.create(&memory(8 << 20, swap)).unwrap();
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
    let mut child = run_in(&cgroup, "head -c 100000000 /dev/zero | tail -c 90000000 > /dev/null");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 9));
    assert_eq!(cgroup.oom_kills().unwrap(), 1);
}

#[test]
fn device_rules_hold() {
    let fixture = Fixture::new("devices");
    let mut limits = LinuxResources::default();
    let rules = vec![rule(false, LinuxDeviceType::A, None), rule(true, LinuxDeviceType::C, Some((1, 3)))];
    limits.set_devices(Some(rules));
    let cgroup = fixture.create(&limits).unwrap();
    let mut child = run_in(&cgroup, "(: < /dev/null) && ! (: < /dev/zero)");
    assert!(child.wait().unwrap().success(), "null is allowed and zero is not");
}

/// Programs work on the unified hierarchy of a hybrid host too, so that they are tried wherever there is one.
#[test]
fn a_device_program_passes_the_verifier_and_holds() {
    let fixture = Fixture::new("program");
    let cgroup = fixture.create(&LinuxResources::default()).unwrap();
    let folder = std::fs::File::open(fixture.unified()).unwrap();
    let mut read_only = rule(true, LinuxDeviceType::C, Some((1, 7)));
    read_only.set_access(Some("r".to_owned()));
    let rules = [
        rule(false, LinuxDeviceType::A, None),
        rule(true, LinuxDeviceType::C, Some((1, 3))),
        read_only,
        rule(true, LinuxDeviceType::B, Some((8, 0))),
    ];
    attach_device_rules(&folder, &rules).unwrap();
    let script = "(: < /dev/null) && (: > /dev/null) && (: < /dev/full) && ! (: > /dev/full) && ! (: < /dev/zero)";
    assert!(run_in(&cgroup, script).wait().unwrap().success());
}

/// A host that has v1 hierarchies only, which is this one without the unified one.
#[test]
fn without_the_unified_hierarchy_the_freezer_serves() {
    if !Path::new("/sys/fs/cgroup/freezer").exists() || !Path::new("/sys/fs/cgroup/unified").exists() {
        return;
    }
    let test = || {
        use nix::mount::{MsFlags, mount, umount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        umount("/sys/fs/cgroup/unified").unwrap();
        let fixture = Fixture::new("only-v1");
        let cgroup = fixture.create(&LinuxResources::default()).unwrap();
        let fds = cgroup.join_fds().unwrap();
        assert!(fds.unified.is_none());
        let state = rustix::fs::OFlags::WRONLY;
        rustix::fs::openat(fds.freezer.unwrap(), "freezer.state", state, rustix::fs::Mode::empty()).unwrap();
        let mut child = run_in(&cgroup, "(setsid sleep 1000 &) ; (sleep 1000 &) ; sleep 1000");
        let deadline = Instant::now() + Duration::from_secs(5);
        while cgroup.processes().unwrap().len() < 4 {
            assert!(Instant::now() < deadline, "{:?}", cgroup.processes());
            std::thread::sleep(Duration::from_millis(2));
        }
        cgroup.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        cgroup.remove().unwrap();
    };
    std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn what_a_crash_left_is_swept_by_name() {
    let fixture = Fixture::new("sweep");
    let cgroup = fixture.create(&LinuxResources::default()).unwrap();
    let name = format!("leftover-{}", std::process::id());
    let lost = Cgroup::create(&fixture.layout, &format!("{}/{name}", cgroup.path()), None).unwrap();
    let mut child = run_in(&lost, "sleep 1000");
    let reaper = std::thread::spawn(move || child.wait().unwrap().signal());
    Cgroup::sweep(&fixture.layout, &name);
    assert_eq!(reaper.join().unwrap(), Some(9));
    assert!(lost.stats().unwrap_err().is_not_found());
    assert!(cgroup.stats().is_ok());
}

#[test]
fn nothing_is_left_behind() {
    let fixture = Fixture::new("gone");
    fixture.create(&memory(64 << 20, None)).unwrap();
    assert!(fixture.exists_anywhere());
    Cgroup::open(&fixture.layout, &fixture.path).remove().unwrap();
    assert!(!fixture.exists_anywhere());
}

/// What a container's cgroup costs; run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    let fixture = Fixture::new("cost");
    let swap = fixture.layout.has_swap_limit().then_some(64 << 20);
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(512)).set_period(Some(50_000)).set_quota(Some(25_000));
    let mut limits = memory(64 << 20, swap);
    let mut devices = vec![rule(false, LinuxDeviceType::A, None)];
    devices.extend((0..11).map(|minor| rule(true, LinuxDeviceType::C, Some((1, minor)))));
    limits.set_cpu(Some(cpu)).set_devices(Some(devices));
    fixture.create(&limits).unwrap();
    let mut times = [const { Vec::new() }; 4];
    for round in 0..200 {
        let path = format!("{}/a/{round}", fixture.path);
        let mut at = Instant::now();
        let mut lap = |slot: usize| {
            times[slot].push(at.elapsed().as_micros());
            at = Instant::now();
        };
        let cgroup = Cgroup::create(&fixture.layout, &path, Some(&limits)).unwrap();
        lap(0);
        drop(cgroup.join_fds().unwrap());
        lap(1);
        cgroup.stats().unwrap();
        lap(2);
        cgroup.remove().unwrap();
        lap(3);
    }
    for (name, mut list) in ["create", "join_fds", "stats", "remove"].iter().zip(times) {
        list.sort_unstable();
        println!("{name}: min {} median {} p90 {} us", list[0], list[100], list[180]);
    }
}
