//! What happens, told to plugins one after the other, and what they answer. Messages are to be built only where `is_idle` says that
//! somebody reads them.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use nri_api::v1alpha1::{
    Container, ContainerUpdate, CreateContainerResponse, Empty, Event, LinuxResources, PodSandbox,
    StartContainerRequest, StateChangeEvent, StopContainerResponse, UpdateContainerRequest, UpdateContainerResponse,
    UpdatePodSandboxRequest,
};
use tokio::sync::RwLockReadGuard;

use super::merge::{Creation, Updates};
use super::plugin::Asked;
use super::{Adjusted, Nri, NriError};

impl Nri {
    /// Whether there is no plugin.
    pub fn is_idle(&self) -> bool {
        self.active.load(Ordering::Acquire) == 0
    }

    /// Keeps plugins from coming in the middle of a request.
    pub async fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    /// Tells of an event that changes nothing.
    ///
    /// # Errors
    /// When a plugin refuses it.
    pub async fn tell(&self, event: Event, pod: PodSandbox, container: Option<Container>) -> Result<(), NriError> {
        // All these requests have the same fields.
        let request = StartContainerRequest { pod: Some(pod), container };
        for plugin in self.plugins.lock().await.iter() {
            if let Asked::Unserved = plugin.ask::<Empty>(event, &request).await? {
                // One from before each event had its method.
                let StartContainerRequest { pod, container } = request.clone();
                let change = StateChangeEvent { event: event.into(), pod, container };
                plugin.tell_old(event, &change).await?;
            }
        }
        Ok(())
    }

    /// Tells that a pod is about to be resized.
    ///
    /// # Errors
    /// When a plugin refuses it.
    pub async fn update_pod(
        &self,
        pod: PodSandbox,
        overhead: Option<LinuxResources>,
        resources: Option<LinuxResources>,
    ) -> Result<(), NriError> {
        let request =
            UpdatePodSandboxRequest { pod: Some(pod), overhead_linux_resources: overhead, linux_resources: resources };
        for plugin in self.plugins.lock().await.iter() {
            plugin.ask::<Empty>(Event::UpdatePodSandbox, &request).await?;
        }
        Ok(())
    }

    /// Asks what is to be changed in a container that is about to be created.
    ///
    /// # Errors
    /// When a plugin refuses it, or two want the same thing.
    pub async fn create(&self, pod: PodSandbox, container: Container) -> Result<Adjusted, NriError> {
        let event = Event::CreateContainer;
        let plugins = self.plugins.lock().await;
        let mut creation = Creation::new(pod, container);
        for plugin in plugins.iter() {
            creation.asked(&plugin.name.index, &plugin.name.base);
            if let Asked::Answer(reply) = plugin.ask::<CreateContainerResponse>(event, &creation.request()).await? {
                creation.apply(&plugin.name.to_string(), reply)?;
            }
        }
        if plugins.iter().any(|plugin| plugin.wants(Event::ValidateContainerAdjustment)) {
            let request = creation.validation();
            let verdicts = join_all(plugins.iter().map(|plugin| plugin.validate(&request))).await;
            verdicts.into_iter().collect::<Result<Vec<()>, NriError>>()?;
        }
        let (container, adjustment, updates) = creation.finish();
        Ok(Adjusted { container, adjustment, updates })
    }

    /// Asks what a container that a client resizes is to have, and what others.
    ///
    /// # Errors
    /// When a plugin refuses it, or two want the same thing.
    pub async fn resize(
        &self,
        pod: PodSandbox,
        container: Container,
        asked: LinuxResources,
    ) -> Result<(LinuxResources, Vec<ContainerUpdate>), NriError> {
        let mut updates = Updates::of_resize(&container.id, asked.clone());
        for plugin in self.plugins.lock().await.iter() {
            let request = UpdateContainerRequest {
                pod: Some(pod.clone()),
                container: Some(container.clone()),
                linux_resources: updates.resized().cloned(),
            };
            let reply = plugin.ask::<UpdateContainerResponse>(Event::UpdateContainer, &request).await?;
            if let Asked::Answer(UpdateContainerResponse { update, .. }) = reply {
                updates.apply(&plugin.name.to_string(), update)?;
            }
        }
        Ok((updates.resized().cloned().unwrap_or(asked), updates.others()))
    }

    /// Tells that a container has ended, and learns what others may have of what it leaves.
    ///
    /// # Errors
    /// When a plugin refuses it, or two want the same thing.
    pub async fn stopped(&self, pod: PodSandbox, container: Container) -> Result<Vec<ContainerUpdate>, NriError> {
        let request = StartContainerRequest { pod: Some(pod), container: Some(container) };
        let mut updates = Updates::default();
        for plugin in self.plugins.lock().await.iter() {
            let reply = plugin.ask::<StopContainerResponse>(Event::StopContainer, &request).await?;
            if let Asked::Answer(StopContainerResponse { update }) = reply {
                updates.apply(&plugin.name.to_string(), update)?;
            }
        }
        Ok(updates.others())
    }
}
