//! Statistics of containers and pods.

use std::path::Path;

use cri_api::v1::{self, UInt64Value};

use crate::libcontainer::cgroup::{CgroupStats, Psi, Stall};
use crate::model::{Container, Pod};
use crate::ops::{Interface, PodStats, Stats};

/// The interface that every pod network makes first (CNI: kubelet's and the runtimes' default).
const DEFAULT_INTERFACE: &str = "eth0";

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
        cpu: cgroup.map(|cgroup| cpu(cgroup, stats.usage_nano_cores, stats.timestamp)),
        memory: cgroup.map(|cgroup| memory(cgroup, stats.timestamp)),
        writable_layer: layer,
        swap: cgroup.and_then(|cgroup| swap(cgroup, stats.timestamp)),
        io: cgroup.and_then(|cgroup| io(cgroup, stats.timestamp)),
    }
}

/// One pod's, with its containers'.
pub(in crate::cri) fn pod_stats(pod: &Pod, measured: &PodStats, disk: &Path) -> v1::PodSandboxStats {
    let timestamp = measured.timestamp;
    let cgroup = measured.cgroup.as_ref();
    let process = |tasks| v1::ProcessUsage { timestamp, process_count: number(tasks) };
    let linux = v1::LinuxPodSandboxStats {
        cpu: cgroup.map(|cgroup| cpu(cgroup, measured.usage_nano_cores, timestamp)),
        memory: cgroup.map(|cgroup| memory(cgroup, timestamp)),
        network: measured.network.as_ref().map(|interfaces| network(interfaces, timestamp)),
        process: measured.tasks.map(process),
        containers: measured.containers.iter().map(|(container, one)| stats(container, one, disk)).collect(),
        io: cgroup.and_then(|cgroup| io(cgroup, timestamp)),
    };
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: pod.id.to_string(),
            metadata: Some(pod.metadata()),
            labels: pod.spec.config.labels.clone(),
            annotations: pod.spec.config.annotations.clone(),
        }),
        linux: Some(linux),
        windows: None,
    }
}

fn number(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn cpu(cgroup: &CgroupStats, usage_nano_cores: Option<u64>, timestamp: i64) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp,
        usage_core_nano_seconds: number(cgroup.cpu_usage_ns),
        usage_nano_cores: usage_nano_cores.and_then(number),
        psi: cgroup.cpu_psi.map(psi),
    }
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
        psi: cgroup.memory_psi.map(psi),
    }
}

/// Absent where the kernel does not account it.
fn swap(cgroup: &CgroupStats, timestamp: i64) -> Option<v1::SwapUsage> {
    let usage = cgroup.swap_usage?;
    let available = cgroup.swap_limit.map(|limit| limit.saturating_sub(usage));
    Some(v1::SwapUsage { timestamp, swap_available_bytes: available.and_then(number), swap_usage_bytes: number(usage) })
}

/// The CRI has nothing but the pressure here: absent where the kernel does not tell it.
fn io(cgroup: &CgroupStats, timestamp: i64) -> Option<v1::IoUsage> {
    Some(v1::IoUsage { timestamp, psi: Some(psi(cgroup.io_psi?)) })
}

fn psi(psi: Psi) -> v1::PsiStats {
    let data = |stall: Stall| v1::PsiData {
        total: stall.total_ns,
        avg10: f64::from(stall.avg10) / 100.0,
        avg60: f64::from(stall.avg60) / 100.0,
        avg300: f64::from(stall.avg300) / 100.0,
    };
    v1::PsiStats { full: Some(data(psi.full)), some: Some(data(psi.some)) }
}

fn network(interfaces: &[Interface], timestamp: i64) -> v1::NetworkUsage {
    let usage = |interface: &Interface| v1::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: number(interface.received.bytes),
        rx_errors: number(interface.received.errors),
        tx_bytes: number(interface.sent.bytes),
        tx_errors: number(interface.sent.errors),
    };
    let is_default = |interface: &&Interface| interface.name == DEFAULT_INTERFACE;
    let default = interfaces.iter().find(is_default).or(interfaces.first());
    let others = interfaces.iter().filter(|interface| default.is_some_and(|default| default.name != interface.name));
    v1::NetworkUsage { timestamp, default_interface: default.map(usage), interfaces: others.map(usage).collect() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::sample;
    use super::*;
    use crate::ops::{LayerUsage, Traffic};

    fn reading(cgroup: Option<CgroupStats>) -> Stats {
        let layer = Some(LayerUsage { bytes: 10, inodes: 1, measured_at: 4 });
        Stats { timestamp: 5, cgroup, usage_nano_cores: None, layer }
    }

    fn of(cgroup: Option<CgroupStats>) -> v1::ContainerStats {
        stats(&sample::container("c", "a", "web"), &reading(cgroup), Path::new("/var"))
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
        assert_eq!(stats.io, None, "a kernel without pressure information");
    }

    #[test]
    fn pressure_is_told_in_percent_and_ns() {
        let stall = Stall { total_ns: 7, avg10: 1234, avg60: 5, avg300: 0 };
        let one = Psi { some: stall, full: Stall::default() };
        let cgroup = CgroupStats { cpu_psi: Some(one), memory_psi: Some(one), io_psi: Some(one), ..Default::default() };
        let stats = of(Some(cgroup));
        let some = v1::PsiData { total: 7, avg10: 12.34, avg60: 0.05, avg300: 0.0 };
        let expected = Some(v1::PsiStats { full: Some(v1::PsiData::default()), some: Some(some) });
        assert_eq!(stats.cpu.unwrap().psi, expected);
        assert_eq!(stats.memory.unwrap().psi, expected);
        assert_eq!(stats.io.unwrap().psi, expected);
    }

    #[test]
    fn an_exited_container_still_takes_disk() {
        let stats = of(None);
        assert_eq!((stats.cpu, stats.memory, stats.swap, stats.io), (None, None, None, None));
        let layer = stats.writable_layer.unwrap();
        assert_eq!((layer.used_bytes, layer.timestamp), (number(10), 4), "of the moment it was measured");
    }

    #[test]
    fn a_pod_has_one_default_interface_and_the_others() {
        let interface = |name: &str, bytes| Interface {
            name: name.into(),
            received: Traffic { bytes, ..Traffic::default() },
            sent: Traffic { errors: 1, ..Traffic::default() },
        };
        let measured = |network| PodStats {
            timestamp: 5,
            cgroup: Some(CgroupStats::default()),
            tasks: Some(3),
            usage_nano_cores: Some(8),
            network,
            containers: vec![(Arc::new(sample::container("c", "a", "web")), Arc::new(reading(None)))],
        };
        let of = |network| {
            let stats = pod_stats(&sample::pod("a", "web"), &measured(network), Path::new("/var"));
            stats.linux.unwrap()
        };
        let linux = of(Some(vec![interface("net1", 1), interface("eth0", 2)]));
        let network = linux.network.unwrap();
        let default = network.default_interface.unwrap();
        assert_eq!((default.name.as_str(), default.rx_bytes, default.tx_errors), ("eth0", number(2), number(1)));
        assert_eq!(network.interfaces.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["net1"]);
        assert_eq!(linux.process.unwrap().process_count, number(3));
        assert_eq!(linux.cpu.unwrap().usage_nano_cores, number(8));
        assert_eq!(linux.containers.len(), 1);
        let named = of(Some(vec![interface("tun0", 1)])).network.unwrap();
        assert_eq!(named.default_interface.unwrap().name, "tun0", "a network that calls it otherwise");
        assert_eq!(of(None).network, None, "the host's network is not the pod's");
    }
}
