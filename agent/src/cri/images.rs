//! ImageService: one short body a verb.

use std::sync::Arc;

use cri_api::v1::image_service_server::ImageService;
use cri_api::v1::*;
use tonic::{Request, Response, Status};
use tracing::Span;

use super::portions::{Portions, portions};
use super::status::{failed, missing};
use super::{Readiness, convert, now};
use crate::image::{Image, PullRequest};

/// The answers' shape.
type Answer<T> = Result<Response<T>, Status>;

/// The service.
pub(super) struct Face {
    pub(super) readiness: Readiness,
}

impl Face {
    /// The images that a filter lets through.
    async fn found(&self, filter: Option<ImageFilter>) -> Vec<Arc<Image>> {
        let images = self.readiness.engine().await.images();
        let wanted = filter.and_then(|filter| filter.image).unwrap_or_default().image;
        if wanted.is_empty() { images.list() } else { images.resolve(&wanted).into_iter().collect() }
    }
}

/// The reference of a request that cannot do without.
fn named(image: Option<ImageSpec>) -> Result<String, Status> {
    let reference = image.map(|image| image.image).filter(|reference| !reference.is_empty());
    let reference = reference.ok_or_else(|| missing("image.image"))?;
    Span::current().record("image", &reference);
    Ok(reference)
}

#[tonic::async_trait]
impl ImageService for Face {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let found = self.found(request.into_inner().filter).await;
        Ok(Response::new(ListImagesResponse { images: found.iter().map(|image| convert::image(image)).collect() }))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let ImageStatusRequest { image, verbose } = request.into_inner();
        let reference = named(image)?;
        let image = self.readiness.engine().await.images().resolve(&reference);
        let info = image.as_ref().filter(|_| verbose).map(|image| convert::image_info(image)).unwrap_or_default();
        Ok(Response::new(ImageStatusResponse { image: image.map(|image| convert::image(&image)), info }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let PullImageRequest { image, auth, sandbox_config: _ } = request.into_inner();
        let reference = named(image)?;
        let auth = auth.map(convert::auth).transpose()?;
        let images = self.readiness.engine().await.images();
        let pull = images.pull(PullRequest { reference, auth, progress: None });
        let id = pull.await.map_err(|error| failed(&error.into()))?;
        Ok(Response::new(PullImageResponse { image_ref: id.to_string() }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        let reference = named(request.into_inner().image)?;
        let images = self.readiness.engine().await.images();
        images.remove(&reference).await.map_err(|error| failed(&error.into()))?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        let usage = convert::filesystem(&self.readiness.engine().await.images().fs_usage(), now());
        // Writable layers are on the same file system as the images.
        let container_filesystems = vec![usage.clone()];
        Ok(Response::new(ImageFsInfoResponse { image_filesystems: vec![usage], container_filesystems }))
    }

    type StreamImagesStream = Portions<StreamImagesResponse>;

    async fn stream_images(&self, request: Request<StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        let found = self.found(request.into_inner().filter).await;
        let images = found.into_iter().map(|image| convert::image(&image));
        Ok(Response::new(portions(images, |images| StreamImagesResponse { images })))
    }
}
