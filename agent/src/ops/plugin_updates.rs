//! Changes of containers that NRI plugins ask for, and what they make of changes that clients ask for. All of them go the way of a
//! resize.

use std::sync::Arc;

use cri_api::v1::LinuxContainerResources;
use nri_api::v1alpha1::{ContainerUpdate, Event, LinuxResources};

use super::plugins::told;
use super::{Engine, Error, chain};
use crate::model::{ContainerId, Pod};
use crate::nri::message;

impl Engine {
    /// What a container is to have that a client resizes, and what others are to have then.
    pub(super) async fn ask_resize(
        &self,
        id: &ContainerId,
        asked: LinuxContainerResources,
    ) -> Result<(LinuxContainerResources, Vec<ContainerUpdate>), Error> {
        if self.nri.is_idle() {
            return Ok((asked, Vec::new()));
        }
        let Some((pod, container)) = self.with_pod(id) else { return Ok((asked, Vec::new())) };
        let before = message::limits(&asked);
        let (pod, container) = (self.pod_message(&pod), self.container_message(&container));
        let (wanted, others) = self.nri.resize(pod, container, before.clone()).await?;
        if wanted == before {
            return Ok((asked, others));
        }
        let mut limits = to_limits(id.as_str(), &wanted)?;
        // Plugins do not know of it.
        limits.oom_score_adj = asked.oom_score_adj;
        Ok((limits, others))
    }

    /// A container was resized.
    pub(super) async fn tell_resized(&self, id: &ContainerId) {
        told(self.tell_container(Event::PostUpdateContainer, id).await);
    }

    /// Asks plugins for a pod that is about to be resized.
    pub(super) async fn ask_pod_resize(
        &self,
        pod: &Pod,
        overhead: Option<&LinuxContainerResources>,
        resources: Option<&LinuxContainerResources>,
    ) -> Result<(), Error> {
        if self.nri.is_idle() {
            return Ok(());
        }
        let (overhead, resources) = (overhead.map(message::limits), resources.map(message::limits));
        Ok(self.nri.update_pod(self.pod_message(pod), overhead, resources).await?)
    }

    /// A pod was resized.
    pub(super) async fn tell_pod_resized(&self, pod: &Pod) {
        told(self.tell_pod(Event::PostUpdatePodSandbox, pod).await);
    }

    /// Makes the changes that plugins want of other containers.
    pub(super) async fn update_others(self: &Arc<Self>, updates: Vec<ContainerUpdate>) -> Result<(), Error> {
        for update in updates {
            let made = self.update_for_plugin(&update).await;
            match made {
                Err(error) if !update.ignore_failure => return Err(error),
                Err(error) => {
                    tracing::info!(
                        container = update.container_id,
                        error = chain(&error),
                        "a change that an NRI plugin wants was not made"
                    );
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// The same when nobody waits for it.
    pub(super) fn update_later(self: &Arc<Self>, updates: Vec<ContainerUpdate>) {
        if !updates.is_empty() {
            let engine = self.clone();
            tokio::spawn(async move { told(engine.update_others(updates).await) });
        }
    }

    pub(super) async fn update_for_plugins(self: &Arc<Self>, updates: Vec<ContainerUpdate>) -> Vec<ContainerUpdate> {
        let mut failed = Vec::new();
        for update in updates {
            if let Err(error) = self.update_for_plugin(&update).await {
                let error = chain(&error);
                tracing::info!(
                    container = update.container_id,
                    error,
                    "a change that an NRI plugin wants was not made"
                );
                if !update.ignore_failure {
                    failed.push(update);
                }
            }
        }
        failed
    }

    async fn update_for_plugin(self: &Arc<Self>, update: &ContainerUpdate) -> Result<(), Error> {
        let asked = update.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let Some(asked) = asked else { return Ok(()) };
        let failed = |source| Error::PluginUpdate { id: update.container_id.clone(), source: Box::new(source) };
        let change = to_limits(&update.container_id, asked)?;
        let id =
            update.container_id.parse().map_err(|_| failed(Error::NoSuchContainer(update.container_id.clone())))?;
        self.resize_locked(&id, &change).await.map_err(failed)
    }
}

fn to_limits(id: &str, asked: &LinuxResources) -> Result<LinuxContainerResources, Error> {
    message::to_limits(asked).map_err(|source| Error::PluginLimits { id: id.to_owned(), source })
}
