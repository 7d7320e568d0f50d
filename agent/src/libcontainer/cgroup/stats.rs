//! Usage of a cgroup, in the same words for both versions.

use super::folder::Root;
use super::psi::{self, Psi};
use super::{Cgroup, CgroupError};

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupStats {
    /// CPU time of all its processes since it was made, in ns.
    pub cpu_usage_ns: u64,
    /// All memory charged to it, in bytes.
    pub memory_usage: u64,
    /// Without the page cache that the kernel would drop first; what kubelet evicts by.
    pub memory_working_set: u64,
    /// Anonymous memory, in bytes.
    pub memory_rss: u64,
    /// Page faults; `major` ones waited for a disk.
    pub page_faults: u64,
    /// See `page_faults`.
    pub major_page_faults: u64,
    /// `None`: no limit.
    pub memory_limit: Option<u64>,
    /// Swap in use, in bytes, where the kernel accounts it.
    pub swap_usage: Option<u64>,
    /// `None`: no limit, or not accounted.
    pub swap_limit: Option<u64>,
    /// Waiting for a processor; like the others `None` where the kernel does not tell it or there is no unified hierarchy.
    pub cpu_psi: Option<Psi>,
    /// Waiting for memory.
    pub memory_psi: Option<Psi>,
    /// Waiting for disks.
    pub io_psi: Option<Psi>,
}

/// v1 says "no limit" as the largest page-aligned number.
const V1_UNLIMITED: u64 = 1 << 60;

/// The files of one cgroup, read one after the other into the same buffer.
pub(super) struct Files<'a> {
    root: &'a Root,
    path: &'a str,
    buffer: Vec<u8>,
}

impl<'a> Files<'a> {
    pub(super) fn new(root: &'a Root, path: &'a str) -> Self {
        Self { root, path, buffer: Vec::new() }
    }

    pub(super) fn read(&mut self, file: &str) -> Result<&str, CgroupError> {
        self.root.read(self.path, file, &mut self.buffer)
    }

    /// A file that holds one number; `max` is none.
    pub(super) fn number(&mut self, file: &str) -> Result<Option<u64>, CgroupError> {
        Ok(self.read(file)?.trim().parse().ok())
    }
}

impl CgroupStats {
    /// What several cgroups use together. Limits and pressures do not add up and are none.
    pub fn sum<'a>(all: impl Iterator<Item = &'a CgroupStats>) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            cpu_usage_ns: sum.cpu_usage_ns + one.cpu_usage_ns,
            memory_usage: sum.memory_usage + one.memory_usage,
            memory_working_set: sum.memory_working_set + one.memory_working_set,
            memory_rss: sum.memory_rss + one.memory_rss,
            page_faults: sum.page_faults + one.page_faults,
            major_page_faults: sum.major_page_faults + one.major_page_faults,
            ..sum
        })
    }
}

impl Cgroup {
    /// Reads the counters now.
    ///
    /// # Errors
    /// `CgroupError::Io` when the cgroup is gone.
    pub fn stats(&self) -> Result<CgroupStats, CgroupError> {
        let mut stats = CgroupStats::default();
        let files = |root| Files::new(root, &self.path);
        if let Some(root) = self.layout.unified() {
            pressure(&mut files(root), &mut stats);
        }
        if self.layout.is_unified() {
            let Some(root) = self.layout.unified() else { return Ok(stats) };
            let mut files = files(root);
            stats.cpu_usage_ns = 1000 * value(files.read("cpu.stat")?, "usage_usec");
            if root.has("memory") {
                memory_v2(&mut files, &mut stats)?;
            }
            return Ok(stats);
        }
        if let Some(root) = self.layout.home("cpuacct") {
            stats.cpu_usage_ns = files(root).number("cpuacct.usage")?.unwrap_or(0);
        }
        if let Some(root) = self.layout.home("memory") {
            memory_v1(&mut files(root), &mut stats)?;
        }
        Ok(stats)
    }

    /// Its processes and threads, as the pids controller counts them; `None` on a host without.
    ///
    /// # Errors
    /// `CgroupError::Io` when the cgroup is gone.
    pub fn tasks(&self) -> Result<Option<u64>, CgroupError> {
        let Some(root) = self.layout.home("pids") else { return Ok(None) };
        Files::new(root, &self.path).number("pids.current")
    }

    /// How many processes the kernel killed here because the memory limit was reached.
    ///
    /// # Errors
    /// `CgroupError::Io` when the cgroup is gone.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let Some(root) = self.layout.home("memory") else { return Ok(0) };
        let file = if self.layout.is_unified() { "memory.events" } else { "memory.oom_control" };
        Ok(value(&root.open(&self.path)?.read(file)?, "oom_kill"))
    }
}

/// The files are there whichever hierarchy has the controllers, but not on a kernel without PSI; the CPU's tells for all.
fn pressure(files: &mut Files<'_>, stats: &mut CgroupStats) {
    let Ok(text) = files.read("cpu.pressure") else { return };
    stats.cpu_psi = psi::parse(text);
    stats.memory_psi = files.read("memory.pressure").ok().and_then(psi::parse);
    stats.io_psi = files.read("io.pressure").ok().and_then(psi::parse);
}

fn memory_v2(files: &mut Files<'_>, stats: &mut CgroupStats) -> Result<(), CgroupError> {
    stats.memory_usage = files.number("memory.current")?.unwrap_or(0);
    let detail = files.read("memory.stat")?;
    stats.memory_working_set = stats.memory_usage.saturating_sub(value(detail, "inactive_file"));
    stats.memory_rss = value(detail, "anon");
    stats.page_faults = value(detail, "pgfault");
    stats.major_page_faults = value(detail, "pgmajfault");
    stats.memory_limit = files.number("memory.max")?;
    // Without swap accounting the files are not there.
    stats.swap_usage = files.number("memory.swap.current").ok().flatten();
    stats.swap_limit = files.number("memory.swap.max").ok().flatten();
    Ok(())
}

fn memory_v1(files: &mut Files<'_>, stats: &mut CgroupStats) -> Result<(), CgroupError> {
    stats.memory_usage = files.number("memory.usage_in_bytes")?.unwrap_or(0);
    let detail = files.read("memory.stat")?;
    stats.memory_working_set = stats.memory_usage.saturating_sub(value(detail, "total_inactive_file"));
    stats.memory_rss = value(detail, "total_rss");
    stats.page_faults = value(detail, "total_pgfault");
    stats.major_page_faults = value(detail, "total_pgmajfault");
    // Without swap accounting there is no such line.
    stats.swap_usage = find(detail, "total_swap");
    let limited = |number: Option<u64>| number.filter(|&limit| limit < V1_UNLIMITED);
    // The least of its own and its parents': where there is none at all, the file of its own need not be read.
    let is_limited = find(detail, "hierarchical_memory_limit").is_none_or(|limit| limit < V1_UNLIMITED);
    stats.memory_limit = if is_limited { limited(files.number("memory.limit_in_bytes")?) } else { None };
    // The limit of both together is never below that of memory, so without the one there is not the other.
    if let (Some(memory), Some(_)) = (stats.memory_limit, stats.swap_usage) {
        let both = limited(files.number("memory.memsw.limit_in_bytes").ok().flatten());
        stats.swap_limit = both.map(|both| both.saturating_sub(memory));
    }
    Ok(())
}

/// The number behind a key in a flat-keyed file; 0 when there is none.
pub(super) fn value(text: &str, key: &str) -> u64 {
    find(text, key).unwrap_or(0)
}

pub(super) fn find(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_words() {
        let text = "total_inactive_file 5\ninactive_file 3\nbroken\noom_kill_disable 0\noom_kill 2\n";
        assert_eq!(value(text, "inactive_file"), 3);
        assert_eq!(value(text, "oom_kill"), 2);
        assert_eq!(value(text, "absent"), 0);
    }
}
