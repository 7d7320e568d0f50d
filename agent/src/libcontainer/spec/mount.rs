//! The mounts of a container: defaults, the pod's files, and what the request asks for.

use cri_api::v1::{ContainerConfig, IdMapping, Mount as Requested, MountPropagation};
use oci_spec::runtime::Mount;

use super::{SpecError, SpecInput, device, entry, namespace};

/// A bind source in the `Spec` that means the pod's own /dev/shm, which lives in the monitor.
pub const POD_SHM: &str = "pod:shm";
/// Prefix of a bind source in the `Spec` that means an image volume: `image:<n>`, the n-th of the request, from 0.
pub const IMAGE_VOLUME: &str = "image:";
/// A mount option that is ours: a source that is not there is made as a folder. (mount(8) leaves `x-` to user space.)
pub const CREATE_SOURCE: &str = "x-berth.create-source";

/// A mount option that is ours: everything below the source gets the container's file label (CRI `selinux_relabel`).
pub const RELABEL: &str = "x-berth.relabel";

/// Which files of /proc a container may have replaced (lxcfs does), as runc allows.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/sys/kernel/ns_last_pid",
];

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Defaults first, then the pod's files and the request's mounts, parents before children.
pub(super) fn mounts(input: &SpecInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let user_namespace = namespace::user_namespace(input.sandbox)?;
    let mut wanted = Vec::new();
    let mut image_volumes = 0;
    for mount in &input.container.mounts {
        let target = clean(&mount.container_path).ok_or_else(|| refuse(mount, "container_path is not absolute"))?;
        check(mount, &target, input)?;
        let entry = if mount.image.is_some() {
            image_volumes += 1;
            image_volume(mount, &target, image_volumes - 1)?
        } else {
            requested(mount, &target, input)?
        };
        wanted.push((target, entry));
    }
    for (target, source) in pod_files(input) {
        if !wanted.iter().any(|(path, _)| path == target) {
            let access = if input.context().is_some_and(|context| context.readonly_rootfs) { "ro" } else { "rw" };
            let mut file = entry(target, "bind", source, &["rbind", "rprivate", access]);
            map_owners(&mut file, user_namespace.as_ref());
            wanted.push((target.to_owned(), file));
        }
    }
    let own_dev = wanted.iter().any(|(path, _)| path == "/dev");
    let devices = if user_namespace.is_some() && !own_dev { device::requested(input)? } else { Vec::new() };
    for granted in devices {
        let target = granted.device.path().to_string_lossy().into_owned();
        let node = entry(&target, "bind", granted.source, &["bind", "rprivate", "nosuid", "noexec"]);
        wanted.push((target, node));
    }
    // Stable: mounts of one depth stay in the order of the request, so that a later one covers an earlier one.
    wanted.sort_by_key(|(path, _)| path.matches('/').count());
    let replaced =
        |target: &str| wanted.iter().any(|(path, _)| path == target) || (own_dev && target.starts_with("/dev/"));
    let mut list: Vec<Mount> = defaults(input);
    list.retain(|mount| !mount.destination().to_str().is_some_and(replaced));
    list.extend(wanted.into_iter().map(|(_, mount)| mount));
    Ok(list)
}

fn defaults(input: &SpecInput<'_>) -> Vec<Mount> {
    let access = if input.privileged() { "rw" } else { "ro" };
    let shm = if namespace::ipc_is_host(input.sandbox) {
        entry("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate", "rw"])
    } else {
        entry("/dev/shm", "bind", POD_SHM, &["bind", "nosuid", "noexec", "nodev"])
    };
    vec![
        entry("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        entry("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        entry(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        shm,
        entry("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        entry("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        entry("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ]
}

fn pod_files<'a>(input: &SpecInput<'a>) -> impl Iterator<Item = (&'static str, &'a std::path::Path)> {
    let pod = input.pod;
    [("/etc/hosts", &pod.hosts), ("/etc/resolv.conf", &pod.resolv_conf), ("/etc/hostname", &pod.hostname)]
        .into_iter()
        .filter_map(|(target, source)| Some((target, source.as_deref()?)))
}

fn refuse(mount: &Requested, reason: &'static str) -> SpecError {
    SpecError::Mount { container_path: mount.container_path.clone(), reason }
}

/// Without `.`, `..` and doubled slashes; `None` unless absolute. Symbolic links are followed later, inside the root.
fn clean(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

/// Kubernetes' API promises that an image volume is read-only and not executable; devices and set-user-id files of an
/// image have no business in another container either.
fn image_volume(mount: &Requested, target: &str, number: usize) -> Result<Mount, SpecError> {
    if !mount.readonly {
        return Err(refuse(mount, "an image volume has to be readonly"));
    }
    if !mount.host_path.is_empty() {
        return Err(refuse(mount, "it has a host_path and an image"));
    }
    if propagation(mount)? != MountPropagation::PropagationPrivate {
        return Err(refuse(mount, "an image volume has private propagation"));
    }
    let path = &mount.image_sub_path;
    if path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(refuse(mount, "image_sub_path is not a path below the image's root"));
    }
    let mut options = vec!["bind", "rprivate", "ro", "nosuid", "nodev"];
    options.extend(own_options(mount)?);
    Ok(entry(target, "bind", format!("{IMAGE_VOLUME}{number}"), &options))
}

fn requested(mount: &Requested, target: &str, input: &SpecInput<'_>) -> Result<Mount, SpecError> {
    let mut options = vec!["rbind", CREATE_SOURCE];
    options.push(match propagation(mount)? {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    });
    options.push(match (mount.readonly, mount.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    });
    if mount.selinux_relabel && input.host.selinux {
        options.push(RELABEL);
    }
    options.extend(own_options(mount)?);
    let mut volume = entry(target, "bind", &mount.host_path, &options);
    if is_mapped(mount) {
        map_owners(&mut volume, namespace::user_namespace(input.sandbox)?.as_ref());
    }
    Ok(volume)
}

fn is_mapped(mount: &Requested) -> bool {
    !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty()
}

/// Files have the owners in the pod that they have on the disk.
fn map_owners(mount: &mut Mount, user_namespace: Option<&(IdMapping, IdMapping)>) {
    if let Some((uids, gids)) = user_namespace {
        mount.set_uid_mappings(Some(namespace::oci_mapping(uids)));
        mount.set_gid_mappings(Some(namespace::oci_mapping(gids)));
    }
}

fn own_options(mount: &Requested) -> Result<impl Iterator<Item = &str>, SpecError> {
    let known =
        |option: &str| matches!(option, "nosuid" | "nodev" | "noexec" | "noatime" | "nodiratime" | "nosymfollow");
    if !mount.mount_options.iter().all(|option| known(option)) {
        return Err(refuse(mount, "mount_options has one that is not supported for a bind mount"));
    }
    Ok(mount.mount_options.iter().map(String::as_str))
}

fn check(mount: &Requested, target: &str, input: &SpecInput<'_>) -> Result<(), SpecError> {
    if is_mapped(mount) {
        match namespace::user_namespace(input.sandbox)? {
            None => return Err(refuse(mount, "id mappings need a pod in a user namespace")),
            Some((uids, gids)) if mount.uid_mappings == [uids] && mount.gid_mappings == [gids] => {}
            Some(_) => return Err(refuse(mount, "id mappings other than the pod's own are not supported")),
        }
    }
    if mount.image.is_none() && (!mount.host_path.starts_with('/') || mount.host_path.contains('\0')) {
        return Err(refuse(mount, "host_path is not absolute"));
    }
    if target == "/" {
        return Err(refuse(mount, "container_path is the container's root"));
    }
    // A bind over parts of /proc is how security files such as attr/exec get faked (CVE-2019-16884).
    if target == "/proc" && mount.host_path != "/proc" {
        return Err(refuse(mount, "/proc can only be replaced by the host's /proc"));
    }
    if target.starts_with("/proc/") && !PROC_FILES.contains(&target) {
        return Err(refuse(mount, "container_path is inside /proc"));
    }
    if mount.recursive_read_only {
        if !mount.readonly {
            return Err(refuse(mount, "recursive_read_only needs readonly"));
        }
        if propagation(mount)? != MountPropagation::PropagationPrivate {
            return Err(refuse(mount, "recursive_read_only needs private propagation"));
        }
        if !input.host.recursive_readonly {
            return Err(SpecError::RecursiveReadOnlyUnsupported { container_path: mount.container_path.clone() });
        }
    }
    Ok(())
}

fn propagation(mount: &Requested) -> Result<MountPropagation, SpecError> {
    MountPropagation::try_from(mount.propagation).map_err(|_| refuse(mount, "propagation is none that is known"))
}

/// OCI `rootfsPropagation`: what an external runtime has to leave the root as for the mounts' own kinds to work.
pub(super) fn root_propagation(container: &ContainerConfig) -> Option<String> {
    let any = |kind: MountPropagation| container.mounts.iter().any(|mount| mount.propagation == kind as i32);
    if any(MountPropagation::PropagationBidirectional) {
        Some("rshared".to_owned())
    } else if any(MountPropagation::PropagationHostToContainer) {
        Some("rslave".to_owned())
    } else {
        None
    }
}

/// Masked and read-only paths. The wire cannot tell "none" from "not said". kubelet says them always, and means an
/// empty list only with `procMount: Unmasked`, which it allows in user namespaces alone; from anyone else an empty list
/// gets the defaults.
pub(super) fn hidden_paths(input: &SpecInput<'_>) -> (Vec<String>, Vec<String>) {
    let own = |list: &[&str]| list.iter().map(|&path| path.to_owned()).collect::<Vec<_>>();
    if input.privileged() {
        return (Vec::new(), Vec::new());
    }
    let (masked, readonly) = input
        .context()
        .map_or((&[][..], &[][..]), |context| (context.masked_paths.as_slice(), context.readonly_paths.as_slice()));
    let unmasked = matches!(namespace::user_namespace(input.sandbox), Ok(Some(_)));
    if masked.is_empty() && readonly.is_empty() && !unmasked {
        return (own(&MASKED), own(&READONLY));
    }
    (masked.to_vec(), readonly.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_cleaned() {
        assert_eq!(clean("//a/./b/../c/"), Some("/a/c".to_owned()));
        assert_eq!(clean("/../.."), Some("/".to_owned()));
        assert_eq!(clean("a"), None);
        assert_eq!(clean(""), None);
    }

    proptest! {
        #[test]
        fn a_clean_path_stays_below_the_root(path in "/[a./]{0,30}") {
            let path = clean(&path).unwrap();
            prop_assert!(path.starts_with('/') && !path.contains("//"));
            prop_assert!(path.split('/').all(|part| part != ".." && part != "."));
        }
    }
}
