//! Configurations as kubelet sends them, in their plainest form; a test changes the fields it is about.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use cri_api::v1;

/// A pod named `name` with its log directory below `folder`, everything else at its default; pid namespaces are the
/// containers' own, since the zero value would share one (rules.md, rule 16).
pub fn pod(name: &str, folder: &Path) -> v1::PodSandboxConfig {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let uid = format!("{time:x}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let options = v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() };
    let security = v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.clone(),
            namespace: "e2e".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: folder.join(format!("logs/{name}-{uid}")).display().to_string(),
        linux: Some(v1::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() }),
        ..Default::default()
    }
}

/// A container of `image` that runs `command`, logs to `NAME.log`, and sees its pod's namespaces but for pids.
pub fn container(name: &str, image: &str, command: &[&str]) -> v1::ContainerConfig {
    let options = v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() };
    let security = v1::LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig { security_context: Some(security), resources: None }),
        ..Default::default()
    }
}

/// The container's security context, to be changed.
pub fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// The container's resources, to be changed.
pub fn resources(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}

/// The pod's security context, to be changed.
pub fn pod_security(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxSandboxSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// The pod's namespace options, to be changed.
pub fn pod_namespaces(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    pod_security(config).namespace_options.get_or_insert_default()
}

/// Sets how pod and container see the network, for a container of a host-network pod.
pub fn container_namespaces(config: &mut v1::ContainerConfig) -> &mut v1::NamespaceOption {
    security(config).namespace_options.get_or_insert_default()
}

/// A bind mount.
pub fn bind(host: &Path, container: &str, readonly: bool) -> v1::Mount {
    v1::Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        readonly,
        ..Default::default()
    }
}

/// A seccomp or AppArmor profile by kind.
pub fn profile(kind: v1::security_profile::ProfileType, localhost: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: localhost.to_owned() })
}

/// A number that may be absent.
pub fn int(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

/// Capabilities added and dropped.
pub fn capabilities(add: &[&str], drop: &[&str]) -> Option<v1::Capability> {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Some(v1::Capability { add_capabilities: owned(add), drop_capabilities: owned(drop), ..Default::default() })
}
