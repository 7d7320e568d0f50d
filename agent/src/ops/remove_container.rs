//! RemoveContainer: killed if it lives → forgotten by the monitor → cgroup, writable layer, image hold → records. Safe to
//! repeat, and the records go last, so that a removal cut short can be asked for again.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::monitors::gone;
use super::{Engine, Error, detached};
use crate::fault;
use crate::libcontainer::cgroup::Cgroup;
use crate::model::{Container, ContainerId, ContainerKey, ContainerState};
use crate::state::Lookup;

impl Engine {
    /// Removes a container in any state. An unknown one is removed already.
    ///
    /// # Errors
    /// When a step fails; a repeated call goes on where this one stopped.
    pub async fn remove_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let container = match self.state.snapshot().container(id) {
            Lookup::Found(container) => container,
            Lookup::Absent => return Ok(()),
            Lookup::Ambiguous => return Err(Error::AmbiguousId(id.to_owned())),
        };
        let engine = self.clone();
        detached(async move {
            let _held = engine.nri.hold().await;
            engine.remove_locked_container(&container).await
        })
        .await
    }

    /// The steps, under the container's own lock.
    pub(super) async fn remove_locked_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        let id = &container.id;
        let _lock = self.container_locks.lock(id).await;
        let snapshot = self.state.snapshot();
        let Some(current) = snapshot.containers.get(id) else { return Ok(()) };
        if !matches!(current.state, ContainerState::Exited { .. }) {
            self.kill_container(current, Duration::ZERO).await?;
        }
        if let Ok((pod, monitor)) = self.monitor_of(current) {
            monitor.client.remove(id).await.or_else(gone).map_err(super::of_pod(&pod))?;
        }
        fault::point("remove_container.unmonitored");
        self.discard_container(id.clone(), current.spec.cgroup.clone()).await?;
        fault::point("remove_container.discarded");
        if let Some(pod) = snapshot.pods.get(container.spec.pod.as_str()) {
            self.containers_under_way.forget(&ContainerKey::new(&pod.id, &container.metadata()));
        }
        self.tell_removed(id).await;
        self.stats.forget(id);
        self.state.forget_container(id)?;
        fault::point("remove_container.forgotten");
        Ok(())
    }

    /// Takes away what a dead container has outside the run folder: cgroup, writable layer, its hold on the image.
    pub(super) async fn discard_container(self: &Arc<Self>, id: ContainerId, cgroup: String) -> Result<(), Error> {
        self.stop_scope(&cgroup).await?;
        self.on_disk(move |engine| {
            let cgroup = Cgroup::open(&engine.cgroups, &cgroup);
            // A monitor that was lost, or an agent that died in between, leaves processes whose end nobody waits for.
            if !cgroup.processes()?.is_empty() {
                // Whoever survives it hinders the removal, which tells.
                let _ = cgroup.kill();
            }
            cgroup.remove()?;
            engine.images.release(&id);
            let trashed = engine.paths.trash().join(id.as_str());
            move_to_trash(&engine.paths.container_layer(&id), &trashed)?;
            // Deleting a big layer takes seconds; what a crash leaves in the trash is swept at the next start.
            std::thread::Builder::new()
                .name("layer-removal".into())
                .spawn(move || remove_tree(&trashed))
                .map_err(|source| Error::System { op: "start the thread that deletes a writable layer", source })?;
            Ok(())
        })
        .await
    }
}

fn move_to_trash(layer: &Path, trashed: &Path) -> Result<(), Error> {
    match std::fs::rename(layer, trashed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { op: "move the writable layer to the trash", path: layer.into(), source }),
        Ok(()) => Ok(()),
    }
}

/// Deletes what is in the trash; a failure is told and swept at the next start.
pub(super) fn remove_tree(path: &Path) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(path = %path.display(), %error, "cannot delete a removed container's writable layer");
        }
        _ => {}
    }
}
