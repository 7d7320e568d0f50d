//! StopPodSandbox: containers killed → network released → monitor and namespaces gone → NotReady. Safe to repeat.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::{Engine, Error, detached};
use crate::fault;
use crate::model::{ContainerState, Pod, PodPhase};
use crate::state::Lookup;

impl Engine {
    /// Stops a pod. An unknown one is stopped already.
    ///
    /// # Errors
    /// When a step fails; a repeated call goes on where this one stopped.
    pub async fn stop_pod(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let pod = match self.state.snapshot().pod(id) {
            Lookup::Found(pod) => pod,
            Lookup::Absent => return Ok(()),
            Lookup::Ambiguous => return Err(Error::AmbiguousId(id.to_owned())),
        };
        let engine = self.clone();
        detached(async move {
            let _lock = engine.pod_locks.lock(&pod.id).await;
            engine.stop_locked_pod(&pod).await
        })
        .await
    }

    /// The steps, for those who hold the pod's lock.
    pub(super) async fn stop_locked_pod(self: &Arc<Self>, pod: &Pod) -> Result<(), Error> {
        let snapshot = self.state.snapshot();
        let Some(phase) = snapshot.pods.get(&pod.id).map(|pod| pod.state.phase) else { return Ok(()) };
        let containers = snapshot.containers_of(&pod.id);
        let living = containers.iter().filter(|container| !matches!(container.state, ContainerState::Exited { .. }));
        // All at once: one that hangs in the kernel must not let the others live on.
        let kills = living.map(|container| self.kill_container(container, Duration::ZERO));
        join_all(kills).await.into_iter().collect::<Result<Vec<()>, Error>>()?;
        fault::point("stop_pod.containers_killed");
        self.tell_pod_stopped(pod).await;
        // Also of a pod that is not ready because its monitor was lost, in case its addresses could not be released then.
        self.leave_network(&pod.id).await?;
        fault::point("stop_pod.network_removed");
        self.end_monitor(&pod.id).await?;
        fault::point("stop_pod.monitor_ended");
        if phase == PodPhase::Ready {
            self.state.change_pod(&pod.id, |state| state.phase = PodPhase::NotReady)?;
        }
        fault::point("stop_pod.recorded");
        Ok(())
    }
}
