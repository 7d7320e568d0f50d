//! Usage of a cgroup, in the same words for both versions.

use super::folder::Folder;
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
    /// Processes and threads.
    pub pids: u64,
}

/// v1 says "no limit" as the largest page-aligned number.
const V1_UNLIMITED: u64 = 1 << 60;

impl Cgroup {
    /// Reads the counters now.
    ///
    /// # Errors
    /// `CgroupError::Io` when the cgroup is gone.
    pub fn stats(&self) -> Result<CgroupStats, CgroupError> {
        let mut stats = CgroupStats::default();
        let open = |controller| self.layout.home(controller).map(|root| root.open(&self.path)).transpose();
        if self.layout.is_unified() {
            let Some(root) = self.layout.unified() else { return Ok(stats) };
            let folder = root.open(&self.path)?;
            stats.cpu_usage_ns = 1000 * value(&folder.read("cpu.stat")?, "usage_usec");
            if root.has("memory") {
                memory_v2(&folder, &mut stats)?;
            }
            if root.has("pids") {
                stats.pids = folder.number("pids.current")?.unwrap_or(0);
            }
            return Ok(stats);
        }
        if let Some(folder) = open("cpuacct")? {
            stats.cpu_usage_ns = folder.number("cpuacct.usage")?.unwrap_or(0);
        }
        if let Some(folder) = open("memory")? {
            memory_v1(&folder, &mut stats)?;
        }
        if let Some(folder) = open("pids")? {
            stats.pids = folder.number("pids.current")?.unwrap_or(0);
        }
        Ok(stats)
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

fn memory_v2(folder: &Folder, stats: &mut CgroupStats) -> Result<(), CgroupError> {
    let detail = folder.read("memory.stat")?;
    stats.memory_usage = folder.number("memory.current")?.unwrap_or(0);
    stats.memory_working_set = stats.memory_usage.saturating_sub(value(&detail, "inactive_file"));
    stats.memory_rss = value(&detail, "anon");
    stats.page_faults = value(&detail, "pgfault");
    stats.major_page_faults = value(&detail, "pgmajfault");
    stats.memory_limit = folder.number("memory.max")?;
    // Without swap accounting the files are not there.
    stats.swap_usage = folder.number("memory.swap.current").ok().flatten();
    stats.swap_limit = folder.number("memory.swap.max").ok().flatten();
    Ok(())
}

fn memory_v1(folder: &Folder, stats: &mut CgroupStats) -> Result<(), CgroupError> {
    let detail = folder.read("memory.stat")?;
    stats.memory_usage = folder.number("memory.usage_in_bytes")?.unwrap_or(0);
    stats.memory_working_set = stats.memory_usage.saturating_sub(value(&detail, "total_inactive_file"));
    stats.memory_rss = value(&detail, "total_rss");
    stats.page_faults = value(&detail, "total_pgfault");
    stats.major_page_faults = value(&detail, "total_pgmajfault");
    let limited = |number: Option<u64>| number.filter(|&limit| limit < V1_UNLIMITED);
    stats.memory_limit = limited(folder.number("memory.limit_in_bytes")?);
    let both = folder.number("memory.memsw.usage_in_bytes").ok().flatten();
    stats.swap_usage = both.map(|both| both.saturating_sub(stats.memory_usage));
    let both = limited(folder.number("memory.memsw.limit_in_bytes").ok().flatten());
    stats.swap_limit = both.map(|both| both.saturating_sub(stats.memory_limit.unwrap_or(0)));
    Ok(())
}

/// The number behind a key in a flat-keyed file.
fn value(text: &str, key: &str) -> u64 {
    let find = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(find).unwrap_or(0)
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
