//! The counters of a cgroup that only metrics have a name for: read when somebody asks for those.

use super::stats::{Files, find, value};
use super::{Cgroup, CgroupError, HugePages, OpenFiles, huge_pages};

/// What a container used and was refused since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// CPU time outside the kernel, in ns.
    pub cpu_user_ns: u64,
    /// CPU time in the kernel, in ns.
    pub cpu_system_ns: u64,
    /// Periods of its CPU quota; 0 without one.
    pub cpu_periods: u64,
    /// Those in which the quota was used up.
    pub cpu_throttled_periods: u64,
    /// How long it waited then, in ns.
    pub cpu_throttled_ns: u64,
    /// Page cache, in bytes.
    pub memory_cache: u64,
    /// Files mapped into memory, in bytes.
    pub memory_mapped: u64,
    /// Memory that the kernel needs for it, in bytes.
    pub memory_kernel: u64,
    /// The most that it used, in bytes; `None` where the kernel does not keep it (v2 before Linux 5.19).
    pub memory_peak: Option<u64>,
    /// How often it met its memory limit.
    pub memory_failures: u64,
    /// Processes that the kernel killed for memory.
    pub oom_kills: u64,
    /// Processes and threads; `None` without the pids controller.
    pub tasks: Option<u64>,
    /// Limit on them; `None`: no limit.
    pub tasks_limit: Option<u64>,
    /// What it read from and wrote to each disk.
    pub disks: Vec<DiskCounters>,
    /// Its huge pages, by their size.
    pub huge_pages: Vec<HugePages>,
    /// Its processes and what they have open.
    pub open: OpenFiles,
}

/// What a cgroup read from and wrote to one disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Device number: major and minor.
    pub device: (u32, u32),
    /// Bytes read.
    pub read_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Writes.
    pub writes: u64,
}

impl Cgroup {
    /// Reads them now.
    ///
    /// # Errors
    /// `CgroupError::Io` when the cgroup is gone.
    pub fn counters(&self) -> Result<Counters, CgroupError> {
        let (oom_kills, tasks, open) = (self.oom_kills()?, self.tasks()?, OpenFiles::of(&self.processes()?));
        let mut counters = Counters { oom_kills, tasks, open, ..Counters::default() };
        let files = |controller| self.layout.home(controller).map(|root| Files::new(root, &self.path));
        if let Some(mut files) = files("pids") {
            counters.tasks_limit = files.number("pids.max")?;
        }
        if let Some(mut files) = files("hugetlb").filter(|_| self.layout.counts_huge_pages()) {
            counters.huge_pages = huge_pages::read(&mut files);
        }
        if self.layout.is_unified() { v2(files, &mut counters) } else { v1(files, &mut counters) }?;
        Ok(counters)
    }
}

fn v2<'a>(files: impl Fn(&'static str) -> Option<Files<'a>>, counters: &mut Counters) -> Result<(), CgroupError> {
    if let Some(mut files) = files("cpu") {
        let text = files.read("cpu.stat")?;
        counters.cpu_user_ns = 1000 * value(text, "user_usec");
        counters.cpu_system_ns = 1000 * value(text, "system_usec");
        counters.cpu_periods = value(text, "nr_periods");
        counters.cpu_throttled_periods = value(text, "nr_throttled");
        counters.cpu_throttled_ns = 1000 * value(text, "throttled_usec");
    }
    if let Some(mut files) = files("memory") {
        let text = files.read("memory.stat")?;
        counters.memory_cache = value(text, "file");
        counters.memory_mapped = value(text, "file_mapped");
        counters.memory_kernel = value(text, "kernel");
        counters.memory_failures = value(files.read("memory.events")?, "max");
        counters.memory_peak = files.number("memory.peak").ok().flatten();
    }
    if let Some(mut files) = files("io") {
        counters.disks = io_stat(files.read("io.stat")?);
    }
    Ok(())
}

fn v1<'a>(files: impl Fn(&'static str) -> Option<Files<'a>>, counters: &mut Counters) -> Result<(), CgroupError> {
    if let Some(mut files) = files("cpuacct") {
        counters.cpu_user_ns = files.number("cpuacct.usage_user")?.unwrap_or(0);
        counters.cpu_system_ns = files.number("cpuacct.usage_sys")?.unwrap_or(0);
    }
    if let Some(mut files) = files("cpu") {
        let text = files.read("cpu.stat")?;
        counters.cpu_periods = value(text, "nr_periods");
        counters.cpu_throttled_periods = value(text, "nr_throttled");
        counters.cpu_throttled_ns = value(text, "throttled_time");
    }
    if let Some(mut files) = files("memory") {
        let text = files.read("memory.stat")?;
        counters.memory_cache = value(text, "total_cache");
        counters.memory_mapped = value(text, "total_mapped_file");
        counters.memory_failures = files.number("memory.failcnt")?.unwrap_or(0);
        counters.memory_peak = files.number("memory.max_usage_in_bytes")?;
        // A kernel without kernel memory accounting has no such file.
        counters.memory_kernel = files.number("memory.kmem.usage_in_bytes").ok().flatten().unwrap_or(0);
    }
    if let Some(mut files) = files("blkio") {
        // Schedulers keep numbers of their own; these are there with all of them.
        let bytes = files.read("blkio.throttle.io_service_bytes_recursive")?.to_owned();
        counters.disks = blkio(&bytes, files.read("blkio.throttle.io_serviced_recursive")?);
    }
    Ok(())
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …` a line.
fn io_stat(text: &str) -> Vec<DiskCounters> {
    let disk = |line: &str| {
        let (name, fields) = line.split_once(' ')?;
        let number = |key: &str| {
            fields.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('=')?.parse().ok()).unwrap_or(0)
        };
        Some(DiskCounters {
            device: device(name)?,
            read_bytes: number("rbytes"),
            reads: number("rios"),
            written_bytes: number("wbytes"),
            writes: number("wios"),
        })
    };
    text.lines().filter_map(disk).collect()
}

/// `8:0 Read 1` a line, in one file for bytes and in one for requests, and a total without a device.
fn blkio(bytes: &str, requests: &str) -> Vec<DiskCounters> {
    let mut names: Vec<&str> = bytes.lines().filter_map(|line| line.split_once(' ')).map(|(name, _)| name).collect();
    names.dedup();
    let disk = |name: &str| {
        Some(DiskCounters {
            device: device(name)?,
            read_bytes: find(bytes, &format!("{name} Read")).unwrap_or(0),
            reads: find(requests, &format!("{name} Read")).unwrap_or(0),
            written_bytes: find(bytes, &format!("{name} Write")).unwrap_or(0),
            writes: find(requests, &format!("{name} Write")).unwrap_or(0),
        })
    };
    names.into_iter().filter_map(disk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: DiskCounters = DiskCounters { device: (8, 0), read_bytes: 1, reads: 3, written_bytes: 2, writes: 4 };

    #[test]
    fn disks_are_read_in_both_words() {
        assert_eq!(io_stat("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nbroken\n"), [DISK]);
        let bytes = "8:0 Read 1\n8:0 Write 2\n8:0 Sync 0\n8:0 Total 3\nTotal 3\n";
        assert_eq!(blkio(bytes, "8:0 Read 3\n8:0 Write 4\n8:0 Total 7\nTotal 7\n"), [DISK]);
        assert_eq!(blkio("Total 0\n", "Total 0\n"), []);
        assert_eq!(io_stat(""), []);
    }
}
