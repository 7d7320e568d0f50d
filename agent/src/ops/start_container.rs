//! StartContainer: the waiting init is released and becomes the program.

use std::sync::Arc;

use nri_api::v1alpha1::Event;

use super::restore_container::refused;
use super::{Engine, Error, detached, now, of_pod};
use crate::fault;
use crate::model::{Container, ContainerEvent, ContainerState, PodId};
use crate::monitor::client::MonitorError;

impl Engine {
    /// Starts a created container.
    ///
    /// # Errors
    /// When it is not in the state Created, or its program cannot be executed; then it is Exited with the reason
    /// `StartError`.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let engine = self.clone();
        detached(async move {
            let _held = engine.nri.hold().await;
            let _lock = engine.container_locks.lock(&container.id).await;
            let container = engine.container(container.id.as_str())?;
            if !matches!(container.state, ContainerState::Created { .. }) {
                return Err(Error::WrongState {
                    what: "container",
                    id: container.id.to_string(),
                    state: container.state.name(),
                    wanted: "created",
                });
            }
            engine.tell_container(Event::StartContainer, &container.id).await?;
            engine.release(&container).await?;
            engine.tell_started(&container.id).await;
            Ok(())
        })
        .await
    }

    async fn release(self: &Arc<Self>, container: &Container) -> Result<(), Error> {
        let (pod, monitor) = self.monitor_of(container)?;
        let released = match container.spec.checkpoint {
            Some(_) => self.restore(container, &monitor.client).await?,
            None => monitor.client.start(&container.id).await.map(|at| ContainerEvent::Started { at }),
        };
        fault::point("start_container.released");
        match released {
            Ok(event) => {
                // A program that ends at once may be seen to exit before this line: the exit has the last word.
                self.state.change_container(&container.id, |state| state.step(event).ok())?;
                fault::point("start_container.recorded");
                Ok(())
            }
            Err(failure @ MonitorError::Init { .. }) => {
                let event = ContainerEvent::StartFailed { at: now(), message: failure.to_string() };
                let changed = self.state.change_container(&container.id, |state| state.step(event).ok());
                self.container_ended(&container.id);
                changed?;
                if container.spec.checkpoint.is_some() {
                    return Err(refused(&container.id, &failure));
                }
                Err(Error::Start { id: container.id.to_string(), source: failure })
            }
            Err(error) => Err(of_pod(&pod)(error)),
        }
    }

    /// The pod of a container and its monitor.
    pub(super) fn monitor_of(&self, container: &Container) -> Result<(PodId, Arc<super::monitors::PodMonitor>), Error> {
        let snapshot = self.state.snapshot();
        let pod = snapshot.pods.get(container.spec.pod.as_str());
        let pod = pod.ok_or_else(|| Error::NoSuchPod(container.spec.pod.clone()))?;
        match self.monitors.get(&pod.id) {
            Some(monitor) => Ok((pod.id.clone(), monitor)),
            None => Err(Error::WrongState {
                what: "pod sandbox",
                id: pod.id.to_string(),
                state: "not ready",
                wanted: "ready",
            }),
        }
    }
}
