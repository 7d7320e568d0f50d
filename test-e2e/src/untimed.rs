//! A CRI client without a clock: the deadline that a request names is the runtime's alone to keep. tonic's client keeps it as well, and
//! now and then its answer comes first.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use cri_api::v1::image_service_client::ImageServiceClient;
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::body::Body;
use tower::Service;

/// A connection to a runtime.
#[derive(Clone, Debug)]
pub struct Untimed(SendRequest<Body>);

impl Untimed {
    /// The image service at `endpoint`, written `unix:///path`.
    ///
    /// # Errors
    /// When there is nobody.
    pub async fn images(endpoint: &str) -> io::Result<ImageServiceClient<Self>> {
        let stream = UnixStream::connect(endpoint.trim_start_matches("unix://")).await?;
        let (sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(ImageServiceClient::with_origin(Self(sender), hyper::Uri::from_static("http://cri")))
    }
}

impl Service<hyper::Request<Body>> for Untimed {
    type Response = hyper::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
