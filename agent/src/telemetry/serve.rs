//! GET /metrics over HTTP/1.1, at an address the operator asked for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Scrapers that may be connected at one time; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// A client has this long to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// The metrics address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}")]
pub struct MetricsError {
    /// As configured.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// A listener that is bound and not yet served.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
    registry: Arc<Registry>,
}

impl MetricsServer {
    /// Binds the address.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn bind(address: SocketAddr, registry: Registry) -> Result<Self, MetricsError> {
        let listener = TcpListener::bind(address).await.map_err(|source| MetricsError { address, source })?;
        Ok(Self { listener, registry: Arc::new(registry) })
    }

    /// The address in use: the port that was found when 0 was asked for.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers scrapes for ever.
    pub async fn run(self) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let registry = self.registry.clone();
                    tokio::spawn(async move {
                        serve(stream, registry).await;
                        drop(slot);
                    });
                }
                // Out of descriptors, mostly: the next scrape may be luckier.
                Err(error) => {
                    tracing::warn!(%error, "accepting a metrics connection failed");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, registry: Arc<Registry>) {
    let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &registry))));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a metrics connection ended early");
    }
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => {
            let mut body = String::new();
            match text::encode(&mut body, registry) {
                Ok(()) => *response.body_mut() = Full::from(body),
                Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
            }
            response.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
        }
        ("/metrics", _) => {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        }
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::{Rpcs, registry};
    use super::*;

    async fn get(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_are_served_and_nothing_else() {
        let registry = registry(Arc::new(Rpcs::new(["Version"])));
        let server = MetricsServer::bind(([127, 0, 0, 1], 0).into(), registry).await.unwrap();
        let address = server.address().unwrap();
        tokio::spawn(server.run());
        let answer = get(address, "GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("# EOF\n"), "{answer}");
        assert!(get(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        assert!(get(address, "GET /").await.starts_with("HTTP/1.1 404"));
    }
}
