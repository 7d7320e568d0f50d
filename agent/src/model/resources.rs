//! What a container may use now, as UpdateContainerResources left it.

use cri_api::v1::{HugepageLimit, LinuxContainerResources};
use serde::{Deserialize, Serialize};

/// Limits that were changed, kept in the container's `resources` file; a container whose limits are those that it was made
/// with has none.
///
/// The file is written before a cgroup is: with the limits before the change, and with what takes the change back. It
/// is written again, with the new limits and nothing to take back, once all of them are in force; that moment makes
/// the change. An agent that finds something to take back has died in between, and takes it back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// As ContainerStatus tells them: the request's, with all changes so far.
    pub in_force: LinuxContainerResources,
    /// What takes back a change under way, in the order in which the change is made; none when there is none under way.
    #[serde(default)]
    pub undo: Vec<CgroupValue>,
}

/// What a file of a cgroup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupValue {
    /// Whose hierarchy: a controller, or the unified one.
    pub controller: String,
    /// The file's name.
    pub file: String,
    /// As it is written.
    pub value: String,
}

/// The limits after a change: what the change does not name (zero, empty) stays as it is, as in containerd and CRI-O.
pub fn merged(now: &LinuxContainerResources, change: &LinuxContainerResources) -> LinuxContainerResources {
    let number = |now: i64, change: i64| if change == 0 { now } else { change };
    let text = |now: &str, change: &str| if change.is_empty() { now.to_owned() } else { change.to_owned() };
    let mut unified = now.unified.clone();
    unified.extend(change.unified.clone());
    LinuxContainerResources {
        cpu_period: number(now.cpu_period, change.cpu_period),
        cpu_quota: number(now.cpu_quota, change.cpu_quota),
        cpu_shares: number(now.cpu_shares, change.cpu_shares),
        memory_limit_in_bytes: number(now.memory_limit_in_bytes, change.memory_limit_in_bytes),
        // Memory and swap together: a new limit on memory without one is a limit on both, as when a container is made.
        memory_swap_limit_in_bytes: match change.memory_limit_in_bytes {
            0 => number(now.memory_swap_limit_in_bytes, change.memory_swap_limit_in_bytes),
            _ => change.memory_swap_limit_in_bytes,
        },
        oom_score_adj: number(now.oom_score_adj, change.oom_score_adj),
        cpuset_cpus: text(&now.cpuset_cpus, &change.cpuset_cpus),
        cpuset_mems: text(&now.cpuset_mems, &change.cpuset_mems),
        hugepage_limits: merged_hugepages(&now.hugepage_limits, &change.hugepage_limits),
        unified,
    }
}

fn merged_hugepages(now: &[HugepageLimit], change: &[HugepageLimit]) -> Vec<HugepageLimit> {
    let kept = now.iter().filter(|old| change.iter().all(|new| new.page_size != old.page_size));
    kept.chain(change).cloned().collect()
}

/// What has to be written for a change: its own fields, and where memory and swap depend on each other, both.
pub fn to_write(merged: &LinuxContainerResources, change: &LinuxContainerResources) -> LinuxContainerResources {
    let mut write = change.clone();
    if change.memory_limit_in_bytes != 0 || change.memory_swap_limit_in_bytes != 0 {
        write.memory_limit_in_bytes = merged.memory_limit_in_bytes;
        write.memory_swap_limit_in_bytes = merged.memory_swap_limit_in_bytes;
    }
    write
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory(limit: i64, swap: i64) -> LinuxContainerResources {
        LinuxContainerResources {
            memory_limit_in_bytes: limit,
            memory_swap_limit_in_bytes: swap,
            ..LinuxContainerResources::default()
        }
    }

    #[test]
    fn what_a_change_does_not_name_stays() {
        let page = |size: &str, limit| HugepageLimit { page_size: size.into(), limit };
        let now = LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 5,
            cpuset_cpus: "0".into(),
            hugepage_limits: vec![page("2MB", 1), page("1GB", 2)],
            unified: [("memory.high".to_owned(), "1".to_owned()), ("memory.low".to_owned(), "2".to_owned())].into(),
            ..LinuxContainerResources::default()
        };
        let change = LinuxContainerResources {
            cpu_quota: -1,
            hugepage_limits: vec![page("2MB", 7)],
            unified: [("memory.low".to_owned(), "3".to_owned())].into(),
            ..LinuxContainerResources::default()
        };
        let merged = merged(&now, &change);
        assert_eq!((merged.cpu_shares, merged.cpu_quota, merged.cpuset_cpus.as_str()), (512, -1, "0"));
        assert_eq!(merged.hugepage_limits, [page("1GB", 2), page("2MB", 7)]);
        assert_eq!((merged.unified["memory.high"].as_str(), merged.unified["memory.low"].as_str()), ("1", "3"));
        assert_eq!(to_write(&merged, &change), change);
    }

    #[test]
    fn memory_and_swap_are_changed_together() {
        let more_swap = merged(&memory(100, 100), &memory(0, 200));
        assert_eq!(more_swap, memory(100, 200));
        assert_eq!(to_write(&more_swap, &memory(0, 200)), memory(100, 200));
        // The old limit on both is no limit for the new one on memory.
        let more_memory = merged(&memory(100, 150), &memory(300, 0));
        assert_eq!(more_memory, memory(300, 0));
        assert_eq!(to_write(&more_memory, &memory(300, 0)), memory(300, 0));
    }

    proptest! {
        #[test]
        fn a_change_made_twice_is_one_change(now in prop::array::uniform4(-1i64..9), change in prop::array::uniform4(-1i64..9)) {
            let of = |[limit, swap, quota, shares]: [i64; 4]| LinuxContainerResources {
                cpu_quota: quota,
                cpu_shares: shares,
                ..memory(limit, swap)
            };
            let once = merged(&of(now), &of(change));
            prop_assert_eq!(&merged(&once, &of(change)), &once);
            prop_assert_eq!(merged(&once, &LinuxContainerResources::default()), once);
        }
    }
}
