//! Mounts of a bundle. Any type and option of mount(8) may come; what belongs to the container's namespaces is mounted by
//! init, everything else by the caller, from the host's point of view.

use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Mount};

use super::bundle::Context;
use super::mounts::{cgroup, context};
use super::options::{Options, RDONLY};
use super::{
    Action, Bind, FdSource, MountFs, MountSource, MoveMount, PlanError, Propagation, SetMountAttr, Steps, Symlink,
    is_mapped, text,
};
use crate::libcontainer::spec::CgroupMounts;

/// Options that change nothing: what they say is the case anyway, or has no meaning any more.
const WITHOUT_EFFECT: [&str; 8] =
    ["nomand", "mand", "loud", "silent", "nolazytime", "noiversion", "norelatime", "nostrictatime"];
/// Options that would be a promise.
const UNSUPPORTED: [&str; 5] = ["remount", "tmpcopyup", "copy-symlink", "idmap", "ridmap"];

/// Adds the step or steps of one mount.
pub(super) fn add(steps: &mut Steps, mount: &Mount, with: &Context<'_>) -> Result<(), PlanError> {
    let target = absolute(text(mount.destination())?);
    let list = mount.options().as_deref().unwrap_or_default();
    if let Some(option) = list.iter().find(|option| UNSUPPORTED.contains(&option.as_str())) {
        return Err(PlanError::MountOption { target, option: option.clone() });
    }
    if is_mapped(mount.uid_mappings().as_ref()) || is_mapped(mount.gid_mappings().as_ref()) {
        return Err(PlanError::Unsupported { field: "mounts.uidMappings", reason: "is not supported" });
    }
    let mut options = Options::parse(list);
    options.rest.retain(|option| !WITHOUT_EFFECT.contains(&option.as_str()));
    if is_bind(mount) {
        return bind(steps, mount, target, options, with.bundle);
    }
    let fstype = mount.typ().clone().unwrap_or_default();
    if matches!(fstype.as_str(), "cgroup" | "cgroup2") {
        return cgroups(steps, &target, &options, with);
    }
    let own = matches!(fstype.as_str(), "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue");
    let source = mount.source().as_deref().map_or_else(|| Ok(fstype.clone()), text)?;
    let fs = MountFs {
        attributes: options.attributes.set | options.recursive_attributes.set,
        options: options.rest.into_iter().chain(context(&fstype, with.label)).collect(),
        propagation: bits(options.propagation),
        fstype,
        target: target.clone(),
        source,
    };
    if own {
        steps.push(Action::MountFs(fs));
    } else {
        let fd = steps.open(FdSource::FileSystem(fs));
        steps.push(Action::MoveMount(MoveMount { source: Some(MountSource::Fd(fd)), target }));
    }
    Ok(())
}

/// By its options, or by its type in old configurations.
pub(super) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind")
}

/// MS_* bits; private is what a new mount is.
pub(super) fn bits(propagation: Propagation) -> u64 {
    const UNBINDABLE: u64 = 1 << 17;
    const SLAVE: u64 = 1 << 19;
    const SHARED: u64 = 1 << 20;
    match propagation {
        Propagation::Private => 0,
        Propagation::HostToContainer => SLAVE,
        Propagation::Bidirectional | Propagation::Shared => SHARED,
        Propagation::Unbindable => UNBINDABLE,
    }
}

/// A destination without its slash is taken from the root (OCI runtime-spec 1.0 had such, and says so since 1.2).
fn absolute(target: String) -> String {
    if target.starts_with('/') { target } else { format!("/{target}") }
}

/// A file system's own options mean nothing to a bind mount, and mount(2) ignores them, too. A relative source is the
/// bundle's.
fn bind(steps: &mut Steps, mount: &Mount, target: String, options: Options, bundle: &Path) -> Result<(), PlanError> {
    let source = mount.source().as_ref().ok_or(PlanError::Missing("source of a bind mount"))?;
    let fd = steps.open(FdSource::Bind(Bind {
        source: bundle.join(source),
        recursive: options.recursive,
        attributes: options.attributes,
        recursive_attributes: options.recursive_attributes,
        propagation: match options.propagation {
            Propagation::Bidirectional => Propagation::Shared,
            other => other,
        },
        ..Bind::default()
    }));
    steps.push(Action::MoveMount(MoveMount { source: Some(MountSource::Fd(fd)), target }));
    Ok(())
}

/// In a cgroup namespace of its own a container mounts the hierarchies and sees its own part of them; in the host's it
/// would see everybody's, and is shown its own part by bind mounts.
fn cgroups(steps: &mut Steps, target: &str, options: &Options, with: &Context<'_>) -> Result<(), PlanError> {
    if with.namespaces.has(LinuxNamespaceType::Cgroup) {
        cgroup(steps, target, options, with.host, with.label);
        return Ok(());
    }
    let CgroupMounts::Legacy { hierarchies, links, unified } = &with.host.cgroups else {
        show_own_cgroup(steps, "", target, options, with);
        return Ok(());
    };
    steps.push(Action::MountFs(MountFs {
        fstype: "tmpfs".to_owned(),
        target: target.to_owned(),
        source: "cgroup".to_owned(),
        attributes: options.attributes.set & !RDONLY,
        options: ["mode=755", "size=64k"].map(str::to_owned).into_iter().chain(context("tmpfs", with.label)).collect(),
        ..MountFs::default()
    }));
    for folder in hierarchies.iter().map(|one| one.folder.as_str()).chain(unified.then_some("unified")) {
        show_own_cgroup(steps, folder, &format!("{target}/{folder}"), options, with);
    }
    for (link, folder) in links {
        steps.push(Action::Symlink(Symlink { points_to: folder.clone(), path: format!("{target}/{link}") }));
    }
    if options.attributes.set & RDONLY != 0 {
        steps.push(Action::SetMountAttr(SetMountAttr { path: target.to_owned(), set: RDONLY, recursive: false }));
    }
    Ok(())
}

fn show_own_cgroup(steps: &mut Steps, hierarchy: &str, target: &str, options: &Options, with: &Context<'_>) {
    let source = Path::new("/sys/fs/cgroup").join(hierarchy).join(with.cgroup);
    let fd = steps.open(FdSource::Bind(Bind { source, attributes: options.attributes, ..Bind::default() }));
    let target = target.to_owned();
    steps.push(Action::MoveMount(MoveMount { source: Some(MountSource::Fd(fd)), target }));
}
