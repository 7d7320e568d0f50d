//! Edits into a `Spec`. Pure.

use oci_spec::runtime::{
    Hook, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxIdMapping, LinuxIntelRdt, Mount, Spec,
};

use super::document::{Edits, Hook as WantedHook, IntelRdt, Mount as WantedMount, Node};
use super::{CdiError, Injection};
use crate::libcontainer::spec::RAW_ENV_ANNOTATION;

/// Who makes the container out of its `Spec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// Berth itself, which runs no hooks.
    Berth,
    /// A runtime that reads config.json, and runs the hooks in it.
    OciRuntime,
}

/// Puts what the devices need into a container's `Spec`.
///
/// # Errors
/// `CdiError::Unsupported`: a hook that its maker does not run, a network device, or an RDT allocation of the device's own. The `Spec`
/// is then of no use.
pub fn apply(injection: &Injection, spec: &mut Spec, maker: Maker) -> Result<(), CdiError> {
    for named in &injection.edits {
        refuse_unsupported(&named.name, &named.edits, maker)?;
        let Edits { env, device_nodes, mounts, intel_rdt, additional_gids, hooks, .. } = &named.edits;
        hooks.iter().for_each(|hook| add_hook(spec, hook));
        env.iter().for_each(|pair| set_env(spec, pair));
        device_nodes.iter().for_each(|node| add_node(spec, node));
        mounts.iter().for_each(|mount| add_mount(spec, mount));
        additional_gids.iter().for_each(|&gid| add_gid(spec, gid));
        if let (Some(IntelRdt { clos_id, .. }), Some(linux)) = (intel_rdt, spec.linux_mut()) {
            let mut rdt = LinuxIntelRdt::default();
            rdt.set_clos_id(Some(clos_id.clone()));
            linux.set_intel_rdt(Some(rdt));
        }
    }
    // Parents before children; of one depth they stay in their order.
    if let Some(mounts) = spec.mounts_mut().as_mut().filter(|_| !injection.edits.is_empty()) {
        mounts.sort_by_key(|mount| mount.destination().components().count());
    }
    Ok(())
}

fn refuse_unsupported(name: &str, edits: &Edits, maker: Maker) -> Result<(), CdiError> {
    let refuse = |what: String| Err(CdiError::Unsupported { name: name.to_owned(), what });
    if let Some(hook) = edits.hooks.first().filter(|_| maker == Maker::Berth) {
        let (kind, path) = (&hook.hook_name, &hook.path);
        let remedy = "give the pod a runtime handler with an OCI runtime";
        return refuse(format!("it needs the {kind} hook {path:?}, and berth itself runs none in pods; {remedy}"));
    }
    if let Some(device) = edits.net_devices.first() {
        let interface = &device.host_interface_name;
        return refuse(format!("it needs the network interface {interface:?}, and this version of berth moves none"));
    }
    match &edits.intel_rdt {
        Some(rdt) if *rdt != (IntelRdt { clos_id: rdt.clos_id.clone(), ..IntelRdt::default() }) || rdt.clos_id.is_empty() => {
            refuse("it needs an RDT allocation of its own, and this version of berth makes none; it may name a class (closID)".to_owned())
        }
        _ => Ok(()),
    }
}

/// Behind those that are there (OCI runtime-spec: hooks of a kind are called in their order).
#[allow(deprecated, reason = "`prestart` is what vendors' older files have")]
fn add_hook(spec: &mut Spec, wanted: &WantedHook) {
    let WantedHook { hook_name, path, args, env, timeout } = wanted;
    let mut hook = Hook::default();
    hook.set_path(path.into())
        .set_args(Some(args.clone()).filter(|args| !args.is_empty()))
        .set_env(Some(env.clone()).filter(|env| !env.is_empty()))
        .set_timeout(*timeout);
    let hooks = spec.hooks_mut().get_or_insert_default();
    let kind = match hook_name.as_str() {
        "prestart" => hooks.prestart_mut(),
        "createRuntime" => hooks.create_runtime_mut(),
        "createContainer" => hooks.create_container_mut(),
        "startContainer" => hooks.start_container_mut(),
        "poststart" => hooks.poststart_mut(),
        // The file was read, so it is one of the six.
        _ => hooks.poststop_mut(),
    };
    kind.get_or_insert_default().push(hook);
}

fn set_env(spec: &mut Spec, pair: &str) {
    let Some((key, _)) = pair.split_once('=') else { return };
    if let Some(annotations) = spec.annotations_mut() {
        annotations.remove(&format!("{RAW_ENV_ANNOTATION}{key}"));
    }
    let Some(process) = spec.process_mut() else { return };
    let env = process.env_mut().get_or_insert_default();
    match env.iter_mut().find(|other| other.split_once('=').is_some_and(|(other, _)| other == key)) {
        Some(other) => pair.clone_into(other),
        None => env.push(pair.to_owned()),
    }
}

fn add_gid(spec: &mut Spec, gid: u32) {
    let Some(process) = spec.process_mut().as_mut().filter(|_| gid != 0) else { return };
    let gids = process.user_mut().additional_gids_mut().get_or_insert_default();
    if !gids.contains(&gid) {
        gids.push(gid);
    }
}

/// Whoever is in a user namespace cannot make nodes: the host's is shown there.
fn add_node(spec: &mut Spec, node: &Node) {
    let owner = spec.process().as_ref().map(|process| (process.user().uid(), process.user().gid()));
    let Some(linux) = spec.linux_mut() else { return };
    let kind = match node.r#type.as_str() {
        "b" => LinuxDeviceType::B,
        "p" => LinuxDeviceType::P,
        _ => LinuxDeviceType::C,
    };
    if kind != LinuxDeviceType::P && node.permissions != "none" {
        let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(kind))
            .set_major(Some(node.major))
            .set_minor(Some(node.minor))
            .set_access(Some(access.to_owned()));
        linux.resources_mut().get_or_insert_default().devices_mut().get_or_insert_default().push(rule);
    }
    if mapped(linux.uid_mappings()).is_some() {
        let options = ["bind", "rprivate", "nosuid", "noexec"].map(str::to_owned).to_vec();
        let host_path = node.host_path.clone();
        let shown = WantedMount { host_path, container_path: node.path.clone(), options, r#type: "bind".into() };
        replace_mount(spec, to_oci(&shown));
        return;
    }
    let mut device = LinuxDevice::default();
    device
        .set_path(node.path.clone().into())
        .set_typ(kind)
        .set_major(node.major)
        .set_minor(node.minor)
        .set_file_mode(node.file_mode)
        .set_uid(node.uid.or(owner.map(|(uid, _)| uid)))
        .set_gid(node.gid.or(owner.map(|(_, gid)| gid)));
    let devices = linux.devices_mut().get_or_insert_default();
    devices.retain(|other| other.path() != device.path());
    devices.push(device);
}

/// Files have the owners in the pod that they have on the disk.
fn add_mount(spec: &mut Spec, wanted: &WantedMount) {
    let mut mount = to_oci(wanted);
    if let Some(linux) = spec.linux().as_ref().filter(|_| mount.typ().as_deref() == Some("bind")) {
        mount
            .set_uid_mappings(mapped(linux.uid_mappings()).cloned())
            .set_gid_mappings(mapped(linux.gid_mappings()).cloned());
    }
    replace_mount(spec, mount);
}

fn mapped(mappings: &Option<Vec<LinuxIdMapping>>) -> Option<&Vec<LinuxIdMapping>> {
    mappings.as_ref().filter(|list| !list.is_empty())
}

fn replace_mount(spec: &mut Spec, mount: Mount) {
    let mounts = spec.mounts_mut().get_or_insert_default();
    mounts.retain(|other| other.destination() != mount.destination());
    mounts.push(mount);
}

/// A mount without a type is a bind mount, whether its options say so or not.
fn to_oci(wanted: &WantedMount) -> Mount {
    let bind = matches!(wanted.r#type.as_str(), "" | "none" | "bind");
    let mut options = wanted.options.clone();
    if bind && !options.iter().any(|option| option == "bind" || option == "rbind") {
        options.insert(0, "rbind".to_owned());
    }
    let mut mount = Mount::default();
    mount
        .set_destination(wanted.container_path.clone().into())
        .set_source(Some(wanted.host_path.clone().into()))
        .set_typ(Some(if bind { "bind".to_owned() } else { wanted.r#type.clone() }))
        .set_options(Some(options))
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    mount
}

#[cfg(test)]
mod tests;
