//! The order of writes, checked against what the kernel demands after each of them.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn lines(writes: &[Write]) -> Vec<String> {
    writes.iter().map(|one| format!("{}={}", one.file, one.value)).collect()
}

fn memory(limit: Option<i64>, swap: Option<i64>) -> LinuxMemory {
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit).set_swap(swap);
    memory
}

/// v1 memory when the sum of memory and swap is limited to `sum` now.
fn v1_memory(memory: &LinuxMemory, sum: i64) -> Vec<String> {
    let current = |_: &'static str, file: &str| (file == "memory.memsw.limit_in_bytes").then(|| sum.to_string());
    lines(&memory_v1(memory, &Host { is_v2: &|_| false, current: &current }))
}

#[test]
fn weights_meet_at_both_ends_and_in_the_middle() {
    let table = [(0, 1), (2, 1), (3, 2), (102, 17), (1024, 100), (2048, 174), (262_144, 10_000), (u64::MAX, 10_000)];
    for (shares, weight) in table {
        assert_eq!(cpu_weight(shares), weight, "{shares}");
    }
    assert!((2..300_000).step_by(97).all(|shares| cpu_weight(shares) <= cpu_weight(shares + 97)));
}

#[test]
fn v1_memory_never_passes_memory_and_swap() {
    let down = v1_memory(&memory(Some(100), Some(100)), 1000);
    assert_eq!(down, ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=100"]);
    let up = v1_memory(&memory(Some(2000), Some(2000)), 1000);
    assert_eq!(up, ["memory.memsw.limit_in_bytes=2000", "memory.limit_in_bytes=2000"]);
    let off = v1_memory(&memory(Some(-1), Some(-1)), 1000);
    assert_eq!(off, ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]);
}

#[test]
fn v2_swap_is_swap_alone() {
    let equal = memory_v2(&memory(Some(100), Some(100))).unwrap();
    assert_eq!(lines(&equal), ["memory.swap.max=0", "memory.max=100"]);
    let more = memory_v2(&memory(Some(100), Some(150))).unwrap();
    assert_eq!(lines(&more), ["memory.swap.max=50", "memory.max=100"]);
    assert_eq!(lines(&memory_v2(&memory(None, Some(-1))).unwrap()), ["memory.swap.max=max"]);
    assert!(memory_v2(&memory(None, Some(5))).is_err());
    assert!(memory_v2(&memory(Some(9), Some(5))).is_err());
}

#[test]
fn cpu_max_keeps_what_is_not_given() {
    assert_eq!(cpu_max(Some(5), Some(10), "max 100000"), "5 10");
    assert_eq!(cpu_max(Some(-1), None, "7 10"), "max 10");
    assert_eq!(cpu_max(None, Some(20), "7 10\n"), "7 20");
}

#[test]
fn a_file_named_by_hand_is_written_last() {
    let mut resources = LinuxResources::default();
    let by_hand = [("memory.max", "7"), ("cpu.max", "1 2")].map(|(file, value)| (file.to_owned(), value.to_owned()));
    resources.set_memory(Some(memory(Some(5), None))).set_unified(Some(by_hand.into()));
    let writes = plan(&resources, &Host { is_v2: &|_| true, current: &|_, _| None }).unwrap();
    assert_eq!(lines(&writes), ["memory.max=5", "cpu.max=1 2", "memory.max=7"]);
}

/// A v1 group as the kernel judges it: memory ≤ memory + swap, and its share of a period no more than its parent's half.
struct Kernel {
    files: HashMap<String, i64>,
}

impl Kernel {
    fn of(sum: (i64, i64), share: (i64, i64)) -> Self {
        let files = [
            ("memory.limit_in_bytes", sum.0),
            ("memory.memsw.limit_in_bytes", sum.1),
            ("cpu.cfs_quota_us", share.0),
            ("cpu.cfs_period_us", share.1),
        ];
        Self { files: files.map(|(file, value)| (file.to_owned(), value)).into() }
    }

    fn fits(&self) -> bool {
        let of = |file: &str| self.files[file];
        of("memory.limit_in_bytes") <= of("memory.memsw.limit_in_bytes")
            && of("cpu.cfs_quota_us") * 2 <= of("cpu.cfs_period_us")
    }
}

proptest! {
    #[test]
    fn every_step_of_a_v1_change_is_one_that_the_kernel_takes(
        old in (1i64..50, 0i64..50, 1i64..50, 0i64..50),
        new in (1i64..50, 0i64..50, 1i64..50, 0i64..50),
    ) {
        let state = |(limit, swap, quota, slack): (i64, i64, i64, i64)| {
            ((limit, limit + swap), (quota, 2 * quota + slack))
        };
        let (old, new) = (state(old), state(new));
        let mut kernel = Kernel::of(old.0, old.1);
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(Some(new.1.0)).set_period(Some(new.1.1 as u64));
        let mut resources = LinuxResources::default();
        resources.set_memory(Some(memory(Some(new.0.0), Some(new.0.1)))).set_cpu(Some(cpu));
        let before = kernel.files.clone();
        let current = |_: &'static str, file: &str| before.get(file).map(ToString::to_string);
        let writes = plan(&resources, &Host { is_v2: &|_| false, current: &current }).unwrap();
        prop_assert_eq!(writes.len(), 4);
        for one in &writes {
            kernel.files.insert(one.file.clone(), one.value.parse().unwrap());
            prop_assert!(kernel.fits(), "{:?} after {:?}", kernel.files, lines(&writes));
        }
        // And each step back.
        for one in writes.iter().rev() {
            kernel.files.insert(one.file.clone(), before[&one.file]);
            prop_assert!(kernel.fits(), "back: {:?} after {:?}", kernel.files, lines(&writes));
        }
    }
}
