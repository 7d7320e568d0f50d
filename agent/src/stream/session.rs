//! What a token stands for: the seam between the server, which speaks to clients, and `ops`, which has the processes
//! and pods. Neither knows the other beyond this.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// What a client asked for with Exec or Attach, bound to one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStreams {
    /// The process has a terminal: its output is one stream, and resizes are taken.
    pub tty: bool,
    /// The client sends standard input.
    pub stdin: bool,
    /// The client takes standard output.
    pub stdout: bool,
    /// The client takes standard error; never with a terminal.
    pub stderr: bool,
}

/// A running or attached process, as the server drives it. The fds are pipes or a pty master, of any file status flags:
/// the server makes them nonblocking and closes them.
pub struct ProcessIo {
    /// The write end; dropping it is EOF. With a terminal stdin and stdout are duplicates of the master.
    pub stdin: Option<OwnedFd>,
    /// The read end. EIO, a terminal's hang-up, is EOF.
    pub stdout: Option<OwnedFd>,
    /// The read end.
    pub stderr: Option<OwnedFd>,
    /// Takes the sizes that the client's terminal comes to have. Only the newest matters: when it is full, one is left out.
    pub resize: mpsc::Sender<TerminalSize>,
    /// Resolves when the process (exec) or the container (attach) has ended: with its exit code, or with what to tell
    /// the client when that is not known.
    pub exit: BoxFuture<'static, Result<i32, String>>,
}

/// Started when the client is connected and has opened its streams; dropping what it returns, with all fds, is the
/// client's departure. The error is told to the client.
pub type StartProcess = Box<dyn FnOnce() -> BoxFuture<'static, Result<ProcessIo, String>> + Send>;

/// Connects to a TCP port of a pod on its loopback; called once for each forwarded connection. The error is told to
/// the client.
pub type ConnectPort = Arc<dyn Fn(u16) -> BoxFuture<'static, Result<TcpStream, String>> + Send + Sync>;

/// What one token stands for. Dropped unused when the token expires.
pub enum Session {
    /// Runs a command. Output that is in its pipes at its exit is still sent.
    Exec {
        /// What was asked for.
        streams: ProcessStreams,
        /// Runs it.
        start: StartProcess,
    },
    /// Joins a running container; ends when the container does.
    Attach {
        /// What was asked for.
        streams: ProcessStreams,
        /// Joins it.
        start: StartProcess,
    },
    /// Forwards TCP connections to a pod.
    PortForward {
        /// Connects to a port.
        connect: ConnectPort,
        /// Returns when the pod is gone: every connection to it ends then, which would keep its network.
        gone: BoxFuture<'static, ()>,
    },
}

impl Session {
    /// The first part of its URL's path.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}
