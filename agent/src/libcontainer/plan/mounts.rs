//! Mounts of the `Spec` as steps.

use oci_spec::runtime::Mount;

use super::options::{Options, RDONLY};
use super::{
    Action, Bind, FdSource, ImageTree, Missing, MountFs, MountSource, MoveMount, PlanError, PlanInput, SetMountAttr,
    Steps, Symlink, is_mapped, text,
};
use crate::libcontainer::spec::{CREATE_SOURCE, CgroupMounts, HostFacts, IMAGE_VOLUME, POD_SHM, RELABEL};

/// Adds the step or steps of one mount. `label` is the SELinux label of the container's files.
pub(super) fn add(
    steps: &mut Steps,
    mount: &Mount,
    input: &PlanInput<'_>,
    label: Option<&str>,
) -> Result<(), PlanError> {
    let target = text(mount.destination())?;
    let list = mount.options().as_deref().unwrap_or_default();
    let options = Options::parse(list);
    let is_bind = list.iter().any(|option| option == "bind" || option == "rbind");
    match mount.typ().as_deref().unwrap_or("") {
        "bind" => bind(steps, mount, target, input.image_volumes, label),
        _ if is_bind => bind(steps, mount, target, input.image_volumes, label),
        "cgroup" | "cgroup2" => {
            cgroup(steps, &target, &options, input.host, label);
            Ok(())
        }
        fstype @ ("proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue") => {
            steps.push(Action::MountFs(MountFs {
                fstype: fstype.to_owned(),
                target,
                source: mount.source().as_deref().map_or_else(|| Ok(fstype.to_owned()), text)?,
                attributes: options.attributes.set | options.recursive_attributes.set,
                options: options.rest.into_iter().chain(context(fstype, label)).collect(),
                propagation: 0,
            }));
            Ok(())
        }
        other => Err(PlanError::MountType { target, fstype: other.to_owned() }),
    }
}

/// Proc, sysfs and cgroups have labels by the policy, mqueue from the pod's monitor; what a container owns alone has its label.
pub(super) fn context(fstype: &str, label: Option<&str>) -> Option<String> {
    label.filter(|_| matches!(fstype, "tmpfs" | "devpts")).map(|label| format!("context={label}"))
}

fn bind(
    steps: &mut Steps,
    mount: &Mount,
    target: String,
    images: &[ImageTree],
    label: Option<&str>,
) -> Result<(), PlanError> {
    let source = if mount.source().as_ref().is_some_and(|source| source.as_os_str() == POD_SHM) {
        MountSource::Pod("shm".to_owned())
    } else {
        MountSource::Fd(steps.open(bind_source(mount, images, label)?))
    };
    steps.push(Action::MoveMount(MoveMount { source: Some(source), target }));
    Ok(())
}

/// What the agent opens for a bind mount of the host or an image. `label` is the SELinux label of the container's files.
///
/// # Errors
/// `PlanError`: no source, or an option that a bind mount cannot have.
pub(crate) fn bind_source(mount: &Mount, images: &[ImageTree], label: Option<&str>) -> Result<FdSource, PlanError> {
    let options = Options::parse(mount.options().as_deref().unwrap_or_default());
    let source = mount.source().clone().ok_or(PlanError::Missing("source of a bind mount"))?;
    if let Some(number) = source.to_str().and_then(|source| source.strip_prefix(IMAGE_VOLUME)) {
        let image = number.parse().ok().and_then(|number: usize| images.get(number));
        let image = image.ok_or(PlanError::Missing("image of an image volume"))?.clone();
        return Ok(FdSource::Image(ImageTree { attributes: options.attributes, ..image }));
    }
    let mut missing = Missing::Fail;
    let mut relabel = None;
    for option in options.rest {
        match option.as_str() {
            CREATE_SOURCE => missing = Missing::MakeDir,
            RELABEL => relabel = label.map(str::to_owned),
            _ => return Err(PlanError::MountOption { target: text(mount.destination())?, option }),
        }
    }
    Ok(FdSource::Bind(Bind {
        source,
        recursive: options.recursive,
        attributes: options.attributes,
        recursive_attributes: options.recursive_attributes,
        propagation: options.propagation,
        missing,
        relabel,
        idmapped: is_mapped(mount.uid_mappings().as_ref()),
    }))
}

/// The host's cgroup file systems as seen from the container's own cgroup namespace, where its cgroup is the root.
pub(super) fn cgroup(steps: &mut Steps, target: &str, options: &Options, host: &HostFacts, label: Option<&str>) {
    let mount = |fstype: &str, target: String, own: &[String]| {
        Action::MountFs(MountFs {
            fstype: fstype.to_owned(),
            target,
            source: "cgroup".to_owned(),
            attributes: options.attributes.set,
            options: own.to_vec(),
            ..MountFs::default()
        })
    };
    let CgroupMounts::Legacy { hierarchies, links, unified } = &host.cgroups else {
        steps.push(mount("cgroup2", target.to_owned(), &[]));
        return;
    };
    steps.push(Action::MountFs(MountFs {
        fstype: "tmpfs".to_owned(),
        target: target.to_owned(),
        source: "cgroup".to_owned(),
        attributes: options.attributes.set & !RDONLY,
        options: ["mode=755", "size=64k"].map(str::to_owned).into_iter().chain(context("tmpfs", label)).collect(),
        ..MountFs::default()
    }));
    for hierarchy in hierarchies {
        steps.push(mount("cgroup", format!("{target}/{}", hierarchy.folder), &hierarchy.options));
    }
    if *unified {
        steps.push(mount("cgroup2", format!("{target}/unified"), &[]));
    }
    for (link, folder) in links {
        let path = format!("{target}/{link}");
        steps.push(Action::Symlink(Symlink { points_to: folder.clone(), path }));
    }
    if options.attributes.set & RDONLY != 0 {
        let path = target.to_owned();
        steps.push(Action::SetMountAttr(SetMountAttr { path, set: RDONLY, recursive: false }));
    }
}
