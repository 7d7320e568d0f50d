//! Berth's own small gRPC service, beside the CRI on the same root-only socket: what `berth image` needs and the CRI
//! does not have. `cli::serve` registers it; nothing else calls it.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{SetOnce, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status};

use crate::image::{Auth, ErrorKind, ImageError, ImageStore, Progress, PullRequest, Pushed};
use crate::model;
use crate::ops::Engine;

/// Messages, client and server of the protobuf package `berth.admin.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("berth.admin.v1");
}

/// Events of a pull between the store and the client; a slow client loses some, never the last one.
const EVENTS: usize = 64;

/// The engine, once recovery is done. Requests wait until then.
#[derive(Clone, Default)]
pub struct Readiness(Arc<SetOnce<Arc<Engine>>>);

impl Readiness {
    /// Lets the waiting requests through. Later calls do nothing.
    pub fn open(&self, engine: Arc<Engine>) {
        let _ = self.0.set(engine);
    }

    async fn engine(&self) -> &Arc<Engine> {
        self.0.wait().await
    }

    async fn images(&self) -> &Arc<ImageStore> {
        self.engine().await.images()
    }
}

/// The service, for a tonic router.
pub fn service(readiness: Readiness) -> v1::admin_server::AdminServer<Admin> {
    v1::admin_server::AdminServer::new(Admin { readiness })
}

/// The service's methods.
pub struct Admin {
    readiness: Readiness,
}

type ProgressStream = Pin<Box<dyn Stream<Item = Result<v1::PullImageProgress, Status>> + Send>>;

#[tonic::async_trait]
impl v1::admin_server::Admin for Admin {
    type PullImageStream = ProgressStream;

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Result<Response<ProgressStream>, Status> {
        let v1::PullImageRequest { reference, username, password } = request.into_inner();
        let store = self.readiness.images().await.clone();
        let auth = (!username.is_empty()).then(|| Auth { username, password, ..Auth::default() });
        let (sender, receiver) = mpsc::channel(EVENTS);
        let (last, result) = mpsc::channel(1);
        let pull = async move {
            let pulled = store.pull(PullRequest { reference, auth, progress: Some(sender) }).await;
            let done = pulled.map(|id| event(v1::pull_image_progress::Event::Done(id.to_string())));
            let _ = last.send(done.map_err(|e| status(&e))).await;
        };
        // The stream drives the pull: a client that hangs up drops both.
        let pulling = futures_util::stream::once(pull).filter_map(|()| None);
        let events = ReceiverStream::new(receiver).map(|progress| Ok(convert(progress)));
        let stream = pulling.merge(events).chain(ReceiverStream::new(result));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn import_image(
        &self,
        request: Request<v1::ImportImageRequest>,
    ) -> Result<Response<v1::ImportImageResponse>, Status> {
        let v1::ImportImageRequest { path, reference } = request.into_inner();
        let store = self.readiness.images().await;
        let name = (!reference.is_empty()).then_some(reference);
        let images = store.import(PathBuf::from(path), name).await.map_err(|e| status(&e))?;
        let told = |image: &Arc<crate::image::Image>| v1::ImportedImage {
            id: image.id.to_string(),
            tags: image.repo_tags.iter().chain(&image.repo_digests).cloned().collect(),
        };
        Ok(Response::new(v1::ImportImageResponse { images: images.iter().map(told).collect() }))
    }

    async fn export_image(
        &self,
        request: Request<v1::ExportImageRequest>,
    ) -> Result<Response<v1::ExportImageResponse>, Status> {
        let v1::ExportImageRequest { image, path } = request.into_inner();
        let store = self.readiness.images().await;
        store.export(&image, PathBuf::from(path)).await.map_err(|e| status(&e))?;
        Ok(Response::new(v1::ExportImageResponse {}))
    }

    async fn push_image(
        &self,
        request: Request<v1::PushImageRequest>,
    ) -> Result<Response<v1::PushImageResponse>, Status> {
        let v1::PushImageRequest { image, target, username, password } = request.into_inner();
        let auth = (!username.is_empty()).then(|| Auth { username, password, ..Auth::default() });
        let store = self.readiness.images().await;
        let Pushed { reference, sent } = store.push(&image, &target, auth).await.map_err(|e| status(&e))?;
        Ok(Response::new(v1::PushImageResponse { reference, sent }))
    }

    async fn commit_container(
        &self,
        request: Request<v1::CommitContainerRequest>,
    ) -> Result<Response<v1::CommitContainerResponse>, Status> {
        let v1::CommitContainerRequest { container, reference } = request.into_inner();
        let committed = self.readiness.engine().await.commit_container(&container, reference).await;
        match committed {
            Ok(id) => Ok(Response::new(v1::CommitContainerResponse { id: id.to_string() })),
            Err(crate::ops::Error::Image(error)) => Err(status(&error)),
            Err(error) => {
                let code = match error.kind() {
                    model::ErrorKind::NotFound => Code::NotFound,
                    model::ErrorKind::InvalidArgument => Code::InvalidArgument,
                    model::ErrorKind::FailedPrecondition => Code::FailedPrecondition,
                    _ => Code::Internal,
                };
                Err(Status::new(code, crate::ops::chain(&error)))
            }
        }
    }
}

fn event(event: v1::pull_image_progress::Event) -> v1::PullImageProgress {
    v1::PullImageProgress { event: Some(event) }
}

fn convert(progress: Progress) -> v1::PullImageProgress {
    use v1::pull_image_progress::Event;
    event(match progress {
        Progress::Layers(layers) => Event::Layers(v1::Layers {
            layers: layers
                .into_iter()
                .map(|l| v1::Layer { digest: l.layer.to_string(), size: l.size, present: l.present })
                .collect(),
        }),
        Progress::Received { layer, bytes } => {
            Event::Layer(v1::LayerProgress { digest: layer.to_string(), received: bytes, unpacked: false })
        }
        Progress::Unpacked { layer } => {
            Event::Layer(v1::LayerProgress { digest: layer.to_string(), received: 0, unpacked: true })
        }
    })
}

fn status(error: &ImageError) -> Status {
    let code = match error.kind() {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Unsupported | ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Internal => Code::Internal,
    };
    Status::new(code, crate::ops::chain(error))
}
