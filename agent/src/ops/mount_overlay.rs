//! Layers put together: by the agent itself or, on older kernels, by a process that the spawner lends (decision 026).

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use super::{Engine, Error};
use crate::libcontainer::plan::Overlay;
use crate::libcontainer::run;
use crate::model::PodId;

impl Engine {
    /// A detached mount of an overlay for a container of `pod`. Blocks, and has to be called where that is allowed.
    pub(super) fn mount_overlay(
        &self,
        pod: &PodId,
        user_namespace: Option<BorrowedFd<'_>>,
        overlay: &Overlay,
    ) -> Result<OwnedFd, Error> {
        if self.host.detached_overlay(overlay.idmapped) {
            return Ok(run::mount_overlay(overlay, user_namespace)?);
        }
        let layers = if overlay.idmapped {
            run::open_mapped_layers(&overlay.lower, user_namespace)?
        } else {
            overlay.lower.iter().map(|layer| run::open_folder(layer)).collect::<Result<_, _>>()?
        };
        let folder = overlay.upper.as_ref().and_then(|upper| upper.upper.parent());
        let writable = folder.map(|folder: &Path| run::open_folder(folder)).transpose()?;
        let volatile = overlay.upper.as_ref().is_some_and(|upper| upper.volatile);
        let context = overlay.selinux_context.clone().unwrap_or_default();
        let lent = self.spawner.mount_overlay(layers, writable, volatile, context);
        tokio::runtime::Handle::current().block_on(lent).map_err(super::of_pod(pod))
    }
}
