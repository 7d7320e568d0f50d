//! Limits in systemd's words. Pure.
//!
//! Device rules are not among them: Berth's own program on the scope holds beside any of systemd's, while rules told to
//! systemd are loaded anew, and with a gap, whenever it reloads.

use oci_spec::runtime::LinuxResources;
use zbus::Variant;

use super::Properties;
use crate::libcontainer::cgroup::cpu_weight;

/// Files of v2 that the request names by hand and systemd has a word for; its unit of each is the file's own.
const BY_HAND: [(&str, &str); 7] = [
    ("memory.min", "MemoryMin"),
    ("memory.low", "MemoryLow"),
    ("memory.high", "MemoryHigh"),
    ("memory.max", "MemoryMax"),
    ("memory.swap.max", "MemorySwapMax"),
    ("pids.max", "TasksMax"),
    ("cpu.weight", "CPUWeight"),
];

/// Limits in systemd's words (org.freedesktop.systemd1(5)).
pub(super) fn properties(limits: &LinuxResources, unified: bool) -> Properties {
    let mut list: Properties = Vec::new();
    let bytes = |bytes: i64| Variant::from(u64::try_from(bytes).unwrap_or(u64::MAX));
    if let Some(memory) = limits.memory() {
        let name = if unified { "MemoryMax" } else { "MemoryLimit" };
        list.extend(memory.limit().map(|limit| (name, bytes(limit))));
        if let (true, Some(low)) = (unified, memory.reservation()) {
            list.push(("MemoryLow", bytes(low)));
        }
        if let (true, Some(limit), Some(both)) = (unified, memory.limit(), memory.swap()) {
            list.push(("MemorySwapMax", bytes(if both < 0 { both } else { (both - limit).max(0) })));
        }
    }
    if let Some(cpu) = limits.cpu() {
        list.extend(cpu.shares().map(|shares| match unified {
            true => ("CPUWeight", Variant::from(cpu_weight(shares))),
            false => ("CPUShares", Variant::from(shares)),
        }));
        if let Some(quota) = cpu.quota() {
            let period = cpu.period().filter(|&period| period > 0).unwrap_or(100_000);
            list.push(("CPUQuotaPerSecUSec", Variant::from(quota_per_second(quota, period))));
            list.push(("CPUQuotaPeriodUSec", Variant::from(period)));
        }
        if unified {
            list.extend(cpu.cpus().as_deref().and_then(bit_set).map(|set| ("AllowedCPUs", Variant::from(set))));
            list.extend(cpu.mems().as_deref().and_then(bit_set).map(|set| ("AllowedMemoryNodes", Variant::from(set))));
        }
    }
    if let Some(pids) = limits.pids() {
        list.push(("TasksMax", bytes(if pids.limit() > 0 { pids.limit() } else { -1 })));
    }
    // Last, so that a file named by hand beats what was derived, as in the files.
    let by_hand = limits.unified().iter().filter(|_| unified).flatten();
    list.extend(by_hand.filter_map(|(file, value)| {
        let (_, name) = BY_HAND.iter().find(|(known, _)| known == file)?;
        let value = if value.trim() == "max" { u64::MAX } else { value.trim().parse().ok()? };
        Some((*name, Variant::from(value)))
    }));
    list
}

/// systemd's word for no limit, for what is among the properties before and not among those of now.
pub(super) fn taken_away(before: &Properties, now: &Properties) -> Properties {
    let gone = before.iter().filter(|(name, _)| now.iter().all(|(other, _)| other != name));
    gone.map(|(name, _)| {
        let none = match *name {
            "AllowedCPUs" | "AllowedMemoryNodes" => Variant::from(Vec::<u8>::new()),
            "MemoryMin" | "MemoryLow" => Variant::from(0u64),
            _ => Variant::from(u64::MAX),
        };
        (*name, none)
    })
    .collect()
}

/// systemd keeps quotas in per cent: rounded up, so that it never gives less than was asked for.
fn quota_per_second(quota: i64, period: u64) -> u64 {
    const PER_CENT: u64 = 10_000;
    match u64::try_from(quota) {
        Ok(quota) if quota > 0 => quota.saturating_mul(1_000_000).div_ceil(period).div_ceil(PER_CENT) * PER_CENT,
        _ => u64::MAX,
    }
}

/// `0-2,8` as bits, the lowest first; `None` for what is no list (the kernel will say so).
fn bit_set(list: &str) -> Option<Vec<u8>> {
    let mut bits: Vec<u8> = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > 65_535 {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| bits[bit / 8] |= 1 << (bit % 8));
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use oci_spec::runtime::{LinuxCpu, LinuxMemory};

    use super::*;

    fn named(properties: &Properties) -> HashMap<&'static str, String> {
        properties.iter().map(|(name, value)| (*name, value.to_string())).collect()
    }

    #[test]
    fn quotas_round_up_to_per_cents() {
        assert_eq!(quota_per_second(50_000, 100_000), 500_000);
        assert_eq!(quota_per_second(1_001, 100_000), 20_000);
        assert_eq!(quota_per_second(-1, 100_000), u64::MAX);
    }

    #[test]
    fn lists_become_bits() {
        assert_eq!(bit_set("0-2,8"), Some(vec![0b111, 1]));
        assert_eq!(bit_set("15"), Some(vec![0, 0x80]));
        for bad in ["", "a", "2-1", "1,", "70000"] {
            assert_eq!(bit_set(bad), None, "{bad}");
        }
    }

    #[test]
    fn limits_in_systemds_words() {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(100)).set_swap(Some(150));
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(Some(1024)).set_quota(Some(20_000)).set_period(Some(10_000)).set_cpus(Some("1".to_owned()));
        let mut limits = LinuxResources::default();
        limits.set_memory(Some(memory)).set_cpu(Some(cpu));
        let by_hand =
            [("memory.high", "90"), ("memory.min", "max"), ("io.weight", "default 5"), ("cpu.weight", "idle")];
        limits.set_unified(Some(by_hand.map(|(file, value)| (file.to_owned(), value.to_owned())).into()));
        let unified = named(&properties(&limits, true));
        let expect = |name: &str, value: &str| assert!(unified[name].ends_with(value), "{name}: {}", unified[name]);
        expect("MemoryMax", "100");
        expect("MemorySwapMax", "50");
        expect("CPUWeight", "100");
        expect("CPUQuotaPerSecUSec", "2000000");
        expect("MemoryHigh", "90");
        expect("MemoryMin", "18446744073709551615");
        assert!(unified.contains_key("AllowedCPUs"));
        let mut fewer = LinuxResources::default();
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(7));
        fewer.set_memory(Some(memory));
        let gone = named(&taken_away(&properties(&limits, true), &properties(&fewer, true)));
        assert!(!gone.contains_key("MemoryMax") && gone.contains_key("AllowedCPUs"), "{gone:?}");
        assert!(
            gone["MemorySwapMax"].ends_with("18446744073709551615") && gone["MemoryMin"].ends_with("64 0"),
            "{gone:?}"
        );
        let legacy = named(&properties(&limits, false));
        assert!(legacy["CPUShares"].ends_with("1024") && legacy["MemoryLimit"].ends_with("100"));
        assert!(!legacy.contains_key("AllowedCPUs") && !legacy.contains_key("MemoryHigh"));
    }
}
