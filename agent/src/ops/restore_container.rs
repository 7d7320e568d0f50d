//! A container from a checkpoint. CreateContainer, whose image is the archive's path: the image that the archive names → writable
//! layer filled, criu's images put beside it → init set up and waiting, as for any container. StartContainer: criu remakes the
//! processes in what the init has set up, and the init ends. So mounts, cgroup, limits and namespaces are those of the request.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use cri_api::v1::ContainerConfig;

use super::checkpoint_container::{of, refuse};
use super::prepare_container::Work;
use super::{Engine, Error};
use crate::checkpoint::{self, CheckpointError, Criu, Reader};
use crate::image::Image;
use crate::model::{Container, ContainerEvent, ContainerId, ContainerState};
use crate::monitor::client::{Confinement, Monitor, MonitorError, RESTORED_PID, RestoreContainer};

/// In the folder of its writable layer.
const IMAGES: &str = "checkpoint";
/// In its run folder: where criu finds the container's mounts.
const STAGING: &str = "restore";

/// The archive that a request means by its image.
pub(super) fn checkpoint_of(config: &ContainerConfig) -> Option<PathBuf> {
    let image = config.image.as_ref().map_or("", |image| image.image.as_str());
    image.starts_with('/').then(|| image.into())
}

impl Engine {
    /// The image that a checkpoint stands on.
    pub(super) async fn image_of_checkpoint(self: &Arc<Self>, archive: PathBuf) -> Result<Arc<Image>, Error> {
        let config = self.on_disk(move |_| {
            let read = Reader::open(&archive).and_then(|reader| reader.config());
            read.map_err(|source| Error::Archive { path: archive, source })
        });
        let config = config.await?;
        let names = [&config.rootfs_image_ref, &config.rootfs_image_name, &config.rootfs_image];
        let mut names = names.into_iter().filter(|name| !name.is_empty());
        let found = names.clone().find_map(|name| self.images.resolve(name));
        found.ok_or_else(|| Error::NoSuchImage(names.next_back().map_or_else(String::new, Clone::clone)))
    }

    /// Fills the writable layer of a container that comes from a checkpoint, and puts criu's images beside it.
    pub(super) fn fill_from_checkpoint(&self, work: &Work) -> Result<(), Error> {
        let Some(archive) = &work.spec.checkpoint else { return Ok(()) };
        refuse(&work.spec, work.user.is_some()).map_err(of(&work.id))?;
        // Better told now than when it is started.
        Criu::find(&self.criu).map_err(of(&work.id))?;
        let layer = self.paths.container_layer(&work.id);
        let images = layer.join(IMAGES);
        let made = DirBuilder::new().mode(0o700).create(&images);
        made.map_err(|source| Error::Io { op: "make", path: images.clone(), source })?;
        let (upper, name) = (layer.join("upper"), archive.display().to_string());
        let told = |source| Error::Archive { path: archive.clone(), source };
        let reader = Reader::open(archive).map_err(told)?;
        let extracted = reader.extract(&images, |content| Ok::<_, Failure>(self.images.fill(&upper, content, &name)?));
        extracted.map_err(|failure| match failure {
            Failure::Archive(source) => told(source),
            Failure::Layer(source) => source.into(),
        })
    }

    /// Has criu remake the processes. What it cannot is told as a start that failed.
    pub(super) async fn restore(
        self: &Arc<Self>,
        container: &Container,
        monitor: &Monitor,
    ) -> Result<Result<ContainerEvent, MonitorError>, Error> {
        let id = container.id.clone();
        let ContainerState::Created { pid, .. } = container.state else { return Err(Error::Cancelled) };
        let request = self.on_disk(move |engine| engine.restore_request(id, pid)).await?;
        let restored = monitor.restore(request).await;
        let id = container.id.clone();
        let log = self.on_disk(move |engine| Ok(engine.after_restore(&id))).await?;
        Ok(match restored {
            Ok((at, pid)) => Ok(ContainerEvent::Restored { at, pid }),
            Err(MonitorError::Init { step, path, errno }) if !log.is_empty() => {
                Err(MonitorError::Init { step: format!("{step}: {log}"), path, errno })
            }
            Err(error) => Err(error),
        })
    }

    fn restore_request(&self, id: ContainerId, init: i32) -> Result<RestoreContainer, Error> {
        let criu = Criu::find(&self.criu).map_err(of(&id))?;
        let run = self.state.records().container_dir(&id);
        let images = self.paths.container_layer(&id).join(IMAGES);
        let staging = run.join(STAGING);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&staging);
        made.map_err(|source| Error::Io { op: "make", path: staging.clone(), source })?;
        // Of a try that a crash cut short.
        let _ = std::fs::remove_file(run.join(RESTORED_PID));
        let path = PathBuf::from(format!("/proc/{init}/mountinfo"));
        let mountinfo = std::fs::read_to_string(&path);
        let mountinfo = mountinfo.map_err(|source| match source.kind() {
            // It was killed meanwhile.
            std::io::ErrorKind::NotFound => {
                Error::WrongState { what: "container", id: id.to_string(), state: "ending", wanted: "created" }
            }
            _ => Error::Io { op: "read", path, source },
        })?;
        let external = checkpoint::external(&mountinfo).map_err(of(&id))?;
        let restore = checkpoint::Restore {
            images: &images,
            work: &run,
            pid_file: &run.join(RESTORED_PID),
            staging: &staging,
            external: &external,
        };
        let args = criu.restore_arguments(&restore).map_err(of(&id))?;
        let stdio = checkpoint::read_stdio(&images);
        let process = self.read_process(&id)?;
        let own = PathBuf::from("/proc/self/ns/mnt");
        let mount_namespace = std::fs::File::open(&own);
        let mount_namespace = mount_namespace.map_err(|source| Error::Io { op: "open", path: own, source })?;
        Ok(RestoreContainer {
            id,
            args,
            path: std::env::var("PATH").unwrap_or_default(),
            mount_namespace: OwnedFd::from(mount_namespace),
            mounts: std::iter::once("/".to_owned()).chain(external).collect(),
            staging: staging.display().to_string(),
            inherited: stdio,
            confinement: Confinement {
                capabilities: process.capabilities.bounding,
                seccomp: !process.seccomp_filter.is_empty(),
                no_new_privileges: process.no_new_privileges,
                root: process.uid == 0,
            },
        })
    }

    /// Takes away what only the restore needed; the errors of criu's log.
    fn after_restore(&self, id: &ContainerId) -> String {
        let run = self.state.records().container_dir(id);
        let log = checkpoint::restore_errors(&run);
        let _ = std::fs::remove_dir(run.join(STAGING));
        let _ = std::fs::remove_file(run.join(RESTORED_PID));
        let _ = std::fs::remove_dir_all(self.paths.container_layer(id).join(IMAGES));
        log
    }
}

/// Processes that criu could not remake.
pub(super) fn refused(id: &ContainerId, failure: &MonitorError) -> Error {
    of(id)(CheckpointError::Refused { what: "bring the container's processes back", said: failure.to_string() })
}

/// Of reading an archive with a layer in it.
enum Failure {
    Archive(CheckpointError),
    Layer(crate::image::ImageError),
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        Self::Archive(error)
    }
}

impl From<crate::image::ImageError> for Failure {
    fn from(error: crate::image::ImageError) -> Self {
        Self::Layer(error)
    }
}
