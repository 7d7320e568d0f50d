//! `berth serve`: check the host, take the locks, listen, then recover while requests wait, serve, drain.
//!
//! The order matters: nothing of the state is touched before the lock is held, and the socket answers before recovery,
//! so that a restart of the agent is a pause to its clients and never an error.

/// The parts of the engine, put together.
mod engine;
/// Runtime handlers.
mod handlers;
/// One agent a state.
mod lock;
/// The CRI socket.
mod socket;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cri_api::v1::CgroupDriver as CriCgroupDriver;
use rustix::process::{Resource, Rlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;

use super::checks::{Check, Facts, Level, evaluate};
use super::flags::ServeFlags;
use crate::admin;
use crate::config::{CgroupDriver, Config, ConfigError};
use crate::cri::{self, Deadlines, Observe, Readiness};
use crate::stream::{StreamError, StreamServer};
use crate::sys::memory;
use crate::telemetry::{self, LogError, MetricsError, MetricsServer, Rpcs};
use engine::StartError;
use lock::{Lock, LockError};
use socket::{Socket, SocketError};

/// How long no request must have been under way before the agent ends: the last answers are on their way to the socket.
const QUIET: Duration = Duration::from_millis(100);

/// The agent cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Logs(#[from] LogError),
    #[error("this host cannot run berth:\n{}\n`berth doctor` shows all checks", list(.0))]
    Host(Vec<Check>),
    #[error("cannot make the folder {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("cannot start the asynchronous runtime")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the agent cannot start")]
    Start(#[from] StartError),
    #[error("the CRI server failed")]
    Server(#[from] tonic::transport::Error),
}

fn list(checks: &[Check]) -> String {
    let line = |check: &Check| format!("  {}: {}\n    → {}", check.name, check.found, check.remedy);
    checks.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Runs the agent until it is told to stop.
pub(super) fn run(flags: ServeFlags) -> Result<(), ServeError> {
    memory::use_one_arena();
    let config = flags.config.load()?;
    telemetry::init_logs(&config.log)?;
    raise_fd_limit();
    check_host(&config)?;
    for dir in [&config.paths.root, &config.paths.run_root] {
        std::fs::create_dir_all(dir).map_err(|source| ServeError::Folder { path: dir.clone(), source })?;
    }
    // Held to the end: two agents on either folder would undo each other's work.
    let _locks = [Lock::take(&config.paths.run_root)?, Lock::take(&config.paths.root)?];
    // Before the CRI's: whoever is answered there finds it.
    let plugins = plugin_socket(&config);
    let plugin_path = plugins.as_ref().and_then(Socket::path);
    let socket = Socket::open(&config.paths.socket).inspect_err(|_| Socket::remove(plugin_path.as_deref()))?;
    let path = socket.path();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)?;
    let served = runtime.block_on(serve(config, socket.listener, plugins.map(|socket| socket.listener)));
    Socket::remove(path.as_deref());
    Socket::remove(plugin_path.as_deref());
    // A thread that hangs on a dead disk must not keep the process: nothing of it is needed any more.
    runtime.shutdown_background();
    served
}

/// A pod takes a connection in the agent and some sixteen descriptors a container in its monitor, which inherits the
/// limit: the soft one that a login or a unit gives (1024) would end at sixty containers.
fn raise_fd_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, soft = ?limit.current, "the limit of open files could not be raised to the hard one");
    }
}

/// Refuses a host that cannot work, and warns of what will not.
fn check_host(config: &Config) -> Result<(), ServeError> {
    let checks = evaluate(&Facts::gather(config), config);
    for check in checks.iter().filter(|check| check.level == Level::Warn) {
        tracing::warn!(check = check.name, found = check.found, remedy = check.remedy, "this host lacks something");
    }
    let failed: Vec<_> = checks.into_iter().filter(|check| check.level == Level::Fail).collect();
    if failed.is_empty() { Ok(()) } else { Err(ServeError::Host(failed)) }
}

/// Where NRI plugins connect. A node can do without them, so that what is wrong with it is told and no more.
fn plugin_socket(config: &Config) -> Option<Socket> {
    if !config.nri.enabled || config.nri.disable_connections {
        return None;
    }
    match Socket::bind(&config.nri.socket_path) {
        Ok(socket) => Some(socket),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "NRI plugins cannot connect; set `nri.socket_path`, or `nri.disable_connections`");
            None
        }
    }
}

async fn serve(config: Config, listener: UnixListener, plugins: Option<UnixListener>) -> Result<(), ServeError> {
    let mut stop = Stop::new().map_err(ServeError::Runtime)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(ServeError::Runtime)?;
    let plugins = plugins.map(tokio::net::UnixListener::from_std).transpose().map_err(ServeError::Runtime)?;
    let observe = Observe::new();
    if let Some(address) = config.metrics {
        let server = MetricsServer::bind(address, telemetry::registry(observe.rpcs())).await?;
        tokio::spawn(server.run());
    }

    let streams = StreamServer::bind(config.streaming).await?;
    let (readiness, admin) = (Readiness::default(), admin::Readiness::default());
    let driver = match config.cgroups.driver {
        CgroupDriver::Cgroupfs => CriCgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => CriCgroupDriver::Systemd,
    };
    let (drain, draining) = oneshot::channel::<()>();
    let router = tonic::transport::Server::builder()
        .layer(observe.clone())
        .layer(Deadlines)
        .add_service(cri::runtime_service(readiness.clone(), driver))
        .add_service(cri::image_service(readiness.clone()))
        .add_service(admin::service(admin.clone()));
    let mut server = tokio::spawn(async move {
        let told = async move { draining.await.unwrap_or(()) };
        router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), told).await
    });
    tracing::info!(socket = %config.paths.socket.display(), version = env!("CARGO_PKG_VERSION"), "listening");

    let started = Instant::now();
    tokio::select! {
        engine = engine::start(&config, streams.clone(), plugins) => {
            let engine = engine?;
            admin.open(engine.clone());
            readiness.open(engine);
        }
        () = stop.wait() => {
            tracing::info!("told to stop before recovery was done");
            return Ok(());
        }
        ended = &mut server => return finished(ended),
    }
    tracing::info!(took = ?started.elapsed(), "ready");
    drop(tokio::task::spawn_blocking(memory::give_back));
    notify(&[NotifyState::Ready, NotifyState::Status("ready")]);
    let (hang_up, told) = oneshot::channel::<()>();
    let streaming = tokio::spawn(streams.serve(async move { told.await.unwrap_or(()) }));

    tokio::select! {
        () = stop.wait() => {}
        ended = &mut server => return finished(ended),
    }
    notify(&[NotifyState::Stopping, NotifyState::Status("finishing requests")]);
    // Sessions would go on for hours. What they ran is killed with them, which `answered` leaves the time for.
    let _ = hang_up.send(());
    let _ = tokio::time::timeout(config.drain_timeout, streaming).await;
    let (_, rpcs) = (drain.send(()), observe.rpcs());
    tokio::select! {
        ended = &mut server => finished(ended)?,
        () = answered(&rpcs) => {}
        () = tokio::time::sleep(config.drain_timeout) => {
            tracing::warn!(unanswered = rpcs.in_flight(), "requests are given up after the drain timeout");
        }
    }
    tracing::info!("stopped; pods run on");
    Ok(())
}

/// Returns when no request is under way any more. The server itself ends only when its last client has hung up, and a
/// client that hangs must not hold the agent.
async fn answered(rpcs: &Rpcs) {
    let mut quiet = 0;
    while quiet < 2 {
        tokio::time::sleep(QUIET / 2).await;
        quiet = if rpcs.in_flight() == 0 { quiet + 1 } else { 0 };
    }
}

type Ended = Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>;

fn finished(ended: Ended) -> Result<(), ServeError> {
    match ended {
        Ok(result) => Ok(result?),
        Err(panic) => {
            tracing::error!(%panic, "the CRI server ended by a bug");
            Ok(())
        }
    }
}

/// Tells the service manager, if there is one (sd_notify(3)). It not listening is no reason to stop.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// SIGTERM or SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
