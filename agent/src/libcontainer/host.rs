//! Looks the host over for the pure code: what the agent can give, and what a request's devices are here. Called by the
//! agent, at start for the facts and at each creation for the devices.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cri_api::v1::ContainerConfig;
use rustix::thread::CapabilitySet;

use super::apparmor;
use super::spec::{CgroupMounts, Defaults, HostDevice, HostDevices, HostFacts};

/// A look at the host that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}", path.display())]
pub struct HostError {
    /// What was being done.
    pub op: &'static str,
    /// To what.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// What this host can do.
///
/// # Errors
/// When the agent's own capabilities or oom_score_adj cannot be read.
pub fn facts(cgroups: CgroupMounts) -> Result<HostFacts, HostError> {
    let failed = |op, path: &str| {
        let path = PathBuf::from(path);
        move |source| HostError { op, path, source }
    };
    let held =
        rustix::thread::capabilities(None).map_err(|errno| failed("read", "the agent's capabilities")(errno.into()))?;
    let oom = read("/proc/self/oom_score_adj").map_err(failed("read", "/proc/self/oom_score_adj"))?;
    let uname = rustix::system::uname();
    let kernel = kernel_version(&uname.release().to_string_lossy());
    Ok(HostFacts {
        held_caps: CapabilitySet::bits(&held.permitted),
        oom_score_adj: oom.trim().parse().unwrap_or(0),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        swap_limit: has_swap_limit(&cgroups),
        hugetlb: has_controller(&cgroups, "hugetlb"),
        recursive_readonly: kernel >= (5, 12),
        user_namespaces: kernel >= (6, 3) && may_have_user_namespaces(),
        apparmor: apparmor::is_active(),
        apparmor_default: None,
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        cgroups,
        kernel,
    })
}

/// The devices that a request names, and all of the host's when it is privileged and the handler says nothing else.
///
/// # Errors
/// When a named device is not there or is none.
pub fn devices(config: &ContainerConfig, defaults: &Defaults) -> Result<HostDevices, HostError> {
    let requested = config.devices.iter().map(|device| below(Path::new(&device.host_path)));
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let privileged = context.is_some_and(|context| context.privileged);
    let all = if privileged && !defaults.without_host_devices { host_devices()? } else { Vec::new() };
    Ok(HostDevices { requested: requested.collect::<Result<_, _>>()?, all })
}

/// One device, or every device below a folder; a link is followed.
fn below(path: &Path) -> Result<Vec<HostDevice>, HostError> {
    let failed = |op| move |source| HostError { op, path: path.to_owned(), source };
    let real = fs::canonicalize(path).map_err(failed("find the device"))?;
    let metadata = fs::metadata(&real).map_err(failed("look at the device"))?;
    if !metadata.is_dir() {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "it is neither a device nor a folder of devices");
        return device(&real, &metadata).map(|device| vec![device]).ok_or_else(|| failed("use the device")(none()));
    }
    let mut found = Vec::new();
    walk(&real, &mut found).map_err(failed("list the folder"))?;
    // Below the name that was asked for, which may be a link.
    for device in &mut found {
        if let Ok(below) = device.path.strip_prefix(&real) {
            device.path = path.join(below);
        }
    }
    Ok(found)
}

/// What a privileged container sees of /dev; terminals and the mounts of a container's own are not the host's to give.
fn host_devices() -> Result<Vec<HostDevice>, HostError> {
    let path = Path::new("/dev");
    let mut found = Vec::new();
    walk(path, &mut found).map_err(|source| HostError { op: "list", path: path.into(), source })?;
    Ok(found)
}

/// Of a folder of devices: terminals and the mounts of a container's own are left out, as in containerd.
const NOT_GIVEN: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"];

fn walk(dir: &Path, found: &mut Vec<HostDevice>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if NOT_GIVEN.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        // A device that is unplugged while it is looked at is none.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            walk(&entry.path(), found)?;
        } else {
            found.extend(device(&entry.path(), &metadata));
        }
    }
    Ok(())
}

fn device(path: &Path, metadata: &fs::Metadata) -> Option<HostDevice> {
    let block = metadata.file_type().is_block_device();
    (block || metadata.file_type().is_char_device()).then(|| HostDevice {
        path: path.to_owned(),
        block,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path)
}

/// The file is not there without CONFIG_USER_NS.
fn may_have_user_namespaces() -> bool {
    read("/proc/sys/user/max_user_namespaces").is_ok_and(|most| most.trim() != "0")
}

fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn has_controller(cgroups: &CgroupMounts, name: &str) -> bool {
    let in_unified = |root: &str| {
        read(&format!("{root}/cgroup.controllers")).is_ok_and(|list| list.split_whitespace().any(|one| one == name))
    };
    match cgroups {
        CgroupMounts::Unified => in_unified("/sys/fs/cgroup"),
        CgroupMounts::Legacy { hierarchies, unified, .. } => {
            hierarchies.iter().any(|hierarchy| hierarchy.options.iter().any(|option| option == name))
                || *unified && in_unified("/sys/fs/cgroup/unified")
        }
    }
}

/// v1: the file is there only when the kernel accounts swap. v2: `memory.swap.max` is in every group but the root.
fn has_swap_limit(cgroups: &CgroupMounts) -> bool {
    match cgroups {
        CgroupMounts::Unified => fs::read_dir("/sys/fs/cgroup").is_ok_and(|entries| {
            entries.filter_map(Result::ok).any(|entry| entry.path().join("memory.swap.max").exists())
        }),
        CgroupMounts::Legacy { .. } => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::v1::Device;

    #[test]
    fn releases_of_distributions_are_versions() {
        assert_eq!(kernel_version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(kernel_version("5.4"), (5, 4));
        assert_eq!(kernel_version("unknown"), (0, 0));
    }

    #[test]
    fn a_device_is_found_with_its_numbers_and_a_file_is_refused() {
        let config = |path: &str| ContainerConfig {
            devices: vec![Device { host_path: path.into(), ..Default::default() }],
            ..Default::default()
        };
        let found = devices(&config("/dev/null"), &Defaults::default()).unwrap();
        assert_eq!((found.requested[0][0].major, found.requested[0][0].minor), (1, 3));
        assert!(found.all.is_empty());
        assert!(devices(&config("/etc/passwd"), &Defaults::default()).is_err());
        assert!(devices(&config("/dev/no-such-device"), &Defaults::default()).is_err());
    }
}
