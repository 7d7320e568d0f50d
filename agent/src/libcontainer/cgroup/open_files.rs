//! The processes of a cgroup and what they have open. Every process has to be looked at, so it is read for metrics only.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How many descriptors of a container are looked at to tell which are sockets: it can have millions, and each costs a system call.
const SOCKETS_AMONG: usize = 10_000;

/// What the processes of a container have open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenFiles {
    /// Processes.
    pub processes: u64,
    /// Their file descriptors.
    pub descriptors: u64,
    /// Those of them that are sockets, among the first 10,000.
    pub sockets: u64,
    /// How many descriptors the first of them may have open before it asks for more; `None` without processes, or a limit.
    pub limit: Option<u64>,
}

impl OpenFiles {
    /// Of these processes; one that ends meanwhile is not counted.
    pub(super) fn of(processes: &[i32]) -> Self {
        let mut open = Self::default();
        let first = processes.iter().min();
        open.limit = first.and_then(|pid| soft_limit(&std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?));
        let mut left = SOCKETS_AMONG;
        for process in processes {
            let folder = format!("/proc/{process}/fd");
            let Ok(metadata) = std::fs::metadata(&folder) else { continue };
            let (seen, sockets) = look(Path::new(&folder), left);
            open.processes += 1;
            // Since Linux 6.2 the folder's size is their number.
            open.descriptors += metadata.size().max(seen);
            open.sockets += sockets;
            left = left.saturating_sub(usize::try_from(seen).unwrap_or(left));
        }
        open
    }
}

/// proc(5), /proc/pid/limits: a line a resource, with its soft and its hard limit.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How many descriptors were looked at, and how many of them are sockets.
fn look(folder: &Path, at_most: usize) -> (u64, u64) {
    let Ok(entries) = std::fs::read_dir(folder) else { return (0, 0) };
    let is_socket = |path: &Path| {
        std::fs::read_link(path).is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
    };
    entries
        .flatten()
        .take(at_most)
        .fold((0, 0), |(seen, sockets), entry| (seen + 1, sockets + u64::from(is_socket(&entry.path()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_descriptors_and_sockets_are_counted() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let with = OpenFiles::of(&[own, i32::MAX]);
        assert_eq!(with.processes, 1, "one that is gone is not counted");
        assert!(with.sockets >= 2 && with.descriptors >= with.sockets, "{with:?}");
        assert_eq!(look(Path::new("/proc/self/fd"), 1).0, 1);
        assert_eq!(with.limit, rustix::process::getrlimit(rustix::process::Resource::Nofile).current);
        assert_eq!(OpenFiles::of(&[]).limit, None);
        drop((one, other));
    }

    #[test]
    fn the_soft_limit_is_the_first_of_its_line() {
        let text = "Limit          Soft Limit  Hard Limit  Units\nMax processes  7           8           processes\n";
        assert_eq!(soft_limit(&format!("{text}Max open files 1024       4096        files\n")), Some(1024));
        assert_eq!(soft_limit(&format!("{text}Max open files unlimited  unlimited   files\n")), None);
        assert_eq!(soft_limit(text), None);
    }
}
