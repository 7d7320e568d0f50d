//! Which namespaces a container joins or gets (CRI `NamespaceOption`).

use cri_api::v1::{IdMapping, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType};

use super::error::invalid;
use super::{POD_NAMESPACE, SpecError, SpecInput, TARGET_NAMESPACE};

/// Whose process ids a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PidMode {
    /// All containers of the pod share one namespace; the zero value of the CRI.
    Pod,
    /// One of its own.
    Container,
    /// The host's.
    Node,
    /// That of another container of the pod.
    Target(String),
}

fn sandbox_options(sandbox: &PodSandboxConfig) -> NamespaceOption {
    let context = sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}

/// The pod uses the host's network, and with it the host's UTS namespace.
pub fn network_is_host(sandbox: &PodSandboxConfig) -> bool {
    sandbox_options(sandbox).network() == NamespaceMode::Node
}

/// The pod uses the host's IPC namespace and /dev/shm.
pub(super) fn ipc_is_host(sandbox: &PodSandboxConfig) -> bool {
    sandbox_options(sandbox).ipc() == NamespaceMode::Node
}

/// The container's own choice, else the pod's.
///
/// # Errors
/// `SpecError::Invalid`: TARGET without a target.
pub fn pid_mode(
    sandbox: &PodSandboxConfig,
    context: Option<&LinuxContainerSecurityContext>,
) -> Result<PidMode, SpecError> {
    let own = context.and_then(|context| context.namespace_options.clone());
    let options = own.unwrap_or_else(|| sandbox_options(sandbox));
    Ok(match options.pid() {
        NamespaceMode::Pod => PidMode::Pod,
        NamespaceMode::Container => PidMode::Container,
        NamespaceMode::Node => PidMode::Node,
        NamespaceMode::Target if options.target_id.is_empty() => {
            return Err(invalid("namespace_options.target_id", "", "is needed with pid mode TARGET"));
        }
        NamespaceMode::Target => PidMode::Target(options.target_id),
    })
}

pub(super) fn hostname<'a>(input: &SpecInput<'a>) -> &'a str {
    let requested = input.sandbox.hostname.as_str();
    if requested.is_empty() { &input.host.hostname } else { requested }
}

/// The `Spec`'s list: what is absent is the host's; `POD_NAMESPACE` and `TARGET_NAMESPACE` are joined, the rest is new.
pub(super) fn namespaces(input: &SpecInput<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    let new = |typ| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ).set_path(None);
        namespace
    };
    let joined = |typ, path: String| {
        let mut namespace = new(typ);
        namespace.set_path(Some(path.into()));
        namespace
    };
    let mut list = vec![new(Mount)];
    match pid_mode(input.sandbox, input.context())? {
        PidMode::Pod => list.push(joined(Pid, POD_NAMESPACE.to_owned())),
        PidMode::Container => list.push(new(Pid)),
        PidMode::Node => {}
        PidMode::Target(id) => list.push(joined(Pid, format!("{TARGET_NAMESPACE}{id}"))),
    }
    if !network_is_host(input.sandbox) {
        list.push(joined(Network, POD_NAMESPACE.to_owned()));
        list.push(joined(Uts, POD_NAMESPACE.to_owned()));
    }
    if !ipc_is_host(input.sandbox) {
        list.push(joined(Ipc, POD_NAMESPACE.to_owned()));
    }
    let in_user_namespace = user_namespace(input.sandbox)?.is_some();
    if in_user_namespace {
        list.push(joined(User, POD_NAMESPACE.to_owned()));
    }
    // The host's cgroup namespace is not for who is no root of the host.
    if !input.privileged() || in_user_namespace {
        list.push(new(Cgroup));
    }
    Ok(list)
}

/// The one uid and the one gid mapping of a pod in a user namespace; `None` for a pod in the host's.
///
/// # Errors
/// `SpecError::Invalid` by CRI rule: more than one mapping, container id 0 unmapped, mode CONTAINER or TARGET; ids that do
/// not exist; another namespace that is the host's.
pub fn user_namespace(sandbox: &PodSandboxConfig) -> Result<Option<(IdMapping, IdMapping)>, SpecError> {
    let options = sandbox_options(sandbox);
    let Some(asked) = &options.userns_options else { return Ok(None) };
    match asked.mode() {
        NamespaceMode::Node if asked.uids.is_empty() && asked.gids.is_empty() => Ok(None),
        NamespaceMode::Node => Err(invalid("userns_options.mode", "NODE", "has mappings")),
        NamespaceMode::Pod => {
            let others = [("network", options.network()), ("pid", options.pid()), ("ipc", options.ipc())];
            if let Some((name, _)) = others.iter().find(|(_, mode)| *mode == NamespaceMode::Node) {
                let reason = "namespace is the host's, which a pod in a user namespace cannot use";
                return Err(invalid("userns_options.mode: the pod's", name, reason));
            }
            Ok(Some((one("userns_options.uids", &asked.uids)?, one("userns_options.gids", &asked.gids)?)))
        }
        NamespaceMode::Container | NamespaceMode::Target => {
            Err(invalid("userns_options.mode", asked.mode().as_str_name(), "is neither POD nor NODE"))
        }
    }
}

fn one(field: &'static str, list: &[IdMapping]) -> Result<IdMapping, SpecError> {
    match list {
        [only] if only.container_id != 0 => Err(invalid(field, only.container_id, "has to map container id 0")),
        [only] if only.length == 0 => Err(invalid(field, 0, "maps no id at all")),
        // The last number is no id but "nobody" to the kernel.
        [only] if only.host_id.checked_add(only.length).is_none() => {
            Err(invalid(field, only.host_id, "and the length lead beyond the last id"))
        }
        [only] => Ok(*only),
        _ => Err(invalid(field, list.len(), "mappings: exactly one is supported")),
    }
}

/// The pod is to be in a user namespace, and the client leaves it to the runtime which ids it gets.
pub fn asks_for_ids(sandbox: &PodSandboxConfig) -> bool {
    let asked = sandbox_options(sandbox).userns_options;
    asked.is_some_and(|asked| asked.mode() == NamespaceMode::Pod && asked.uids.is_empty() && asked.gids.is_empty())
}

/// The pod's user namespace, after a check that the container fits into it.
pub(super) fn user_namespace_of(input: &SpecInput<'_>) -> Result<Option<(IdMapping, IdMapping)>, SpecError> {
    let pods = user_namespace(input.sandbox)?;
    let own = input.context().and_then(|context| context.namespace_options.as_ref()?.userns_options.as_ref());
    if let Some(own) = own {
        let fits = match (own.mode(), &pods) {
            (NamespaceMode::Node, None) => true,
            (NamespaceMode::Pod, Some((uids, gids))) => {
                (own.uids.is_empty() && own.gids.is_empty()) || (own.uids == [*uids] && own.gids == [*gids])
            }
            _ => false,
        };
        if !fits {
            return Err(invalid("userns_options.mode", own.mode().as_str_name(), "is not what the pod sandbox has"));
        }
    }
    let Some((uids, gids)) = &pods else { return Ok(None) };
    if pid_mode(input.sandbox, input.context())? == PidMode::Node {
        return Err(invalid("namespace_options.pid", "NODE", "is not for a pod in a user namespace"));
    }
    let reason = "is not among the ids of the pod's user namespace";
    if input.user.uid >= uids.length {
        return Err(invalid("user", input.user.uid, reason));
    }
    let groups = std::iter::once(&input.user.gid).chain(&input.user.groups);
    match groups.into_iter().find(|gid| **gid >= gids.length) {
        Some(gid) => Err(invalid("group", gid, reason)),
        None => Ok(pods),
    }
}

/// As the OCI runtime-spec has it.
pub(super) fn oci_mapping(mapping: &IdMapping) -> Vec<LinuxIdMapping> {
    let IdMapping { host_id, container_id, length } = *mapping;
    let oci = LinuxIdMappingBuilder::default().container_id(container_id).host_id(host_id).size(length).build();
    // Every field has a default, so that nothing can be missing.
    oci.into_iter().collect()
}
