//! The one layer around both services: a span per RPC, its latency and result in the metrics, and each failure logged
//! once. Verbs put the ids they are about into the span; leaf code only returns errors.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span, field};

use super::methods;
use crate::telemetry::Rpcs;

/// Wraps a gRPC service.
#[derive(Clone)]
pub struct Observe {
    rpcs: Arc<Rpcs>,
}

impl Observe {
    /// A layer with a table of its own.
    pub fn new() -> Self {
        Self { rpcs: Arc::new(Rpcs::new(methods::names())) }
    }

    /// The table, for the metrics registry.
    pub fn rpcs(&self) -> Arc<Rpcs> {
        self.rpcs.clone()
    }
}

impl Default for Observe {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, rpcs: self.rpcs.clone() }
    }
}

/// A gRPC service whose requests are told of.
#[derive(Clone)]
pub struct Observed<S> {
    inner: S,
    rpcs: Arc<Rpcs>,
}

impl<S, Body, Answer> Service<hyper::Request<Body>> for Observed<S>
where
    S: Service<hyper::Request<Body>, Response = hyper::Response<Answer>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        // Other services on the socket are told of too; the metrics have no row for them.
        let path = request.uri().path();
        let (index, method) = methods::find(path).unwrap_or((usize::MAX, path));
        let span =
            tracing::info_span!("rpc", method, pod = field::Empty, container = field::Empty, image = field::Empty);
        let pending = Pending::begin(self.rpcs.clone(), index, span.clone());
        let inner = span.in_scope(|| self.inner.call(request));
        let answer = async move {
            let answer = inner.await;
            match &answer {
                Ok(response) => pending.end(&status_of(response)),
                Err(_) => pending.end(&Status::internal("the service failed without an answer")),
            }
            answer
        };
        Box::pin(answer.instrument(span))
    }
}

/// A failed answer says so in its headers (gRPC over HTTP/2: Trailers-Only). A stream's later failure is not seen here.
fn status_of<B>(response: &hyper::Response<B>) -> Status {
    let told = || Status::from_header_map(response.headers());
    response.extensions().get::<Status>().cloned().or_else(told).unwrap_or_else(|| Status::ok(""))
}

/// As a whole number: a fraction is no help in a log.
fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// A request that has no answer yet. Dropped without one, its client has hung up.
struct Pending {
    rpcs: Arc<Rpcs>,
    index: usize,
    started: Instant,
    span: Span,
    answered: bool,
}

impl Pending {
    fn begin(rpcs: Arc<Rpcs>, index: usize, span: Span) -> Self {
        rpcs.begin();
        Self { rpcs, index, started: Instant::now(), span, answered: false }
    }

    fn end(mut self, status: &Status) {
        self.answered = true;
        let took = self.started.elapsed();
        self.rpcs.end(self.index, Some(status.code().into()), took);
        let (code, error, micros) = (status.code(), status.message(), micros(took));
        match code {
            Code::Ok => tracing::debug!(micros, "answered"),
            // kubelet asks for objects that are gone and for verbs we may not have, as a matter of course.
            Code::NotFound | Code::Unimplemented => tracing::info!(?code, error, micros, "refused"),
            Code::Internal | Code::Unknown | Code::DataLoss => tracing::error!(?code, error, micros, "failed"),
            _ => tracing::warn!(?code, error, micros, "failed"),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.answered {
            let took = self.started.elapsed();
            self.rpcs.end(self.index, None, took);
            let _in = self.span.enter();
            tracing::info!(micros = micros(took), "the client hung up");
        }
    }
}
