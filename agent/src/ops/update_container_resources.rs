//! UpdateContainerResources: what is asked for → what has to be written, and what takes it back → intent → systemd and
//! cgroup → record, whose writing makes the change. kubelet resizes pods in place by it.

use std::sync::Arc;

use cri_api::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};

use super::undo::Undo;
use super::{Engine, Error, detached};
use crate::fault;
use crate::libcontainer::cgroup::{Cgroup, Change};
use crate::libcontainer::spec::resources::{oom_score_adj, to_oci};
use crate::model::resources::{merged, to_write};
use crate::model::{CgroupValue, Container, ContainerId, ContainerState, Resources};

impl Engine {
    /// Changes limits of a container, all that the request names or none. What it leaves out (zero, empty) stays. An exited
    /// container only remembers them. Annotations are none that change anything here, and are accepted.
    ///
    /// # Errors
    /// When the container is unknown, a limit is wrong or cannot be had on this host, or more memory is in use than the new limit
    /// allows; the limits are then what they were.
    pub async fn update_container_resources(
        self: &Arc<Self>,
        request: UpdateContainerResourcesRequest,
    ) -> Result<(), Error> {
        let container = self.container(&request.container_id)?;
        if request.windows.is_some() {
            return Err(Error::Invalid { field: "windows", reason: "this is a Linux node".into() });
        }
        let Some(change) = request.linux else { return Ok(()) };
        let engine = self.clone();
        detached(async move {
            let _held = engine.nri.hold().await;
            let (change, others) = engine.ask_resize(&container.id, change).await?;
            engine.resize_locked(&container.id, &change).await?;
            engine.tell_resized(&container.id).await;
            engine.update_others(others).await
        })
        .await
    }

    /// The steps, under the container's own lock.
    pub(super) async fn resize_locked(
        self: &Arc<Self>,
        id: &ContainerId,
        change: &LinuxContainerResources,
    ) -> Result<(), Error> {
        let _lock = self.container_locks.lock(id).await;
        let container = self.container(id.as_str())?;
        self.resize(&container, change).await
    }

    async fn resize(self: &Arc<Self>, container: &Container, change: &LinuxContainerResources) -> Result<(), Error> {
        let before = container.limits().cloned().unwrap_or_default();
        let wanted = merged(&before, change);
        // As a whole, so that the container can be made anew with what its status tells.
        to_oci(Some(&wanted), &self.host)?;
        let score = oom_score_adj(Some(&wanted))?;
        let limits = to_oci(Some(&to_write(&wanted, change)), &self.host)?;

        let mut undo = Undo::default();
        if !has_exited(container) {
            let cgroup = Cgroup::open(&self.cgroups, &container.spec.cgroup);
            let looked_up = self.on_disk(move |_| Ok(cgroup.change(&limits)?)).await;
            let made = match looked_up {
                Ok(planned) => self.make_change(container, &before, &wanted, planned, &mut undo).await,
                Err(error) => Err(error),
            };
            if let Err(error) = made {
                return self.unless_exited(&container.id, &wanted, undo.after(error).await);
            }
        }
        let changed = Resources { in_force: wanted, undo: Vec::new() };
        if let Err(error) = self.state.change_resources(&container.id, changed) {
            return Err(undo.after(error.into()).await);
        }
        fault::point("update_container_resources.recorded");
        self.set_oom_score(container, oom_score_adj(Some(&before)).unwrap_or(0), score).await;
        Ok(())
    }

    async fn make_change(
        self: &Arc<Self>,
        container: &Container,
        before: &LinuxContainerResources,
        wanted: &LinuxContainerResources,
        planned: Change,
        undo: &mut Undo,
    ) -> Result<(), Error> {
        let id = container.id.clone();
        let intent = Resources { in_force: before.clone(), undo: planned.undo().to_vec() };
        let (engine, known) = (self.clone(), container.resources.clone());
        undo.push_record("forget the change of limits", {
            let id = id.clone();
            move || async move { Ok(engine.state.records().write_resources(&id, known.as_ref())?) }
        });
        self.state.records().write_resources(&id, Some(&intent))?;
        fault::point("update_container_resources.intended");

        let path = container.spec.cgroup.clone();
        let told = (before.clone(), wanted.clone());
        let engine = self.clone();
        undo.push("tell systemd the limits before", {
            let (path, told) = (path.clone(), told.clone());
            move || async move { engine.tell_limits(&path, &told.1, &told.0).await }
        });
        // systemd rounds a quota: the file has the last word.
        self.tell_limits(&path, &told.0, &told.1).await?;

        let planned = Arc::new(planned);
        let (carried_out, engine) = (planned.clone(), self.clone());
        // Before the step, which takes back itself what it did: systemd may have written before it.
        undo.push("write the limits before into the cgroup", move || async move {
            engine.on_disk(move |_| Ok(planned.take_back()?)).await
        });
        self.on_disk(move |_| Ok(carried_out.carry_out()?)).await?;
        fault::point("update_container_resources.written");
        Ok(())
    }

    /// A container that ended meanwhile has no cgroup to write to; what it is to have is remembered.
    fn unless_exited(&self, id: &ContainerId, wanted: &LinuxContainerResources, error: Error) -> Result<(), Error> {
        let gone = matches!(&error, Error::Cgroup(error) if error.is_not_found());
        let snapshot = self.state.snapshot();
        if !gone || !snapshot.containers.get(id).is_some_and(|container| has_exited(container)) {
            return Err(error);
        }
        let changed = Resources { in_force: wanted.clone(), undo: Vec::new() };
        Ok(self.state.change_resources(id, changed)?)
    }

    /// A change that an agent before had begun is taken back: nobody was told that it was made.
    pub(super) async fn settle_resources(self: &Arc<Self>, id: &ContainerId, cgroup: &str) -> Option<Resources> {
        let mut resources = match self.state.records().read_resources(id) {
            Ok(resources) => resources?,
            Err(error) => {
                tracing::error!(container = %id, error = super::chain(&error), "the record of the container's limits is unreadable; those that it was made with are shown");
                return None;
            }
        };
        let undo = std::mem::take(&mut resources.undo);
        if undo.is_empty() {
            return Some(resources);
        }
        match self.take_back(id, cgroup, &resources, undo).await {
            Ok(()) => tracing::info!(container = %id, "a change of limits that was begun is taken back"),
            Err(error) => {
                tracing::error!(container = %id, error = super::chain(&error), "a change of limits could not be taken back; the next start tries again")
            }
        }
        Some(resources)
    }

    async fn take_back(
        self: &Arc<Self>,
        id: &ContainerId,
        path: &str,
        settled: &Resources,
        undo: Vec<CgroupValue>,
    ) -> Result<(), Error> {
        let cgroup = Cgroup::open(&self.cgroups, path);
        // What systemd knows of the change beyond the limits before is not known any more; it writes it when it reloads.
        let told = self.tell_limits(path, &settled.in_force, &settled.in_force).await;
        self.on_disk(move |_| Ok(cgroup.put_back(&undo)?)).await?;
        told?;
        Ok(self.state.records().write_resources(id, Some(settled))?)
    }

    /// As far as it goes, as when a container is made: the kernel lets only some lower it.
    async fn set_oom_score(self: &Arc<Self>, container: &Container, before: i32, wanted: i32) {
        if before == wanted || has_exited(container) {
            return;
        }
        let (id, path) = (container.id.clone(), container.spec.cgroup.clone());
        let set = move |engine: &Engine| {
            let mut process = engine.read_process(&id)?;
            let before = process.oom_score_adj.unwrap_or(before);
            let score = engine.host.oom_score_adj_for(wanted);
            // What is exec'd from now on has it, too.
            process.oom_score_adj = Some(score);
            engine.write_process(&id, &process)?;
            Ok(Cgroup::open(&engine.cgroups, &path).set_oom_score_adj(before, score)?)
        };
        if let Err(error) = self.on_disk(set).await {
            tracing::warn!(container = %container.id, error = super::chain(&error), "oom_score_adj could not be changed");
        }
    }
}

fn has_exited(container: &Container) -> bool {
    matches!(container.state, ContainerState::Exited { .. })
}
