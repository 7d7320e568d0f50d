//! The process that forks monitors: started once an agent, from a sealed copy of `berth-monitor`.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::mpsc::UnboundedReceiver;

use super::connection::Connection;
use super::{Monitor, MonitorError, MonitorEvent, PodMonitor, PodNamespaces};
use crate::monitor::protocol::frame::{self, FrameError, PACKET_LIMIT};
use crate::monitor::protocol::{
    Answer, Body, Call, ForkMonitor, ForkPlaceholder, Hello, MountOverlay, SysctlSetting, VERSION,
};
use crate::sys::{async_fd, memfd, unix_socket};

/// How the spawner is started.
#[derive(Debug)]
pub struct SpawnerConfig {
    /// The program `berth-monitor`. It is run from a sealed copy in memory, so that no container can reach the file
    /// (CVE-2019-5736).
    pub binary: PathBuf,
    /// `tasks` (v1) and cgroup.procs (v2) files, one a hierarchy, of the cgroup that spawner and monitors live in; empty: the agent's own.
    pub cgroup_procs: Vec<OwnedFd>,
    /// Where spawner and monitors write what they cannot tell anybody; `None`: the agent's standard error.
    pub log: Option<OwnedFd>,
}

/// A handle to the spawner, which ends (without touching pods) when the handle is dropped. One that died (the kernel may
/// choose it when memory is short) is started again by the next request.
#[derive(Debug)]
pub struct Spawner {
    config: SpawnerConfig,
    living: tokio::sync::Mutex<Arc<Living>>,
}

/// The spawner's process.
#[derive(Debug)]
struct Living {
    connection: Connection,
    pid: u32,
}

/// A process that only waits, until this handle is dropped or the agent ends.
#[derive(Debug)]
pub struct Placeholder {
    pid: u32,
    pidfd: OwnedFd,
    pipe: OwnedFd,
}

impl Placeholder {
    /// Its process id on the host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it and waits until it is gone.
    pub async fn end(self) {
        drop(self.pipe);
        // Without a place in the reactor it ends all the same, only unseen.
        if let Ok(pidfd) = async_fd::register(self.pidfd) {
            let _ = pidfd.readable().await;
        }
    }
}

impl Spawner {
    /// Starts it.
    ///
    /// # Errors
    /// The program cannot be read or executed, or cannot set itself up.
    pub async fn start(config: SpawnerConfig) -> Result<Self, MonitorError> {
        let living = Living::start(&config).await?;
        Ok(Self { config, living: tokio::sync::Mutex::new(Arc::new(living)) })
    }

    /// The spawner's process id.
    pub async fn pid(&self) -> u32 {
        self.living.lock().await.pid
    }

    async fn living(&self) -> Result<Arc<Living>, MonitorError> {
        let mut living = self.living.lock().await;
        if living.connection.is_lost() {
            tracing::error!(pid = living.pid, "the spawner of monitors died and is started again; pods are unharmed");
            *living = Arc::new(Living::start(&self.config).await?);
        }
        Ok(living.clone())
    }

    /// Forks a process that only waits.
    ///
    /// # Errors
    /// `Lost` when the spawner died; `Internal` when there are too many processes.
    pub async fn fork_placeholder(&self) -> Result<Placeholder, MonitorError> {
        let (theirs, pipe) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| FrameError::Io(errno.into()))?;
        let request = Call::ForkPlaceholder(ForkPlaceholder { pipe_fd: 0 });
        let (body, mut fds) = self.living().await?.connection.call(request, vec![theirs]).await?;
        match (body, fds.pop()) {
            (Body::Forked(forked), Some(pidfd)) => Ok(Placeholder { pid: forked.pid.unsigned_abs(), pidfd, pipe }),
            _ => Err(MonitorError::Unexpected),
        }
    }

    /// Mounts an overlay of detached mounts: `layers`, the topmost first, and the folder with `upper` and `work` if there is
    /// to be a writable one. For kernels where the agent cannot do that itself.
    ///
    /// # Errors
    /// `Lost` when the spawner died; `Init` tells the step that failed.
    pub async fn mount_overlay(
        &self,
        layers: Vec<OwnedFd>,
        writable: Option<OwnedFd>,
        volatile: bool,
        selinux_context: String,
    ) -> Result<OwnedFd, MonitorError> {
        let (ours, theirs) = unix_socket::pair().map_err(FrameError::Io)?;
        let request = Call::MountOverlay(MountOverlay { volatile, writable: writable.is_some(), selinux_context });
        let fds = std::iter::once(theirs).chain(layers).chain(writable).collect();
        let (Body::Forked(_), _) = self.living().await?.connection.call(request, fds).await? else {
            return Err(MonitorError::Unexpected);
        };
        // A disk that hangs may hold it for ever, and that is a thread of its own.
        let answered = tokio::task::spawn_blocking(move || await_answer(&ours)).await;
        match answered.map_err(|_| MonitorError::Lost)?? {
            (Some(Body::Mounted(_)), mut fds) if !fds.is_empty() => Ok(fds.swap_remove(0)),
            (Some(Body::Failure(failure)), _) => Err(failure.into()),
            _ => Err(MonitorError::Unexpected),
        }
    }

    /// Forks a pod's monitor, which makes the pod's namespaces.
    ///
    /// # Errors
    /// `Lost` when the spawner died; `Internal` tells the step that failed, and nothing is left then.
    pub async fn fork_monitor(
        &self,
        pod: PodMonitor,
    ) -> Result<(Monitor, PodNamespaces, UnboundedReceiver<MonitorEvent>), MonitorError> {
        let listener = unix_socket::listen(&pod.socket).map_err(|source| MonitorError::Start {
            step: "listen at",
            path: pod.socket.clone(),
            source,
        })?;
        let (ours, theirs) = unix_socket::pair().map_err(FrameError::Io)?;
        let request = ForkMonitor {
            pod: pod.pod.to_string(),
            hostname: pod.hostname.unwrap_or_default(),
            private_net: pod.private_net,
            private_ipc: pod.private_ipc,
            private_uts: pod.private_uts,
            shared_pid: pod.shared_pid,
            sysctls: pod.sysctls.into_iter().map(|(key, value)| SysctlSetting { key, value }).collect(),
            shm_bytes: pod.shm_bytes.unwrap_or(0),
            shm_label: pod.shm_label.unwrap_or_default(),
            listener_fd: 0,
            connection_fd: 1,
            user_namespace: pod.user_namespace,
            network_fd: pod.network.as_ref().map(|_| 2),
        };
        let fds = [listener, theirs].into_iter().chain(pod.network).collect();
        let living = self.living().await?;
        let fork = living.connection.call(Call::ForkMonitor(request), fds);
        // The hello waits in the socket for the monitor to exist: both answers cost one wait.
        let (forked, adopted) = tokio::join!(fork, Monitor::adopt(ours));
        let result = match forked {
            Ok((Body::Forked(_), _)) => adopted,
            Ok(_) => Err(MonitorError::Unexpected),
            Err(error) => Err(error),
        };
        if result.is_err() {
            let _ = fs::remove_file(&pod.socket);
        }
        result
    }
}

impl Living {
    async fn start(config: &SpawnerConfig) -> Result<Self, MonitorError> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(FrameError::Io);
        let cgroup_procs = config.cgroup_procs.iter().map(copy).collect::<Result<Vec<_>, _>>()?;
        let log = config.log.as_ref().map(copy).transpose()?;
        let (ours, theirs) = unix_socket::pair().map_err(FrameError::Io)?;
        let binary = config.binary.clone();
        let started = tokio::task::spawn_blocking(move || spawn(&binary, theirs, log)).await;
        let child = started.map_err(|_| MonitorError::Lost)??;
        let pid = child.id();
        let child = Arc::new(Mutex::new(Some(child)));
        let connection = Connection::new(ours, move |body| {
            if body.is_none() {
                reap(&child);
            }
        })
        .map_err(FrameError::Io)?;
        let hello = Hello { version: VERSION, cgroup_procs_fds: (0u32..).take(cgroup_procs.len()).collect() };
        match connection.call(Call::Hello(hello), cgroup_procs).await? {
            (Body::Hello(_), _) => Ok(Self { connection, pid }),
            _ => Err(MonitorError::Unexpected),
        }
    }
}

/// The one answer of a process that only gives one.
fn await_answer(socket: &OwnedFd) -> Result<(Option<Body>, Vec<OwnedFd>), MonitorError> {
    let mut buffer = vec![0; PACKET_LIMIT];
    loop {
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(FrameError::Io(errno.into()).into()),
        }
        match frame::receive::<Answer>(socket, &mut buffer) {
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(FrameError::Closed) => return Err(MonitorError::Lost),
            received => return Ok(received.map(|(answer, fds)| (answer.body, fds))?),
        }
    }
}

fn spawn(binary: &Path, socket: OwnedFd, log: Option<OwnedFd>) -> Result<Child, MonitorError> {
    let failed = |step| move |source: io::Error| MonitorError::Start { step, path: binary.to_owned(), source };
    let program = fs::read(binary).map_err(failed("read"))?;
    let copy = memfd::sealed(c"berth-monitor", &program).map_err(failed("copy into memory"))?;
    // The path is opened in the child, where the same fd is still there: close-on-exec acts after the program is loaded.
    Command::new(format!("/proc/self/fd/{}", copy.as_raw_fd()))
        .arg0("berth-monitor")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(log.map_or_else(Stdio::inherit, Stdio::from))
        .spawn()
        .map_err(failed("execute"))
}

/// The connection ended, so the spawner is ending or has ended: it must not stay a zombie.
fn reap(child: &Mutex<Option<Child>>) {
    let Some(mut child) = child.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    tokio::task::spawn_blocking(move || child.wait());
}
