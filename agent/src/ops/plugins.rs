//! What NRI plugins are told and what they ask for: the verbs call this at their steps. Without a plugin it is one look at a
//! number.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cri_api::v1::LinuxContainerResources;
use nri_api::v1alpha1::{self as api, Event};
use prost::Message;
use tokio::sync::{OnceCell, mpsc};

use super::prepare_container::{Draft, Work};
use super::undo::Undo;
use super::{Engine, Error, chain};
use crate::libcontainer::plan::ProcessPlan;
use crate::model::{
    Container, ContainerId, ContainerSpec, ContainerState, Pod, PodId, PodPhase, ProcessUser, Resources,
};
use crate::nri::{Ask, Inventory, message};

/// What plugins were told of a container when it was made: an encoded `Container`.
const RECORD: &str = "nri";

/// Ends that plugins have not been told of: each is told once, whoever is the first to know of it.
#[derive(Default)]
pub(super) struct Owed {
    pods: Mutex<HashSet<PodId>>,
    containers: Mutex<HashMap<ContainerId, Arc<OnceCell<()>>>>,
}

impl Owed {
    fn containers(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<OnceCell<()>>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pods(&self) -> MutexGuard<'_, HashSet<PodId>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Answers what plugins ask the agent for.
    pub fn answer_plugins(self: &Arc<Self>, mut asks: mpsc::Receiver<Ask>) {
        let engine = self.clone();
        tokio::spawn(async move {
            while let Some(ask) = asks.recv().await {
                match ask {
                    Ask::Inventory(told) => drop(told.send(engine.inventory().await)),
                    Ask::Update(updates, failed) => {
                        let engine = engine.clone();
                        tokio::spawn(async move { failed.send(engine.update_for_plugins(updates).await) });
                    }
                }
            }
        });
    }

    /// All that is there, for a plugin that comes.
    async fn inventory(self: &Arc<Self>) -> Inventory {
        let gathered = self.on_disk(|engine| {
            let snapshot = engine.state.snapshot();
            let pods = snapshot.pods.values().map(|pod| engine.pod_message(pod)).collect();
            let containers =
                snapshot.containers.values().map(|container| engine.container_message(container)).collect();
            let ready = snapshot.pods.values().filter(|pod| pod.state.phase == PodPhase::Ready);
            engine.owed.pods().extend(ready.map(|pod| pod.id.clone()));
            for container in snapshot.containers.values().filter(|one| !has_exited(one)) {
                engine.owed.containers().entry(container.id.clone()).or_default();
            }
            Ok(Inventory { pods, containers })
        });
        gathered.await.unwrap_or_default()
    }

    pub(super) fn pod_message(&self, pod: &Pod) -> api::PodSandbox {
        message::pod(pod, self.monitors.get(&pod.id).map(|monitor| monitor.client.pid()))
    }

    pub(super) fn container_message(&self, container: &Container) -> api::Container {
        let path = self.state.records().container_dir(&container.id).join(RECORD);
        let told = std::fs::read(path).ok().and_then(|bytes| api::Container::decode(bytes.as_slice()).ok());
        let made = told.unwrap_or_else(|| {
            let base = known_of(&container.spec, self.read_process(&container.id).ok());
            message::new_container(base, &container.id, &container.spec, container.state.user())
        });
        message::container(made, container)
    }

    /// Keeps what plugins have made of a container for later events.
    pub(super) fn write_told(&self, id: &ContainerId, told: &api::Container) -> Result<(), Error> {
        let path = self.state.records().container_dir(id).join(RECORD);
        std::fs::write(&path, told.encode_to_vec()).map_err(|source| Error::Io { op: "write the record", path, source })
    }

    /// Tells of a pod's event.
    pub(super) async fn tell_pod(&self, event: Event, pod: &Pod) -> Result<(), Error> {
        if self.nri.is_idle() {
            return Ok(());
        }
        Ok(self.nri.tell(event, self.pod_message(pod), None).await?)
    }

    /// Tells of a container's event.
    pub(super) async fn tell_container(&self, event: Event, id: &ContainerId) -> Result<(), Error> {
        if self.nri.is_idle() {
            return Ok(());
        }
        let Some((pod, container)) = self.with_pod(id) else { return Ok(()) };
        Ok(self.nri.tell(event, self.pod_message(&pod), Some(self.container_message(&container))).await?)
    }

    pub(super) fn with_pod(&self, id: &ContainerId) -> Option<(Arc<Pod>, Arc<Container>)> {
        let snapshot = self.state.snapshot();
        let container = snapshot.containers.get(id)?;
        let pod = snapshot.pods.get(container.spec.pod.as_str())?;
        Some((pod.clone(), container.clone()))
    }

    /// Asks plugins for a pod that is about to be ready.
    pub(super) async fn introduce_pod(self: &Arc<Self>, pod: &Pod, undo: &mut Undo) -> Result<(), Error> {
        if self.nri.is_idle() {
            return Ok(());
        }
        let (engine, of_undo) = (self.clone(), pod.clone());
        undo.push("tell NRI plugins that the pod is gone", move || async move {
            engine.tell_pod_removed(&of_undo).await;
            Ok(())
        });
        self.owed.pods().insert(pod.id.clone());
        self.tell_pod(Event::RunPodSandbox, pod).await
    }

    /// Tells once that a pod is stopped. No plugin can keep it.
    pub(super) async fn tell_pod_stopped(&self, pod: &Pod) {
        let owed = self.owed.pods().remove(&pod.id);
        if owed {
            told(self.tell_pod(Event::StopPodSandbox, pod).await);
        }
    }

    /// Tells that a pod is about to be removed.
    pub(super) async fn tell_pod_removed(&self, pod: &Pod) {
        self.tell_pod_stopped(pod).await;
        told(self.tell_pod(Event::RemovePodSandbox, pod).await);
    }

    /// Takes back what plugins have done for a container that is not made after all.
    fn undo_creation(self: &Arc<Self>, work: &Work, undo: &mut Undo) {
        let Work { pod, id, spec, .. } = work;
        let (engine, pod) = (self.clone(), self.pod_message(pod));
        let new = message::new_container(known_of(spec, None), id, spec, &ProcessUser::default());
        let id = id.clone();
        undo.push("tell NRI plugins that the container is gone", move || async move {
            engine.owed.containers().remove(&id);
            let mut gone = new;
            gone.state = api::ContainerState::ContainerStopped.into();
            match engine.nri.stopped(pod.clone(), gone.clone()).await {
                Ok(updates) => engine.update_later(updates),
                Err(error) => told(Err(error.into())),
            }
            told(engine.nri.tell(Event::RemoveContainer, pod, Some(gone)).await.map_err(Error::from));
            Ok(())
        });
    }

    /// Asks plugins what they want of a container whose spec there is, and changes others as they want.
    pub(super) async fn ask_plugins(
        self: &Arc<Self>,
        work: &Work,
        mut draft: Draft,
        undo: &mut Undo,
    ) -> Result<Draft, Error> {
        self.undo_creation(work, undo);
        let monitor = self.monitors.get(&work.pod.id).map(|monitor| monitor.client.pid());
        let user = &draft.user;
        let user = ProcessUser { uid: user.uid, gid: user.gid, groups: user.groups.clone() };
        let told = message::new_container(message::of_spec(&draft.oci, monitor), &work.id, &work.spec, &user);
        let mut adjusted = self.nri.create(self.pod_message(&work.pod), told).await?;
        self.update_others(std::mem::take(&mut adjusted.updates)).await?;
        draft.adjusted = Some(adjusted);
        Ok(draft)
    }

    /// The limits of a container whose limits plugins have changed, on record.
    pub(super) fn adjusted_limits(
        &self,
        id: &ContainerId,
        limits: Option<LinuxContainerResources>,
    ) -> Result<Option<Resources>, Error> {
        let resources = limits.map(|in_force| Resources { in_force, undo: Vec::new() });
        if resources.is_some() {
            self.state.records().write_resources(id, resources.as_ref())?;
        }
        Ok(resources)
    }

    /// A container was made that plugins have been told of.
    pub(super) async fn tell_created(&self, id: &ContainerId) {
        if !self.nri.is_idle() {
            self.owed.containers().entry(id.clone()).or_default();
            told(self.tell_container(Event::PostCreateContainer, id).await);
        }
    }

    /// A container runs.
    pub(super) async fn tell_started(&self, id: &ContainerId) {
        told(self.tell_container(Event::PostStartContainer, id).await);
    }

    /// A container has ended: plugins are told, off anybody's path.
    pub(super) fn container_ended(self: &Arc<Self>, id: &ContainerId) {
        if self.nri.is_idle() {
            // Whoever comes later is told what it is then.
            self.owed.containers().remove(id);
            return;
        }
        let (engine, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            // A start that is under way is told first.
            drop(engine.container_locks.lock(&id).await);
            engine.tell_stopped(&id).await;
        });
    }

    /// Tells once that a container has ended, and returns when plugins have been told. No plugin can keep it.
    pub(super) async fn tell_stopped(self: &Arc<Self>, id: &ContainerId) {
        let owed = self.owed.containers().get(id).cloned();
        let (Some(owed), Some((pod, container))) = (owed, self.with_pod(id)) else { return };
        let tell = async {
            if self.nri.is_idle() {
                return;
            }
            match self.nri.stopped(self.pod_message(&pod), self.container_message(&container)).await {
                Ok(updates) => self.update_later(updates),
                Err(error) => told(Err(error.into())),
            }
        };
        owed.get_or_init(|| tell).await;
    }

    /// Tells that a container is about to be removed.
    pub(super) async fn tell_removed(self: &Arc<Self>, id: &ContainerId) {
        self.tell_stopped(id).await;
        told(self.tell_container(Event::RemoveContainer, id).await);
        self.owed.containers().remove(id);
    }
}

/// Logs what a plugin has against something that cannot be helped.
pub(super) fn told(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::warn!(error = chain(&error), "the request goes on all the same");
    }
}

fn has_exited(container: &Container) -> bool {
    matches!(container.state, ContainerState::Exited { .. })
}

/// A container that no plugin was asked about when it was made.
fn known_of(spec: &ContainerSpec, process: Option<ProcessPlan>) -> api::Container {
    let mount = |mount: &cri_api::v1::Mount| api::Mount {
        destination: mount.container_path.clone(),
        r#type: "bind".to_owned(),
        source: mount.host_path.clone(),
        options: vec!["rbind".to_owned(), if mount.readonly { "ro" } else { "rw" }.to_owned()],
    };
    let limits = spec.config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let process = process.unwrap_or_default();
    api::Container {
        args: process.args,
        env: process.env.iter().map(|pair| String::from_utf8_lossy(pair).into_owned()).collect(),
        mounts: spec.config.mounts.iter().map(mount).collect(),
        linux: Some(api::LinuxContainer {
            cgroups_path: spec.cgroup.clone(),
            resources: limits.map(message::limits),
            oom_score_adj: process.oom_score_adj.map(|score| api::OptionalInt { value: score.into() }),
            ..api::LinuxContainer::default()
        }),
        ..api::Container::default()
    }
}
