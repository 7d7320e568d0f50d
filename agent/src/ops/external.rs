//! Bundles of containers that an OCI runtime runs, below their records: config.json, the processes of execs, and what the runtime
//! itself keeps. They go with the records.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, fstatvfs};
use serde::Serialize;

use super::handlers::Program;
use super::{Engine, Error};
use crate::libcontainer::external::{External, oci_process};
use crate::libcontainer::plan::ProcessPlan;
use crate::libcontainer::spec::CgroupMounts;
use crate::model::{Container, ContainerId};
use crate::monitor::client::Runtime;

/// Below the container's records.
const BUNDLE: &str = "oci";

/// What an OCI runtime is told of a container.
pub(super) struct Bundle {
    pub(super) program: Program,
    pub(super) container: External,
}

impl Engine {
    /// Where a container's bundle is.
    pub(super) fn bundle_folder(&self, id: &ContainerId) -> PathBuf {
        self.state.records().container_dir(id).join(BUNDLE)
    }

    /// Writes the bundle, and says to the monitor who runs it. `fds` are what its plan asks for.
    pub(super) fn write_bundle(&self, id: &ContainerId, mut bundle: Bundle, fds: &[OwnedFd]) -> Result<Runtime, Error> {
        let folder = self.bundle_folder(id);
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|source| Error::Io { op: "make the bundle", path: folder.clone(), source })?;
        for bind in bundle.container.binds.clone() {
            if let Some(fd) = fds.get(bind.fd) {
                bundle.container.add_options(bind.mount, &attributes(fd)?);
            }
        }
        write(&folder.join("config.json"), &bundle.container.config)?;
        let mounts = Path::new("/proc/self/ns/mnt");
        let opened = File::open(mounts).map_err(|source| Error::Io { op: "open", path: mounts.to_owned(), source })?;
        Ok(Runtime {
            program: bundle.program.path,
            folder: folder.to_string_lossy().into_owned(),
            mounts: opened.into(),
            hybrid: matches!(self.host.cgroups, CgroupMounts::Legacy { unified: true, .. }),
            exec_cgroup: bundle.program.features.exec_cgroup,
        })
    }

    /// Where the process of an exec has to be for the runtime that runs the container, if one does.
    pub(super) fn bundle_of(&self, container: &Container) -> Option<PathBuf> {
        container.spec.external.then(|| self.bundle_folder(&container.id))
    }
}

/// A mount's attributes as options of mount(8).
fn attributes(mount: &OwnedFd) -> Result<Vec<&'static str>, Error> {
    let op = "look at the attributes of a mount";
    let flags = fstatvfs(mount).map_err(|errno| Error::System { op, source: errno.into() })?.f_flag;
    let options = [
        (StatVfsMountFlags::RDONLY, "ro"),
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NODEV, "nodev"),
        (StatVfsMountFlags::NOEXEC, "noexec"),
        (StatVfsMountFlags::NOATIME, "noatime"),
        (StatVfsMountFlags::NODIRATIME, "nodiratime"),
    ];
    Ok(options.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, option)| option).collect())
}

/// Writes what a runtime is to exec; whoever has it executed takes it away.
pub(super) fn write_exec(bundle: &Path, exec: &str, process: &ProcessPlan, tty: bool) -> Result<(), Error> {
    write(&bundle.join(format!("exec-{exec}.json")), &oci_process(process, tty)?)
}

/// As nobody else's: there may be secrets in the environment.
fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(value).map_err(io::Error::other);
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = text.and_then(|text| file?.write_all(&text));
    written.map_err(|source| Error::Io { op: "write", path: path.to_owned(), source })
}
