//! A bundle's `Spec` to a plan (OCI runtime-spec): a container that has no pod, no image and no monitor. Every field is
//! carried out or refused by its name.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use super::{
    Action, Bind, ContainerPlan, EnterRoot, FdSource, Hook, Hooks, InitPlan, LeaveHost, Names, NamespaceSet,
    Namespaces, PlanError, Propagation, Step, Steps, add_covers, add_settings, bundle_mounts, dev, process, text,
};
use crate::libcontainer::seccomp::Filter;
use crate::libcontainer::spec::HostFacts;

const MS_REC: u64 = 1 << 14;

/// What a bundle's plan needs beside the `Spec`.
#[derive(Debug, Clone, Copy)]
pub struct BundleInput<'a> {
    /// The bundle's folder, absolute.
    pub bundle: &'a Path,
    /// The root file system's folder, absolute.
    pub rootfs: &'a Path,
    /// The container's cgroup, below the root of each hierarchy.
    pub cgroup: &'a str,
    /// The compiled `linux.seccomp`.
    pub filter: Option<&'a Filter>,
    /// What the host can do.
    pub host: &'a HostFacts,
}

/// The plan of a bundle.
#[derive(Debug, Clone, PartialEq)]
pub struct BundlePlan {
    /// For init, and what is to be opened for it.
    pub container: ContainerPlan,
    /// Where it is cloned.
    pub namespaces: NamespaceSet,
}

/// What the mounts of a bundle depend on.
pub(super) struct Context<'a> {
    pub(super) bundle: &'a Path,
    pub(super) namespaces: &'a NamespaceSet,
    pub(super) cgroup: &'a str,
    pub(super) label: Option<&'a str>,
    pub(super) host: &'a HostFacts,
}

/// Plans the container of a bundle.
///
/// # Errors
/// `PlanError`: what the `Spec` asks for and cannot be had.
pub fn bundle(spec: &Spec, input: &BundleInput<'_>) -> Result<BundlePlan, PlanError> {
    let linux = spec.linux().as_ref().ok_or(PlanError::Missing("linux part"))?;
    check(spec, linux)?;
    let namespaces = NamespaceSet::of(spec, linux)?;
    let (process, warnings) = process::process_plan(spec, input.host, input.filter)?;
    if !process.cwd.starts_with('/') {
        return Err(PlanError::Relative { field: "process.cwd", path: process.cwd });
    }
    let mut steps = Steps::default();
    let own_mounts = namespaces.makes(LinuxNamespaceType::Mount);
    let spread = RootPropagation::of(linux)?;
    add_root(&mut steps, input.rootfs, spread.at_opening, own_mounts)?;
    let names = Names {
        hostname: spec.hostname().clone().unwrap_or_default(),
        domainname: spec.domainname().clone().unwrap_or_default(),
    };
    if names != Names::default() {
        steps.push(Action::SetNames(names));
    }
    let with = Context {
        bundle: input.bundle,
        namespaces: &namespaces,
        cgroup: input.cgroup,
        label: linux.mount_label().as_deref(),
        host: input.host,
    };
    for mount in spec.mounts().iter().flatten() {
        bundle_mounts::add(&mut steps, mount, &with)?;
    }
    add_devices(&mut steps, spec, linux, &namespaces)?;
    add_settings(&mut steps, linux, &process.cwd);
    let hooks = hooks(spec, "createContainer")?;
    if !hooks.is_empty() {
        steps.push(Action::RunHooks(Hooks { hooks }));
    }
    steps.push(Action::LeaveHost(LeaveHost { chroot: !own_mounts, propagation: spread.at_the_end }));
    add_covers(&mut steps, spec, linux);
    let init = InitPlan {
        namespaces: Namespaces {
            cgroup: namespaces.makes(LinuxNamespaceType::Cgroup),
            user: namespaces.has(LinuxNamespaceType::User),
            ..Namespaces::default()
        },
        steps: steps.actions.into_iter().map(|action| Step { action: Some(action) }).collect(),
        process,
        tty: spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false),
        stdin: true,
        stdin_once: false,
        start_hooks: self::hooks(spec, "startContainer")?,
    };
    Ok(BundlePlan { container: ContainerPlan { init, fds: steps.fds, warnings }, namespaces })
}

/// What is known, cannot be had, and must not be missed in silence.
fn check(spec: &Spec, linux: &Linux) -> Result<(), PlanError> {
    let process = spec.process().as_ref();
    let asked = [
        (linux.intel_rdt().is_some(), "linux.intelRdt"),
        (linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()), "linux.netDevices"),
        (linux.memory_policy().is_some(), "linux.memoryPolicy"),
        (process.is_some_and(|process| process.exec_cpu_affinity().is_some()), "process.execCPUAffinity"),
        (spec.vm().is_some(), "vm"),
    ];
    if let Some((_, field)) = asked.into_iter().find(|(asked, _)| *asked) {
        return Err(PlanError::Unsupported { field, reason: "is not supported" });
    }
    let lists = [(linux.masked_paths(), "linux.maskedPaths"), (linux.readonly_paths(), "linux.readonlyPaths")];
    for (list, field) in lists {
        if let Some(path) = list.iter().flatten().find(|path| !path.starts_with('/')) {
            return Err(PlanError::Relative { field, path: path.clone() });
        }
    }
    Ok(())
}

/// How mounts below the root spread (OCI runtime-spec, `rootfsPropagation`).
struct RootPropagation {
    at_opening: Propagation,
    /// MS_* bits. Nothing can pivot into what is shared, and parts of what is unbindable could not be made read-only.
    at_the_end: u64,
}

impl RootPropagation {
    fn of(linux: &Linux) -> Result<Self, PlanError> {
        let asked = linux.rootfs_propagation().as_deref().unwrap_or_default();
        let (at_opening, last) = match asked.strip_prefix('r').unwrap_or(asked) {
            "" | "private" => (Propagation::Private, Propagation::Private),
            "slave" => (Propagation::HostToContainer, Propagation::Private),
            "shared" => (Propagation::Private, Propagation::Shared),
            "unbindable" => (Propagation::Private, Propagation::Unbindable),
            _ => {
                let reason = "is none of shared, slave, private and unbindable";
                return Err(PlanError::Unsupported { field: "linux.rootfsPropagation", reason });
            }
        };
        let bits = bundle_mounts::bits(last);
        let recursive = if bits != 0 && asked.starts_with('r') { MS_REC } else { 0 };
        Ok(Self { at_opening, at_the_end: bits | recursive })
    }
}

fn add_root(steps: &mut Steps, rootfs: &Path, propagation: Propagation, own_mounts: bool) -> Result<(), PlanError> {
    let source = PathBuf::from(rootfs);
    let fd = steps.open(FdSource::Bind(Bind { source, recursive: true, propagation, ..Bind::default() }));
    steps.push(Action::EnterRoot(EnterRoot { fd, propagation: 0, at: text(rootfs)?, foreign_mounts: !own_mounts }));
    Ok(())
}

/// The default devices are in every container (OCI runtime-spec, default devices), unless the host's own /dev is.
fn add_devices(steps: &mut Steps, spec: &Spec, linux: &Linux, namespaces: &NamespaceSet) -> Result<(), PlanError> {
    let mut mounts = spec.mounts().iter().flatten();
    if mounts.any(|mount| mount.destination() == Path::new("/dev") && bundle_mounts::is_bind(mount)) {
        return Ok(());
    }
    let requested = linux.devices().as_deref().unwrap_or_default();
    if namespaces.has(LinuxNamespaceType::User) {
        dev::add_default_mounts(steps);
        dev::add_requested_mounts(steps, requested)
    } else {
        dev::add_defaults(steps);
        dev::add_requested(steps, requested)
    }
}

/// The hooks of one kind, by its name in config.json.
///
/// # Errors
/// `PlanError`: a path that is not absolute, or a timeout that is not positive.
#[allow(deprecated)] // `prestart`, which everybody still uses
pub fn hooks(spec: &Spec, kind: &'static str) -> Result<Vec<Hook>, PlanError> {
    let Some(hooks) = spec.hooks() else { return Ok(Vec::new()) };
    let list = match kind {
        "prestart" => hooks.prestart(),
        "createRuntime" => hooks.create_runtime(),
        "createContainer" => hooks.create_container(),
        "startContainer" => hooks.start_container(),
        "poststart" => hooks.poststart(),
        "poststop" => hooks.poststop(),
        _ => return Err(PlanError::Missing("hook of that kind")),
    };
    let planned = |hook: &oci_spec::runtime::Hook| {
        let path = text(hook.path())?;
        if !path.starts_with('/') {
            return Err(PlanError::Relative { field: "hooks.path", path });
        }
        let timeout = match hook.timeout().map(u64::try_from) {
            None => 0,
            Some(Ok(seconds)) if seconds > 0 => seconds,
            Some(_) => {
                return Err(PlanError::Unsupported { field: "hooks.timeout", reason: "is not greater than zero" });
            }
        };
        let (args, env) = (hook.args().clone().unwrap_or_default(), hook.env().clone().unwrap_or_default());
        Ok(Hook { path, args, env, timeout })
    };
    list.iter().flatten().map(planned).collect()
}
