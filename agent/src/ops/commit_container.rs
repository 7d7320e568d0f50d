//! `berth image commit`: a container's writable layer becomes an image. The container is held meanwhile, and may run: what it
//! changes while the layer is read is in the image or not.

use std::sync::Arc;

use super::{Engine, Error, detached};
use crate::image::Commit;
use crate::model::Digest;

impl Engine {
    /// Makes an image of a container, in any state, under the name `reference`; answers the image's id.
    ///
    /// # Errors
    /// When there is no such container, its own image was removed, or the layer cannot be read or told in an archive.
    pub async fn commit_container(self: &Arc<Self>, id: &str, reference: String) -> Result<Digest, Error> {
        let container = self.container(id)?;
        let engine = self.clone();
        let commit = async move {
            // RemoveContainer would take the layer away.
            let _lock = engine.container_locks.lock(&container.id).await;
            // It may have been removed while this waited.
            engine.container(container.id.as_str())?;
            let base = container.spec.image_id.to_string();
            let base = engine.images.resolve(&base).ok_or(Error::NoSuchImage(base))?;
            let commit = Commit {
                base,
                upper: engine.paths.container_layer(&container.id).join("upper"),
                reference,
                created_by: format!("berth image commit {}", container.id),
            };
            Ok(engine.images.commit(commit).await?.id.clone())
        };
        detached(commit).await
    }
}
