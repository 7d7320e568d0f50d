//! Limits that only bundles ask for: they have no field in the CRI.

use oci_spec::runtime::{LinuxBlockIo, LinuxMemory, LinuxNetwork, LinuxRdma};

use super::plan::{Write, write};

/// Marks of packets, by class and by interface (v1 alone has these).
pub(super) fn network(network: &LinuxNetwork) -> Vec<Write> {
    let class = network.class_id().map(|id| write("net_cls", "net_cls.classid", id));
    let priorities = network.priorities().iter().flatten();
    let priorities =
        priorities.map(|one| write("net_prio", "net_prio.ifpriomap", format!("{} {}", one.name(), one.priority())));
    class.into_iter().chain(priorities).collect()
}

/// A device's name and its limits.
pub(super) fn rdma(device: &str, limits: &LinuxRdma) -> Write {
    let part = |key: &str, limit: Option<u32>| limit.map(|limit| format!(" {key}={limit}")).unwrap_or_default();
    let handles = part("hca_handle", limits.hca_handles());
    let objects = part("hca_object", limits.hca_objects());
    write("rdma", "rdma.max", format!("{device}{handles}{objects}"))
}

/// Weights of a cgroup's own processes against those of its children (v1 alone, and kernels before 5.0).
pub(super) fn leaf_weights(io: &LinuxBlockIo) -> Vec<Write> {
    let own = io.leaf_weight().filter(|weight| *weight != 0);
    let devices = io.weight_device().iter().flatten().filter_map(|device| {
        let weight = device.leaf_weight()?;
        Some(write("io", "blkio.leaf_weight_device", format!("{}:{} {weight}", device.major(), device.minor())))
    });
    own.map(|weight| write("io", "blkio.leaf_weight", weight)).into_iter().chain(devices).collect()
}

/// v1's limits on the kernel's own memory; newer kernels take the first without effect.
#[allow(deprecated)] // by the specification, which still has it
pub(super) fn kernel_memory(memory: &LinuxMemory) -> Vec<Write> {
    let kernel = memory.kernel().map(|bytes| write("memory", "memory.kmem.limit_in_bytes", bytes));
    let tcp = memory.kernel_tcp().map(|bytes| write("memory", "memory.kmem.tcp.limit_in_bytes", bytes));
    kernel.into_iter().chain(tcp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_not_written() {
        assert!(network(&LinuxNetwork::default()).is_empty());
        assert!(leaf_weights(&LinuxBlockIo::default()).is_empty());
        assert!(kernel_memory(&LinuxMemory::default()).is_empty());
        let limits: LinuxRdma = serde_json::from_str(r#"{"hcaObjects": 7}"#).unwrap();
        assert_eq!(rdma("mlx4_0", &limits), write("rdma", "rdma.max", "mlx4_0 hca_object=7"));
    }

    #[test]
    fn a_class_and_priorities_are_of_two_controllers() {
        let json = r#"{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}"#;
        let expected =
            [write("net_cls", "net_cls.classid", 1_048_577), write("net_prio", "net_prio.ifpriomap", "eth0 5")];
        assert_eq!(network(&serde_json::from_str(json).unwrap()), expected);
    }
}
