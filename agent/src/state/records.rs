//! The records in the run folder: `pods/<id>/{spec,state}` and `containers/<id>/{spec,state}` as versioned JSON, each
//! written to a new file and renamed, so a reader finds the old or the new one and never half of either. The run folder
//! is a tmpfs: nothing is synced, and a reboot leaves nothing to repair.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{ContainerId, ContainerSpec, ContainerState, PodId, PodSpec, PodState, Resources};

const VERSION: u32 = 1;

/// A record that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("cannot {op} the record {}", path.display())]
    Io {
        /// What was being done.
        op: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The text is not a record, or has a part that this agent does not know.
    #[error("the record {} cannot be understood", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// Written by a newer agent in a form that this one does not know.
    #[error("the record {} has version {version}; this agent knows versions up to {VERSION}", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// The file's text: the version first, so that it can be told before the record is understood.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    record: T,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// The folders of the records.
#[derive(Debug, Clone)]
pub struct Records {
    pods: PathBuf,
    containers: PathBuf,
}

impl Records {
    /// Makes the folders below `run_root`, for root's eyes only.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub fn open(run_root: &Path) -> Result<Self, RecordError> {
        let records = Self { pods: run_root.join("pods"), containers: run_root.join("containers") };
        make_dir(&records.pods)?;
        make_dir(&records.containers)?;
        Ok(records)
    }

    /// Everything of a pod in the run folder.
    pub fn pod_dir(&self, id: &PodId) -> PathBuf {
        self.pods.join(id.as_str())
    }

    /// Everything of a container in the run folder.
    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.containers.join(id.as_str())
    }

    /// The first thing of a pod: its folder and its spec. A spec without a state is an intent.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn begin_pod(&self, id: &PodId, spec: &PodSpec) -> Result<PathBuf, RecordError> {
        let dir = self.pod_dir(id);
        make_dir(&dir)?;
        write(&dir.join("spec"), spec)?;
        Ok(dir)
    }

    /// The first thing of a container: its folder and its spec. A spec without a state is an intent.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn begin_container(&self, id: &ContainerId, spec: &ContainerSpec) -> Result<PathBuf, RecordError> {
        let dir = self.container_dir(id);
        make_dir(&dir)?;
        write(&dir.join("spec"), spec)?;
        Ok(dir)
    }

    /// The pod is whole, or changed.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn write_pod_state(&self, id: &PodId, state: &PodState) -> Result<(), RecordError> {
        write(&self.pod_dir(id).join("state"), state)
    }

    /// The container is whole, or changed.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn write_container_state(&self, id: &ContainerId, state: &ContainerState) -> Result<(), RecordError> {
        write(&self.container_dir(id).join("state"), state)
    }

    /// Limits that were changed, or are about to be; `None` takes the record away.
    ///
    /// # Errors
    /// When the record cannot be written or removed.
    pub fn write_resources(&self, id: &ContainerId, resources: Option<&Resources>) -> Result<(), RecordError> {
        let path = self.container_dir(id).join("resources");
        match resources {
            Some(resources) => write(&path, resources),
            None => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
                _ => Ok(()),
            },
        }
    }

    /// Limits that were changed since the container was made.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
    pub fn read_resources(&self, id: &ContainerId) -> Result<Option<Resources>, RecordError> {
        read(&self.container_dir(id).join("resources"))
    }

    /// What was written of a pod; a missing file is `None`.
    ///
    /// # Errors
    /// When a file is there and cannot be read or understood.
    pub fn read_pod(&self, id: &PodId) -> Result<(Option<PodSpec>, Option<PodState>), RecordError> {
        let dir = self.pod_dir(id);
        Ok((read(&dir.join("spec"))?, read(&dir.join("state"))?))
    }

    /// What was written of a container; a missing file is `None`.
    ///
    /// # Errors
    /// When a file is there and cannot be read or understood.
    pub fn read_container(
        &self,
        id: &ContainerId,
    ) -> Result<(Option<ContainerSpec>, Option<ContainerState>), RecordError> {
        let dir = self.container_dir(id);
        Ok((read(&dir.join("spec"))?, read(&dir.join("state"))?))
    }

    /// The ids of all pod folders; names that are no ids are passed over.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn pod_ids(&self) -> Result<Vec<PodId>, RecordError> {
        ids(&self.pods)
    }

    /// The ids of all container folders; names that are no ids are passed over.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn container_ids(&self) -> Result<Vec<ContainerId>, RecordError> {
        ids(&self.containers)
    }

    /// Removes a pod's folder, whatever it holds.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove_pod(&self, id: &PodId) -> Result<(), RecordError> {
        remove_dir(&self.pod_dir(id))
    }

    /// Removes a container's folder, whatever it holds.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove_container(&self, id: &ContainerId) -> Result<(), RecordError> {
        remove_dir(&self.container_dir(id))
    }
}

fn failed<'a>(op: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RecordError + 'a {
    move |source| RecordError::Io { op, path: path.to_owned(), source }
}

fn make_dir(path: &Path) -> Result<(), RecordError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the folder of", path))
}

fn remove_dir(path: &Path) -> Result<(), RecordError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), RecordError> {
    let text = serde_json::to_vec(&Versioned { version: VERSION, record })
        .map_err(|source| RecordError::Format { path: path.to_owned(), source })?;
    let new = path.with_extension("new");
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| std::fs::rename(&new, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&new);
        failed("write", path)(error)
    })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RecordError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let format = |source| RecordError::Format { path: path.to_owned(), source };
    let VersionOnly { version } = serde_json::from_slice(&text).map_err(format)?;
    if version > VERSION {
        return Err(RecordError::Version { path: path.to_owned(), version });
    }
    let Versioned { record, .. } = serde_json::from_slice(&text).map_err(format)?;
    Ok(Some(record))
}

fn ids<T: std::str::FromStr>(dir: &Path) -> Result<Vec<T>, RecordError> {
    let list = failed("list", dir);
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(list)?;
    Ok(entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerState, ProcessUser};

    fn spec() -> PodSpec {
        PodSpec {
            config: cri_api::v1::PodSandboxConfig { hostname: "h".into(), ..Default::default() },
            runtime_handler: String::new(),
            created_at: 5,
            hostname: "h".into(),
            cgroup_parent: "/berth".into(),
            selinux_level: String::new(),
            network_of: None,
        }
    }

    #[test]
    fn a_spec_without_a_state_is_an_intent() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let id = PodId::random().unwrap();
        records.begin_pod(&id, &spec()).unwrap();
        let (read, state) = records.read_pod(&id).unwrap();
        assert_eq!(read.unwrap().config, spec().config);
        assert!(state.is_none());
        let state = PodState::ready(vec!["10.88.0.2".parse().unwrap()]);
        records.write_pod_state(&id, &state).unwrap();
        assert_eq!(records.read_pod(&id).unwrap().1, Some(state));
        records.remove_pod(&id).unwrap();
        records.remove_pod(&id).unwrap();
        assert_eq!(records.pod_ids().unwrap(), []);
    }

    #[test]
    fn changed_limits_come_back_with_what_takes_a_change_back() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let id = ContainerId::random().unwrap();
        make_dir(&records.container_dir(&id)).unwrap();
        assert!(records.read_resources(&id).unwrap().is_none());
        let value = |value: &str| crate::model::CgroupValue {
            controller: "cpu".into(),
            file: "cpu.shares".into(),
            value: value.into(),
        };
        let mut resources = Resources { undo: vec![value("7")], ..Resources::default() };
        resources.in_force.unified.insert("memory.high".into(), "5".into());
        records.write_resources(&id, Some(&resources)).unwrap();
        assert_eq!(records.read_resources(&id).unwrap(), Some(resources));
        records.write_resources(&id, None).unwrap();
        records.write_resources(&id, None).unwrap();
        assert!(records.read_resources(&id).unwrap().is_none());
    }

    #[test]
    fn states_with_data_come_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let state = ContainerState::Running { pid: 3, user: ProcessUser::default(), started_at: 4 };
        write(&path, &state).unwrap();
        assert_eq!(read::<ContainerState>(&path).unwrap(), Some(state));
    }

    #[test]
    fn a_newer_version_and_a_broken_text_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::write(&path, r#"{"version": 99, "record": {"phase": "Ready"}}"#).unwrap();
        assert!(matches!(read::<PodState>(&path), Err(RecordError::Version { version: 99, .. })));
        std::fs::write(&path, r#"{"version": 1, "phase""#).unwrap();
        assert!(matches!(read::<PodState>(&path), Err(RecordError::Format { .. })));
    }
}
