//! OCI resources to the contents of cgroup files, in an order in which no write fails for what the next one sets right. Pure.

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::block_io::block_io;
use super::rare;
use crate::libcontainer::cgroup::CgroupError;

/// The hierarchy of files that are named by hand.
pub(super) const UNIFIED: &str = "unified (cgroup v2)";

/// A value for a file of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) controller: &'static str,
    pub(super) file: String,
    pub(super) value: String,
    pub(super) missing: Missing,
}

/// What is done where the file is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// The limit cannot be had, and nothing of the others is.
    Refuse,
    /// The limit is an addition to one that is there.
    Skip,
    /// Another file does the same in other kernels.
    Instead(Box<Write>),
}

/// What the plan depends on.
pub(super) struct Host<'a> {
    /// The controller is on the unified hierarchy.
    pub(super) is_v2: &'a dyn Fn(&str) -> bool,
    /// What a file of a controller holds now; `None` in a new cgroup, where the kernel's own values are known.
    pub(super) current: &'a dyn Fn(&'static str, &str) -> Option<String>,
}

impl Host<'_> {
    fn number(&self, controller: &'static str, file: &str) -> Option<i64> {
        (self.current)(controller, file)?.trim().parse().ok()
    }
}

pub(super) fn write(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Write {
    Write { controller, file: file.into(), value: value.to_string(), missing: Missing::Refuse }
}

impl Write {
    pub(super) fn or(self, other: Write) -> Write {
        Write { missing: Missing::Instead(Box::new(other)), ..self }
    }
}

/// The writes that set what is given, and nothing else.
pub(super) fn plan(resources: &LinuxResources, host: &Host<'_>) -> Result<Vec<Write>, CgroupError> {
    let mut writes = Vec::new();
    if let Some(one) = resources.cpu() {
        writes.extend(cpuset(one));
        writes.extend(cpu(one, host));
    }
    if let Some(memory) = resources.memory() {
        writes.extend(if (host.is_v2)("memory") { memory_v2(memory)? } else { memory_v1(memory, host) });
        writes.extend(rare::kernel_memory(memory));
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        writes.push(write("pids", "pids.max", if limit > 0 { limit.to_string() } else { "max".to_owned() }));
    }
    if let Some(io) = resources.block_io() {
        writes.extend(block_io(io, (host.is_v2)("io")));
        writes.extend(rare::leaf_weights(io));
    }
    writes.extend(resources.network().iter().flat_map(rare::network));
    writes.extend(resources.rdma().iter().flatten().map(|(device, limits)| rare::rdma(device, limits)));
    writes.extend(resources.hugepage_limits().iter().flatten().flat_map(|limit| hugepages(limit, host)));
    // Last, so that a file named by hand beats what was derived.
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    writes.extend(unified.into_iter().map(|(file, value)| write(UNIFIED, file, value)));
    Ok(writes)
}

fn cpuset(cpu: &LinuxCpu) -> Vec<Write> {
    let mut writes = Vec::new();
    writes.extend(cpu.cpus().as_ref().map(|cpus| write("cpuset", "cpuset.cpus", cpus)));
    writes.extend(cpu.mems().as_ref().map(|mems| write("cpuset", "cpuset.mems", mems)));
    writes
}

fn cpu(cpu: &LinuxCpu, host: &Host<'_>) -> Vec<Write> {
    if !(host.is_v2)("cpu") {
        return cpu_v1(cpu, host);
    }
    let mut writes = Vec::new();
    writes.extend(cpu.idle().map(|idle| write("cpu", "cpu.idle", idle)));
    // cpu.weight of an idle group cannot be set.
    if cpu.idle() != Some(1) {
        writes.extend(cpu.shares().map(cpu_weight).map(|weight| write("cpu", "cpu.weight", weight)));
    }
    if cpu.quota().is_some() || cpu.period().is_some() {
        // What is not asked for stays as it is.
        let current = (host.current)("cpu", "cpu.max").unwrap_or_default();
        writes.push(write("cpu", "cpu.max", cpu_max(cpu.quota(), cpu.period(), &current)));
    }
    writes.extend(cpu.burst().map(|burst| write("cpu", "cpu.max.burst", burst)));
    writes
}

/// A child's share of a period must fit its parent's at each step, so that the step between is the smaller share: a
/// longer period comes before its quota, a shorter one after it. A burst must not be above the quota.
fn cpu_v1(cpu: &LinuxCpu, host: &Host<'_>) -> Vec<Write> {
    let mut writes = Vec::new();
    writes.extend(cpu.shares().map(|shares| write("cpu", "cpu.shares", shares)));
    writes.extend(cpu.idle().map(|idle| write("cpu", "cpu.idle", idle)));
    writes.extend(cpu.realtime_period().map(|period| write("cpu", "cpu.rt_period_us", period)));
    writes.extend(cpu.realtime_runtime().map(|runtime| write("cpu", "cpu.rt_runtime_us", runtime)));
    let period = cpu.period().map(|period| write("cpu", "cpu.cfs_period_us", period));
    let quota = cpu.quota().map(|quota| write("cpu", "cpu.cfs_quota_us", quota));
    let burst = cpu.burst().map(|burst| write("cpu", "cpu.cfs_burst_us", burst));
    let below = |new: Option<u64>, file| {
        let old = host.number("cpu", file).and_then(|old| u64::try_from(old).ok());
        new.zip(old).is_some_and(|(new, old)| new < old)
    };
    let shorter = below(cpu.period(), "cpu.cfs_period_us");
    let (first, last) = if below(cpu.burst(), "cpu.cfs_burst_us") { (burst, None) } else { (None, burst) };
    writes.extend(first);
    writes.extend(if shorter { [quota, period] } else { [period, quota] }.into_iter().flatten());
    writes.extend(last);
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

/// memory ≤ memory + swap has to hold after each write: a limit above the present sum comes after the new sum.
fn memory_v1(memory: &LinuxMemory, host: &Host<'_>) -> Vec<Write> {
    let mut writes = Vec::new();
    let limit = memory.limit().map(|limit| write("memory", "memory.limit_in_bytes", limit));
    let both = memory.swap().map(|both| write("memory", "memory.memsw.limit_in_bytes", both));
    let raised = match (memory.limit(), memory.swap()) {
        (Some(limit), Some(_)) => {
            let sum = host.number("memory", "memory.memsw.limit_in_bytes");
            sum.is_some_and(|sum| limit < 0 || limit > sum)
        }
        _ => false,
    };
    writes.extend(if raised { [both, limit] } else { [limit, both] }.into_iter().flatten());
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

fn hugepages(limit: &LinuxHugepageLimit, host: &Host<'_>) -> [Write; 2] {
    let (size, bytes) = (limit.page_size(), limit.limit());
    let suffix = if (host.is_v2)("hugetlb") { "max" } else { "limit_in_bytes" };
    // Reservations are a limit of their own since Linux 5.7; without it a process can take by mmap what it cannot take
    // by faults.
    let reserved = write("hugetlb", format!("hugetlb.{size}.rsvd.{suffix}"), bytes);
    [write("hugetlb", format!("hugetlb.{size}.{suffix}"), bytes), Write { missing: Missing::Skip, ..reserved }]
}

#[cfg(test)]
mod tests;
