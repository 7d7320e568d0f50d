//! OCI resources to the contents of cgroup files, in an order in which no write fails for what the next one sets right.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::folder::{Folder, Root};
use super::{CgroupError, Layout};

/// A value for a file of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    controller: &'static str,
    file: String,
    value: String,
}

fn write(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Write {
    Write { controller, file: file.into(), value: value.to_string() }
}

/// Sets what is given, and nothing else.
pub(super) fn apply(layout: &Layout, path: &str, resources: &LinuxResources) -> Result<(), CgroupError> {
    let target = Target { layout, path };
    if let Some(cpu) = resources.cpu() {
        target.all(cpuset(cpu))?;
        target.cpu(cpu)?;
    }
    if let Some(memory) = resources.memory() {
        target.memory(memory)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        target.all(vec![write("pids", "pids.max", if limit > 0 { limit.to_string() } else { "max".to_owned() })])?;
    }
    if let Some(io) = resources.block_io() {
        target.all(block_io(io, target.is_v2("io")))?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let (size, bytes) = (limit.page_size(), limit.limit());
        let v2 = target.is_v2("hugetlb");
        let suffix = if v2 { "max" } else { "limit_in_bytes" };
        target.all(vec![write("hugetlb", format!("hugetlb.{size}.{suffix}"), bytes)])?;
        // Reservations are a limit of their own since Linux 5.7; without it a process can take by mmap what it cannot
        // take by faults.
        let reserved = write("hugetlb", format!("hugetlb.{size}.rsvd.{suffix}"), bytes);
        match target.all(vec![reserved]) {
            Err(CgroupError::NoController { .. }) => {}
            result => result?,
        }
    }
    // Last, so that a file named by hand beats what was derived.
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    unified.into_iter().try_for_each(|(file, value)| target.unified(file, value))
}

struct Target<'a> {
    layout: &'a Layout,
    path: &'a str,
}

impl Target<'_> {
    fn home(&self, controller: &str) -> Option<&Root> {
        // blkio's name in v2 is io.
        let v1_name = if controller == "io" { "blkio" } else { controller };
        self.layout.home(v1_name).or_else(|| self.layout.home(controller))
    }

    fn is_v2(&self, controller: &str) -> bool {
        let unified = self.layout.unified();
        self.home(controller).is_some_and(|home| unified.is_some_and(|unified| std::ptr::eq(home, unified)))
    }

    fn folder(&self, wanted: &Write) -> Result<Folder, CgroupError> {
        let Some(root) = self.home(wanted.controller) else { return Err(unavailable(wanted)) };
        root.open(self.path)
    }

    fn all(&self, writes: Vec<Write>) -> Result<(), CgroupError> {
        let Some(first) = writes.first() else { return Ok(()) };
        let folder = self.folder(first)?;
        writes.iter().try_for_each(|one| put(&folder, one))
    }

    fn cpu(&self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        if self.is_v2("cpu") {
            let current = || self.folder(&write("cpu", "cpu.max", ""))?.read("cpu.max");
            let max = match (cpu.quota(), cpu.period()) {
                (None, None) => None,
                // What is not asked for stays as it is.
                (quota, period) => Some(cpu_max(quota, period, &current()?)),
            };
            return self.all(cpu_v2(cpu, max));
        }
        let mut writes = cpu_v1(cpu);
        let limits: Vec<Write> = writes.extract_if(.., |one| one.file.starts_with("cpu.cfs_")).collect();
        self.all(writes)?;
        // A child's share of a period must fit its parent's at each step: where the new period does not fit the old
        // quota (EINVAL), the new quota comes first.
        let reversed: Vec<Write> = limits.iter().rev().cloned().collect();
        match self.all(limits) {
            Err(CgroupError::Write { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                self.all(reversed.clone())?;
                self.all(reversed)
            }
            result => result,
        }
    }

    fn memory(&self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        if self.is_v2("memory") {
            return self.all(memory_v2(memory)?);
        }
        let probe = write("memory", "memory.limit_in_bytes", memory.limit().unwrap_or(-1));
        let folder = self.folder(&probe)?;
        // memory ≤ memory + swap has to hold after each write.
        let current = match memory.swap() {
            Some(_) => folder.number("memory.memsw.limit_in_bytes").ok().flatten(),
            None => None,
        };
        memory_v1(memory, current).iter().try_for_each(|one| put(&folder, one))
    }

    fn unified(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let Some(root) = self.layout.unified() else {
            let (file, value) = (file.to_owned(), value.to_owned());
            return Err(CgroupError::NoController { controller: "unified (cgroup v2)", file, value });
        };
        put(&root.open(self.path)?, &write("unified (cgroup v2)", file, value))
    }
}

fn unavailable(wanted: &Write) -> CgroupError {
    let Write { controller, file, value } = wanted.clone();
    CgroupError::NoController { controller, file, value }
}

/// A file that is not there while its cgroup is: the controller, or the kernel's support for that file, is missing.
fn put(folder: &Folder, wanted: &Write) -> Result<(), CgroupError> {
    match folder.write(&wanted.file, &wanted.value) {
        Err(error) if error.is_not_found() => Err(unavailable(wanted)),
        result => result,
    }
}

fn cpuset(cpu: &LinuxCpu) -> Vec<Write> {
    let mut writes = Vec::new();
    writes.extend(cpu.cpus().as_ref().map(|cpus| write("cpuset", "cpuset.cpus", cpus)));
    writes.extend(cpu.mems().as_ref().map(|mems| write("cpuset", "cpuset.mems", mems)));
    writes
}

fn cpu_v1(cpu: &LinuxCpu) -> Vec<Write> {
    let mut writes = Vec::new();
    writes.extend(cpu.shares().map(|shares| write("cpu", "cpu.shares", shares)));
    writes.extend(cpu.idle().map(|idle| write("cpu", "cpu.idle", idle)));
    writes.extend(cpu.realtime_period().map(|period| write("cpu", "cpu.rt_period_us", period)));
    writes.extend(cpu.realtime_runtime().map(|runtime| write("cpu", "cpu.rt_runtime_us", runtime)));
    writes.extend(cpu.period().map(|period| write("cpu", "cpu.cfs_period_us", period)));
    writes.extend(cpu.quota().map(|quota| write("cpu", "cpu.cfs_quota_us", quota)));
    writes.extend(cpu.burst().map(|burst| write("cpu", "cpu.cfs_burst_us", burst)));
    writes
}

fn cpu_v2(cpu: &LinuxCpu, max: Option<String>) -> Vec<Write> {
    let mut writes = Vec::new();
    writes.extend(cpu.idle().map(|idle| write("cpu", "cpu.idle", idle)));
    // cpu.weight of an idle group cannot be set.
    if cpu.idle() != Some(1) {
        writes.extend(cpu.shares().map(cpu_weight).map(|weight| write("cpu", "cpu.weight", weight)));
    }
    writes.extend(max.map(|max| write("cpu", "cpu.max", max)));
    writes.extend(cpu.burst().map(|burst| write("cpu", "cpu.max.burst", burst)));
    writes
}

/// `quota period`, with what is not given from the file's present content.
fn cpu_max(quota: Option<i64>, period: Option<u64>, current: &str) -> String {
    let mut now = current.split_whitespace();
    let (old_quota, old_period) = (now.next().unwrap_or("max"), now.next().unwrap_or("100000"));
    let quota = match quota {
        Some(quota) if quota > 0 => quota.to_string(),
        Some(_) => "max".to_owned(),
        None => old_quota.to_owned(),
    };
    format!("{quota} {}", period.map_or_else(|| old_period.to_owned(), |period| period.to_string()))
}

/// v1 shares (2 to 262144, 1024 is usual) to v2 weight (1 to 10000, 100 is usual), so that the usual values and both
/// ends meet: weight = 10^((l² + 125 l) / 612 − 7/34) with l = log2(shares), as in runc 1.3.2, crun and kubelet.
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
        }
    }
}

fn memory_v1(memory: &LinuxMemory, current_both: Option<u64>) -> Vec<Write> {
    let mut writes = Vec::new();
    let limit = memory.limit().map(|limit| write("memory", "memory.limit_in_bytes", limit));
    let both = memory.swap().map(|both| write("memory", "memory.memsw.limit_in_bytes", both));
    let raised = match (memory.limit(), current_both) {
        (Some(limit), Some(current)) => limit < 0 || limit as u64 > current,
        _ => false,
    };
    if raised {
        writes.extend(both.into_iter().chain(limit));
    } else {
        writes.extend(limit.into_iter().chain(both));
    }
    writes.extend(memory.reservation().map(|low| write("memory", "memory.soft_limit_in_bytes", low)));
    writes.extend(memory.swappiness().map(|value| write("memory", "memory.swappiness", value)));
    if memory.disable_oom_killer() == Some(true) {
        writes.push(write("memory", "memory.oom_control", 1));
    }
    writes
}

/// The OCI's swap is memory and swap together, v2's is swap alone.
fn memory_v2(memory: &LinuxMemory) -> Result<Vec<Write>, CgroupError> {
    let max = |bytes: i64| if bytes < 0 { "max".to_owned() } else { bytes.to_string() };
    let mut writes = Vec::new();
    if let Some(both) = memory.swap() {
        let swap = match memory.limit() {
            _ if both < 0 => "max".to_owned(),
            Some(limit) if limit >= 0 && both >= limit => (both - limit).to_string(),
            _ => {
                return Err(CgroupError::Write {
                    file: "memory.swap.max".into(),
                    value: both.to_string(),
                    source: std::io::Error::new(
                        std::io::ErrorKind::InvalidInput,
                        "a limit on memory and swap needs a memory limit that is not above it",
                    ),
                });
            }
        };
        writes.push(write("memory", "memory.swap.max", swap));
    }
    writes.extend(memory.limit().map(|limit| write("memory", "memory.max", max(limit))));
    writes.extend(memory.reservation().map(|low| write("memory", "memory.low", max(low))));
    Ok(writes)
}

fn block_io(io: &LinuxBlockIo, v2: bool) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(weight) = io.weight().filter(|&weight| weight != 0) {
        let weight = u64::from(weight);
        // 10–1000 to 1–10000.
        let converted = 1 + (weight.saturating_sub(10)) * 9999 / 990;
        writes.push(if v2 {
            write("io", "io.weight", format!("default {converted}"))
        } else {
            write("io", "blkio.bfq.weight", weight)
        });
    }
    let throttles = [
        (io.throttle_read_bps_device(), "blkio.throttle.read_bps_device", "rbps"),
        (io.throttle_write_bps_device(), "blkio.throttle.write_bps_device", "wbps"),
        (io.throttle_read_iops_device(), "blkio.throttle.read_iops_device", "riops"),
        (io.throttle_write_iops_device(), "blkio.throttle.write_iops_device", "wiops"),
    ];
    for (list, v1_file, v2_key) in throttles {
        for device in list.iter().flatten() {
            writes.push(throttle(device, v1_file, v2_key, v2));
        }
    }
    writes
}

fn throttle(device: &LinuxThrottleDevice, v1_file: &str, v2_key: &str, v2: bool) -> Write {
    let (major, minor, rate) = (device.major(), device.minor(), device.rate());
    match (v2, rate) {
        (true, 0) => write("io", "io.max", format!("{major}:{minor} {v2_key}=max")),
        (true, rate) => write("io", "io.max", format!("{major}:{minor} {v2_key}={rate}")),
        (false, rate) => write("io", v1_file, format!("{major}:{minor} {rate}")),
    }
}

/// A new v1 cpuset is empty, and nothing can run in it until it has its parent's processors and memory nodes.
pub(super) fn inherit_cpuset(root: &Root, path: &str) -> Result<(), CgroupError> {
    let folder = root.open(path)?;
    let parent = root.open(path.rsplit_once('/').map_or("", |(parent, _)| parent))?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if folder.read(file)?.trim().is_empty() {
            folder.write(file, parent.read(file)?.trim())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(writes: &[Write]) -> Vec<String> {
        writes.iter().map(|one| format!("{}={}", one.file, one.value)).collect()
    }

    fn memory(limit: Option<i64>, swap: Option<i64>) -> LinuxMemory {
        let mut memory = LinuxMemory::default();
        memory.set_limit(limit).set_swap(swap);
        memory
    }

    #[test]
    fn weights_meet_at_both_ends_and_in_the_middle() {
        let table =
            [(0, 1), (2, 1), (3, 2), (102, 17), (1024, 100), (2048, 174), (262_144, 10_000), (u64::MAX, 10_000)];
        for (shares, weight) in table {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        assert!((2..300_000).step_by(97).all(|shares| cpu_weight(shares) <= cpu_weight(shares + 97)));
    }

    #[test]
    fn v1_memory_never_passes_memory_and_swap() {
        let down = memory_v1(&memory(Some(100), Some(100)), Some(1000));
        assert_eq!(lines(&down), ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=100"]);
        let up = memory_v1(&memory(Some(2000), Some(2000)), Some(1000));
        assert_eq!(lines(&up), ["memory.memsw.limit_in_bytes=2000", "memory.limit_in_bytes=2000"]);
        let off = memory_v1(&memory(Some(-1), Some(-1)), Some(1000));
        assert_eq!(lines(&off), ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]);
    }

    #[test]
    fn v2_swap_is_swap_alone() {
        let equal = memory_v2(&memory(Some(100), Some(100))).unwrap();
        assert_eq!(lines(&equal), ["memory.swap.max=0", "memory.max=100"]);
        let more = memory_v2(&memory(Some(100), Some(150))).unwrap();
        assert_eq!(lines(&more), ["memory.swap.max=50", "memory.max=100"]);
        assert_eq!(lines(&memory_v2(&memory(None, Some(-1))).unwrap()), ["memory.swap.max=max"]);
        assert!(memory_v2(&memory(None, Some(5))).is_err());
        assert!(memory_v2(&memory(Some(9), Some(5))).is_err());
    }

    #[test]
    fn cpu_max_keeps_what_is_not_given() {
        assert_eq!(cpu_max(Some(5), Some(10), "max 100000"), "5 10");
        assert_eq!(cpu_max(Some(-1), None, "7 10"), "max 10");
        assert_eq!(cpu_max(None, Some(20), "7 10\n"), "7 20");
    }

    #[test]
    fn io_limits_in_both_words() {
        let device =
            oci_spec::runtime::LinuxThrottleDeviceBuilder::default().major(8).minor(0).rate(1000u64).build().unwrap();
        let mut io = LinuxBlockIo::default();
        io.set_weight(Some(500)).set_throttle_read_bps_device(Some(vec![device]));
        assert_eq!(lines(&block_io(&io, false)), ["blkio.bfq.weight=500", "blkio.throttle.read_bps_device=8:0 1000"]);
        assert_eq!(lines(&block_io(&io, true)), ["io.weight=default 4950", "io.max=8:0 rbps=1000"]);
    }
}
