//! UpdatePodSandboxResources: kubelet has changed the pod's own cgroup, which is kubelet's, and tells of it.

use std::sync::Arc;

use cri_api::v1::UpdatePodSandboxResourcesRequest;

use super::{Engine, Error, detached};
use crate::libcontainer::spec::resources::to_oci;

impl Engine {
    /// Remembers what the pod may use as a whole, for whoever asks for the pod's configuration. What is absent stays.
    ///
    /// # Errors
    /// When the pod is unknown, a value is none that a kernel takes, or the record cannot be written.
    pub async fn update_pod_resources(
        self: &Arc<Self>,
        request: UpdatePodSandboxResourcesRequest,
    ) -> Result<(), Error> {
        let pod = self.pod(&request.pod_sandbox_id)?;
        let UpdatePodSandboxResourcesRequest { overhead, resources, .. } = request;
        for asked in overhead.iter().chain(&resources) {
            to_oci(Some(asked), &self.host)?;
        }
        let engine = self.clone();
        detached(async move {
            let _held = engine.nri.hold().await;
            let _lock = engine.pod_locks.lock(&pod.id).await;
            engine.ask_pod_resize(&pod, overhead.as_ref(), resources.as_ref()).await?;
            let changed = engine.state.change_pod(&pod.id, |state| {
                state.overhead = overhead.or(state.overhead.take());
                state.resources = resources.or(state.resources.take());
            })?;
            let changed = changed.ok_or_else(|| Error::NoSuchPod(pod.id.to_string()))?;
            engine.tell_pod_resized(&changed).await;
            Ok(())
        })
        .await
    }
}
