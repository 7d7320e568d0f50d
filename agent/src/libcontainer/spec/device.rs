//! Device nodes and the device cgroup's rules.

use std::path::{Path, PathBuf};

use cri_api::v1::Device as Requested;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{HostDevice, SpecError, SpecInput, namespace};

/// A device with what may be done with it.
#[derive(Debug, Clone)]
pub(super) struct Granted {
    pub(super) device: LinuxDevice,
    /// Where it is on the host.
    pub(super) source: PathBuf,
    access: String,
}

/// What every container may use, as (major, minor) of a character device: null, full, zero, tty, random, urandom,
/// console, any pts, ptmx.
const ALWAYS: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(7)),
    (1, Some(5)),
    (5, Some(0)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(1)),
    (136, None),
    (5, Some(2)),
];

/// All the host's for a privileged container, then the requested ones; the last one at a path wins. In a user namespace
/// nobody could open the host's, whose owners are unknown there: a privileged container has the requested ones only.
pub(super) fn requested(input: &SpecInput<'_>) -> Result<Vec<Granted>, SpecError> {
    let mut list: Vec<Granted> = Vec::new();
    if input.privileged() && namespace::user_namespace(input.sandbox)?.is_none() {
        list.extend(input.devices.all.iter().map(|device| granted(device, device.path.clone(), "rwm")));
    }
    for (index, request) in input.container.devices.iter().enumerate() {
        let Some(found) = input.devices.requested.get(index) else {
            return Err(refuse(request, "is no device on this host"));
        };
        let access = permissions(request)?;
        for device in found {
            let path = target(request, &device.path)?;
            list.retain(|other| *other.device.path() != path);
            list.push(granted(device, path, &access));
        }
    }
    Ok(list)
}

fn refuse(request: &Requested, reason: &'static str) -> SpecError {
    SpecError::Device { path: request.host_path.clone(), reason }
}

fn permissions(request: &Requested) -> Result<String, SpecError> {
    let asked = request.permissions.as_str();
    let known: String = ['r', 'w', 'm'].into_iter().filter(|&letter| asked.contains(letter)).collect();
    if known.len() == asked.len() && !known.is_empty() {
        Ok(known)
    } else {
        Err(refuse(request, "has permissions that are not one or more of r, w and m"))
    }
}

/// A requested folder stands for all devices below it.
fn target(request: &Requested, device: &Path) -> Result<PathBuf, SpecError> {
    let base = if request.container_path.is_empty() { &request.host_path } else { &request.container_path };
    if !base.starts_with('/') || base.contains('\0') || base.split('/').any(|part| part == "..") {
        return Err(refuse(request, "has a container_path that is not an absolute path without `..`"));
    }
    Ok(match device.strip_prefix(&request.host_path) {
        Ok(below) if below != Path::new("") => Path::new(base).join(below),
        _ => PathBuf::from(base),
    })
}

fn granted(host: &HostDevice, path: PathBuf, access: &str) -> Granted {
    let mut device = LinuxDevice::default();
    device
        .set_path(path)
        .set_typ(if host.block { LinuxDeviceType::B } else { LinuxDeviceType::C })
        .set_major(i64::from(host.major))
        .set_minor(i64::from(host.minor))
        .set_file_mode(Some(host.mode & 0o7777))
        .set_uid(Some(host.uid))
        .set_gid(Some(host.gid));
    Granted { device, source: host.path.clone(), access: access.to_owned() }
}

fn rule(allow: bool, typ: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_typ(Some(typ)).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
    rule
}

/// Deny everything, then allow: mknod of any device (a node is nothing without the right to open it), the usual ones,
/// the granted ones. With `any` everything is allowed.
pub(super) fn rules(any: bool, granted: &[Granted]) -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::A;
    if any {
        return vec![rule(true, A, None, None, "rwm")];
    }
    let mut rules = vec![rule(false, A, None, None, "rwm")];
    rules.extend(usual_device_rules());
    rules.extend(
        granted
            .iter()
            .map(|one| rule(true, one.device.typ(), Some(one.device.major()), Some(one.device.minor()), &one.access)),
    );
    rules
}

/// What every container may do: make nodes of any device (a node is nothing without the right to open it), and use the
/// usual ones.
pub fn usual_device_rules() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{B, C};
    let mut rules = vec![rule(true, C, None, None, "m"), rule(true, B, None, None, "m")];
    rules.extend(ALWAYS.iter().map(|&(major, minor)| rule(true, C, Some(major), minor, "rwm")));
    rules
}
