//! Limits: those that a client could ask for are checked and merged as its own, the others go into the spec as they are.

use cri_api::v1::LinuxContainerResources;
use nri_api::v1alpha1::{LinuxContainerAdjustment, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxResources};
use oci_spec::runtime::{self as oci, Spec};

use super::{AdjustError, invalid, names};
use crate::libcontainer::spec::HostFacts;
use crate::libcontainer::spec::resources::to_oci;
use crate::model::resources::merged;
use crate::nri::message;

/// Puts limits into the spec; gives back those that hold when they are not the request's any more.
pub(super) fn set(
    spec: &mut Spec,
    asked: &LinuxContainerAdjustment,
    requested: Option<&LinuxContainerResources>,
    host: &HostFacts,
) -> Result<Option<LinuxContainerResources>, AdjustError> {
    let none = LinuxResources::default();
    let limits = asked.resources.as_ref().unwrap_or(&none);
    let mut change = message::of_cri(limits).map_err(|error| AdjustError::Limits(error.to_string()))?;
    change.oom_score_adj = asked.oom_score_adj.map_or(0, |score| score.value);
    let before = requested.cloned().unwrap_or_default();
    let mut wanted = merged(&before, &change);
    if let Some(score) = &asked.oom_score_adj {
        // Zero is a score like any other here.
        wanted.oom_score_adj = score.value;
    }
    let Some(linux) = spec.linux_mut() else { return Ok(None) };
    let oci = linux.resources_mut().get_or_insert_default();
    if wanted != before {
        let checked = to_oci(Some(&wanted), host)?;
        oci.set_cpu(checked.cpu().clone())
            .set_memory(*checked.memory())
            .set_hugepage_limits(checked.hugepage_limits().clone())
            .set_unified(checked.unified().clone());
    }
    if let Some(memory) = &limits.memory {
        set_memory(oci, memory);
    }
    if let Some(cpu) = &limits.cpu {
        set_cpu(oci, cpu);
    }
    if let Some(pids) = &limits.pids {
        let mut limit = oci::LinuxPids::default();
        limit.set_limit(pids.limit);
        oci.set_pids(Some(limit));
    }
    for rule in &limits.devices {
        let rule = device_rule(rule)?;
        oci.devices_mut().get_or_insert_default().push(rule);
    }
    Ok((wanted != before).then_some(wanted))
}

fn set_memory(oci: &mut oci::LinuxResources, asked: &LinuxMemory) {
    let LinuxMemory { reservation, kernel, kernel_tcp, swappiness, disable_oom_killer, use_hierarchy, .. } = asked;
    let signed = [reservation, kernel, kernel_tcp];
    let others = swappiness.is_some() || disable_oom_killer.is_some() || use_hierarchy.is_some();
    if signed.iter().all(|value| value.is_none()) && !others {
        return;
    }
    let mut memory = oci.memory().unwrap_or_default();
    if let Some(value) = reservation {
        memory.set_reservation(Some(value.value));
    }
    if let Some(value) = kernel {
        memory.set_kernel(Some(value.value));
    }
    if let Some(value) = kernel_tcp {
        memory.set_kernel_tcp(Some(value.value));
    }
    if let Some(value) = swappiness {
        memory.set_swappiness(Some(value.value));
    }
    if let Some(value) = disable_oom_killer {
        memory.set_disable_oom_killer(Some(value.value));
    }
    if let Some(value) = use_hierarchy {
        memory.set_use_hierarchy(Some(value.value));
    }
    oci.set_memory(Some(memory));
}

fn set_cpu(oci: &mut oci::LinuxResources, asked: &LinuxCpu) {
    if asked.realtime_runtime.is_none() && asked.realtime_period.is_none() {
        return;
    }
    let mut cpu = oci.cpu().clone().unwrap_or_default();
    if let Some(value) = &asked.realtime_runtime {
        cpu.set_realtime_runtime(Some(value.value));
    }
    if let Some(value) = &asked.realtime_period {
        cpu.set_realtime_period(Some(value.value));
    }
    oci.set_cpu(Some(cpu));
}

fn device_rule(asked: &LinuxDeviceCgroup) -> Result<oci::LinuxDeviceCgroup, AdjustError> {
    let kind = if asked.r#type.is_empty() || asked.r#type == "a" {
        oci::LinuxDeviceType::A
    } else {
        names::device(&asked.r#type)?
    };
    if !asked.access.chars().all(|letter| "rwm".contains(letter)) || asked.access.is_empty() {
        return Err(invalid("linux.resources.devices", &asked.access, "is not one or more of r, w and m"));
    }
    // A negative number stands for all (runc, containerd).
    let number =
        |value: &Option<nri_api::v1alpha1::OptionalInt64>| value.map(|value| value.value).filter(|&number| number >= 0);
    let mut rule = oci::LinuxDeviceCgroup::default();
    rule.set_allow(asked.allow)
        .set_typ(Some(kind))
        .set_major(number(&asked.major))
        .set_minor(number(&asked.minor))
        .set_access(Some(asked.access.clone()));
    Ok(rule)
}
