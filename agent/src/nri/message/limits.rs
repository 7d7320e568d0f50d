//! Limits as the CRI has them, and as plugins do.

use cri_api::v1::LinuxContainerResources;
use nri_api::v1alpha1::{HugepageLimit, LinuxCpu, LinuxMemory, LinuxResources, OptionalInt64, OptionalUInt64};

/// A limit that a plugin asks for and that a container cannot have changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The CRI has none such, so that no status could tell it.
    #[error("{0} cannot be changed in a container that is there")]
    Unchangeable(&'static str),
    /// More than the CRI's number holds.
    #[error("{field} {value} is too large")]
    Large {
        /// Which limit.
        field: &'static str,
        /// As asked for.
        value: u64,
    },
}

/// Zero and empty say nothing in the CRI; absent does in NRI.
pub fn limits(asked: &LinuxContainerResources) -> LinuxResources {
    let signed = |value: i64| (value != 0).then_some(OptionalInt64 { value });
    let unsigned =
        |value: i64| u64::try_from(value).ok().filter(|&value| value != 0).map(|value| OptionalUInt64 { value });
    let page =
        |limit: &cri_api::v1::HugepageLimit| HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit };
    LinuxResources {
        memory: Some(LinuxMemory {
            limit: signed(asked.memory_limit_in_bytes),
            swap: signed(asked.memory_swap_limit_in_bytes),
            ..LinuxMemory::default()
        }),
        cpu: Some(LinuxCpu {
            shares: unsigned(asked.cpu_shares),
            quota: signed(asked.cpu_quota),
            period: unsigned(asked.cpu_period),
            cpus: asked.cpuset_cpus.clone(),
            mems: asked.cpuset_mems.clone(),
            ..LinuxCpu::default()
        }),
        hugepage_limits: asked.hugepage_limits.iter().map(page).collect(),
        unified: super::ordered(&asked.unified),
        ..LinuxResources::default()
    }
}

/// What the CRI has of the limits that a plugin asks for.
///
/// # Errors
/// `LimitError::Large`.
pub(crate) fn of_cri(asked: &LinuxResources) -> Result<LinuxContainerResources, LimitError> {
    let (memory, cpu) = (asked.memory.unwrap_or_default(), asked.cpu.clone().unwrap_or_default());
    let signed = |value: Option<OptionalInt64>| value.map_or(0, |value| value.value);
    let unsigned = |field, value: Option<OptionalUInt64>| match i64::try_from(value.map_or(0, |value| value.value)) {
        Ok(value) => Ok(value),
        Err(_) => Err(LimitError::Large { field, value: value.map_or(0, |value| value.value) }),
    };
    Ok(LinuxContainerResources {
        cpu_period: unsigned("cpu.period", cpu.period)?,
        cpu_quota: signed(cpu.quota),
        cpu_shares: unsigned("cpu.shares", cpu.shares)?,
        memory_limit_in_bytes: signed(memory.limit),
        memory_swap_limit_in_bytes: signed(memory.swap),
        oom_score_adj: 0,
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        hugepage_limits: asked
            .hugepage_limits
            .iter()
            .map(|limit| cri_api::v1::HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: asked.unified.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
    })
}

/// The limits that a plugin asks for, for a container that is there.
///
/// # Errors
/// `LimitError`: one that only a container that is being created can have.
pub fn to_limits(asked: &LinuxResources) -> Result<LinuxContainerResources, LimitError> {
    let (memory, cpu) = (asked.memory.unwrap_or_default(), asked.cpu.clone().unwrap_or_default());
    let rare = [
        (memory.reservation.is_some(), "memory.reservation"),
        (memory.kernel.is_some(), "memory.kernel"),
        (memory.kernel_tcp.is_some(), "memory.kernel_tcp"),
        (memory.swappiness.is_some(), "memory.swappiness"),
        (memory.disable_oom_killer.is_some(), "memory.disable_oom_killer"),
        (memory.use_hierarchy.is_some(), "memory.use_hierarchy"),
        (cpu.realtime_runtime.is_some(), "cpu.realtime_runtime"),
        (cpu.realtime_period.is_some(), "cpu.realtime_period"),
        (asked.pids.is_some(), "pids"),
        (asked.blockio_class.is_some(), "blockio_class"),
        (asked.rdt_class.is_some(), "rdt_class"),
        (!asked.devices.is_empty(), "devices"),
    ];
    match rare.into_iter().find(|(asked, _)| *asked) {
        Some((_, field)) => Err(LimitError::Unchangeable(field)),
        None => of_cri(asked),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn limits_go_there_and_back(numbers in prop::array::uniform5(0i64..1 << 40), cpus in "[0-9,-]{0,6}") {
            let [cpu_period, cpu_shares, memory, swap, quota] = numbers;
            let asked = LinuxContainerResources {
                cpu_period,
                cpu_quota: quota - (1 << 20),
                cpu_shares,
                memory_limit_in_bytes: memory,
                memory_swap_limit_in_bytes: swap,
                cpuset_cpus: cpus,
                unified: [("memory.high".to_owned(), "1".to_owned())].into(),
                ..LinuxContainerResources::default()
            };
            prop_assert_eq!(to_limits(&limits(&asked)), Ok(asked));
        }
    }

    #[test]
    fn what_no_status_could_tell_is_refused_by_name() {
        let pids = LinuxResources { pids: Some(nri_api::v1alpha1::LinuxPids { limit: 5 }), ..Default::default() };
        assert_eq!(to_limits(&pids), Err(LimitError::Unchangeable("pids")));
        let cpu = LinuxCpu { shares: Some(OptionalUInt64 { value: u64::MAX }), ..LinuxCpu::default() };
        let shares = LinuxResources { cpu: Some(cpu), ..Default::default() };
        assert!(matches!(to_limits(&shares), Err(LimitError::Large { field: "cpu.shares", .. })));
    }
}
