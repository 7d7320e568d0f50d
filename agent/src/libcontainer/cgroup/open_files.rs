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
}

impl OpenFiles {
    /// Of these processes; one that ends meanwhile is not counted.
    pub(super) fn of(processes: &[i32]) -> Self {
        let mut open = Self::default();
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
        drop((one, other));
    }
}
