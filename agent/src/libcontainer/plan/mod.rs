//! `Spec` to `InitPlan`: data in, data out, tested without root.
//!
//! The order of an `InitPlan`: enter the root, the default file systems, /dev, the requested mounts, the working
//! directory, masks, and last of all the read-only root.

/// Bundles: containers without a pod.
mod bundle;
/// Mounts of bundles.
mod bundle_mounts;
/// Namespaces of bundles.
mod bundle_namespaces;
/// /dev: nodes and links.
mod dev;
/// What the agent opens for a plan.
mod fd_source;
/// The plan's types; they cross the monitor's socket.
mod init_plan;
/// Mounts of the `Spec` as steps.
mod mounts;
/// fstab-style options as bits.
mod options;
/// The program and its credentials.
mod process;
/// How the kernel schedules it.
mod scheduling;
/// Ids of a user namespace.
mod user_namespace;

use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, Spec};

use crate::libcontainer::seccomp::Filter;
use crate::libcontainer::spec::{HostFacts, POD_NAMESPACE, TARGET_NAMESPACE};

pub use bundle::{BundleInput, BundlePlan, bundle, hooks};
pub use bundle_namespaces::NamespaceSet;
pub use fd_source::*;
pub use init_plan::*;
pub(super) use mounts::bind_source;
pub(super) use process::rlimit_type;
pub use process::{exec_plan, process_plan};
pub use user_namespace::{IdRange, UserNamespace};

/// What a plan needs beside the `Spec`.
#[derive(Debug, Clone)]
pub struct PlanInput<'a> {
    /// The image's layer folders, the topmost first.
    pub layers: Vec<PathBuf>,
    /// The container's writable layer.
    pub upper: Option<Upper>,
    /// The image volumes that the `Spec` names by number.
    pub image_volumes: &'a [ImageTree],
    /// The compiled `linux.seccomp`; it has to be there when the `Spec` has a profile.
    pub filter: Option<&'a Filter>,
    /// CRI `stdin`.
    pub stdin: bool,
    /// CRI `stdin_once`.
    pub stdin_once: bool,
    /// What the host can do.
    pub host: &'a HostFacts,
}

/// A container's plan.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerPlan {
    /// For the monitor.
    pub init: InitPlan,
    /// What the agent opens; the index is the fd's index in `init`.
    pub fds: Vec<FdSource>,
    /// What the container does not get because the agent has not got it either.
    pub warnings: Vec<Warning>,
}

/// Something asked for that this host cannot give. The same for every container that asks: tell each once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Warning {
    /// Bits of the capabilities that were left out.
    #[error("the agent does not hold the capabilities {0}, containers do not get them")]
    Capabilities(String),
    /// A lowered oom_score_adj needs CAP_SYS_RESOURCE.
    #[error("oom_score_adj below {lowest} needs CAP_SYS_RESOURCE, which the agent does not hold; it is raised to that")]
    OomScoreAdj {
        /// What containers get instead: the agent's own.
        lowest: i32,
    },
}

/// A `Spec` that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A part that every container needs.
    #[error("the spec has no {0}")]
    Missing(&'static str),
    /// A profile that was not compiled would be no profile.
    #[error("the spec has a seccomp profile but no compiled filter was given")]
    NoFilter,
    /// A kind of mount that init does not make.
    #[error("mount {target:?}: type {fstype:?} is not supported")]
    MountType {
        /// Where.
        target: String,
        /// Which.
        fstype: String,
    },
    /// An option that a bind mount cannot have.
    #[error("mount {target:?}: option {option:?} is not supported")]
    MountOption {
        /// Where.
        target: String,
        /// Which.
        option: String,
    },
    /// A path that is not UTF-8 cannot cross the monitor's protocol.
    #[error("{0:?} is not UTF-8")]
    Path(PathBuf),
    /// A namespace that init cannot be put into.
    #[error("namespace {0:?} is not supported")]
    Namespace(String),
    /// Something that a bundle asks for and does not get.
    #[error("{field} {reason}")]
    Unsupported {
        /// Where in config.json.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A path of a bundle that has to be absolute.
    #[error("{field} {path:?} is not an absolute path")]
    Relative {
        /// Where in config.json.
        field: &'static str,
        /// As given.
        path: String,
    },
    /// A kernel setting that is not one of the container's own namespaces.
    #[error("linux.sysctl {key:?} {reason}")]
    Sysctl {
        /// Which.
        key: String,
        /// Why not.
        reason: &'static str,
    },
}

/// Plans a container.
///
/// # Errors
/// `PlanError`: the `Spec` asks for what no step can do.
pub fn plan(spec: &Spec, input: &PlanInput<'_>) -> Result<ContainerPlan, PlanError> {
    let linux = spec.linux().as_ref().ok_or(PlanError::Missing("linux part"))?;
    let (process, warnings) = process::process_plan(spec, input.host, input.filter)?;
    let idmapped = is_mapped(linux.uid_mappings().as_ref());
    let mut steps = Steps::default();
    let root = steps.open(FdSource::Overlay(Overlay {
        lower: input.layers.clone(),
        upper: input.upper.clone(),
        readonly: false,
        selinux_context: linux.mount_label().clone(),
        idmapped,
    }));
    // Every mount carries its own propagation; the root itself has no peers in a namespace made for it.
    steps.push(Action::EnterRoot(EnterRoot { fd: root, ..EnterRoot::default() }));
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    for mount in mounts {
        mounts::add(&mut steps, mount, input, linux.mount_label().as_deref())?;
        if dev::is_own_dev(mount) {
            if idmapped {
                dev::add_default_mounts(&mut steps);
            } else {
                dev::add_defaults(&mut steps);
            }
            dev::add_requested(&mut steps, linux.devices().as_deref().unwrap_or_default())?;
        }
    }
    add_settings(&mut steps, linux, &process.cwd);
    add_covers(&mut steps, spec, linux);
    let init = InitPlan {
        namespaces: namespaces(linux.namespaces().as_deref().unwrap_or_default())?,
        steps: steps.actions.into_iter().map(|action| Step { action: Some(action) }).collect(),
        process,
        tty: spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false),
        stdin: input.stdin,
        stdin_once: input.stdin_once,
        start_hooks: Vec::new(),
    };
    Ok(ContainerPlan { init, fds: steps.fds, warnings })
}

/// Kernel settings, and the working directory while it can still be made.
fn add_settings(steps: &mut Steps, linux: &Linux, cwd: &str) {
    for (key, value) in sorted(linux.sysctl().iter().flatten()) {
        steps.push(Action::Sysctl(Sysctl { key: key.clone(), value: value.clone() }));
    }
    if cwd != "/" {
        steps.push(Action::MakeDir(MakeDir { path: cwd.to_owned(), mode: 0o755 }));
    }
}

/// What is hidden or made read-only once everything is in its place.
fn add_covers(steps: &mut Steps, spec: &Spec, linux: &Linux) {
    for path in linux.readonly_paths().iter().flatten() {
        steps.push(Action::ReadonlyPath(PathStep { path: path.clone() }));
    }
    for path in linux.masked_paths().iter().flatten() {
        steps.push(Action::MaskPath(PathStep { path: path.clone() }));
    }
    if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        steps.push(Action::ReadonlyRoot(Unit {}));
    }
}

/// The plan while it grows.
#[derive(Default)]
struct Steps {
    actions: Vec<Action>,
    fds: Vec<FdSource>,
}

impl Steps {
    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// The index of the fd that the agent will open.
    fn open(&mut self, source: FdSource) -> u32 {
        self.fds.push(source);
        self.fds.len() as u32 - 1
    }
}

/// Maps have no order of their own, and a plan has to be the same each time.
fn sorted<'a>(map: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<(&'a String, &'a String)> {
    let mut list: Vec<_> = map.collect();
    list.sort();
    list
}

fn text(path: &std::path::Path) -> Result<String, PlanError> {
    path.to_str().map(str::to_owned).ok_or_else(|| PlanError::Path(path.to_owned()))
}

/// Whether a list of id mappings maps anything.
fn is_mapped(mappings: Option<&Vec<LinuxIdMapping>>) -> bool {
    mappings.is_some_and(|list| !list.is_empty())
}

/// Network, IPC and UTS are the monitor's and need nothing here. A user namespace is the pod's, which init is born in.
pub(super) fn namespaces(list: &[LinuxNamespace]) -> Result<Namespaces, PlanError> {
    let mut result = Namespaces { pid: PidNamespace::Node as i32, ..Namespaces::default() };
    for namespace in list {
        let path = match namespace.path() {
            Some(path) => Some(text(path)?),
            None => None,
        };
        match (namespace.typ(), path.as_deref()) {
            (LinuxNamespaceType::Pid, None) => result.pid = PidNamespace::Container as i32,
            (LinuxNamespaceType::Pid, Some(POD_NAMESPACE)) => result.pid = PidNamespace::Pod as i32,
            (LinuxNamespaceType::Pid, Some(path)) => match path.strip_prefix(TARGET_NAMESPACE) {
                Some(id) => {
                    result.pid = PidNamespace::Target as i32;
                    result.pid_target = id.to_owned();
                }
                None => return Err(PlanError::Namespace(format!("pid {path}"))),
            },
            (LinuxNamespaceType::Cgroup, None) => result.cgroup = true,
            (LinuxNamespaceType::User, Some(POD_NAMESPACE)) => result.user = true,
            (LinuxNamespaceType::Mount, None) => {}
            (LinuxNamespaceType::Network | LinuxNamespaceType::Ipc | LinuxNamespaceType::Uts, Some(POD_NAMESPACE)) => {}
            (kind, path) => return Err(PlanError::Namespace(format!("{kind} {}", path.unwrap_or("new")))),
        }
    }
    Ok(result)
}

#[cfg(test)]
mod bundle_tests;
#[cfg(test)]
mod tests;
