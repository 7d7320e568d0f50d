//! Each metric is one that is described, with a value for each of its labels.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::sample;
use super::*;
use crate::libcontainer::cgroup::{OpenFiles, Psi, Stall};
use crate::ops::{LayerUsage, Traffic};

fn full() -> v1::PodSandboxMetrics {
    let psi = Some(Psi { some: Stall { total_ns: 3_000_000_000, ..Stall::default() }, full: Stall::default() });
    let cgroup = CgroupStats {
        cpu_usage_ns: 2_900_000_000,
        memory_usage: 7,
        cpu_psi: psi,
        memory_psi: psi,
        io_psi: psi,
        ..CgroupStats::default()
    };
    let layer = Some(LayerUsage { bytes: 10, inodes: 1, measured_at: 4 });
    let stats = Stats { timestamp: 5_000_000_000, cgroup: Some(cgroup), usage_nano_cores: None, layer };
    let mut container = sample::container("c", "a", "web");
    let unified = [("memory.low".to_owned(), "4096".to_owned())].into();
    let resources =
        v1::LinuxContainerResources { cpu_quota: 9, memory_limit_in_bytes: -1, unified, ..Default::default() };
    container.spec.config.linux.get_or_insert_default().resources = Some(Default::default());
    // What is told is what is in force, not what the container was made with.
    container.resources = Some(crate::model::Resources { in_force: resources, undo: Vec::new() });
    let traffic = Traffic { bytes: 11, packets: 12, errors: 13, dropped: 14 };
    let interface = Interface { name: "eth0".into(), received: traffic, sent: Traffic::default() };
    let measured = PodStats {
        timestamp: 6_000_000_000,
        cgroup: None,
        tasks: None,
        usage_nano_cores: None,
        network: Some(vec![interface]),
        containers: vec![(Arc::new(container), Arc::new(stats))],
    };
    let disk = DiskCounters { device: (8, 1), read_bytes: 21, ..DiskCounters::default() };
    let counters = Counters {
        cpu_periods: 1,
        memory_peak: Some(8),
        tasks: Some(4),
        disks: vec![disk],
        huge_pages: vec![HugePages { size: "2MB".into(), used: 31, most: Some(32), failures: 33 }],
        open: OpenFiles { limit: Some(1024), ..OpenFiles::default() },
        ..Counters::default()
    };
    let file_system = Disk { device: (8, 2), bytes: 100, inodes: 50, free_inodes: 40 };
    pod_metrics(&sample::pod("a", "web"), &measured, [Some(counters)].into_iter(), file_system)
}

#[test]
fn each_metric_is_described_and_each_description_is_used() {
    let descriptors: HashMap<_, _> = metric_descriptors(true).into_iter().map(|one| (one.name.clone(), one)).collect();
    assert_eq!(descriptors.len(), FAMILIES.len(), "each name once");
    let without = metric_descriptors(false);
    assert!(without.len() == FAMILIES.len() - 3 && !without.iter().any(|one| one.name.contains("hugetlb")));
    assert!(descriptors.values().all(|one| !one.help.is_empty() && !one.label_keys.is_empty()));
    let pod = full();
    let mut told: Vec<_> = pod.metrics.iter().chain(&pod.container_metrics[0].metrics).collect();
    for metric in &told {
        assert_eq!(metric.label_values.len(), descriptors[&metric.name].label_keys.len(), "{}", metric.name);
        assert!(metric.timestamp > 0 && metric.value.is_some(), "{}", metric.name);
    }
    told.sort_by(|a, b| (&a.name, &a.label_values).cmp(&(&b.name, &b.label_values)));
    let series = told.len();
    told.dedup_by(|a, b| (&a.name, &a.label_values) == (&b.name, &b.label_values));
    assert_eq!(told.len(), series, "no series twice");
    told.dedup_by(|a, b| a.name == b.name);
    // The pod is last seen, too; the names are in one list here.
    assert_eq!(told.len(), FAMILIES.len(), "all that is described can be told");
}

#[test]
fn values_have_cadvisors_units_and_labels() {
    let pod = full();
    let of = |metrics: &[v1::Metric], name: &str| {
        let metric = metrics.iter().find(|metric| metric.name == name).unwrap();
        (metric.value.unwrap().value, metric.label_values.clone())
    };
    let metrics = &pod.container_metrics[0].metrics;
    let id = format!("{:0<64}", "c");
    let (seconds, labels) = of(metrics, "container_cpu_usage_seconds_total");
    assert_eq!(seconds, 2, "whole seconds");
    assert_eq!(labels, ["web", "/kubepods/x", "busybox:latest", id.as_str(), "n", "web", "total"]);
    assert_eq!(of(metrics, "container_spec_memory_limit_bytes").0, 0, "below zero is none");
    assert_eq!(of(metrics, "container_spec_memory_reservation_limit_bytes").0, 4096);
    let (files, labels) = of(metrics, "container_ulimits_soft");
    assert_eq!((files, labels[6].as_str()), (1024, "max_open_files"));
    let of_size = |name: &str| (of(metrics, name).0, of(metrics, name).1[6].clone());
    assert_eq!(of_size("container_hugetlb_usage_bytes"), (31, "2MB".into()));
    assert_eq!(of_size("container_hugetlb_max_usage_bytes"), (32, "2MB".into()));
    assert_eq!(of_size("container_hugetlb_failcnt"), (33, "2MB".into()));
    assert_eq!(of(metrics, "container_fs_reads_bytes_total").1[6], "8:1");
    let (bytes, labels) = of(metrics, "container_fs_usage_bytes");
    assert_eq!((bytes, labels[6].as_str()), (10, "8:2"));
    assert_eq!(of(metrics, "container_pressure_io_waiting_seconds_total").0, 3);
    let (bytes, labels) = of(&pod.metrics, "container_network_receive_bytes_total");
    assert_eq!((bytes, labels[0].as_str(), labels[6].as_str()), (11, "POD", "eth0"));
}
