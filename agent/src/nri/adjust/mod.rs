//! What plugins want of a container that is being created, as edits of its OCI spec. Each wish is granted or refused by its name.
//! Pure.

/// Limits.
mod limits;
/// Kinds of things by their names.
mod names;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use cri_api::v1::{LinuxContainerResources, NamespaceMode, PodSandboxConfig};
use nri_api::removed;
use nri_api::v1alpha1::{ContainerAdjustment, KeyValue, LinuxContainerAdjustment, LinuxDevice, Mount, PosixRlimit};
use oci_spec::runtime::{self as oci, LinuxNamespaceType, Spec};

use crate::libcontainer::spec::{HostFacts, RAW_ENV_ANNOTATION, SpecError, sysctl};
use crate::model::namespace_options;

/// A wish that is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdjustError {
    /// Berth does not do this.
    #[error("NRI adjustment {field}: {reason}")]
    Unsupported {
        /// As NRI names it.
        field: &'static str,
        /// Why not, and what to do instead.
        reason: &'static str,
    },
    /// It means nothing.
    #[error("NRI adjustment {field}: {value:?} {reason}")]
    Invalid {
        /// As NRI names it.
        field: &'static str,
        /// As asked for.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A limit that nothing can have.
    #[error("NRI adjustment: {0}")]
    Limits(String),
}

impl From<SpecError> for AdjustError {
    fn from(error: SpecError) -> Self {
        Self::Limits(error.to_string())
    }
}

fn invalid(field: &'static str, value: impl Into<String>, reason: &'static str) -> AdjustError {
    AdjustError::Invalid { field, value: value.into().chars().take(256).collect(), reason }
}

/// Carries an adjustment out, but for CDI devices and classes, which the node's files tell of. `limits` are the request's;
/// those that hold instead come back when they are changed.
///
/// # Errors
/// `AdjustError`: the first wish that is not granted. The spec is then of no use.
pub fn adjust_spec(
    spec: &mut Spec,
    asked: &ContainerAdjustment,
    pod: &PodSandboxConfig,
    limits: Option<&LinuxContainerResources>,
    host: &HostFacts,
) -> Result<Option<LinuxContainerResources>, AdjustError> {
    refuse_unsupported(asked)?;
    let annotations = spec.annotations_mut().get_or_insert_default();
    for (key, value) in &asked.annotations {
        match removed(key) {
            Some(key) => drop(annotations.remove(key)),
            None => drop(annotations.insert(key.clone(), value.clone())),
        }
    }
    asked.env.iter().for_each(|pair| set_env(spec, pair));
    if let (Some(process), false) = (spec.process_mut(), asked.args.is_empty()) {
        process.set_args(Some(asked.args.clone()));
    }
    set_mounts(spec, &asked.mounts)?;
    set_rlimits(spec, &asked.rlimits)?;
    let Some(linux) = &asked.linux else { return Ok(None) };
    linux.devices.iter().try_for_each(|device| set_device(spec, device))?;
    set_namespaces(spec, linux)?;
    set_sysctls(spec, linux, pod)?;
    set_process(spec, linux)?;
    if let (Some(policy), Some(oci)) = (&linux.seccomp_policy, spec.linux_mut()) {
        oci.set_seccomp(Some(names::seccomp(policy)?));
    }
    limits::set(spec, linux, limits, host)
}

fn refuse_unsupported(asked: &ContainerAdjustment) -> Result<(), AdjustError> {
    let refuse = |field, reason| Err(AdjustError::Unsupported { field, reason });
    if asked.hooks.as_ref().is_some_and(|hooks| *hooks != Default::default()) {
        return refuse("hooks", "this version of berth runs no OCI hooks in pods");
    }
    let Some(linux) = &asked.linux else { return Ok(()) };
    if !linux.cgroups_path.is_empty() {
        return refuse("linux.cgroups_path", "a container's cgroup is below its pod's, where kubelet looks for it");
    }
    if linux.net_devices.keys().any(|name| removed(name).is_none()) {
        return refuse("linux.net_devices", "this version of berth moves no network interfaces into pods");
    }
    if linux.memory_policy.is_some() {
        return refuse("linux.memory_policy", "this version of berth sets none; cpuset.mems can be set");
    }
    match &linux.rdt {
        Some(rdt) if rdt.schemata.is_some() || rdt.enable_monitoring.is_some() => {
            refuse("linux.rdt", "this version of berth makes no RDT allocation; a class can be named (clos_id)")
        }
        _ => Ok(()),
    }
}

fn set_env(spec: &mut Spec, asked: &KeyValue) {
    let key = removed(&asked.key).unwrap_or(&asked.key);
    if let Some(annotations) = spec.annotations_mut() {
        annotations.remove(&format!("{RAW_ENV_ANNOTATION}{key}"));
    }
    let Some(process) = spec.process_mut() else { return };
    let env = process.env_mut().get_or_insert_default();
    let is_it = |pair: &String| pair.split_once('=').is_some_and(|(other, _)| other == key);
    if removed(&asked.key).is_some() {
        env.retain(|pair| !is_it(pair));
        return;
    }
    let pair = format!("{key}={}", asked.value);
    match env.iter_mut().find(|other| is_it(other)) {
        Some(other) => *other = pair,
        None => env.push(pair),
    }
}

/// A mount without a type is a bind mount if its options or its source say so.
fn set_mounts(spec: &mut Spec, asked: &[Mount]) -> Result<(), AdjustError> {
    if asked.is_empty() {
        return Ok(());
    }
    let linux = spec.linux().as_ref();
    let mapped = |list: Option<&Vec<oci::LinuxIdMapping>>| list.filter(|list| !list.is_empty()).cloned();
    let uids = mapped(linux.and_then(|linux| linux.uid_mappings().as_ref()));
    let gids = mapped(linux.and_then(|linux| linux.gid_mappings().as_ref()));
    let mounts = spec.mounts_mut().get_or_insert_default();
    for one in asked {
        let target = removed(&one.destination).unwrap_or(&one.destination);
        if !target.starts_with('/') || target.contains('\0') || target.split('/').any(|part| part == "..") {
            return Err(invalid("mounts", target, "is not an absolute path without `..`"));
        }
        mounts.retain(|other| other.destination() != std::path::Path::new(target));
        if removed(&one.destination).is_some() {
            continue;
        }
        let says_bind = one.options.iter().any(|option| option == "bind" || option == "rbind");
        let bind = says_bind || matches!(one.r#type.as_str(), "" | "none" | "bind");
        let mut options = one.options.clone();
        if bind && !one.source.starts_with('/') {
            return Err(invalid("mounts", &one.source, "is the source of a bind mount and not an absolute path"));
        }
        if options.iter().any(|option| option.starts_with("x-berth.")) {
            return Err(invalid("mounts", options.join(","), "has options that are not for plugins"));
        }
        if bind && !says_bind {
            options.insert(0, "rbind".to_owned());
        }
        let mut mount = oci::Mount::default();
        mount
            .set_destination(target.into())
            .set_source(Some(PathBuf::from(&one.source)))
            .set_typ(Some(if bind { "bind".to_owned() } else { one.r#type.clone() }))
            .set_options(Some(options))
            .set_uid_mappings(uids.clone().filter(|_| bind))
            .set_gid_mappings(gids.clone().filter(|_| bind));
        mounts.push(mount);
    }
    // Parents before children; of one depth they stay in their order.
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok(())
}

fn set_rlimits(spec: &mut Spec, asked: &[PosixRlimit]) -> Result<(), AdjustError> {
    let Some(process) = spec.process_mut().as_mut().filter(|_| !asked.is_empty()) else { return Ok(()) };
    let mut list = process.rlimits().clone().unwrap_or_default();
    for limit in asked {
        let name = removed(&limit.r#type).unwrap_or(&limit.r#type);
        let kind = names::rlimit_kind(name)?;
        list.retain(|other| other.typ() != kind);
        if removed(&limit.r#type).is_some() {
            continue;
        }
        if limit.soft > limit.hard {
            return Err(invalid("rlimits", name, "has a soft limit above its hard one"));
        }
        list.push(names::rlimit(limit)?);
    }
    process.set_rlimits(Some(list));
    Ok(())
}

/// Who may make the node may use it.
fn set_device(spec: &mut Spec, asked: &LinuxDevice) -> Result<(), AdjustError> {
    let path = removed(&asked.path).unwrap_or(&asked.path);
    if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(invalid("linux.devices", path, "is not an absolute path without `..`"));
    }
    let owner = spec.process().as_ref().map(|process| (process.user().uid(), process.user().gid()));
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    let devices = linux.devices_mut().get_or_insert_default();
    devices.retain(|other| other.path() != std::path::Path::new(path));
    if removed(&asked.path).is_some() {
        return Ok(());
    }
    if linux.uid_mappings().as_ref().is_some_and(|list| !list.is_empty()) {
        let reason = "nobody in a user namespace can make nodes; a CDI device or a bind mount can be asked for";
        return Err(AdjustError::Unsupported { field: "linux.devices", reason });
    }
    let kind = names::device(&asked.r#type)?;
    let mut device = oci::LinuxDevice::default();
    device
        .set_path(path.into())
        .set_typ(kind)
        .set_major(asked.major)
        .set_minor(asked.minor)
        .set_file_mode(asked.file_mode.map(|mode| mode.value & 0o7777))
        .set_uid(asked.uid.map(|uid| uid.value).or(owner.map(|(uid, _)| uid)))
        .set_gid(asked.gid.map(|gid| gid.value).or(owner.map(|(_, gid)| gid)));
    linux.devices_mut().get_or_insert_default().push(device);
    if kind != oci::LinuxDeviceType::P {
        let mut rule = oci::LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(kind))
            .set_major(Some(asked.major))
            .set_minor(Some(asked.minor))
            .set_access(Some(names::access(asked.file_mode.map(|mode| mode.value))));
        linux.resources_mut().get_or_insert_default().devices_mut().get_or_insert_default().push(rule);
    }
    Ok(())
}

/// The others are the pod's: a container that left them would not be in its pod any more.
fn set_namespaces(spec: &mut Spec, asked: &LinuxContainerAdjustment) -> Result<(), AdjustError> {
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    for one in &asked.namespaces {
        let kind = removed(&one.r#type).unwrap_or(&one.r#type);
        if kind != "cgroup" || !one.path.is_empty() {
            let reason =
                "only a cgroup namespace of the container's own can be added or removed; the others are the pod's";
            return Err(AdjustError::Unsupported { field: "linux.namespaces", reason });
        }
        let list = linux.namespaces_mut().get_or_insert_default();
        list.retain(|other| other.typ() != LinuxNamespaceType::Cgroup);
        if removed(&one.r#type).is_none() {
            let mut own = oci::LinuxNamespace::default();
            own.set_typ(LinuxNamespaceType::Cgroup).set_path(None);
            list.push(own);
        }
    }
    Ok(())
}

/// As a pod's own: they are the pod's namespaces.
fn set_sysctls(spec: &mut Spec, asked: &LinuxContainerAdjustment, pod: &PodSandboxConfig) -> Result<(), AdjustError> {
    let options = namespace_options(pod);
    let host = |mode: NamespaceMode| mode == NamespaceMode::Node;
    let Some(linux) = spec.linux_mut().as_mut().filter(|_| !asked.sysctl.is_empty()) else { return Ok(()) };
    let list = linux.sysctl_mut().get_or_insert_default();
    for (key, value) in &asked.sysctl {
        if let Some(key) = removed(key) {
            list.remove(key);
            continue;
        }
        sysctl::check(key, value, host(options.network()), host(options.ipc()))
            .map_err(|error| invalid("linux.sysctl", key, error.reason))?;
        list.insert(key.clone(), value.clone());
    }
    Ok(())
}

fn set_process(spec: &mut Spec, asked: &LinuxContainerAdjustment) -> Result<(), AdjustError> {
    let Some(process) = spec.process_mut() else { return Ok(()) };
    if let Some(score) = &asked.oom_score_adj {
        match i32::try_from(score.value) {
            Ok(score @ -1000..=1000) => drop(process.set_oom_score_adj(Some(score))),
            _ => {
                let text = score.value.to_string();
                return Err(invalid("linux.oom_score_adj", text, "is not between -1000 and 1000"));
            }
        }
    }
    if let Some(priority) = &asked.io_priority {
        process.set_io_priority(names::io_priority(priority)?);
    }
    if let Some(scheduler) = &asked.scheduler {
        process.set_scheduler(names::scheduler(scheduler)?);
    }
    Ok(())
}
