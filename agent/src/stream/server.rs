//! The HTTP server: a token's URL, one request, an upgrade, and the session that the token stands for.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::{Ended, TcpInput};
use super::process::Verb;
use super::request::{Protocol, Refusal, RemoteProtocol, negotiate_port_forward, negotiate_remote_command, ports};
use super::tokens::Tokens;
use super::websocket::Format;
use super::{ProcessStreams, Session, StartProcess};
use super::{spdy, websocket};

/// Clients that may be connected at one time; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// A client has this long to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What a request's head may take, in bytes.
const HEAD_LIMIT: usize = 64 << 10;
/// How often sessions that nobody came for are dropped.
const SWEEP: Duration = Duration::from_secs(30);
/// After accept(2) failed.
const RETRY: Duration = Duration::from_secs(1);

/// The streaming server cannot do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Its address cannot be used.
    #[error("cannot serve exec, attach and port-forward at {address}")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// So many URLs wait for their clients.
    #[error("{0} exec, attach and port-forward URLs wait to be used; the oldest expires within a minute")]
    TooMany(usize),
    /// The kernel gives no random bytes.
    #[error("cannot make a token")]
    Random(#[source] io::Error),
}

/// Serves each session once, to whoever has its URL.
#[derive(Debug)]
pub struct StreamServer {
    listener: TcpListener,
    address: SocketAddr,
    tokens: Mutex<Tokens>,
}

impl StreamServer {
    /// Binds the address, mostly 127.0.0.1 and port 0: who can connect needs a token, but nobody needs to connect from
    /// elsewhere, as kubelet passes its clients' connections on.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn bind(address: SocketAddr) -> Result<Arc<Self>, StreamError> {
        let failed = |source| StreamError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Arc::new(Self { listener, address, tokens: Mutex::default() }))
    }

    /// Where the session can be had, once and within a minute.
    ///
    /// # Errors
    /// When too many sessions wait for their clients, or there are no random bytes.
    pub fn url(&self, session: Session) -> Result<String, StreamError> {
        let kind = session.kind();
        let token = self.tokens().insert(session, Instant::now())?;
        Ok(format!("http://{}/{kind}/{token}", self.address))
    }

    /// Serves clients until told to stop; then all of them are cut off.
    pub async fn serve(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        // Dropped with this future, which aborts them.
        let mut clients = JoinSet::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let accepted = async {
                let slot = slots.clone().acquire_owned().await;
                (slot, self.listener.accept().await)
            };
            tokio::select! {
                () = &mut shutdown => return,
                (slot, accepted) = accepted => match accepted {
                    Ok((tcp, _)) => {
                        let server = self.clone();
                        clients.spawn(async move {
                            server.client(tcp).await;
                            drop(slot);
                        });
                    }
                    // Out of descriptors, mostly: the next client may be luckier.
                    Err(error) => {
                        tracing::warn!(%error, "accepting a streaming client failed");
                        tokio::time::sleep(RETRY).await;
                    }
                },
                Some(ended) = clients.join_next() => {
                    if let Err(panic) = ended {
                        tracing::error!(%panic, "a streaming client's task ended by a bug");
                    }
                }
                _ = sweep.tick() => self.tokens().sweep(Instant::now()),
            }
        }
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request, and, if it is answered by an upgrade, what follows.
    async fn client(&self, tcp: TcpStream) {
        let accepted = Mutex::new(None);
        let service = service_fn(|request| {
            let response = match self.answer(request) {
                Ok((session, response)) => {
                    *accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
                    response.map(|()| Full::default())
                }
                Err(refusal) => refused(refusal),
            };
            std::future::ready(Ok::<_, Infallible>(response))
        });
        // Frames are small, and each is written at once.
        let _ = tcp.set_nodelay(true);
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_LIMIT)
            .serve_connection(TokioIo::new(tcp), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a streaming client's request ended early");
        }
        let accepted = accepted.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(accepted) = accepted {
            accepted.serve().await;
        }
    }

    fn answer(&self, mut request: Request<Incoming>) -> Result<(Accepted, Response<()>), Refusal> {
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST"));
        }
        // A request for an authority (`GET host:80`) has no path at all.
        let path = request.uri().path().strip_prefix('/').unwrap_or_default();
        let (kind, token) = path.split_once('/').unwrap_or_default();
        let Some(session) = self.tokens().take(kind, token, Instant::now()) else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "no such URL: each is good once, and for a minute"));
        };
        let (speak, response) = match &session {
            Session::Exec { .. } | Session::Attach { .. } => {
                let (protocol, response) = negotiate_remote_command(&request)?;
                (Speak::RemoteCommand(protocol), response)
            }
            Session::PortForward { .. } => {
                let (protocol, response) = negotiate_port_forward(&request)?;
                let ports = match protocol {
                    Protocol::Spdy(()) | Protocol::WebSocket(Format::Tunnel) => Vec::new(),
                    Protocol::WebSocket(_) => ports(request.uri().query())?,
                };
                (Speak::PortForward(protocol, ports), response)
            }
        };
        let upgrade = hyper::upgrade::on(&mut request);
        Ok((Accepted { session, speak, upgrade }, response))
    }
}

fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(refusal.message + "\n"));
    *response.status_mut() = refusal.status;
    for (name, value) in refusal.headers {
        response.headers_mut().append(name, value);
    }
    // Not by the builder's keep_alive: it takes `Connection: Upgrade` from the answers that need it.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// What was agreed on.
enum Speak {
    RemoteCommand(RemoteProtocol),
    PortForward(Protocol<(), Format>, Vec<u16>),
}

/// A request that was answered by an upgrade.
struct Accepted {
    session: Session,
    speak: Speak,
    upgrade: OnUpgrade,
}

impl Accepted {
    async fn serve(self) {
        let upgraded = match self.upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, "a streaming client went away before the upgrade"),
        };
        // It is what was given to hyper.
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
        let (half, output) = parts.io.into_inner().into_split();
        let input = TcpInput { ahead: parts.read_buf, half };
        let kind = self.session.kind();
        let ended = match (self.session, self.speak) {
            (Session::Exec { streams, start }, Speak::RemoteCommand(protocol)) => {
                remote_command(Verb::Exec, streams, start, protocol, input, output).await
            }
            (Session::Attach { streams, start }, Speak::RemoteCommand(protocol)) => {
                remote_command(Verb::Attach, streams, start, protocol, input, output).await
            }
            (Session::PortForward { connect, gone }, Speak::PortForward(protocol, ports)) => {
                let forward = async {
                    match protocol {
                        Protocol::Spdy(()) => spdy::port_forward(connect, input, output).await,
                        Protocol::WebSocket(Format::Tunnel) => websocket::tunnel(connect, input, output).await,
                        Protocol::WebSocket(format) => {
                            websocket::port_forward(connect, &ports, format, input, output).await
                        }
                    }
                };
                tokio::select! {
                    ended = forward => ended,
                    () = gone => return tracing::debug!(kind, "the pod of a streaming client is gone"),
                }
            }
            // What is spoken was chosen for the session's kind.
            _ => return,
        };
        tracing::debug!(kind, why = %ended, source = ended.source(), "a streaming client is done");
    }
}

async fn remote_command(
    verb: Verb,
    streams: ProcessStreams,
    start: StartProcess,
    protocol: RemoteProtocol,
    input: TcpInput,
    output: OwnedWriteHalf,
) -> Ended {
    match protocol {
        Protocol::Spdy(protocol) => spdy::remote_command(verb, streams, start, protocol, input, output).await,
        Protocol::WebSocket(protocol) => websocket::remote_command(verb, streams, start, protocol, input, output).await,
    }
}
