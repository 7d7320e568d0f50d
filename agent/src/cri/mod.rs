//! The CRI face: it validates and converts, calls `ops`, and maps the failure's kind to a code. Bodies are short; what
//! they call is pure or in `ops`. Nothing here touches the kernel.

/// The model as the CRI shows it.
mod convert;
/// Answers in the time that a client gives.
mod deadline;
/// Which objects a filter lets through.
mod filter;
/// ImageService.
mod images;
/// Span, metrics and log line of each RPC.
mod layer;
/// The methods by path.
mod methods;
/// Lists in portions.
mod portions;
/// RuntimeService.
mod runtime;
/// Statistics for lists and streams.
mod statistics;
/// Error kinds to gRPC codes.
mod status;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cri_api::v1::CgroupDriver;
use cri_api::v1::image_service_server::ImageServiceServer;
use cri_api::v1::runtime_service_server::RuntimeServiceServer;
use tokio::sync::SetOnce;

use crate::ops::Engine;

pub use deadline::Deadlines;
pub use layer::Observe;

/// The most that kubelet and crictl take, and so the most that we do (CRI clients set 16 MiB).
const MESSAGE_LIMIT: usize = 16 << 20;

/// The engine, once recovery is done. Requests that need it wait until then; none is refused.
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
}

/// Nanoseconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// RuntimeService, for a tonic router.
pub fn runtime_service(readiness: Readiness, cgroup_driver: CgroupDriver) -> RuntimeServiceServer<impl Runtime> {
    RuntimeServiceServer::new(runtime::Face { readiness, cgroup_driver })
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(usize::MAX)
}

/// ImageService, for a tonic router.
pub fn image_service(readiness: Readiness) -> ImageServiceServer<impl Images> {
    ImageServiceServer::new(images::Face { readiness })
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(usize::MAX)
}

pub use cri_api::v1::image_service_server::ImageService as Images;
pub use cri_api::v1::runtime_service_server::RuntimeService as Runtime;

#[cfg(test)]
mod tests;
