//! CRI `LinuxContainerResources` to the OCI's.

use cri_api::v1::LinuxContainerResources;
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::error::invalid;
use super::{HostFacts, SpecError};

/// The container's limits without its device rules; also what UpdateContainerResources applies.
///
/// # Errors
/// `SpecError::Invalid`: a value that no kernel takes, or huge page limits where they cannot be had.
pub fn to_oci(requested: Option<&LinuxContainerResources>, host: &HostFacts) -> Result<LinuxResources, SpecError> {
    let mut resources = LinuxResources::default();
    let Some(asked) = requested else { return Ok(resources) };
    resources.set_cpu(Some(cpu(asked)?)).set_memory(memory(asked, host)?);
    resources.set_hugepage_limits(hugepages(asked, host)?);
    if !asked.unified.is_empty() {
        for key in asked.unified.keys() {
            let file = !key.is_empty() && !key.starts_with('.') && !key.contains(['/', '\0']) && key.contains('.');
            if !file || key.starts_with("cgroup.") {
                return Err(invalid("linux.resources.unified", key, "is not a file of a cgroup v2 controller"));
            }
        }
        resources.set_unified(Some(asked.unified.clone()));
    }
    Ok(resources)
}

fn cpu(asked: &LinuxContainerResources) -> Result<LinuxCpu, SpecError> {
    let positive = |field, value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(invalid(field, value, "is negative")),
    };
    let text = |value: &str| if value.is_empty() { None } else { Some(value.to_owned()) };
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive("linux.resources.cpu_shares", asked.cpu_shares)?)
        .set_period(positive("linux.resources.cpu_period", asked.cpu_period)?)
        .set_quota(Some(asked.cpu_quota).filter(|&quota| quota != 0))
        .set_cpus(text(&asked.cpuset_cpus))
        .set_mems(text(&asked.cpuset_mems));
    if asked.cpu_quota < -1 {
        return Err(invalid("linux.resources.cpu_quota", asked.cpu_quota, "is neither a quota nor -1 (no limit)"));
    }
    Ok(cpu)
}

/// A limit on memory alone lets the container swap without bound, so that swap is limited with it where that can be.
fn memory(asked: &LinuxContainerResources, host: &HostFacts) -> Result<Option<LinuxMemory>, SpecError> {
    let (limit, swap) = (asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes);
    if limit < -1 {
        let field = "linux.resources.memory_limit_in_bytes";
        return Err(invalid(field, limit, "is neither a limit nor -1 (no limit)"));
    }
    let field = "linux.resources.memory_swap_limit_in_bytes";
    if swap < -1 || (swap > 0 && swap < limit) {
        return Err(invalid(field, swap, "is memory and swap together, and so not less than the memory limit"));
    }
    if swap > 0 && limit <= 0 {
        return Err(invalid(field, swap, "is memory and swap together, and needs a limit on memory"));
    }
    let swap = match swap {
        0 => (limit != 0 && host.swap_limit).then_some(limit),
        explicit => Some(explicit),
    };
    if limit == 0 && swap.is_none() {
        return Ok(None);
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(limit).filter(|&limit| limit != 0)).set_swap(swap);
    Ok(Some(memory))
}

/// kubelet sends a zero for every page size there is; without the controller there is nothing to take away.
fn hugepages(asked: &LinuxContainerResources, host: &HostFacts) -> Result<Option<Vec<LinuxHugepageLimit>>, SpecError> {
    let mut limits = Vec::new();
    for limit in &asked.hugepage_limits {
        let size = &limit.page_size;
        let digits = size.trim_end_matches(|c: char| !c.is_ascii_digit());
        if digits.is_empty()
            || !digits.bytes().all(|b| b.is_ascii_digit())
            || !matches!(&size[digits.len()..], "KB" | "MB" | "GB")
        {
            return Err(invalid("linux.resources.hugepage_limits", size, "is not a page size such as 2MB"));
        }
        if !host.hugetlb && limit.limit > 0 {
            return Err(invalid("linux.resources.hugepage_limits", size, "cannot be limited: no hugetlb controller"));
        }
        if host.hugetlb {
            let mut one = LinuxHugepageLimit::default();
            one.set_page_size(size.clone()).set_limit(i64::try_from(limit.limit).unwrap_or(i64::MAX));
            limits.push(one);
        }
    }
    Ok(if limits.is_empty() { None } else { Some(limits) })
}

/// How ready the kernel is to kill the container's processes for memory, from -1000 to 1000.
///
/// # Errors
/// `SpecError::Invalid`: it is none of these.
pub fn oom_score_adj(requested: Option<&LinuxContainerResources>) -> Result<i32, SpecError> {
    let value = requested.map_or(0, |resources| resources.oom_score_adj);
    match i32::try_from(value) {
        Ok(score @ -1000..=1000) => Ok(score),
        _ => Err(invalid("linux.resources.oom_score_adj", value, "is not between -1000 and 1000")),
    }
}
