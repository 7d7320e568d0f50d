//! RemovePodSandbox: stopped if it is not → containers removed → records removed. Safe to repeat.

use std::sync::Arc;

use super::{Engine, Error, detached};
use crate::fault;
use crate::model::PodKey;
use crate::state::Lookup;

impl Engine {
    /// Removes a pod and its containers. An unknown one is removed already.
    ///
    /// # Errors
    /// When a step fails; a repeated call goes on where this one stopped.
    pub async fn remove_pod(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let pod = match self.state.snapshot().pod(id) {
            Lookup::Found(pod) => pod,
            Lookup::Absent => return Ok(()),
            Lookup::Ambiguous => return Err(Error::AmbiguousId(id.to_owned())),
        };
        let engine = self.clone();
        detached(async move {
            let _held = engine.nri.hold().await;
            let _lock = engine.pod_locks.lock(&pod.id).await;
            engine.stop_locked_pod(&pod).await?;
            for container in engine.state.snapshot().containers_of(&pod.id) {
                engine.remove_locked_container(&container).await?;
            }
            fault::point("remove_pod.containers_removed");
            // Of a pod that is unknown nothing is left, unless plugins fail.
            engine.network.wait_left(&pod.id).await;
            engine.tell_pod_removed(&pod).await;
            engine.pods_under_way.forget(&PodKey::new(&pod.metadata()));
            engine.stats.forget_pod(&pod.id);
            engine.state.forget_pod(&pod.id)?;
            fault::point("remove_pod.forgotten");
            Ok(())
        })
        .await
    }
}
