//! Bundles of containers that an OCI runtime runs, below their records: config.json, the processes of execs, and what the runtime
//! itself keeps. They go with the records.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::Serialize;

use super::handlers::Program;
use super::{Engine, Error};
use crate::libcontainer::external::oci_process;
use crate::libcontainer::plan::ProcessPlan;
use crate::libcontainer::spec::CgroupMounts;
use crate::model::{Container, ContainerId};
use crate::monitor::client::Runtime;

/// Below the container's records.
const BUNDLE: &str = "oci";

/// What an OCI runtime is told of a container.
pub(super) struct Bundle {
    pub(super) program: Program,
    pub(super) config: Spec,
    /// What is exec'd into it inherits this.
    pub(super) process: ProcessPlan,
}

impl Engine {
    /// Where a container's bundle is.
    pub(super) fn bundle_folder(&self, id: &ContainerId) -> PathBuf {
        self.state.records().container_dir(id).join(BUNDLE)
    }

    /// Writes the bundle, and says to the monitor who runs it.
    pub(super) fn write_bundle(&self, id: &ContainerId, bundle: &Bundle) -> Result<Runtime, Error> {
        let folder = self.bundle_folder(id);
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|source| Error::Io { op: "make the bundle", path: folder.clone(), source })?;
        write(&folder.join("config.json"), &bundle.config)?;
        let mounts = Path::new("/proc/self/ns/mnt");
        let opened = File::open(mounts).map_err(|source| Error::Io { op: "open", path: mounts.to_owned(), source })?;
        Ok(Runtime {
            program: bundle.program.path.clone(),
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
