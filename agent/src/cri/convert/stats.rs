//! Statistics of containers.

use std::path::Path;

use cri_api::v1::{self, UInt64Value};

use crate::libcontainer::cgroup::CgroupStats;
use crate::model::Container;
use crate::ops::Stats;

/// One container's. `disk` is the mount point of the file system that its writable layer is on.
pub(in crate::cri) fn stats(container: &Container, stats: &Stats, disk: &Path) -> v1::ContainerStats {
    let layer = stats.layer.map(|layer| v1::FilesystemUsage {
        timestamp: layer.measured_at,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: disk.to_string_lossy().into_owned() }),
        used_bytes: number(layer.bytes),
        inodes_used: number(layer.inodes),
    });
    let cgroup = stats.cgroup.as_ref();
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.id.to_string(),
            metadata: Some(container.metadata()),
            labels: container.spec.config.labels.clone(),
            annotations: container.spec.config.annotations.clone(),
        }),
        cpu: cgroup.map(|cgroup| v1::CpuUsage {
            timestamp: stats.timestamp,
            usage_core_nano_seconds: number(cgroup.cpu_usage_ns),
            usage_nano_cores: stats.usage_nano_cores.and_then(number),
            psi: None,
        }),
        memory: cgroup.map(|cgroup| memory(cgroup, stats.timestamp)),
        writable_layer: layer,
        swap: cgroup.and_then(|cgroup| swap(cgroup, stats.timestamp)),
        io: None,
    }
}

fn number(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn memory(cgroup: &CgroupStats, timestamp: i64) -> v1::MemoryUsage {
    let available = cgroup.memory_limit.map(|limit| limit.saturating_sub(cgroup.memory_working_set));
    v1::MemoryUsage {
        timestamp,
        working_set_bytes: number(cgroup.memory_working_set),
        available_bytes: available.and_then(number),
        usage_bytes: number(cgroup.memory_usage),
        rss_bytes: number(cgroup.memory_rss),
        page_faults: number(cgroup.page_faults),
        major_page_faults: number(cgroup.major_page_faults),
        psi: None,
    }
}

/// Absent where the kernel does not account it.
fn swap(cgroup: &CgroupStats, timestamp: i64) -> Option<v1::SwapUsage> {
    let usage = cgroup.swap_usage?;
    let available = cgroup.swap_limit.map(|limit| limit.saturating_sub(usage));
    Some(v1::SwapUsage { timestamp, swap_available_bytes: available.and_then(number), swap_usage_bytes: number(usage) })
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::ops::LayerUsage;

    fn of(cgroup: Option<CgroupStats>) -> v1::ContainerStats {
        let layer = Some(LayerUsage { bytes: 10, inodes: 1, measured_at: 4 });
        let reading = Stats { timestamp: 5, cgroup, usage_nano_cores: None, layer };
        stats(&sample::container("c", "a", "web"), &reading, Path::new("/var"))
    }

    #[test]
    fn what_is_left_is_the_limit_less_the_working_set() {
        let cgroup = CgroupStats {
            memory_usage: 70,
            memory_working_set: 60,
            memory_limit: Some(100),
            swap_usage: Some(3),
            ..CgroupStats::default()
        };
        let stats = of(Some(cgroup));
        let memory = stats.memory.unwrap();
        assert_eq!((memory.available_bytes, memory.usage_bytes), (number(40), number(70)));
        assert_eq!(stats.swap.unwrap().swap_available_bytes, None, "no limit on swap");
        assert_eq!(stats.cpu.unwrap().usage_nano_cores, None, "the first reading has no rate");
    }

    #[test]
    fn an_exited_container_still_takes_disk() {
        let stats = of(None);
        assert_eq!((stats.cpu, stats.memory, stats.swap), (None, None, None));
        let layer = stats.writable_layer.unwrap();
        assert_eq!((layer.used_bytes, layer.timestamp), (number(10), 4), "of the moment it was measured");
    }
}
