//! /dev: the nodes and links that every program expects (OCI runtime-spec, default devices), and requested devices.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};

use super::{Action, Bind, FdSource, MakeDir, MakeNode, MountSource, MoveMount, PlanError, Steps, Symlink, text};

const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFIFO: u32 = 0o010_000;

/// Path, major, minor; all are character devices that anyone may use.
const NODES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// A fresh /dev has to be filled; one that was bind-mounted is full already and not ours to write to.
pub(super) fn is_own_dev(mount: &Mount) -> bool {
    mount.destination().to_str() == Some("/dev") && mount.typ().as_deref() == Some("tmpfs")
}

pub(super) fn add_defaults(steps: &mut Steps) {
    for (path, major, minor) in NODES {
        let node = MakeNode { path: path.to_owned(), mode: S_IFCHR | 0o666, major, minor, uid: 0, gid: 0 };
        steps.push(Action::MakeNode(node));
    }
    add_links(steps);
}

/// Nobody but the host's root may make device nodes: in a user namespace the host's own are shown.
pub(super) fn add_default_mounts(steps: &mut Steps) {
    for (path, ..) in NODES {
        let fd = steps.open(FdSource::Bind(Bind { source: path.into(), ..Bind::default() }));
        steps.push(Action::MoveMount(MoveMount { source: Some(MountSource::Fd(fd)), target: path.to_owned() }));
    }
    add_links(steps);
}

fn add_links(steps: &mut Steps) {
    for (points_to, path) in LINKS {
        steps.push(Action::Symlink(Symlink { points_to: points_to.to_owned(), path: path.to_owned() }));
    }
}

/// Requested devices where nobody may make nodes: the host's own at that path.
pub(super) fn add_requested_mounts(steps: &mut Steps, devices: &[LinuxDevice]) -> Result<(), PlanError> {
    for device in devices {
        let target = text(device.path())?;
        if is_default(&target) {
            continue;
        }
        let fd = steps.open(FdSource::Bind(Bind { source: device.path().clone(), ..Bind::default() }));
        steps.push(Action::MoveMount(MoveMount { source: Some(MountSource::Fd(fd)), target }));
    }
    Ok(())
}

fn is_default(path: &str) -> bool {
    NODES.iter().any(|(known, ..)| *known == path) || LINKS.iter().any(|(_, known)| *known == path)
}

/// Default nodes stay as they are, whatever a request says about them.
pub(super) fn add_requested(steps: &mut Steps, devices: &[LinuxDevice]) -> Result<(), PlanError> {
    for device in devices {
        let path = text(device.path())?;
        if is_default(&path) {
            continue;
        }
        if let Some((parent, _)) = path.rsplit_once('/')
            && !matches!(parent, "" | "/dev")
        {
            steps.push(Action::MakeDir(MakeDir { path: parent.to_owned(), mode: 0o755 }));
        }
        let kind = match device.typ() {
            LinuxDeviceType::B => S_IFBLK,
            LinuxDeviceType::P => S_IFIFO,
            LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::A => S_IFCHR,
        };
        steps.push(Action::MakeNode(MakeNode {
            path,
            mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
            major: device.major() as u32,
            minor: device.minor() as u32,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        }));
    }
    Ok(())
}
