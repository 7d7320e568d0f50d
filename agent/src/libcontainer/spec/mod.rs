//! CRI request and image configuration to an OCI runtime `Spec`. Pure: what has to be looked up on the host comes in as
//! `HostFacts` and `HostDevices`.
//!
//! Called by `ops::create_container`. Every error names the request's field and the reason, so that it can go to the
//! client as InvalidArgument.

/// Names, numbers and sets of capabilities, and the CRI's add and drop lists.
pub mod capability;
/// What the operator's runtime handler says.
mod defaults;
/// Requested and default devices, and the device cgroup's rules.
mod device;
/// Why a request cannot become a `Spec`.
mod error;
/// What the pure code has to know of the host.
mod host;
/// Default, pod and requested mounts.
mod mount;
/// Which namespaces a container joins or gets.
mod namespace;
/// Command, environment and working directory.
mod process;
/// CRI resources to OCI resources.
pub mod resources;
/// seccomp and AppArmor choices.
pub mod security;
/// SELinux labels.
pub mod selinux;
/// Which sysctls a pod may set.
pub mod sysctl;
/// Users and groups, resolved against the image's own files.
pub mod user;

use std::collections::HashMap;
use std::path::PathBuf;

use cri_api::v1::{ContainerConfig, LinuxContainerSecurityContext, PodSandboxConfig};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Linux, Mount, Process, Root, Spec, User};

pub use defaults::Defaults;
pub use device::usual_device_rules;
pub use error::SpecError;
pub use host::{CgroupMounts, Hierarchy, HostDevice, HostDevices, HostFacts};
pub use mount::{CREATE_SOURCE, IMAGE_VOLUME, POD_SHM, RELABEL};
pub use namespace::{PidMode, asks_for_ids, network_is_host, pid_mode, user_namespace};
pub use process::{RAW_ENV_ANNOTATION, raw_environment};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use user::fuzz::user as fuzz_user;
pub use user::{ResolvedUser, UserError};

/// A namespace path in the `Spec` that means the pod's own (the monitor's); an external runtime gets a real path instead.
pub const POD_NAMESPACE: &str = "pod:";
/// Prefix of a PID namespace path that means another container's: `container:<id>`.
pub const TARGET_NAMESPACE: &str = "container:";

/// The pod's files that every container sees; `None` leaves the image's own in place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodPaths {
    /// Becomes /etc/resolv.conf.
    pub resolv_conf: Option<PathBuf>,
    /// Becomes /etc/hosts.
    pub hosts: Option<PathBuf>,
    /// Becomes /etc/hostname.
    pub hostname: Option<PathBuf>,
}

/// Everything a `Spec` is made from.
#[derive(Debug, Clone, Copy)]
pub struct SpecInput<'a> {
    /// The pod as it was requested.
    pub sandbox: &'a PodSandboxConfig,
    /// The container as it is requested.
    pub container: &'a ContainerConfig,
    /// The image's own defaults.
    pub image: &'a ImageConfiguration,
    /// From `user::resolve`.
    pub user: &'a ResolvedUser,
    /// The pod's files.
    pub pod: &'a PodPaths,
    /// What the requested devices are on this host.
    pub devices: &'a HostDevices,
    /// Content of the file that `security::SeccompChoice::Localhost` names.
    pub seccomp_profile: Option<&'a [u8]>,
    /// From `cgroup::container_path`.
    pub cgroups_path: &'a str,
    /// The pod's level, where SELinux is on.
    pub selinux_level: &'a str,
    /// What the pod's runtime handler says.
    pub defaults: &'a Defaults,
    /// What the host can do.
    pub host: &'a HostFacts,
}

impl<'a> SpecInput<'a> {
    fn context(&self) -> Option<&'a LinuxContainerSecurityContext> {
        self.container.linux.as_ref()?.security_context.as_ref()
    }

    fn privileged(&self) -> bool {
        self.context().is_some_and(|context| context.privileged)
    }

    fn sandbox_privileged(&self) -> bool {
        let context = self.sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        context.is_some_and(|context| context.privileged)
    }
}

/// The `Spec` of a container.
///
/// # Errors
/// `SpecError`: what in the request cannot be granted, by field and reason.
pub fn build(input: &SpecInput<'_>) -> Result<Spec, SpecError> {
    if input.privileged() && !input.sandbox_privileged() {
        return Err(SpecError::PrivilegedContainer);
    }
    let mut annotations = input.container.annotations.clone();
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(input.context().is_some_and(|context| context.readonly_rootfs)));

    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned())
        .set_root(Some(root))
        .set_hostname(None)
        .set_process(Some(build_process(input, &mut annotations)?))
        .set_mounts(Some(mount::mounts(input)?))
        .set_linux(Some(build_linux(input)?))
        .set_annotations(Some(annotations));
    Ok(spec)
}

fn build_process(input: &SpecInput<'_>, annotations: &mut HashMap<String, String>) -> Result<Process, SpecError> {
    let context = input.context();
    let resources = input.container.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let mut owner = User::default();
    owner.set_uid(input.user.uid).set_gid(input.user.gid).set_additional_gids(Some(input.user.groups.clone()));

    let mut process = Process::default();
    process
        .set_terminal(Some(input.container.tty))
        .set_user(owner)
        .set_args(Some(process::args(input)?))
        .set_env(Some(process::environment(input, annotations)?))
        .set_cwd(process::cwd(input)?)
        .set_capabilities(Some(capability::for_container(context, input.defaults)?))
        .set_rlimits(Some(input.defaults.rlimits.clone()).filter(|limits| !limits.is_empty()))
        .set_no_new_privileges(Some(context.is_some_and(|context| context.no_new_privs)))
        .set_apparmor_profile(security::apparmor_profile(context, input.defaults, input.host)?)
        .set_selinux_label(selinux::process_label(context, input.host, input.selinux_level)?)
        .set_oom_score_adj(Some(resources::oom_score_adj(resources)?));
    Ok(process)
}

fn build_linux(input: &SpecInput<'_>) -> Result<Linux, SpecError> {
    let privileged = input.privileged();
    let requested = input.container.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let devices = device::requested(input)?;
    let mut limits = resources::to_oci(requested, input.host)?;
    limits.set_devices(Some(device::rules(privileged && !input.defaults.without_host_devices, &devices)));
    let (masked, readonly) = mount::hidden_paths(input);
    let user_namespace = namespace::user_namespace_of(input)?;
    // Who is in a user namespace cannot make nodes: devices are mounts there.
    let nodes = if user_namespace.is_some() { Vec::new() } else { devices };

    let mut linux = Linux::default();
    linux
        .set_resources(Some(limits))
        .set_cgroups_path(Some(input.cgroups_path.into()))
        .set_namespaces(Some(namespace::namespaces(input)?))
        .set_devices(Some(nodes.into_iter().map(|granted| granted.device).collect()))
        .set_seccomp(security::seccomp(input)?)
        .set_rootfs_propagation(mount::root_propagation(input.container))
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(readonly))
        .set_mount_label(selinux::file_label(input.context(), input.host, input.selinux_level)?)
        .set_uid_mappings(user_namespace.map(|(uids, _)| namespace::oci_mapping(&uids)))
        .set_gid_mappings(user_namespace.map(|(_, gids)| namespace::oci_mapping(&gids)));
    Ok(linux)
}

/// A bind, tmpfs … entry of the `Spec`'s mount list.
fn entry(destination: &str, fstype: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(fstype.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
}

#[cfg(test)]
pub(crate) mod tests;
