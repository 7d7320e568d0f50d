//! Metrics under the names that cAdvisor gave them, which kubelet serves at /metrics/cadvisor. A value is a whole number in the
//! CRI: seconds are whole ones.

use std::sync::Arc;

use cri_api::v1::{self, MetricType, UInt64Value};

use crate::libcontainer::cgroup::{CgroupStats, Counters, DiskCounters, HugePages};
use crate::model::{Container, ContainerState, Pod};
use crate::ops::{Disk, Interface, PodStats, Stats};

/// What every metric is about, as kubelet labels cAdvisor's.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// A metric's name and shape.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    /// Its own labels, after those that all have.
    labels: &'static [&'static str],
}

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family {
    Family { name, help, kind: MetricType::Counter, labels }
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family {
    Family { name, help, kind: MetricType::Gauge, labels }
}

/// Writes down each family once, under the name the code has for it, and the list of all.
macro_rules! families {
    ($($constant:ident = $kind:ident($name:literal, $help:literal $(, $label:literal)*);)*) => {
        $(const $constant: Family = $kind($name, $help, &[$($label),*]);)*
        const FAMILIES: &[Family] = &[$($constant),*];
    };
}

families! {
    LAST_SEEN = gauge("container_last_seen", "When the container was last measured, in seconds since the epoch");
    START_TIME = gauge("container_start_time_seconds", "When the container was started, in seconds since the epoch");
    CPU_USAGE = counter("container_cpu_usage_seconds_total", "CPU time used, in seconds", "cpu");
    CPU_USER = counter("container_cpu_user_seconds_total", "CPU time used outside the kernel, in seconds");
    CPU_SYSTEM = counter("container_cpu_system_seconds_total", "CPU time used in the kernel, in seconds");
    CPU_PERIODS = counter("container_cpu_cfs_periods_total", "Periods of the CPU quota that passed");
    CPU_THROTTLED_PERIODS =
        counter("container_cpu_cfs_throttled_periods_total", "Periods in which the CPU quota was used up");
    CPU_THROTTLED = counter("container_cpu_cfs_throttled_seconds_total", "Time spent waiting for the next period, in seconds");
    MEMORY_USAGE = gauge("container_memory_usage_bytes", "Memory in use, page cache included, in bytes");
    MEMORY_WORKING_SET = gauge("container_memory_working_set_bytes", "Memory that cannot be reclaimed at once, in bytes");
    MEMORY_RSS = gauge("container_memory_rss", "Anonymous memory, in bytes");
    MEMORY_CACHE = gauge("container_memory_cache", "Page cache, in bytes");
    MEMORY_MAPPED = gauge("container_memory_mapped_file", "Files mapped into memory, in bytes");
    MEMORY_KERNEL = gauge("container_memory_kernel_usage", "Memory that the kernel needs for the container, in bytes");
    MEMORY_SWAP = gauge("container_memory_swap", "Swap in use, in bytes");
    MEMORY_PEAK = gauge("container_memory_max_usage_bytes", "The most memory that was in use, in bytes");
    MEMORY_FAILCNT = counter("container_memory_failcnt", "How often the memory limit was met");
    MEMORY_FAILURES =
        counter("container_memory_failures_total", "Page faults; pgmajfault: those that waited for a disk", "failure_type", "scope");
    OOM_EVENTS = counter("container_oom_events_total", "Processes that the kernel killed for memory");
    THREADS = gauge("container_threads", "Processes and threads");
    THREADS_MAX = gauge("container_threads_max", "Limit on processes and threads; 0: none");
    PROCESSES = gauge("container_processes", "Processes");
    DESCRIPTORS = gauge("container_file_descriptors", "File descriptors that the processes have open");
    SOCKETS = gauge("container_sockets", "Sockets among them; of a container with very many descriptors not all are looked at");
    ULIMIT = gauge("container_ulimits_soft", "Soft limit of the container's first process on its open files", "ulimit");
    HUGE_PAGES = gauge("container_hugetlb_usage_bytes", "Huge pages in use, in bytes", "pagesize");
    HUGE_PAGES_PEAK = gauge("container_hugetlb_max_usage_bytes", "The most huge pages that were in use, in bytes", "pagesize");
    HUGE_PAGES_FAILCNT = counter("container_hugetlb_failcnt", "How often the limit on huge pages was met", "pagesize");
    DISK_BYTES = counter(
        "container_blkio_device_usage_total", "Bytes read from or written to a disk", "device", "major", "minor", "operation");
    FS_USAGE = gauge("container_fs_usage_bytes", "What the writable layer takes, in bytes", "device");
    FS_LIMIT = gauge("container_fs_limit_bytes", "Size of the writable layer's file system, in bytes", "device");
    FS_INODES = gauge("container_fs_inodes_total", "Files that the writable layer's file system can have", "device");
    FS_INODES_FREE = gauge("container_fs_inodes_free", "Files that it can have beside those it has", "device");
    FS_READ_BYTES = counter("container_fs_reads_bytes_total", "Bytes read from a disk", "device");
    FS_READS = counter("container_fs_reads_total", "Reads from a disk", "device");
    FS_WRITTEN_BYTES = counter("container_fs_writes_bytes_total", "Bytes written to a disk", "device");
    FS_WRITES = counter("container_fs_writes_total", "Writes to a disk", "device");
    SPEC_CPU_PERIOD = gauge("container_spec_cpu_period", "Period of the CPU quota, in microseconds");
    SPEC_CPU_QUOTA = gauge("container_spec_cpu_quota", "CPU time in each period, in microseconds");
    SPEC_CPU_SHARES = gauge("container_spec_cpu_shares", "Share of the CPU beside others");
    SPEC_MEMORY = gauge("container_spec_memory_limit_bytes", "Limit on memory, in bytes; 0: none");
    SPEC_MEMORY_RESERVATION = gauge(
        "container_spec_memory_reservation_limit_bytes", "Memory that is not reclaimed while others can give some, in bytes; 0: none");
    SPEC_MEMORY_SWAP =
        gauge("container_spec_memory_swap_limit_bytes", "Limit on memory and swap together, in bytes; 0: none");
    CPU_WAITING = counter("container_pressure_cpu_waiting_seconds_total", "Time in which a task waited for a CPU, in seconds");
    CPU_STALLED = counter("container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for a CPU, in seconds");
    MEMORY_WAITING =
        counter("container_pressure_memory_waiting_seconds_total", "Time in which a task waited for memory, in seconds");
    MEMORY_STALLED =
        counter("container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory, in seconds");
    IO_WAITING = counter("container_pressure_io_waiting_seconds_total", "Time in which a task waited for a disk, in seconds");
    IO_STALLED = counter("container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for a disk, in seconds");
    RECEIVED = counter("container_network_receive_bytes_total", "Bytes received", "interface");
    RECEIVED_PACKETS = counter("container_network_receive_packets_total", "Packets received", "interface");
    RECEIVED_DROPPED = counter("container_network_receive_packets_dropped_total", "Packets dropped on the way in", "interface");
    RECEIVED_ERRORS = counter("container_network_receive_errors_total", "Errors while receiving", "interface");
    SENT = counter("container_network_transmit_bytes_total", "Bytes sent", "interface");
    SENT_PACKETS = counter("container_network_transmit_packets_total", "Packets sent", "interface");
    SENT_DROPPED = counter("container_network_transmit_packets_dropped_total", "Packets dropped on the way out", "interface");
    SENT_ERRORS = counter("container_network_transmit_errors_total", "Errors while sending", "interface");
}

/// Every metric that `pod_metrics` can tell on a host that counts huge pages, or does not: clients expect what is described.
pub(in crate::cri) fn metric_descriptors(huge_pages: bool) -> Vec<v1::MetricDescriptor> {
    let of_huge_pages = [HUGE_PAGES.name, HUGE_PAGES_PEAK.name, HUGE_PAGES_FAILCNT.name];
    let descriptor = |family: &Family| v1::MetricDescriptor {
        name: family.name.into(),
        help: family.help.into(),
        label_keys: LABELS.iter().chain(family.labels).map(|label| (*label).into()).collect(),
    };
    FAMILIES.iter().filter(|family| huge_pages || !of_huge_pages.contains(&family.name)).map(descriptor).collect()
}

/// One pod's metrics, with its containers'. `disk` is the file system of the writable layers; `counters` are the containers', in
/// their order.
pub(in crate::cri) fn pod_metrics(
    pod: &Pod,
    measured: &PodStats,
    counters: impl Iterator<Item = Option<Counters>>,
    disk: Disk,
) -> v1::PodSandboxMetrics {
    let mut of_pod = Metrics::new(measured.timestamp, pod_labels(pod));
    of_pod.add(&LAST_SEEN, seconds_of(measured.timestamp));
    measured.network.iter().flatten().for_each(|interface| network(&mut of_pod, interface));
    let of_container = |((container, stats), counters): (&(Arc<Container>, Arc<Stats>), Option<Counters>)| {
        let mut metrics = Metrics::new(stats.timestamp, container_labels(pod, container));
        life(&mut metrics, container);
        spec(&mut metrics, container);
        layer(&mut metrics, stats, disk);
        stats.cgroup.iter().for_each(|cgroup| usage(&mut metrics, cgroup));
        counters.iter().for_each(|counters| more(&mut metrics, counters));
        v1::ContainerMetrics { container_id: container.id.to_string(), metrics: metrics.list }
    };
    v1::PodSandboxMetrics {
        pod_sandbox_id: pod.id.to_string(),
        metrics: of_pod.list,
        container_metrics: measured.containers.iter().zip(counters).map(of_container).collect(),
    }
}

/// Metrics about one thing.
struct Metrics {
    timestamp: i64,
    labels: [String; LABELS.len()],
    list: Vec<v1::Metric>,
}

impl Metrics {
    fn new(timestamp: i64, labels: [String; LABELS.len()]) -> Self {
        Self { timestamp, labels, list: Vec::new() }
    }

    fn add(&mut self, family: &Family, value: u64) {
        self.add_with(family, [], value);
    }

    /// `own` are the values of the family's own labels.
    fn add_with<const N: usize>(&mut self, family: &Family, own: [&str; N], value: u64) {
        self.list.push(v1::Metric {
            name: family.name.into(),
            timestamp: self.timestamp,
            metric_type: family.kind.into(),
            label_values: self.labels.iter().cloned().chain(own.map(str::to_owned)).collect(),
            value: Some(UInt64Value { value }),
        });
    }
}

/// As kubelet labels what belongs to the pod as such: with the container POD.
fn pod_labels(pod: &Pod) -> [String; LABELS.len()] {
    let v1::PodSandboxMetadata { name, namespace, .. } = pod.metadata();
    ["POD".into(), pod.spec.cgroup_parent.clone(), String::new(), pod.id.to_string(), namespace, name]
}

fn container_labels(pod: &Pod, container: &Container) -> [String; LABELS.len()] {
    let v1::PodSandboxMetadata { name, namespace, .. } = pod.metadata();
    let id = format!("/{}", container.spec.cgroup.trim_start_matches('/'));
    [container.metadata().name, id, container.image().image, container.id.to_string(), namespace, name]
}

fn seconds(ns: u64) -> u64 {
    ns / 1_000_000_000
}

fn seconds_of(timestamp: i64) -> u64 {
    seconds(u64::try_from(timestamp).unwrap_or(0))
}

fn life(metrics: &mut Metrics, container: &Container) {
    metrics.add(&LAST_SEEN, seconds_of(metrics.timestamp));
    let started_at = match &container.state {
        ContainerState::Created { .. } => return,
        ContainerState::Running { started_at, .. } => *started_at,
        ContainerState::Exited { exit, .. } => exit.started_at,
    };
    metrics.add(&START_TIME, seconds_of(started_at));
}

fn spec(metrics: &mut Metrics, container: &Container) {
    let Some(resources) = container.limits() else { return };
    // A limit below zero is none.
    let limit = |limit: i64| u64::try_from(limit).unwrap_or(0);
    metrics.add(&SPEC_CPU_PERIOD, limit(resources.cpu_period));
    metrics.add(&SPEC_CPU_SHARES, limit(resources.cpu_shares));
    metrics.add(&SPEC_MEMORY, limit(resources.memory_limit_in_bytes));
    metrics.add(&SPEC_MEMORY_SWAP, limit(resources.memory_swap_limit_in_bytes));
    // The CRI has no field for it: whoever wants it says so in the kernel's own words.
    let reservation = resources.unified.get("memory.low").and_then(|bytes| bytes.trim().parse().ok());
    metrics.add(&SPEC_MEMORY_RESERVATION, reservation.unwrap_or(0));
    if resources.cpu_quota > 0 {
        metrics.add(&SPEC_CPU_QUOTA, limit(resources.cpu_quota));
    }
}

fn layer(metrics: &mut Metrics, stats: &Stats, disk: Disk) {
    let device = &device(disk.device);
    if let Some(layer) = stats.layer {
        metrics.add_with(&FS_USAGE, [device], layer.bytes);
    }
    metrics.add_with(&FS_LIMIT, [device], disk.bytes);
    metrics.add_with(&FS_INODES, [device], disk.inodes);
    metrics.add_with(&FS_INODES_FREE, [device], disk.free_inodes);
}

/// As the kernel's own tables of disks name it.
fn device((major, minor): (u32, u32)) -> String {
    format!("{major}:{minor}")
}

fn usage(metrics: &mut Metrics, cgroup: &CgroupStats) {
    metrics.add_with(&CPU_USAGE, ["total"], seconds(cgroup.cpu_usage_ns));
    metrics.add(&MEMORY_USAGE, cgroup.memory_usage);
    metrics.add(&MEMORY_WORKING_SET, cgroup.memory_working_set);
    metrics.add(&MEMORY_RSS, cgroup.memory_rss);
    metrics.add(&MEMORY_SWAP, cgroup.swap_usage.unwrap_or(0));
    // A container has no cgroups below it that would count apart, but for those of its execs.
    for scope in ["container", "hierarchy"] {
        metrics.add_with(&MEMORY_FAILURES, ["pgfault", scope], cgroup.page_faults);
        metrics.add_with(&MEMORY_FAILURES, ["pgmajfault", scope], cgroup.major_page_faults);
    }
    for (psi, waiting, stalled) in [
        (cgroup.cpu_psi, &CPU_WAITING, &CPU_STALLED),
        (cgroup.memory_psi, &MEMORY_WAITING, &MEMORY_STALLED),
        (cgroup.io_psi, &IO_WAITING, &IO_STALLED),
    ] {
        let Some(psi) = psi else { continue };
        metrics.add(waiting, seconds(psi.some.total_ns));
        metrics.add(stalled, seconds(psi.full.total_ns));
    }
}

fn more(metrics: &mut Metrics, counters: &Counters) {
    metrics.add(&CPU_USER, seconds(counters.cpu_user_ns));
    metrics.add(&CPU_SYSTEM, seconds(counters.cpu_system_ns));
    // Also without a quota: the conformance suite asks for them of every container.
    metrics.add(&CPU_PERIODS, counters.cpu_periods);
    metrics.add(&CPU_THROTTLED_PERIODS, counters.cpu_throttled_periods);
    metrics.add(&CPU_THROTTLED, seconds(counters.cpu_throttled_ns));
    metrics.add(&MEMORY_CACHE, counters.memory_cache);
    metrics.add(&MEMORY_MAPPED, counters.memory_mapped);
    metrics.add(&MEMORY_KERNEL, counters.memory_kernel);
    metrics.add(&MEMORY_FAILCNT, counters.memory_failures);
    counters.memory_peak.into_iter().for_each(|peak| metrics.add(&MEMORY_PEAK, peak));
    metrics.add(&OOM_EVENTS, counters.oom_kills);
    counters.tasks.into_iter().for_each(|tasks| metrics.add(&THREADS, tasks));
    metrics.add(&THREADS_MAX, counters.tasks_limit.unwrap_or(0));
    metrics.add(&PROCESSES, counters.open.processes);
    metrics.add(&DESCRIPTORS, counters.open.descriptors);
    metrics.add(&SOCKETS, counters.open.sockets);
    counters.open.limit.into_iter().for_each(|limit| metrics.add_with(&ULIMIT, ["max_open_files"], limit));
    for HugePages { size, used, most, failures } in &counters.huge_pages {
        metrics.add_with(&HUGE_PAGES, [size], *used);
        most.iter().for_each(|most| metrics.add_with(&HUGE_PAGES_PEAK, [size], *most));
        metrics.add_with(&HUGE_PAGES_FAILCNT, [size], *failures);
    }
    for disk in &counters.disks {
        let DiskCounters { device: number, read_bytes, reads, written_bytes, writes } = disk;
        let device = device(*number);
        let (major, minor) = (number.0.to_string(), number.1.to_string());
        metrics.add_with(&DISK_BYTES, [&device, &major, &minor, "Read"], *read_bytes);
        metrics.add_with(&DISK_BYTES, [&device, &major, &minor, "Write"], *written_bytes);
        metrics.add_with(&FS_READ_BYTES, [&device], *read_bytes);
        metrics.add_with(&FS_READS, [&device], *reads);
        metrics.add_with(&FS_WRITTEN_BYTES, [&device], *written_bytes);
        metrics.add_with(&FS_WRITES, [&device], *writes);
    }
}

fn network(metrics: &mut Metrics, interface: &Interface) {
    let name = interface.name.as_str();
    for (traffic, bytes, packets, dropped, errors) in [
        (interface.received, &RECEIVED, &RECEIVED_PACKETS, &RECEIVED_DROPPED, &RECEIVED_ERRORS),
        (interface.sent, &SENT, &SENT_PACKETS, &SENT_DROPPED, &SENT_ERRORS),
    ] {
        metrics.add_with(bytes, [name], traffic.bytes);
        metrics.add_with(packets, [name], traffic.packets);
        metrics.add_with(dropped, [name], traffic.dropped);
        metrics.add_with(errors, [name], traffic.errors);
    }
}

#[cfg(test)]
mod tests;
