//! Limits: each of them has one owner.

use nri_api::v1alpha1::{Field, LinuxCpu, LinuxMemory, LinuxResources};

use super::MergeError;
use super::owners::{Claim, Owners};

/// Claims what `$asked` has and puts it into each of `$into`.
macro_rules! take {
    ($owners:ident, $by:ident, $asked:expr => $into:ident, $($name:ident: $field:ident,)*) => {
        $(if let Some(value) = &$asked.$name {
            $owners.claim($by, Field::$field, "")?;
            $into.$name = Some(value.clone());
        })*
    };
}

/// Puts the limits that a plugin asks for into those so far. What it leaves out stays.
pub(super) fn merge(
    owners: &mut Owners,
    by: Claim<'_>,
    asked: &LinuxResources,
    into: &mut LinuxResources,
) -> Result<(), MergeError> {
    if let Some(memory) = &asked.memory {
        merge_memory(owners, by, memory, into.memory.get_or_insert_default())?;
    }
    if let Some(cpu) = &asked.cpu {
        merge_cpu(owners, by, cpu, into.cpu.get_or_insert_default())?;
    }
    take!(owners, by, asked => into, blockio_class: BlockioClass, rdt_class: RdtClass, pids: PidsLimit,);
    for limit in &asked.hugepage_limits {
        owners.claim(by, Field::HugepageLimits, &limit.page_size)?;
        into.hugepage_limits.retain(|other| other.page_size != limit.page_size);
        into.hugepage_limits.push(limit.clone());
    }
    for (key, value) in &asked.unified {
        owners.claim(by, Field::CgroupsUnified, key)?;
        into.unified.insert(key.clone(), value.clone());
    }
    // Rules add up: a later one has the last word on what it names.
    into.devices.extend(asked.devices.iter().cloned());
    Ok(())
}

fn merge_memory(
    owners: &mut Owners,
    by: Claim<'_>,
    asked: &LinuxMemory,
    into: &mut LinuxMemory,
) -> Result<(), MergeError> {
    take!(owners, by, asked => into,
        limit: MemLimit,
        reservation: MemReservation,
        swap: MemSwapLimit,
        kernel: MemKernelLimit,
        kernel_tcp: MemTcpLimit,
        swappiness: MemSwappiness,
        disable_oom_killer: MemDisableOomKiller,
        use_hierarchy: MemUseHierarchy,
    );
    Ok(())
}

fn merge_cpu(owners: &mut Owners, by: Claim<'_>, asked: &LinuxCpu, into: &mut LinuxCpu) -> Result<(), MergeError> {
    take!(owners, by, asked => into,
        shares: CpuShares,
        quota: CpuQuota,
        period: CpuPeriod,
        realtime_runtime: CpuRealtimeRuntime,
        realtime_period: CpuRealtimePeriod,
    );
    if !asked.cpus.is_empty() {
        owners.claim(by, Field::CpuSetCpUs, "")?;
        into.cpus.clone_from(&asked.cpus);
    }
    if !asked.mems.is_empty() {
        owners.claim(by, Field::CpuSetMems, "")?;
        into.mems.clone_from(&asked.mems);
    }
    Ok(())
}
