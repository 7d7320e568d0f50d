//! How often the kernel's OOM killer took a process of a container: the kernel's own count, so nothing is guessed.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};

use super::cgroup_tree::read_all;
use super::container::Cgroup;

/// The counts at one moment; a cgroup that is gone has none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OomKills {
    own: Option<u64>,
    /// Those of the cgroup around it, with all below it: on v2 only, where a removed cgroup's kills stay in it.
    around: Option<u64>,
}

impl OomKills {
    /// Counts (v2 memory.events, v1 memory.oom_control).
    pub(super) fn of(cgroup: &Cgroup) -> Self {
        let Some(own) = &cgroup.memory else { return Self::default() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let around = openat(own, "..", flags, Mode::empty()).ok();
        Self {
            own: count(own, "memory.events").or_else(|| count(own, "memory.oom_control")),
            around: around.and_then(|around| count(&around, "memory.events")),
        }
    }

    /// How many there were since `before`. systemd removes a scope that nobody is in any more, and may do so before this process
    /// gets to look. Then the pod's own count tells; if another of its containers has had an OOM kill meanwhile, too, it is taken
    /// for this one's.
    pub(super) fn since(self, before: Self) -> u64 {
        match (self.own, before.own, self.around, before.around) {
            (Some(own), Some(before), ..) => own.saturating_sub(before),
            (None, Some(_), Some(around), Some(before)) => around.saturating_sub(before),
            _ => 0,
        }
    }
}

fn count(folder: &OwnedFd, file: &str) -> Option<u64> {
    let file = openat(folder, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let text = read_all(&file);
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_count_tells_when_the_containers_is_gone() {
        let counts = |own, around| OomKills { own, around };
        let before = counts(Some(1), Some(5));
        assert_eq!(counts(Some(2), Some(6)).since(before), 1);
        assert_eq!(counts(Some(1), Some(6)).since(before), 0, "it was another's");
        assert_eq!(counts(None, Some(6)).since(before), 1);
        assert_eq!(counts(None, Some(5)).since(before), 0);
        assert_eq!(counts(None, None).since(before), 0);
        // v1 has no count around it, and removes nothing by itself.
        assert_eq!(counts(Some(1), None).since(counts(Some(0), None)), 1);
        assert_eq!(OomKills::default().since(OomKills::default()), 0);
    }
}
