//! CheckpointPod: its containers frozen together → each taken → all thawed → an archive of each, as CheckpointContainer makes it, and
//! all of these in one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::checkpoint_container::{Work, check_location, of};
use super::{Engine, Error, detached};
use crate::checkpoint::{self, CheckpointError, Criu, PodOptions, Staging};
use crate::fault;
use crate::model::{Container, ContainerId, ContainerState, Pod};

impl Engine {
    /// Puts running containers of a pod, all of them if none is named, into a new archive.
    ///
    /// # Errors
    /// When one of them does not run or cannot be checkpointed, none does, or criu cannot. There is no archive then, and the pod
    /// goes on.
    pub async fn checkpoint_pod(
        self: &Arc<Self>,
        id: &str,
        output: PathBuf,
        containers: Vec<String>,
    ) -> Result<(), Error> {
        let pod = self.pod(id)?;
        check_location("output_path", &output)?;
        let mut chosen = self.chosen(&pod, &containers)?;
        // In one order, so that nobody who takes several waits for who waits for him.
        chosen.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
        let engine = self.clone();
        detached(async move {
            let mut locks = Vec::new();
            for container in &chosen {
                locks.push(engine.checkpoint_locks.lock(&container.id).await);
            }
            let work = chosen.iter().map(|container| engine.work(&container.id));
            let work = work.collect::<Result<Vec<_>, _>>()?;
            engine.on_disk(move |engine| engine.take_pod(&pod, &work, &output)).await
        })
        .await
    }

    fn chosen(&self, pod: &Pod, containers: &[String]) -> Result<Vec<Arc<Container>>, Error> {
        let snapshot = self.state.snapshot();
        let mut chosen = Vec::new();
        if containers.is_empty() {
            let is_running = |found: &&Arc<Container>| matches!(found.state, ContainerState::Running { .. });
            chosen.extend(snapshot.containers_of(&pod.id).iter().filter(is_running).cloned());
        }
        for id in containers {
            let container = self.running_container(id)?;
            if container.spec.pod != pod.id.as_str() {
                let reason = format!("container {} is not in pod {}", container.id, pod.id);
                return Err(Error::Invalid { field: "container_ids", reason });
            }
            chosen.push(container);
        }
        chosen.dedup_by(|a, b| a.id == b.id);
        match chosen.is_empty() {
            true => Err(Error::WrongState {
                what: "pod sandbox",
                id: pod.id.to_string(),
                state: "without a running container",
                wanted: "running one",
            }),
            false => Ok(chosen),
        }
    }

    fn take_pod(&self, pod: &Pod, work: &[Work], output: &std::path::Path) -> Result<(), Error> {
        let told = |source: CheckpointError| Error::Checkpoint { id: pod.id.to_string(), source };
        let criu = Criu::find(&self.criu).map_err(told)?;
        let whole = Staging::make(self.paths.checkpoints().join(pod.id.as_str())).map_err(told)?;
        let mut stagings = Vec::new();
        for work in work {
            stagings.push(self.staging(&work.container.id)?);
        }
        let frozen = work.iter().map(|work| self.freeze(work)).collect::<Result<Vec<_>, _>>()?;
        fault::point("checkpoint_pod.frozen");
        for (work, staging) in work.iter().zip(&stagings) {
            self.dump(work, &criu, staging)?;
        }
        drop(frozen);
        let mut containers = BTreeMap::new();
        for (work, staging) in work.iter().zip(stagings) {
            let id = &work.container.id;
            self.add_documents(work, &criu, &staging)?;
            let member = whole.content().join(member(id));
            checkpoint::write(&staging, &member, || true).map_err(of(id))?;
            containers.insert(work.container.metadata().name, id.to_string());
        }
        let options =
            PodOptions { version: 1, containers, annotations: super::checkpoint_container::pod_annotations(pod) };
        whole.add(checkpoint::POD_OPTIONS, &serde_json::to_vec_pretty(&options).unwrap_or_default()).map_err(told)?;
        checkpoint::write(&whole, output, || {
            fault::point("checkpoint_pod.archived");
            true
        })
        .map_err(told)
    }
}

/// The archive of one container in that of its pod.
pub(super) fn member(id: &ContainerId) -> String {
    format!("{id}.tar")
}
