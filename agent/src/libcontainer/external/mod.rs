//! Containers that an OCI runtime runs: from our `Spec` to the config.json of its bundle, and what is mounted for it. Pure.
//!
//! Whatever a bind mount of the `Spec` means, the agent opens it as for our own init. Where the runtime runs, these mounts are in
//! its bundle's folder, and so are the pod's namespaces: config.json names nothing else of the host.

/// What a runtime says that it can do.
mod features;
/// The program and its credentials.
mod process;

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Mount, Spec};

use super::plan::{
    Action, ContainerPlan, FdSource, InitPlan, MountSource, MoveMount, Overlay, PlanError, PlanInput, ProcessPlan,
    Step, bind_source, namespaces, process_plan,
};
use super::spec::{CgroupMounts, POD_SHM, RAW_ENV_ANNOTATION};

pub use features::Features;
pub use process::oci_process;

/// The version of the runtime-spec that config.json follows: older runtimes know no newer one, and nothing newer is in it.
const VERSION: &str = "1.0.2";
/// Where the root file system is, below the bundle's folder.
const ROOT: &str = "rootfs";
/// Where sources of bind mounts are, below the bundle's folder.
const MOUNTS: &str = "mounts";
/// Where the pod's namespaces are, below the bundle's folder.
const NAMESPACES: &str = "ns";

/// What a bundle is made of beside the `Spec`.
#[derive(Debug, Clone, Copy)]
pub struct ExternalInput<'a> {
    /// As for our own init; the filter is not used, since the runtime compiles the profile itself.
    pub plan: &'a PlanInput<'a>,
    /// The bundle's folder, as the host knows it.
    pub folder: &'a Path,
    /// The pod's annotations.
    pub annotations: &'a HashMap<String, String>,
    /// Which annotations the runtime is given; `*` stands for any text.
    pub allowed: &'a [String],
    /// What the runtime can do.
    pub features: &'a Features,
}

/// A container for an OCI runtime.
#[derive(Debug, Clone, PartialEq)]
pub struct External {
    /// Its config.json.
    pub config: Spec,
    /// Which of its mounts are of which fd: their attributes, of which some are the source's own, are known once it is open, and a
    /// runtime may take away what config.json does not say again.
    pub binds: Vec<Bind>,
    /// For the monitor: the steps are nothing but what is mounted where the runtime runs, at absolute paths of the host.
    pub plan: ContainerPlan,
    /// What is exec'd into the container has this, and another command.
    pub process: ProcessPlan,
}

/// A bind mount of config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// Its index in `mounts`.
    pub mount: usize,
    /// The index of its source in the plan's fds.
    pub fd: usize,
}

impl External {
    /// Adds options of mount(8) to one of config.json's mounts.
    pub fn add_options(&mut self, mount: usize, options: &[&str]) {
        let Some(mount) = self.config.mounts_mut().as_mut().and_then(|mounts| mounts.get_mut(mount)) else { return };
        mount.options_mut().get_or_insert_default().extend(options.iter().map(|&option| option.to_owned()));
    }
}

/// Makes a container's bundle.
///
/// # Errors
/// `PlanError`: the `Spec` asks for what cannot be said in config.json, or what the runtime cannot do.
pub fn external(spec: &Spec, input: &ExternalInput<'_>) -> Result<External, PlanError> {
    let linux = spec.linux().as_ref().ok_or(PlanError::Missing("linux part"))?;
    input.features.check(spec)?;
    let (process, warnings) = process_plan(&without_profile(spec), input.plan.host, None)?;
    let tty = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    let mut bundle = Bundle { input, linux, steps: Vec::new(), fds: Vec::new(), binds: Vec::new() };
    bundle.add_root()?;

    let mut config = spec.clone();
    let mounts = spec.mounts().iter().flatten().enumerate();
    let mounts = mounts.map(|(at, mount)| bundle.mount(at, mount)).collect::<Result<Vec<_>, _>>()?;
    let joined = linux.namespaces().iter().flatten().map(|one| bundle.namespace(one)).collect::<Result<Vec<_>, _>>()?;
    config
        .set_version(VERSION.to_owned())
        .set_process(Some(oci_process(&process, tty)?))
        .set_mounts(Some(mounts))
        .set_linux(Some(own_linux(linux, joined, input)))
        .set_annotations(Some(annotations(spec, input)));
    if let Some(root) = config.root_mut() {
        root.set_path(ROOT.into());
    }
    let init = InitPlan {
        namespaces: namespaces(linux.namespaces().as_deref().unwrap_or_default())?,
        steps: bundle.steps.into_iter().map(|step| Step { action: Some(Action::MoveMount(step)) }).collect(),
        process: ProcessPlan::default(),
        tty,
        stdin: input.plan.stdin,
        stdin_once: input.plan.stdin_once,
        start_hooks: Vec::new(),
    };
    Ok(External { config, binds: bundle.binds, plan: ContainerPlan { init, fds: bundle.fds, warnings }, process })
}

/// The runtime compiles the profile; execs are filtered by it, too.
fn without_profile(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(None);
    }
    spec
}

fn own_linux(linux: &Linux, namespaces: Vec<LinuxNamespace>, input: &ExternalInput<'_>) -> Linux {
    let mut linux = linux.clone();
    linux.set_namespaces(Some(namespaces));
    // From the hierarchy's root: without the slash it would be from the runtime's own place in it.
    let path = linux.cgroups_path().as_ref().map(|path| Path::new("/").join(path));
    linux.set_cgroups_path(path);
    let hybrid = matches!(input.plan.host.cgroups, CgroupMounts::Legacy { unified: true, .. });
    if let Some(resources) = linux.resources_mut().as_mut().filter(|_| hybrid) {
        // A hybrid host is one of v1 to runtimes, and these limits are of v2 there. They are set already.
        resources.set_hugepage_limits(None);
    }
    linux
}

/// Some are commands to a runtime: it gets those that the operator lets through.
fn annotations(spec: &Spec, input: &ExternalInput<'_>) -> HashMap<String, String> {
    let allowed = |(key, _): &(&String, &String)| {
        !key.starts_with(RAW_ENV_ANNOTATION) && input.allowed.iter().any(|pattern| matches(pattern, key))
    };
    let own = spec.annotations().iter().flatten();
    input.annotations.iter().chain(own).filter(allowed).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, inner)) = parts.split_last() else { return rest.is_empty() };
    for part in inner {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A bundle while it grows.
struct Bundle<'a> {
    input: &'a ExternalInput<'a>,
    linux: &'a Linux,
    steps: Vec<MoveMount>,
    fds: Vec<FdSource>,
    binds: Vec<Bind>,
}

impl Bundle<'_> {
    fn path(&self, below: &str) -> Result<String, PlanError> {
        let path = self.input.folder.join(below);
        path.to_str().map(str::to_owned).ok_or(PlanError::Path(path))
    }

    /// Has something mounted in the bundle's folder; gives its path.
    fn place(&mut self, source: MountSource, below: &str) -> Result<String, PlanError> {
        let target = self.path(below)?;
        self.steps.push(MoveMount { source: Some(source), target: target.clone() });
        Ok(target)
    }

    fn open(&mut self, source: FdSource) -> MountSource {
        self.fds.push(source);
        MountSource::Fd(self.fds.len() as u32 - 1)
    }

    fn add_root(&mut self) -> Result<(), PlanError> {
        let plan = self.input.plan;
        let root = self.open(FdSource::Overlay(Overlay {
            lower: plan.layers.clone(),
            upper: plan.upper.clone(),
            readonly: false,
            selinux_context: self.linux.mount_label().clone(),
            idmapped: false,
        }));
        self.place(root, ROOT).map(drop)
    }

    /// A bind mount of what is in the bundle's folder.
    fn mount(&mut self, at: usize, mount: &Mount) -> Result<Mount, PlanError> {
        let options = mount.options().as_deref().unwrap_or_default();
        if !options.iter().any(|option| option == "bind" || option == "rbind") {
            return Ok(mount.clone());
        }
        let below = format!("{MOUNTS}/{}", self.steps.len());
        let source = if mount.source().as_ref().is_some_and(|source| source.as_os_str() == POD_SHM) {
            MountSource::Pod("shm".to_owned())
        } else {
            if options.iter().any(|option| option == "nosymfollow") {
                // Older ones would take it away without a word.
                return Err(PlanError::Unsupported {
                    field: "mount option nosymfollow",
                    reason: "is not for OCI runtimes",
                });
            }
            let bind = bind_source(mount, self.input.plan.image_volumes, self.linux.mount_label().as_deref())?;
            self.binds.push(Bind { mount: at, fd: self.fds.len() });
            self.open(bind)
        };
        let path = self.place(source, &below)?;
        let propagation = ["private", "slave", "shared", "unbindable"];
        let keeps = |option: &&String| propagation.iter().any(|kind| option.trim_start_matches('r') == *kind);
        let kept = options.iter().find(keeps).cloned().unwrap_or_else(|| "rprivate".to_owned());
        let mut bind = Mount::default();
        bind.set_destination(mount.destination().clone())
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(path.into()))
            .set_options(Some(vec!["rbind".to_owned(), kept]));
        if mount.source().as_ref().is_some_and(|source| source.as_os_str() == POD_SHM) {
            bind.set_options(Some(["rbind", "rprivate", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec()));
        }
        Ok(bind)
    }

    /// What is the pod's, or another container's, is in the bundle's folder.
    fn namespace(&mut self, namespace: &LinuxNamespace) -> Result<LinuxNamespace, PlanError> {
        let mut namespace = namespace.clone();
        if namespace.path().is_some() {
            // Its name in /proc/<pid>/ns.
            let name = namespace.typ().to_string();
            if namespace.typ() == LinuxNamespaceType::User {
                return Err(PlanError::Namespace("user of the pod, for an OCI runtime".to_owned()));
            }
            let path = self.place(MountSource::Pod(name.clone()), &format!("{NAMESPACES}/{name}"))?;
            namespace.set_path(Some(path.into()));
        }
        Ok(namespace)
    }
}

#[cfg(test)]
mod tests;
