//! One pod's monitor: the verbs.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::connection::{Connection, Reply};
use super::{
    AttachRequest, CgroupFds, CreateContainer, ExecRequest, Execed, IpFamily, LogTarget, MonitorError, MonitorEvent,
    PodNamespaces, RestoreContainer, Scope,
};
use crate::model::ContainerId;
use crate::monitor::protocol::frame::FrameError;
use crate::monitor::protocol::{
    self as wire, Body, Call, ContainerRef, ExecRef, ExitRecord, Hello, HelloAnswer, MonitorState, Nothing, VERSION,
};
use crate::sys::unix_socket;

/// A handle to one pod's monitor; clones share the connection, which closes with the last of them.
#[derive(Debug, Clone)]
pub struct Monitor {
    connection: Arc<Connection>,
    pid: i32,
    streams: bool,
    user_namespace: Option<Arc<OwnedFd>>,
}

impl Monitor {
    /// Connects to the monitor of an earlier agent; that agent's connection, if any is left, is cut.
    ///
    /// # Errors
    /// Nobody listens there (the monitor is gone), or it does not speak the protocol.
    pub async fn connect(
        socket: &Path,
    ) -> Result<(Self, PodNamespaces, UnboundedReceiver<MonitorEvent>), MonitorError> {
        let fd = unix_socket::connect(socket).map_err(|source| MonitorError::Start {
            step: "connect to the monitor",
            path: socket.to_owned(),
            source,
        })?;
        Self::adopt(fd).await
    }

    /// Says hello on a fresh connection.
    pub(super) async fn adopt(
        socket: OwnedFd,
    ) -> Result<(Self, PodNamespaces, UnboundedReceiver<MonitorEvent>), MonitorError> {
        let (sender, events) = mpsc::unbounded_channel();
        let connection = Connection::new(socket, move |body| {
            if let Some(event) = event(body) {
                // Nobody listens any more: the handle is about to go, too.
                let _ = sender.send(event);
            }
        })
        .map_err(FrameError::Io)?;
        let hello = Call::Hello(Hello { version: VERSION, cgroup_procs_fds: Vec::new() });
        let (Body::Hello(HelloAnswer { pid, network_fds, streams, user_namespace_fd, .. }), fds) =
            connection.call(hello, Vec::new()).await?
        else {
            return Err(MonitorError::Unexpected);
        };
        let mut fds = fds.into_iter();
        let (netns, netlink) = if network_fds { (fds.next(), fds.next()) } else { (None, None) };
        let user_namespace = if user_namespace_fd { fds.next().map(Arc::new) } else { None };
        let monitor = Self { connection: Arc::new(connection), pid, streams, user_namespace };
        Ok((monitor, PodNamespaces { pid, netns, netlink }, events))
    }

    /// The monitor's process id on the host.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it knows `attach` and `open_socket`: a pod that a first release of Berth started has a monitor that does not.
    pub fn has_streams(&self) -> bool {
        self.streams
    }

    /// The user namespace of a pod that has one of its own.
    pub fn user_namespace(&self) -> Option<&Arc<OwnedFd>> {
        self.user_namespace.as_ref()
    }

    /// Clones the container's init and has it set everything up; it then waits for `start`. Gives its process id.
    ///
    /// # Errors
    /// `Init` tells which step failed; nothing is left of the container then.
    pub async fn create(&self, container: CreateContainer) -> Result<i32, MonitorError> {
        let CreateContainer {
            id,
            plan,
            mut fds,
            cgroup: CgroupFds { unified, v1_tasks, memory, freezer },
            log,
            record_dir,
            runtime,
        } = container;
        let mut push = |fd: OwnedFd| -> u32 {
            fds.push(fd);
            // Packet::new refuses more than 252 of them.
            u32::try_from(fds.len() - 1).unwrap_or(u32::MAX)
        };
        let record_dir_fd = push(record_dir);
        let (log_dir_fd, log_name) = match log {
            Some(LogTarget { dir, name }) => (Some(push(dir)), name),
            None => (None, String::new()),
        };
        let create = wire::Create {
            id: id.to_string(),
            plan,
            unified_fd: unified.map(&mut push),
            v1_tasks_fds: v1_tasks.into_iter().map(&mut push).collect(),
            memory_fd: memory.map(&mut push),
            log_dir_fd,
            log_name,
            record_dir_fd,
            freezer_fd: freezer.map(&mut push),
            runtime: runtime.map(|runtime| wire::Runtime {
                program: runtime.program,
                folder: runtime.folder,
                mounts_fd: push(runtime.mounts),
                hybrid: runtime.hybrid,
                exec_cgroup: runtime.exec_cgroup,
            }),
        };
        match self.connection.call(Call::Create(create), fds).await? {
            (Body::Created(created), _) => Ok(created.pid),
            _ => Err(MonitorError::Unexpected),
        }
    }

    /// Releases a created container. Gives the time of its start, ns since 1970.
    ///
    /// # Errors
    /// `Init` when the program cannot be executed; the container then counts as exited with code 128, and no event
    /// tells of it.
    pub async fn start(&self, id: &ContainerId) -> Result<i64, MonitorError> {
        match self.connection.call(Call::Start(ContainerRef { id: id.to_string() }), Vec::new()).await? {
            (Body::Started(started), _) => Ok(started.started_at_ns),
            _ => Err(MonitorError::Unexpected),
        }
    }

    /// Has the processes of a created container remade. Gives the time and the first process's id.
    ///
    /// # Errors
    /// `Init` when they cannot be; the container then counts as exited with code 128, and no event tells of it. `Invalid` from a
    /// monitor that an older agent started.
    pub async fn restore(&self, request: RestoreContainer) -> Result<(i64, i32), MonitorError> {
        let RestoreContainer { id, args, path, mount_namespace, mounts, staging, inherited, confinement } = request;
        let restore = wire::Restore {
            id: id.to_string(),
            args,
            path,
            mount_namespace_fd: 0,
            mounts,
            staging,
            inherited: inherited.into_iter().map(|(fd, key)| wire::Inherited { fd, key }).collect(),
            confinement,
        };
        match self.connection.call(Call::Restore(restore), vec![mount_namespace]).await? {
            (Body::Started(started), _) => Ok((started.started_at_ns, started.pid)),
            _ => Err(MonitorError::Unexpected),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// `NotFound`, `WrongState` when it has exited.
    pub async fn signal(&self, id: &ContainerId, signal: i32, scope: Scope) -> Result<(), MonitorError> {
        let tree = scope == Scope::Tree;
        self.done(Call::Signal(wire::Signal { id: id.to_string(), signal, tree }), Vec::new()).await
    }

    /// Sends `signal` (once, however often this is called), and kills the whole tree when `grace` is over: zero kills at
    /// once, a later call with a shorter grace shortens the wait. Returns when the exit record is written.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn stop(&self, id: &ContainerId, signal: i32, grace: Duration) -> Result<ExitRecord, MonitorError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        match self.connection.call(Call::Stop(wire::Stop { id: id.to_string(), signal, grace_ms }), Vec::new()).await? {
            (Body::Stopped(record), _) => Ok(record),
            _ => Err(MonitorError::Unexpected),
        }
    }

    /// Runs one more process in a running container. Its end is a `MonitorEvent::ExecExited`.
    ///
    /// # Errors
    /// `Init` when it cannot be executed, `NotFound`, `WrongState` when the container does not run.
    pub async fn exec(&self, request: ExecRequest) -> Result<Execed, MonitorError> {
        let ExecRequest { container, exec, process, tty, stdin, stdout, stderr } = request;
        let mut fds = Vec::new();
        let mut push = |fd: Option<OwnedFd>| -> Option<u32> {
            fds.push(fd?);
            u32::try_from(fds.len() - 1).ok()
        };
        let exec = wire::Exec {
            container: container.to_string(),
            exec,
            process,
            tty,
            stdin_fd: push(stdin),
            stdout_fd: push(stdout),
            stderr_fd: push(stderr),
        };
        match self.connection.call(Call::Exec(exec), fds).await? {
            (Body::Execed(created), fds) => Ok(Execed { pid: created.pid, terminal: fds.into_iter().next() }),
            _ => Err(MonitorError::Unexpected),
        }
    }

    /// Kills an exec'd process and all its descendants, wherever they moved to.
    ///
    /// # Errors
    /// `NotFound` when it ended already.
    pub async fn kill_exec(&self, exec: &str) -> Result<(), MonitorError> {
        self.done(Call::KillExec(ExecRef { exec: exec.to_owned() }), Vec::new()).await
    }

    /// Goes on in a new log file, which exists when this returns.
    ///
    /// # Errors
    /// `WrongState` when the container does not run; then no file is made.
    pub async fn reopen_log(&self, id: &ContainerId, target: LogTarget) -> Result<(), MonitorError> {
        let reopen = wire::ReopenLog { id: id.to_string(), log_dir_fd: 0, log_name: target.name };
        self.done(Call::ReopenLog(reopen), vec![target.dir]).await
    }

    /// Changes the size of the container's terminal.
    ///
    /// # Errors
    /// `WrongState` when it has none.
    pub async fn resize(&self, id: &ContainerId, columns: u32, rows: u32) -> Result<(), MonitorError> {
        self.done(Call::Resize(wire::Resize { id: id.to_string(), columns, rows }), Vec::new()).await
    }

    /// Copies a running container's output from now on to the given pipes, and gives the way to its standard input if that
    /// was asked for and there is one: a pipe or a terminal's master side, nonblocking or not.
    ///
    /// # Errors
    /// `WrongState` when it does not run, or has as many clients as it may; `NotFound`.
    pub async fn attach(&self, request: AttachRequest) -> Result<Option<OwnedFd>, MonitorError> {
        let AttachRequest { container, stdin, stdout, stderr, session } = request;
        let mut fds = vec![session];
        let mut push = |fd: Option<OwnedFd>| -> Option<u32> {
            fds.push(fd?);
            u32::try_from(fds.len() - 1).ok()
        };
        let (stdout_fd, stderr_fd) = (push(stdout), push(stderr));
        let attach = wire::Attach { id: container.to_string(), stdin, stdout_fd, stderr_fd, session_fd: 0 };
        match self.connection.call(Call::Attach(attach), fds).await? {
            (Body::Attached(Nothing {}), fds) => Ok(fds.into_iter().next()),
            _ => Err(MonitorError::Unexpected),
        }
    }

    /// A nonblocking TCP socket in the pod's network namespace, not connected yet.
    ///
    /// # Errors
    /// `Internal` when the kernel makes none (no IPv6, for one).
    pub async fn open_socket(&self, family: IpFamily) -> Result<OwnedFd, MonitorError> {
        let call = Call::OpenSocket(wire::OpenSocket { ipv6: family == IpFamily::V6 });
        match self.connection.call(call, Vec::new()).await? {
            (Body::Socket(Nothing {}), fds) => fds.into_iter().next().ok_or(MonitorError::Unexpected),
            _ => Err(MonitorError::Unexpected),
        }
    }

    /// Forgets a container; one that has not exited is killed first. Unknown ids are no error.
    ///
    /// # Errors
    /// `Lost`.
    pub async fn remove(&self, id: &ContainerId) -> Result<(), MonitorError> {
        self.done(Call::Remove(ContainerRef { id: id.to_string() }), Vec::new()).await
    }

    /// Everything the monitor knows: what a new agent asks first.
    ///
    /// # Errors
    /// `Lost`.
    pub async fn inspect(&self) -> Result<MonitorState, MonitorError> {
        match self.connection.call(Call::Inspect(Nothing {}), Vec::new()).await? {
            (Body::State(state), _) => Ok(state),
            _ => Err(MonitorError::Unexpected),
        }
    }

    /// Kills what is left of the pod's processes; the monitor then exits, and its namespaces die with it.
    ///
    /// # Errors
    /// `Lost` when it was gone already.
    pub async fn shutdown(&self) -> Result<(), MonitorError> {
        self.done(Call::Shutdown(Nothing {}), Vec::new()).await
    }

    async fn done(&self, call: Call, fds: Vec<OwnedFd>) -> Result<(), MonitorError> {
        let reply: Reply = self.connection.call(call, fds).await?;
        match reply {
            (Body::Done(Nothing {}), _) => Ok(()),
            _ => Err(MonitorError::Unexpected),
        }
    }
}

/// What the agent's verbs see of an event; one that a newer monitor invented is not seen.
fn event(body: Option<Body>) -> Option<MonitorEvent> {
    match body {
        None => Some(MonitorEvent::Lost),
        Some(Body::ContainerExited(exited)) => {
            let id = exited.id.parse().ok()?;
            Some(MonitorEvent::ContainerExited { id, record: exited.record })
        }
        Some(Body::ExecExited(exited)) => {
            Some(MonitorEvent::ExecExited { exec: exited.exec, exit_code: exited.exit_code })
        }
        Some(_) => None,
    }
}
